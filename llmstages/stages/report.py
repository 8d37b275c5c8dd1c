"""`llmstages report [RUN ...]`: what runs came to, as one HTML page that needs no network."""

from contextlib import suppress
from pathlib import Path

from llmstages.config.uses import PageConfig
from llmstages.errors import UserError
from llmstages.report.flops import flops_text
from llmstages.report.html.charts import Table
from llmstages.report.html.contents import page_of, story
from llmstages.report.html.records import Records, RunRecord, read_records
from llmstages.report.html.render import render
from llmstages.report.html.words import duration
from llmstages.report.terminal import say
from llmstages.stages.lineage.chain import Cost, Step, chain_of
from llmstages.stages.shared.output import output_file
from llmstages.train.checkpoint import resolve_checkpoint


def run(config: PageConfig) -> None:
    """Write the page, whole or not at all, and say where it is.

    Raises:
        UserError: nothing is there to show, or the page cannot be written.
    """
    path = Path(config.output).expanduser()
    if path.is_dir():
        raise UserError(f"output={config.output}: a directory: name a file, as report.html")
    records = read_records([Path(place).expanduser() for place in config.places])
    html = render(page_of(records, ways_of(records)))
    with output_file(config.output) as file:
        file.write(html)
    say(f"{path}: {len(records.runs):,} runs, {path.stat().st_size:,} bytes")


def ways_of(records: Records) -> list[Table]:
    """The steps that led to each specialist that the page tells of, or else to its base."""
    base, tuned, _ = story(records)
    models = tuned or ([base] if base else [])
    ways = []
    for model in models:
        with suppress(UserError):  # a run that is damaged, or has no checkpoint yet, ends no page
            ways.append(way_to(model))
    return ways


def way_to(model: RunRecord) -> Table:
    """The chain of a run's best checkpoint so far, as recorded, the raw text first.

    Raises `UserError` for a run that has none.
    """
    checkpoint = resolve_checkpoint(str(model.directory))
    rows = [
        [
            *(step.kind, step.where, sources_of(step), (step.date or "").partition("T")[0]),
            *(step.command, cost_text(step.cost)),
        ]
        for step in chain_of(checkpoint, check="off").steps
    ]
    columns = ("step", "what", "sources and licences", "when", "command", "cost")
    return Table(columns, rows, f"The way to {model.name}").without_empty()


def sources_of(step: Step) -> str:
    """The sources of a corpus, each with its licence."""
    return "; ".join(
        f"{source['name']} ({source['license'] or 'licence not recorded'})"
        for source in step.sources
    )


def cost_text(cost: Cost) -> str:
    """What a step took, as far as it is recorded."""
    parts = [
        duration(cost.seconds),
        flops_text(cost.flops) if cost.flops is not None else "",
        f"{cost.kwh:.3g} kWh at most" if cost.kwh is not None else "",
        f"{cost.money:.2f} at the price given" if cost.money is not None else "",
    ]
    return ", ".join(part for part in parts if part)
