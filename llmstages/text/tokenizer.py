"""The tokenizer of a corpus or checkpoint: text to ids and back, the same after save and load.

Promise: no text produces a control id, whatever stands in it; `decode(encode(text)) == text` for
every string and every tokenizer trained here, except that surrogates without a partner, which no
encoding can store, become U+FFFD. A tokenizer loaded from somebody else's `tokenizer.json` is as
lossless as that file makes it. What `save` writes gives the same ids in Hugging Face's libraries,
but these parse control tokens in a text and read U+2581, SentencePiece's space mark, as a space.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from llmstages.config.collect_groups import TokenizerConfig
from llmstages.data.json_files import parse_json
from llmstages.errors import UserError
from llmstages.text.chat import CHATML_TEMPLATE, PLAIN_TEMPLATE
from llmstages.text.huggingface_backend import HuggingFaceBackend, gpt2_json
from llmstages.text.ids import Ids, id_dtype
from llmstages.text.sentencepiece_backend import SentencePieceBackend
from llmstages.text.sentencepiece_training import (
    END,
    PAD,
    TURN_END,
    TURN_START,
    train_sentencepiece,
)
from llmstages.text.templated_chat import TemplatedChat
from llmstages.text.templates import find_template
from llmstages.text.unicode import well_formed

TOKEN_NAMES = tuple(f"{word}_token" for word in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
"""Special tokens that have a name of their own in `tokenizer_config.json` and in templates."""
CONTEXT_OF_A_SPACE = 4
"""Ids in front that tell a decoder that a text has begun."""
TOKEN_LISTS = ("additional_special_tokens", "extra_special_tokens")
"""Where it lists others."""
GENERATION_NAME = "generation_config.json"
"""Of the model beside a tokenizer: how transformers generates where its caller does not say."""


class Backend(Protocol):
    """What does the work behind a `Tokenizer`."""

    vocab_size: int
    """Size of the id space."""
    vocabulary: dict[str, int]
    """Ids by the tokens' names."""
    control_names: set[str]
    """Names of the tokens that no text produces."""

    @property
    def begin_ids(self) -> tuple[int, ...]:
        """Ids that stand before every text."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, which holds no lone surrogates."""

    def encode_arrays(self, texts: Sequence[str]) -> list[Ids]:
        """The same as arrays; several threads may call it at once."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids; control ids are left out."""

    def token_text(self, index: int) -> str:
        """One token for display."""

    def fingerprint(self) -> str:
        """Digest of all that determines ids."""

    def tokenizer_json(self) -> dict[str, Any]:
        """Content of `tokenizer.json`."""

    def files(self) -> dict[str, bytes]:
        """Other files of the tokenizer, by name."""


