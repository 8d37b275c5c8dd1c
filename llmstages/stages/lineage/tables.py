"""The chain of a checkpoint as a person reads it, and whether its test items occur in it."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmstages.config.uses import InspectConfig
from llmstages.errors import UserError
from llmstages.report.facts import show_facts, show_line, show_passage
from llmstages.report.flops import flops_text
from llmstages.report.terminal import cell_text, progress, table
from llmstages.stages.lineage.chain import Chain, Cost, Step, is_checked, state_of
from llmstages.stages.lineage.overlap import Overlap, find_overlap, learnt_items, test_rows

SHOWN_HASH = 12
"""Digits of a hash in a table."""
MAX_ITEMS_SHOWN = 30
NO_CORPUS = "no corpus that the model has read is there unchanged"


@dataclass(frozen=True)
class LookedFor:
    """Test items, and what was found of them."""

    data: Path | None
    corpora: list[str]
    overlap: Overlap | None = None
    """None where nothing was looked for, as `reason` says."""
    reason: str = ""
    tuned_on: list[str] = field(default_factory=list)
    """Files of fine-tuning that were looked through, where items were asked for."""
    learnt: list[int] = field(default_factory=list)
    """Items that stand in them."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        found = {} if self.overlap is None else self.overlap.as_dict()
        data = None if self.data is None else str(self.data)
        tuned = {"tuned_on": self.tuned_on, "learnt": self.learnt} if self.tuned_on else {}
        known = {"data": data, "corpora": self.corpora, "not_known": self.reason or None}
        return {**known, **found, **tuned}


def look_for_items(chain: Chain, config: InspectConfig) -> LookedFor:
    """Look for the test items that are asked for, or those of the run, in the chain's corpora; for
    those asked for in the files of its fine-tuning too."""
    data = chain.test_file if config.data is None else Path(config.data).expanduser()
    places = [str(corpus.directory) for corpus in chain.corpora]
    num_bytes = sum(corpus.manifest.train.bytes for corpus in chain.corpora)
    reason = ""
    if data is None:
        reason = "no test items are recorded: data=FILE names some"
    elif not chain.corpora and not (config.data is not None and chain.tuned_on):
        reason = NO_CORPUS
    elif config.data is None and not is_checked(num_bytes, config.check):
        reason = f"{num_bytes:,} bytes of text are not read unasked: check=on does"
    if reason or data is None:
        return LookedFor(data, places, reason=reason)
    try:
        rows = test_rows(data)
        if not rows:
            raise UserError(f"{data}: it has no test items")
    except UserError as error:
        if config.data is not None:
            raise
        return LookedFor(data, places, reason=str(error))
    tuned_on = chain.tuned_on if config.data is not None else []
    learnt = learnt_items(rows, tuned_on)
    with progress("looking for test items", total=num_bytes, unit="bytes") as advance:
        found = find_overlap(rows, chain.corpora, config.num_examples, advance)
    return LookedFor(data, places, found, "", [str(file) for file in tuned_on], learnt)


def show_chain(chain: Chain) -> None:
    """Print the steps, the raw text first."""
    for number, step in enumerate(chain.steps, start=1):
        facts = {name.replace("_", " "): _shown(value) for name, value in step.facts.items()}
        known = {"date": step.date, "command": step.command, **facts, **cost_facts(step.cost)}
        show_facts(f"{number}. {step.kind}: {step.where}", known)
        if step.sources:
            show_sources(step)
        table(
            "",
            ("hashed", "", "sha256", ""),
            [
                (link.what, str(link.where), (link.recorded or "")[:SHOWN_HASH], state_of(link))
                for link in step.links
            ],
            to_output=True,
        )
        for note in step.notes:
            show_line(f"note: {note}")
    if sum(step.kind != "collect" for step in chain.steps) > 1:
        show_facts("all trainings together", cost_facts(chain.cost))


def cost_facts(cost: Cost) -> dict[str, object]:
    """What is known of a cost, by name and unit."""
    return {
        "seconds": cost.seconds,
        "tokens": cost.tokens,
        "training": None if cost.flops is None else flops_text(cost.flops),
        "kWh, at most": cost.kwh,
        "money, at the price given": cost.money,
    }


def show_sources(step: Step) -> None:
    """What each source brought, and by which rule how much of it was left out."""
    table(
        "",
        ("source", "licence", "inputs", "documents read", "dropped", "for training", "words"),
        [
            (
                source["name"],
                source["license"] or "not recorded",
                len(source["inputs"]),
                source["read"]["documents"],
                ", ".join(f"{rule} {n['documents']:,}" for rule, n in source["dropped"].items()),
                source["train"]["documents"],
                source["train"]["words"],
            )
            for source in step.sources
        ],
        to_output=True,
    )


def show_overlap(looked: LookedFor) -> None:
    """Print how many test items occur in the text that the model has read, and a few of them."""
    found = looked.overlap
    if found is None:
        show_line(f"13-gram overlap with test items: not known: {looked.reason}")
        return
    if looked.tuned_on:
        show_line(
            f"{len(looked.learnt):,} of {found.num_items:,} items of {looked.data} are rows of "
            f"{', '.join(looked.tuned_on)}, by which it was fine-tuned"
        )
    if not looked.corpora:
        show_line(f"13-gram overlap: not known: {NO_CORPUS}")
        return
    searched = found.num_items - len(found.too_short)
    line = (
        f"13-gram overlap: {len(found.overlapping):,} of {searched:,} items of {looked.data} "
        f"({found.percent:.2f} %) occur in the training text of {', '.join(looked.corpora)}"
    )
    if found.common:
        line += f"; {len(found.common):,} of these only by words that many documents have"
    if found.too_short:
        line += f"; {len(found.too_short):,} more are too short to be looked for"
    show_line(line)
    if found.overlapping:
        numbers = ", ".join(map(str, found.overlapping[:MAX_ITEMS_SHOWN]))
        more = len(found.overlapping) - MAX_ITEMS_SHOWN
        show_line(f"items {numbers}" + (f" and {more:,} more (json=true)" if more > 0 else ""))
    for example in found.examples:
        show_passage(f"item {example.item}, in document {example.document}", example.text)


def _shown(value: object) -> object:
    """A value in a table; of settings each on a line."""
    if not isinstance(value, dict):
        return cell_text(value)
    return "\n".join(
        f"{name}: {json.dumps(part, ensure_ascii=False) if isinstance(part, dict) else part}"
        for name, part in value.items()
    )
