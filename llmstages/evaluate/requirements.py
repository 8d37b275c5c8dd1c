"""What a figure must reach, as `macro_f1>=0.95` or `log_loss<=0.2`."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from llmstages.errors import UserError


@dataclass(frozen=True)
class Requirement:
    """A bound of one figure."""

    figure: str
    at_least: bool
    """Whether the bound is the least or the most that will do."""
    bound: float

    def failure(self, figures: Mapping[str, float]) -> str | None:
        """What is wrong with the figures, or None; one without a value does not do."""
        sign = ">=" if self.at_least else "<="
        wanted = f"{self.figure}{sign}{self.bound:g} is required"
        value = figures.get(self.figure)
        if value is None:
            if "auc" in self.figure:
                why = "where a label has no row"
            elif self.figure == "mean_average_precision":
                why = "where each label is that of every row or of none"
            elif "coverage" in figures:
                why = "where every text is out of scope"
            else:
                why = "without an out-of-scope rule"
            return f"{self.figure} has no value {why} ({wanted})"
        if value >= self.bound if self.at_least else value <= self.bound:
            return None
        return f"{self.figure} is {value:.6g} ({wanted})"


def read_requirement(text: str, known: Collection[str]) -> Requirement:
    """Read `FIGURE>=NUMBER` or `FIGURE<=NUMBER`.

    Raises:
        UserError: it is written otherwise, or the figure is not among the known ones.
    """
    sign = "<=" if "<=" in text else ">="
    figure, _, number = (part.strip() for part in text.partition(sign))
    try:
        bound = float(number)
    except ValueError:
        bound = math.nan
    if math.isnan(bound):
        raise UserError(f"require={text}: write a figure, >= or <=, and a number: macro_f1>=0.95")
    if figure not in known:
        near = get_close_matches(figure, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(known)}"
        raise UserError(f"require={text}: there is no figure {figure}: {hint}")
    return Requirement(figure, sign == ">=", bound)
