"""`compare` measures two checkpoints on the same items, whatever their tokenizers."""

import json

import pytest
import torch

from llmstages.config.uses import CompareConfig, EvaluateCheckpointConfig
from llmstages.data.corpus import Corpus
from llmstages.errors import UserError
from llmstages.evaluate.paired import Difference
from llmstages.evaluate.text_metrics import text_metrics
from llmstages.stages import compare, evaluate
from llmstages.stages.comparing.items import passage_nats, passages
from llmstages.stages.comparing.tables import verdict
from llmstages.stages.shared.setup import Machine
from llmstages.train.checkpoint import checkpoint_dirs, load_checkpoint


@pytest.fixture
def record(capfd):
    """record(a, b, **settings): the JSON of `compare`."""

    def make(a, b, **settings):
        capfd.readouterr()
        compare.run(
            CompareConfig(
                checkpoint_a=str(a), checkpoint_b=str(b), device="cpu", json=True, **settings
            )
        )
        return json.loads(capfd.readouterr().out)

    return make


def test_classifiers(classifier_run, labelled_file, record, cli, capfd):
    early, best = checkpoint_dirs(classifier_run)[0], classifier_run / "best"
    found = record(early, best, data=str(labelled_file))
    for name, place in (("a", early), ("b", best)):
        capfd.readouterr()
        evaluate.run(
            EvaluateCheckpointConfig(
                checkpoint_dir=str(place), data=str(labelled_file), device="cpu"
            )
        )
        report = json.loads(capfd.readouterr().out)
        for figure in ("accuracy", "macro_f1"):
            assert found["figures"][figure][name] == pytest.approx(report[figure])
    right = {n: [item[n]["label"] == item["label"] for item in found["items"]] for n in "ab"}
    assert sum(right["b"]) / 60 == pytest.approx(found["figures"]["accuracy"]["b"])
    test = found["mcnemar"]
    assert test["only_b"] - test["only_a"] == sum(right["b"]) - sum(right["a"])
    summary = json.loads((classifier_run / "summary.json").read_text())
    assert found["b"]["cost"]["seconds"] == summary["seconds"]
    assert found["b"]["cost_with_all_before"]["tokens"] > found["b"]["cost"]["tokens"]
    status, out, err = cli("compare", best, best, labelled_file, "max_items=10")
    assert status == 0, err
    assert "have the same weights" in " ".join(err.split())
    # It holds the rows that both have learnt.
    assert " ".join(err.split()).count(f"was trained on {labelled_file}, but for the rows") == 2
    assert "within chance" in out
    assert "p = 1" in out


def test_a_base_is_asked_by_prompts_for_what_a_classifier_has_learnt(
    tiny_run, classifier_run, labelled_file, record, cli, capfd
):
    asked = {"data": str(labelled_file), "shots": 1, "label_words": {"integers": "numbers"}}
    found = record(tiny_run, classifier_run, **asked)
    other_way = record(classifier_run, tiny_run, **asked)
    capfd.readouterr()
    evaluate.run(
        EvaluateCheckpointConfig(checkpoint_dir=str(tiny_run), device="cpu", **asked),
    )
    report = json.loads(capfd.readouterr().out)["tasks"][labelled_file.stem]
    figures = found["figures"]["accuracy"]
    assert figures["a"] == pytest.approx(report["acc"])
    swapped = other_way["figures"]["accuracy"]
    assert (swapped["b"], swapped["a"]) == (figures["a"], figures["b"])
    for name in "ab":
        right = [item[name]["label"] == item["label"] for item in found["items"]]
        assert sum(right) / len(right) == pytest.approx(figures[name])
    status, out, err = cli("compare", tiny_run, classifier_run, labelled_file)
    assert status == 0, err
    assert "McNemar's" in out


