"""Evaluation text is kept out of the corpus (Brown et al. 2020, appendix C).

`EvaluationIndex` holds the n-grams of all evaluation texts as hashes. It finds them in
documents while these are read. When all documents are known, n-grams that stand in many of them
are common speech (`common_ngrams`), and `cut` says what is left of a document once each other
n-gram and its surroundings are taken out.

Each place of a document is looked up in a Bloom filter first, by the `min_ngram_words` words that
follow: every n-gram of the index begins with as many. Few places of a clean document pass it.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from llmstages.collect.duplicates.evaluation_texts import read_evaluation_rows, row_blocks
from llmstages.collect.sources.records import Note
from llmstages.config.collect_groups import DecontaminateConfig
from llmstages.duplicates.words import (
    Hashes,
    blocks,
    hash_words,
    hashes_at,
    rolling_hashes,
    word_spans,
)

BITS_PER_NGRAM = 16
"""Size of the table of bits, at least: one place in a hundred of a clean text passes it."""
WORD_CHARACTERS = 100
"""A cut is moved to the end of a word when that is so near: some scripts have no white space."""

FORMAT_VERSION = 1
NUM_HEADER = 9


class Hit(TypedDict):
    """An evaluation n-gram in a document: characters `start` to `end` of its text."""

    start: int
    end: int
    ngram: int
    """Number of the n-gram in the index."""


ARROW_HITS = pa.list_(
    pa.struct([("start", pa.int32()), ("end", pa.int32()), ("ngram", pa.uint32())])
)


# -------------------------------------------------------------------------------------------------
# the index


class RowNgrams(NamedTuple):
    """The n-grams of a row, by those of its texts that are long enough."""

    ngrams: list[Hashes]
    prefixes: list[Hashes]
    """Hash of the words that each n-gram begins with."""
    sizes: set[int]
    """Of the n-grams, in words: shorter texts are n-grams of their own size."""
    short_texts: int
    """Texts of two words or more that are too short; single words, such as labels, do not count."""


def row_ngrams(rows: Iterable[list[str]], config: DecontaminateConfig) -> Iterator[RowNgrams]:
    """What is searched for of each row, given by its texts, in order."""
    for block in row_blocks(rows):
        words = hash_words([text for row in block for text in row])
        lengths = iter(np.diff(words.offsets).tolist())
        starts = iter(words.offsets.tolist())
        for row in block:
            found = RowNgrams([], [], set(), 0)
            num_short = 0
            for _ in row:
                length, start = next(lengths), next(starts)
                if length < config.min_ngram_words:
                    num_short += length > 1
                    continue
                size = min(length, config.ngram_words)
                text_words = words.hashes[start : start + length]
                found.ngrams.append(rolling_hashes(text_words, size))
                prefix = rolling_hashes(text_words, config.min_ngram_words)
                found.prefixes.append(prefix[: len(found.ngrams[-1])])
                found.sizes.add(size)
            yield found._replace(short_texts=num_short)


@dataclass(frozen=True)
class EvaluationCounts:
    """What an index was built from."""

    rows: int
    """Rows of tables, and paragraphs of plain text."""
    uncovered_rows: int
    """Rows all of whose texts are too short to be searched for."""
    texts: int
    """Texts that are searched for."""
    short_texts: int
    """Texts of two words or more that are too short; single words, such as labels, do not count."""


@dataclass(frozen=True, eq=False)
class EvaluationIndex:
    """Hashes of the n-grams of evaluation texts."""

    ngrams: Hashes
    """Sorted, each once; an n-gram is known by its place here. Short texts are n-grams of their
    own size."""
    sizes: Hashes
    """The sizes of the n-grams, in words."""
    bits: Hashes
    """A Bloom filter of the hashes of the words that n-grams begin with."""
    prefix_words: int
    """How many words these are."""
    counts: EvaluationCounts

    @classmethod
    def build(cls, paths: Sequence[str], config: DecontaminateConfig) -> "EvaluationIndex":
        """Read the files at `paths`; of folders all files of rows or plain text inside.

        Raises:
            UserError: a path does not exist, or nothing can be read there.
        """
        return cls.of_rows(read_evaluation_rows(paths), config)

    @classmethod
    def of_rows(cls, rows: Iterable[list[str]], config: DecontaminateConfig) -> "EvaluationIndex":
        """The index of rows, each given by its texts."""
        ngrams, prefixes, sizes = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)], set()
        num_rows = num_uncovered = num_texts = num_short = 0
        for row in row_ngrams(rows, config):
            ngrams += row.ngrams
            prefixes += row.prefixes
            sizes |= row.sizes
            num_short += row.short_texts
            num_texts += len(row.ngrams)
            num_rows += 1
            num_uncovered += not row.ngrams
        all_ngrams = np.unique(np.concatenate(ngrams))
        return cls(
            ngrams=all_ngrams,
            sizes=np.array(sorted(sizes), np.uint64),
            bits=_bit_table(np.concatenate(prefixes), len(all_ngrams)),
            prefix_words=config.min_ngram_words,
            counts=EvaluationCounts(num_rows, num_uncovered, num_texts, num_short),
        )

    @property
    def notes(self) -> list[Note]:
        """What is not protected, for the user."""
        if not self.counts.uncovered_rows:
            return []
        share = f"{self.counts.uncovered_rows:,} of {self.counts.rows:,} evaluation rows have"
        least = f"no text of {self.prefix_words} words or more (decontaminate.min_ngram_words)"
        return [Note("decontaminate.against", f"{share} {least}: they are not looked for")]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the n-grams: the same for the same texts, in whatever files they stand."""
        digest = hashlib.sha256(self.sizes.astype("<u8").tobytes())
        digest.update(self.ngrams.astype("<u8").tobytes())
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write the index to one file: an array of 64-bit numbers, so that it can be mapped."""
        counts = self.counts
        arrays = (self.sizes, self.bits, self.ngrams)
        header = [FORMAT_VERSION, self.prefix_words, *map(len, arrays)]
        header += [counts.rows, counts.uncovered_rows, counts.texts, counts.short_texts]
        with path.open("wb") as file:
            np.save(file, np.concatenate([np.array(header, np.uint64), *arrays]))

    @classmethod
    def load(cls, path: Path) -> "EvaluationIndex":
        """Map the file of an index: quick, and processes share the memory."""
        data = np.load(path, mmap_mode="r", allow_pickle=False)
        version, prefix_words, *lengths = data[:5].tolist()
        assert version == FORMAT_VERSION, f"{path} is of another version"
        counts = EvaluationCounts(*data[5:NUM_HEADER].tolist())
        sizes, bits, ngrams = np.split(data[NUM_HEADER:], np.cumsum(lengths)[:-1])
        return cls(ngrams, sizes, bits, prefix_words, counts)

    def hits(self, texts: Sequence[str]) -> dict[int, list[Hit]]:
        """The evaluation n-grams in the texts, by the number of the text; none for most texts."""
        result: dict[int, list[Hit]] = {}
        if len(self.ngrams) == 0:
            return result
        for start, end in blocks(texts):
            block = texts[start:end]
            numbers, first_words, sizes, ngrams = self._matches(block)
            for number in np.unique(numbers).tolist():
                of_text = numbers == number
                starts, ends = word_spans(block[number])
                firsts = first_words[of_text]
                lasts = firsts + sizes[of_text] - 1
                found = zip(
                    *(starts[firsts].tolist(), ends[lasts].tolist(), ngrams[of_text].tolist()),
                    strict=True,
                )
                result[start + number] = [
                    Hit(start=start, end=end, ngram=ngram) for start, end, ngram in sorted(found)
                ]
        return result

    def _matches(self, texts: Sequence[str]) -> tuple[NDArray[np.int64], ...]:
        """Number of the text, number of the first word in it, size and n-gram of each match."""
        words, offsets = hash_words(texts)
        prefixes = rolling_hashes(words, self.prefix_words)
        places = np.flatnonzero(_bits_at(self.bits, prefixes))
        places = places[_bits_at(self.bits, _swapped(prefixes[places]))]
        numbers = np.searchsorted(offsets, places, side="right") - 1
        # Words that follow the first one in the same text, itself included.
        room = offsets[numbers + 1] - places
        parts = []
        for size in self.sizes.tolist():
            fits = np.flatnonzero(room >= size)
            hashes = hashes_at(words, places[fits], size)
            ngrams = np.minimum(np.searchsorted(self.ngrams, hashes), len(self.ngrams) - 1)
            found = self.ngrams[ngrams] == hashes
            fits = fits[found]
            first_words = places[fits] - offsets[numbers[fits]]
            parts.append((numbers[fits], first_words, np.full(len(fits), size), ngrams[found]))
        numbers, first_words, sizes, ngrams = map(np.concatenate, zip(*parts, strict=True))
        return numbers, first_words, sizes, ngrams


def _bit_table(hashes: Hashes, num_ngrams: int) -> Hashes:
    """A table of a power of 2 bits; set are the two that the halves of each hash number."""
    num_bits = 1 << (max(num_ngrams, 4) * BITS_PER_NGRAM - 1).bit_length()
    table = np.zeros(num_bits // 64, np.uint64)
    bits = table.view(np.uint8)
    for half in (hashes, _swapped(hashes)):
        byte, bit = _bit_numbers(table, half)
        np.bitwise_or.at(bits, byte, np.uint8(1) << bit)
    return table


def _bits_at(table: Hashes, hashes: Hashes) -> NDArray[np.bool_]:
    """Whether the bits are set that the upper halves of the hashes number."""
    byte, bit = _bit_numbers(table, hashes)
    return (table.view(np.uint8)[byte] >> bit & np.uint8(1)).view(bool)


def _bit_numbers(table: Hashes, hashes: Hashes) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Byte of the table, and bit in it, that the upper half of each hash numbers."""
    num_bits = 64 * len(table)
    numbers = hashes >> np.uint64(65 - num_bits.bit_length())
    return (numbers >> np.uint64(3)).astype(np.int64), numbers.astype(np.uint8) & np.uint8(7)


