"""Which files a source reads: paths, folders, globs and remote paths become inputs.

Only regular files are ever opened, so that no pipe or socket can hold anything up. Folders are
searched for every readable format; what is none is left aside and counted.
"""

import glob
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

from llmstages.collect.sources.formats import READABLE, SNIFF_BYTES, find_format, needs_head
from llmstages.collect.sources.opening import find_remote, is_remote
from llmstages.collect.sources.records import Input, Note, Skipped
from llmstages.data.opening import UNREADABLE, inner_suffix, open_bytes
from llmstages.errors import UserError

BATCH_FILES = 32

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def list_files(
    source: str, paths: Sequence[str], format: str | None = None
) -> tuple[list[Input], list[Note | Skipped]]:
    """The readable files under `paths`, sorted by locator, with their hashes.

    A file that is named, itself or by a glob, is read as `format` where that is given; of a folder
    only the files of that format are read.

    Raises:
        UserError: a path does not exist or cannot be read, a glob matches nothing, a file is no
            text, or no readable file is found.
    """
    found: dict[str, str] = {}  # path or URL -> locator
    remote: dict[str, Input] = {}
    aside: Counter[str] = Counter()
    for given in paths:
        if is_remote(given):
            for entry in _list_remote(given, format, aside):
                remote[entry.path] = entry
                found.setdefault(entry.path, entry.locator)
            continue
        for root in _expand(given.removeprefix("file://"), format):
            if not root.is_dir():
                _check_named(given, root, format)
                found.setdefault(os.path.realpath(root), _shown(root.name))
                continue
            unread: Counter[str] = Counter()
            files = list(_readable(_walk(root, unread), format, unread))
            if not files:
                kinds = f" (only {kinds_of(unread)})" if unread else ""
                raise UserError(
                    f"{given}: no text in this directory{kinds}: readable are {READABLE}, plain or "
                    "packed"
                )
            aside.update(unread)
            for path, locator in files:
                found.setdefault(path, locator)
    if not found:
        raise UserError(
            f"source {source} has no paths: name files or folders, as in "
            "`llmstages collect corpus=local my_texts/`"
        )
    locators = _distinct(found)
    local = [path for path in found if path not in remote]
    hashes = dict(_in_threads(_size_and_sha256, local))
    inputs = [
        Input(locator, path, *hashes[path])
        if path in hashes
        else Input(locator, path, remote[path].bytes, remote[path].sha256)
        for path, locator in locators.items()
    ]
    notes: list[Note | Skipped] = []
    if aside:
        notes.append(Note(source, f"left aside, no readable text: {kinds_of(aside)}"))
    return sorted(inputs, key=lambda entry: entry.locator), notes


def kinds_of(aside: Counter[str]) -> str:
    """How many files were left aside, and of which kinds."""
    total = sum(aside.values())
    kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in aside.most_common(5))
    return f"{total:,} file{'s' if total > 1 else ''} ({kinds})"


def _expand(given: str, format: str | None) -> list[Path]:
    """The path itself, or what a glob matches; of that, files that are no text are passed over."""
    path = Path(given).expanduser()
    try:
        if path.exists():
            return [path]
    except OSError as error:  # a name too long, a folder that may not be entered
        raise UserError(f"{given}: cannot be read: {error.strerror}") from None
    if path.is_symlink():
        raise UserError(f"{given}: a link to {os.readlink(path)}, which does not exist")
    if glob.has_magic(given):
        matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        if not matches:
            raise UserError(f"{given}: matches no file")
        # `**` names the folders as well as what is in them.
        above = {folder for match in matches for folder in match.parents}
        wanted = [
            match
            for match in matches
            if match not in above
            and (match.is_dir() or (match.is_file() and (format or _format(str(match)))))
        ]
        if not wanted:
            raise UserError(f"{given}: no text among the {len(matches):,} files that it matches")
        return wanted
    parent = path.parent
    names = sorted(entry.name for entry in parent.iterdir()) if parent.is_dir() else []
    near = get_close_matches(path.name, names, n=1, cutoff=0.5)
    hint = f": did you mean {parent / near[0]}?" if near else ": check the path"
    raise UserError(f"{given}: no such file or directory{hint}")


def _check_named(given: str, path: Path, format: str | None) -> None:
    """Raise a `UserError` unless a file that the user named can be read."""
    if not path.is_file():
        raise UserError(f"{given}: neither a file nor a folder")
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if format is None and path.stat().st_size and _format(str(path)) is None:
        raise UserError(f"{given}: not a text file: readable are {READABLE}, plain or packed")


