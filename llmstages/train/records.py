"""JSON records of runs and checkpoints; a sealed one knows when a byte of it was changed."""

import hashlib
import json
import shlex
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmstages.data.json_files import read_object
from llmstages.errors import UserError

SEAL = "sha256"
"""Key under which a sealed record has the hash of everything else in it."""


def when_and_how() -> dict[str, str]:
    """For a record: `date`, the present in UTC (ISO 8601), and `command`, as this process was
    started."""
    words = sys.orig_argv[1:]
    names = [Path(word).name for word in words]
    if "llmstages" in names:  # the script, or what stands after -m
        words = ["llmstages", *words[names.index("llmstages") + 1 :]]
    return {"date": datetime.now(UTC).isoformat(timespec="seconds"), "command": shlex.join(words)}


def write_json(path: Path, contents: Mapping[str, Any]) -> None:
    """Write an object as indented JSON."""
    path.write_text(json.dumps(contents, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_sealed(path: Path, contents: Mapping[str, Any]) -> None:
    """Write an object with the hash of its contents."""
    write_json(path, {**contents, SEAL: seal_of(contents)})


def read_sealed(path: Path) -> dict[str, Any]:
    """What `write_sealed` wrote. Raises `UserError` when it is missing, broken or was changed."""
    contents = read_record(path)
    if contents.pop(SEAL, None) != seal_of(contents):
        raise UserError(f"{path}: damaged (its {SEAL} is not that of its contents)")
    return contents


def read_record(path: Path) -> dict[str, Any]:
    """A JSON object. Raises `UserError` when the file is missing or holds anything else."""
    try:
        return read_object(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a complete record ({error})") from error


def seal_of(contents: Mapping[str, Any]) -> str:
    """sha256 of an object as JSON, whatever the order of its keys."""
    text = json.dumps(contents, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
