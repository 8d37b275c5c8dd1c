"""The hash of folded text."""

import unicodedata
from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstages.collect.duplicates.folding import folded_hash


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Hello  World\n", "hello world"),
        ("Straße", "STRASSE"),
        ("ﬁne ｗｉｄｅ", "fine WIDE"),
        ("e\u0301te\u0301", "été"),
        ("a\u00a0b\u2028c\u3000d\x85e", "a b c d e"),
        ("A\x1fé", "a é"),
        ("Wait… “No” —\xa0Yes", "wait... “no” — yes"),
    ],
)
def test_equal(one: str, other: str) -> None:
    assert folded_hash(one) == folded_hash(other)


@given(st.text())
def test_the_quick_way_is_the_long_way(text: str) -> None:
    long = unicodedata.normalize("NFKC", text).casefold()
    folded = "".join(long.split()).encode("utf-8")
    assert folded_hash(text) == int.from_bytes(blake2b(folded, digest_size=8).digest(), "little")


def test_different_and_stable() -> None:
    assert len({folded_hash(text) for text in ("", "a", "b", "é", "e", "a.", "한")}) == 7
    assert folded_hash("a") == 3405396810240292928
