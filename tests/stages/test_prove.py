"""A run is proved by doing some of its steps again, and a changed one is found out."""

import json
import shutil

import pytest
import yaml

from llmstages.errors import CheckFailed, UserError
from llmstages.stages.prove import prove


@pytest.fixture
def copy(request, tmp_path):
    """copy(fixture): a run of the session, to change."""

    def make(name):
        run = request.getfixturevalue(name)
        return shutil.copytree(run, tmp_path / run.name, symlinks=True)

    return make


@pytest.mark.parametrize("name", ["tiny_run", "instruct_run", "classifier_run"])
def test_an_honest_run_is_proved(name, copy, capsys):
    run = copy(name)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    prove(run, 20)
    out = capsys.readouterr().out
    assert "equal to the last bit" in out
    assert "steps done again" in out
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_the_command(copy, cli):
    run = copy("tiny_run")
    status, out, err = cli("inspect", run, "prove=true", "prove_steps=1")
    assert status == 0, err
    assert "7 to 7" in out
    change_loss(run)
    status, _, err = cli("inspect", run, "prove=true", "prove_steps=1")
    assert status == 1
    assert "step 7: loss was 1.5, is 5." in err


def change_loss(run):
    path = run / "metrics.jsonl"
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for entry in entries:
        if entry["step"] == 7:
            entry["loss"] = 1.5
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")


def test_a_changed_file_is_found(copy):
    run = copy("tiny_run")
    path = run / "checkpoints" / "step-000008" / "trainer" / "state.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckFailed, match=r"not proved: .*damaged"):
        prove(run, 20)


def test_settings_and_inputs_that_are_others_are_refused(copy, tmp_path):
    run = copy("tiny_run")
    path = run / "config.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump({**config, "seed": 5}), encoding="utf-8")
    with pytest.raises(UserError, match="seed was 0, is 5"):
        prove(run, 20)
    path.write_text(yaml.safe_dump({**config, "data": str(tmp_path / "gone")}), encoding="utf-8")
    with pytest.raises(UserError, match="gone"):
        prove(run, 20)


def test_only_a_run_can_be_proved(tiny_corpus, tiny_run, cli):
    status, _, err = cli("inspect", tiny_run / "best" / ".", "prove=true")
    assert status == 2
    assert "is for the directory of a run" in err
