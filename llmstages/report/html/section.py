"""What is shown of one corpus or run."""

from collections.abc import Sequence
from dataclasses import dataclass

from llmstages.report.answers import AnsweredQuestion
from llmstages.report.html.charts import Chart, Table
from llmstages.report.html.records import Mistake


@dataclass(frozen=True)
class Section:
    """What is shown of one corpus or run."""

    anchor: str
    name: str
    line: str
    """What it came to."""
    facts: list[tuple[str, str]]
    charts: Sequence[Chart]
    tables: Sequence[Table] = ()
    answers: Sequence[AnsweredQuestion] = ()
    mistakes: Sequence[Mistake] = ()
    is_open: bool = True
