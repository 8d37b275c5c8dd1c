"""`llmstages inspect PATH`: what a corpus, run, checkpoint or data file holds.

Nothing is changed, and text from data is printed as it is: nothing in it is taken for markup. torch
is imported only for checkpoints, whose reader needs it.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich.table import Table

from llmstages.config.stages import InspectConfig
from llmstages.data.conversations import Conversation, conversations_and_bad_rows
from llmstages.data.corpus import MANIFEST_FILE, Corpus, DroppedDocument
from llmstages.data.file_kind import detect_kind
from llmstages.data.json_files import read_object
from llmstages.data.labelled_texts import LabelledText, read_labelled_texts
from llmstages.data.opening import check_file
from llmstages.data.rows import BadRows, Row
from llmstages.data.split import alike_rows, normalised_text
from llmstages.data.table import read_rows
from llmstages.errors import UserError
from llmstages.evaluate.classification import ClassificationReport
from llmstages.report.classification import render_classification
from llmstages.report.corpus import show_corpus
from llmstages.report.terminal import cell_text, output_console, plain, progress, table

if TYPE_CHECKING:
    from llmstages.stages.see_conversations import Reader

MAX_LABELS_SHOWN = 30
MAX_COLUMNS_SHOWN = 30
MAX_REASONS_SHOWN = 10
DEFAULT_BASE = "runs/pretrain"
# Distinct values of a column are counted up to this many; more is "many".
MAX_DISTINCT = 100_000
MAX_LEDGER_ROWS = 20_000
"""Read of a ledger, which may be as long as the corpus, to show some of it."""
EXAMPLE_CHARACTERS = 600
CONFIG_BYTES = 100_000
MAX_COLUMNS = 10_000
"""Columns counted; objects may have keys of their own in every row."""

Item = TypeVar("Item")


def run(config: InspectConfig) -> None:
    """Print what `config.path` holds.

    Raises:
        UserError: the path leads nowhere or to nothing that llmstages makes or reads.
    """
    if config.path is None:
        raise UserError("inspect needs a path: llmstages inspect PATH")
    path = Path(config.path).expanduser()
    if (path / MANIFEST_FILE).is_file():
        inspect_corpus(path, config)
        return
    if config.prove and not (path / "plan.json").is_file():
        raise UserError(f"{path}: prove=true is for the directory of a run, and this is none")
    if config.id is not None:
        raise UserError(f"{path}: id={config.id} shows a document of a corpus, and this is none")
    if config.base is not None and path.is_dir():
        raise UserError(f"{path}: base={config.base} is for a file of conversations")
    if not path.is_dir():
        inspect_data_file(path, config.num_examples, config.base)
    elif (path / "checkpoints").is_dir() or (path / "plan.json").is_file():
        if config.prove:
            from llmstages.stages.prove import prove

            prove(path, config.prove_steps)
        else:
            inspect_run(path)
    elif (path / "config.json").is_file():
        inspect_checkpoint(path)
    else:
        raise UserError(
            f"{path}: neither a corpus ({MANIFEST_FILE}) nor a run (checkpoints/) nor a checkpoint "
            "(config.json); name one of these or a data file"
        )


# -------------------------------------------------------------------------------------------------
# data files


def inspect_data_file(path: Path, num_examples: int, base: str | None = None) -> None:
    """Print format, columns and rows of a file, and what it would train."""
    check_file(path)
    opened = read_rows(path, bad_rows="skip", quiet=True)
    columns: dict[str, _Column] = {}
    first: list[Row] = []
    num_rows = 0
    with progress(f"reading {path.name}", unit="rows") as advance:
        for row in opened.rows:
            num_rows += 1
            if len(first) < num_examples:
                first.append(row)
            for name, value in row.values.items():
                if name in columns or len(columns) < MAX_COLUMNS:
                    columns.setdefault(name, _Column()).add(value)
            if num_rows % 10_000 == 0:
                advance(10_000)
        advance(num_rows % 10_000)
    try:
        kind, why_not = detect_kind(path), ""
    except UserError as error:
        kind, why_not = None, str(error).removeprefix(f"{path}: ")
    uses = {"classify": "finetune-classify: text and label", "instruct": "finetune-instruct"}
    _facts(
        str(path),
        {
            "format": opened.format,
            "encoding": None if opened.format == "parquet" else opened.encoding,
            "delimiter": {"\t": "tab", None: None}.get(opened.delimiter, opened.delimiter),
            "header": opened.has_header if opened.delimiter else None,
            "bytes": path.stat().st_size,
            "rows": num_rows,
            "bad rows": opened.bad.count,
            "first bad row": _bad_row(opened.skipped),
            "for": uses[kind] if kind else why_not,
        },
    )
    table(
        "columns",
        ("column", "filled", "distinct", "mean characters", "longest"),
        [
            (name, column.num_filled, column.distinct, column.mean_length, column.longest)
            for name, column in islice(columns.items(), MAX_COLUMNS_SHOWN)
        ],
        to_output=True,
    )
    reader = _reader(base) if kind == "instruct" else None
    try:
        if kind == "classify":
            _show_labelled(read_labelled_texts(path, bad_rows="skip"), num_examples)
        elif kind == "instruct":
            conversations, bad = conversations_and_bad_rows(path, quiet=True)
            _show_conversations(conversations, bad, num_examples, reader)
        else:
            for row in first:
                shown = json.dumps(row.values, ensure_ascii=False, default=str)
                _passage(f"row on line {row.line}", shown)
    except UserError as error:
        _line(f"not usable for training: {error}")


class _Column:
    """What one column holds, counted row by row in bounded memory."""

    def __init__(self) -> None:
        self.num_filled = 0
        self.longest = 0
        self._characters = 0
        self._hashes: set[int] = set()

    def add(self, value: object) -> None:
        """Count one cell."""
        text = (
            value
            if isinstance(value, str)
            else ""
            if value is None
            else json.dumps(value, default=str)
        )
        if not text.strip():
            return
        self.num_filled += 1
        self._characters += len(text)
        self.longest = max(self.longest, len(text))
        if len(self._hashes) < MAX_DISTINCT:
            self._hashes.add(hash(text))

    @property
    def distinct(self) -> int | str:
        """Number of different values."""
        count = len(self._hashes)
        return count if count < MAX_DISTINCT else f"{count:,} or more"

    @property
    def mean_length(self) -> float:
        """Characters in a filled cell."""
        return self._characters / max(1, self.num_filled)


def _bad_row(skipped: Sequence[tuple[int, str]]) -> str | None:
    return f"line {skipped[0][0]}: {skipped[0][1]}" if skipped else None


def _show_labelled(examples: Sequence[LabelledText], num_examples: int) -> None:
    """Labels, duplicates and a few texts."""
    counts = Counter(example.label for example in examples)
    shown = counts.most_common(MAX_LABELS_SHOWN)
    rows: list[tuple[str, int, str]] = [
        (label, count, f"{count / len(examples):.1%}") for label, count in shown
    ]
    if len(counts) > len(shown):
        rest = sum(counts.values()) - sum(count for _, count in shown)
        rows.append((f"{len(counts) - len(shown)} more", rest, f"{rest / len(examples):.1%}"))
    table(f"{len(counts)} labels", ("label", "rows", "share"), rows, to_output=True)
    labels_of: dict[str, set[str]] = {}
    for example in examples:
        labels_of.setdefault(normalised_text(example.text), set()).add(example.label)
    _facts(
        "texts",
        {
            "labelled rows": len(examples),
            "different texts": len(labels_of),
            "rows that repeat a text": len(examples) - len(labels_of),
            "texts that nearly repeat another": _num_near([row.text for row in examples]),
            "texts with different labels": sum(len(found) > 1 for found in labels_of.values()),
            "empty texts": sum(not example.text.strip() for example in examples),
            "words": sum(len(example.text.split()) for example in examples),
        },
    )
    for example in _spread(examples, num_examples):
        _passage(f"line {example.line}: {example.label}", example.text)


def _reader(base: str | None) -> "Reader | None":
    """How the base named reads conversations, or the usual one where it is there."""
    if base is None and not Path(DEFAULT_BASE).is_dir():
        return None
    from llmstages.stages.see_conversations import reader_of

    try:
        return reader_of(base or DEFAULT_BASE)
    except UserError as error:
        if base is not None:
            raise
        _line(f"shown as text only, since {DEFAULT_BASE} cannot be used: {error}")
        return None


def _num_near(texts: Sequence[str]) -> int:
    """How many different texts are a near duplicate of one before them."""
    return len({normalised_text(text) for text in texts}) - len(set(alike_rows(texts)))


def _show_conversations(
    conversations: Sequence[Conversation],
    bad: BadRows,
    num_examples: int,
    reader: "Reader | None",
) -> None:
    """Sizes, duplicates, rows set aside, and a few conversations, as the base reads them."""
    _show_set_aside(bad)
    if not conversations:
        _line("not usable for training: no row with a prompt and an answer in it")
        return
    answers = [
        turn.content
        for conversation in conversations
        for turn in conversation.messages
        if turn.role == "assistant"
    ]
    prompts = [
        "\n".join(turn.content for turn in conversation.messages[:-1])
        for conversation in conversations
    ]
    turns = sum(len(conversation.messages) for conversation in conversations)
    facts: dict[str, object] = {
        "conversations": len(conversations),
        "messages": turns,
        "with a system prompt": sum(row.messages[0].role == "system" for row in conversations),
        "with several answers": sum(
            sum(turn.role == "assistant" for turn in row.messages) > 1 for row in conversations
        ),
        "answers": len(answers),
        "words in answers": sum(len(answer.split()) for answer in answers),
        "longest answer, characters": max(len(answer) for answer in answers),
        "rows that repeat a prompt": len(prompts) - len({normalised_text(p) for p in prompts}),
        "prompts that nearly repeat another": _num_near(prompts),
        "empty answers": sum("no answer to learn" in reason for _, reason in bad.rows),
    }
    chosen = _spread(conversations, num_examples)
    if reader is None:
        _facts("conversations", facts)
        for conversation in chosen:
            text = "\n".join(f"{turn.role}: {turn.content}" for turn in conversation.messages)
            _passage(f"line {conversation.line}", text)
        return
    from llmstages.stages import see_conversations as see

    rendered = see.rendered_rows(conversations, reader)
    _facts("conversations", facts | see.supervision_facts(rendered, reader))
    if rendered.refused:
        reasons = rendered.refused.most_common(MAX_REASONS_SHOWN)
        table("refused by the base's template", ("reason", "rows"), reasons, to_output=True)
    see.show_rendered(rendered, reader, chosen)
    see.show_packing(rendered, reader)


def _show_set_aside(bad: BadRows) -> None:
    """Why rows cannot be used, the commonest reason first."""
    if not bad.count:
        return
    reasons = Counter(reason for _, reason in bad.rows).most_common(MAX_REASONS_SHOWN)
    of = f" (reasons of the first {len(bad.rows):,})" if bad.count > len(bad.rows) else ""
    table(f"{bad.count:,} rows set aside{of}", ("reason", "rows"), reasons, to_output=True)


def _spread(items: Sequence[Item], count: int) -> list[Item]:
    """`count` items at even distances, the first among them."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


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
    _facts(str(path), facts)
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
        _passage(f"{document.id} ({document.source}) {document.url or ''}".rstrip(), document.text)


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
        _facts(
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
        _facts(
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

    summary = _read_object(path / "summary.json")
    plan = _read_object(path / "plan.json")
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
    _facts(str(path), facts)

    metrics = _object(summary, "metrics")
    after, before = _numbers(metrics), _numbers(summary.get("metrics_before"))
    compared = {"before": before, "after": after}
    compared |= {name: _numbers(found) for name, found in _object(summary, "baselines").items()}
    given = {name: figures for name, figures in compared.items() if figures}
    if after:
        rows = [(key, *(figures.get(key) for figures in given.values())) for key in after]
        table("metrics", ("metric", *given), rows, to_output=True)
    if "confusion" in metrics:
        try:
            report = ClassificationReport.from_dict(metrics)
            rendered = render_classification(report, title="test rows")
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
        shown = "  ".join(f"{key} {value:.4g}" for key, value in _numbers(info.metrics).items())
        checkpoints.append((directory.name, info.tokens_seen, shown, " ".join(names)))
    if checkpoints:
        table("checkpoints", ("", "tokens seen", "metrics", ""), checkpoints, to_output=True)
    config = path / "config.yaml"
    if config.is_file():
        text = config.read_bytes()[:CONFIG_BYTES].decode("utf-8", errors="replace")
        _passage("config.yaml", text, limit=CONFIG_BYTES)


def inspect_checkpoint(path: Path) -> None:
    """Print what a checkpoint is, what it was made from, and whether its files are whole."""
    from llmstages.train.checkpoint import INFO_NAME, read_info, verify_files

    config = _read_object(path / "config.json")
    facts: dict[str, object] = {
        "class": _listed(config.get("architectures")),
        **_weights_facts(path / "model.safetensors"),
        "layers": config.get("num_hidden_layers"),
        "hidden size": config.get("hidden_size"),
        "context length, tokens": config.get("max_position_embeddings"),
        **_tokenizer_facts(path),
    }
    if labels := _object(config, "id2label"):
        listed = ", ".join(str(label) for label in islice(labels.values(), MAX_LABELS_SHOWN))
        facts["labels"] = f"{len(labels)}: {listed}" + (
            ", ..." if len(labels) > MAX_LABELS_SHOWN else ""
        )
    if not (path / INFO_NAME).is_file():
        _facts(str(path), facts | {"made by": f"another program (no {INFO_NAME})"})
        return
    info = read_info(path)
    try:
        verify_files(path, info)
        whole = f"all {len(info.files)} match their sha256"
    except UserError as error:
        whole = str(error)
    lineage = vars(info.lineage)
    facts |= {"stage": info.stage, "step": info.step, "tokens seen": info.tokens_seen}
    facts |= {f"made from {name.replace('_', ' ')}": value for name, value in lineage.items()}
    facts |= {key.replace("_", " "): value for key, value in _numbers(info.metrics).items()}
    _facts(str(path), facts | {"files": whole})


def _listed(value: object) -> str:
    """A list of names on one line; of anything else the JSON."""
    if isinstance(value, list):
        return ", ".join(map(str, value[:MAX_LABELS_SHOWN]))
    return "" if value is None else json.dumps(value)[:EXAMPLE_CHARACTERS]


def _object(record: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The object under a key; an empty one where there is none."""
    value = record.get(key)
    return value if isinstance(value, dict) else {}


def _weights_facts(path: Path) -> dict[str, object]:
    """Number of parameters and their types, from the header alone."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            slices = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118
            shapes = [(part.get_shape(), part.get_dtype()) for part in slices]
    except (SafetensorError, OSError, ValueError) as error:
        return {"weights": f"cannot be read ({error})"}
    count = 0
    for shape, _ in shapes:
        size = 1
        for side in shape:
            size *= side
        count += size
    types = ", ".join(sorted({kind for _, kind in shapes}))
    return {"parameters": count, "weights": f"{types}, {path.stat().st_size:,} bytes"}


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object; empty where the file is missing."""
    if not path.is_file():
        return {}
    try:
        return read_object(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: broken JSON ({error})") from None


def _metric_lines(path: Path) -> list[dict[str, Any]]:
    """The entries of `metrics.jsonl`; a last line that is still being written is left out."""
    if not path.is_file():
        return []
    if path.stat().st_size == 0:
        return []
    rows = read_rows(path, bad_rows="skip", quiet=True, format="jsonl").rows
    return [row.values for row in rows]


def _numbers(figures: object) -> dict[str, float]:
    """The single figures of a metrics object."""
    return {
        key: value
        for key, value in (figures if isinstance(figures, dict) else {}).items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


# -------------------------------------------------------------------------------------------------
# printing


def _facts(title: str, facts: Mapping[str, object]) -> None:
    """Print names and values in two columns; what is unknown is left out."""
    _line(title, style="italic")  # a table's own title would be folded to the table's width
    grid = Table(show_header=False)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts.items():
        if value is not None and value != "":
            grid.add_row(plain(name), plain(cell_text(value)))
    output_console().print(grid)


def _passage(title: str, text: str, limit: int = EXAMPLE_CHARACTERS) -> None:
    """Print a piece of text under a line that says what it is."""
    shown = text if len(text) <= limit else f"{text[:limit]} … ({len(text):,} characters)"
    _line(f"── {title}", style="bold")
    output_console().print(plain(shown))


def _line(text: str, style: str = "") -> None:
    output_console().print(plain(text, style=style))
