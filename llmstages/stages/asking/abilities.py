"""`llmstages evaluate` of a language model: what it is able to do that it was not tuned for."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llmstages.config.uses import EvaluateCheckpointConfig, QuestionsConfig
from llmstages.data.tasks import Reading, Task, as_template, read_task, with_shots
from llmstages.errors import UserError
from llmstages.evaluate.abilities import FIGURES, chances_of, fitting, measures_of
from llmstages.evaluate.bootstrap import Measure, summarised
from llmstages.evaluate.continuations import Subject
from llmstages.evaluate.held_out_words import held_out_words
from llmstages.evaluate.requirements import read_requirement
from llmstages.evaluate.text_metrics import require_text_metrics
from llmstages.report.terminal import cell_text, say, table
from llmstages.stages.shared.base_run import BaseText, text_of
from llmstages.stages.shared.rows import warn_if_learnt
from llmstages.stages.shared.setup import default_micro_batch_tokens
from llmstages.train.checkpoint import Checkpoint
from llmstages.train.device import choose_device, keep_freed_memory

HELD_OUT_FIGURES = ("bits_per_byte", "next_word_accuracy")
OF_CLASSIFIERS = ("head", "label_separator")


@dataclass(frozen=True)
class Asked:
    """What a model is asked: tasks by their names in the report, and texts by their corpora."""

    tasks: dict[str, Task]
    texts: dict[str, BaseText]


def evaluate(config: EvaluateCheckpointConfig, checkpoint: Checkpoint) -> "Evaluated":
    """Ask a language model what the config names.

    Raises:
        UserError: a file or corpus cannot be used, or `require` names no figure of them.
    """
    for key in OF_CLASSIFIERS:
        if getattr(config, key) is not None:
            raise UserError(
                f"{key}={getattr(config, key)} is for classifiers; {config.checkpoint_dir} is none"
            )
    asked = what_is_asked(config, checkpoint)
    names = _figure_names(asked)
    requirements = [read_requirement(text, names) for text in config.require]
    device = choose_device(config.device)
    keep_freed_memory(device)
    subject = Subject(
        checkpoint.model.to(device).eval(),
        checkpoint.tokenizer,
        device,
        torch.float32,
        config.micro_batch_tokens or default_micro_batch_tokens(device),
    )
    chat = {"on": True, "off": False}.get(config.chat, checkpoint.is_tuned)
    entries: dict[str, dict[str, Any]] = {}
    for name, task in asked.tasks.items():
        say(f"{name}: {len(task.items):,} questions")
        measures = measures_of(subject, task, max_new_tokens=config.max_new_tokens, chat=chat)
        entries[name] = {
            "kind": task.kind,
            "num_items": len(task.items),
            "skipped_rows": task.num_skipped,
            "shots": task.shots,
            **summarised(measures, config.seed),
            "chance": chances_of(task),
            **_by_file(task, measures),
        }
    for corpus, text in asked.texts.items():
        say(f"{corpus}: held-out text")
        found = held_out_words(
            subject,
            text.validation,
            max_tokens=config.max_tokens,
            mask_documents=text.mask_documents,
        )
        for source, figures in found.items():
            entries[f"{corpus}/{source}"] = {
                "kind": "held_out",
                "num_words": figures.num_words,
                **summarised(figures.measures, config.seed),
                "chance": figures.chances,
            }
    show(entries, f"{checkpoint.directory}: what it is able to do")
    found_figures = {
        f"{name}.{figure}": float(entry[figure])
        for name, entry in entries.items()
        for figure in entry["intervals"]
    }
    if len(entries) == 1:
        found_figures |= {name.rpartition(".")[2]: value for name, value in found_figures.items()}
    first = next(iter(entries.values()))
    return Evaluated(
        {"checkpoint": str(checkpoint.directory), "tasks": entries},
        [failure for r in requirements if (failure := r.failure(found_figures)) is not None],
        float(first[next(iter(first["intervals"]))]),
    )


@dataclass(frozen=True)
class Evaluated:
    """What came out."""

    report: dict[str, Any]
    failures: list[str]
    """What is not as `require` asks for."""
    headline: float
    """The first figure of the first task."""


def what_is_asked(config: EvaluateCheckpointConfig, checkpoint: Checkpoint) -> Asked:
    """Read all files that a config names, before anything is computed."""
    paths = config.data_paths
    if config.data is not None and not paths:
        raise UserError(f"data={config.data}: paths are needed")
    corpora = {path for path in paths if (Path(path).expanduser() / "manifest.json").is_file()}
    found: list[BaseText] = []
    for directory in [path for path in paths if path in corpora] if paths else [None]:
        text = text_of(checkpoint, directory)
        if not isinstance(text, BaseText):
            raise UserError(
                f"{config.checkpoint_dir}: its own corpus is not read ({text}): name files of "
                f"questions, or a corpus: llmstages evaluate {config.checkpoint_dir} FILE"
            )
        found.append(text)
    counts = Counter(text.corpus.name for text in found)
    texts = {
        (text.corpus.name if counts[text.corpus.name] == 1 else str(text.corpus.directory)): text
        for text in found
    }
    reading = reading_of(config)
    pool = None
    if config.shots_data is not None:
        pool = read_task(config.shots_data, reading, seed=config.seed, one_label=True)
    files = [path for path in paths if path not in corpora]
    tasks = []
    for path in files:
        task = read_task(path, reading, seed=config.seed, pool=pool)
        warn_if_learnt(checkpoint, config.checkpoint_dir, path)
        task = fitting(
            with_shots(task, config.shots, pool),
            checkpoint.tokenizer,
            checkpoint.model.config.context_length,
            config.bad_rows,
        )
        tasks.append(task.sample(config.max_items))
    kinds = sorted({task.kind for task in tasks})
    if config.template is not None and len(kinds) > 1:
        raise UserError(
            f"template={config.template!r} would be of files of several kinds "
            f"({', '.join(kinds)}): ask them one kind at a time"
        )
    if any(task.kind == "answers" for task in tasks):
        require_text_metrics()
    counts = Counter(task.name for task in tasks)
    named = {
        (task.name if counts[task.name] == 1 else path): task
        for path, task in zip(files, tasks, strict=True)
    }
    return Asked(named, texts)


def reading_of(config: QuestionsConfig) -> Reading:
    """How a config wants files of questions read."""
    return Reading(
        text_column=config.text_column,
        label_column=config.label_column,
        prompt_column=config.prompt_column,
        answer_column=config.answer_column,
        bad_rows=config.bad_rows,
        template=None if config.template is None else as_template(config.template),
        label_words=config.words_of_labels,
    )


def _figure_names(asked: Asked) -> list[str]:
    """The names by which `require` knows the figures of what is asked."""
    names = [f"{name}.{f}" for name, task in asked.tasks.items() for f in FIGURES[task.kind]]
    for corpus, text in asked.texts.items():
        sources = [shard.info.source for shard in text.validation]
        sources += ["all"] if len(sources) > 1 else []
        names += [f"{corpus}/{source}.{f}" for source in sources for f in HELD_OUT_FIGURES]
    one = len(asked.tasks) + sum(len(text.validation) for text in asked.texts.values()) == 1
    return [*names, *(name.rpartition(".")[2] for name in names if one)]


def _by_file(task: Task, measures: Mapping[str, Measure]) -> dict[str, Any]:
    """Of several files the first figure of each, and the mean over the files."""
    paths: Sequence[str] = list(dict.fromkeys(item.path for item in task.items))
    if len(paths) == 1:
        return {}
    measure = measures[FIGURES[task.kind][0]]
    folder = os.path.commonpath([str(Path(path).parent) for path in paths])
    names = {path: Path(path).relative_to(folder) for path in paths}
    stems = Counter(name.with_suffix("") for name in names.values())
    found = {
        str(name if stems[name.with_suffix("")] > 1 else name.with_suffix("")): measure.score(
            measure.statistics[[item.path == path for item in task.items]].sum(axis=0)
        )
        for path, name in names.items()
    }
    return {"mean_of_files": sum(found.values()) / len(found), "files": found}


def show(entries: Mapping[str, Mapping[str, Any]], title: str) -> None:
    """The figures as a table on standard error."""
    rows = []
    for name, entry in entries.items():
        count = entry.get("num_items", entry.get("num_words"))
        for figure, ends in entry["intervals"].items():
            span = " to ".join(cell_text(float(end)) for end in ends or [])
            rows.append([name, count, figure, entry[figure], span, entry["chance"].get(figure)])
            name, count = "", None
    columns = ["task", "count", "figure", "value", "95 % interval", "chance"]
    table(title, columns, rows)
