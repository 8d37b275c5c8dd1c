"""Words and word n-grams of texts, as hashes: what near duplicates and decontamination compare.

A text is folded first: lower case, accents and Unicode variants (NFKD) taken off, punctuation and
symbols removed, any run of white space (and dashes between words) one space. Chinese, Japanese,
Thai, Lao, Tibetan, Burmese and Khmer characters are words of their own: these scripts put no spaces
between words.

All of it is vectorised over the characters of many texts at once. A word's hash is a polynomial of
its characters modulo 2^64, had from cumulative sums, and mixed (MurmurHash3's finaliser). Hashes
are the same in every process, on every machine and for every way texts are batched; across versions
of Python only characters that Unicode had not assigned yet may differ.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Offsets = NDArray[np.int64]

CHUNK_CHARACTERS = 2**16
"""Characters worked on at a time: the arrays of one chunk stay in the processor's cache."""
BLOCK_CHARACTERS = 2**18
"""Texts worked on at a time: enough to make numpy's calls cheap, few enough for the cache."""
TABLE_CHARACTERS = 0x20000
"""Characters with an entry of their own; those above are Chinese, or variants of the one before."""
LAST_CHINESE_PLANE_END = 0x40000

# Values of the folding table that are no characters.
SPACE, REMOVED, SEVERAL = 0, 1, 2
OWN_WORD = np.uint32(2**31)
"""Bit of a character that is a word of its own."""
UNSPACED_SCRIPTS = (
    *((0x0E00, 0x0EFF), (0x0F00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x2E80, 0x2FDF)),
    *((0x3005, 0x3007), (0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF)),
    *((0x1B000, 0x1B16F),),
)
"""Thai and Lao, Tibetan, Burmese, Khmer, then kana and Chinese characters."""
WORD_DASHES = "‒–—―"
"""Dashes between words, often without a space around them; a hyphen is inside a word."""

# Odd 64-bit constants: the fractions of the golden ratio, and those of MurmurHash3's finaliser.
CHARACTER_BASE = 0x9E3779B97F4A7C15
WORD_BASE = 0xD1342543DE82EF95
MIX = (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53)


class Words(NamedTuple):
    """Hashes of the words of several texts; those of text i: `hashes[offsets[i]:offsets[i+1]]`."""

    hashes: Hashes
    offsets: Offsets


def hash_words(texts: Sequence[str]) -> Words:
    """The words of each text, in order."""
    counts = np.zeros(len(texts) + 1, np.int64)
    parts: list[Hashes] = []
    for numbers, pieces in _chunks(texts):
        codes, kept = _fold(" ".join(pieces))
        lengths = np.fromiter(map(len, pieces), np.int64, len(pieces))
        starts, ends = _word_bounds(codes)
        # Where each piece begins among the characters that are left.
        piece_starts = np.cumsum(lengths + 1) - (lengths + 1)
        if kept is not None:
            piece_starts = np.searchsorted(kept, piece_starts)
        bounds = np.searchsorted(starts, np.append(piece_starts, len(codes)))
        np.add.at(counts, np.asarray(numbers) + 1, np.diff(bounds))
        parts.append(_hash_spans(codes, starts, ends))
    hashes = np.concatenate(parts) if parts else np.zeros(0, np.uint64)
    return Words(hashes, np.cumsum(counts))


def word_spans(text: str) -> tuple[Offsets, Offsets]:
    """Where the words of `hash_words([text])` start and end in `text`, in characters."""
    all_starts, all_ends = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    before = 0
    for _, pieces in _chunks([text]):
        codes, kept = _fold(pieces[0])
        starts, ends = _word_bounds(codes)
        if kept is not None:
            starts, ends = kept[starts], kept[ends - 1] + 1
        all_starts.append(before + starts)
        all_ends.append(before + ends)
        before += len(pieces[0])
    return np.concatenate(all_starts), np.concatenate(all_ends)


