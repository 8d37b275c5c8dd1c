"""Encoding and decoding with a SentencePiece model that this package trained.

Promise: `decode(encode(text)) == text` for every well-formed string, and `encode` never gives a
control piece.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import sentencepiece

from llmstages.text.ids import Ids, id_dtype
from llmstages.text.sentencepiece_export import to_tokenizer_json
from llmstages.text.sentencepiece_proto import Piece, PieceType, read_model

if TYPE_CHECKING:
    from llmstages.text.word_encoder import WordEncoder

SPACE_MARK = "\u2581"  # SentencePiece writes spaces so, and would read it back as a space
SPACE_MARK_OR_NOT = re.compile("\u2581|[^\u2581]+")
LONG_CHARACTERS = 4000
LINES = re.compile(rf".{{{LONG_CHARACTERS}}}[^\n]*\n+|.+", re.DOTALL)
UNTOUCHED = " \ufb01 \u00a0 A "  # what normalisation, stripping or a prefix would change
SHORT_CHARACTERS = 4000  # quickest by the model alone, on one thread


class SentencePieceBackend:
    """A trained model; see `llmstages.text.tokenizer.Backend` for what the members mean."""

    begin_ids = ()

    def __init__(self, model: bytes) -> None:
        """Read a serialized model; raises `RuntimeError` or `ValueError` when it is broken."""
        self._model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.kind, self._pieces = read_model(model)
        self._bytes = [piece_bytes(piece) for piece in self._pieces]
        self.vocab_size = len(self._pieces)
        self.vocabulary = {piece.text: index for index, piece in enumerate(self._pieces)}
        self.control_names = {
            piece.text
            for piece in self._pieces
            if piece.type in (PieceType.CONTROL, PieceType.UNKNOWN)
        }
        self._can_cut_lines = not any(re.search("\n[^\n]", piece.text) for piece in self._pieces)
        self._space_mark_ids = [
            self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE_MARK.encode()
        ]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text; a space mark in a text is spelled in its three byte pieces."""
        if sum(map(len, texts)) < SHORT_CHARACTERS or self._words is None:
            return self._encode_whole(texts)
        return [ids.tolist() for ids in self._words.encode(texts)]

    def encode_arrays(self, texts: Sequence[str]) -> list[Ids]:
        """The same as arrays."""
        if self._words is None:
            dtype = id_dtype(self.vocab_size)
            return [np.array(ids, dtype) for ids in self._encode_whole(texts)]
        return self._words.encode(texts)

    @cached_property
    def _words(self) -> "WordEncoder | None":
        """The fast way; None for models that do more than cut a text, as none made here does."""
        from llmstages.text.word_encoder import WordEncoder  # brings pyarrow

        kinds = {piece.type for piece in self._pieces}
        if (
            self.kind == "word"
            or PieceType.USER_DEFINED in kinds
            or self._processor.normalize(UNTOUCHED) != UNTOUCHED.replace(" ", SPACE_MARK)
        ):
            return None
        texts = [
            piece.text.replace(SPACE_MARK, " ")
            for piece in self._pieces
            if piece.type in (PieceType.NORMAL, PieceType.UNUSED)
        ]
        return WordEncoder(texts, self._encode_whole, id_dtype(self.vocab_size))

    def _encode_whole(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, by the model."""
        parts = [self._parts(text) for text in texts]
        encoded = iter(self._encode([run for runs in parts for run in runs]))
        return [self._join(runs, encoded) for runs in parts]

    def _parts(self, text: str) -> list[str]:
        """Cut a text where no piece can cross: around space marks and, when long, after lines.

        So a book is encoded on all cores, and the scores of a unigram path add up exactly.
        """
        parts = SPACE_MARK_OR_NOT.findall(text) if SPACE_MARK in text else [text]
        if len(text) <= LONG_CHARACTERS or not self._can_cut_lines:
            return parts
        return [lines for part in parts for lines in LINES.findall(part)]

    def _encode(self, parts: Sequence[str]) -> list[list[int]]:
        if len(parts) == 1 or sum(map(len, parts)) < SHORT_CHARACTERS:
            return [self._processor.encode(part) for part in parts]
        batch: list[list[int]] = self._processor.encode(parts, num_threads=os.cpu_count() or 1)
        return batch

    def _join(self, parts: Sequence[str], encoded: Iterator[list[int]]) -> list[int]:
        if len(parts) == 1 and parts[0] != SPACE_MARK:
            return next(encoded)
        ids: list[int] = []
        for part in parts:
            part_ids = next(encoded)
            ids += self._space_mark_ids if part == SPACE_MARK else part_ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids; bytes that are no UTF-8 become U+FFFD."""
        return b"".join([self._bytes[index] for index in ids]).decode("utf-8", "replace")

    def token_text(self, index: int) -> str:
        """Text of one piece; control and byte pieces by their names."""
        piece = self._pieces[index]
        return piece.text.replace(SPACE_MARK, " ")

    def fingerprint(self) -> str:
        """Hex digest over the kind of model and each piece with its score and type."""
        digest = hashlib.sha256(f"sentencepiece {self.kind}\n".encode())
        for piece in self._pieces:
            digest.update(f"{piece.text!r} {piece.score.hex()} {piece.type}\n".encode())
        return digest.hexdigest()

    def tokenizer_json(self) -> dict[str, Any]:
        """The same tokenizer as Hugging Face's `tokenizer.json`."""
        return to_tokenizer_json(self.kind, self._pieces)

    def files(self) -> dict[str, bytes]:
        """The model as SentencePiece reads it."""
        return {"tokenizer.model": self._model}


def piece_bytes(piece: Piece) -> bytes:
    """The bytes of text that a piece stands for; none for control pieces."""
    if piece.type in (PieceType.CONTROL, PieceType.UNKNOWN):
        return b""
    if piece.type == PieceType.BYTE:
        return bytes([int(piece.text[1:-1], 16)])
    return piece.text.replace(SPACE_MARK, " ").encode()
