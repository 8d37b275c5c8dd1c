"""The evaluation harness has the same figures of a directory by our model and by its own."""

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from llmstages.data.tasks import Task, read_task
from llmstages.errors import UserError
from llmstages.evaluate import harness
from llmstages.evaluate.abilities import measures_of
from llmstages.evaluate.continuations import Subject, continuation_scores
from llmstages.text.chat import Message, render
from llmstages.text.templates import TemplateProcess
from llmstages.train.checkpoint import load_checkpoint

pytest.importorskip("lm_eval")
pytestmark = pytest.mark.filterwarnings("default")  # of datasets, evaluate and others

TEXTS = [
    "An integer is a number. " * 12,
    " strings and lists\n\nare sequences, and so are tuples; " * 5,
    "The lion is",
    "a",
]
TASKS = {
    "choices": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{text[:60]}}\nAnswer:",
        "doc_to_choice": ["A", " B", " a longer choice", " C"],
        "doc_to_target": "{{number % 4}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "sentences": {
        "output_type": "multiple_choice",
        "doc_to_text": "",
        "doc_to_choice": "{{[text[:20], 'é lion is']}}",
        "doc_to_target": 0,
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "words": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{text}} the",
        "doc_to_target": " is",
        "metric_list": [{"metric": "acc"}, {"metric": "perplexity"}],
    },
    "perplexity": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "answers": {
        "output_type": "generate_until",
        "doc_to_text": "{{text}}",
        "doc_to_target": "{{text}}",
        "generation_kwargs": {"until": ["e", "\n\n"], "max_gen_toks": 20},
        "metric_list": [{"metric": "exact_match"}],
    },
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The harness's tasks, which are these alone: files on this disk."""
    from lm_eval.tasks import TaskManager

    folder = tmp_path_factory.mktemp("tasks")
    rows = [{"number": number, "text": text} for number, text in enumerate(TEXTS)]
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, task in TASKS.items():
        source = {
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder)},
            "test_split": "test",
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"task": name, **source, **task}))
    return TaskManager(include_path=str(folder), include_defaults=False)


@pytest.fixture
def evaluated(tasks: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """evaluated(model, arguments): all figures of the tasks, and every answer."""
    import datasets

    # It tells its makers of every data set that is read, of one's own files too.
    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)

    def evaluate(model: str, **arguments: object) -> dict[str, Any]:
        import lm_eval

        import llmstages.evaluate.harness_model  # noqa: F401

        found = lm_eval.simple_evaluate(
            model=model,
            model_args={**arguments, "device": "cpu"},
            tasks=list(TASKS),
            task_manager=tasks,
            bootstrap_iters=0,
            batch_size=3,
            log_samples=True,
        )
        responses = {
            name: [sample["filtered_resps"] for sample in samples]
            for name, samples in found["samples"].items()
        }
        return {"results": found["results"], "responses": responses}

    return evaluate


def numbers(value: object, path: str = "") -> dict[str, object]:
    """The leaves of a structure, by their places."""
    if isinstance(value, dict):
        parts = list(value.items())
    elif isinstance(value, (list, tuple)):
        parts = list(enumerate(value))
    else:
        return {path: value}
    return {k: v for key, part in parts for k, v in numbers(part, f"{path}/{key}").items()}


def our_task(name: str, folder: Path) -> Task:
    """The same questions in a file as `llmstages evaluate` reads it."""
    choices = TASKS["choices"]["doc_to_choice"]
    rows = [
        {
            "choices": {"query": f"{text[:60]}\nAnswer:", "choices": choices, "gold": number % 4},
            "sentences": {"sentence_good": text[:20], "sentence_bad": "é lion is"},
            "words": {"context": f"{text} the", "continuation": "is"},
        }[name]
        for number, text in enumerate(TEXTS)
    ]
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_task(path)


