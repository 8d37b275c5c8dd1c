"""The chart above the progress bar: what a terminal shows in the end, and that files do not."""

import io
import re
from collections.abc import Callable
from contextlib import redirect_stderr
from typing import Any

import pytest

from llmstages.config.groups import ReportConfig
from llmstages.errors import UserError
from llmstages.report.chart import MARK
from llmstages.report.live import CHART_LINES, MAX_POINTS, SECONDS_BETWEEN, LiveChart
from llmstages.report.terminal import is_interactive, progress, say, warn


class Terminal(io.StringIO):
    """Standard error that says it is a terminal."""

    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        """The lines that stand on the screen: of the control codes that rich uses, three matter."""
        lines = [""]
        row = column = 0
        for token in re.findall(r"\x1b\[[?0-9;]*[A-Za-z]|[^\x1b]", self.getvalue()):
            if token == "\n":
                row, column = row + 1, 0
                lines += [""] * (row - len(lines) + 1)
            elif token == "\r":
                column = 0
            elif token == "\x1b[2K":
                lines[row] = ""
            elif token == "\x1b[1A":
                row -= 1
                assert row >= 0
            elif token.startswith("\x1b["):
                assert token[-1] in "mhl", repr(token)
            else:
                lines[row] = lines[row][:column].ljust(column) + token + lines[row][column + 1 :]
                column += 1
        return [line.rstrip() for line in lines]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal of 80 columns and 30 lines, to stand in the place of standard error."""
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (("TERM", "xterm"), ("COLUMNS", "80"), ("LINES", "30")):
        monkeypatch.setenv(name, value)
    return Terminal()


def filled(num_steps: int = 100) -> LiveChart:
    chart = LiveChart()
    for step in range(1, num_steps + 1):
        chart.record({"step": step, "loss": 1 + 10 / step, "seconds": 0.1})
        if step % 50 == 0:
            chart.record({"step": step, "event": "evaluation", "val_loss": 1.5, "val_accuracy": 1})
    return chart


def test_title_range_and_marks() -> None:
    lines = filled().lines(60)
    assert len(lines) == 1 + CHART_LINES
    assert re.fullmatch(r"training loss 1\.101   o validation 1\.5", lines[0])
    assert lines[-1].split() == ["6", "100", "steps"]  # the first twentieth is left out
    assert "".join(lines[1:]).count(MARK) == 2
    assert max(len(line) for line in lines) <= 60


def test_nothing_before_there_are_two_points_or_where_there_is_no_room() -> None:
    chart = LiveChart()
    assert chart.lines(80) == []
    chart.record({"step": 1, "event": "evaluation", "val_loss": 2.0})
    chart.record({"step": 1, "loss": 2.0})
    assert chart.lines(80) == []
    chart.record({"step": 2, "loss": 1.0})
    assert len(chart.lines(80)) == 1 + CHART_LINES
    assert chart.lines(9) == []


def test_memory_is_bounded_and_the_mean_is_kept() -> None:
    chart = LiveChart({"step": step, "loss": float(step)} for step in range(1, 10_001))
    kept = chart._points
    assert MAX_POINTS / 2 <= len(kept) < MAX_POINTS
    assert all(x == y for x, y in kept)
    assert kept[0] == (16.5, 16.5)  # steps 1 to 32


def test_the_screen_of_a_training(terminal: Terminal) -> None:
    chart = LiveChart()
    with (
        redirect_stderr(terminal),
        progress("pretrain", total=60, unit="steps", above=chart) as advance,
    ):
        assert is_interactive()
        for step in range(1, 61):
            chart.record({"step": step, "loss": 3 / step})
            advance()
            if step in (20, 40):
                chart._drawn = (0, 0.0, [])  # as if half a second had passed
                say(f"step {step}: val_loss [1.5]")
                warn("slow")
        chart._drawn = (0, 0.0, [])
    screen = terminal.screen()
    said = ["step 20: val_loss [1.5]", "warning: slow", "step 40: val_loss [1.5]", "warning: slow"]
    assert screen[:4] == said
    assert screen[4].startswith("training loss 0.05")
    assert screen[5].startswith(" 0.7833┤")  # mean of 3/3, 3/4 and 3/5
    assert screen[4 + CHART_LINES].endswith("60 steps")
    assert "pretrain" in screen[5 + CHART_LINES]
    assert "60/60 steps" in screen[5 + CHART_LINES]
    assert [line for line in screen[6 + CHART_LINES :] if line] == []


@pytest.mark.parametrize(("name", "value"), [("COLUMNS", "39"), ("LINES", "14")])
def test_a_small_terminal_gets_no_chart(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with redirect_stderr(terminal), progress("pretrain", total=1, above=filled()) as advance:
        advance()
    assert "pretrain" in terminal.getvalue()
    assert "training loss" not in terminal.getvalue()


def test_it_is_drawn_at_most_twice_a_second(terminal: Terminal) -> None:
    from rich.console import Console

    now = 0.0
    chart = LiveChart(clock=lambda: now)
    console = Console(file=terminal)
    for step in (1, 2, 3):
        chart.record({"step": step, "loss": 1.0 * step})
    first = console.render_lines(chart)
    chart.record({"step": 4, "loss": 9.0})
    now = 0.9 * SECONDS_BETWEEN
    assert console.render_lines(chart) == first
    now = SECONDS_BETWEEN
    assert console.render_lines(chart) != first


@pytest.mark.parametrize(("live", "shown"), [("auto", 0), ("off", 0), ("on", 1)])
def test_a_log_file_shows_it_only_when_asked_and_once(
    live: str,
    shown: int,
    tmp_path: Any,
    pretrain_config: Callable[..., Any],
    capfd: pytest.CaptureFixture[str],
) -> None:
    from llmstages.stages import pretrain

    pretrain.run(pretrain_config(tmp_path, report=ReportConfig(curves=False, live=live)))
    assert capfd.readouterr().err.count("training loss") == shown
    assert not (tmp_path / "pretrain" / "report").exists()


def test_an_unknown_choice_is_refused() -> None:
    with pytest.raises(UserError, match=r"report\.live=of is unknown: did you mean off"):
        ReportConfig(live="of")