def ngram_hashes(words: Words, size: int) -> Words:
    """The n-grams of `size` words of each text; of a text with fewer words its whole sequence.

    A text without words has none.
    """
    hashes, offsets = words
    counts = np.diff(offsets)
    num_ngrams = np.where(counts > 0, np.maximum(counts - size + 1, 1), 0)
    ngram_offsets = np.concatenate([[0], np.cumsum(num_ngrams)])
    # The first word of each n-gram: those of one text follow each other.
    skipped = offsets[:-1] - ngram_offsets[:-1]
    first = np.arange(ngram_offsets[-1]) + np.repeat(skipped, num_ngrams)
    result = np.zeros(len(first), np.uint64)
    short = np.flatnonzero((counts > 0) & (counts < size))
    full = len(hashes) - size + 1
    if full > 0:
        rolling = rolling_hashes(hashes, size)
        result = rolling[np.minimum(first, full - 1)]
    for text in short:
        sequence = hashes[offsets[text] : offsets[text + 1]]
        result[ngram_offsets[text]] = rolling_hashes(sequence, len(sequence))[0]
    return Words(result, ngram_offsets)


def rolling_hashes(words: Hashes, size: int) -> Hashes:
    """Hash of every `size` words in a row, texts not kept apart: `len(words) - size + 1` values."""
    num_windows = len(words) - size + 1
    if num_windows < 1:
        return np.zeros(0, np.uint64)
    result = words[:num_windows].copy()
    for place in range(1, size):
        result *= np.uint64(WORD_BASE)
        result += words[place : place + num_windows]
    return mixed(result)


def hashes_at(words: Hashes, places: Offsets, size: int) -> Hashes:
    """Hash of the `size` words in a row from each of the places on, as in `rolling_hashes`."""
    result = words[places]
    for place in range(1, size):
        result *= np.uint64(WORD_BASE)
        result += words[places + place]
    return mixed(result)


def mixed(values: Hashes) -> Hashes:
    """Change `values` in place so that every bit depends on every bit (MurmurHash3)."""
    for factor in MIX:
        values ^= values >> np.uint64(33)
        values *= np.uint64(factor)
    values ^= values >> np.uint64(33)
    return values


def blocks(texts: Sequence[str | None]) -> Iterator[tuple[int, int]]:
    """Ranges of texts of some `BLOCK_CHARACTERS`, at least one text in each."""
    start = size = 0
    for number, text in enumerate(texts):
        size += len(text or "")
        if size >= BLOCK_CHARACTERS or number == len(texts) - 1:
            yield start, number + 1
            start, size = number + 1, 0


# -------------------------------------------------------------------------------------------------
# characters


def _chunks(texts: Sequence[str]) -> Iterator[tuple[list[int], list[str]]]:
    """Texts, or the pieces of a long one, by number, gathered until a chunk is full.

    A long text is cut at a space, always at the same places whatever stands beside it.
    """
    numbers: list[int] = []
    pieces: list[str] = []
    size = 0
    for number, text in enumerate(texts):
        for piece in [text] if len(text) <= CHUNK_CHARACTERS else _cut(text):
            if pieces and size + len(piece) > CHUNK_CHARACTERS:
                yield numbers, pieces
                numbers, pieces, size = [], [], 0
            numbers.append(number)
            pieces.append(piece)
            size += len(piece)
    if pieces:
        yield numbers, pieces


def _cut(text: str) -> Iterator[str]:
    start = 0
    while start < len(text):
        end = min(start + CHUNK_CHARACTERS, len(text))
        if end < len(text):
            space = text.rfind(" ", start, end)
            end = space + 1 if space > start else end
        yield text[start:end]
        start = end


def _fold(text: str) -> tuple[NDArray[np.uint8] | NDArray[np.uint32], Offsets | None]:
    """Codes of the characters that are left of `text` (0: space), and the places they come from.

    The places are None when nothing was removed or spelled out.
    """
    # Two hyphens are a typewriter's dash.
    text = text.replace("--", "  ")
    codes: NDArray[np.uint8] | NDArray[np.uint32]
    if text.isascii():
        codes = np.frombuffer(text.encode("ascii").translate(_ascii_table()), np.uint8)
        several = False
    else:
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        codes = _folding_table().take(np.minimum(points, TABLE_CHARACTERS))
        beyond = codes == OWN_WORD
        if beyond.any():
            codes[beyond] = points[beyond] | OWN_WORD
            codes[points >= LAST_CHINESE_PLANE_END] = REMOVED
        several = bool((codes == SEVERAL).any())
    if several:
        codes, origin = _spelled_out(text, codes.astype(np.uint32))
        stays = codes != REMOVED
        return codes[stays], origin[stays]
    stays = codes != REMOVED
    if stays.all():
        return codes, None
    kept = np.flatnonzero(stays)
    return codes[kept], kept