def _walk(root: Path, aside: Counter[str]) -> Iterator[tuple[str, str]]:
    """Absolute path and locator of every regular file under a folder that is not hidden."""
    top = os.path.realpath(root)

    def unread(_: OSError) -> None:
        aside["unreadable folders"] += 1

    for directory, folders, names in os.walk(top, onerror=unread):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.startswith("."):
                continue
            path = os.path.join(directory, name)
            try:
                mode = os.lstat(path).st_mode
                if stat.S_ISLNK(mode):
                    path = os.path.realpath(path)
                    mode = os.stat(path).st_mode
            except OSError:
                aside["broken links"] += 1
                continue
            if not stat.S_ISREG(mode):
                aside["no regular files"] += 1
            elif not _is_unicode(path):
                aside["names that are no Unicode"] += 1
            else:
                yield path, os.path.relpath(os.path.join(directory, name), top)


def _readable(
    files: Iterable[tuple[str, str]], format: str | None, aside: Counter[str]
) -> Iterator[tuple[str, str]]:
    """The files of a readable format, of that given if one is; the suffixes of others counted."""

    def kind(file: tuple[str, str]) -> str | None:
        path, locator = file
        return _format(path, locator, maybe_text=not inner_suffix(locator))

    for (path, locator), found in _in_threads(kind, list(files)):
        if not os.access(path, os.R_OK):
            aside["unreadable"] += 1
        elif found is None or (format is not None and found not in (format, "archive")):
            aside[inner_suffix(locator) or "no suffix"] += 1
        else:
            yield path, Path(locator).as_posix()


def _format(path: str, name: str | None = None, maybe_text: bool = True) -> str | None:
    """The format of a regular file; None when it is none or cannot be read."""
    name = name or path
    if not needs_head(name):
        return find_format(name, b"")
    try:
        with open_bytes(Path(path)) as stream:
            head = stream.read(SNIFF_BYTES)
    except (*UNREADABLE, UserError):
        return None
    return find_format(name, head, maybe_text)


def _list_remote(given: str, format: str | None, aside: Counter[str]) -> list[Input]:
    """The file of a URL; of those that a glob matches, the ones with a telling suffix."""
    files = find_remote(given)
    if not files:
        raise UserError(f"{given}: matches no file")
    inputs: list[Input] = []
    for file in files:
        path = file.url.partition("://")[2].partition("?")[0].partition("#")[0]
        name = path.rstrip("/").rpartition("/")[2] or path.rstrip("/")
        if file.url != given and format is None and needs_head(name) and inner_suffix(name):
            aside[inner_suffix(name)] += 1
        else:
            inputs.append(Input(name, file.url, file.bytes, file.sha256))
    if not inputs:
        raise UserError(f"{given}: no text among the {len(files):,} files that it matches")
    return inputs


def _distinct(found: dict[str, str]) -> dict[str, str]:
    """Locators made unique: where two are equal, all become relative to the common folder.

    Those of remote files become their URLs.
    """
    if len(set(found.values())) == len(found):
        return found
    local = [os.path.dirname(path) for path in found if not is_remote(path)]
    common = os.path.commonpath(local) if local else ""
    return {
        path: path if is_remote(path) else Path(path).relative_to(common).as_posix()
        for path in found
    }


def _in_threads(
    function: Callable[[_Item], _Result], items: Sequence[_Item]
) -> Iterator[tuple[_Item, _Result]]:
    """Items and what a function that waits for disks makes of them, in order.

    A thread takes many at a time: 100,000 small files would else cost more in waiting for turns.
    """
    batches = [items[start : start + BATCH_FILES] for start in range(0, len(items), BATCH_FILES)]

    def all_of(batch: Sequence[_Item]) -> list[_Result]:
        return [function(item) for item in batch]

    with ThreadPoolExecutor() as pool:
        for batch, results in zip(batches, pool.map(all_of, batches), strict=True):
            yield from zip(batch, results, strict=True)


def _size_and_sha256(path: str) -> tuple[int, str]:
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return file.tell(), digest
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _is_unicode(path: str) -> bool:
    """Whether a path can be written to a manifest; others hold bytes that fit no encoding."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _shown(name: str) -> str:
    if not _is_unicode(name):
        raise UserError(f"{os.fsencode(name)!r}: a name that is no Unicode: rename the file")
    return name
