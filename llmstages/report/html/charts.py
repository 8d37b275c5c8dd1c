"""Charts as geometry: where what is drawn in a page's SVG, in pixels of its view box.

Nothing here is markup; `page.html` draws it. Each chart has a title, a sentence on what it shows,
and its numbers as a table.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from llmstages.report.smoothing import Values

WIDTH = 360.0
"""Of most charts: a phone's width, so that letters are never drawn smaller than they are."""
HEIGHT = 210.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 78.0, 10.0, 32.0
"""Margins of curves: numbers at the left, names of lines at the right."""
NAME_GAP = 12.0
"""Between names of lines."""
TABLE_ROWS = 24
"""Of a long curve that its table has."""
BAR_HEIGHT, BAR_STEP = 12.0, 19.0
BAR_LEFT, BAR_RIGHT = 130.0, 62.0
"""Room for names and numbers beside bars."""
FONT = 11.0
"""Height of letters in pixels."""
MAX_CELL_WIDTH = 34.0
MIN_NUMBERED_CELL = 26.0
"""Room for a number such as 1.234k."""
MAX_MATRIX_WIDTH = 900.0
MIN_NAME_STEP = 9.0
"""Pixels between names beside a matrix."""
MAX_MATRIX_LABELS = 300
MAX_NUMBERED_LABELS = 12
BAR_NAME_CHARACTERS = 17
MATRIX_NAME_CHARACTERS = 20
LINE_NAME_CHARACTERS = 11

Cell = str | float | int | None


@dataclass(frozen=True)
class Table:
    """Rows under named columns."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    title: str = ""

    def without_empty(self) -> "Table":
        """Without the columns that hold nothing."""
        kept = [
            index
            for index in range(len(self.columns))
            if any(row[index] not in (None, "") for row in self.rows)
        ]
        rows = [[row[index] for index in kept] for row in self.rows]
        return Table([self.columns[index] for index in kept], rows, self.title)


@dataclass(frozen=True)
class Tick:
    """A number on an axis."""

    place: float
    text: str


@dataclass(frozen=True)
class Line:
    """A line of a chart."""

    name: str
    x: Values
    y: Values
    look: str
    """`first`, `second`, `other`, or `faint` for a band behind that has no name."""
    sizes: Sequence[float] = ()
    """Radii of its points in pixels; none: only the line is drawn."""


@dataclass(frozen=True)
class DrawnLine:
    """A line in pixels."""

    name: str
    look: str
    points: list[tuple[float, float]]
    radii: Sequence[float]
    values: list[list[float]]
    """(x, y) of each point, to be shown where the pointer is."""
    name_y: float | None
    """Where its name stands, at the right."""


@dataclass(frozen=True)
class LineChart:
    """Curves."""

    title: str
    description: str
    x_label: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[DrawnLine]
    table: Table
    diagonal: bool = False
    kind: str = "lines"
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = WIDTH - RIGHT
    top: float = TOP
    bottom: float = HEIGHT - BOTTOM


@dataclass(frozen=True)
class Part:
    """A piece of a bar."""

    begin: float
    end: float
    look: str


@dataclass(frozen=True)
class Bar:
    """A bar with its name and what is known of it; parts in the units of the chart."""

    name: str
    parts: Sequence[Part]
    number: str
    tip: str
    mark: float | None = None
    """Something to compare with, drawn as a line across."""


@dataclass(frozen=True)
class DrawnBar:
    """A bar in pixels; `parts` are (x, width, look)."""

    name: str
    y: float
    parts: list[tuple[float, float, str]]
    number: str
    number_x: float
    tip: str
    mark: float | None


@dataclass(frozen=True)
class BarChart:
    """Horizontal bars."""

    title: str
    description: str
    bars: list[DrawnBar]
    height: float
    table: Table
    kind: str = "bars"
    width: float = WIDTH
    left: float = BAR_LEFT
    bar_height: float = BAR_HEIGHT


@dataclass(frozen=True)
class MatrixCell:
    """A cell of a matrix that is not empty."""

    x: float
    y: float
    opacity: float
    tip: str
    number: str


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix."""

    title: str
    description: str
    cells: list[MatrixCell]
    names: list[tuple[float, str]]
    """Middles of rows, which are those of columns, from the matrix's corner."""
    cell: float
    corner: float
    """Distance of the matrix from the left and from the top."""
    size: float
    letters: float
    """Height of the names."""
    table: Table
    kind: str = "matrix"

    @property
    def width(self) -> float:
        return self.corner + self.size + 1

    @property
    def height(self) -> float:
        return self.corner + self.size + 1


