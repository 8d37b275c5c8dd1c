"""`llmstages inspect PATH`: what a corpus, run, checkpoint or data file holds.

Nothing is changed, and text from data is printed as it is: nothing in it is taken for markup. torch
is imported only for checkpoints, whose reader needs it.
"""

import json
import sys
from collections import Counter
from collections.abc import Mapping
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

from llmstages.config.uses import InspectConfig
from llmstages.data.corpus import MANIFEST_FILE, Corpus, DroppedDocument
from llmstages.data.json_values import numbers_at, object_at
from llmstages.data.table import read_rows
from llmstages.errors import CheckFailed, UserError
from llmstages.evaluate.classification import ClassificationReport
from llmstages.evaluate.multi_label import MultiLabelReport
from llmstages.report.classification import render_classification, render_multi_label
from llmstages.report.corpus import show_corpus
from llmstages.report.facts import PASSAGE_CHARACTERS, show_facts, show_passage
from llmstages.report.plain import for_stream
from llmstages.report.terminal import output_console, plain, table
from llmstages.stages.seeing.data_file import (
    MAX_LABELS_SHOWN,
    inspect_data_file,
    inspect_documents,
    is_documents,
    named_columns,
)
from llmstages.train.hub import fetched, is_on_hub
from llmstages.train.records import read_record

MAX_LEDGER_ROWS = 20_000
"""Read of a ledger, which may be as long as the corpus, to show some of it."""
CONFIG_BYTES = 100_000


def run(config: InspectConfig) -> None:
    """Print what `config.path` holds.

    Raises:
        UserError: the path leads nowhere or to nothing that llmstages makes or reads.
    """
    if config.path is None:
        raise UserError("inspect needs a path: llmstages inspect PATH")
    path = Path(config.path).expanduser()
    if is_on_hub(config.path):
        path = fetched(config.path)
    if (path.is_dir() or is_documents(path)) and (named := named_columns(config)):
        raise UserError(f"{path}: {next(iter(named))} is for a file of rows, and this is none")
    is_run = (path / "checkpoints").is_dir() or (path / "plan.json").is_file()
    if config.data is not None or config.json:
        if not is_run and not (path / "config.json").is_file():
            key = "json=true" if config.data is None else f"data={config.data}"
            raise UserError(f"{path}: {key} is for a checkpoint or a run, and this is none")
        from llmstages.train.checkpoint import resolve_checkpoint

        inspect_checkpoint(resolve_checkpoint(str(path)), config)
        return
    if (path / MANIFEST_FILE).is_file():
        inspect_corpus(path, config)
        return
    if config.prove and not (path / "plan.json").is_file():
        raise UserError(f"{path}: prove=true is for the directory of a run, and this is none")
    if config.id is not None:
        raise UserError(f"{path}: id={config.id} shows a document of a corpus, and this is none")
    if config.base is not None and path.is_dir():
        raise UserError(f"{path}: base={config.base} is for a file of conversations")
    if is_run:
        if config.prove:
            from llmstages.stages.lineage.prove import prove

            prove(path, config.prove_steps)
        else:
            inspect_run(path)
    elif path.is_dir() and "members" in (summary := _read_record(path / "summary.json")):
        inspect_members(path, summary)
    elif (path / "config.json").is_file():
        inspect_checkpoint(path, config)
    elif is_documents(path):
        inspect_documents(path, config.num_examples)
    elif not path.is_dir():
        inspect_data_file(path, config)
    else:
        raise UserError(
            f"{path}: neither a corpus ({MANIFEST_FILE}) nor a run (checkpoints/) nor a checkpoint "
            "(config.json), nor mails or texts in a folder a label; name one of these or a data "
            "file"
        )


# -------------------------------------------------------------------------------------------------
# corpora


def inspect_corpus(path: Path, config: InspectConfig) -> None:
    """Print the sources of a corpus, what was dropped and why, and a few documents."""
    corpus = Corpus.open(path)
    if config.id is not None:
        _show_document(corpus, config.id)
        return
    manifest = corpus.manifest
    facts: dict[str, object] = {
        "recipe": manifest.recipe,
        "manifest": corpus.manifest_hash,
        **_tokenizer_facts(corpus.tokenizer_dir),
        "tokens": ", ".join(sorted(p.name for p in (path / "tokens").glob("*") if p.is_dir())),
    }
    show_facts(str(path), facts)
    table(
        "sources",
        ("source", "kind", "licence", "weight", "priority", "inputs"),
        [
            (
                source.name,
                source.kind,
                source.license,
                source.weight,
                source.priority,
                len(source.inputs),
            )
            for source in manifest.sources
        ],
        to_output=True,
    )
    show_corpus(path, manifest, to_output=True)
    show_some_dropped(corpus, config.num_examples)
    for document in islice(corpus.documents("train"), config.num_examples):
        show_passage(
            f"{document.id} ({document.source}) {document.url or ''}".rstrip(), document.text
        )


