"""A comparison of two models as a person reads it."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from llmstages.evaluate.paired import Difference
from llmstages.report.answers import LABELS as ANSWER_LABELS
from llmstages.report.facts import show_line
from llmstages.report.terminal import cell_text, clipped, output_console, plain, table

LABELS = ANSWER_LABELS | {
    "accuracy": "accuracy",
    "acc": "right answers",
    "acc_norm": "right answers, a character",
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "subset_accuracy": "all labels right",
    "bits_per_byte": "bits a byte",
    "answer_bits_per_byte": "references, bits a byte",
}
SHOWN_CHARACTERS = 160
MAX_P_VALUE = 0.05
"""Of what is called beyond chance."""
MIN_ITEMS = 20
"""Resamples of fewer say nothing: of three items that all differ one way no resample differs."""
COSTS = {
    "seconds": "seconds",
    "tokens": "tokens",
    "flops": "training FLOPs",
    "kwh": "kWh, at most",
    "money": "money",
}


def show_comparison(
    record: Mapping[str, Any], found: Mapping[str, Difference], num_examples: int
) -> None:
    """Print figures, samples and costs."""
    for name in "ab":
        show_line(f"{name.upper()}: {record[name]['checkpoint']}")
    table(
        f"{record['num_items']:,} items of {record['data']}",
        ("metric", "A", "B", "B - A (95 %)", "B is better by % (95 %)"),
        [
            (
                LABELS.get(name, name),
                each.a,
                each.b,
                with_interval(each.difference, each.interval, "+.3g"),
                with_interval(each.improvement_percent, each.improvement_interval, "+.1f"),
            )
            for name, each in found.items()
        ],
        to_output=True,
    )
    if "mcnemar" in record:
        test = record["mcnemar"]
        show_line(
            f"right in A alone: {test['only_a']:,}, in B alone: {test['only_b']:,}; McNemar's "
            f"exact test: p = {test['p_value']:.3g}"
        )
    show_line(verdict(record, found[record["headline"]]))
    show_samples(record["kind"], record["items"], num_examples)
    show_costs(record)


def verdict(record: Mapping[str, Any], found: Difference) -> str:
    """One line of what the headline figure says."""
    name = record["headline"]
    label = LABELS.get(name, name)
    change = "" if found.improvement_percent is None else f" {found.improvement_percent:+.1f} %"
    if "mcnemar" in record:  # exact, also of few items
        if record["mcnemar"]["p_value"] >= MAX_P_VALUE:
            return f"{label}{change}: within chance, by McNemar's test"
    elif record["num_items"] < MIN_ITEMS:
        return f"{label}{change}: {record['num_items']} items are too few to tell it from chance"
    elif not found.is_clear and found.interval is None:
        return f"{label}: no difference"
    elif not found.is_clear:
        return f"{label}{change}: within chance, as 0 lies in the interval of the difference"
    better = (found.improvement_percent or found.difference) > 0
    return f"{label}{change}: B is {'better' if better else 'worse'}, beyond chance"


def with_interval(value: float | None, interval: Sequence[float] | None, form: str) -> str:
    """`+0.1 (-0.1 to +0.3)`, as far as it is known."""
    if value is None:
        return ""
    ends = "" if interval is None else f" ({interval[0]:{form}} to {interval[1]:{form}})"
    return f"{value:{form}}{ends}"


def show_samples(kind: str, items: Sequence[Mapping[str, Any]], count: int) -> None:
    """Some items, those on which the models differ first, with what each makes of them."""
    columns: tuple[str, ...]
    if kind == "text":
        columns = ("held-out text", "goes on", "A", "B")
        rows = [
            [
                item["opening"],
                item["text"].removeprefix(item["opening"])[:SHOWN_CHARACTERS],
                *(item[name]["continuation"] for name in "ab"),
            ]
            for item in items[:count]
        ]
    else:
        asked = {"classify": ("text", "label"), "instruct": ("question", "reference")}
        of_item, truth = asked.get(kind, ("prompt", "answer"))
        columns = (of_item, truth, "A", "B")
        both = [
            [item[of_item], cell_text(item[truth]), said(item["a"]), said(item["b"])]
            for item in items
        ]
        rows = sorted(both, key=lambda row: row[2] == row[3])[:count]
    if not rows:
        return
    grid = Table(title="side by side", title_justify="left", show_lines=True)
    for column in columns:
        grid.add_column(column, overflow="fold", ratio=1)
    for row in rows:
        grid.add_row(*(plain(clipped(text, SHOWN_CHARACTERS)[1:-1]) for text in row))
    output_console().print(grid)


def said(entry: Mapping[str, Any]) -> str:
    """What a model says of an item, or whether it is right."""
    if "right" in entry:
        return "right" if entry["right"] else "wrong"
    key = next(key for key in ("label", "labels", "answer") if key in entry)
    return str(entry[key])


def show_costs(record: Mapping[str, Any]) -> None:
    """Size of each model, and what its training took, as far as it is recorded."""
    rows: list[tuple[object, ...]] = [
        ("parameters", *(record[name]["parameters"] for name in "ab")),
        ("FLOPs a token, forward", *(f"{record[n]['forward_flops_per_token']:.3g}" for n in "ab")),
        ("seconds, this measuring", *(record[name]["measuring_seconds"] for name in "ab")),
    ]
    for which, title in (("cost", "last training"), ("cost_with_all_before", "all trainings")):
        for key, label in COSTS.items():
            values = [record[name][which][key] for name in "ab"]
            if values != [None, None]:
                shown = [f"{v:.3g}" if key == "flops" and v is not None else v for v in values]
                rows.append((f"{title}: {label}", *shown))
    table("cost", ("", "A", "B"), rows, to_output=True)
