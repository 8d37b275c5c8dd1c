"""ROUGE after Lin (2004), by hand."""

import random

import pytest

from llmstages.evaluate.rouge import common_subsequence, rouge, words_of


def test_the_examples_of_the_paper() -> None:
    # Lin 2004, section 3: "police killed the gunman" against two candidates. With three of four
    # words in order ROUGE-L is 3/4; with two it is 1/2. Both share the one bigram "the gunman".
    reference = "police killed the gunman"
    kept = rouge("police kill the gunman", reference)
    turned = rouge("the gunman kill police", reference)
    assert (kept["rouge_l"], turned["rouge_l"]) == (3 / 4, 1 / 2)
    assert kept["rouge_2"] == turned["rouge_2"] == 1 / 3
    assert kept["rouge_1"] == turned["rouge_1"] == 3 / 4


def test_words_count_as_often_as_they_are_on_the_other_side() -> None:
    # Of five words two are matched (one "the", one "cat"), of two both: F1 = 2 * 2 / (5 + 2).
    scores = rouge("The the the cat the", "the cat")
    assert scores["rouge_1"] == pytest.approx(4 / 7)
    assert scores["rouge_2"] == pytest.approx(2 * 1 / (4 + 1))
    assert scores["rouge_l"] == pytest.approx(4 / 7)


def test_nothing_in_common_and_nothing_at_all() -> None:
    assert set(rouge("a b", "c d").values()) == {0.0}
    assert set(rouge("", "c").values()) == set(rouge("c", "").values()) == {0.0}
    assert set(rouge("Yes.", "yes!").values()) == {1.0}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It's 3.5, no?", ["it", "s", "3", "5", "no"]),
        ("Книга НЕ", ["книга", "не"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),  # vowel signs and the virama belong to their word
        ("我喜欢cats", ["我", "喜", "欢", "cats"]),
        ("กินข้าว", ["กิ", "น", "ข้", "า", "ว"]),
        ("cafe\u0301", ["caf\u00e9"]),
        (" \u0301 ", ["\u0301"]),
        ("", []),
    ],
)
def test_words_of_any_script(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_common_subsequence_is_that_of_the_table() -> None:
    generator = random.Random(0)
    for _ in range(200):
        first, second = (generator.choices("abcd", k=generator.randrange(9)) for _ in range(2))
        rows = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
        for i, left in enumerate(first):
            for j, right in enumerate(second):
                rows[i + 1][j + 1] = (
                    rows[i][j] + 1 if left == right else max(rows[i][j + 1], rows[i + 1][j])
                )
        assert common_subsequence(first, second) == rows[-1][-1]
