"""What a model is able to do: figures equal to the harness's, chance, and what is refused."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmstages.data.tasks import read_task
from llmstages.evaluate.abilities import measures_of
from llmstages.evaluate.continuations import Subject, continuation_scores
from llmstages.train.checkpoint import load_checkpoint

CHOICES = [
    {"query": "Question: What is an integer?", "choices": ["a number", "a lion — big"], "gold": 0},
    {"query": "Question: Is a tuple a list?\n", "choices": ["no", "yes, it is", "so"], "gold": 1},
    {"query": "The lion is", "choices": ["in the garden", "an é integer é"], "gold": 0},
    {"query": "Strings are", "choices": ["sequences of characters", "lists"], "gold": 1},
]
SENTENCES = [
    {"sentence_good": "The list is long.", "sentence_bad": "The list are long."},
    {"sentence_good": "An integer is", "sentence_bad": "Integers a is it"},
]
WORDS = [
    {"context": "The following example shows the use of", "continuation": "the"},
    {"context": "If the expression is", "continuation": "not"},
    {"context": "An object of the same", "continuation": "type"},
    {"context": "a" * 300, "continuation": "a"},
]


def written(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def subject(tiny_run: Path) -> Subject:
    checkpoint = load_checkpoint(tiny_run)
    return Subject(checkpoint.model, checkpoint.tokenizer, torch.device("cpu"), batch_tokens=128)


@pytest.mark.filterwarnings("default")  # of datasets, evaluate and others
def test_the_figures_are_those_of_the_harness(
    tiny_run: Path, subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval")
    import datasets
    import lm_eval
    import yaml
    from lm_eval.tasks import TaskManager

    logging.disable(logging.WARNING)
    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)
    files = {
        "choices": written(tmp_path / "choices.jsonl", CHOICES),
        "sentences": written(tmp_path / "sentences.jsonl", SENTENCES),
        "words": written(tmp_path / "words.jsonl", WORDS),
    }
    both = [{"metric": "acc"}, {"metric": "acc_norm"}]
    query = "{{query.strip() + '\nAnswer:' if query.startswith('Question:') else query}}"
    tasks: dict[str, dict[str, Any]] = {
        "choices": {
            "output_type": "multiple_choice",
            "doc_to_text": query,
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "{{gold}}",
            "metric_list": both,
        },
        "sentences": {
            "output_type": "multiple_choice",
            "doc_to_text": "",
            "doc_to_choice": "{{[sentence_good, sentence_bad]}}",
            "doc_to_target": 0,
            "metric_list": both,
        },
        "words": {
            "output_type": "loglikelihood",
            "doc_to_text": "{{context}}",
            "doc_to_target": "{{' ' + continuation}}",
            "metric_list": [{"metric": "acc"}, {"metric": "perplexity"}],
        },
    }
    for name, task in tasks.items():
        source = {
            "dataset_path": "json",
            "dataset_kwargs": {
                "data_files": {"test": str(files[name])},
                "cache_dir": str(tmp_path),
            },
            "test_split": "test",
        }
        text = yaml.safe_dump({"task": name, **source, **task})
        (tmp_path / f"{name}.yaml").write_text(text)
    theirs = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str((tiny_run / "best").resolve()), "device": "cpu"},
        tasks=list(tasks),
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        bootstrap_iters=0,
        log_samples=True,
    )
    for name, path in files.items():
        task = read_task(path)
        measures = measures_of(subject, task)
        for figure in ("acc", "perplexity") if name == "words" else ("acc", "acc_norm"):
            expected = theirs["results"][name][f"{figure},none"]
            assert measures[figure].value == pytest.approx(expected, rel=1e-5), (name, figure)
            if figure != "perplexity":
                samples = [sample[figure] for sample in theirs["samples"][name]]
                assert measures[figure].statistics[:, 0].tolist() == samples, (name, figure)
        scores = continuation_scores(
            subject,
            [(item.prompt, f" {choice}") for item in task.items for choice in item.choices],
        )
        given = [pair for sample in theirs["samples"][name] for pair in sample["filtered_resps"]]
        assert scores == pytest.approx(np.array(given, dtype=float), rel=1e-5), name
