"""A plan as tables, in the words of a textbook."""

from collections.abc import Sequence
from typing import Any

from llmstages.config.stages import PlanConfig
from llmstages.report.facts import show_facts, show_line
from llmstages.report.terminal import table
from llmstages.stages.planning.machine import Target

MEMORY_PARTS = {
    "weights": "weights, and copies in the type of the products",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "activations": "activations, kept for the backward pass",
    "logits": "logits, a chunk of them",
    "step": "the optimizer's step, when activations and logits are gone",
    "total": "most at once",
    "room": "there is",
}


def show_plan(config: PlanConfig, target: Target, record: dict[str, Any]) -> None:
    """Print the record of a plan."""
    model, corpus, length, flops = (record[k] for k in ("model", "corpus", "length", "flops"))
    show_facts(
        f"{model['name']} on {corpus['name']}",
        {
            "parameters": model["parameters"],
            "shape": f"{model['layers']} layers of width {model['width']:,}, "
            f"vocabulary {model['vocab_size']:,}",
            "training tokens": round(length["tokens"]),
            "steps": f"{length['steps']:,} of {length['tokens_per_step']:,} tokens, rows of "
            f"{model['context_length']:,}",
            "tokens a parameter": length["tokens_per_parameter"],
            "passes over the corpus": length["epochs"],
            "FLOPs": f"{flops['total']:.4g}: 6 N + 12 L H Q T a token (Chowdhery et al. 2022)",
            "without attention": f"{flops['six_n_d']:.4g}: 6 N D, N all parameters (Brown et al. "
            "2020)",
        },
    )
    show_sources(corpus)
    show_memory(config, record)
    time = record["time"]
    hours = time["hours"]
    rows_per_step = length["tokens_per_step"] // model["context_length"]
    show_facts(
        f"{config.gpus:,} x {target.name}, {record['machine']['dtype']}",
        {
            "tokens a second": "not known: gpu=NAME, or probe=true where the model fits"
            if hours is None
            else f"{time['tokens_per_second']:,.4g} each: {time['speed_source']}",
            "at work": None
            if time["working_gpus"] == config.gpus
            else f"{time['working_gpus']:,} of {config.gpus:,}: a step has no more rows",
            "waiting": None
            if rows_per_step == time["busiest_rows"] * time["working_gpus"]
            else f"for the busiest, with {time['busiest_rows']:,} of {rows_per_step:,} rows a step",
            "time": None if hours is None else shown_hours(hours),
            "of it beside the steps": shown_hours(time["around_seconds"] / 3600)
            if time["around_seconds"]
            else None,
            "device-hours": None if hours is None else hours * config.gpus,
            "energy, kWh": record["kwh"],
            "money": record["money"],
        },
    )
    if rows := record["numbers_of_gpus"]:
        columns = ("GPUs", "at work", "model", "GiB each", "fits", "time", "kWh", "money")
        cells = [
            (
                row["gpus"],
                row["working_gpus"],
                {"one": "whole", "ddp": "whole in each", "fsdp": "sharded"}[row["parallel"]],
                row["gib"],
                "yes" if row["fits"] else "no",
                None if row["seconds"] is None else shown_hours(row["seconds"] / 3600),
                row["kwh"],
                row["money"],
            )
            for row in rows
        ]
        show_table(f"more or fewer {target.name}", columns, cells)
    show_table(
        "the same FLOPs on other sizes, without a shape the same 6 N D; losses, from 44M "
        "parameters on, only order them",
        ("choice", "parameters", "tokens", "a parameter", "passes", "predicted loss"),
        [
            (
                row["choice"],
                round(row["parameters"]),
                round(row["tokens"]),
                row["tokens_per_parameter"],
                row["epochs"],
                row["predicted_loss"],
            )
            for row in record["alternatives"]
        ],
    )
    shown = {
        "gpu": "GPU",
        "memory_gib": "GiB",
        "dtype": "type",
        "fewest_gpus": "fewest",
        "share_of_peak": "of peak",
        "gpu_hours": "GPU-hours",
        "kwh": "kWh",
    }
    show_table(
        "other GPUs: the fewest that hold it, at a share of peak that small models do not reach",
        list(shown.values()),
        [[row[key] for key in shown] for row in record["other_gpus"]],
    )
    if record["published"] is not None:
        show_published(record["published"])


def show_sources(corpus: dict[str, Any]) -> None:
    """How often each source is read."""
    rows: list[Sequence[object]] = [
        (s["name"], round(s["tokens"]), 100 * s["share"], s["epochs"], s["published_epochs"])
        for s in corpus["sources"]
    ]
    columns = ["source", "tokens", "share in %", "epochs", "published epochs"]
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    there = "" if corpus["is_collected"] else ", still to be collected"
    show_table(f"{corpus['tokens']:,} tokens of {corpus['name']}{there}", columns, rows)


def show_memory(config: PlanConfig, record: dict[str, Any]) -> None:
    """What a device holds, by part."""
    memory = record["memory"]
    again = ", blocks computed again" if memory["activation_checkpointing"] else ""
    how = {"one": "", "ddp": ", the whole model in each", "fsdp": ", the model sharded"}
    rows = [(name, memory[part] / 2**30) for part, name in MEMORY_PARTS.items()]
    show_table(
        f"memory of each of {config.gpus:,}: {memory['rows_per_micro_batch']:,} rows at once"
        f"{again}{how[memory['parallel']]}: {'it fits' if memory['fits'] else 'IT DOES NOT FIT'}",
        ("part", "GiB"),
        rows,
    )


def show_published(found: dict[str, Any]) -> None:
    """What was published, beside this plan."""
    ours, theirs = found["this_plan"], found["of_published_flops"]
    names = {
        "parameters": "parameters",
        "tokens": "training tokens",
        "flops": "FLOPs, 6 N D",
    }
    if found["gpu_flops"] is not None:
        speed = f"{found['gpu_flops'] / 1e12:g} TFLOP/s"
        names["gpu_years"] = f"{found['gpu']}-years at {speed}"
        names["cost"] = f"money at {found['price_per_hour'] or 0:g} an hour"
    rows = [
        (name, *(scientific(column.get(key)) for column in (ours, theirs)))
        for key, name in names.items()
    ]
    if found["published_cost"] is not None:
        rows.append(("money, as published", "", scientific(found["published_cost"])))
    show_table(found["source"] or "as published", ("", "this plan", "as published"), rows)


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A line that says what it is, and a table below it; a table's own title would be folded."""
    show_line(title, style="italic")
    table("", columns, rows, to_output=True)


def scientific(value: float | None) -> str:
    """Four digits, with a word for the size where there is one."""
    if value is None:
        return ""
    for size, word in ((1e12, ""), (1e9, " billion"), (1e6, " million")):
        if value >= size:
            return f"{value:.4g}" if not word else f"{value / size:.4g}{word}"
    return f"{value:,.4g}"


def shown_hours(hours: float) -> str:
    """In the unit that fits: seconds, minutes, hours, days or years."""
    units = (("years", 24 * 365.25), ("days", 24.0), ("hours", 1.0), ("minutes", 1 / 60))
    for unit, size in units:
        if hours >= 1.5 * size:
            return f"{hours / size:,.3g} {unit}"
    return f"{hours * 3600:,.3g} seconds"
