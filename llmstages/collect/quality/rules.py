"""Document quality: what is measured of a text, and the rules that read the measures.

Measuring and judging are two steps. `statistics.measure` takes everything any rule needs and the
measures stay on disk beside the text; `verdicts` needs the measures alone, so that other thresholds
cost no new reading. A rule is named like its setting, and its measure is the name without `min_` or
`max_`. Measures are those of Gopher (Rae et al. 2021, section A1.1 and table A1), C4 (Raffel et al.
2020) and FineWeb (Penedo et al. 2024), and the share of characters that show broken decoding.
"""

from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from llmstages.collect.quality.statistics import STATISTICS
from llmstages.config.collect_groups import LanguageConfig, QualityConfig

VERDICT_SCHEMA = pa.schema(
    [("rule", pa.string()), ("value", pa.float64()), ("threshold", pa.float64())]
)


@dataclass(frozen=True)
class Rule:
    """A measure and the bound a document must keep."""

    name: str
    measure: str
    bound: Literal["least", "most"]
    threshold: float


def rules(config: QualityConfig) -> list[Rule]:
    """The rules that are on, in the order of the settings."""
    found = []
    for setting in fields(config):
        threshold = getattr(config, setting.name)
        measure_name = setting.name[len("min_") :]
        if threshold is None or measure_name not in STATISTICS:
            continue  # off, or about lines
        bound: Literal["least", "most"] = "least" if setting.name.startswith("min_") else "most"
        found.append(Rule(setting.name, measure_name, bound, float(threshold)))
    return found


def verdicts(table: pa.Table, config: QualityConfig, language: LanguageConfig) -> pa.Table:
    """The first rule each row breaks: columns `rule` (null: none), `value` and `threshold`.

    `table` has the columns of `measure`, and `language` and `language_confidence` where the
    language was identified. A document without a word is `empty`; the rules of the language come
    next. A missing value breaks no threshold.
    """
    first = _First(table.num_rows)
    words = _values(table, "words")
    first.note(words < 1, "empty", np.zeros(table.num_rows), 1.0)
    if language.keep:
        foreign = ~pc.is_in(table["language"], pa.array(language.keep)).to_numpy()
        first.note(foreign, "language.keep", None, None)
    if language.min_confidence is not None:
        confidence = _values(table, "language_confidence")
        unsure = confidence < language.min_confidence
        first.note(unsure, "language.min_confidence", confidence, language.min_confidence)
    for rule in rules(config):
        value = _values(table, rule.measure)
        broken = value < rule.threshold if rule.bound == "least" else value > rule.threshold
        first.note(broken, rule.name, value, rule.threshold)
    return first.table()


class _First:
    """The first rule noted for each row."""

    def __init__(self, num_rows: int) -> None:
        self.names: list[str] = []
        self.rule = np.full(num_rows, -1)
        self.value = np.full(num_rows, np.nan)
        self.threshold = np.full(num_rows, np.nan)

    def note(
        self,
        broken: NDArray[np.bool_],
        name: str,
        value: NDArray[np.float64] | None,
        threshold: float | None,
    ) -> None:
        now = np.flatnonzero(broken & (self.rule < 0))
        self.rule[now] = len(self.names)
        self.names.append(name)
        if value is not None and threshold is not None:
            self.value[now] = value[now]
            self.threshold[now] = threshold

    def table(self) -> pa.Table:
        rule = pa.array(self.rule, mask=self.rule < 0)
        return pa.table(
            [
                pc.take(pa.array(self.names, pa.string()), rule),
                pa.array(self.value, mask=np.isnan(self.value)),
                pa.array(self.threshold, mask=np.isnan(self.threshold)),
            ],
            schema=VERDICT_SCHEMA,
        )


def _values(table: pa.Table, name: str) -> NDArray[np.float64]:
    """A column as numbers; missing ones are NaN, which breaks no threshold."""
    values: NDArray[np.float64] = table[name].cast(pa.float64()).to_numpy()
    return values
