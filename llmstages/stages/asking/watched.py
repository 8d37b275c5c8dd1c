"""What a model is able to do while it is pretrained: tasks asked at each evaluation."""

from collections.abc import Mapping, Sequence
from typing import Any

from llmstages.config.stages import PretrainConfig
from llmstages.data.tasks import BETWEEN, Task, read_task
from llmstages.errors import UserError
from llmstages.evaluate.abilities import chances_of, fitting, measures_of
from llmstages.evaluate.continuations import Subject
from llmstages.report.terminal import table, warn
from llmstages.text.tokenizer import Tokenizer

ABILITY = "val_acc"
CHANCE = "val_acc_chance"
"""Of each task, `<name>/<task>`: the share of questions that are answered right, and by chance."""


def watched_tasks(config: PretrainConfig) -> dict[str, Task]:
    """The tasks that a config names, by name.

    Raises:
        UserError: a file is no task, answers are to be written for it, or two have one name.
    """
    tasks: dict[str, Task] = {}
    for path in config.evaluate.abilities:
        task = read_task(path, seed=config.seed)
        if task.kind == "answers":
            raise UserError(
                f"evaluate.abilities: {path} wants answers to be written, which takes too long "
                "while training: llmstages evaluate asks them afterwards"
            )
        if task.name in tasks:
            raise UserError(f"evaluate.abilities: two tasks are called {task.name}: rename a file")
        tasks[task.name] = task.sample(config.evaluate.ability_items)
    return tasks


def affordable_tasks(
    tasks: Mapping[str, Task],
    tokenizer: Tokenizer,
    context_length: int,
    plan: Mapping[str, Any],
    max_tokens: int | None,
) -> dict[str, Task]:
    """The tasks without what a model cannot read, and with fewer questions in a short time budget.

    plan: of a run that is continued, which asks what it began with; an empty one else. max_tokens:
    of all questions of an evaluation together; None: no limit.
    """
    tasks = {name: fitting(task, tokenizer, context_length, "skip") for name, task in tasks.items()}
    if plan:
        counts = plan.get("ability_items", {})
        return {name: task.sample(counts.get(name)) for name, task in tasks.items()}
    if max_tokens is None:
        return tasks
    found = {}
    for name, task in tasks.items():
        texts = [
            f"{item.prompt}{BETWEEN}{choice}" for item in task.items for choice in item.choices
        ]
        tokens = sum(map(len, tokenizer.encode_batch(texts)))
        share = max_tokens / len(tasks) / tokens
        found[name] = task.sample(max(1, int(share * len(task.items))))
        if len(found[name].items) < len(task.items):
            warn(
                f"{name}: {len(found[name].items):,} of {len(task.items):,} questions are asked at "
                "an evaluation: the time budget has no room for more"
            )
    return found


def ability_metrics(subject: Subject, tasks: Mapping[str, Task]) -> dict[str, float]:
    """`val_acc/<task>` and `val_acc_chance/<task>` of each task."""
    metrics = {}
    for name, task in tasks.items():
        metrics[f"{ABILITY}/{name}"] = measures_of(subject, task)["acc"].value
        metrics[f"{CHANCE}/{name}"] = chances_of(task)["acc"]
    return metrics


def show_abilities(
    tasks: Mapping[str, Task], before: Mapping[str, float], after: Mapping[str, float]
) -> None:
    """The shares of right answers before and after training as a table; nothing without a task."""
    rows: list[Sequence[object]] = [
        [name, len(task.items), before.get(key), after[key], after[f"{CHANCE}/{name}"]]
        for name, task in tasks.items()
        if (key := f"{ABILITY}/{name}") in after
    ]
    if rows:
        columns = ["task", "questions", "right before", "after", "by chance"]
        table("what the model is able to do", columns, rows)