def _swapped(hashes: Hashes) -> Hashes:
    """The hashes with their halves swapped."""
    return hashes << np.uint64(32) | hashes >> np.uint64(32)


# -------------------------------------------------------------------------------------------------
# documents


def common_ngrams(documents: Iterable[Iterable[int]], max_documents: int) -> frozenset[int]:
    """N-grams that stand in more than `max_documents` documents, given as those of each document.

    Duplicates are to be left out before: copies of one leaked text do not make it common speech.
    """
    counts: Counter[int] = Counter()
    for ngrams in documents:
        counts.update(set(ngrams))
    return frozenset(ngram for ngram, count in counts.items() if count > max_documents)


def cut(
    text: str, hits: Sequence[tuple[int, int]], config: DecontaminateConfig
) -> list[tuple[int, int]] | None:
    """The pieces left of a document, as ranges of characters.

    Around each hit (start and end in `text`) the margin is cut out too, up to the end of a word.
    White space at the ends of pieces goes, and so do short pieces.

    Returns:
        None when there are no hits; an empty list when the document is to be dropped, because
        nothing of use is left or because it falls into more than `max_pieces`, short ones counted.
    """
    if not hits:
        return None
    pieces = []
    end = 0
    for hit_start, hit_end in sorted(hits):
        pieces.append((end, _word_start(text, max(hit_start - config.margin_characters, 0))))
        end = max(end, _word_end(text, min(hit_end + config.margin_characters, len(text))))
    pieces.append((end, len(text)))
    pieces = [_stripped(text, *piece) for piece in pieces]
    pieces = [(start, end) for start, end in pieces if start < end]
    if len(pieces) > config.max_pieces:
        return []
    return [(start, end) for start, end in pieces if end - start >= config.min_piece_characters]


def _word_start(text: str, place: int) -> int:
    """The start of the word around a place, when it is near."""
    for start in range(place, max(place - WORD_CHARACTERS, 0), -1):
        if text[start - 1].isspace() or text[start].isspace():
            return start
    return place if place > WORD_CHARACTERS else 0


def _word_end(text: str, place: int) -> int:
    """The end of the word around a place, when it is near."""
    for end in range(place, min(place + WORD_CHARACTERS, len(text))):
        if text[end - 1].isspace() or text[end].isspace():
            return end
    return place if place + WORD_CHARACTERS < len(text) else len(text)


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    """The range without the white space at its ends."""
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return start, end
