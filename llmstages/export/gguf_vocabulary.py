"""A tokenizer as llama.cpp has it: the same ids of texts, as far as llama.cpp can.

llama.cpp has three kinds that are of use here: `llama` joins neighbours by the score of what
comes out, as SentencePiece's BPE does, and spells the rest in bytes; `t5` takes the likeliest path
through a unigram vocabulary, without bytes; `gpt2` is byte-level BPE with a pre-tokenizer known by
name. Like Hugging Face's libraries it reads U+2581 as a space, and control tokens where it is told
to.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmstages.errors import UserError
from llmstages.text.sentencepiece_backend import SPACE_MARK
from llmstages.text.sentencepiece_proto import PieceType, read_model
from llmstages.text.tokenizer import Tokenizer

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PRE_TOKENIZERS = {
    CONTRACTIONS + r"\p{N}" + REST: {False: "qwen2"},
    CONTRACTIONS + r"\p{N}{1,3}" + REST: {False: "dbrx", True: "llama-bpe"},
}
"""llama.cpp's name of a pre-tokenizer, by its expression and by whether words that are tokens are
taken whole (`ignore_merges`)."""
LEAST_SCORE = -1e9
"""Of a token that nothing is joined to."""


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file says of a tokenizer; tokens, scores and types by id."""

    kind: str
    tokens: list[str]
    types: list[int]
    """As SentencePiece numbers them."""
    scores: list[float] | None = None
    merges: list[str] | None = None
    pre_tokenizer: str = "default"
    has_space_prefix: bool = False
    """Whether a space is put in front of a text."""

    def of_size(self, size: int) -> "Vocabulary":
        """The same with as many tokens as the model's embedding has rows."""
        missing = range(len(self.tokens), size)
        scores = self.scores
        if scores is not None:
            scores = [*scores[:size], *(LEAST_SCORE for _ in missing)]
        return Vocabulary(
            self.kind,
            [*self.tokens[:size], *(f"[PAD{index}]" for index in missing)],
            [*self.types[:size], *(int(PieceType.UNUSED) for _ in missing)],
            scores,
            self.merges,
            self.pre_tokenizer,
            self.has_space_prefix,
        )


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """The vocabulary of a tokenizer. Raises `UserError` for one that llama.cpp has no kind for."""
    model = tokenizer.backend.files().get("tokenizer.model")
    if model is None:
        return from_tokenizer_json(tokenizer.backend.tokenizer_json())
    kind, pieces = read_model(model)
    return Vocabulary(
        "t5" if kind == "unigram" else "llama",
        [piece.text for piece in pieces],
        [int(piece.type) for piece in pieces],
        scores=[piece.score for piece in pieces],
    )


def from_tokenizer_json(content: Mapping[str, Any]) -> Vocabulary:
    """The vocabulary of a `tokenizer.json` that another program wrote."""
    model = content["model"]
    if model.get("type") != "BPE":
        raise UserError(f"tokenizer.json: llama.cpp gives no ids like those of {model.get('type')}")
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    names = {index: token for token, index in model["vocab"].items()}
    added = {token["id"]: token for token in content.get("added_tokens") or []}
    size = max([*names, *added]) + 1
    tokens, types = [], []
    for index in range(size):
        token = added.get(index)
        if token is not None:
            tokens.append(token["content"])
            types.append(PieceType.CONTROL if token["special"] else PieceType.USER_DEFINED)
        else:
            name = names.get(index)
            tokens.append(f"[PAD{index}]" if name is None else name)
            types.append(PieceType.UNUSED if name is None else PieceType.NORMAL)
    if not model.get("byte_fallback"):
        return Vocabulary(
            *("gpt2", tokens, [int(kind) for kind in types]),
            merges=merges,
            pre_tokenizer=pre_tokenizer_name(content),
        )
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(model["merges"]):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        ranks.setdefault(left + right, rank)
    for index, token in enumerate(tokens):
        if len(token) == 6 and token.startswith("<0x"):
            types[index] = PieceType.BYTE
    if (unknown := model.get("unk_token")) in tokens:
        types[tokens.index(unknown)] = PieceType.UNKNOWN
    return Vocabulary(
        "llama",
        tokens,
        [int(kind) for kind in types],
        scores=[-float(ranks[token]) if token in ranks else LEAST_SCORE for token in tokens],
        has_space_prefix=has_space_prefix(content),
    )


def parts_of(content: Mapping[str, Any], name: str, inner: str) -> list[dict[str, Any]]:
    """The steps of a normalizer or a pre-tokenizer, which may be one, a sequence or none."""
    step = content.get(name)
    if step is None:
        return []
    return list(step[inner]) if step["type"] == "Sequence" else [step]


def pre_tokenizer_name(content: Mapping[str, Any]) -> str:
    """llama.cpp's name of a byte-level pre-tokenizer; `UserError` where it has none."""
    # Text that is not in the normal form of Unicode reads otherwise in llama.cpp, which has none.
    normalizers = {step["type"] for step in parts_of(content, "normalizer", "normalizers")}
    steps = parts_of(content, "pre_tokenizer", "pretokenizers")
    kinds = [step["type"] for step in steps]
    ignores_merges = bool(content["model"].get("ignore_merges"))
    found = None
    if steps and kinds[-1] == "ByteLevel" and not steps[-1].get("add_prefix_space"):
        has_regex = steps[-1].get("use_regex", True)
        if kinds == ["ByteLevel"] and has_regex and not ignores_merges:
            found = "gpt-2"
        elif kinds == ["Digits", "ByteLevel"] and has_regex and steps[0].get("individual_digits"):
            found = None if ignores_merges else "smollm"
        elif kinds == ["Split", "ByteLevel"] and not has_regex:
            pattern = steps[0]["pattern"].get("Regex", "")
            found = PRE_TOKENIZERS.get(pattern, {}).get(ignores_merges)
    if found is None or not normalizers <= {"NFC"}:
        known = [
            "gpt-2",
            "smollm",
            *(n for names in PRE_TOKENIZERS.values() for n in names.values()),
        ]
        raise UserError(
            "tokenizer.json: cuts texts into words in a way that is none of those known here by "
            f"llama.cpp's names: {', '.join(known)}"
        )
    return found


def has_space_prefix(content: Mapping[str, Any]) -> bool:
    """Whether a tokenizer with byte fallback puts a space in front of a text.

    Raises `UserError` where it does more than write spaces as SentencePiece does.
    """
    prefix = False
    steps = parts_of(content, "normalizer", "normalizers")
    steps += parts_of(content, "pre_tokenizer", "pretokenizers")
    for step in steps:
        pattern = step.get("pattern", {}).get("String")
        if step["type"] == "Prepend" and step["prepend"] == SPACE_MARK:
            prefix = True
        elif step["type"] == "Metaspace" and step.get("replacement") == SPACE_MARK:
            prefix |= step.get("prepend_scheme", "always") != "never"
        elif step["type"] not in ("Replace", "Split") or pattern != " ":
            raise UserError(f"tokenizer.json: llama.cpp has no step like its {step['type']}")
    return prefix
