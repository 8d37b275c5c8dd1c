"""The recipe: from inputs to the documents of a corpus, in the order in which it is read here.

    inputs -> documents (encoding found, main text of pages) -> Unicode repair -> personal data
    -> language -> quality rules -> exact duplicates -> validation split -> documents/, dropped/

The steps up to the quality rules stream through Daft, a batch of documents at a time, into one
file; then the duplicates and the split are decided from ids, hashes and sizes alone; then each
source is sorted and written. Texts of one source are in memory once, in that last step.
"""

import hashlib
import json
import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import daft
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from daft import DataFrame, DataType, Expression, Series, col, lit
from daft.functions import coalesce, to_struct, when

from llmstages.collect.language import identify_language
from llmstages.collect.personal import replace_personal_data
from llmstages.collect.quality import quality_rules
from llmstages.collect.repair import repair, valid_unicode
from llmstages.collect.sources import Input, Note, read_input
from llmstages.collect.split import SplitKey, cut_tail, split_documents
from llmstages.config.groups import PiiConfig, SourceConfig
from llmstages.config.stages import CollectConfig
from llmstages.data.corpus import (
    DOCUMENT_SCHEMA,
    DROPPED_SCHEMA,
    Counts,
    InputRecord,
    PartWriter,
    SourceManifest,
)
from llmstages.errors import UserError

BATCH_BYTES = 4_000_000
"""Input read by one worker at a time: small enough to share out evenly, large enough to pay."""
PARALLEL_BYTES = 4_000_000
"""Below this much input, starting worker processes takes longer than reading."""

Advance = Callable[[int], None]

RECORD = DataType.struct(
    {
        "id": DataType.string(),
        "text": DataType.string(),
        "url": DataType.string(),
        "metadata": DataType.string(),
        "note": DataType.string(),
        "error": DataType.string(),
    }
)


@dataclass(frozen=True)
class Cleaned:
    """What the pipeline made of the inputs."""

    sources: list[SourceManifest]
    notes: list[Note]


def clean(
    inputs: Mapping[str, Sequence[Input]],
    config: CollectConfig,
    directory: Path,
    on_read: Advance,
) -> Cleaned:
    """Write `documents/` and `dropped/` below `directory`.

    `on_read(documents)` is called as work goes on.

    Raises:
        UserError: an input cannot be read.
    """
    judged = directory / "judged.parquet"
    documents = read_documents(inputs, config)
    documents = measure(documents)
    documents = mend(documents, config)
    documents = judge(documents, config)
    notes = spool(documents, judged, on_read)
    decisions = decide(judged, config)
    sources = [
        write_source(name, inputs[name], judged, decisions, config, directory)
        for name in sorted(inputs)
    ]
    judged.unlink()
    return Cleaned(sources, notes)


# 1. Inputs -> documents.


