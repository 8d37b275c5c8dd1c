"""Pages on disk, so that nothing is fetched twice.

A page is one file, `pages/ab/<sha256 of its URL>`: the body packed with gzip, then a line of JSON
that says what it is. File names are hashes, so that no URL leads out of the cache. A file gets its
name when it is complete, so that a run may be killed at any moment; one that was damaged later (its
last line or its length is wrong) counts as not there.

A failure is kept too, and when it is worth another try (see `failures`).
"""

import gzip
import hashlib
import json
import os
import time
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from uuid import uuid4

from llmstages.collect.fetch.failures import NEVER
from llmstages.errors import UserError

TAIL_BYTES = 32 * 1024
"""The last line is never longer: two URLs of at most 4 kB and a few words."""
PACKING_LEVEL = 6
ABANDONED_SECONDS = 24 * 3600
"""Unfinished files older than this are of a run that was killed."""


@dataclass(frozen=True)
class Fetched:
    """What came of one URL."""

    url: str
    final_url: str
    """After redirects."""
    status: int | None = None
    """HTTP status; None when there was no answer."""
    media_type: str = ""
    """Lower case, without parameters; empty when the server gave none."""
    charset: str | None = None
    """What the server says, when Python knows it."""
    sha256: str = ""
    """Of the unpacked body."""
    packed_bytes: int = 0
    failure: str | None = None
    """Why there is no body; a few words, the same for all of a kind."""
    try_again: str = NEVER
    """When a failure is worth another try."""
    settings: str = ""
    """Hash of the settings that a failure depends on."""


class PageCache:
    """The pages, or whatever else is fetched, of a cache directory."""

    def __init__(self, cache_dir: Path, kind: str = "pages") -> None:
        self.dir = cache_dir / kind
        self.unfinished_dir = cache_dir / "unfinished"

    def path(self, url: str) -> Path:
        """Where the page of a URL is kept."""
        digest = hashlib.sha256(url.encode()).hexdigest()
        return self.dir / digest[:2] / digest

    def look_up(self, url: str, max_age_seconds: float | None = None) -> Fetched | None:
        """What is known of a URL, or None."""
        try:
            with open(self.path(url), "rb") as file:
                status = os.fstat(file.fileno())
                file.seek(max(0, status.st_size - TAIL_BYTES))
                last = file.read().removesuffix(b"\n").rpartition(b"\n")[2]
            found = Fetched(**json.loads(last))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        if found.url != url or found.packed_bytes + 1 + len(last) + 1 != status.st_size:
            return None
        if max_age_seconds is not None and time.time() - status.st_mtime > max_age_seconds:
            return None
        return found

    def read_body(self, fetched: Fetched) -> bytes:
        """The body. Raises `OSError`, `EOFError` or `zlib.error` when it was damaged."""
        with open(self.path(fetched.url), "rb") as file:
            return gzip.decompress(file.read(fetched.packed_bytes))

    def writer(self, url: str) -> "PageWriter":
        """For a new entry; nothing is there before `commit`."""
        return PageWriter(self.path(url), self.unfinished_dir)

    def remove_abandoned(self) -> None:
        """Delete what killed runs left unfinished."""
        if not self.unfinished_dir.is_dir():
            return
        for path in self.unfinished_dir.iterdir():
            try:
                if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                    path.unlink()
            except FileNotFoundError:
                pass  # another run was quicker


class PageWriter:
    """Takes a body piece by piece; used as a context, which discards what is not committed."""

    def __init__(self, path: Path, unfinished_dir: Path) -> None:
        self.path = path
        self.unfinished = unfinished_dir / uuid4().hex
        self.file: IO[bytes] | None = None
        self.restart()

    def restart(self) -> None:
        """Forget what has been written."""
        self._discard()
        self.num_bytes = 0
        self.hash = hashlib.sha256()
        self.packer = zlib.compressobj(PACKING_LEVEL, zlib.DEFLATED, 31)

    def write(self, piece: bytes) -> None:
        """Append to the body."""
        self.num_bytes += len(piece)
        self.hash.update(piece)
        self._store(self.packer.compress(piece))

    def commit(self, fetched: Fetched) -> None:
        """Put the entry in its place; `sha256` and `packed_bytes` are filled in here.

        Raises:
            UserError: the disk is full or the cache cannot be written.
        """
        keys = asdict(fetched)
        if fetched.failure is None:
            self._store(self.packer.flush())
            assert self.file is not None
            keys |= {"sha256": self.hash.hexdigest(), "packed_bytes": self.file.tell()}
        else:
            self._discard()
        self._store(b"\n" + json.dumps(keys, sort_keys=True).encode() + b"\n")
        assert self.file is not None
        try:
            self.file.close()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self.unfinished, self.path)
        except OSError as error:
            raise self._unwritable(error) from error
        self.file = None

    def _store(self, data: bytes) -> None:
        try:
            if self.file is None:
                self.unfinished.parent.mkdir(parents=True, exist_ok=True)
                self.file = open(self.unfinished, "wb")  # noqa: SIM115 (closed on commit or exit)
            self.file.write(data)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(f"fetch.cache_dir: cannot write {self.path}: {error.strerror}")

    def _discard(self) -> None:
        if self.file is not None:
            self.file.close()
            self.unfinished.unlink(missing_ok=True)
            self.file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._discard()