class Tokenizer:
    """Text to ids and back.

    Attributes: `vocab_size` (size of the id space), `id_dtype` (of arrays of ids), `end_id`
    (ends every document in pretraining and every text in classification), `begin_ids` (begin each
    of these and each conversation, in some foreign models), `pad_id` (never the end token),
    `turn_start_id` and `turn_end_id` (of chat turns; both None when the vocabulary lacks one of
    them), `templated_chat` (speaks a foreign template, where there is one), `model_end_ids` (where
    the model that it was loaded with ends a text, which may be several), `generation` (what the
    `generation_config.json` beside it says) and `hash` (sha256, hex: equal when two tokenizers give
    equal ids for equal reasons, kept by save and load).
    """

    def __init__(
        self,
        backend: Backend,
        end_token: str,
        pad_token: str,
        *,
        special_tokens: Mapping[str, Any] | None = None,
        templated_chat: TemplatedChat | None = None,
        model_end_ids: Sequence[int] = (),
        generation: Mapping[str, Any] | None = None,
    ) -> None:
        """Wrap a backend; both tokens are in its vocabulary.

        `special_tokens` are entries of `tokenizer_config.json` that are kept as they are.
        `model_end_ids` are where the model beside it ends a text, by its own files, of which
        `generation` has the entries of `generation_config.json`.
        """
        self._backend = backend
        self._end_token = end_token
        self._pad_token = pad_token
        self._special_tokens = dict(special_tokens or {})
        self.templated_chat = templated_chat
        self.model_end_ids = tuple(id for id in model_end_ids if 0 <= id < backend.vocab_size)
        self.generation = dict(generation or {})
        self._control_ids = {backend.vocabulary[name] for name in backend.control_names}
        self.vocab_size = backend.vocab_size
        self.id_dtype = id_dtype(backend.vocab_size)
        self.end_id = backend.vocabulary[end_token]
        self.pad_id = backend.vocabulary[pad_token]
        self.begin_ids = tuple(backend.begin_ids)
        has_turns = TURN_START in backend.vocabulary and TURN_END in backend.vocabulary
        self.turn_start_id = backend.vocabulary[TURN_START] if has_turns else None
        self.turn_end_id = backend.vocabulary[TURN_END] if has_turns else None
        settings = f"{backend.fingerprint()} end={self.end_id} pad={self.pad_id}"
        if self.begin_ids:
            settings += f" begin={self.begin_ids}"
        self.hash = hashlib.sha256(settings.encode()).hexdigest()

    @classmethod
    def load(cls, directory: Path) -> "Tokenizer":
        """Read the tokenizer of a `tokenizer/` or checkpoint directory.

        A `tokenizer.model` that this package trained is read by SentencePiece; of every other
        tokenizer the `tokenizer.json` is. Raises `UserError` naming the file when it is missing or
        broken.
        """
        model_path = directory / "tokenizer.model"
        json_path = directory / "tokenizer.json"
        if model_path.is_file():
            try:
                model = SentencePieceBackend(model_path.read_bytes())
            except (RuntimeError, ValueError) as error:
                raise UserError(
                    f"{model_path}: broken SentencePiece model ({first_line(error)}); "
                    "train or copy it again"
                ) from error
            if {END, PAD} <= model.control_names:
                return cls(model, END, PAD)
            if not json_path.is_file():
                raise UserError(
                    f"{model_path}: made by another program; its tokenizer.json is needed beside it"
                )
        older = (directory / "vocab.json", directory / "merges.txt")
        # Others that have these two files cut words otherwise, and have a tokenizer.json.
        model_type = read_json(directory / "config.json").get("model_type")
        is_older = all(path.is_file() for path in older) and model_type == "gpt2"
        if not json_path.is_file() and not is_older:
            raise UserError(f"{directory}: no tokenizer here (tokenizer.model or tokenizer.json)")
        config_path = directory / "tokenizer_config.json"
        config = read_json(config_path)
        named = {
            key: token_content(config.get(key)) for key in ("eos_token", "pad_token", "unk_token")
        }
        try:
            backend = HuggingFaceBackend(
                json_path.read_text(encoding="utf-8")
                if json_path.is_file()
                else gpt2_json(*older, END),
                {END, PAD, TURN_START, TURN_END, named["eos_token"]},
            )
        except ValueError as error:
            raise UserError(
                f"{json_path}: broken tokenizer ({first_line(error)}); copy it again"
            ) from error
        for name, index in ids_of_model(directory).items():
            if named[name] is None:
                named[name] = backend.name_of(index)
        end_token = next(
            (token for token in (END, named["eos_token"]) if token in backend.vocabulary), None
        )
        if end_token is None:
            raise UserError(
                f"{config_path}: eos_token={named['eos_token']!r} is not in {json_path.name}; "
                "name the token that ends a text"
            )
        try:
            pad_token = choose_pad_token(backend, end_token, named["pad_token"], named["unk_token"])
        except UserError as error:
            raise UserError(f"{json_path}: {error}") from error
        generation = read_json(directory / GENERATION_NAME)
        special_tokens = kept_special_tokens(config, backend)
        source = find_template(directory, config)
        if source is None or source.stored in own_templates(backend):
            special_tokens.pop("eos_token", None)
            return cls(
                *(backend, end_token, pad_token),
                special_tokens=special_tokens,
                model_end_ids=end_ids_of_model(directory),
                generation=generation,
            )
        # What the template calls eos_token may be another token than the one that ends a text.
        names = {"eos_token": end_token} | special_tokens | {"pad_token": pad_token}
        chat = TemplatedChat(
            source, backend, {name: names[name] for name in TOKEN_NAMES if name in names}
        )
        return cls(
            *(backend, end_token, pad_token),
            special_tokens=special_tokens,
            templated_chat=chat,
            model_end_ids=end_ids_of_model(directory),
            generation=generation,
        )

    def save(
        self, directory: Path, *, append_end: bool = False, model_max_length: int | None = None
    ) -> None:
        """Write `tokenizer.json`, `tokenizer_config.json` and SentencePiece's `tokenizer.model`.

        `append_end` (classifiers) makes Hugging Face's libraries end every encoding, truncated
        ones and pairs included, with the end token; in front they add `begin_ids`.
        `model_max_length` is the longest sequence in tokens. `load` and `hash` depend on neither.
        """
        content = self._backend.tokenizer_json()
        content["truncation"] = None
        content["padding"] = None
        begin = list(zip(begin_tokens(self._backend), self.begin_ids, strict=True))
        end = [(self._end_token, self.end_id)] if append_end else []
        content["post_processor"] = standing_around(begin, end) if begin or end else None
        config: dict[str, Any] = {
            # Known to every transformers that reads Qwen3; takes tokenizer.json as it is.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": self._end_token,
            "pad_token": self._pad_token,
            "clean_up_tokenization_spaces": False,
            "chat_template": self._template(),
            **self._special_tokens,
        }
        if model_max_length is not None:
            config["model_max_length"] = model_max_length
        directory.mkdir(parents=True, exist_ok=True)
        for name, data in self._backend.files().items():
            write(directory / name, data)
        write(directory / "tokenizer.json", as_json(content))
        write(directory / "tokenizer_config.json", as_json(config))

    @property
    def template_hash(self) -> str:
        """sha256, hex, over the chat template and the names of special tokens that it is given.

        Equal when two tokenizers of equal `hash` render every conversation alike, kept by save and
        load; `hash` says nothing of it.
        """
        names = {} if self.templated_chat is None else dict(self.templated_chat.names)
        settings = json.dumps([self._template(), names], sort_keys=True)
        return hashlib.sha256(settings.encode()).hexdigest()

    def _template(self) -> Any:
        """What stands in `tokenizer_config.json`: a foreign template as it was found."""
        if self.templated_chat is not None:
            return self.templated_chat.source.stored
        chatml, plain = own_templates(self._backend)
        return plain if self.turn_end_id is None else chatml

    @property
    def special_tokens(self) -> dict[str, str]:
        """Texts of special tokens, by what templates call them (`bos_token`)."""
        if self.templated_chat is not None:
            return dict(self.templated_chat.names)
        own = {"eos_token": self._end_token, "pad_token": self._pad_token}
        named = {**own, **self._special_tokens}
        return {name: str(named[name]) for name in TOKEN_NAMES if name in named}

    @property
    def backend(self) -> Backend:
        """What does the work, for writing it in other formats."""
        return self._backend

    @property
    def chat_template(self) -> str:
        """The template for conversations, in Jinja. Raises `UserError` where a foreign one has
        several and none for that."""
        if self.templated_chat is not None:
            return self.templated_chat.source.text()
        return str(self._template())

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without any control id."""
        return self._backend.encode_batch([well_formed(text)])[0]

    def opening(self, text: str) -> list[int]:
        """Ids of the beginning of a document, which may be empty, for continuing it."""
        # A new document follows the end of another.
        return [*self.begin_ids, *self.encode(text)] or [self.end_id]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text."""
        return self._backend.encode_batch([well_formed(text) for text in texts])

    def encode_arrays(self, texts: Sequence[str]) -> list[Ids]:
        """Ids of each text as an array of `id_dtype`; several threads may call it at once."""
        return self._backend.encode_arrays([well_formed(text) for text in texts])

    def decode(self, ids: Sequence[int], after: Sequence[int] = ()) -> str:
        """Text of the ids, control ids left out; bytes that are no UTF-8 become U+FFFD.

        after: ids of the text that they go on with. Some decoders leave out the space that a text
        begins with, and so the one between a prompt and its continuation.
        """
        if len(after):
            before = list(after[-CONTEXT_OF_A_SPACE:])
            front, whole = self._backend.decode(before), self._backend.decode([*before, *ids])
            if front and whole.startswith(front):
                return whole[len(front) :]
        return self._backend.decode(ids)

    def is_control(self, id: int) -> bool:
        """Whether no text produces this id."""
        return id in self._control_ids

    def token_text(self, id: int) -> str:
        """One token for display: a leading space is a space, byte and control pieces are named."""
        return self._backend.token_text(id)


