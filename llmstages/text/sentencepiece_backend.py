"""Encoding and decoding with a SentencePiece model that this package trained.

Promise: `decode(encode(text)) == text` for every well-formed string, and `encode` never gives a
control piece.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import sentencepiece

from llmstages.text.sentencepiece_export import to_tokenizer_json
from llmstages.text.sentencepiece_proto import Piece, PieceType, read_model

SPACE_MARK = "\u2581"  # SentencePiece writes spaces so, and would read it back as a space
SPACE_MARK_OR_NOT = re.compile("\u2581|[^\u2581]+")
LONG_CHARACTERS = 4000
LINES = re.compile(rf".{{{LONG_CHARACTERS}}}[^\n]*\n+|.+", re.DOTALL)
MIN_PARALLEL_CHARACTERS = 4000  # threads take some 60 microseconds to start, as 600 characters do


class SentencePieceBackend:
    """A trained model; see `llmstages.text.tokenizer.Backend` for what the members mean."""

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
        if len(parts) == 1 or sum(map(len, parts)) < MIN_PARALLEL_CHARACTERS:
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
