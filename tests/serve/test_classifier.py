"""A classifier behind HTTP says what `llmstages predict` says."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from llmstages.stages.predict import Classifier
from llmstages.train.checkpoint import load_checkpoint, save_checkpoint

TEXTS = ["a quoted string", "", "for x in 1, 2, 3", "word " * 300, "한국어"]


def predicted(cli, run, path, texts):
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
    lines = cli("predict", run, path)[1].splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "id"} for line in lines]


def nearly(prediction):
    return prediction | {"probabilities": pytest.approx(prediction["probabilities"], abs=1e-5)}


def test_labels_are_those_of_predict_whoever_else_asks(cli, classifying, classifier_run, tmp_path):
    expected = predicted(cli, classifier_run, tmp_path / "texts.jsonl", TEXTS)
    status, _, said = classifying.call("POST", "/classify", {"texts": TEXTS})
    assert status == 200
    assert said["predictions"] == [nearly(one) for one in expected]
    assert (said["model"], said["labels"], said["decision"]) == (
        "kinds",
        ["integers", "strings"],
        {},
    )
    with ThreadPoolExecutor(20) as pool:
        found = list(
            pool.map(
                lambda i: classifying.call("POST", "/classify", {"text": TEXTS[i % 5]}), range(20)
            )
        )
    for i, (status, _, said) in enumerate(found):
        assert status == 200
        assert {key: said[key] for key in ("label", "probabilities")} == nearly(expected[i % 5])


def test_the_rule_and_what_is_out_of_scope(cli, serving, classifier_run, tmp_path):
    loaded = load_checkpoint(classifier_run)
    rule = {"positive": 1, "threshold": 0.001, "min_probability": 0.9999}
    record = {
        "decision": rule,
        "text_columns": ["title", "body"],
        "text_template": "{title}: {body}",
    }
    info = replace(loaded.info, classifier=loaded.info.classifier | record)
    run = tmp_path / "kinds"
    save_checkpoint(run, loaded.model, loaded.tokenizer, info, labels=loaded.labels)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"title": "a", "body": "quoted string"}\n', encoding="utf-8")
    expected = json.loads(cli("predict", run, rows)[1])
    assert expected["out_of_scope"] is True
    with serving(run) as server:
        row = {"title": "a", "body": "quoted string"}
        said = server.call("POST", "/classify", {"text": row})[2]
        names = ("label", "out_of_scope", "score")
        assert [said[k] for k in names] == [
            None,
            True,
            pytest.approx(expected["score"], abs=1e-5),
        ]
        assert said["decision"] == rule
        status, _, said = server.call("POST", "/classify", {"text": "a"})
        assert (status, "an object with title, body" in said["error"]["message"]) == (400, True)
        status, _, said = server.call("POST", "/classify", {"texts": [{"title": "a"}]})
        assert (status, said["error"]["message"]) == (400, "a text lacks body")


def test_elsewhere_it_says_what_it_is(classifying):
    for path in ("/v1/chat/completions", "/v1/completions"):
        status, _, said = classifying.call("POST", path, {"prompt": "a"})
        assert (status, said["error"]["code"]) == (400, "classifier")
        assert "POST /classify" in said["error"]["message"]
    assert "POST /classify" in classifying.call("GET", "/")[2]
    assert classifying.call("GET", "/v1/models")[2]["data"][0]["id"] == "kinds"
    assert classifying.call("GET", "/health")[0] == 200


def test_limits(classifying, monkeypatch):
    def ask(body):
        status, headers, said = classifying.call("POST", "/classify", body)
        return status, said.get("error", {}).get("message", ""), headers

    assert ask({})[:2] == (400, 'give {"text": ...} or {"texts": [...]}')
    assert ask({"text": 5})[0] == ask({"text": "a", "more": 1})[0] == 400
    assert ask({"texts": ["a"] * 31})[:2] == (400, "texts: at most 30 at once")
    assert ask({"texts": []})[0] == 200
    gate, predict = threading.Event(), Classifier.predict
    monkeypatch.setattr(Classifier, "predict", lambda *given: gate.wait(20) and predict(*given))
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(ask, {"texts": ["a"] * 17})]
        classifying.wait_until(lambda: len(classifying.service._waiting) == 13)
        waiting += [pool.submit(ask, {"texts": ["a"] * 17})]
        classifying.wait_until(lambda: len(classifying.service._waiting) == 30)
        status, _, headers = ask({"text": "one more"})
        assert (status, headers["retry-after"]) == (429, "1")
        gate.set()
        assert [one.result()[0] for one in waiting] == [200, 200]
    monkeypatch.setattr(Classifier, "predict", lambda *given: 1 / 0)
    assert ask({"text": "a"})[:2] == (500, "the model failed")
