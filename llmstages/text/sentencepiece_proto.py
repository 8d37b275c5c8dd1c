"""The parts of a serialized SentencePiece model that its own interface keeps to itself.

SentencePiece's Python interface does not tell a model's kind, and its generated classes need
the protobuf package. The format is protocol buffers' wire format: a message is a run of
(field number, wire type, value), see sentencepiece_model.proto for the numbers used here.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

KINDS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
PIECES, TRAINER = 1, 2  # fields of the model
SCORE = 2  # field of a piece


class PieceType(IntEnum):
    """Types of pieces, by their numbers in the format."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary."""

    text: str
    score: float
    type: PieceType


def read_model(model: bytes) -> tuple[str, list[Piece]]:
    """Kind (`bpe`, `unigram`, `char` or `word`) and pieces; raises `ValueError` when broken."""
    kind = KINDS[1]
    pieces = []
    try:
        for number, value, _ in read_fields(model):
            if number == PIECES and isinstance(value, bytes):
                pieces.append(read_piece(value))
            elif number == TRAINER and isinstance(value, bytes):
                kind = next((KINDS[int(v)] for n, v, _ in read_fields(value) if n == 3), kind)
    except (IndexError, KeyError, TypeError, struct.error) as error:
        raise ValueError("not a SentencePiece model") from error
    if not pieces:
        raise ValueError("no pieces")
    return kind, pieces


def round_scores(model: bytes, unit: float) -> bytes:
    """The same model with each score rounded to a multiple of `unit`."""
    rounded = bytearray(model)
    for number, message, start in read_fields(model):
        if number == PIECES and isinstance(message, bytes):
            for inner, value, offset in read_fields(message):
                if inner == SCORE and isinstance(value, bytes):
                    score = round(struct.unpack("<f", value)[0] / unit) * unit
                    struct.pack_into("<f", rounded, start + offset, score)
    return bytes(rounded)


def read_piece(message: bytes) -> Piece:
    """One piece; fields that are left out have the format's defaults."""
    text, score, kind = "", 0.0, PieceType.NORMAL
    for number, value, _ in read_fields(message):
        if number == 1 and isinstance(value, bytes):
            text = value.decode()
        elif number == SCORE and isinstance(value, bytes):
            score = float(struct.unpack("<f", value)[0])
        elif number == 3 and isinstance(value, int):
            kind = PieceType(value)
    return Piece(text, score, kind)


def read_fields(message: bytes) -> Iterator[tuple[int, int | bytes, int]]:
    """Number, raw value and the value's offset of each field.

    Values are integers for varints and bytes for everything else.
    """
    position = 0
    while position < len(message):
        key, position = read_varint(message, position)
        wire_type = key & 7
        if wire_type == 0:
            start = position
            value, position = read_varint(message, position)
            yield key >> 3, value, start
            continue
        if wire_type == 2:
            size, position = read_varint(message, position)
        else:
            size = {1: 8, 5: 4}[wire_type]
        if position + size > len(message):
            raise IndexError("message ends within a field")
        yield key >> 3, message[position : position + size], position
        position += size


def read_varint(message: bytes, position: int) -> tuple[int, int]:
    """An integer in groups of seven bits, lowest first, and the position after it."""
    value = shift = 0
    while True:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