def _spelled_out(text: str, codes: NDArray[np.uint32]) -> tuple[NDArray[np.uint32], Offsets]:
    """Put what a ligature, a fraction and the like stands for in its place."""
    places = np.flatnonzero(codes == SEVERAL)
    spelled = [_expansion(text[place]) for place in places]
    lengths = np.ones(len(codes), np.int64)
    lengths[places] = [len(codes_) for codes_ in spelled]
    origin = np.repeat(np.arange(len(codes)), lengths)
    result = codes[origin]
    result[np.repeat(codes == SEVERAL, lengths)] = np.concatenate(spelled)
    return result, origin


@cache
def _expansion(character: str) -> NDArray[np.uint32]:
    parts = (_folded_code(part) for part in unicodedata.normalize("NFKD", character.lower()))
    return np.array([code for code in parts if code != SEVERAL], np.uint32)


@cache
def _folding_table() -> NDArray[np.uint32]:
    """What becomes of each character; the last entry stands for all that have none."""
    table = np.arange(TABLE_CHARACTERS + 1, dtype=np.uint32)
    for code in range(TABLE_CHARACTERS):
        table[code] = _folded_code(chr(code))
    table[TABLE_CHARACTERS] = OWN_WORD
    return table


@cache
def _ascii_table() -> bytes:
    return bytes(_folded_code(chr(code)) for code in range(128)) + bytes(128)


def _folded_code(character: str) -> int:
    """Code point of what one character folds to, or SPACE, REMOVED or SEVERAL."""
    if character.isspace() or character in WORD_DASHES:
        return SPACE
    category = unicodedata.category(character)
    if category[0] in "PS" or category in ("Cc", "Cf", "Cs"):
        return REMOVED
    forms = unicodedata.normalize("NFKD", character.lower())
    if len(forms) > 1:
        forms = "".join(form for form in forms if not unicodedata.combining(form))
    elif unicodedata.combining(forms):
        return REMOVED
    if len(forms) != 1:
        # Korean syllables are single characters, not the letters they are built from.
        return ord(character) if "\uac00" <= character <= "\ud7a3" else SEVERAL
    code = ord(forms)
    if any(low <= code <= high for low, high in UNSPACED_SCRIPTS):
        return code | int(OWN_WORD)
    return code


# -------------------------------------------------------------------------------------------------
# words


def _word_bounds(
    codes: NDArray[np.uint8] | NDArray[np.uint32],
) -> tuple[Offsets, Offsets]:
    """Start and end of each word."""
    inside = np.zeros(len(codes) + 2, bool)
    inside[1:-1] = codes != SPACE
    if codes.dtype == np.uint8:
        edges = np.flatnonzero(inside[1:] != inside[:-1])
        return edges[0::2], edges[1::2]
    own = np.zeros(len(codes) + 2, bool)
    own[1:-1] = codes >= OWN_WORD
    # A word starts where the one before is no part of it: a space, or a word of its own.
    start = inside[1:-1] & (~inside[:-2] | own[1:-1] | own[:-2])
    end = inside[1:-1] & (~inside[2:] | own[1:-1] | own[2:])
    return np.flatnonzero(start), np.flatnonzero(end) + 1


def _hash_spans(
    codes: NDArray[np.uint8] | NDArray[np.uint32], starts: Offsets, ends: Offsets
) -> Hashes:
    """Hash of the codes of each span: sum of code * base^place, moved back to place 0."""
    powers, inverses = _powers(1 << len(codes).bit_length())
    sums = np.zeros(len(codes) + 1, np.uint64)
    np.multiply(codes, powers[: len(codes)], out=sums[1:])
    np.cumsum(sums, out=sums)
    return mixed((sums[ends] - sums[starts]) * inverses[starts])


@cache
def _powers(count: int) -> tuple[Hashes, Hashes]:
    """Powers of the base and of its inverse modulo 2^64."""
    inverse = pow(CHARACTER_BASE, -1, 2**64)
    result = []
    for base in (CHARACTER_BASE, inverse):
        powers = np.full(count, base, np.uint64)
        powers[0] = 1
        result.append(np.cumprod(powers))
    return result[0], result[1]
