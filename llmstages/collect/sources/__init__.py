"""Where documents come from: `list_inputs` finds what a recipe names, `read_input` reads one.

Listing happens first and refuses what is wrong, so that nothing is built on a mistake. An `Input`
is one file, one shard of fetched pages or one installed package: a unit of parallel work, whose
hash tells whether a corpus is up to date. Reading yields raw documents, notes and what was skipped.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llmstages.collect.sources.files import read_file
from llmstages.collect.sources.links import list_links, read_links
from llmstages.collect.sources.listing import list_files
from llmstages.collect.sources.python_docs import (
    list_packages,
    list_stdlib,
    list_topics,
    read_package,
    read_stdlib,
    read_topics,
)
from llmstages.collect.sources.records import Found, Input, Note, RawDocument, Skipped
from llmstages.config.collect_groups import FetchConfig, SourceConfig
from llmstages.errors import UserError

__all__ = ["Input", "Listing", "Note", "RawDocument", "Skipped", "list_inputs", "read_input"]


@dataclass
class Listing:
    """What the sources of a recipe read, by source name."""

    inputs: dict[str, list[Input]] = field(default_factory=dict)
    skipped: dict[str, list[Skipped]] = field(default_factory=dict)
    """What was left aside before reading, such as links that are no outbound links."""
    notes: list[Note] = field(default_factory=list)

    def add(self, source: str, inputs: list[Input], others: Sequence[Note | Skipped]) -> None:
        """Add one source."""
        self.inputs[source] = inputs
        self.skipped[source] = [found for found in others if isinstance(found, Skipped)]
        self.notes += [found for found in others if isinstance(found, Note)]


def list_inputs(
    sources: Mapping[str, SourceConfig],
    fetch: FetchConfig,
    cache_dir: Path,
    advance: Callable[[int], None],
) -> Listing:
    """Find all inputs; pages behind links are fetched into `cache_dir`, `advance(pages)` at a time.

    Raises:
        UserError: a path does not exist or holds no text.
    """
    listing = Listing()
    for name, source in sources.items():
        check_shipped_paths(name, source)
        if source.kind == "files":
            listing.add(name, *list_files(name, source.paths, source.format))
        elif source.kind == "links":
            listing.add(name, *list_links(name, source, fetch, cache_dir, advance))
        elif source.kind == "python_topics":
            listing.add(name, *list_topics())
        elif source.kind == "python_stdlib":
            listing.add(name, *list_stdlib())
        else:
            listing.add(name, *list_packages())
    if not any(listing.inputs.values()):
        raise UserError(f"nothing to read in the sources {', '.join(sources)}")
    return listing


def check_shipped_paths(name: str, source: SourceConfig) -> None:
    """Say what to do where the folders that the shipped recipes name are not there."""
    for path in source.paths:
        if path.startswith("raw/") and not Path(path).exists():
            raise UserError(
                f"{path}: no such file or directory: put texts there, or name other places with "
                f"corpus.sources.{name}.paths=[...]"
            )


def read_input(entry: Input, source: SourceConfig, bad_rows: str) -> Iterator[Found]:
    """What one input holds, in order. Raises `UserError` when it cannot be read."""
    if source.kind == "files":
        return read_file(entry, source, bad_rows)
    if source.kind == "links":
        return read_links(entry)
    if source.kind == "python_topics":
        return read_topics(entry)
    if source.kind == "python_stdlib":
        return read_stdlib(entry)
    return read_package(entry, source.max_package_bytes)