def show_some_dropped(corpus: Corpus, num_examples: int) -> None:
    """A few documents that each rule dropped, with the ids by which they are shown whole."""
    shown: Counter[str] = Counter()
    wanted = {rule for source in corpus.manifest.sources for rule in source.dropped}
    rows: list[tuple[object, ...]] = []
    for dropped in islice(corpus.dropped(), MAX_LEDGER_ROWS):
        if shown[dropped.rule] < num_examples:
            shown[dropped.rule] += 1
            text = " ".join(dropped.text[:200].split())[:40]
            rows.append((dropped.rule, dropped.value, dropped.threshold, dropped.id, text))
        elif all(shown[rule] >= num_examples for rule in wanted):
            break
    if rows:
        columns = ("dropped by", "value", "threshold", "id", "text")
        table("some of the dropped", columns, sorted(rows, key=str), to_output=True)


def _show_document(corpus: Corpus, wanted: str) -> None:
    """A document of the corpus, or why it was dropped; the start of an id is enough."""
    found = corpus.find(wanted)
    if isinstance(found, DroppedDocument):
        show_facts(
            found.id,
            {
                "dropped by": found.rule,
                "value": found.value,
                "threshold": found.threshold,
                "duplicate of": found.duplicate_of,
                "source": found.source,
                "url": found.url,
                "metadata": json.dumps(found.metadata, ensure_ascii=False),
            },
        )
        output_console().print(plain(found.text))
        return
    if found is not None:
        split, document = found
        show_facts(
            document.id,
            {
                "split": split,
                "source": document.source,
                "url": document.url,
                "language": document.language,
                "metadata": json.dumps(document.metadata, ensure_ascii=False),
                "words": len(document.text.split()),
                "bytes": len(document.text.encode()),
            },
        )
        output_console().print(plain(document.text))
        return
    raise UserError(
        f"{corpus.directory}: no document, kept or dropped, has the id {wanted}: "
        "`llmstages inspect` without id= shows some of both"
    )


def _tokenizer_facts(directory: Path) -> dict[str, object]:
    """Size and hash of a tokenizer, or that it cannot be read."""
    from llmstages.text.tokenizer import Tokenizer

    try:
        tokenizer = Tokenizer.load(directory)
    except UserError as error:
        return {"tokenizer": str(error)}
    return {"vocabulary": tokenizer.vocab_size, "tokenizer": tokenizer.hash}


# -------------------------------------------------------------------------------------------------
# runs and checkpoints


def inspect_run(path: Path) -> None:
    """Print how a run went, its checkpoints and its metrics before and after."""
    from llmstages.train.checkpoint import complete_checkpoints, read_info

    summary = _read_record(path / "summary.json")
    plan = _read_record(path / "plan.json")
    entries = _metric_lines(path / "metrics.jsonl")
    last = next((e for e in reversed(entries) if isinstance(e.get("step"), int)), {"step": 0})
    facts: dict[str, object] = {
        "stage": summary.get("stage", plan.get("stage")),
        "status": summary.get("status", "not finished"),
        "steps": summary.get("steps", f"{last['step']:,} so far"),
    }
    for key in ("seconds", "tokens", "words", "tokens_per_second", "mfu", "peak_memory_bytes"):
        facts[key.replace("_", " ")] = summary.get(key)
    facts["curves"] = ", ".join(str(picture) for picture in sorted(path.glob("report/*.png")))
    show_facts(str(path), facts)

    metrics = object_at(summary, "metrics")
    after, before = numbers_at(metrics), numbers_at(summary, "metrics_before")
    compared = {"before": before, "after": after}
    baselines = object_at(summary, "baselines")
    compared |= {name: numbers_at(baselines, name) for name in baselines}
    given = {name: figures for name, figures in compared.items() if figures}
    if after:
        rows = [(key, *(figures.get(key) for figures in given.values())) for key in after]
        table("metrics", ("metric", *given), rows, to_output=True)
    if "confusion" in metrics or "hamming_loss" in metrics:
        try:
            if "confusion" in metrics:
                report = ClassificationReport.from_dict(metrics)
                rendered = render_classification(report, title="test rows")
            else:
                found = MultiLabelReport.from_dict(metrics)
                rendered = render_multi_label(found, title="test rows")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path / 'summary.json'}: no readable report ({error!r})") from None
        output_console().print(rendered)

    links = {
        name: (path / name).resolve()
        for name in ("best", "last")
        if (path / name).is_symlink() and (path / name).is_dir()
    }
    checkpoints = []
    for directory in complete_checkpoints(path):
        info = read_info(directory)
        names = [name for name, target in links.items() if target == directory.resolve()]
        shown = "  ".join(f"{key} {value:.4g}" for key, value in numbers_at(info.metrics).items())
        checkpoints.append((directory.name, info.tokens_seen, shown, " ".join(names)))
    if checkpoints:
        table("checkpoints", ("", "tokens seen", "metrics", ""), checkpoints, to_output=True)
    config = path / "config.yaml"
    if config.is_file():
        text = config.read_bytes()[:CONFIG_BYTES].decode("utf-8", errors="replace")
        show_passage("config.yaml", text, limit=CONFIG_BYTES)