def train_tokenizer(texts: Iterable[str], config: TokenizerConfig) -> Tokenizer:
    """Train a SentencePiece tokenizer on a bounded, evenly spread sample of the texts.

    The same texts and settings give the same tokenizer. Raises `UserError` without any text.
    """
    model = train_sentencepiece((well_formed(text) for text in texts), config)
    return Tokenizer(SentencePieceBackend(model), END, PAD)


def ids_of_model(directory: Path) -> dict[str, int]:
    """Ids of `eos_token` and `pad_token` in the model's files, for a tokenizer that names none."""
    found: dict[str, int] = {}
    for file in (GENERATION_NAME, "config.json"):
        content = read_json(directory / file)
        for name in ("eos_token", "pad_token"):
            value = content.get(f"{name}_id")
            value = value[0] if isinstance(value, list) and value else value
            if isinstance(value, int) and not isinstance(value, bool):
                found.setdefault(name, value)
    return found


def end_ids_of_model(directory: Path) -> list[int]:
    """All ids that `eos_token_id` names, in the first of the model's files that names any."""
    for file in (GENERATION_NAME, "config.json"):
        value = read_json(directory / file).get("eos_token_id")
        listed = value if isinstance(value, list) else [value]
        if ids := [id for id in listed if isinstance(id, int) and not isinstance(id, bool)]:
            return ids
    return []


