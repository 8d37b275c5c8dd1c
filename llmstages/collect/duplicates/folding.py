"""The hash by which exact duplicates are found: equal for texts that differ only in how they look.

Case, space and Unicode form are folded away: NFKC makes one of wide and narrow letters, ligatures
and composed accents, `casefold` of capitals; space and line ends go altogether, which is faster
than making one of several and parts no texts that such a folding would join.
"""

import re
import unicodedata
from hashlib import blake2b

_ASCII_SPACE = b"\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f "
_WIDE_SPACE = "\x85\u1680\u2028\u2029"
"""Space outside ASCII that NFKC leaves alone."""
_LOWER = bytes(range(256)).lower()
_UNSTABLE = re.compile("[^\x00-\x7f\u2013\u2014\u2018\u2019\u201c\u201d\u2022]")
"""All but ASCII and the quotes and dashes that NFKC and `casefold` leave alone."""


def folded_hash(text: str) -> int:
    """Eight bytes of BLAKE2b over the folded text, as an unsigned number."""
    if not text.isascii():
        text = text.replace("\u2026", "...").replace("\xa0", " ")  # as NFKC does
    if text.isascii() or not _UNSTABLE.search(text):
        folded = text.encode("utf-8").translate(_LOWER, _ASCII_SPACE)
    else:
        text = unicodedata.normalize("NFKC", text).casefold()
        for space in _WIDE_SPACE:
            text = text.replace(space, "")
        folded = text.encode("utf-8").translate(None, _ASCII_SPACE)
    return int.from_bytes(blake2b(folded, digest_size=8).digest(), "little")
