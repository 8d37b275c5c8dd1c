"""The model card of a checkpoint: true, and its snippets run."""

import re
from pathlib import Path

import pytest
import yaml
from safetensors import safe_open

from llmstages.train.checkpoint import load_checkpoint, read_info


@pytest.mark.parametrize(
    ("run", "task", "printed"),
    [
        ("classifier_run", "text-classification", r"'label': '(integers|strings)'"),
        ("instruct_run", "text-generation", r"'role': 'assistant'"),
        ("tiny_run", "text-generation", r"'generated_text': 'Once upon a time"),
    ],
)
def test_a_card(
    run: str,
    task: str,
    printed: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    best = (request.getfixturevalue(run) / "best").resolve()
    info, card = read_info(best), (best / "README.md").read_text("utf-8")
    front, body = re.fullmatch(r"---\n(.*?)---\n(.*)", card, re.DOTALL).groups()  # type: ignore
    assert yaml.safe_load(front) == {
        "library_name": "transformers",
        "pipeline_tag": task,
        "tags": ["llmstages", "qwen3", info.stage],
    }
    with safe_open(best / "model.safetensors", "pt") as file:
        parameters = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
    assert f"| parameters | {parameters:,} |" in body
    assert f"| tokens seen | {info.tokens_seen:,} |" in body
    assert f"| `val_loss` | {info.metrics['val_loss']:.4g} |" in body
    for name in ("tokenizer", "parent", "data"):
        value = getattr(info.lineage, name)
        assert (f"| sha256 of the {name} | `{value}` |" in body) == (value is not None)
    made = [("optimizer", "muon"), ("data", "`tiny`")]
    if run != "tiny_run":
        rows, of_all = {"classifier_run": (48, "lines"), "instruct_run": (32, "pairs")}[run]
        made = [("base", "`pretrain`"), ("data", f"`{of_all}.jsonl`"), ("training rows", rows)]
        made += [("method", "`full`"), ("learning rate", f"{info.training['lr']:.4g}")]
        made += [("epochs", f"{info.step / info.training['steps_per_epoch']:.4g}")]
    for name, value in made:
        assert f"| {name} | {value} |" in body

    (code,) = re.findall(r"```python\n(.*?)```", body, re.DOTALL)
    (tmp_path / "model").symlink_to(best)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert re.search(printed, capsys.readouterr().out)


def test_a_card_may_be_written_into(run_copy: Path) -> None:
    (run_copy / "best" / "README.md").write_text("mine")
    assert load_checkpoint(run_copy).info is not None
