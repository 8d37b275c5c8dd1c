"""Lines that C4's rules take out."""

import pytest

from llmstages.collect.cleaning.lines import clean_lines, cleans_lines
from llmstages.config.collect_groups import QualityConfig


@pytest.mark.parametrize(
    ("setting", "text", "cleaned"),
    [
        ({"min_words_per_line": 2}, "Menu\n\nTwo words \n  and more\n", "Two words\nand more"),
        ({"max_line_word_length": 4}, "four\nfives\na b c d e", "four\na b c d e"),
        (
            {"drop_lines_without_terminal_punctuation": True},
            "Yes.\nNo\nReally?\nOh!\n“So.”\n'It'\nand...\n",
            "Yes.\nReally?\nOh!\n“So.”\n'It'",
        ),
        ({"drop_javascript_lines": True}, "Turn on JavaScript\nText", "Text"),
        ({"drop_policy_lines": True}, "Our Privacy Policy\nWe use cookies\nText", "Text"),
        ({"remove_citations": True}, "Fact.[12] More[citation needed][edit][a]", "Fact. More[a]"),
    ],
)
def test_setting(setting: dict[str, object], text: str, cleaned: str) -> None:
    config = QualityConfig(**setting)  # type: ignore[arg-type]
    assert cleans_lines(config)
    assert clean_lines(text, config) == cleaned
    assert clean_lines(cleaned, config) == cleaned


def test_nothing_on_changes_nothing() -> None:
    config = QualityConfig(min_words=5, max_curly_brackets=0)
    assert not cleans_lines(config)
    assert clean_lines(" a \n\n", config) == " a \n\n"


def test_blank_lines_stay_where_lines_need_no_words() -> None:
    assert clean_lines("a [1]\n\nb", QualityConfig(remove_citations=True)) == "a \n\nb"