def test_every_figure_is_that_of_the_harness(
    tiny_run: Path, evaluated: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    logging.disable(logging.WARNING)
    ours = numbers(evaluated("llmstages", checkpoint=str(tiny_run)))
    found = evaluated("hf", pretrained=str((tiny_run / "best").resolve()))
    theirs = numbers(found)
    assert ours.keys() == theirs.keys()
    assert len(ours) > 50
    for place, value in theirs.items():
        expected = pytest.approx(value, rel=1e-5) if isinstance(value, float) else value
        assert ours[place] == expected, place
    answers = [value for place, value in ours.items() if place.startswith("/responses/answers")]
    assert len(set(answers)) > 1

    checkpoint = load_checkpoint(tiny_run)
    subject = Subject(
        *(checkpoint.model, checkpoint.tokenizer, torch.device("cpu")), batch_tokens=128, quiet=True
    )
    for name in ("choices", "sentences", "words"):
        task = our_task(name, tmp_path)
        for figure, measure in measures_of(subject, task).items():
            expected = found["results"][name][f"{figure},none"]
            assert measure.value == pytest.approx(expected, rel=1e-5), (name, figure)
        pairs = [
            (task.prompt(index), f" {choice}")
            for index, item in enumerate(task.items)
            for choice in item.choices
        ]
        scores = [score for response in found["responses"][name] for score in response]
        assert continuation_scores(subject, pairs) == pytest.approx(
            np.array(scores, dtype=float), rel=1e-5
        ), name


def test_conversations_are_written_as_the_checkpoint_reads_them(instruct_run: Path) -> None:
    from llmstages.evaluate.harness_model import HarnessModel

    model = HarnessModel(str(instruct_run), device="cpu")
    turns = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "What is x?"}]
    tokenizer = load_checkpoint(instruct_run).tokenizer
    ids, _ = render([Message(**turn) for turn in turns], tokenizer, open_answer=True)  # type: ignore
    assert model.tok_encode(model.apply_chat_template(turns)) == ids
    going_on = model.apply_chat_template(turns, add_generation_prompt=False)
    assert going_on.endswith("What is x?")


@pytest.fixture
def model(tiny_run: Path) -> Any:
    """A model that reads 64 tokens, several texts at a time."""
    from llmstages.evaluate.harness_model import HarnessModel

    return HarnessModel(str(tiny_run), device="cpu", batch_size="auto")


def test_a_continuation_fills_the_context_at_most(model: Any) -> None:
    fitting = (None, [], [5] * model.max_length)  # without a context: after the prefix
    (after_prefix,) = model._loglikelihood_tokens([fitting])
    assert model._loglikelihood_tokens([(None, [5, model.prefix_token_id], fitting[2])]) == [
        after_prefix
    ]
    with pytest.raises(UserError, match="65 tokens of a continuation do not fit the context of 64"):
        model._loglikelihood_tokens([fitting, (None, [5], [5] * (model.max_length + 1))])


def test_nothing_is_certain_to_follow(model: Any) -> None:
    from lm_eval.api.instance import Instance

    def scored(*texts: tuple[str, str]) -> list[tuple[float, bool]]:
        requests = [Instance("loglikelihood", {}, pair, 0) for pair in texts]
        found: list[tuple[float, bool]] = model.loglikelihood(requests)
        return found

    nothing = (0.0, True)
    assert scored(("", "")) == scored(("The lion", "")) == [nothing]
    (some,) = scored(("The lion", " is"))
    assert scored(("The lion", ""), ("The lion", " is"), ("", "")) == [nothing, some, nothing]
    assert some < nothing


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "which model"),
        ({"checkpoint": "a", "pretrained": "b"}, "which model"),
        ({"checkpoint": "a", "parallelize": True}, "model_args parallelize: not known"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"batch_size": "auto", "max_batch_size": 0}, "batch_size 0"),
    ],
)
def test_model_args_that_cannot_be_met_are_refused(
    tiny_run: Path, arguments: dict[str, Any], said: str
) -> None:
    from llmstages.evaluate.harness_model import HarnessModel

    if "batch_size" in arguments:
        arguments = {"pretrained": str(tiny_run), "trust_remote_code": True, **arguments}
    with pytest.raises(UserError, match=said):
        HarnessModel(device="cpu", **arguments)


