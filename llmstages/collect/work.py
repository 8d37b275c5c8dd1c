"""The work directory of a corpus: what the steps of `collect` leave for each other, and for later.

    <corpora_dir>/<name>.work/
      lock                      held while a run is on
      read-<key>/               raw documents, and a record of each finished task
      measured-<key>/           clean text with its statistics
      evaluation-<hash>.npy     evaluation text to be taken out
      corpus-<key>/             the corpus as it grows; renamed when complete

A step's key is a hash of all that determines its result: its settings, its inputs, the key of the
step before. So a run that was killed finds what it had finished, and a run with another threshold
finds the text and the statistics, and decides anew. Files appear under their names when complete.
"""

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmstages.disk import lock_directory
from llmstages.errors import UserError


def step_key(*parts: Any) -> str:
    """Sixteen hexadecimal digits that name a step's result; the parts are JSON values."""
    content = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]


class Work:
    """The work directory of one corpus, locked."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def step(self, name: str, key: str) -> Path:
        """The directory of a step, made; those of the same step with other keys are removed."""
        directory = self.directory / f"{name}-{key}"
        for other in self.directory.glob(f"{name}-*"):
            if other != directory:
                shutil.rmtree(other)
        directory.mkdir(exist_ok=True)
        remove_staging(directory)
        return directory

    def drop(self, name: str) -> None:
        """Remove what is called so, whatever its key."""
        for path in self.directory.glob(f"{name}-*"):
            _remove(path)

    def remove(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.directory, ignore_errors=True)


@contextmanager
def open_work(directory: Path) -> Iterator[Work]:
    """Make or reopen a work directory, for one process at a time.

    Raises:
        UserError: another process is using it.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{directory}: cannot be made ({error.strerror}): choose another corpora_dir="
        ) from error
    locked = lock_directory(directory, "collecting this corpus")
    try:
        yield Work(directory)
    finally:
        os.close(locked)


@contextmanager
def complete(path: Path) -> Iterator[Path]:
    """A name to write a file or directory under; it becomes `path` when the block succeeds."""
    # A process that outlived a killed run may be writing the same file, perhaps on another machine:
    # names are told apart.
    staging = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")
    _remove(staging)
    try:
        yield staging
        if staging.is_dir():
            _remove(path)
        staging.replace(path)
    except BaseException:
        _remove(staging)
        raise


def remove_staging(directory: Path) -> None:
    """Remove what a killed run was about to write below a directory."""
    for path in [*directory.rglob(".*.tmp")]:
        _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file that is complete or absent."""
    with complete(path) as staging:
        staging.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read what `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))
