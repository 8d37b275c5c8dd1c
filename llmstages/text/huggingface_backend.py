"""Encoding and decoding with a `tokenizer.json` of any Hugging Face model.

Promise: the ids that the `tokenizers` library gives, without what its post-processor would add
and with control tokens that stand in a text read as ordinary text.
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from llmstages.data.json_files import parse_json
from llmstages.text.ids import Ids, id_dtype


def gpt2_json(vocabulary: Path, merges: Path, control_name: str) -> str:
    """The `tokenizer.json` that GPT-2's older two files stand for.

    control_name: a control token, where it is in the vocabulary. Raises `ValueError` for broken
    files.
    """
    try:
        model = tokenizers.models.BPE.from_file(str(vocabulary), str(merges))
    except Exception as error:  # a bare one
        raise ValueError(f"{type(error).__name__}: {error}") from error
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    if made.token_to_id(control_name) is not None:
        made.add_special_tokens([control_name])
    return str(made.to_str())


class HuggingFaceBackend:
    """A `tokenizer.json`; see `llmstages.text.tokenizer.Backend` for what the members mean."""

    def __init__(self, content: str, control_names: Collection[str | None] = ()) -> None:
        """Read the text of the file; raises `ValueError` when it is broken.

        Added tokens in `control_names` are never found in a text, even where the file, as some do,
        does not mark them as special.
        """
        self._json: dict[str, Any] = parse_json(content)
        try:
            for token in self._json.get("added_tokens") or []:
                token["special"] = token["special"] or token["content"] in control_names
            self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(self._json))
        except BaseException as error:  # bare Exception, and panics that are none
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            raise ValueError(f"{type(error).__name__}: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        self.vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        self.vocab_size = max(self.vocabulary.values()) + 1
        self.control_names = {
            token.content
            for token in self._tokenizer.get_added_tokens_decoder().values()
            if token.special
        }
        self._found_controls: dict[str, list[tuple[int, int, int]]] = {}

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode_arrays(self, texts: Sequence[str]) -> list[Ids]:
        """The same as arrays."""
        dtype = id_dtype(self.vocab_size)
        return [np.array(ids, dtype) for ids in self.encode_batch(texts)]

    def encode_after(self, before: str, text: str, *, at_start: bool) -> list[int]:
        """Ids of a text as it reads after another, which keeps the ids it has by itself.

        `at_start` says that nothing stands in front of `before`, not even a control token.
        """
        contexts = [before] if before else []
        if before or (self._marks_start and not at_start):
            contexts.append("\n")  # where the two would share a token, and no space is to be added
        for context in [*contexts, ""]:
            head, whole = self.encode_batch([context, context + text])
            if whole[: len(head)] == head:
                return whole[len(head) :]
        raise AssertionError("an empty context is always kept")

    def controls(self, text: str) -> Sequence[tuple[int, int, int]]:
        """Begin, end and id of each control token that a parser finds in a text.

        The white space that a token swallows is part of it.
        """
        known = self._found_controls.get(text)
        if known is None:
            known = self._found_controls[text] = list(self._find_controls(text))
        return known

    def _find_controls(self, text: str) -> Iterator[tuple[int, int, int]]:
        present = [token for token in self._control_tokens if token["content"] in text]
        if not present:
            return
        pattern = "|".join(f"({token_pattern(token)})" for token in present)
        for match in re.finditer(pattern, text):
            assert match.lastindex is not None
            name = present[match.lastindex - 1]["content"]
            yield match.start(), match.end(), self.vocabulary[name]

    def with_controls(self, text: str) -> "HuggingFaceBackend":
        """This one, or one for which the added tokens in a text are all control tokens."""
        names = {
            token["content"]
            for token in self._json.get("added_tokens") or []
            if not token["special"] and token["content"] in text
        }
        return HuggingFaceBackend(json.dumps(self._json), names) if names else self

    @cached_property
    def begin_ids(self) -> tuple[int, ...]:
        """What the post-processor puts in front of a text."""
        plain, whole = (
            self._tokenizer.encode("a", add_special_tokens=special).ids for special in (False, True)
        )
        places = range(len(whole) - len(plain) + 1) if plain else range(0)
        begin = next((i for i in places if whole[i : i + len(plain)] == plain), 0)
        return tuple(whole[:begin])

    @cached_property
    def _control_tokens(self) -> list[dict[str, Any]]:
        """Longest first, as parsers look for them."""
        added = self._json.get("added_tokens") or []
        special = [token for token in added if token["special"] and token["content"]]
        return sorted(special, key=lambda token: -len(token["content"]))

    @cached_property
    def _marks_start(self) -> bool:
        """Whether a space is put in front of the first text of all, and of no other."""
        parts = self._json.get("pre_tokenizer") or {}
        return any(
            part.get("prepend_scheme") == "first"
            for part in [parts, *(parts.get("pretokenizers") or [])]
        )

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids, as the tokenizer's own decoder writes it."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def name_of(self, index: int) -> str | None:
        """Name of a token, as `vocabulary` has it."""
        name: str | None = self._tokenizer.id_to_token(index) if index >= 0 else None
        return name

    def token_text(self, index: int) -> str:
        """Text of one token; decoders strip a leading space, which is put back."""
        token = self._tokenizer.id_to_token(index)
        if token is None:  # a gap between the model's vocabulary and the added tokens
            return ""
        text = self._tokenizer.decode([index], skip_special_tokens=False)
        lost_space = token.startswith("\u2581") and not text.startswith(" ")
        return " " + text if lost_space else text

    def fingerprint(self) -> str:
        """Hex digest over all that determines ids; what is added after encoding is left out."""
        parts = {key: self._json.get(key) for key in ("normalizer", "pre_tokenizer", "model")}
        parts["added_tokens"] = self._json.get("added_tokens")
        text = json.dumps(parts, sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(f"huggingface\n{text}".encode()).hexdigest()

    def tokenizer_json(self) -> dict[str, Any]:
        """The file's content."""
        return dict(self._json)

    def files(self) -> dict[str, bytes]:
        """Nothing beside `tokenizer.json`."""
        return {}


def token_pattern(token: dict[str, Any]) -> str:
    """An added token in a text, as its flags say."""
    pattern: str = re.escape(token["content"])
    if token.get("single_word"):
        pattern = rf"(?<!\w){pattern}(?!\w)"
    before = r"\s*" if token.get("lstrip") else ""
    after = r"\s*" if token.get("rstrip") else ""
    return before + pattern + after
