"""Which files a labelled data set is made of, and how much of each one epoch reads.

Data is a file, a folder, or several of these. Nothing here reads rows or imports torch.
"""

import itertools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from llmstages.data.class_folders import class_files, files_below
from llmstages.data.opening import check_file, inner_suffix
from llmstages.data.order import permutation
from llmstages.data.table import SUFFIXES
from llmstages.errors import UserError

logger = logging.getLogger("llmstages")

R = TypeVar("R")

PASSED_OVER_LISTED = 5
"""Files of a folder that are passed over and named in the note that says so."""


def data_files(path: Path | str) -> list[Path]:
    """The files behind a path: itself, or those of a folder and its subfolders, by name.

    In a folder the files of rows are taken (`.jsonl`, `.csv` and the like, plain or packed, and
    text files with tabs in their first line); hidden ones are left alone, and others passed over,
    which is said. In a folder with a subfolder or mailbox a label, all files are taken.

    Raises:
        UserError: the path leads nowhere, or to a folder without such files.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        check_file(path)
        return [path]
    if by_label := class_files(path):
        return [file for files in by_label.values() for file in files]
    found: list[Path] = []
    others: list[Path] = []
    for candidate in files_below(path):
        (found if holds_rows(candidate) else others).append(candidate)
    if not found:
        raise UserError(
            f"{path}: no file of rows in this folder ({', '.join(SUFFIXES)}), and no subfolder or "
            "mailbox a label with mails (.eml, .mbox) or texts (.txt) in it"
        )
    if others:
        listed = ", ".join(str(other) for other in others[:PASSED_OVER_LISTED])
        more = ", ..." if len(others) > PASSED_OVER_LISTED else ""
        logger.info("%s: passed over, no files of rows: %s%s", path, listed, more)
    return found


def holds_rows(path: Path) -> bool:
    """Whether a file of a folder is taken for one of rows, by its name or its first tab."""
    suffix = inner_suffix(path.name)
    if suffix != ".txt":
        return suffix in SUFFIXES
    with path.open("rb") as file:
        return b"\t" in file.readline(2**16)


def weighted(
    parts: Sequence[Sequence[R]], weights: Sequence[float], seed: int
) -> tuple[list[R], list[int]]:
    """One epoch's rows of several files, and how many come from each.

    There are as many rows as the files have together, and each file has its weight's share of them:
    all its rows as often as they fit whole, and of the rest some that depend on the seed alone.
    """
    total = sum(len(part) for part in parts)
    bounds = [0.0]
    for weight in weights:
        bounds.append(bounds[-1] + weight / sum(weights))
    ends = [round(bound * total) for bound in bounds]
    counts = [end - begin for begin, end in itertools.pairwise(ends)]
    rows: list[R] = []
    for number, (part, count) in enumerate(zip(parts, counts, strict=True)):
        whole, rest = divmod(count, max(1, len(part)))
        chosen = sorted(permutation(len(part), "data_weights", seed, number)[:rest].tolist())
        rows += [*part] * whole + [part[index] for index in chosen]
    return rows, counts
