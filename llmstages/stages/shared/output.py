"""Where results of `predict` and `generate` go: standard output, or a file that appears whole."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from llmstages.errors import UserError


@contextmanager
def output_file(name: str | None) -> Iterator[TextIO]:
    """Standard output, or a file that appears under its name only when complete."""
    if name is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    path = Path(name).expanduser()
    if not path.parent.is_dir():
        raise UserError(f"output={name}: the directory {path.parent} does not exist")
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
