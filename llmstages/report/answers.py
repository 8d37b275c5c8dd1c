"""What instruction tuning has changed: figures before and after, and answers side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from llmstages.evaluate.improvement import improvement_percent
from llmstages.report.terminal import cell_text, clipped, error_console, plain, table

SHOWN_CHARACTERS = 100
LABELS = {
    "val_loss": "loss of answers, nats a token or pair",
    "perplexity": "perplexity of answers",
    "preference_accuracy": "pairs with the chosen answer in front",
    "reward_margin": "reward margin",
    "exact_match": "exact match",
    "chrf": "chrF",
    "bleu": "BLEU",
    "rouge_1": "ROUGE-1 F1",
    "rouge_2": "ROUGE-2 F1",
    "rouge_l": "ROUGE-L F1",
    "stopped_share": "answers that stop",
    "base_bits_per_byte": "corpus of the base, bits a byte",
}


@dataclass(frozen=True)
class AnsweredQuestion:
    """A line of `answers.jsonl`."""

    question: str
    reference: str
    before: str
    after: str


def show_improvement(before: Mapping[str, Any], after: Mapping[str, Any], title: str) -> None:
    """A table of the figures with their intervals; the last column is `improvement_percent`."""
    rows: list[Sequence[object]] = [
        [
            _label(name, after),
            _with_interval(before, name),
            _with_interval(after, name),
            _signed(change),
        ]
        for name, change in improvement_percent(before, after).items()
    ]
    table(title, ["metric", "before", "after", "better by %"], rows)


def _label(name: str, metrics: Mapping[str, Any]) -> str:
    """What a row is called; of BLEU with the tokenizer, without which the figure says little."""
    label = LABELS.get(name, name)
    if name != "bleu" or "bleu_signature" not in metrics:
        return label
    signature = dict(part.split(":", 1) for part in metrics["bleu_signature"].split("|"))
    return f"{label} ({signature['tok']})"


def _with_interval(metrics: Mapping[str, Any], name: str) -> str:
    """`0.31 (0.25 to 0.37)`, or the figure alone where it has no interval."""
    text = cell_text(float(metrics[name]))
    ends = metrics.get("intervals", {}).get(name)
    if ends is None:
        return text
    low, high = (cell_text(float(end)) for end in ends)
    return f"{text} ({low} to {high})"


def _signed(change: float | None) -> str:
    return "" if change is None else f"{change:+.1f}"


def show_answers(answers: Sequence[AnsweredQuestion]) -> None:
    """Answers side by side, each clipped."""
    grid = Table(title="answers to test questions", title_justify="left", show_lines=True)
    for name in ("question", "reference", "before", "after"):
        grid.add_column(name, overflow="fold", ratio=1)
    for answer in answers:
        texts = (answer.question, answer.reference, answer.before, answer.after)
        grid.add_row(*(plain(clipped(text, SHOWN_CHARACTERS)[1:-1]) for text in texts))
    error_console().print(grid)