def test_wishes_that_change_nothing_are_met(model: Any) -> None:
    from lm_eval.api.instance import Instance

    def answered(**wishes: object) -> list[str]:
        wishes = {"max_gen_toks": 5, "do_sample": True, **wishes}
        request = Instance("generate_until", {}, ("The lion is", wishes), 0)
        found: list[str] = model.generate_until([request])
        return found

    plain = answered()
    assert plain != [""]
    neutral = {"repetition_penalty": 1.0, "num_beams": 1, "min_p": 0.0, "max_tokens": None}
    assert answered(top_k=-1, **neutral) == answered(top_k=0) == plain
    assert answered(max_gen_toks=0) == [""]
    for wish in ({"num_beams": 2}, {"max_gen_toks": -1}):
        with pytest.raises(UserError, match="generation_kwargs"):
            answered(**wish)


def test_prompts_that_are_cut_are_counted(model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from lm_eval.api.instance import Instance

    model._loglikelihood_tokens([(None, [5] * length, [6]) for length in (63, 64, 65, 70)])
    assert "2 of 4 prompts are longer than fits the context of 64" in capsys.readouterr().err
    wishes = {"max_gen_toks": 1}
    lion, lions = "The lion is", "The lion is " * 64
    requests = [Instance("generate_until", {}, (text, wishes), 0) for text in (lion, lions, lion)]
    model.generate_until(requests)
    assert "1 of 3 prompts are longer" in capsys.readouterr().err
    model.generate_until(requests[:1])
    assert "prompts" not in capsys.readouterr().err


def test_a_template_without_a_system_gets_none(
    model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        "{% for m in messages %}{% if m.role != 'user' %}{{ raise_exception('No ' + m.role) }}"
        "{% endif %}[{{ m.content }}]{% endfor %}"
    )
    model._template = TemplateProcess(Path("its.json"), text)
    turns = [{"role": role, "content": role.upper()} for role in ("system", "user", "assistant")]
    assert model.apply_chat_template(turns[:2]) == "[USER]"
    assert model.apply_chat_template(turns[:2], add_generation_prompt=False) == "[USER"
    assert capsys.readouterr().err.count("No system") == 1
    with pytest.raises(UserError, match=r"refuses a conversation: .*No assistant"):
        model.apply_chat_template(turns)


def test_the_command_knows_the_model(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import lm_eval.__main__
    from lm_eval.api.registry import get_model

    made = []

    def cli_evaluate() -> None:  # the real one reads thousands of files of tasks
        get_model("hf")
        arguments = {"checkpoint": sys.argv[1]}
        device = {"device": "cuda:0"}  # as it does by itself, on any machine
        made.append(get_model("llmstages").create_from_arg_obj(arguments, device))

    def status(checkpoint: str) -> int:
        monkeypatch.setattr(sys, "argv", ["llmstages-lm-eval", checkpoint])
        return harness.main()

    monkeypatch.setattr(lm_eval.__main__, "cli_evaluate", cli_evaluate)
    assert status(str(tiny_run)) == 0
    assert made[0].max_length == 64
    with monkeypatch.context() as several:
        several.setenv("WORLD_SIZE", "2")
        assert status(str(tiny_run)) == 2
    assert capsys.readouterr().err.endswith("runs in one process: start it without torchrun\n")
    assert status("nowhere") == 2
    assert capsys.readouterr().err.startswith("error: nowhere: no such checkpoint")
    monkeypatch.setitem(sys.modules, "lm_eval.__main__", None)
    assert status(str(tiny_run)) == 2
    assert "pip install 'llmstages[harness]'" in capsys.readouterr().err
