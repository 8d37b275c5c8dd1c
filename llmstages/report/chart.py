"""A curve as a few lines of text, drawn with braille characters: two by four dots in each."""

from collections.abc import Sequence
from itertools import pairwise

Point = tuple[float, float]

# Bits of a braille character by column and row of the dot (Unicode block U+2800).
DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
LEAST_COLUMNS = 10
"""Characters below which a curve says nothing, its labels not counted."""
MARK = "o"


def chart(
    points: Sequence[Point],
    width: int,
    height: int,
    marks: Sequence[Point] = (),
    unit: str = "steps",
) -> list[str]:
    """`height` lines of at most `width` characters; none when there is too little to draw or room.

    points: (x, y) with x rising, joined to a line; of those in one column of dots the mean counts.
    marks: single points, drawn as `MARK` over the line. The range of y stands at the left, that of
    x, in `unit`, in the last line.
    """
    rows = height - 1
    if len(points) < 2 or points[0][0] == points[-1][0] or rows < 2:
        return []
    first, last = points[0][0], points[-1][0]
    begin, end = f"{first:,.0f}", f"{last:,.0f} {unit}"
    heights = [y for _, y in (*points, *marks)]
    low, high = min(heights), max(heights)
    labels = [f"{high:.4g}", *[""] * (rows - 2), f"{low:.4g}"]
    margin = max(len(label) for label in labels)
    columns = width - margin - 1
    if columns < max(LEAST_COLUMNS, len(begin) + 1 + len(end)):
        return []

    def column_of(x: float) -> int:
        return round(min(1.0, max(0.0, (x - first) / (last - first))) * (2 * columns - 1))

    if low == high:
        low, high = low - 1, high + 1

    def row_of(y: float) -> int:
        return round((high - y) / (high - low) * (4 * rows - 1))

    cells = [[0] * columns for _ in range(rows)]
    dots = [row_of(y) for y in _mean_of_columns([(column_of(x), y) for x, y in points])]
    for column, (before, row) in enumerate(zip([dots[0], *dots], dots, strict=False)):
        # A steep piece reaches up or down to the dot beside the one before.
        beside = before + (row > before) - (row < before)
        for dot in range(min(row, beside), max(row, beside) + 1):
            cells[dot // 4][column // 2] |= DOTS[column % 2][dot % 4]
    drawn = [[chr(0x2800 + cell) if cell else " " for cell in row] for row in cells]
    for x, y in marks:
        drawn[row_of(y) // 4][column_of(x) // 2] = MARK
    lines = [
        f"{label:>{margin}}{'┤' if label else '│'}{''.join(row)}".rstrip()
        for label, row in zip(labels, drawn, strict=True)
    ]
    return [*lines, f"{'':{margin}} {begin}{end:>{columns - len(begin)}}"]


def _mean_of_columns(points: Sequence[tuple[int, float]]) -> list[float]:
    """Mean height in each column from 0 on; one without a point lies between its neighbours."""
    heights: dict[int, list[float]] = {}
    for column, y in points:
        heights.setdefault(column, []).append(y)
    means = {column: sum(found) / len(found) for column, found in heights.items()}
    known = sorted(means)
    filled = []
    for left, right in pairwise(known):
        slope = (means[right] - means[left]) / (right - left)
        filled += [means[left] + slope * (column - left) for column in range(left, right)]
    return [*filled, means[known[-1]]]
