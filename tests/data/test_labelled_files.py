"""Data of several files: which they are, and how much of each an epoch reads."""

from collections import Counter
from pathlib import Path

import pytest

from llmstages.data.labelled_files import data_files, weighted
from llmstages.errors import UserError


def test_the_files_of_a_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("b.jsonl", "a.csv.gz", "sub/c.json", ".hidden/d.jsonl", "README.md", "pairs.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("one\ttwo\n")
    (tmp_path / "prose.txt").write_text("once upon a time\n\t\n")
    with caplog.at_level("INFO", "llmstages"):
        found = [str(path.relative_to(tmp_path)) for path in data_files(tmp_path)]
    assert found == ["a.csv.gz", "b.jsonl", "pairs.txt", "sub/c.json"]
    assert "passed over" in caplog.text
    assert "README.md" in caplog.text
    assert "prose.txt" in caplog.text
    assert data_files(tmp_path / "prose.txt") == [tmp_path / "prose.txt"]
    with pytest.raises(UserError, match="no file of rows in this folder"):
        data_files(_empty(tmp_path))
    with pytest.raises(UserError, match="no such file"):
        data_files(tmp_path / "nowhere")


def _empty(tmp_path: Path) -> Path:
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


def test_each_file_has_its_share_of_an_epoch() -> None:
    parts = [[f"a{n}" for n in range(90)], [f"b{n}" for n in range(10)]]
    rows, counts = weighted(parts, [3.0, 1.0], seed=0)
    assert counts == [75, 25]
    assert Counter(row[0] for row in rows) == {"a": 75, "b": 25}
    of_a = Counter(row for row in rows if row[0] == "a")
    assert set(of_a.values()) == {1}
    of_b = Counter(row for row in rows if row[0] == "b")
    assert sorted(of_b.values()) == [2] * 5 + [3] * 5  # 25 of 10: each twice, five once more
    assert weighted(parts, [3.0, 1.0], seed=0) == (rows, counts)
    assert weighted(parts, [0.75, 0.25], seed=0) == (rows, counts)
    assert weighted(parts, [3.0, 1.0], seed=1)[0] != rows
