"""Step 2, measure: raw documents -> clean text, and all that decisions need to know of it.

Unicode repair (unless `repair=false`), personal data replaced, lines taken out; then language,
statistics for the quality rules, a hash for exact duplicates, signatures for near duplicates,
evaluation text found. A task is one part of the step before. It writes two files with the same rows
in the same order:

    <part>.text.arrow          the documents, as they will stand in the corpus
    <part>.measures.parquet    what was measured; written last

Rows are sorted by bucket and id. A bucket is a range of ids of one source, small enough for the
last step to hold in memory; each is a batch of the first file, which finds it by itself (an Arrow
file, because opening a Parquet file costs more than reading one bucket of it).
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from llmstages.collect.cleaning.lines import clean_lines, cleans_lines
from llmstages.collect.cleaning.personal import replace_personal_data
from llmstages.collect.cleaning.repair import repair
from llmstages.collect.duplicates.decontamination import ARROW_HITS, EvaluationIndex
from llmstages.collect.duplicates.folding import folded_hash
from llmstages.collect.engine import Engine
from llmstages.collect.quality.language import identify_language
from llmstages.collect.quality.statistics import COUNTS, STATISTICS, measure_both
from llmstages.collect.steps.read import Reading
from llmstages.collect.work import complete
from llmstages.config.collect_groups import DedupConfig, PiiConfig, QualityConfig
from llmstages.duplicates.minhash import band_hashes

SLICE_ROWS = 1024
SLICE_BYTES = 8_000_000
"""Documents measured at a time: enough for vectors to pay, little to hold a few times."""
BUCKET_BYTES = 32_000_000
"""Text in one bucket."""
PARALLEL_BYTES = 6_000_000
"""Below this much text, starting worker processes takes longer than measuring."""
BROKEN = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ufffd]")
"""Signs of broken decoding; repair removes them, so they are counted before."""
BUCKETS_KEY = b"llmstages.buckets"
"""Metadata of a text file: bucket and rows of each batch."""

TEXT_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.large_string()),
        ("source", pa.string()),
        ("url", pa.string()),
        ("language", pa.string()),
        ("metadata", pa.string()),
        ("words", pa.int64()),
        ("bytes", pa.int64()),
        ("words_in", pa.int64()),
        ("bytes_in", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Measuring:
    """The settings of this step: another value of any of them gives another result."""

    repair: bool
    quality: QualityConfig
    """Of which only what takes lines out counts."""
    pii: PiiConfig
    identify_language: bool
    dedup: DedupConfig
    index_path: Path | None
    """Evaluation text to look for."""


def band_column(band: int) -> str:
    """Name of the column that holds one band of the signatures."""
    return f"band_{band:02d}"


def measure_documents(
    reading: Reading,
    raw_dir: Path,
    settings: Measuring,
    directory: Path,
    engine: Engine,
    advance: Callable[[int], None],
) -> list[Path]:
    """Measure all documents; returns the text files, in the order of their names."""
    buckets = num_buckets(reading.source_bytes)
    names = [part.removesuffix(".parquet") for part in reading.parts]
    for path in directory.iterdir():
        if path.name.split(".")[0] not in names:
            path.unlink(missing_ok=True)  # of an input that is no longer there
    todo = [name for name in names if not (directory / f"{name}.measures.parquet").exists()]
    advance(len(names) - len(todo))

    def run(name: str) -> str:
        return measure_part(raw_dir / f"{name}.parquet", settings, buckets, directory)

    parallel = sum(reading.part_bytes) > PARALLEL_BYTES
    for _ in engine.run(run, todo, parallel):
        advance(1)
    return [directory / f"{name}.text.arrow" for name in sorted(names)]


def measures_path(text_path: Path) -> Path:
    """The measures of the documents in a text file."""
    return text_path.with_name(text_path.name.replace(".text.arrow", ".measures.parquet"))


def measure_part(
    raw_path: Path, settings: Measuring, buckets: Mapping[str, int], directory: Path
) -> str:
    """Measure one part of the raw documents."""
    index = EvaluationIndex.load(settings.index_path) if settings.index_path else None
    tables = [measured(raw, settings, index) for raw in slices(raw_path)]
    texts = pa.concat_tables([text for text, _ in tables])
    measures = pa.concat_tables([measure for _, measure in tables])
    names = bucket_of(texts["source"].to_pylist(), texts["id"].to_pylist(), buckets)
    order = np.lexsort((texts["id"].to_numpy().astype("S"), np.array(names)))
    name = raw_path.stem
    with complete(directory / f"{name}.text.arrow") as staging:
        write_by_bucket(texts, [names[row] for row in order], order, staging)
    with complete(directory / f"{name}.measures.parquet") as staging:
        pq.write_table(measures.take(pa.array(order)), staging, compression="lz4")
    return name


def slices(path: Path) -> Iterator[pa.Table]:
    """The rows of a part, few at a time."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(SLICE_ROWS):
            table = pa.Table.from_batches([batch])
            pieces = max(1, math.ceil(table.nbytes / SLICE_BYTES))
            step = max(1, math.ceil(table.num_rows / pieces))
            for start in range(0, table.num_rows, step):
                yield table.slice(start, step)


