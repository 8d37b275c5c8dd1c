"""The loss of a running training as a chart in the terminal, above its progress bar."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from llmstages.report.chart import MARK, Point, chart
from llmstages.report.smoothing import smoothed

CHART_LINES = 9
"""Lines of the chart, with its axis and without its title."""
LEAST_WIDTH = 40
LEAST_HEIGHT = CHART_LINES + 6
"""Terminals with fewer columns or lines get no chart: it would push everything else out."""
SECONDS_BETWEEN = 0.5
"""The chart is drawn anew at most this often."""
MAX_POINTS = 512
"""Points kept of a run of any length: more than a terminal has columns of dots."""


class LiveChart:
    """Training loss (smoothed) and validation loss so far; an observer, and a rich renderable.

    The terminal is drawn by another thread than the one that records: what the two share is
    replaced, never changed in place.
    """

    def __init__(
        self, earlier: Iterable[Mapping[str, Any]] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._points: tuple[Point, ...] = ()
        self._marks: tuple[Point, ...] = ()
        self._bin: list[Point] = []
        self._bin_size = 1
        self._drawn: tuple[int, float, list[Text]] = (0, -SECONDS_BETWEEN, [])
        for entry in earlier:
            self.record(entry)

    def record(self, entry: Mapping[str, Any]) -> None:
        """Take up a line of `metrics.jsonl`."""
        step = float(entry["step"])
        if "event" in entry:
            if "val_loss" in entry:
                self._marks = (*self._marks[-MAX_POINTS:], (step, entry["val_loss"]))
            return
        if "loss" not in entry:
            return
        self._bin.append((step, entry["loss"]))
        if len(self._bin) < self._bin_size:
            return
        self._points = (*self._points, _mean(self._bin))
        self._bin = []
        if len(self._points) == MAX_POINTS:
            pairs = zip(self._points[::2], self._points[1::2], strict=True)
            self._points = tuple(_mean(pair) for pair in pairs)
            self._bin_size *= 2

    def close(self) -> None:
        """Nothing is left open: the last chart stays on the screen."""

    def lines(self, width: int) -> list[str]:
        """Title and chart, none wider than `width` characters; nothing before the third step."""
        points, marks = self._points, self._marks
        if len(points) > 2:
            values = smoothed(np.array([y for _, y in points]))
            points = tuple((x, float(y)) for (x, _), y in zip(points, values, strict=True))
        # The first fall would take all the height.
        points = points[len(points) // 20 :]
        marks = tuple(mark for mark in marks if points and points[0][0] <= mark[0])
        drawn = chart(points, width, CHART_LINES, marks)
        if not drawn:
            return []
        title = f"training loss {points[-1][1]:.4g}"
        if marks:
            title += f"   {MARK} validation {marks[-1][1]:.4g}"
        return [title[:width], *drawn]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, at, texts = self._drawn
        if width != options.max_width or self._clock() - at >= SECONDS_BETWEEN:
            width, texts = options.max_width, []
            if width >= LEAST_WIDTH and console.height >= LEAST_HEIGHT and not options.ascii_only:
                texts = [_coloured(line) for line in self.lines(width - 1)]
            self._drawn = (width, self._clock(), texts)
        yield from texts


def _mean(points: Iterable[Point]) -> Point:
    """The point in the middle."""
    xs, ys = zip(*points, strict=True)
    return sum(xs) / len(xs), sum(ys) / len(ys)


def _coloured(line: str) -> Text:
    text = Text(line, no_wrap=True, overflow="crop", end="\n")
    text.highlight_regex("[\u2801-\u28ff]+", "cyan")
    text.highlight_regex(rf"(?<![A-Za-z]){MARK}(?![A-Za-z])", "bold yellow")
    return text
