"""Words and n-grams as duplicates and decontamination see them."""

from itertools import pairwise

import numpy as np
import pytest

from llmstages.duplicates.words import (
    CHUNK_CHARACTERS,
    hash_words,
    hashes_at,
    ngram_hashes,
    rolling_hashes,
    word_spans,
)


def words_of(text: str) -> list[str]:
    return [text[start:end] for start, end in zip(*word_spans(text), strict=True)]


def hashes_of(text: str) -> list[int]:
    return hash_words([text]).hashes.tolist()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        (" \n\t ", []),
        ("... !? — * 🙂", []),
        ("One two", ["One", "two"]),
        ("  (One)\n two. ", ["One", "two"]),
        ("don't well-known", ["don't", "well-known"]),
        ("him--he said", ["him", "he", "said"]),
        ("him—he\u00a0said", ["him", "he", "said"]),
        ("漢字とカナ abc 中文,好", [*"漢字とカナ", "abc", *"中文好"]),
        ("ไทย", [*"ไทย"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("ﬁne ½", ["ﬁne", "½"]),
        ("𠀀𠀁x", ["𠀀", "𠀁", "x"]),
    ],
)
def test_words_of_a_text(text: str, words: list[str]) -> None:
    assert words_of(text) == words
    assert len(hashes_of(text)) == len(words)


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("“Don’t,” he said.", "dont he said"),
        ("ÉCOLE e\u0301cole", "ecole école"),
        ("ﬁne oﬃce ½", "fine office 12"),
        ("ＡＢＣ １２", "abc 12"),
        ("zero\u200bwidth soft\u00adhyphen", "zerowidth softhyphen"),
        ("Straße ΣΊΣΥΦΟΣ", "straße σισυφοσ"),
        ("a\x00b\x01c\x02d", "abcd"),
        ("葛\U000e0100飾", "葛飾"),
        ("\ud800x", "x"),
    ],
)
def test_variants_are_the_same_words(text: str, folded: str) -> None:
    assert hashes_of(text) == hashes_of(folded)


def test_different_words_differ() -> None:
    words = ["a", "b", "ab", "ba", "aa", "aaa", "漢", "字", "12", "21", "é", "f", "𠀀", "𠀁"]
    assert len({hashes_of(word)[0] for word in words}) == len(words)


def test_hashes_do_not_depend_on_neighbours_or_place() -> None:
    text = "The fox — “brown” & 漢字 — jumps over"
    texts = [text, "", "plain words", text, "x " * CHUNK_CHARACTERS, text]
    words = hash_words(texts)
    parts = [words.hashes[a:b].tolist() for a, b in pairwise(words.offsets)]
    assert parts == [hashes_of(text) for text in texts]
    assert parts[0] == [hashes_of(word)[0] for word in words_of(text)]
    assert len(parts[4]) == CHUNK_CHARACTERS


def test_a_long_text_is_the_same_in_pieces() -> None:
    text = "Some “longer” words, again and again. " * 6000
    assert len(text) > 3 * CHUNK_CHARACTERS
    once = hashes_of("Some longer words again and again")
    assert hashes_of(text) == once * 6000
    assert words_of(text)[-6:] == ["Some", "longer", "words", "again", "and", "again"]


def test_a_long_text_without_spaces() -> None:
    assert len(hashes_of("字" * (2 * CHUNK_CHARACTERS + 5))) == 2 * CHUNK_CHARACTERS + 5
    starts, ends = word_spans("x" * (CHUNK_CHARACTERS + 10))
    assert starts.tolist() == [0, CHUNK_CHARACTERS]
    assert ends.tolist() == [CHUNK_CHARACTERS, CHUNK_CHARACTERS + 10]


def test_hashes_are_the_same_on_every_machine() -> None:
    assert hashes_of("Fox") == [hashes_of("fox")[0]]
    assert hashes_of("fox 漢") == [5459490661626120352, 17679608837749850948]


def test_ngrams_stay_within_a_text() -> None:
    words = hash_words(["a b c d", "", "e", "f g", "h i j"])
    ngrams = ngram_hashes(words, 3)
    assert np.diff(ngrams.offsets).tolist() == [2, 0, 1, 1, 1]
    expected = [
        hash_of
        for text in ("a b c", "b c d", "e", "f g", "h i j")
        for hash_of in ngram_hashes(hash_words([text]), 3).hashes.tolist()
    ]
    assert ngrams.hashes.tolist() == expected
    assert len(set(expected)) == 5


def test_ngrams_know_the_order_of_words() -> None:
    hashes = {rolling_hashes(hash_words([text]).hashes, 2)[0] for text in ("a b", "b a", "ab a")}
    assert len(hashes) == 3


def test_hashes_at_places_are_the_rolling_ones() -> None:
    words = hash_words(["a b c d e f g h"]).hashes
    rolling = rolling_hashes(words, 3)
    assert hashes_at(words, np.array([4, 0]), 3).tolist() == [rolling[4], rolling[0]]
    assert len(rolling_hashes(words, 9)) == 0
