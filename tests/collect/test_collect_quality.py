"""Every measure and every rule, on texts made by hand."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml

from llmstages.collect.cleaning.lines import clean_lines
from llmstages.collect.quality.rules import STATISTICS, rules, verdicts
from llmstages.collect.quality.statistics import (
    COLUMNS,
    COUNTS,
    OF_WHAT_IS_LEFT,
    measure,
    measure_both,
)
from llmstages.config.collect_groups import LanguageConfig, QualityConfig
from llmstages.config.folders import conf_dir


def table(texts: list[str], broken: list[int] | None = None) -> pa.Table:
    """The measures of some texts."""
    return pa.table(measure(texts, np.array(broken or [0] * len(texts), dtype=np.float64)))


def judged(texts: list[str], config: QualityConfig) -> list[tuple[str | None, float | None]]:
    """The first rule that each text, its lines cleaned, breaks, and the value measured."""
    cleaned = [clean_lines(text, config) for text in texts]
    result = verdicts(table(cleaned), config, LanguageConfig())
    return list(zip(result["rule"].to_pylist(), result["value"].to_pylist(), strict=True))


PROSE = """The old mill stands where two small rivers meet, a mile below the village.
For most of a century it ground the corn of every farm in the valley. Then steam came, and the
wheel stopped turning one wet morning in April. Nobody thought to take down the building, so it
slowly filled with owls, ivy and rain. Children were told that they should never play there.
Naturally they all did, and some have carved their names above the door with pocket knives. Last
year a young couple bought the place, and the water is driving something again: a little turbine.
"""
FIVE = "one two three four five "
RULES: list[tuple[str, float, str, str, float]] = [
    ("min_words", 3, "one two three.", "one, two", 2),
    ("max_words", 2, "one, two", "one two three", 3),
    ("min_sentences", 2, "One. Two", "One... two", 1),
    ("min_sentences", 4, "One! (Two?) Three\nFour", "Mr. A.\n\nHe said “No.”", 2),
    ("min_mean_word_length", 2.0, "abc de", "a, bb. cd !", 5 / 3),
    ("max_mean_word_length", 4.0, "four char", "fives fives", 5),
    ("max_mean_word_length", 3.0, "漢字 한국어", "漢字漢字", 4),
    ("max_symbol_word_ratio", 0.5, "# a", "##", 1),
    ("max_symbol_word_ratio", 0.5, "a b… c", "…...", 1),
    ("max_bullet_lines_share", 0.5, "- a\nb\n", "- a\n\n  • b\nc", 2 / 3),
    ("max_ellipsis_lines_share", 0.5, "a...\nb", "a...  \nb…\nc", 2 / 3),
    ("min_alphabetic_words_share", 0.5, "글 1", "a 1 2 --", 0.25),
    ("min_stop_words", 2, "the end of it", "the the The thesis", 1),
    ("max_lorem_ipsum", 0, "Lorem epsom", "A Lorem Ipsum", 1),
    ("max_curly_brackets", 0, "a}", "{a}", 1),
    ("max_duplicate_lines_share", 0.3, "a\nb\nc", "a\na  \n\nb", 1 / 3),
    ("max_duplicate_lines_characters_share", 0.3, "aaa\naa\na", "aaa\naaa", 3 / 7),
    ("max_duplicate_paragraphs_share", 0.3, "a\na\n\nb", "a\n\na\n\n\nb", 1 / 3),
    ("max_duplicate_paragraphs_characters_share", 0.1, "aa\n\nb", "aa\n\naa\n\nb", 2 / 9),
    ("max_top_2gram_share", 0.5, "a b c d e f", "ab ab ab", 10 / 8),
    ("max_top_3gram_share", 0.5, "a b c d e f", "a b c a b c", 10 / 11),
    ("max_top_4gram_share", 0.5, "a b c d e f g h i", "a b c d a b c d", 14 / 15),
    ("max_duplicate_5gram_share", 0.1, FIVE, FIVE * 2, 19 / 48),
    ("max_duplicate_6gram_share", 0.1, FIVE * 2, FIVE * 3, 22 / 72),
    ("max_duplicate_7gram_share", 0.1, FIVE * 2, FIVE * 3, 25 / 72),
    ("max_duplicate_8gram_share", 0.1, FIVE * 2, FIVE * 3, 30 / 72),
    ("max_duplicate_9gram_share", 0.1, FIVE * 2, FIVE * 3, 34 / 72),
    ("max_duplicate_10gram_share", 0.1, FIVE * 2, FIVE * 3, 38 / 72),
    ("min_punctuated_lines_share", 0.5, "a.\n\nb", "a:\nb。\nc", 1 / 3),
    ("max_short_lines_share", 0.5, "a\n" + "b" * 31, "a\n" + "b" * 30, 1),
    ("max_repeated_lines_characters_share", 0.1, "a\nb", "ab\nab\nc", 2 / 5),
    ("max_newlines_per_word", 0.5, "a b\nc.", "a\nb\n\nc", 1),
]


@pytest.mark.parametrize(("rule", "threshold", "kept", "dropped", "value"), RULES)
def test_rule(rule: str, threshold: float, kept: str, dropped: str, value: float) -> None:
    first, second = judged([kept, dropped], QualityConfig(**{rule: threshold}))
    assert first == (None, None)
    assert second == (rule, pytest.approx(value))


def test_every_rule_is_tested_and_measured() -> None:
    on = [rule.name for rule in rules(QualityConfig(**{name: 1 for name, *_ in RULES}))]
    settings = {f"{bound}_{name}" for name in STATISTICS for bound in ("min", "max")}
    assert {*on, "max_replacement_share"} == settings & set(QualityConfig.__dataclass_fields__)
    assert {rule[4:] for rule in [*on, "max_replacement_share"]} == set(STATISTICS)


def test_broken_characters_are_counted_by_the_caller() -> None:
    config = QualityConfig(max_replacement_share=0.1)
    result = verdicts(table(["a" * 20, "abc\ufffd"], [2, 2]), config, LanguageConfig())
    assert result.to_pylist() == [
        {"rule": None, "value": None, "threshold": None},
        {"rule": "max_replacement_share", "value": 0.5, "threshold": 0.1},
    ]


def test_the_first_broken_rule_is_named_and_empty_text_always_goes() -> None:
    config = QualityConfig(min_words=5, min_stop_words=2)
    assert judged(["  \n", "two words"], config) == [("empty", 0.0), ("min_words", 2.0)]
    assert judged(["x", ""], QualityConfig()) == [(None, None), ("empty", 0.0)]


def test_rules_of_the_language() -> None:
    texts = table(["one", "zwei", "x", "?"])
    texts = texts.append_column("language", pa.array(["en", "de", "en", None]))
    texts = texts.append_column("language_confidence", pa.array([0.9, 0.9, 0.5, None]))
    keep = LanguageConfig(identify=True, keep=["en"], min_confidence=0.65)
    assert verdicts(texts, QualityConfig(min_words=2), keep).to_pylist() == [
        {"rule": "min_words", "value": 1.0, "threshold": 2.0},
        {"rule": "language.keep", "value": None, "threshold": None},
        {"rule": "language.min_confidence", "value": 0.5, "threshold": 0.65},
        {"rule": "language.keep", "value": None, "threshold": None},
    ]


def test_columns_and_their_types() -> None:
    measured = measure(["a b é", "", "c"], np.array([1.0, 0.0, 0.0]))
    assert tuple(measured) == COLUMNS
    assert measured["words"].tolist() == [3, 0, 1]
    assert measured["bytes"].tolist() == [6, 0, 1]
    assert measured["replacement_share"].tolist() == [0.2, 0.0, 0.0]
    for name, values in measured.items():
        assert values.dtype == (np.int64 if name in COUNTS else np.float64)


def test_gophers_measures_are_taken_before_lines_are_taken_out() -> None:
    whole = ["- one\n- two\nA line of some words, and its end.", "Nothing is taken out here."]
    cleaned = ["A line of some words, and its end.", whole[1]]
    both = measure_both(whole, cleaned, np.zeros(2))
    before, after = measure(whole, np.zeros(2)), measure(cleaned, np.zeros(2))
    for name in COLUMNS:
        expected = after if name in OF_WHAT_IS_LEFT else before
        assert both[name].tolist() == expected[name].tolist()
    assert both["bullet_lines_share"][0] == pytest.approx(2 / 3)
    assert both["words"][0] == 8


def test_a_batch_is_measured_like_each_text_alone() -> None:
    texts = [text for _, _, kept, dropped, _ in RULES for text in (kept, dropped)]
    together = table(texts).to_pylist()
    assert together == [row for text in texts for row in table([text]).to_pylist()]


PRESETS = sorted(Path(conf_dir() / "quality").glob("*.yaml"))


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_shipped_presets(path: Path) -> None:
    config = QualityConfig(**yaml.safe_load(path.read_text(encoding="utf-8")))
    assert config.name == path.stem
    assert judged([PROSE], config) == [(None, None)]
    menu = "Home\n* About\n* Home\n" * 30
    assert (judged([menu], config)[0][0] is None) == (path.stem == "off")


def test_short_docstrings_and_korean_pass_the_default_rules() -> None:
    text = (conf_dir() / "quality" / "default.yaml").read_text(encoding="utf-8")
    texts = ["Return x.", "안녕하세요", "你好世界。", "def f(x):\n    return x + 1", "O"]
    assert judged(texts, QualityConfig(**yaml.safe_load(text))) == [(None, None)] * len(texts)
