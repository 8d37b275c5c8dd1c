"""Step 3, decide: what becomes of each document, from measures, hashes and signatures alone.

The rules in order: empty, language, quality, exact duplicates, near duplicates. The first that a
document breaks is the one in the ledger. Then the validation split. Documents are known here by
their position in the corpus, in the order of (source, id); of the text only what looks like a near
duplicate is read.

Memory: about 380 bytes a document, in this process, and more for those with evaluation text.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from llmstages.collect.duplicates.decontamination import ARROW_HITS, Hit, common_ngrams
from llmstages.collect.duplicates.near_duplicates import find_near_duplicates
from llmstages.collect.quality.rules import verdicts
from llmstages.collect.quality.statistics import COUNTS, STATISTICS
from llmstages.collect.split import split_documents
from llmstages.collect.steps.measure import (
    band_column,
    bucket_of,
    measures_path,
    num_rows,
    read_texts,
)
from llmstages.collect.work import complete
from llmstages.config.collect_groups import SourceConfig
from llmstages.config.stages import CollectConfig
from llmstages.data.corpus import Counts

KEPT, DUPLICATE, NEAR_DUPLICATE = "", "duplicate", "near_duplicate"

DECISION_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("part", pa.int8()),  # see llmstages.collect.split; -1 where a rule is broken
        ("cut", pa.int64()),  # character from which the text is validated on; -1: not cut
        ("rule", pa.string()),
        ("value", pa.float64()),
        ("threshold", pa.float64()),
        ("duplicate_of", pa.string()),
        ("hits", ARROW_HITS),  # evaluation text to be cut out
    ]
)


@dataclass
class Documents:
    """What is known of n documents in the order of (source, id); arrays are [n]."""

    places: NDArray[np.int64]
    """Row of each document in the files, one after another."""
    ids: NDArray[np.bytes_]
    names: list[str]
    """Names of the sources, sorted."""
    sources: NDArray[np.int16]
    """Number of each document's source."""
    folded: NDArray[np.uint64]
    words: NDArray[np.int64]
    bytes: NDArray[np.int64]
    whole: NDArray[np.uint64]
    """Number of the text that each is a piece of; 0: it is whole."""
    piece: NDArray[np.int64]
    """Its number among the pieces."""
    characters: NDArray[np.int64]
    rules: list[str]
    """Names of rules by number; the first three are `KEPT`, `DUPLICATE`, `NEAR_DUPLICATE`."""
    rule: NDArray[np.int16]
    """Number of the first rule each document breaks."""
    value: NDArray[np.float64]
    threshold: NDArray[np.float64]
    hits: dict[int, list[Hit]]
    """Evaluation text found, by position."""

    @property
    def kept(self) -> NDArray[np.int64]:
        """Positions of the documents that broke no rule so far."""
        return np.flatnonzero(self.rule == self.rules.index(KEPT))


def decide(
    paths: Sequence[Path],
    sources: Mapping[str, SourceConfig],
    buckets: Mapping[str, int],
    config: CollectConfig,
    directory: Path,
    scratch: Path,
) -> dict[str, dict[str, Counts]]:
    """Write `<bucket>.parquet` with a decision for each document of a bucket, sorted by id.

    Returns what each rule drops of each source: source -> rule -> counts.
    """
    documents = load(paths, config)
    duplicate_of = np.full(len(documents.ids), -1, dtype=np.int64)
    group = drop_exact(documents, duplicate_of, sources, config)
    group = drop_near(documents, duplicate_of, group, paths, sources, config, scratch)
    drop_common_hits(documents, group, config)
    kept = documents.kept
    parts = np.full(len(documents.ids), -1, dtype=np.int8)
    cuts = np.full(len(parts), -1, dtype=np.int64)
    contaminated = np.zeros(len(parts), dtype=bool)
    contaminated[list(documents.hits)] = True
    exact = config.corpus.split == "characters"
    parts[kept], cuts[kept] = split_documents(
        documents.sources[kept],
        group[kept],
        documents.folded[kept],
        documents.bytes[kept],
        contaminated[kept],  # may be cut to nothing: no text to validate on
        texts_of(documents.whole[kept]),
        documents.piece[kept],
        documents.characters[kept],
        config.corpus.validation_share,
        len(kept) + 1 if exact else config.corpus.min_documents_to_split,
        config.seed,
    )
    write_decisions(documents, buckets, parts, cuts, duplicate_of, directory)
    return dropped_counts(documents)