@pytest.mark.parametrize(
    ("headline", "num_items", "p_value", "said"),
    [
        ("accuracy", 40, 0.06, "within chance, by McNemar's test"),
        ("accuracy", 6, 0.03, "B is better, beyond chance"),
        ("chrf", 3, None, "3 items are too few to tell"),
        ("chrf", 40, None, "B is better, beyond chance"),
    ],
)
def test_what_is_called_beyond_chance(headline, num_items, p_value, said):
    record = {"headline": headline, "num_items": num_items}
    if p_value is not None:
        record["mcnemar"] = {"p_value": p_value}
    assert said in verdict(record, Difference(0.1, 0.2, 0.1, (0.1, 0.1), 100.0, (90.0, 110.0)))


def test_what_is_asked_by_prompts_is_not_of_classifiers(classifier_run, labelled_file, cli):
    status, out, err = cli("compare", classifier_run, classifier_run, labelled_file, "shots=2")
    assert (status, out) == (2, "")
    assert "shots is for language models, and both are classifiers" in err


def test_held_out_text_by_hand(tiny_run, tiny_corpus, record):
    checkpoint = load_checkpoint(tiny_run)
    text = next(iter(passages(next(Corpus.open(tiny_corpus).documents("validation")).text)))
    ids = checkpoint.tokenizer.encode(text)
    length = checkpoint.model.config.context_length
    whole = torch.tensor([checkpoint.tokenizer.end_id, *ids])
    expected = 0.0
    assert len(ids) > length
    for begin in range(0, len(ids), length):
        window = whole[begin : begin + length + 1]
        with torch.no_grad():
            logits = checkpoint.model.logits(checkpoint.model(window[None, :-1]))[0]
        expected += float(torch.nn.functional.cross_entropy(logits, window[1:], reduction="sum"))
    machine = Machine(torch.device("cpu"), torch.float32, 256)
    assert passage_nats(checkpoint, ["", text], machine).tolist() == pytest.approx([0, expected])
    early = checkpoint_dirs(tiny_run)[0]
    found = record(early, tiny_run, max_items=8, max_new_tokens=2)
    assert found["data"] == str(tiny_corpus)
    assert found["figures"]["bits_per_byte"]["improvement_percent"] > 0
    assert found["num_items"] == len(found["items"]) == 8


def test_answers(instruct_run, tiny_run, instruct_file, record):
    found = record(tiny_run, instruct_run, data=str(instruct_file), max_items=6, max_new_tokens=4)
    references = [item["reference"] for item in found["items"]]
    for name in "ab":
        answers = [item[name]["answer"] for item in found["items"]]
        for figure, measure in text_metrics(answers, references).items():
            assert found["figures"][figure][name] == pytest.approx(measure.value)
    bits = found["figures"]["answer_bits_per_byte"]
    assert bits["b"] < bits["a"]


def test_questions_with_choices(tiny_run, tmp_path, record, capfd):
    rows = [
        {"query": f"The {number} words of", "choices": ["a list are", "it"], "gold": number % 2}
        for number in range(9)
    ]
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    early = checkpoint_dirs(tiny_run)[0]
    found = record(early, tiny_run, data=str(path))
    for name, place in (("a", early), ("b", tiny_run)):
        capfd.readouterr()
        evaluate.run(
            EvaluateCheckpointConfig(checkpoint_dir=str(place), data=str(path), device="cpu")
        )
        report = json.loads(capfd.readouterr().out)["tasks"]["questions"]
        for figure in ("acc", "acc_norm"):
            assert found["figures"][figure][name] == report[figure]
    assert [item["answer"] for item in found["items"][:2]] == ["a list are", "it"]
    assert found["mcnemar"]["only_a"] + found["mcnemar"]["only_b"] <= 9


def test_what_cannot_be_compared(classifier_run, tiny_run, instruct_file):
    for a, b, data, told in (
        (classifier_run, tiny_run, None, "is a classifier"),
        (tiny_run, classifier_run, instruct_file, "is a classifier"),
        (classifier_run, classifier_run, instruct_file, "prompts with answers"),
        (None, tiny_run, None, "two checkpoints"),
    ):
        names = {"checkpoint_a": a and str(a), "checkpoint_b": str(b), "data": data and str(data)}
        with pytest.raises(UserError, match=told):
            compare.run(CompareConfig(**names))
