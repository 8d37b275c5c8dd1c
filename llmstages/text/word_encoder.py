"""Ids of much text: every distinct word goes through the model once.

A word ends between two characters that no piece of the vocabulary holds side by side. No piece
crosses such a place, so neither merges nor the best path of a unigram model reach over it, and the
ids of a text are those of its words, one after the other. In running text nearly every word has
been met before, and numpy and Arrow do all that is left.

Promise: the ids of the model, of whatever text and however it is cut (where a unigram model's own
sums over a very long text would be rounded, the exact ones); bounded memory beside text and ids;
may be called from several threads.
"""

from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import pairwise
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from llmstages.text.ids import Ids

BLOCK_CHARACTERS = 2_000_000
"""Text looked at in one go: some 60 bytes of working memory a character in the worst case."""
TAIL_CHARACTERS = 10_000
"""Where the end of a block in a longer text is looked for."""
MAX_WORDS = 2**18
"""Words remembered, some 200 bytes each; then all are forgotten and the frequent ones soon back."""
MAX_WORD_BYTES = 4 * 64
"""Longer words, in UTF-32, hardly come back and are not remembered."""
PAIR_BITS = 22
"""Size of the table of pairs: 4 MB. The pairs of 32,000 pieces fill less than a hundredth."""


class WordEncoder:
    """Encodes texts by way of their words."""

    def __init__(
        self,
        pieces: Collection[str],
        encode_words: Callable[[list[str]], list[list[int]]],
        dtype: np.dtype[Any],
    ) -> None:
        """`pieces` are all that stand for several characters, `encode_words` is the model."""
        self._encode_words = encode_words
        self._dtype = dtype
        self._is_cut = np.ones(2**PAIR_BITS, dtype=bool)
        characters = as_characters("".join(pieces))
        inside = np.ones(len(characters), dtype=bool)
        inside[np.cumsum([len(piece) for piece in pieces if piece], dtype=np.int64) - 1] = False
        self._is_cut[pair_numbers(characters)[inside[:-1]]] = False
        self._known: dict[bytes, bytes] = {}  # a word in UTF-32, its ids as they are in memory
        self._lock = Lock()

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Ids of each text."""
        encoded: list[Ids] = []
        for group in groups_of(texts):
            if len(group) == 1 and len(group[0]) > BLOCK_CHARACTERS:
                parts = [self._encode_group([part])[0] for part in self._parts(group[0])]
                encoded.append(np.concatenate(parts))
            else:
                encoded += self._encode_group(group)
        return encoded

    def _parts(self, text: str) -> Iterator[str]:
        """A long text in blocks that end where a word does."""
        start = 0
        while len(text) - start > BLOCK_CHARACTERS:
            first_tail = start + BLOCK_CHARACTERS - TAIL_CHARACTERS
            for tail in range(first_tail, len(text), TAIL_CHARACTERS):
                characters = as_characters(text[tail : tail + TAIL_CHARACTERS])
                cuts = np.flatnonzero(self._cuts(characters))
                if cuts.size:
                    break
            else:  # one endless word
                break
            end = tail + int(cuts[-1]) + 1
            yield text[start:end]
            start = end
        yield text[start:]

    def _cuts(self, characters: NDArray[np.uint32]) -> NDArray[np.bool_]:
        """Whether a word ends behind each character but the last."""
        cuts: NDArray[np.bool_] = self._is_cut[pair_numbers(characters)]
        return cuts

    def _encode_group(self, texts: Sequence[str]) -> list[Ids]:
        characters = as_characters("".join(texts))
        if not len(characters):
            return [np.zeros(0, dtype=self._dtype) for _ in texts]
        ends = np.cumsum([len(text) for text in texts])
        is_bound = np.empty(len(characters) + 1, dtype=bool)
        is_bound[0] = True
        is_bound[1:-1] = self._cuts(characters)
        is_bound[ends] = True
        bounds = np.flatnonzero(is_bound)
        words = binary_array(bounds * 4, characters).dictionary_encode()
        ids = pa.array(self._ids_of(words.dictionary.to_pylist()), pa.large_binary())
        ids = ids.take(words.indices)
        _, offsets, data = ids.buffers()
        starts = np.frombuffer(offsets, np.int64)[: len(bounds)] // self._dtype.itemsize
        flat = np.frombuffer(data, self._dtype)
        text_ends = starts[np.searchsorted(bounds, ends)].tolist()
        return [flat[i:j] for i, j in pairwise([0, *text_ends])]

    def _ids_of(self, words: list[bytes]) -> list[bytes]:
        """Ids of distinct words; one thread at a time, since Python's interpreter has one lock."""
        with self._lock:
            found = [self._known.get(word) for word in words]
            unseen = [index for index, ids in enumerate(found) if ids is None]
            if len(self._known) + len(unseen) > MAX_WORDS:
                self._known.clear()
            encoded = self._encode_words([words[index].decode("utf-32-le") for index in unseen])
            type_code = {2: "H", 4: "I"}[self._dtype.itemsize]
            for index, ids in zip(unseen, encoded, strict=True):
                found[index] = in_memory = array(type_code, ids).tobytes()
                if len(words[index]) <= MAX_WORD_BYTES and len(self._known) < MAX_WORDS:
                    self._known[words[index]] = in_memory
        return [ids for ids in found if ids is not None]


def as_characters(text: str) -> NDArray[np.uint32]:
    """The code points of a text."""
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")


def pair_numbers(characters: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """A number below 2 ** `PAIR_BITS` for each pair of neighbours.

    Two pairs may share one: then a word that could end goes on, which costs time alone.
    Multiplicative hashing (Knuth, The Art of Computer Programming 3, 6.4).
    """
    numbers = characters[:-1] * np.uint32(0x9E3779B1)
    numbers += characters[1:]
    numbers *= np.uint32(0x85EBCA6B)
    numbers >>= np.uint32(32 - PAIR_BITS)
    return numbers


def binary_array(offsets: NDArray[np.int64], data: NDArray[Any]) -> pa.LargeBinaryArray:
    """Byte strings as Arrow keeps them, without a copy."""
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(offsets) - 1, buffers)


def groups_of(texts: Sequence[str]) -> Iterator[list[str]]:
    """Neighbouring texts, together at most `BLOCK_CHARACTERS`; longer ones alone."""
    group: list[str] = []
    size = 0
    for text in texts:
        if group and size + len(text) > BLOCK_CHARACTERS:
            yield group
            group, size = [], 0
        group.append(text)
        size += len(text)
    if group:
        yield group