# What is known of each document.


def load(paths: Sequence[Path], config: CollectConfig) -> Documents:
    """Read the measures of all documents, but not their signatures, and apply the quality rules."""
    rules = [KEPT, DUPLICATE, NEAR_DUPLICATE]
    wanted = ["id", "source", "folded", "hits", "language", "language_confidence"]
    wanted += ["whole", "piece", "characters"]
    wanted = list(dict.fromkeys([*wanted, *COUNTS, *STATISTICS]))
    columns: dict[str, list[NDArray[np.generic]]] = {
        key: []
        for key in (
            *("id", "source", "folded", "whole", "piece", "characters"),
            *(*COUNTS, "rule", "value", "threshold"),
        )
    }
    names: list[str] = []
    hits: dict[int, list[Hit]] = {}
    num_rows = 0
    for path in paths:
        table = pq.read_table(measures_path(path), columns=wanted, partitioning=None)
        verdict = verdicts(table, config.quality, config.language)
        rules += sorted({*pc.unique(verdict["rule"]).to_pylist()} - {None, *rules})
        names += sorted({*pc.unique(table["source"]).to_pylist()} - {*names})
        for row in np.flatnonzero(pc.is_valid(table["hits"]).to_numpy()).tolist():
            hits[num_rows + row] = table["hits"][row].as_py()
        num_rows += table.num_rows
        columns["id"].append(table["id"].to_numpy().astype("S"))
        columns["source"].append(numbers_of(table["source"], names))
        columns["rule"].append(numbers_of(pc.fill_null(verdict["rule"], KEPT), rules))
        for key in ("folded", "characters", *COUNTS):
            columns[key].append(table[key].to_numpy())
        for key in ("whole", "piece"):
            columns[key].append(pc.fill_null(table[key], 0).to_numpy())
        for key in ("value", "threshold"):
            columns[key].append(verdict[key].to_numpy(zero_copy_only=False).astype(np.float64))
    arrays = {key: np.concatenate(pieces) for key, pieces in columns.items()}
    sources = np.argsort(np.argsort(names))[arrays["source"]].astype(np.int16)
    places = np.lexsort((arrays["id"], sources))
    position_of = np.empty_like(places)
    position_of[places] = np.arange(len(places))
    return Documents(
        places=places,
        ids=arrays["id"][places],
        names=sorted(names),
        sources=sources[places],
        folded=arrays["folded"][places],
        words=arrays["words"][places],
        bytes=arrays["bytes"][places],
        whole=arrays["whole"][places],
        piece=arrays["piece"][places],
        characters=arrays["characters"][places],
        rules=rules,
        rule=arrays["rule"][places],
        value=arrays["value"][places],
        threshold=arrays["threshold"][places],
        hits={int(position_of[row]): found for row, found in hits.items()},
    )


def texts_of(whole: NDArray[np.uint64]) -> NDArray[np.int64]:
    """For each document the position of the first of its text: its own, unless it is a piece."""
    texts = np.arange(len(whole))
    cut = np.flatnonzero(whole)
    _, first, text = np.unique(whole[cut], return_index=True, return_inverse=True)
    texts[cut] = cut[first[text]]
    return texts


def numbers_of(values: pa.ChunkedArray, names: Sequence[str]) -> NDArray[np.int16]:
    """The number of each name."""
    numbers: NDArray[np.int16] = (
        pc.index_in(values, pa.array(names, pa.string())).to_numpy().astype(np.int16)
    )
    return numbers


# Duplicates.


