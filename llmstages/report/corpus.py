"""A corpus in tables: what came in, what was left out by which rule, what is left."""

from collections.abc import Sequence
from pathlib import Path

from llmstages.data.corpus import Counts, Manifest, SourceManifest
from llmstages.report.terminal import table


def show_corpus(directory: Path, manifest: Manifest, *, to_output: bool = False) -> None:
    """The waterfall of each source and, where there are several, all sources side by side."""
    for source in manifest.sources:
        table(
            f"{directory} {source.name}",
            ["", "documents", "words", "MB"],
            waterfall(source),
            to_output=to_output,
        )
    if len(manifest.sources) > 1:
        show_sources(directory, manifest, to_output)


def waterfall(source: SourceManifest) -> list[list[object]]:
    """What became of one source, from top to bottom: step, documents, words, megabytes."""
    rows: list[list[object]] = [
        [f"skipped: {reason}", -count, None, None] for reason, count in source.skipped.items()
    ]
    rows.append(["read", *sizes(source.extracted)])
    for rule, counts in sorted(source.dropped.items(), key=lambda drop: -drop[1].documents):
        documents, words, megabytes = sizes(counts)
        rows.append([f"- {rule}", -documents, -words, -megabytes])
    cut = changed(source)
    if cut.documents or cut.words:  # not for a few line ends
        rows.append([change_name(cut), *sizes(cut)])
    for split, counts in (("train", source.train), ("validation", source.validation)):
        rows.append([split, *sizes(counts)])
    return rows


def changed(source: SourceManifest) -> Counts:
    """What cleaning took out of documents and what cutting made of them, so that sums come out."""
    dropped = sum(source.dropped.values(), Counts())
    left = source.train + source.validation + dropped
    read = source.extracted
    return Counts(left.documents - read.documents, left.words - read.words, left.bytes - read.bytes)


def change_name(cut: Counts) -> str:
    """What `changed` is called: documents that are cut into parts add to those read."""
    if cut.documents > 0:
        return "+ cut into parts, cleaned"
    return f"{'+' if not cut.documents and cut.words > 0 else '-'} cleaned"


def show_sources(directory: Path, manifest: Manifest, to_output: bool) -> None:
    """All sources side by side, with the share of the training text drawn from each."""
    shares = manifest.shares
    published = any(source.published_epochs is not None for source in manifest.sources)
    columns = ["source", "documents", "words", "MB", "share in %"]
    rows: list[Sequence[object]] = []
    for source in manifest.sources:
        row = [source.name, *sizes(source.train), 100 * shares[source.name]]
        rows.append([*row, source.published_epochs] if published else row)
    total = ["all", *sizes(manifest.train), 100.0]
    rows.append([*total, None] if published else total)
    columns += ["published epochs"] if published else []
    table(f"{directory}: to train on", columns, rows, to_output=to_output)


def sizes(counts: Counts) -> tuple[int, int, float]:
    """Documents, words and megabytes."""
    return counts.documents, counts.words, round(counts.bytes / 1e6, 3) + 0.0  # no -0
