"""Who is told of each line of `metrics.jsonl`: the terminal's chart, the pictures.

None of them may end a training: one that fails is left out with a warning.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from llmstages.config.groups import ReportConfig
from llmstages.report.curves import draw_curves
from llmstages.report.live import LiveChart
from llmstages.report.metrics import read_entries
from llmstages.report.terminal import is_interactive, warn


class Observer(Protocol):
    """What is told of a run while it goes on."""

    def record(self, entry: Mapping[str, Any]) -> None:
        """Take up a line of `metrics.jsonl`, just written."""

    def close(self) -> None:
        """The run has ended or was interrupted."""


class Pictures:
    """Draws the curves from `metrics.jsonl` when the run ends."""

    def __init__(self, run_dir: Path, title: str) -> None:
        self._run_dir, self._title = run_dir, title

    def record(self, entry: Mapping[str, Any]) -> None:
        """Nothing: all is read from the file."""

    def close(self) -> None:
        """Draw."""
        draw_curves(self._run_dir, self._title)


class Observers:
    """Those that the config asks for. `chart` is the one to be shown, None when there is none.

    title: what the pictures are headed with. A resumed run's observers know what was recorded
    before.
    """

    def __init__(self, run_dir: Path, title: str, config: ReportConfig) -> None:
        earlier = read_entries(run_dir / "metrics.jsonl")
        self.chart: LiveChart | None = None
        self._observers: list[Observer] = []
        if config.live == "on" or (config.live == "auto" and is_interactive()):
            self.chart = LiveChart(earlier)
            self._observers.append(self.chart)
        if config.curves:
            self._observers.append(Pictures(run_dir, title))

    def record(self, entry: Mapping[str, Any]) -> None:
        """Tell all of them of a line of `metrics.jsonl`."""
        for observer in list(self._observers):
            if not _worked(observer, partial(observer.record, entry)):
                self._observers.remove(observer)

    def close(self) -> None:
        """Tell all of them that the run has ended."""
        for observer in self._observers:
            _worked(observer, observer.close)


def _worked(observer: Observer, call: Callable[[], None]) -> bool:
    """Whether a call went well; a warning when it did not."""
    try:
        call()
    except Exception as error:  # whatever it is, the training matters more
        warn(f"no {type(observer).__name__}: {type(error).__name__}: {error}")
        return False
    return True
