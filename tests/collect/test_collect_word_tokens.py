"""Words are cut into tokens by the rules, and in arrays as the rules say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstages.collect.quality.tokens import LONGEST_CUT_BYTES, Tokens, tokenize
from llmstages.collect.quality.word_rules import split_word


@pytest.mark.parametrize(
    ("word", "tokens"),
    [
        ("plain", "plain"),
        ("end.", "end ."),
        ('("quoted,")', '( " quoted , " )'),
        ("don't", "do n't"),
        ("I’ve", "I ’ve"),
        ("dog's", "dog 's"),
        ("dogs'", "dogs '"),
        ("Mr.", "Mr."),
        ("(e.g.,", "( e.g. ,"),
        ("U.S.", "U.S."),
        ("J.", "J."),
        ("NASA.", "NASA ."),
        ("wait...what", "wait ... what"),
        ("well-known", "well - known"),
        ("a--b", "a -- b"),
        ("a—b", "a — b"),
        ("end.Start", "end . Start"),
        ("1,000.", "1,000 ."),
        ("a,b", "a , b"),
        ("5-6", "5 - 6"),
        ("10km", "10 km"),
        ("50%", "50 %"),
        ("$5", "$ 5"),
        ("3:45", "3:45"),
        ("http://example.com/a-b,", "http://example.com/a-b ,"),
        ("--", "--"),
        ("***", "* * *"),
    ],
)
def test_rules(word: str, tokens: str) -> None:
    assert split_word(word) == tokens.split()


def keys(tokens: Tokens, index: int) -> list[tuple[int, int, int]]:
    """All that is known of the tokens of one document."""
    part = slice(tokens.first[index], tokens.first[index + 1])
    columns = (tokens.key[part], tokens.length[part], tokens.flags[part])
    return list(zip(*(column.tolist() for column in columns), strict=True))


def test_lengths_are_characters_in_every_script() -> None:
    tokens = tokenize(["naïve, 한국어!", "", "漢字\u3000𠮷 don’t"])
    assert tokens.length.tolist() == [5, 1, 3, 1, 2, 1, 2, 3]
    assert tokens.document.tolist() == [0, 0, 0, 0, 2, 2, 2, 2]
    assert tokens.words.tolist() == [2, 0, 3]
    assert tokens.characters.tolist() == [11, 0, 10]
    assert tokens.bytes.tolist() == [18, 0, 21]


def test_lines_open_at_their_first_token() -> None:
    assert tokenize(["a b\n\n c\n", "d"]).opens_line.tolist() == [True, False, True, True]


def test_keys_tell_long_words_apart() -> None:
    stem = "x" * 70
    tokens = tokenize([f"{stem}1 {stem}2 {stem}1 abcdefghi abcdefghj abcdefgh"])
    assert tokens.key[0] == tokens.key[2]
    assert len(set(tokens.key.tolist())) == 5


def test_what_is_too_long_for_a_word_stays_whole() -> None:
    long = "a-" * LONGEST_CUT_BYTES
    assert tokenize([long]).length.tolist() == [len(long)]


WORDS = st.text(st.sampled_from("ab1.,-'’é한…!\"(/ \n"), max_size=40)


@given(st.lists(WORDS, max_size=5))
def test_a_batch_gives_what_the_rules_and_each_text_alone_give(texts: list[str]) -> None:
    tokens = tokenize(texts)
    for index, text in enumerate(texts):
        expected = [token for word in text.split() for token in split_word(word)]
        assert [length for _, length, _ in keys(tokens, index)] == list(map(len, expected))
        assert keys(tokens, index) == keys(tokenize([text]), 0)
        same = np.array(expected)
        key = tokens.key[tokens.first[index] : tokens.first[index + 1]]
        assert ((key[:, None] == key[None]) == (same[:, None] == same[None])).all()
