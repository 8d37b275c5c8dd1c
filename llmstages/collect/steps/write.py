"""Step 4, write: decisions -> `documents/` and `dropped/`, a bucket at a time, on all workers.

A bucket is a range of ids of one source, so buckets in order are the corpus in the order of
(source, id), and part numbers are bucket numbers. Contaminated text is cut out here, and the tails
of documents of small sources go to validation; what a document is cut into is named after it, so
that the order stays.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llmstages.collect.duplicates.decontamination import cut
from llmstages.collect.engine import Engine
from llmstages.collect.sources.records import Input
from llmstages.collect.split import (
    BOTH,
    SHORTEST_TO_CUT,
    TRAIN,
    VALIDATION,
    cut_tail,
    tail_start,
)
from llmstages.collect.steps.measure import read_bucket, source_of
from llmstages.collect.steps.read import Reading
from llmstages.collect.work import complete, read_json, write_json
from llmstages.config.collect_groups import CorpusConfig, DecontaminateConfig, SourceConfig
from llmstages.config.stages import CollectConfig
from llmstages.data.corpus import (
    DOCUMENT_SCHEMA,
    DROPPED_SCHEMA,
    SPLITS,
    Counts,
    InputRecord,
    SourceManifest,
    rows_sha256,
    sha256_of_parts,
)

CONTAMINATED = "contaminated"
SIZES = [pa.field("words", pa.int64()), pa.field("bytes", pa.int64())]
SIZED_SCHEMA = pa.schema([*DOCUMENT_SCHEMA, *SIZES])
SIZED_DROPPED_SCHEMA = pa.schema([*DROPPED_SCHEMA, *SIZES])
ROW_GROUP_ROWS = 4096
"""Rows that are read together at least, when one document is looked for."""
PARALLEL_BYTES = 40_000_000
"""Below this much text, starting worker processes takes longer than writing."""


def write_documents(
    paths: Sequence[Path],
    decisions_dir: Path,
    config: CollectConfig,
    directory: Path,
    engine: Engine,
    advance: Callable[[int], None],
) -> dict[str, list[dict[str, Any]]]:
    """Write all buckets below `directory`; the records of each source's buckets, in order."""
    records_dir = directory / "buckets"
    records_dir.mkdir(parents=True, exist_ok=True)
    buckets = sorted(path.stem for path in decisions_dir.glob("*.parquet"))
    todo = [bucket for bucket in buckets if not (records_dir / f"{bucket}.json").exists()]
    size = sum(path.stat().st_size for path in paths)
    corpus, rules = config.corpus, config.decontaminate

    def run(bucket: str) -> str:
        return write_bucket(bucket, paths, decisions_dir, corpus, rules, directory)

    advance(len(buckets) - len(todo))
    for _ in engine.run(run, todo, parallel=size > PARALLEL_BYTES):
        advance(1)
    records: dict[str, list[dict[str, Any]]] = {}
    for bucket in buckets:
        record = read_json(records_dir / f"{bucket}.json")
        records.setdefault(source_of(bucket), []).append(record)
    return records


def write_bucket(
    bucket: str,
    paths: Sequence[Path],
    decisions_dir: Path,
    corpus: CorpusConfig,
    rules: DecontaminateConfig,
    directory: Path,
) -> str:
    """Write the documents and the ledger of one bucket, then a record of it."""
    table = read_bucket(paths, bucket)
    decisions = pq.read_table(decisions_dir / f"{bucket}.parquet")
    assert decisions["id"].equals(table["id"])
    record: dict[str, Any] = {
        "extracted": asdict(
            Counts(table.num_rows, total(table["words_in"]), total(table["bytes_in"]))
        ),
        "sha256": {},
    }
    part = decisions["part"].to_numpy()
    drops = pc.is_valid(decisions["rule"]).to_numpy()
    # Few documents are cut; all others are moved as they are.
    cut_up = ~drops & ((part == BOTH) | pc.is_valid(decisions["hits"]).to_numpy())
    pieces = Pieces(corpus, rules)
    chosen = np.flatnonzero(cut_up)
    for row, decision in zip(
        table.take(pa.array(chosen)).to_pylist(),
        decisions.take(pa.array(chosen)).to_pylist(),
        strict=True,
    ):
        pieces.add(row, decision)
    dropped = pa.concat_tables(
        [
            drop_ledger(table.filter(pa.array(drops)), decisions.filter(pa.array(drops))),
            pieces.table("dropped"),
        ]
    )
    write_part(bucket, "dropped", dropped, DROPPED_SCHEMA, directory / "dropped", record)
    del dropped
    for split, code in (("train", TRAIN), ("validation", VALIDATION)):
        whole = table.filter(pa.array(~drops & ~cut_up & (part == code)))
        documents = pa.concat_tables([whole.select(SIZED_SCHEMA.names), pieces.table(split)])
        folder = directory / "documents" / split
        write_part(bucket, split, documents, DOCUMENT_SCHEMA, folder, record)
    record[CONTAMINATED] = asdict(pieces.contaminated)
    record["decontaminated"] = asdict(pieces.decontaminated)
    write_json(directory / "buckets" / f"{bucket}.json", record)
    return json.dumps(bucket)