def choose_pad_token(
    backend: Backend, end_token: str, pad_token: str | None, unknown_token: str | None
) -> str:
    """The token to pad with: the one named, or else the least disturbing one.

    Many models pad with their end token, or with none. Padding is masked out, so any other token
    will do; the vocabulary is never enlarged.
    """
    taken = {end_token, TURN_START, TURN_END, *begin_tokens(backend)}
    controls = sorted(backend.control_names - taken, key=backend.vocabulary.__getitem__)
    candidates = [pad_token, PAD, *(name for name in controls if "pad" in name.lower())]
    candidates += [unknown_token, *controls]
    candidates += sorted(backend.vocabulary.keys() - taken, key=backend.vocabulary.__getitem__)[-1:]
    found = next(
        (
            token
            for token in candidates
            if token is not None and token in backend.vocabulary and token not in taken
        ),
        None,
    )
    if found is None:
        raise UserError("a tokenizer without a token to pad with: it has none but those that end")
    return found


def kept_special_tokens(config: Mapping[str, Any], backend: Backend) -> dict[str, Any]:
    """Special tokens that a `tokenizer_config.json` names, but for the one to pad with.

    Of those only what is in the vocabulary: Hugging Face's libraries would add the others.
    """
    kept: dict[str, Any] = {}
    for name in TOKEN_NAMES:
        token = token_content(config.get(name))
        if name != "pad_token" and token in backend.vocabulary:
            kept[name] = token
    for name in TOKEN_LISTS:
        listed = config.get(name)
        if isinstance(listed, list):
            tokens = [token_content(token) for token in listed]
            kept[name] = [token for token in tokens if token in backend.vocabulary]
        elif isinstance(listed, dict):
            contents = {key: token_content(token) for key, token in listed.items()}
            kept[name] = {key: t for key, t in contents.items() if t in backend.vocabulary}
    return {name: value for name, value in kept.items() if value}


def begin_tokens(backend: Backend) -> list[str]:
    """Names of `begin_ids`."""
    names = {index: name for name, index in backend.vocabulary.items()}
    return [names[index] for index in backend.begin_ids]


def own_templates(backend: Backend) -> tuple[str, str]:
    """Chat templates of this package, ChatML and plain text, that begin as every text does."""
    tokens = json.dumps("".join(begin_tokens(backend)), ensure_ascii=False)
    begin = f"{{{{ {tokens} }}}}" if backend.begin_ids else ""
    return begin + CHATML_TEMPLATE, begin + PLAIN_TEMPLATE


def standing_around(
    begin: Sequence[tuple[str, int]], end: Sequence[tuple[str, int]]
) -> dict[str, Any]:
    """Post-processor that puts tokens before and behind a text, or a pair of them."""
    before, behind = (
        [{"SpecialToken": {"id": token, "type_id": 0}} for token, _ in tokens]
        for tokens in (begin, end)
    )
    first = {"Sequence": {"id": "A", "type_id": 0}}
    second = {"Sequence": {"id": "B", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [*before, first, *behind],
        "pair": [*before, first, second, *behind],
        "special_tokens": {
            token: {"id": token, "ids": [index], "tokens": [token]}
            for token, index in [*begin, *end]
        },
    }


def token_content(value: object) -> str | None:
    """A token's text in `tokenizer_config.json`: a string or an object with `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def first_line(error: Exception) -> str:
    """First line of an error's message."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file, empty when there is no file; `UserError` when it is broken."""
    if not path.is_file():
        return {}
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: broken JSON ({first_line(error)}); copy it again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: not a JSON object; copy it again")
    return value


def as_json(value: dict[str, Any]) -> bytes:
    """Readable JSON in UTF-8."""
    return (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode()


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)
