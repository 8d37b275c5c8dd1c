"""Escape sequences in data, names and answers: no report brings them to the terminal."""

import ast
import io
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import llmstages
from llmstages.evaluate.classification import ClassificationReport, ClassScores
from llmstages.report.classification import PredictedRow, render_classification
from llmstages.report.curves import loss_figure
from llmstages.report.metrics import Curves
from llmstages.report.plain import VisibleFormatter, for_stream, visible
from llmstages.report.terminal import output_console, progress, say, table, warn

ESCAPES = "\x1b[31m\x1b]0;title\x07\x9b2J\x7f\x08\r\u202e"


def assert_plain(printed: str) -> None:
    """Lines of text and nothing else; what was hidden is spelled out."""
    assert printed == visible(printed)
    assert "\\x1b" in printed
    assert "\\x9b2J" in printed


def test_what_is_spelled_out() -> None:
    assert visible("a\tb\nc\r\nd") == "a\tb\nc\nd"
    assert visible("\x1b[1m\r\x9b\x7f\x00") == "\\x1b[1m\\x0d\\x9b\\x7f\\x00"
    assert visible("\u202eevil\u2066") == "\\u202eevil\\u2066"
    assert visible(os.fsdecode(b"caf\xe9")) == "caf\\udce9"
    assert visible("žluťoučký 日本 עברית 👩‍🚀 [red]") == "žluťoučký 日本 עברית 👩‍🚀 [red]"


def test_reports(capsys: pytest.CaptureFixture[str]) -> None:
    table(ESCAPES + "[red]", (ESCAPES, "b"), [(ESCAPES + "[/red]", 1)], to_output=True)
    printed = capsys.readouterr().out
    assert_plain(printed)
    assert "[red]" in printed
    assert "[/red]" in printed
    say(ESCAPES)
    assert_plain(capsys.readouterr().err)
    warn(ESCAPES)
    assert_plain(capsys.readouterr().err)
    scores = [ClassScores(label, 1.0, 1.0, 1.0, 1) for label in (ESCAPES, "b")]
    report = ClassificationReport([ESCAPES, "b"], {"accuracy": 1.0}, scores, [[1, 0], [0, 1]])
    row = PredictedRow("", 1, ESCAPES + "[/red]", "b", ESCAPES, {ESCAPES: 1.0})
    output_console().print(render_classification(report, title=ESCAPES, predictions=[row]))
    assert_plain(capsys.readouterr().out)


def test_progress(capfd: pytest.CaptureFixture[str]) -> None:
    with progress(ESCAPES) as advance:
        advance(1, note=ESCAPES)
    assert_plain(capfd.readouterr().err)


def test_notices() -> None:
    record = logging.LogRecord("llmstages", logging.INFO, "", 0, "%s: read", (ESCAPES,), None)
    assert_plain(VisibleFormatter("%(message)s").format(record))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_results_are_as_they_are_in_a_pipe() -> None:
    assert for_stream(ESCAPES, io.StringIO()) == ESCAPES
    assert_plain(for_stream(ESCAPES, Terminal()))


@pytest.mark.parametrize("terminal", [True, False])
def test_generated_text(tiny_run: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    from llmstages.config.uses import GenerateConfig
    from llmstages.stages import generate

    written = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stdout", written)
    generate.run(
        GenerateConfig(checkpoint_dir=str(tiny_run), prompt=ESCAPES, max_new_tokens=1, device="cpu")
    )
    assert written.getvalue().startswith(visible(ESCAPES) if terminal else ESCAPES)


def test_a_labelled_file_and_its_name(tmp_path: Path) -> None:
    """As a process: a name that is no UTF-8 and holds an escape sequence."""
    name = os.fsencode(tmp_path) + b"/caf\xe9\x1b]0;x\x07.jsonl"
    rows = [{"text": f"{ESCAPES} {n}", "label": ESCAPES + "ab"[n % 2]} for n in range(4)]
    with open(name, "w", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    for path, status in ((name, 0), (name + b"x", 2)):
        command = [sys.executable.encode(), b"-m", b"llmstages", b"inspect", path]
        done = subprocess.run(command, capture_output=True, timeout=60)
        said = (done.stdout + done.stderr).decode("utf-8", "surrogateescape")
        assert done.returncode == status, said
        assert_plain(said + "\\x1b \\x9b2J")
        assert "caf\\udce9\\x1b]0;x\\x07" in said


def test_documents_of_a_corpus(tiny_corpus: Path, tmp_path: Path, cli: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    corpus = tmp_path / "tiny"
    shutil.copytree(tiny_corpus, corpus)
    path = next((corpus / "documents" / "train").glob("texts-*.parquet"))
    documents = pq.read_table(path)
    texts = pa.array([ESCAPES] * len(documents), pa.large_string())
    documents = documents.set_column(1, documents.schema.field("text"), texts)
    urls = pa.array([ESCAPES] * len(documents), pa.string())
    pq.write_table(documents.set_column(3, documents.schema.field("url"), urls), path)
    assert_plain(cli("inspect", corpus, "num_examples=200")[1])
    wanted = documents["id"][0].as_py()
    assert_plain(cli("inspect", corpus, f"id={wanted}")[1])


def test_nothing_is_printed_past_the_one_door() -> None:
    """Texts for rich are made in report/terminal.py alone, and joined for conversations; the chart
    draws numbers."""
    package = Path(llmstages.__file__).parent
    makers = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Text", "Text.from_ansi"):
                makers.add(path.relative_to(package).as_posix())
    numbers = {"report/live.py", "report/classification.py"}
    assert makers == {"report/terminal.py", "report/conversations.py"} | numbers


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["$x^2", "$\\frac{", "_private", "a\nb", "{}", "%s", "\x1b[31m"])
def test_names_of_sources_in_pictures(name: str) -> None:
    steps = [{"step": n, "loss": 1.0 / n, "tokens": n, "seconds": n} for n in (1, 2, 3)]
    entry = {"step": 3, "event": "evaluation", "val_loss": 1.0, f"val_loss/{name}": 1.0}
    figure = loss_figure(Curves.of([*steps, entry]), name)
    figure.savefig(io.BytesIO(), format="png", dpi=20)
    legends = [axes.get_legend() for axes in figure.get_axes()]
    shown = [text.get_text() for legend in legends if legend for text in legend.get_texts()]
    assert visible(name) in [text.strip() for text in shown]
