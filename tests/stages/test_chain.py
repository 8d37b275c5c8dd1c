"""`inspect CHECKPOINT` tells of the chain from raw text, what has changed in it, and which test
items stand in the text."""

import gzip
import json
import re
import shutil
from itertools import islice
from pathlib import Path

import pytest
import yaml

from llmstages.config.uses import InspectConfig
from llmstages.data.corpus import Corpus
from llmstages.errors import UserError
from llmstages.stages import inspect
from llmstages.stages.lineage.chain import Cost, chain_of, cost_of
from llmstages.stages.lineage.overlap import find_overlap


@pytest.fixture
def record(capfd):
    """record(path, **settings): the JSON of `inspect`."""

    def make(path, **settings):
        capfd.readouterr()
        inspect.run(InspectConfig(path=str(path), json=True, **settings))
        return json.loads(capfd.readouterr().out)

    return make


@pytest.fixture
def whole_chain(tiny_run, classifier_run, tiny_corpus, tmp_path):
    """A classifier, its base and the corpus of that, all to be changed."""
    corpus = Path(shutil.copytree(tiny_corpus, tmp_path / "corpus"))
    copies = [
        Path(shutil.copytree(run, tmp_path / run.name, symlinks=True))
        for run in (classifier_run, tiny_run)
    ]
    for run, key, place in zip(copies, ("base", "data"), (copies[1], corpus), strict=True):
        path = run / "config.yaml"
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        path.write_text(yaml.safe_dump({**config, key: str(place)}), encoding="utf-8")
    return *copies, corpus


def states(step):
    return {link["what"]: link["state"] for link in step["links"]}


def test_the_chain_from_raw_text(whole_chain, labelled_file, record):
    run, _, corpus = whole_chain
    found = record(run / "best")
    collect, pretrain, finetune = found["chain"]
    assert [step["kind"] for step in found["chain"]] == ["collect", "pretrain", "finetune-classify"]
    manifest = Corpus.open(corpus).manifest
    assert [source["license"] for source in collect["sources"]] == [
        source.license for source in manifest.sources
    ]
    assert collect["facts"]["filters"]["quality"]["name"] == "default"
    assert set(states(collect).values()) == {"as recorded"}
    assert states(finetune) == dict.fromkeys(("weights", "tokenizer", "data"), "as recorded")
    summaries = [json.loads((each / "summary.json").read_text()) for each in whole_chain[:2]]
    for step, summary in zip((finetune, pretrain), summaries, strict=True):
        assert step["cost"]["seconds"] == summary["seconds"]
        assert (step["date"], step["command"]) == (summary["date"], summary["command"])
    assert found["context_length"] == summaries[0]["model_shape"]["context_length"]
    assert all(re.fullmatch(r"[a-z0-9_]+", key) for key in found), found.keys()
    assert found["cost"]["tokens"] == sum(summary["tokens"] for summary in summaries)
    assert found["overlap"]["data"] == str(run / "predictions.jsonl")
    assert found["overlap"]["num_items"] == summaries[0]["metrics"]["num_examples"]
    assert "learnt" not in found["overlap"]
    assert finetune["facts"]["test_accuracy"] == summaries[0]["metrics"]["accuracy"]
    assert 0 <= found["validation_accuracy"] <= 1
    asked = record(run / "best", data=str(labelled_file), check="off")["overlap"]
    assert asked["learnt"] == list(range(1, 61))
    rows = [json.loads(line) for line in labelled_file.read_text("utf-8").splitlines()[:2]]
    other = run / "other.jsonl"
    texts = [rows[0]["text"].upper(), "never seen", rows[1]["text"]]
    other.write_text("".join(json.dumps({"id": "x", "text": t}) + "\n" for t in texts), "utf-8")
    assert record(run / "best", data=str(other), check="off")["overlap"]["learnt"] == [1, 3]


def test_what_has_changed_or_gone_is_told(whole_chain, record):
    run, base, corpus = whole_chain
    (tokens,) = corpus.glob("tokens/*/train-texts.bin")
    data = bytearray(tokens.read_bytes())
    data[0] ^= 1
    tokens.write_bytes(data)
    collect, *_ = record(run)["chain"]
    assert "changed" in [link["state"] for link in collect["links"]]
    manifest = corpus / "manifest.json"
    manifest.write_text(manifest.read_text("utf-8").replace('"tiny"', '"other"'), "utf-8")
    found = record(run)
    assert states(found["chain"][0])["corpus manifest"] == "changed"
    assert "unchanged" in found["overlap"]["not_known"]
    for path in base.glob("checkpoints/*/model.safetensors"):
        damaged = bytearray(path.read_bytes())
        damaged[-1] ^= 1
        path.write_bytes(damaged)
    assert states(record(run)["chain"][1])["weights"] == "changed"
    shutil.rmtree(corpus)
    assert states(record(run)["chain"][0]) == {"corpus manifest": "not there"}
    shutil.rmtree(base)
    lost, finetune = record(run)["chain"]
    assert states(lost) == {"weights": "not there"}
    assert finetune["kind"] == "finetune-classify"
    alone = shutil.copytree(run / "best", run.parent / "alone")
    (step,) = record(alone)["chain"]
    assert "its run is not beside it" in step["notes"][0]


