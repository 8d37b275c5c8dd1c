"""Document quality rules as Daft expressions: each measures a column `text` and has one threshold.

The measures are those of the Gopher rules (Rae et al. 2021, section A1.1), and the share of
characters that show broken decoding. A rule whose setting is null is not measured.
"""

from dataclasses import dataclass
from typing import Literal

from daft import DataType, Expression, col, lit
from daft.functions import when

from llmstages.config.groups import QualityConfig

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
BULLETS = "-*•‣▪●◦·"


@dataclass(frozen=True)
class Rule:
    """A measure and the bound a document must keep."""

    name: str
    value: Expression
    bound: Literal["least", "most"]
    threshold: float

    @property
    def broken(self) -> Expression:
        """True for documents the rule drops."""
        if self.bound == "least":
            return self.value < lit(self.threshold)
        return self.value > lit(self.threshold)


def quality_rules(config: QualityConfig) -> list[Rule]:
    """The rules that are on, cheapest first; `words` and `broken_characters` are columns too."""
    text, words = col("text"), col("words")
    lines = text.regexp_count(r"(?m)^[ \t]*\S")
    letters = text.length() - text.regexp_count(r"\s")
    stop_words = lit(0)
    for word in STOP_WORDS:
        stop_words = stop_words + text.regexp(rf"(?i)\b{word}\b").cast(DataType.int64())
    different_lines = text.regexp_extract_all(r"(?m)^[ \t]*(\S(?:.*\S)?)[ \t]*$", 1).list_distinct()

    candidates: list[tuple[str, Expression, Literal["least", "most"], float | None]] = [
        ("min_words", words, "least", config.min_words),
        ("max_words", words, "most", config.max_words),
        (
            "max_replacement_share",
            _share(col("broken_characters"), text.length()),
            "most",
            config.max_replacement_share,
        ),
        ("min_mean_word_length", _share(letters, words), "least", config.min_mean_word_length),
        ("max_mean_word_length", _share(letters, words), "most", config.max_mean_word_length),
        (
            "max_symbol_word_ratio",
            _greater(
                _share(text.regexp_count("#"), words),
                _share(text.regexp_count(r"\.\.\.|…"), words),
            ),
            "most",
            config.max_symbol_word_ratio,
        ),
        (
            "max_bullet_lines_share",
            _share(text.regexp_count(rf"(?m)^[ \t]*[{BULLETS}]"), lines),
            "most",
            config.max_bullet_lines_share,
        ),
        (
            "max_ellipsis_lines_share",
            _share(text.regexp_count(r"(?m)(?:\.\.\.|…)[ \t]*$"), lines),
            "most",
            config.max_ellipsis_lines_share,
        ),
        (
            "min_alphabetic_words_share",
            _share(text.regexp_count(r"[^\s\p{L}]*\p{L}\S*"), words),
            "least",
            config.min_alphabetic_words_share,
        ),
        ("min_stop_words", stop_words, "least", config.min_stop_words),
        (
            "max_duplicate_lines_share",
            lit(1.0) - _share(different_lines.length(), lines),
            "most",
            config.max_duplicate_lines_share,
        ),
    ]
    return [
        Rule(name, value.cast(DataType.float64()), bound, float(threshold))
        for name, value, bound, threshold in candidates
        if threshold is not None
    ]


def _share(part: Expression, whole: Expression) -> Expression:
    """`part / whole`; 0 where there is nothing to measure."""
    return when(whole > lit(0), part.cast(DataType.float64()) / whole).otherwise(lit(0.0))


def _greater(a: Expression, b: Expression) -> Expression:
    return when(a > b, a).otherwise(b)
