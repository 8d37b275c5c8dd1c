"""Unicode repair mends what is broken and leaves what is sound."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstages.collect.cleaning.repair import repair
from llmstages.text.unicode import well_formed


@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        ("SchÃ¶ne GrÃ¼ÃŸe", "Schöne Grüße"),  # UTF-8 read as Latin-1
        ("theyâ€™re here", "they’re here"),  # UTF-8 read as Windows-1252
        ("naïve\nSchÃ¶n", "naïve\nSchön"),  # only the broken line
        ("\ufeffone\r\ntwo\rthree", "one\ntwo\nthree"),
        ("a\x00b\x07c", "abc"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("page\x0cbreak", "page\nbreak"),
        ("e\u0301", "é"),
    ],
)
def test_broken_text_is_mended(broken: str, mended: str) -> None:
    assert repair(broken) == mended


@pytest.mark.parametrize(
    "sound",
    [
        "“Curly” ‘quotes’ — dashes… and ﬁ ligatures",
        "def f():\n\tif x:\n        return  1   \n\n\n",
        "한국어 텍스트와 日本語、中文。",
        "half ｆｕｌｌ width, soft\u00adhyphen, no\u00a0break, 👩‍👩‍👧 ",
        "&amp; <b>markup</b> 10³ µ",
        "",
    ],
)
def test_sound_text_stays(sound: str) -> None:
    assert repair(sound) == sound


@given(st.text())
def test_repair_gives_text_that_can_be_stored(text: str) -> None:
    mended = repair(well_formed(text))
    mended.encode("utf-8")
    assert "\r" not in mended


def test_surrogates() -> None:
    assert well_formed("\ud83d\ude00") == "😀"
    assert well_formed("a\ud83d") == "a\ufffd"
