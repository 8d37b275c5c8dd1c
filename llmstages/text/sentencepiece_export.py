"""A SentencePiece model as Hugging Face's `tokenizer.json`: the same ids from both.

Two things differ on the Hugging Face side and cannot be helped there: control tokens that stand
in a text are parsed (`<|im_end|>` becomes one id), and U+2581 is read as a space.
"""

from collections.abc import Sequence
from typing import Any

from llmstages.text.sentencepiece_proto import Piece, PieceType

# Hugging Face's unigram model looks for byte pieces in the text too ("<0x0A>" as six characters).
# This score, far below that of any path of six pieces, keeps it from ever choosing one.
NEVER = -1000.0


def to_tokenizer_json(kind: str, pieces: Sequence[Piece]) -> dict[str, Any]:
    """`tokenizer.json` of a model that `sentencepiece_training` made, as a dictionary."""
    unknown = next(i for i, piece in enumerate(pieces) if piece.type == PieceType.UNKNOWN)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": index,
                "content": piece.text,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for index, piece in enumerate(pieces)
            if piece.type in (PieceType.CONTROL, PieceType.UNKNOWN)
        ],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": unigram_model(pieces, unknown)
        if kind == "unigram"
        else bpe_model(pieces, unknown, merges(pieces) if kind == "bpe" else []),
    }


def bpe_model(
    pieces: Sequence[Piece], unknown: int, merge_list: list[tuple[str, str]]
) -> dict[str, Any]:
    """A BPE model; without merges it cuts into characters, which is SentencePiece's `char`."""
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": pieces[unknown].text,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": True,
        "ignore_merges": False,
        "vocab": {piece.text: index for index, piece in enumerate(pieces)},
        "merges": merge_list,
    }


def merges(pieces: Sequence[Piece]) -> list[tuple[str, str]]:
    """Every way to make a piece of two others, best score first.

    SentencePiece joins two neighbours whenever the result is a piece, whichever way it was made in
    training, so all cuts of a piece are merges.
    """
    scores = {piece.text: piece.score for piece in pieces if piece.type == PieceType.NORMAL}
    return [
        (text[:at], text[at:])
        for text in sorted(scores, key=lambda text: -scores[text])
        for at in range(1, len(text))
        if text[:at] in scores and text[at:] in scores
    ]


def unigram_model(pieces: Sequence[Piece], unknown: int) -> dict[str, Any]:
    """A unigram model; only normal pieces may be found in a text."""
    return {
        "type": "Unigram",
        "unk_id": unknown,
        "byte_fallback": True,
        "vocab": [
            (piece.text, piece.score if piece.type == PieceType.NORMAL else NEVER)
            for piece in pieces
        ],
    }
