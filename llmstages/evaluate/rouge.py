"""ROUGE (Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries"): shared words.

ROUGE-N is the F1 of word n-grams, each counted at most as often as it occurs on the other side;
ROUGE-L that of the longest common subsequence of words. Words are lower-cased, not stemmed, and
found in any script: letters, marks and digits that stand together, and each letter by itself in the
scripts that put no space between words (Chinese, Japanese, Thai, Lao, Burmese, Khmer).
"""

import unicodedata
from collections import Counter
from collections.abc import Sequence

SPACELESS = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # kana
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)


def words_of(text: str) -> list[str]:
    """The words of a text, lower-cased, in NFC."""
    words: list[str] = []
    goes_on = False
    for character in unicodedata.normalize("NFC", text.lower()):
        kind = unicodedata.category(character)[0]
        if kind not in "LMN":
            goes_on = False
            continue
        alone = kind == "L" and _is_spaceless(character)
        if words and (kind == "M" or goes_on) and not alone:
            words[-1] += character
        else:
            words.append(character)
        goes_on = not alone and (kind != "M" or goes_on)
    return words


def _is_spaceless(character: str) -> bool:
    return any(low <= ord(character) <= high for low, high in SPACELESS)


def rouge(answer: str, reference: str) -> dict[str, float]:
    """`rouge_1`, `rouge_2` and `rouge_l`: F1 of one answer, 0 to 1.

    Two texts without words are equal; of too few words for a bigram `rouge_2` is 0, unless both
    sides are the same word.
    """
    given, wanted = words_of(answer), words_of(reference)
    if given == wanted:
        return {"rouge_1": 1.0, "rouge_2": 1.0, "rouge_l": 1.0}
    return {
        "rouge_1": _ngram_f1(given, wanted, 1),
        "rouge_2": _ngram_f1(given, wanted, 2),
        "rouge_l": _f1(common_subsequence(given, wanted), len(given), len(wanted)),
    }


def _ngram_f1(given: Sequence[str], wanted: Sequence[str], order: int) -> float:
    ours, theirs = (
        Counter(zip(*(words[shift:] for shift in range(order)), strict=False))
        for words in (given, wanted)
    )
    return _f1((ours & theirs).total(), ours.total(), theirs.total())


def _f1(shared: int, given: int, wanted: int) -> float:
    """Harmonic mean of shared / given and shared / wanted."""
    return 2 * shared / (given + wanted) if shared else 0.0


def common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence; a row of the table is one number's bits (Hyyrö
    2004)."""
    places: dict[str, int] = {}
    for place, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << place
    everywhere = (1 << len(first)) - 1
    unmatched = everywhere
    for word in second:
        matched = unmatched & places.get(word, 0)
        unmatched = (unmatched + matched | unmatched - matched) & everywhere
    return len(first) - unmatched.bit_count()
