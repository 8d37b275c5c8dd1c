"""A classifier on a labelled file: the report, what is required of it, labels it has not."""

import json

import pytest

from llmstages.errors import UserError
from llmstages.evaluate.requirements import read_requirement


def test_the_figures_are_those_of_the_run_on_its_test_rows(cli, classifier_run, tmp_path):
    rows = (classifier_run / "predictions.jsonl").read_text("utf-8")
    path = tmp_path / "test.jsonl"
    path.write_text(rows, encoding="utf-8")
    metrics = json.loads((classifier_run / "summary.json").read_text("utf-8"))["metrics"]
    bounds = f"macro_f1>={metrics['macro_f1']},log_loss<=99"
    status, out, err = cli("evaluate", classifier_run, path, f"require={bounds}")
    assert status == 0, err
    report = json.loads(out)
    assert report["skipped_rows"] == 0
    for name, value in metrics.items():
        if isinstance(value, float):
            assert report[name] == pytest.approx(value, abs=1e-6), name
    assert report["confusion"] == metrics["confusion"]
    assert "most confident mistakes" in err or metrics["accuracy"] == 1

    bounds = "[macro_f1>=1.01,accuracy>=0]"
    status, out, err = cli("evaluate", classifier_run, path, f"require={bounds}", "output=r.json")
    assert (status, out) == (1, "")
    last = err.splitlines()[-1]
    assert last.startswith(
        f"error: {classifier_run} on {path}: macro_f1 is {metrics['macro_f1']:.6g}"
    )
    assert last.endswith("(macro_f1>=1.01 is required)")
    assert json.loads((tmp_path / "r.json").read_text("utf-8")) == report


def test_an_unknown_label(cli, classifier_run, tmp_path):
    path = tmp_path / "test.csv"
    path.write_text("text,label\na b,strings\nc d,string\n", encoding="utf-8")
    status, out, err = cli("evaluate", classifier_run, path)
    assert (status, out) == (2, "")
    assert f"{path}:3: the classifier has no label 'string': did you mean 'strings'?" in err
    bound = "require=roc_auc>=0.5"
    status, out, err = cli("evaluate", classifier_run, path, "bad_rows=skip", bound)
    report = json.loads(out)
    assert (report["skipped_rows"], report["num_examples"], report["roc_auc"]) == (1, 1, None)
    assert status == 1
    assert "roc_auc has no value" in err


def test_a_classifier_needs_one_file(cli, classifier_run, labelled_file):
    for files in ((), (labelled_file, labelled_file)):
        status, _, err = cli("evaluate", classifier_run, *files)
        assert status == 2
        assert "a classifier is evaluated on one file with labels" in err
    status, _, err = cli("evaluate", classifier_run, labelled_file, "shots=2")
    assert status == 2
    assert "shots=2 is for language models" in err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("macro_f2>=0.9", "did you mean macro_f1"),
        ("macro_f1>0.9", "write a figure"),
        ("macro_f1", "write a figure"),
        ("ece<=nan", "write a figure"),
    ],
)
def test_what_is_no_requirement(text, said):
    with pytest.raises(UserError, match=said):
        read_requirement(text, ["accuracy", "macro_f1", "ece"])


@pytest.mark.parametrize(
    ("figure", "figures", "why"),
    [
        ("mean_average_precision", {}, "where each label is that of every row or of none"),
        ("accepted_accuracy", {"coverage": 0.0}, "where every text is out of scope"),
        ("accepted_accuracy", {}, "without an out-of-scope rule"),
    ],
)
def test_why_a_figure_has_no_value(figure, figures, why):
    failure = read_requirement(f"{figure}>=0.5", [figure]).failure(figures)
    assert failure == f"{figure} has no value {why} ({figure}>=0.5 is required)"