Chart = LineChart | BarChart | Matrix


def short_number(value: float) -> str:
    """`12k`, `1.5M`, `0.006`: four significant digits at most."""
    for size, mark in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{mark}"
    return f"{value:.4g}"


def ticks(low: float, high: float) -> list[float]:
    """Round numbers between two, about five."""
    from matplotlib.ticker import MaxNLocator

    found = MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    room = 1e-9 * (high - low)
    return [float(tick) for tick in found if low - room <= tick <= high + room]


def line_chart(
    title: str,
    description: str,
    lines: Sequence[Line],
    x_label: str,
    y_range: tuple[float, float] | None = None,
    x_range: tuple[float, float] | None = None,
    diagonal: bool = False,
) -> LineChart | None:
    """Curves over x; None where there is nothing to draw.

    y_range: what is outside is drawn at the edge, and that something lies above is said.
    diagonal: a line from corner to corner.
    """
    lines = [line for line in lines if len(line.x)]
    if not lines:
        return None
    seen_x = np.concatenate([line.x for line in lines])
    seen_y = np.concatenate([line.y for line in lines])
    x_low, x_high = x_range or _apart(float(seen_x.min()), float(seen_x.max()))
    y_low, y_high = y_range or _with_room(float(seen_y.min()), float(seen_y.max()))
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    if seen_y.max() > y_high:
        description += f" What lies above {short_number(y_high)} is drawn at the upper edge."

    def to_x(values: Values) -> Values:
        return _scaled(values, x_low, x_high, LEFT, right)

    def to_y(values: Values) -> Values:
        return _scaled(values, y_low, y_high, bottom, TOP)

    ends = {
        index: float(to_y(line.y[-1:])[0]) for index, line in enumerate(lines) if line.name != ""
    }
    names = dict(zip(ends, spread(list(ends.values()), TOP, bottom), strict=True))
    drawn = [
        DrawnLine(
            name=line.name,
            look=line.look,
            points=list(zip(to_x(line.x).tolist(), to_y(line.y).tolist(), strict=True)),
            radii=list(line.sizes),
            values=[[_rounded(x), _rounded(y)] for x, y in zip(line.x, line.y, strict=True)]
            if line.name
            else [],
            name_y=names.get(index),
        )
        for index, line in enumerate(lines)
    ]
    x_ticks = [Tick(float(to_x(np.array([t]))[0]), short_number(t)) for t in ticks(x_low, x_high)]
    y_ticks = [Tick(float(to_y(np.array([t]))[0]), short_number(t)) for t in ticks(y_low, y_high)]
    table = _numbers_of([line for line in lines if line.name], x_label)
    return LineChart(title, description, x_label, x_ticks, y_ticks, drawn, table, diagonal)