def write_part(
    bucket: str, name: str, table: pa.Table, schema: pa.Schema, folder: Path, record: dict[str, Any]
) -> None:
    """Write the rows of one kind, sorted by id, and note their sizes and hash in the record."""
    table = table.take(pc.sort_indices(table["id"]))
    record["sha256"][name] = rows_sha256(table)
    record[name] = asdict(Counts(table.num_rows, total(table["words"]), total(table["bytes"])))
    if table.num_rows:
        folder.mkdir(parents=True, exist_ok=True)
        with complete(folder / f"{bucket}.parquet") as staging:
            rows = table.select(schema.names).cast(schema)
            pq.write_table(rows, staging, compression="zstd", row_group_size=ROW_GROUP_ROWS)


def drop_ledger(documents: pa.Table, decisions: pa.Table) -> pa.Table:
    """What the ledger says of the documents that a rule drops."""
    kept = ("id", "text", "source", "url", "metadata", "words", "bytes")
    columns = {name: documents[name] for name in kept}
    columns |= {name: decisions[name] for name in ("rule", "value", "threshold", "duplicate_of")}
    return pa.table(columns).select(SIZED_DROPPED_SCHEMA.names).cast(SIZED_DROPPED_SCHEMA)


class Pieces:
    """The documents of a bucket that are cut, and what they are cut into."""

    def __init__(self, corpus: CorpusConfig, rules: DecontaminateConfig) -> None:
        self.contaminated = Counts()
        """Dropped whole."""
        self.decontaminated = Counts()
        """Documents with evaluation text, and what went with it."""
        self._rows: dict[str, list[dict[str, Any]]] = {name: [] for name in (*SPLITS, "dropped")}
        self._validation_share = corpus.validation_share
        self._exact = corpus.split == "characters"
        self._rules = rules

    def table(self, name: str) -> pa.Table:
        """The rows for a split, or for the ledger."""
        schema = SIZED_DROPPED_SCHEMA if name == "dropped" else SIZED_SCHEMA
        return pa.Table.from_pylist(self._rows[name], schema=schema)

    def add(self, row: dict[str, Any], decision: dict[str, Any]) -> None:
        """Cut a document as its decision says."""
        split = "validation" if decision["part"] == VALIDATION else "train"
        hits = [(hit["start"], hit["end"]) for hit in decision["hits"] or ()]
        ranges = cut(row["text"], hits, self._rules)
        if ranges is not None:
            left = [sizes(row["text"][start:end]) for start, end in ranges]
            self.decontaminated += Counts(
                1,
                row["words"] - sum(size["words"] for size in left),
                row["bytes"] - sum(size["bytes"] for size in left),
            )
            if not ranges:
                self._drop(row, len(hits))
            elif decision["part"] == BOTH and self._exact:
                self._both_sides(row, ranges, decision["cut"])
            elif decision["part"] == BOTH:
                self._end(row, ranges)
            else:
                self._pieces(split, row, ranges)
            return
        text, start = row["text"], len(row["text"])
        if decision["part"] == BOTH:
            start = self._tail_start(text, decision["cut"])
        if self._is_text(text[start:]):
            self._keep("train", row, None, text[:start], "start")
            self._keep("validation", row, "end", text[start:], "end")
        else:
            self._keep(split, row, None, text, None)

    def _tail_start(self, text: str, cut: int) -> int:
        if self._exact:
            return cut
        if len(text) < SHORTEST_TO_CUT:
            return len(text)
        return tail_start(text, cut, self._validation_share)

    def _is_text(self, text: str) -> bool:
        return bool(text if self._exact else text.split())

    def _both_sides(self, row: dict[str, Any], ranges: Sequence[tuple[int, int]], cut: int) -> None:
        """Pieces in front of the cut for training, those behind it for validation."""
        number = 0
        for start, end in ranges:
            for split, first, last in (
                ("train", start, min(end, cut)),
                ("validation", max(start, cut), end),
            ):
                if first < last:
                    text = row["text"][first:last]
                    self._keep(split, row, str(number), text, f"piece {number}")
                    number += 1

    def _pieces(self, split: str, row: dict[str, Any], ranges: Sequence[tuple[int, int]]) -> None:
        for number, (start, end) in enumerate(ranges):
            self._keep(split, row, str(number), row["text"][start:end], f"piece {number}")

    def _end(self, row: dict[str, Any], ranges: Sequence[tuple[int, int]]) -> None:
        """All pieces for training, but for the end of the last one."""
        start, end = ranges[-1]
        share = self._validation_share * sum(end - start for start, end in ranges) / (end - start)
        head, tail = cut_tail(row["text"][start:end], min(share, 0.5))
        self._pieces("train", row, [*ranges[:-1], (start, start + len(head))])
        self._keep("validation", row, "end", tail, "end")

    def _keep(
        self, split: str, row: dict[str, Any], suffix: str | None, text: str, part: str | None
    ) -> None:
        if not self._is_text(text):
            return
        piece = {"id": row["id"] if suffix is None else f"{row['id']}-{suffix}", "text": text}
        if part is not None:
            metadata = json.loads(row["metadata"]) | {"part": part}
            piece["metadata"] = json.dumps(metadata, ensure_ascii=False)
        self._rows[split].append(row | piece | sizes(text))

    def _drop(self, row: dict[str, Any], num_hits: int) -> None:
        self.contaminated += Counts(1, row["words"], row["bytes"])
        self._rows["dropped"].append(row | {"rule": CONTAMINATED, "value": float(num_hits)})