def drop_exact(
    documents: Documents,
    duplicate_of: NDArray[np.int64],
    sources: Mapping[str, SourceConfig],
    config: CollectConfig,
) -> NDArray[np.int64]:
    """Mark exact duplicates; returns for every document the first one with its text."""
    first_of = np.arange(len(documents.ids))
    kept = documents.kept
    if not len(kept):
        return first_of
    by_text = kept[np.lexsort((ranks(documents, kept, sources), documents.folded[kept]))]
    hashes = documents.folded[by_text]
    starts = np.flatnonzero(np.concatenate(([True], hashes[1:] != hashes[:-1])))
    first_of[by_text] = np.repeat(by_text[starts], np.diff(starts, append=len(by_text)))
    if config.dedup.exact:
        copies = np.flatnonzero(first_of != np.arange(len(first_of)))
        documents.rule[copies] = documents.rules.index(DUPLICATE)
        duplicate_of[copies] = first_of[copies]
    return first_of


def drop_near(
    documents: Documents,
    duplicate_of: NDArray[np.int64],
    first_of: NDArray[np.int64],
    paths: Sequence[Path],
    sources: Mapping[str, SourceConfig],
    config: CollectConfig,
    scratch: Path,
) -> NDArray[np.int64]:
    """Mark near duplicates; returns the group of each document, equal for all its duplicates."""
    kept = documents.kept
    different = kept[first_of[kept] == kept]
    near = find_near_duplicates(
        ranks(documents, different, sources),
        lambda band: load_band(documents, paths, band)[different],
        lambda wanted: load_texts(documents, paths, different, wanted),
        config.dedup,
        scratch,
    )
    group = np.arange(len(documents.ids))
    group[different] = different[near.component]
    group = group[first_of]
    if config.dedup.near:
        copies = group[kept] != kept
        marked = kept[copies & (documents.rule[kept] == documents.rules.index(KEPT))]
        similarity = np.ones(len(documents.ids))  # of exact duplicates, where these stay
        similarity[different] = near.similarity
        documents.rule[marked] = documents.rules.index(NEAR_DUPLICATE)
        documents.value[marked] = similarity[marked]
        documents.threshold[marked] = config.dedup.min_similarity
        duplicate_of[marked] = group[marked]
        # What an exact duplicate is one of may be gone now, for another one.
        exact = np.flatnonzero(duplicate_of >= 0)
        duplicate_of[exact] = group[exact]
    return group


def ranks(
    documents: Documents, positions: NDArray[np.int64], sources: Mapping[str, SourceConfig]
) -> NDArray[np.int64]:
    """The order of survival: sources of high priority first, then the order of the corpus."""
    priority = np.array([sources[name].priority for name in documents.names])
    order = np.lexsort((positions, -priority[documents.sources[positions]]))
    rank = np.empty(len(positions), dtype=np.int64)
    rank[order] = np.arange(len(positions))
    return rank


def load_band(documents: Documents, paths: Sequence[Path], band: int) -> NDArray[np.uint64]:
    """One band of the signatures of all documents."""
    column = band_column(band)
    pieces = [
        pq.read_table(measures_path(path), columns=[column], partitioning=None)[column].to_numpy()
        for path in paths
    ]
    bands: NDArray[np.uint64] = np.concatenate(pieces)[documents.places]
    return bands


def load_texts(
    documents: Documents,
    paths: Sequence[Path],
    positions: NDArray[np.int64],
    wanted: NDArray[np.int64],
) -> Iterator[tuple[int, str]]:
    """The texts of `positions[wanted]` as (index into `positions`, text), few in memory at once."""
    index = np.full(len(documents.ids), -1, dtype=np.int64)
    index[documents.places[positions[wanted]]] = wanted
    start = 0
    for path in paths:
        end = start + num_rows(path)
        if np.any(index[start:end] >= 0):
            for texts in read_texts(path):
                here = index[start : start + len(texts)]
                rows = np.flatnonzero(here >= 0)
                found = texts.take(pa.array(rows)).to_pylist()
                yield from zip(here[rows].tolist(), found, strict=True)
                start += len(texts)
        start = end


