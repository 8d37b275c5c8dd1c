"""Where documents come from: `list_inputs` finds what a recipe names, `read_input` reads one.

Listing is quick, happens first and refuses what is wrong, so that nothing is built on a mistake. An
`Input` is one file or one installed package: small enough to be a unit of parallel work, and its
hash is what tells whether a corpus is up to date. Reading yields raw documents and notes.
"""

from collections.abc import Iterator, Mapping

from llmstages.collect.sources.files import list_files, read_file
from llmstages.collect.sources.python_docs import (
    list_packages,
    list_stdlib,
    list_topics,
    read_package,
    read_stdlib,
    read_topics,
)
from llmstages.collect.sources.records import Input, Note, RawDocument
from llmstages.config.groups import SourceConfig
from llmstages.errors import UserError

__all__ = ["Input", "Note", "RawDocument", "list_inputs", "read_input"]


def list_inputs(sources: Mapping[str, SourceConfig]) -> tuple[dict[str, list[Input]], list[Note]]:
    """What each source reads, by source name, and what was left aside.

    Raises:
        UserError: a path does not exist or holds no text.
    """
    inputs: dict[str, list[Input]] = {}
    notes: list[Note] = []
    for name, source in sources.items():
        if source.kind == "files":
            inputs[name], more = list_files(name, source.paths)
        elif source.kind == "python_topics":
            inputs[name], more = list_topics()
        elif source.kind == "python_stdlib":
            inputs[name], more = list_stdlib()
        else:
            inputs[name], more = list_packages()
        notes += more
    if not any(inputs.values()):
        raise UserError(f"nothing to read in the sources {', '.join(sources)}")
    return inputs, notes


def read_input(entry: Input, source: SourceConfig, bad_rows: str) -> Iterator[RawDocument | Note]:
    """The documents of one input, in order. Raises `UserError` when it cannot be read."""
    if source.kind == "files":
        return read_file(entry, source.text_column, bad_rows)
    if source.kind == "python_topics":
        return read_topics(entry)
    if source.kind == "python_stdlib":
        return read_stdlib(entry)
    return read_package(entry, source.max_package_bytes)
