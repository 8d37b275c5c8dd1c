"""Labelled files that were made to hang a reader, fill the memory or shift a label."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmstages.config.uses import InspectConfig
from llmstages.data.conversations import read_conversations
from llmstages.data.file_kind import detect_kind
from llmstages.data.labelled_texts import read_labelled_texts, read_texts
from llmstages.data.rows import DEEPEST, KEPT_BAD_ROWS, BadRows, fault_of
from llmstages.data.table import read_rows
from llmstages.errors import UserError
from llmstages.stages.seeing.data_file import inspect_data_file

REAL = os.environ.get("LLMSTAGES_DATA")
real_data = pytest.mark.skipif(REAL is None, reason="LLMSTAGES_DATA names no real data")


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tabs.tsv", '"' + "\t" * 60_000 + '"x\n'),
        ("quotes.tsv", 'text\tlabel\n"' + '\t""x' * 40_000 + "\n"),
        ("columns.csv", "a" + "," * 30_000 + "\n"),
        ("names.csv", "text," + ",".join(f"n{i}" for i in range(10_000)) + "\n"),
        ("open.csv", 'text,label\n"' + "a,b\n" * 30_000),
        ("brackets.json", "[" * 300_000),
        ("blank.json", " " * 300_000 + "x"),
        ("late.csv", b"a" * 300_000 + b"\xe9,b\n"),
        ("feeds.txt", "\f\v\f\n\x85"),
    ],
)
def test_a_file_takes_time_and_memory_in_proportion(
    tmp_path: Path, name: str, content: str | bytes
) -> None:
    from hostile import check_file

    check_file(write(tmp_path / name, content))


def test_bad_rows_without_end_are_counted_and_few_kept() -> None:
    bad = BadRows("a.csv", "refuse")
    for line in range(5000, 0, -1):
        bad.add(line, "broken")
    assert (bad.count, len(bad.rows), bad.rows[0]) == (5000, KEPT_BAD_ROWS, (1, "broken"))
    with pytest.raises(UserError, match=r"a\.csv:1: broken \(5,000 bad rows in the file"):
        bad.finish()


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ("[" * 5000, "no JSON list of messages"),
        ("9" * 5000, "no JSON list of messages"),
        (r'[{"role": "assistant", "content": "a\u0000b"}]', "a NUL character"),
        (r'[{"role": "assistant", "content": "\ud800"}]', "surrogate"),
        ('[{"role": [1], "content": "a"}]', "has the role a list"),
    ],
)
def test_messages_in_a_cell(tmp_path: Path, messages: str, reason: str) -> None:
    cell = messages.replace('"', '""')
    good = '[{""role"":""assistant"",""content"":""a""}]'
    path = write(tmp_path / "a.csv", f'id,messages\n1,"{cell}"\n2,"{good}"\n')
    with pytest.raises(UserError, match=r"a\.csv:2: ") as refused:
        read_conversations(path)
    assert reason in str(refused.value)
    assert [found.line for found in read_conversations(path, bad_rows="skip")] == [3]


def test_how_deep_a_value_may_be() -> None:
    value: Any = "text"
    for _ in range(DEEPEST - 1):
        value = [value]
    assert fault_of(value) is None
    assert fault_of([value]) == f"values nested more than {DEEPEST} deep"


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    table = pa.table([["a", "b"], ["x", "y"], ["y", "x"]], names=["text", "label", "label"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: two columns are named label"):
        read_labelled_texts(tmp_path / "a.parquet")


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("pipe", "loop", "link", "a" * 3000, "."):
        for reader in (detect_kind, read_labelled_texts, read_conversations, read_texts):
            with pytest.raises(UserError):
                reader(tmp_path / name)  # type: ignore[operator]


def test_many_columns_make_a_short_message(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ",".join(f"column {n}" for n in range(2000)) + "\n1\n")
    with pytest.raises(UserError, match="1,970 more") as refused:
        read_labelled_texts(path)
    assert len(str(refused.value)) < 1000


def test_objects_with_keys_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("llmstages.stages.seeing.data_file.MAX_COLUMNS", 5)
    rows = "".join(json.dumps({f"key {n}": n}) + "\n" for n in range(50))
    inspect_data_file(write(tmp_path / "a.jsonl", rows), InspectConfig(num_examples=1))
    printed = capsys.readouterr().out
    assert "│ key 4 " in printed
    assert "│ key 5 " not in printed


@real_data
@pytest.mark.parametrize("policy", ["refuse", "skip"])
def test_json_test_suite(policy: str) -> None:
    """Of valid JSON nothing is refused as broken; of broken JSON nothing comes out."""
    assert REAL is not None
    paths = sorted((Path(REAL) / "dirty" / "json_test_suite").glob("*.json"))
    assert len(paths) > 300
    for path in paths:
        rows, said = [], ""
        try:
            rows = list(read_rows(path, format="json", bad_rows=policy).rows)
        except UserError as error:
            said = str(error)
        assert not said or said.startswith(f"{path}:")
        if path.name.startswith("y_"):
            assert "broken JSON" not in said
        elif path.name.startswith("n_"):
            assert said or not rows, path.name


@real_data
def test_every_real_hostile_file_through_every_reader() -> None:
    from hostile import check_file

    assert REAL is not None
    for folder in ("json_test_suite", "messytables"):
        for path in sorted((Path(REAL) / "dirty" / folder).iterdir()):
            check_file(path)


@real_data
@pytest.mark.parametrize(
    "name",
    ["json_test_suite/n_structure_100000_opening_arrays.json", "messytables/complex.csv"],
)
def test_inspect_as_a_process(name: str) -> None:
    assert REAL is not None
    path = Path(REAL) / "dirty" / name
    command = [sys.executable, "-m", "llmstages", "inspect", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode in (0, 2)
    assert "Traceback" not in done.stderr
    assert (done.returncode == 2) == (f"error: {path}" in done.stderr)
