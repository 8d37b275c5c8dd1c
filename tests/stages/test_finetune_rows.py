"""Rows of labelled files: split, kept apart from given held-out rows, weighted."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from llmstages.config.stages import FinetuneClassifyConfig, FinetuneInstructConfig
from llmstages.data.conversations import Conversation, read_conversations
from llmstages.errors import UserError
from llmstages.stages.shared.rows import Rows, data_hash, finetune_rows
from llmstages.train.checkpoint import file_hash

LONG = "one two three four five six seven eight nine ten eleven twelve"


def write(path: Path, *pairs: tuple[str, str]) -> str:
    path.write_text("".join(json.dumps({"prompt": p, "completion": a}) + "\n" for p, a in pairs))
    return str(path)


def rows_of(config: FinetuneInstructConfig) -> Rows[Conversation]:
    return finetune_rows(
        config,
        read_conversations,
        lambda row: row.messages[0].content,
        answer=lambda row: row.messages[-1].content,
        weights=config.data_weights,
    )


def test_near_duplicates_of_held_out_rows_are_not_trained_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    others = [(f"question {n}", f"answer {n}") for n in range(20)]
    leaks = [("Equal  ", "x"), (f"{LONG} a", "x"), ("about it?", f"{LONG} y")]
    config = FinetuneInstructConfig(
        data=write(tmp_path / "data.jsonl", *leaks, *others),
        validation_data=write(tmp_path / "v.jsonl", ("equal", "x"), ("what?", f"{LONG} z")),
        test_data=write(tmp_path / "t.jsonl", (f"{LONG} b", "x"), ("EQUAL", "y"), ("new", "x")),
    )
    rows = rows_of(config)
    assert [row.messages[0].content for row in rows.train] == [prompt for prompt, _ in others]
    assert (len(rows.validation), len(rows.test)) == (2, 3)
    said = " ".join(capfd.readouterr().err.split())
    assert "3 rows stand in the validation or test file too" in said
    assert "1 are equal, 2 nearly so" in said
    assert "t.jsonl: 1 of its 3 rows are equal or nearly so to rows of" in said
    rows = rows_of(replace(config, overlap="keep"))
    assert len(rows.train) == len(leaks) + len(others)
    assert rows.overlap["training_rows_kept_though_nearly_equal"] == 2
    assert "3 rows stand in the validation or test file too and are trained on" in " ".join(
        capfd.readouterr().err.split()
    )


def test_near_duplicates_stay_on_one_side(tmp_path: Path) -> None:
    prompts = [" ".join([*(f"w{n // 3}x{i}" for i in range(12)), str(n)]) for n in range(90)]
    pairs = [(prompt, "x") for prompt in prompts]
    path = write(tmp_path / "a.jsonl", *pairs)
    rows = rows_of(FinetuneInstructConfig(data=path, validation_share=0.2, test_share=0.2))
    sides = [
        {row.messages[0].content.split()[0] for row in part}
        for part in (rows.train, rows.validation, rows.test)
    ]
    assert [len(part) for part in (rows.train, rows.validation, rows.test)] == [54, 18, 18]
    assert sum(map(len, sides)) == 30


def test_rows_that_are_all_alike_cannot_be_split(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *((f"ask {n}", LONG) for n in range(9)))
    with pytest.raises(UserError, match="9 rows, of which 1 differ enough to be split, are too"):
        rows_of(FinetuneInstructConfig(data=path))


def test_weights_say_how_often_a_file_is_read(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    paths = [
        write(tmp_path / "a.jsonl", *((f"ask {n}", "x") for n in range(80))),
        write(tmp_path / "b.jsonl", *((f"beg {n}", "x") for n in range(20))),
    ]
    config = FinetuneInstructConfig(data=paths, data_weights=[0.5, 0.5])
    rows = rows_of(config)
    assert rows == rows_of(config)
    names = Counter(Path(row.path).name for row in rows.train)
    assert names == {"a.jsonl": 40, "b.jsonl": 40}
    held_out = {row.messages[0].content for row in [*rows.validation, *rows.test]}
    assert not held_out & {row.messages[0].content for row in rows.train}
    said = " ".join(capfd.readouterr().err.split())
    assert "b.jsonl: 40 rows an epoch, 50% of all, from its" in said


def test_a_file_that_lost_all_its_rows_cannot_be_weighted(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / "a.jsonl", *((f"ask {n}", "x") for n in range(20))),
        write(tmp_path / "b.jsonl", ("held", "x")),
    ]
    config = FinetuneInstructConfig(data=paths, data_weights=[1, 1], validation_data=paths[1])
    with pytest.raises(UserError, match=r"b\.jsonl: no row of it is left for training"):
        rows_of(config)


def test_the_hash_of_one_file_is_its_own(tmp_path: Path) -> None:
    one, other = write(tmp_path / "a.jsonl", ("a", "b")), write(tmp_path / "b.jsonl", ("c", "d"))
    assert data_hash([one]) == file_hash(Path(one))
    assert data_hash([one, other]) == data_hash([str(tmp_path)]) != data_hash([other, one])
    assert FinetuneClassifyConfig(data=one).data_paths == [one]
