"""Repeated n-grams are what reading the words one by one finds."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstages.collect.quality.repetition import DUPLICATE_NGRAMS, TOP_NGRAMS, repetition
from llmstages.collect.quality.tokens import tokenize


def top_share(text: str, n: int) -> float:
    """Table A1: characters in the commonest n-gram; the first of several."""
    words = text.split()
    ngrams = [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]
    if not ngrams:
        return 0.0
    ngram, count = Counter(ngrams).most_common(1)[0]
    return len(ngram) * count / len(text)


def duplicate_share(text: str, n: int) -> float:
    """Table A1: characters in n-grams read before, none counted twice."""
    words = text.split()
    seen, size, start = set(), 0, 0
    while start + n <= len(words):
        ngram = tuple(words[start : start + n])
        if ngram in seen:
            size += sum(map(len, ngram))
            start += n
        else:
            seen.add(ngram)
            start += 1
    return size / max(len(text), 1)


TEXTS = st.lists(st.sampled_from(["a", "b", "cc", "한국"]), max_size=60).map(" ".join)


@given(st.lists(TEXTS, max_size=4))
def test_equal_to_reading_word_by_word(texts: list[str]) -> None:
    shares = repetition(tokenize(texts))
    for n in TOP_NGRAMS:
        expected = [top_share(text, n) for text in texts]
        assert shares[f"top_{n}gram_share"].tolist() == pytest.approx(expected)
    for n in DUPLICATE_NGRAMS:
        expected = [duplicate_share(text, n) for text in texts]
        assert shares[f"duplicate_{n}gram_share"].tolist() == pytest.approx(expected)


def test_equal_words_of_two_documents_do_not_count() -> None:
    words = "one two three four five six seven eight nine ten eleven"
    shares = repetition(tokenize([words, words]))
    assert all(shares[f"duplicate_{n}gram_share"].tolist() == [0, 0] for n in DUPLICATE_NGRAMS)
    assert shares["top_2gram_share"].tolist() == pytest.approx([7 / len(words)] * 2)
