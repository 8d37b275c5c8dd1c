"""A classification report as pictures: `report/confusion.png` and `report/reliability.png`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llmstages.evaluate.classification import ClassificationReport
from llmstages.report.curves import new_figure, save_figures
from llmstages.report.plain import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONFUSION_FILE = "confusion.png"
RELIABILITY_FILE = "reliability.png"
MAX_NUMBERED_LABELS = 20
"""With more labels the cells are colours alone."""
MAX_NAMED_LABELS = 200
"""With more labels every second one is named, or every third."""
MAX_LABEL_CHARACTERS = 30
INCHES_PER_LABEL = 0.16
"""Of many labels: room for a name of 6 points."""


def draw_classification(
    run_dir: Path,
    title: str,
    report: ClassificationReport,
    uncalibrated: ClassificationReport | None = None,
) -> list[Path]:
    """Draw the pictures into the run's `report/`; returns the files written.

    uncalibrated: the report before a temperature, drawn beside.
    """
    draw: dict[str, Callable[[], Figure]] = {
        CONFUSION_FILE: lambda: confusion_figure(report, title),
        RELIABILITY_FILE: lambda: reliability_figure(report, title, uncalibrated),
    }
    return save_figures(run_dir / "report", draw)


def confusion_figure(report: ClassificationReport, title: str) -> "Figure":
    """Of each true label, a row, the shares that were given each label."""
    from matplotlib.colors import PowerNorm

    counts = np.array(report.confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    number = len(counts)
    side = max(6.0, 3.0 + INCHES_PER_LABEL * min(number, MAX_NAMED_LABELS))
    figure, (axes,) = new_figure(title, (side + 1, side))
    axes.grid(visible=False)
    # By the root: a mistake of 1 % is to be seen beside what is right.
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1), aspect="auto")
    figure.colorbar(image, label="share of the true label", shrink=0.6)
    every = -(-number // MAX_NAMED_LABELS)
    places = range(0, number, every)
    names = [shortened(report.labels[place]) for place in places]
    size = 9 if number <= MAX_NUMBERED_LABELS else 6
    axes.set_xticks(places, names, rotation=90, fontsize=size, parse_math=False)
    axes.set_yticks(places, names, fontsize=size, parse_math=False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true label")
    if number <= MAX_NUMBERED_LABELS:
        for (true, given), count in np.ndenumerate(counts):
            if count:
                color = "white" if shares[true, given] > 0.4 else "black"
                axes.text(given, true, f"{count:,}", ha="center", va="center", color=color)
    return figure


def reliability_figure(
    report: ClassificationReport, title: str, uncalibrated: ClassificationReport | None = None
) -> "Figure":
    """How often predictions are right against how sure they are, and how many are so sure."""
    figure, (axes, below) = new_figure(title, (6, 7), rows=2, height_ratios=(3, 1))
    axes.plot([0, 1], [0, 1], "--", color="grey", label="calibrated")
    shown = [(report, "C0", "the classifier")]
    if uncalibrated is not None:
        shown.insert(0, (uncalibrated, "C1", "before the temperature"))
    for found, color, name in shown:
        points = [(bin.confidence, bin.accuracy) for bin in found.reliability]
        label = f"{name}: error {found.figures['ece']:.3f}"
        axes.plot(*zip(*points, strict=True), "o-", color=color, label=label)
    for bin in report.reliability:
        width = bin.up_to - bin.above
        below.bar(bin.above, bin.num_examples, width, align="edge", edgecolor="white", color="C0")
    axes.set_ylabel("share that is right")
    axes.legend(fontsize="small")
    below.set_xlabel("probability of the prediction")
    below.set_ylabel("examples")
    for each in (axes, below):
        each.set_xlim(0, 1)
    return figure


def shortened(label: str) -> str:
    """A label as an axis has room for it."""
    text = visible(label)
    if len(text) <= MAX_LABEL_CHARACTERS:
        return text
    return text[: MAX_LABEL_CHARACTERS - 1] + "…"
