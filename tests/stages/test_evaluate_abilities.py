"""Language models in `evaluate`, and what pretraining asks them on its way."""

import json
from pathlib import Path

import pytest
import torch

from llmstages.config.groups import EvaluateConfig
from llmstages.config.stages import FinetuneClassifyConfig
from llmstages.data.tasks import read_task
from llmstages.errors import UserError
from llmstages.evaluate.abilities import measures_of
from llmstages.evaluate.continuations import Subject
from llmstages.report.curves import validation_panels
from llmstages.report.metrics import Curves, read_entries
from llmstages.stages import pretrain
from llmstages.train.checkpoint import load_checkpoint

QUESTIONS = [
    {"query": "The lion is", "choices": ["in the garden", "an integer", "so"], "gold": number % 3}
    for number in range(9)
]


@pytest.fixture(scope="module")
def choices_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("questions") / "lions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS), encoding="utf-8")
    return path


def test_the_held_out_text_of_its_own_corpus(cli, tiny_run):
    status, out, err = cli("evaluate", tiny_run, "require=[tiny/all.bits_per_byte<=99]")
    assert status == 0, err
    tasks = json.loads(out)["tasks"]
    metrics = json.loads((tiny_run / "summary.json").read_text("utf-8"))["metrics"]
    for name, value in metrics.items():
        if name.startswith("val_bits_per_byte"):
            source = name.partition("/")[2] or "all"
            entry = tasks[f"tiny/{source}"]
            assert entry["bits_per_byte"] == pytest.approx(value, rel=1e-5)
            low, high = entry["intervals"]["bits_per_byte"]
            assert low < entry["bits_per_byte"] < high < entry["chance"]["bits_per_byte"]
    assert len(tasks) == 3


def test_each_file_has_its_figures(cli, tiny_run, choices_file, instruct_file, labelled_file):
    files = (choices_file, instruct_file, labelled_file)
    settings = ("shots=1", "max_items=5", "max_new_tokens=3")
    status, out, err = cli("evaluate", tiny_run, *files, *settings)
    assert status == 0, err
    tasks = json.loads(out)["tasks"]
    assert [task["kind"] for task in tasks.values()] == ["choices", "answers", "labels"]
    for task in tasks.values():
        assert (task["num_items"], task["shots"]) == (5, 1)
        for name, ends in task["intervals"].items():
            low, high = ends or (task[name], task[name])
            assert low <= task[name] <= high
            assert name in task["chance"]
    assert "what it is able to do" in err

    bound = "require=lions.acc>=1.01"
    status, out, err = cli("evaluate", tiny_run, *files, *settings, bound, "output=r.json")
    assert (status, out) == (1, "")
    assert f"lions.acc is {tasks['lions']['acc']:.6g} (lions.acc>=1.01 is required)" in err


def test_a_folder_is_one_task(cli, tiny_run, choices_file, tmp_path):
    folder = tmp_path / "lions"
    folder.mkdir()
    for part, rows in (("a", QUESTIONS[:3]), ("b.1", QUESTIONS[3:6]), ("b.2", QUESTIONS[6:])):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{part}.jsonl").write_text(text, encoding="utf-8")
    status, out, err = cli("evaluate", tiny_run, folder)
    assert status == 0, err
    (entry,) = json.loads(out)["tasks"].values()
    assert entry["num_items"] == 9
    # One answer is always the likeliest, and each is right in a third of the questions.
    assert entry["files"] == dict.fromkeys(("a", "b.1", "b.2"), pytest.approx(1 / 3))
    assert entry["acc"] == entry["mean_of_files"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["shots=9"], "shots=9: lions has 8 examples to take"),
        (["head=x"], "head=x is for classifiers"),
        (["other.csv", 'template="{text}:"'], "files of several kinds (choices, labels)"),
        (["require=acd>=0.1"], "did you mean acc"),
        (["shots_data=x.jsonl"], "is given without shots"),
    ],
)
def test_what_cannot_be_asked(cli, tiny_run, choices_file, arguments, said):
    Path("other.csv").write_text("text,label\na,x\nb,y\n", encoding="utf-8")
    status, out, err = cli("evaluate", tiny_run, choices_file, *arguments)
    assert (status, out) == (2, "")
    assert said in err


def test_pretraining_asks_on_its_way(pretrain_config, choices_file, tmp_path):
    evaluate = EvaluateConfig(
        every_steps=4,
        max_tokens=2000,
        num_samples=0,
        abilities=[str(choices_file)],
        ability_items=7,
    )
    pretrain.run(pretrain_config(tmp_path, evaluate=evaluate))
    run = tmp_path / "pretrain"
    curves = Curves.of(read_entries(run / "metrics.jsonl"))
    curve = curves.validation["val_acc/lions"]
    assert curve.steps.tolist() == [4, 8]
    assert curves.validation["val_acc_chance/lions"].values.tolist() == [pytest.approx(1 / 3)] * 2
    assert validation_panels(curves.validation)["val_acc"].keys() == {"lions"}
    last = load_checkpoint(run / "last")
    subject = Subject(last.model, last.tokenizer, torch.device("cpu"), quiet=True)
    expected = measures_of(subject, read_task(choices_file).sample(7))["acc"].value
    assert curve.values[-1] == expected
    assert json.loads((run / "plan.json").read_text("utf-8"))["ability_items"] == {"lions": 7}
    summary = json.loads((run / "summary.json").read_text("utf-8"))
    assert "val_acc/lions" in summary["metrics_before"].keys() & summary["metrics"].keys()


def test_fine_tuning_asks_nothing_on_its_way():
    with pytest.raises(UserError, match=r"evaluate\.abilities are asked while pretraining alone"):
        FinetuneClassifyConfig(evaluate=EvaluateConfig(abilities=["lions.jsonl"]))


def test_written_answers_are_not_asked_on_the_way(pretrain_config, instruct_file, tmp_path):
    config = pretrain_config(tmp_path, evaluate=EvaluateConfig(abilities=[str(instruct_file)]))
    with pytest.raises(UserError, match="wants answers to be written"):
        pretrain.run(config)
    assert not (tmp_path / "pretrain").exists()