# Evaluation text.


def drop_common_hits(documents: Documents, group: NDArray[np.int64], config: CollectConfig) -> None:
    """Forget hits of documents that are dropped, and n-grams that stand in many documents.

    Duplicates that stay count as one document: copies of a leak are no common speech.
    """
    kept = documents.rules.index(KEPT)
    hits = {
        position: found
        for position, found in documents.hits.items()
        if documents.rule[position] == kept
    }
    by_group: dict[int, set[int]] = {}
    for position, found in hits.items():
        by_group.setdefault(int(group[position]), set()).update(hit["ngram"] for hit in found)
    common = common_ngrams(by_group.values(), config.decontaminate.max_documents)
    rare = {
        position: [hit for hit in found if hit["ngram"] not in common]
        for position, found in hits.items()
    }
    documents.hits = {position: found for position, found in rare.items() if found}


# Results.


def write_decisions(
    documents: Documents,
    buckets: Mapping[str, int],
    parts: NDArray[np.int8],
    cuts: NDArray[np.int64],
    duplicate_of: NDArray[np.int64],
    directory: Path,
) -> None:
    """Write the decisions of each bucket, which is a stretch of positions."""
    rule_names = pa.array([name or None for name in documents.rules], pa.string())
    start = 0
    while start < len(documents.ids):
        source = documents.names[documents.sources[start]]
        (bucket,) = bucket_of([source], [documents.ids[start].decode("ascii")], buckets)
        end = start + bucket_rows(documents, start, bucket, buckets)
        place = slice(start, end)
        copies = duplicate_of[place]
        value, threshold = documents.value[place], documents.threshold[place]
        table = pa.table(
            {
                "id": pa.array(documents.ids[place].astype("U"), pa.string()),
                "part": parts[place],
                "cut": cuts[place],
                "rule": rule_names.take(pa.array(documents.rule[place])),
                "value": pa.array(value, mask=np.isnan(value)),
                "threshold": pa.array(threshold, mask=np.isnan(threshold)),
                "duplicate_of": pa.array(
                    documents.ids[np.maximum(copies, 0)].astype("U"), pa.string(), mask=copies < 0
                ),
                "hits": pa.array(
                    [documents.hits.get(position) for position in range(start, end)], ARROW_HITS
                ),
            },
            schema=DECISION_SCHEMA,
        )
        with complete(directory / f"{bucket}.parquet") as staging:
            pq.write_table(table, staging, compression="zstd")
        start = end


def bucket_rows(documents: Documents, start: int, bucket: str, buckets: Mapping[str, int]) -> int:
    """Documents of the bucket that begins at position `start`."""
    low, high = start, len(documents.ids)
    while low < high:  # the first position of another bucket
        middle = (low + high) // 2
        source = documents.names[documents.sources[middle]]
        same = bucket_of([source], [documents.ids[middle].decode("ascii")], buckets) == [bucket]
        low, high = (middle + 1, high) if same else (low, middle)
    return low - start


def dropped_counts(documents: Documents) -> dict[str, dict[str, Counts]]:
    """What each rule drops of each source."""
    result: dict[str, dict[str, Counts]] = {name: {} for name in documents.names}
    num_rules = len(documents.rules)
    cells = documents.sources.astype(np.int64) * num_rules + documents.rule
    length = num_rules * len(documents.names)
    numbers = np.bincount(cells, minlength=length)
    words = np.bincount(cells, weights=documents.words, minlength=length)
    sizes = np.bincount(cells, weights=documents.bytes, minlength=length)
    for cell in np.flatnonzero(numbers).tolist():
        source, rule = divmod(cell, num_rules)
        if documents.rules[rule] != KEPT:
            result[documents.names[source]][documents.rules[rule]] = Counts(
                int(numbers[cell]), int(words[cell]), int(sizes[cell])
            )
    return result