def measured(
    raw: pa.Table, settings: Measuring, index: EvaluationIndex | None
) -> tuple[pa.Table, pa.Table]:
    """The clean documents, and what is measured of them."""
    found = raw["text"].to_pylist()
    broken = np.array([len(BROKEN.findall(text)) for text in found], dtype=np.float64)
    sound = [repair(text) for text in found] if settings.repair else found
    repaired = [replace_personal_data(text, settings.pii) for text in sound]
    texts = repaired
    if cleans_lines(settings.quality):
        texts = [clean_lines(text, settings.quality) for text in repaired]
    languages: list[tuple[str | None, float | None]] = [(None, None)] * len(texts)
    if settings.identify_language:
        languages = [identify_language(text) for text in texts]
    documents = {
        "id": raw["id"],
        "text": pa.array(texts, pa.large_string()),
        "source": raw["source"],
        "url": raw["url"],
        "language": pa.array([code for code, _ in languages], pa.string()),
        "metadata": raw["metadata"],
        "words_in": pa.array([len(text.split()) for text in found], pa.int64()),
        "bytes_in": pc.binary_length(raw["text"]),
    }
    measures = {
        "id": raw["id"],
        "source": raw["source"],
        "language": documents["language"],
        "language_confidence": pa.array([share for _, share in languages], pa.float64()),
        "folded": pa.array([folded_hash(text) for text in texts], pa.uint64()),
        "whole": raw["whole"],
        "piece": raw["piece"],
        "characters": pa.array([len(text) for text in texts], pa.int64()),
    }
    statistics = measure_both(repaired, texts, broken)
    for name in COUNTS:
        documents[name] = pa.array(statistics[name]).cast(pa.int64(), safe=False)
    for name in dict.fromkeys([*COUNTS, *STATISTICS]):
        measures[name] = pa.array(statistics[name])
    for number, band in enumerate(band_hashes(texts, settings.dedup)):
        measures[band_column(number)] = pa.array(band)
    hits = index.hits(texts) if index else {}
    measures["hits"] = pa.array([hits.get(row) for row in range(len(texts))], ARROW_HITS)
    return pa.table(documents).select(TEXT_SCHEMA.names).cast(TEXT_SCHEMA), pa.table(measures)


# Buckets.


def num_buckets(source_bytes: Mapping[str, int]) -> dict[str, int]:
    """Buckets of each source, a power of two; ids are hashes, so all have about equal size."""
    return {
        source: 1 << max(0, math.ceil(math.log2(max(size, 1) / BUCKET_BYTES)))
        for source, size in source_bytes.items()
    }


def bucket_of(sources: Sequence[str], ids: Sequence[str], buckets: Mapping[str, int]) -> list[str]:
    """The bucket of each document: as many equal ranges of ids a source as `buckets` says."""
    return [
        # The first 32 bits of the id, as a fraction of all there are.
        f"{source}-{(int(name[:8], 16) * buckets[source]) >> 32:05d}"
        for source, name in zip(sources, ids, strict=True)
    ]


def source_of(bucket: str) -> str:
    """The source a bucket belongs to."""
    return bucket.rpartition("-")[0]


def write_by_bucket(
    texts: pa.Table, buckets: Sequence[str], order: NDArray[np.int64], path: Path
) -> None:
    """Write the rows in this order, each bucket as a batch."""
    names, starts = np.unique(np.array(buckets), return_index=True)
    bounds = [*starts.tolist(), len(order)]
    index = [
        [name, end - start] for name, (start, end) in zip(names, pairwise(bounds), strict=True)
    ]
    schema = texts.schema.with_metadata({BUCKETS_KEY: json.dumps(index).encode()})
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema, options=options) as file:
        for start, end in pairwise(bounds):
            rows = texts.take(pa.array(order[start:end])).combine_chunks()
            file.write_batch(rows.to_batches()[0].replace_schema_metadata(schema.metadata))


def read_bucket(paths: Sequence[Path], bucket: str) -> pa.Table:
    """All documents of a bucket, sorted by id."""
    batches = []
    for path in paths:
        with pa.memory_map(str(path)) as source:
            file = pa.ipc.open_file(source)
            for number, (name, _) in enumerate(buckets_of(file.schema)):
                if name == bucket:
                    batches.append(file.get_batch(number).replace_schema_metadata())
    table = pa.Table.from_batches(batches, TEXT_SCHEMA)
    return table.take(pa.array(np.argsort(table["id"].to_numpy().astype("S"), kind="stable")))


def read_texts(path: Path) -> Iterator[pa.Array]:
    """The texts of a text file, in the order of its rows, a bucket at a time."""
    only_text = pa.ipc.IpcReadOptions(included_fields=[TEXT_SCHEMA.get_field_index("text")])
    with pa.memory_map(str(path)) as source:
        file = pa.ipc.open_file(source, options=only_text)
        for number in range(file.num_record_batches):
            yield file.get_batch(number).column(0)


def num_rows(path: Path) -> int:
    """Rows of a text file."""
    with pa.memory_map(str(path)) as source:
        return sum(rows for _, rows in buckets_of(pa.ipc.open_file(source).schema))


def buckets_of(schema: pa.Schema) -> list[tuple[str, int]]:
    """Bucket and rows of each batch of a text file."""
    return [(name, rows) for name, rows in json.loads(schema.metadata[BUCKETS_KEY])]


def line_settings(config: QualityConfig) -> dict[str, object]:
    """The quality settings that change the text; the others are thresholds on measures."""
    return {
        key: value
        for key, value in asdict(config).items()
        if key.startswith(("drop_", "remove_", "min_words_per_line", "max_line_word_length"))
    }