def inspect_members(path: Path, summary: Mapping[str, Any]) -> None:
    """Print the figures of several trainings (`seeds`, `folds`), and what they have in common."""
    from llmstages.stages.classifying.members import show

    try:
        spread, members = summary["spread"], summary["members"]
        figures = {
            name: {"metrics": {key: entry["values"][index] for key, entry in spread.items()}}
            for index, name in enumerate(members)
        }
        facts = {"stage": summary["stage"], "status": summary["status"], "runs": len(members)}
        show_facts(str(path), facts)
        show(figures, spread, summary["baselines"], to_output=True)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise UserError(f"{path / 'summary.json'}: no readable summary ({error!r})") from None


def inspect_checkpoint(path: Path, config: InspectConfig) -> None:
    """Print what a checkpoint is, the chain from raw text to it, and whether test items occur in
    the text; as one JSON object where that is asked for."""
    from llmstages.stages.lineage.chain import chain_of
    from llmstages.stages.lineage.tables import look_for_items, show_chain, show_overlap

    if config.data is not None and not Path(config.data).expanduser().exists():
        raise UserError(f"{config.data}: no such file of test items")
    facts, damage = checkpoint_facts(path)
    chain = chain_of(path, check=config.check)
    found = look_for_items(chain, config)
    if config.json:
        record = {
            "checkpoint": str(path),
            **facts,
            "chain": [step.as_dict() for step in chain.steps],
            "cost": vars(chain.cost),
            "overlap": found.as_dict(),
        }
        line = json.dumps(record, ensure_ascii=False)
        sys.stdout.write(for_stream(line, sys.stdout) + "\n")
    else:
        show_facts(str(path), {name.replace("_", " "): value for name, value in facts.items()})
        show_chain(chain)
        show_overlap(found)
    if damage:
        raise CheckFailed(damage)


def checkpoint_facts(path: Path) -> tuple[dict[str, object], str]:
    """What a checkpoint is by names for JSON, and which of its files is not whole, if any."""
    from llmstages.model.layouts import with_usual_names
    from llmstages.train.checkpoint import INFO_NAME, read_info, verify_files

    config = with_usual_names(_read_record(path / "config.json"))
    facts: dict[str, object] = {
        "class": _listed(config.get("architectures")),
        **_weights_facts(path),
        "layers": config.get("num_hidden_layers"),
        "hidden_size": config.get("hidden_size"),
        "context_length": config.get("max_position_embeddings"),
        **_tokenizer_facts(path),
    }
    if labels := object_at(config, "id2label"):
        listed = ", ".join(str(label) for label in islice(labels.values(), MAX_LABELS_SHOWN))
        facts["labels"] = f"{len(labels)}: {listed}" + (
            ", ..." if len(labels) > MAX_LABELS_SHOWN else ""
        )
    if not (path / INFO_NAME).is_file():
        return facts | {"made_by": f"another program (no {INFO_NAME})"}, ""
    info = read_info(path)
    damage = ""
    try:
        verify_files(path, info)
    except UserError as error:
        damage = str(error)
    lineage = vars(info.lineage)
    facts |= {"stage": info.stage, "step": info.step, "tokens_seen": info.tokens_seen}
    facts |= {f"made_from_{name}": value for name, value in lineage.items()}
    facts |= {
        name if name.startswith("val_") else f"validation_{name}": value
        for name, value in numbers_at(info.metrics).items()
    }
    return facts | {"files": damage or f"all {len(info.files)} match their sha256"}, damage


def _listed(value: object) -> str:
    """A list of names on one line; of anything else the JSON."""
    if isinstance(value, list):
        return ", ".join(map(str, value[:MAX_LABELS_SHOWN]))
    return "" if value is None else json.dumps(value)[:PASSAGE_CHARACTERS]


def _weights_facts(directory: Path) -> dict[str, object]:
    """Number of parameters and their types, from the headers alone."""
    from safetensors import SafetensorError, safe_open

    from llmstages.train.checkpoint import weights_files

    shapes = []
    try:
        paths = weights_files(directory)
        for path in paths:
            with safe_open(path, framework="numpy") as file:
                slices = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118
                shapes += [(part.get_shape(), part.get_dtype()) for part in slices]
    except (SafetensorError, OSError, UserError, ValueError) as error:
        return {"weights": f"cannot be read ({error})"}
    count = sum(prod(shape) for shape, _ in shapes)
    types = ", ".join(sorted({kind for _, kind in shapes}))
    size = sum(path.stat().st_size for path in paths)
    return {"parameters": count, "weights": f"{types}, {size:,} bytes"}


def _read_record(path: Path) -> dict[str, Any]:
    """A JSON object; empty where the file is missing. Raises `UserError` for a broken one."""
    return read_record(path) if path.is_file() else {}


def _metric_lines(path: Path) -> list[dict[str, Any]]:
    """The entries of `metrics.jsonl`; a last line that is still being written is left out."""
    if not path.is_file():
        return []
    if path.stat().st_size == 0:
        return []
    rows = read_rows(path, bad_rows="skip", quiet=True, format="jsonl").rows
    return [row.values for row in rows]
