"""The curves of a run as pictures: `report/loss.png` and `report/optimizer.png`.

They are drawn from `metrics.jsonl` alone, so they can be drawn again at any time. matplotlib is
imported only here, and only when something is drawn: it takes a third of a second.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llmstages.report.metrics import Curve, Curves, read_entries
from llmstages.report.plain import visible
from llmstages.report.smoothing import Values, smoothed, thinned

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOSS_FILE = "loss.png"
OPTIMIZER_FILE = "optimizer.png"
MAX_POINTS = 2000
"""Points of a line in a picture: about two for each of its pixels across."""
FEW_POINTS = 50
"""Curves of so few points show each of them."""
PIXELS_PER_INCH = 110
CHANCE = "_chance"
"""Ends the name of what a figure comes to by chance."""
LABELS = {
    "val_acc": "questions answered right",
    "val_bits_per_byte": "validation, bits a byte",
    "val_accuracy": "validation accuracy",
    "val_macro_f1": "validation macro F1",
    "val_loss": "validation loss, nats a target",
}


def draw_curves(run_dir: Path, title: str) -> list[Path]:
    """Draw the pictures of a run directory into its `report/`; returns the files written.

    Nothing is written of a run without a step.
    """
    curves = Curves.of(read_entries(run_dir / "metrics.jsonl"))
    if "loss" not in curves.training:
        return []
    return save_figures(
        run_dir / "report",
        {
            LOSS_FILE: lambda: loss_figure(curves, title),
            OPTIMIZER_FILE: lambda: optimizer_figure(curves, title),
        },
    )


def save_figures(directory: Path, draw: Mapping[str, Callable[[], "Figure"]]) -> list[Path]:
    """Draw each figure into the file of its name, whole; returns the files."""
    directory.mkdir(exist_ok=True)
    paths = []
    with warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes: no matter for the user.
        warnings.simplefilter("ignore")
        for name, figure in draw.items():
            picture = BytesIO()
            figure().savefig(picture, format="png", dpi=PIXELS_PER_INCH)
            temporary = directory / f"{name}.tmp"
            temporary.write_bytes(picture.getvalue())
            paths.append(temporary.replace(directory / name))
    return paths


def loss_figure(curves: Curves, title: str) -> "Figure":
    """Losses against tokens and against time; below them whatever else evaluations measured."""
    panels = validation_panels(curves.validation)
    rows = 1 + -(-len(panels) // 2)
    figure, grid = _figure(title, rows, 2)
    time, unit = _time_axis(curves.training.get("seconds"))
    axes_of_x = ((curves.training.get("tokens"), "tokens"), (time, unit))
    for axes, (x, label) in zip(grid[:2], axes_of_x, strict=True):
        _draw_loss(axes, curves, x, label)
    tokens = curves.training.get("tokens")
    for axes, (name, lines) in zip(grid[2:], panels.items(), strict=False):
        for legend, curve in lines.items():
            places = positions(tokens, curve.steps)
            (line,) = axes.plot(places, curve.values, ".-", label=_shown(legend))
            chance = curves.validation.get(f"{name}{CHANCE}/{legend}")
            if chance is not None:
                color, by_chance = line.get_color(), f"{_shown(legend)} by chance"
                axes.plot(places, chance.at(curve.steps), ":", color=color, label=by_chance)
        _label_x(axes, tokens, "tokens")
        axes.set_ylabel(LABELS.get(name, name.replace("val_", "validation ").replace("_", " ")))
        if len(axes.lines) > 1:
            _legend(axes)
    for axes in grid[2 + len(panels) :]:
        axes.set_visible(False)
    return figure


def optimizer_figure(curves: Curves, title: str) -> "Figure":
    """Learning rate, gradient norm and speed against steps."""
    figure, grid = _figure(title, 3, 1)
    names = (("lr", "learning rate"), ("grad_norm", "gradient norm"))
    for axes, (name, label) in zip(grid, (*names, ("tokens_per_second", "tokens/s")), strict=True):
        curve = curves.training.get(name)
        if curve is not None:
            _draw_noisy(axes, curve.steps, curve.values, label, smooth=name != "lr")
            if name == "grad_norm" and (curve.values > 0).any():
                axes.set_yscale("log")  # single steps may be a hundred times the others
            elif name == "tokens_per_second":
                _large_numbers(axes, "y")
                axes.set_ylim(bottom=0)
        axes.set_ylabel(label)
        axes.set_xlabel("optimizer steps")
        _large_numbers(axes, "x")
    return figure


def loss_range(curves: Curves) -> tuple[float, float]:
    """Lowest and highest loss that is shown, of a run with a step.

    The first steps fall in from above: shown whole they would press all else flat.
    """
    losses = curves.training["loss"].values
    seen = smoothed(losses)[len(losses) // 50 :]
    if (validation := curves.validation.get("val_loss")) is not None:
        seen = np.concatenate([seen, validation.values])
    low, high = float(min(losses.min(), seen.min())), float(seen.max())
    room = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    return low - room, high + 2 * room


def validation_panels(validation: Mapping[str, Curve]) -> dict[str, dict[str, Curve]]:
    """Curves by panel and by legend: `name/<source>` stands with `name`, which is that of all.

    The validation loss stands beside the training loss, so it has a panel only for its sources;
    what chance comes to is drawn with what it is the chance of.
    """
    panels: dict[str, dict[str, Curve]] = {}
    for full_name in sorted(validation):
        name, _, source = full_name.partition("/")
        if name.endswith(CHANCE):
            continue
        panels.setdefault(name, {})[source or "all"] = validation[full_name]
    if panels.get("val_loss", {}).keys() == {"all"}:
        del panels["val_loss"]
    return panels


def _figure(title: str, rows: int, columns: int) -> "tuple[Figure, list[Axes]]":
    """A figure of curves and its axes, row by row."""
    size = (11, 0.8 + 3.4 * rows) if columns > 1 else (11, 0.8 + 2.4 * rows)
    return new_figure(title, size, rows, columns)


def new_figure(
    title: str,
    size_inches: tuple[float, float],
    rows: int = 1,
    columns: int = 1,
    height_ratios: Sequence[float] | None = None,
) -> "tuple[Figure, list[Axes]]":
    """A figure and its axes, row by row."""
    # Without pyplot: it keeps every figure, and may look for a window to show it in.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size_inches, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(visible(title), parse_math=False)
    grid: list[Axes] = list(
        figure.subplots(rows, columns, squeeze=False, height_ratios=height_ratios).flat
    )
    for axes in grid:
        axes.grid(alpha=0.25)
    return figure, grid


def _draw_loss(axes: "Axes", curves: Curves, x: Curve | None, x_label: str) -> None:
    loss = curves.training["loss"]
    _draw_noisy(axes, positions(x, loss.steps), loss.values, "training", smooth=True)
    validation = curves.validation.get("val_loss")
    if validation is not None:
        places = positions(x, validation.steps)
        axes.plot(places, validation.values, "o-", color="C1", markersize=4, label="validation")
    axes.set_ylim(*loss_range(curves))
    axes.set_ylabel("loss, nats a target")
    _label_x(axes, x, x_label)
    _legend(axes)


def _draw_noisy(axes: "Axes", x: Values, y: Values, label: str, *, smooth: bool) -> None:
    """The values faintly with their running mean over them; alone when they are few."""
    style = ".-" if len(y) <= FEW_POINTS else "-"
    if smooth and len(y) > FEW_POINTS:
        axes.plot(*thinned(x, y, MAX_POINTS), color="C0", alpha=0.25, linewidth=0.8)
        y = smoothed(y)
    axes.plot(*thinned(x, y, MAX_POINTS), style, color="C0", label=label)


def positions(x: Curve | None, steps: Values) -> Values:
    """Where steps lie on an axis; at the steps themselves where it was not recorded."""
    return steps if x is None else x.at(steps)


def _label_x(axes: "Axes", x: Curve | None, label: str) -> None:
    axes.set_xlabel("optimizer steps" if x is None else label)
    _large_numbers(axes, "x")


def _large_numbers(axes: "Axes", which: str) -> None:
    """Numbers on an axis as 20k and 1.5M."""
    from matplotlib.ticker import EngFormatter

    (axes.xaxis if which == "x" else axes.yaxis).set_major_formatter(EngFormatter(sep=""))


def _shown(name: str) -> str:
    """A source's name as a legend shows it; those that begin with _ matplotlib leaves out."""
    return f" {visible(name)}" if name.startswith("_") else visible(name)


def _legend(axes: "Axes") -> None:
    handles, names = axes.get_legend_handles_labels()
    legend = axes.legend(handles, names, fontsize="small", ncols=1 + len(names) // 9)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a $ in a source's name is no formula


def _time_axis(seconds: Curve | None) -> tuple[Curve | None, str]:
    """Time since the start in a unit that gives short numbers."""
    if seconds is None:
        return None, ""
    last = seconds.values[-1]
    unit, size = ("hours", 3600) if last > 7200 else ("minutes", 60) if last > 600 else ("s", 1)
    return Curve(seconds.steps, seconds.values / size), f"time since the start, {unit}"
