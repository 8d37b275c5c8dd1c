"""Language identification needs no network and gives a probability."""

import pytest

from llmstages.collect.quality.language import identify_language


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("오늘은 날씨가 아주 좋습니다. 산책을 갑시다.", "ko"),
        ("The weather is fine today,\nlet us go for a walk.", "en"),
        ("Il fait très beau aujourd'hui, allons nous promener.", "fr"),
        ("Времето днес е много хубаво, хайде да се разходим.", "bg"),
    ],
)
def test_language(text: str, code: str) -> None:
    found, confidence = identify_language(text)
    assert found == code
    assert 0.65 < confidence <= 1.0


def test_the_middle_of_a_long_text_decides() -> None:
    korean = "오늘은 날씨가 아주 좋습니다. " * 200
    assert identify_language("English at the start. " * 20 + korean)[0] == "ko"


@pytest.mark.parametrize("text", ["", " \n ", "12345 --- 67"])
def test_without_letters_it_is_undetermined(text: str) -> None:
    assert identify_language(text) == ("und", 0.0)