def read_documents(inputs: Mapping[str, Sequence[Input]], config: CollectConfig) -> DataFrame:
    """One row a document (id, text, source, url, metadata), or a row with a note or an error."""
    rows = [(name, entry) for name in sorted(inputs) for entry in inputs[name]]
    rows.sort(key=lambda row: -row[1].bytes)  # large ones first: no worker ends long after others
    total = sum(entry.bytes for _, entry in rows)
    listing = daft.from_pydict(
        {
            "source": [name for name, _ in rows],
            "locator": [entry.locator for _, entry in rows],
            "path": [entry.path for _, entry in rows],
            "bytes": [entry.bytes for _, entry in rows],
        }
    )
    sources, bad_rows = recipe_sources(config), config.bad_rows

    def records(source: str, locator: str, path: str, size: int) -> Iterator[dict[str, Any]]:
        yield from read_records(source, Input(locator, path, size, ""), sources[source], bad_rows)

    # Parsing is Python code and holds the interpreter's lock: only processes use all cores.
    parallel = len(rows) > 1 and total > PARALLEL_BYTES and (os.cpu_count() or 1) > 1
    reader = daft.func(records, return_dtype=RECORD, use_process=parallel)
    batch_rows = min(64, max(1, BATCH_BYTES * len(rows) // max(total, 1)))
    return (
        listing.into_batches(batch_rows)
        .select(
            col("source"),
            reader(col("source"), col("locator"), col("path"), col("bytes")).alias("record"),
        )
        .select(col("source"), col("record").unnest())
    )


def read_records(
    source: str, entry: Input, config: SourceConfig, bad_rows: str
) -> Iterator[dict[str, Any]]:
    """The rows of one input. Exceptions lose their type in a worker: errors travel as rows."""
    empty: dict[str, Any] = dict.fromkeys(("id", "text", "url", "metadata", "note", "error"))
    try:
        for found in read_input(entry, config, bad_rows):
            if isinstance(found, Note):
                yield empty | {"id": found.locator, "note": found.text}
            else:
                yield empty | {
                    "id": document_id(source, found.locator, found.ordinal),
                    "text": valid_unicode(found.text),
                    "url": found.url and valid_unicode(found.url),
                    "metadata": valid_unicode(json.dumps(found.metadata, ensure_ascii=False)),
                }
    except UserError as error:
        yield empty | {"error": str(error)}


def document_id(source: str, locator: str, ordinal: int | str) -> str:
    """A document's name for good: 32 hexadecimal digits, the same wherever the source lies."""
    key = f"{source}\0{locator}\0{ordinal}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(key, digest_size=16).hexdigest()


def recipe_sources(config: CollectConfig) -> dict[str, SourceConfig]:
    """The sources of the recipe and, where paths are given, one made of these."""
    sources = dict(config.corpus.sources)
    if config.paths:
        # The local recipe is nothing but these paths; beside other sources they are `files`.
        name = "local" if config.corpus.name == "local" else "files"
        while name in sources:
            name += "_given"
        sources[name] = SourceConfig(kind="files", paths=list(config.paths))
    return sources


# 2. What is measured before and mended in the texts.


def measure(documents: DataFrame) -> DataFrame:
    """Size before cleaning, and signs of broken decoding, which cleaning would remove."""
    text = col("text")
    return documents.with_columns(
        {
            "words_in": text.regexp_count(r"\S+"),
            "bytes_in": text.length_bytes(),
            "broken_characters": text.regexp_count(
                r"[\x00-\x08\x0e-\x1f\x7f\x{80}-\x{9f}\x{fffd}]"
            ),
        }
    )


def mend(documents: DataFrame, config: CollectConfig) -> DataFrame:
    """Unicode repair, then personal data."""
    documents = documents.with_column("text", repaired(col("text")))
    if config.pii.replace_emails or config.pii.replace_ips:
        documents = documents.with_column(
            "text",
            cast(
                Expression,
                without_personal_data(
                    col("text"), config.pii.replace_emails, config.pii.replace_ips
                ),
            ),
        )
    return documents


@daft.func.batch(return_dtype=DataType.string(), use_process=False)
def repaired(texts: Series) -> list[str | None]:
    """`repair` of each text."""
    return [text if text is None else repair(text) for text in texts.to_pylist()]


@daft.func.batch(return_dtype=DataType.string(), use_process=False)
def without_personal_data(texts: Series, emails: bool, ips: bool) -> list[str | None]:
    """`replace_personal_data` of each text."""
    config = PiiConfig(replace_emails=emails, replace_ips=ips)
    return [
        text if text is None else replace_personal_data(text, config) for text in texts.to_pylist()
    ]


# 3. Which documents stay.


def judge(documents: DataFrame, config: CollectConfig) -> DataFrame:
    """Add language, words, bytes, the hash for duplicates, and the first rule that is broken."""
    text = col("text")
    documents = documents.with_columns(
        {
            "words": text.regexp_count(r"\S+").cast(DataType.int64()),
            "bytes": text.length_bytes().cast(DataType.int64()),
            "folded": folded_hash(text),
            "language": (
                language(text) if config.language.identify else lit(None).cast(DataType.string())
            ),
        }
    )
    verdicts = [verdict(col("words") < lit(1), "empty", lit(0.0), 1.0)]
    if config.language.keep:
        kept = col("language").is_in(config.language.keep)
        verdicts.append(verdict(~kept, "language", lit(None).cast(DataType.float64()), None))
    verdicts += [
        verdict(rule.broken, rule.name, rule.value, rule.threshold)
        for rule in quality_rules(config.quality)
    ]
    first_broken = coalesce(*verdicts) if len(verdicts) > 1 else verdicts[0]
    return documents.with_column("verdict", first_broken).select(
        *("id", "text", "source", "url", "language", "metadata", "note", "error"),
        *("words_in", "bytes_in", "words", "bytes", "folded"),
        col("verdict").unnest(),
    )


def verdict(
    broken: Expression, rule: str, value: Expression, threshold: float | None
) -> Expression:
    """What the ledger says where `broken` holds, null elsewhere."""
    return when(
        broken,
        to_struct(
            rule=lit(rule),
            value=value.cast(DataType.float64()),
            threshold=lit(threshold).cast(DataType.float64()),
        ),
    )


@daft.func.batch(return_dtype=DataType.string(), use_process=False)
def language(texts: Series) -> list[str | None]:
    """The language of each text."""
    return [text if text is None else identify_language(text) for text in texts.to_pylist()]


@daft.func.batch(return_dtype=DataType.string(), use_process=False)
def folded_hash(texts: Series) -> list[str | None]:
    """Hash of each text after folding: equal for texts that differ in case, space or form alone."""
    return [text if text is None else _folded_hash(text) for text in texts.to_pylist()]


def _folded_hash(text: str) -> str:
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    folded = " ".join(text.casefold().split())
    return hashlib.blake2b(folded.encode("utf-8"), digest_size=16).hexdigest()


# 4. Run the steps above, once.


def spool(documents: DataFrame, path: Path, on_read: Advance) -> list[Note]:
    """Stream the judged documents into one file and return the notes.

    Raises:
        UserError: a reader met an error, or there is nothing to read.
    """
    notes: list[Note] = []
    errors: list[str] = []
    writer: pq.ParquetWriter | None = None
    try:
        for batch in documents.to_arrow_iter():
            table = pa.Table.from_batches([batch])
            errors += [error for error in table["error"].to_pylist() if error]
            for row in table.filter(pc.is_valid(table["note"])).select(["id", "note"]).to_pylist():
                notes.append(Note(row["id"], row["note"]))
            rows = table.filter(pc.is_valid(table["text"])).drop_columns(["note", "error"])
            if writer is None:
                writer = pq.ParquetWriter(path, rows.schema, compression="lz4")
            writer.write_table(rows)
            on_read(rows.num_rows)
            if errors:
                break
    finally:
        if writer is not None:
            writer.close()
    if errors:
        raise UserError(min(errors))
    if writer is None:
        raise UserError("the sources hold no documents: add files with text")
    return sorted(notes, key=lambda note: (note.text, note.locator))


# 5. Duplicates and the split, from ids, hashes and sizes.


def decide(judged: Path, config: CollectConfig) -> DataFrame:
    """For every document the part it goes to, or the document it duplicates."""
    keys = daft.read_parquet(str(judged)).select(
        *("id", "source", "folded", "bytes", "rule"),
        (col("source") + lit("\0") + col("id")).alias("key"),
    )
    kept = keys.where(col("rule").is_null())
    if config.dedup.exact:
        first = kept.groupby("folded").agg(col("key").min().alias("first"))
        keys = keys.join(first, on="folded", how="left").with_column(
            "duplicate_of",
            when(col("rule").is_null() & (col("first") < col("key")), col("first")),
        )
    else:
        keys = keys.with_column("duplicate_of", lit(None).cast(DataType.string()))
    table = keys.select("id", "source", "folded", "bytes", "rule", "duplicate_of", "key").to_arrow()
    table = table.sort_by("key")
    stays = pc.and_(pc.is_null(table["rule"]), pc.is_null(table["duplicate_of"]))
    staying = table.filter(stays).select(["source", "folded", "bytes"]).to_pylist()
    parts = iter(
        split_documents(
            [SplitKey(**row) for row in staying],
            config.corpus.validation_share,
            config.corpus.min_documents_to_split,
            config.seed,
        )
    )
    return daft.from_pydict(
        {
            "id": table["id"].to_pylist(),
            "part": [next(parts) if stay else "dropped" for stay in stays.to_pylist()],
            "duplicate_of": [
                first and first.partition("\0")[2] for first in table["duplicate_of"].to_pylist()
            ],
        }
    ).with_column("duplicate_of", col("duplicate_of").cast(DataType.string()))


# 6. Documents on disk.


def write_source(
    name: str,
    inputs: Sequence[Input],
    judged: Path,
    decisions: DataFrame,
    config: CollectConfig,
    directory: Path,
) -> SourceManifest:
    """Write the documents and the drop ledger of one source, sorted by id."""
    source = recipe_sources(config)[name]
    rows = (
        daft.read_parquet(str(judged))
        .where(col("source").is_in([name]))
        .join(decisions, on="id")
        .sort("id")
    )
    extracted = Counts()
    dropped: defaultdict[str, int] = defaultdict(int)
    counts = {"train": Counts(), "validation": Counts()}
    digest = hashlib.sha256()
    with (
        PartWriter(directory / "documents" / "train", name, DOCUMENT_SCHEMA) as train,
        PartWriter(directory / "documents" / "validation", name, DOCUMENT_SCHEMA) as validation,
        PartWriter(directory / "dropped", name, DROPPED_SCHEMA) as ledger,
    ):
        writers = {"train": train, "validation": validation}
        for batch in rows.to_arrow_iter():
            table = pa.Table.from_batches([batch])
            extracted += Counts(table.num_rows, total(table["words_in"]), total(table["bytes_in"]))
            left_out = with_duplicates_named(table.filter(pc.equal(table["part"], "dropped")))
            ledger.write(left_out)
            for rule in left_out["rule"].to_pylist():
                dropped[rule] += 1
            cut = with_tails(
                table.filter(pc.equal(table["part"], "both")), config.corpus.validation_share
            )
            for split, writer in writers.items():
                documents = pa.concat_tables(
                    [table.filter(pc.equal(table["part"], split)), cut[split]],
                    promote_options="permissive",
                ).sort_by("id")
                writer.write(documents)
                counts[split] += Counts(
                    documents.num_rows, total(documents["words"]), total(documents["bytes"])
                )
                for row in documents.select(["id", "text"]).to_pylist():
                    digest.update(f"{split}\0{row['id']}\0{row['text']}\0".encode())
    return SourceManifest(
        name=name,
        kind=source.kind,
        license=source.license,
        weight=source.weight,
        inputs=[InputRecord(entry.locator, entry.bytes, entry.sha256) for entry in inputs],
        extracted=extracted,
        dropped=dict(sorted(dropped.items())),
        train=counts["train"],
        validation=counts["validation"],
        documents_sha256=digest.hexdigest(),
    )


def with_duplicates_named(table: pa.Table) -> pa.Table:
    """The rule of dropped documents that broke no quality rule is `duplicate`."""
    rule = pc.fill_null(table["rule"], "duplicate")
    return table.set_column(table.schema.get_field_index("rule"), "rule", rule)


def with_tails(table: pa.Table, validation_share: float) -> dict[str, pa.Table]:
    """Heads for training and tails for validation; a tail is a document with an id of its own."""
    halves: dict[str, list[dict[str, Any]]] = {"train": [], "validation": []}
    for row in table.to_pylist():
        head, tail = cut_tail(row["text"], validation_share)
        tail_id = document_id(row["source"], row["id"], "tail")
        for split, text, name in (("train", head, row["id"]), ("validation", tail, tail_id)):
            if text.split():
                metadata = json.loads(row["metadata"])
                if tail:
                    metadata["part"] = "start" if split == "train" else "end"
                halves[split].append(
                    row
                    | {
                        "id": name,
                        "text": text,
                        "words": len(text.split()),
                        "bytes": len(text.encode("utf-8")),
                        "metadata": json.dumps(metadata, ensure_ascii=False),
                    }
                )
    return {
        split: pa.Table.from_pylist(rows, schema=table.schema) for split, rows in halves.items()
    }


def total(column: pa.ChunkedArray) -> int:
    """Sum of a column of whole numbers; 0 when it is empty."""
    return int(pc.sum(column).as_py() or 0)