def spread(places: Sequence[float], low: float, high: float) -> list[float]:
    """The places, moved apart as far as names need; in the same order from top to bottom."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    gap = min(NAME_GAP, (high - low) / max(len(places) - 1, 1))
    moved: dict[int, float] = {}
    last = low - gap
    for index in order:
        last = moved[index] = max(places[index], last + gap)
    last = high + gap
    for index in reversed(order):
        last = moved[index] = min(moved[index], last - gap)
    return [round(moved[index], 1) for index in range(len(places))]


def _apart(low: float, high: float) -> tuple[float, float]:
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _with_room(low: float, high: float) -> tuple[float, float]:
    room = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    return low - room, high + room


def _scaled(values: Values, low: float, high: float, begin: float, end: float) -> Values:
    """Values from low to high as pixels from begin to end; those outside at the edge."""
    shares = (np.clip(values, low, high) - low) / (high - low)
    pixels: Values = np.round(begin + shares * (end - begin), 1)
    return pixels


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


def _numbers_of(lines: Sequence[Line], x_label: str) -> Table:
    """Numbers of the curves: all points of short ones, some of long ones."""
    by_x: dict[float, dict[str, float]] = {}
    for line in lines:
        count = len(line.x)
        rows = min(count, TABLE_ROWS)
        for index in sorted({round(i * (count - 1) / max(rows - 1, 1)) for i in range(rows)}):
            by_x.setdefault(float(line.x[index]), {})[line.name] = float(line.y[index])
    names = [line.name for line in lines]
    rows_of = [(_cell(x), *(by_x[x].get(name) for name in names)) for x in sorted(by_x)]
    return Table((x_label, *names), rows_of)


def _cell(x: float) -> Cell:
    return int(x) if x == int(x) else x


def bar_chart(
    title: str, description: str, bars: Sequence[Bar], table: Table, top: float | None = None
) -> BarChart | None:
    """Bars from 0 to `top` (by default the largest); None where there is none."""
    ends = [part.end for bar in bars for part in bar.parts] + [bar.mark or 0.0 for bar in bars]
    if not bars or (largest := top or max(ends, default=0.0)) <= 0:
        return None
    scale = (WIDTH - BAR_LEFT - BAR_RIGHT) / largest
    drawn = []
    for index, bar in enumerate(bars):
        parts = [
            # What is there is seen, however little.
            (BAR_LEFT + scale * part.begin, max(scale * (part.end - part.begin), 1.0), part.look)
            for part in bar.parts
            if part.end > part.begin
        ]
        mark = None if bar.mark is None else BAR_LEFT + scale * bar.mark
        end = max([BAR_LEFT, mark or 0.0, *(x + width for x, width, _ in parts)])
        drawn.append(
            DrawnBar(
                name=shortened(bar.name, BAR_NAME_CHARACTERS),
                y=round(index * BAR_STEP + 4, 1),
                parts=[(round(x, 1), round(width, 1), look) for x, width, look in parts],
                number=bar.number,
                number_x=round(end + 5, 1),
                tip=bar.tip,
                mark=None if mark is None else round(mark, 1),
            )
        )
    return BarChart(title, description, drawn, len(bars) * BAR_STEP + 6, table)


def confusion_matrix(
    title: str, description: str, labels: Sequence[str], confusion: Sequence[Sequence[int]]
) -> Matrix | None:
    """Of each true label, a row, the shares that were given each label; None for too many."""
    number = len(labels)
    if not 2 <= number <= MAX_MATRIX_LABELS:
        return None
    names = [shortened(label, MATRIX_NAME_CHARACTERS) for label in labels]
    numbered = number <= MAX_NUMBERED_LABELS
    letters = FONT if numbered else 8.0
    corner = round(10 + 0.66 * letters * max(len(name) for name in names), 1)
    room = (WIDTH if numbered else MAX_MATRIX_WIDTH) - corner
    least = MIN_NUMBERED_CELL if numbered else 1.0
    step = round(max(least, min(MAX_CELL_WIDTH, room / number)), 1)
    every = max(1, round(MIN_NAME_STEP / step + 0.49))
    cells = []
    for true, row in enumerate(confusion):
        total = sum(row)
        for given, count in enumerate(row):
            if count:
                share = count / total
                tip = f"{labels[true]} → {labels[given]}: {count:,} of {total:,} ({share:.1%})"
                text = short_number(count) if numbered else ""
                # By the root: a mistake of 1 % is to be seen beside what is right. Numbers are
                # read on no stronger colour than half.
                opacity = round(sqrt(share) * (0.55 if numbered else 1.0), 3)
                x, y = round(corner + given * step, 1), round(corner + true * step, 1)
                cells.append(MatrixCell(x, y, opacity, tip, text))
    return Matrix(
        title=title,
        description=description,
        cells=cells,
        names=[(round(i * step + step / 2, 1), names[i]) for i in range(0, number, every)],
        cell=step,
        corner=corner,
        size=round(step * number, 1),
        letters=letters,
        table=commonest_mistakes(labels, confusion),
    )


def commonest_mistakes(
    labels: Sequence[str], confusion: Sequence[Sequence[int]], limit: int = 15
) -> Table:
    """Pairs of a true label and the wrong one given, the most frequent first."""
    pairs = [
        (count, labels[true], labels[given], count / sum(row))
        for true, row in enumerate(confusion)
        for given, count in enumerate(row)
        if count and true != given
    ]
    pairs.sort(key=lambda pair: -pair[0])
    rows = [(true, given, count, 100 * share) for count, true, given, share in pairs[:limit]]
    return Table(("true label", "given instead", "texts", "% of the label"), rows)


def shortened(text: str, characters: int) -> str:
    """A name as a chart has room for it."""
    return text if len(text) <= characters else text[: characters - 1] + "…"