def sizes(text: str) -> dict[str, int]:
    """Words and bytes of a text."""
    return {"words": len(text.split()), "bytes": len(text.encode("utf-8"))}


def total(column: pa.ChunkedArray) -> int:
    """Sum of a column of whole numbers; 0 when it is empty."""
    return int(pc.sum(column).as_py() or 0)


def source_manifest(
    name: str,
    source: SourceConfig,
    inputs: Sequence[Input],
    reading: Reading,
    skipped: Mapping[str, int],
    dropped: Mapping[str, Counts],
    records: Sequence[dict[str, Any]],
) -> SourceManifest:
    """What the manifest says of one source."""
    sums = {
        key: sum((Counts(**record[key]) for record in records), Counts())
        for key in ("extracted", "train", "validation", CONTAMINATED, "decontaminated")
    }
    rules = dict(dropped)
    if sums[CONTAMINATED].documents:
        rules[CONTAMINATED] = sums[CONTAMINATED]
    reasons = dict(reading.skipped.get(name, {}))
    for reason, count in skipped.items():
        reasons[reason] = reasons.get(reason, 0) + count
    return SourceManifest(
        name=name,
        kind=source.kind,
        license=source.license,
        weight=source.weight,
        priority=source.priority,
        published_tokens=source.published_tokens,
        published_epochs=source.published_epochs,
        inputs=[InputRecord(entry.locator, entry.bytes, entry.sha256) for entry in inputs],
        skipped=dict(sorted(reasons.items())),
        extracted=sums["extracted"],
        dropped=dict(sorted(rules.items())),
        decontaminated=sums["decontaminated"],
        train=sums["train"],
        validation=sums["validation"],
        documents_sha256=sha256_of_parts(record["sha256"] for record in records),
    )