def test_items_that_stand_in_the_corpus(tiny_run, tiny_corpus, tmp_path, record, cli):
    first, second = list(Corpus.open(tiny_corpus).documents("train"))[:2]
    words = first.text.split()
    rows = [
        " ".join(words[20:33]).upper() + "!!",  # 13 words
        " ".join(words[20:32]) + " otherwise",  # 12 of them, and another
        " ".join(second.text.split()[3:11]),  # 8 words, all of the item
        "Seven words are too few for this",
    ]
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), encoding="utf-8")
    found = record(tiny_run, data=str(path))["overlap"]
    assert (found["overlapping"], found["too_short"]) == ([1, 3], [4])
    assert found["percent"] == pytest.approx(200 / 3)
    assert found["examples"][0]["document"] == first.id
    assert found["examples"][0]["text"].split() == words[20:33]
    status, out, err = cli("inspect", tiny_run, f"data={path}")
    assert status == 0, err
    assert "2 of 3 items" in " ".join(out.split())


def test_items_in_a_folder_of_texts_and_recorded_ones_that_cannot_be_read(
    whole_chain, tmp_path, record
):
    run, _, corpus = whole_chain
    (document,) = islice(Corpus.open(corpus).documents("train"), 1)
    words = document.text.split()
    for name, text in {
        "yes/1.txt": "Other words first.\n\n" + " ".join(words[20:40]),
        "no/1.txt": "One paragraph of it that stands nowhere.\n\nAnother one that does not.",
        "no/2.eml": "From: a@example.org\nSubject: x\n\nNothing of this is found anywhere.\n",
    }.items():
        path = tmp_path / "texts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for folder, num_items in (("texts", 3), ("texts/no", 2)):  # with a folder a label, and without
        found = record(run / "best", data=str(tmp_path / folder))["overlap"]
        assert (found["num_items"], len(found["overlapping"])) == (num_items, num_items - 2)
    # Of the run's own test rows it is said why they are not looked for.
    recorded = tmp_path / "test.jsonl.gz"
    path = run / "config.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump({**config, "test_data": str(recorded)}), encoding="utf-8")
    for content, reason in ((b"", "the file is empty"), (gzip.compress(b"{}")[:12], "cut-off")):
        recorded.write_bytes(content)
        assert reason in record(run / "best")["overlap"]["not_known"]
        with pytest.raises(UserError, match=reason):
            record(run / "best", data=str(recorded))


def test_words_that_many_documents_have_are_told_apart(tmp_path):
    class Documents:
        def documents(self, split, columns):
            from llmstages.data.corpus import Document

            common = "all rights reserved no part of this may be copied in any form whatever"
            yield from (Document(id=str(number), text=common) for number in range(11))
            yield Document(id="other", text=f"{common}. " + "one two three four five six seven ate")

    rows = [
        ["No part of this may be copied in any form!"],
        ["one two three four five six seven ate"],
    ]
    found = find_overlap(rows, [Documents()], num_examples=1)
    assert (found.overlapping, found.common) == ([1, 2], [1])


def test_a_corpus_below_the_home(whole_chain, record, cli, monkeypatch):
    run, base, corpus = whole_chain
    monkeypatch.setenv("HOME", str(corpus.parent))
    path = base / "config.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump({**config, "data": f"~/{corpus.name}"}), encoding="utf-8")
    assert states(record(run)["chain"][0])["corpus manifest"] == "as recorded"
    status, out, err = cli("evaluate", base, f"~/{corpus.name}", "max_tokens=256")
    assert status == 0, err
    assert f"{corpus.name}/all" in json.loads(out)["tasks"]
    status, _, err = cli("report", run, 'output="~/page.html"')
    assert status == 0, err
    assert corpus.name in (corpus.parent / "page.html").read_text("utf-8")


def test_energy_and_money_of_a_run(tiny_run):
    summary = json.loads((tiny_run / "summary.json").read_text())
    machine = {"device": "NVIDIA H100 80GB", "processes": 2}
    cost = cost_of({**summary, "seconds": 7200, "machine": machine}, 3.0)
    assert (cost.kwh, cost.money) == (pytest.approx(2.8), 6.0)
    assert cost.flops > 6 * summary["tokens"] * 10_000
    assert cost_of({}, 3.0) == Cost()


def test_what_is_no_checkpoint(tiny_corpus, tiny_run):
    for path, settings in ((tiny_corpus, {"json": True}), (tiny_run, {"data": "missing.jsonl"})):
        with pytest.raises(UserError, match=r"is for a checkpoint|no such file"):
            inspect.run(InspectConfig(path=str(path), **settings))
    assert chain_of(tiny_run / "best", check="off").steps[0].links[0].found is not None
