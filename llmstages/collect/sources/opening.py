"""Opening inputs: files of this machine, and whatever fsspec reaches (http, s3, gs, ...).

A remote file is read from its start to its end over one connection, never kept whole. What its
server says of it (size, ETag, time of its last change) stands for its content.
"""

import hashlib
import io
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from llmstages.errors import UserError

REMOTE = re.compile(r"(?!file:)[A-Za-z][A-Za-z0-9+.-]+://")
HTTP = re.compile(r"https?://", re.I)
CONNECT_SECONDS = 30
SILENCE_SECONDS = 60
"""A server that sends nothing for so long is given up; a whole file may take any time."""
SPOOLED_BYTES = 2**24
"""A copy that can be read back and forth is in memory up to this size, else in a file."""
BLOCK_BYTES = 2**23
"""Asked of an object store at once."""
# What servers and object stores call that which changes with the content.
VERSION_KEYS = frozenset(
    ("etag", "last-modified", "lastmodified", "content-md5", "md5hash", "crc32c", "mtime", "digest")
)


@dataclass(frozen=True)
class RemoteFile:
    """What a server says of one of its files."""

    url: str
    bytes: int
    """0 when the server does not say."""
    sha256: str
    """Hash of URL, size and what else tells one version from another."""


def is_remote(path: str) -> bool:
    """Whether a path is a URL of another machine."""
    return REMOTE.match(path) is not None


def open_raw(path: str) -> IO[bytes]:
    """Open a local or remote file for reading its bytes as they are.

    Raises:
        UserError: it cannot be opened.
    """
    if not is_remote(path):
        try:
            return Path(path).open("rb")
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        # Without blocks fsspec reads http as one stream; with them, servers must know ranges.
        block_bytes = 0 if HTTP.match(path) else BLOCK_BYTES
        stream = _file_system(path).open(path, "rb", block_size=block_bytes)
    except Exception as error:
        raise UserError(_why(path, error)) from None
    return cast(IO[bytes], io.BufferedReader(_Remote(stream), 2**20))


def as_seekable(stream: IO[bytes]) -> IO[bytes]:
    """`stream`, or a copy of it that can be read back and forth."""
    if stream.seekable():
        return stream
    copy = tempfile.SpooledTemporaryFile(max_size=SPOOLED_BYTES)  # noqa: SIM115 (the caller's)
    try:
        shutil.copyfileobj(stream, copy, 2**20)
    except BaseException:
        copy.close()
        raise
    copy.seek(0)
    return cast(IO[bytes], copy)


def find_remote(given: str) -> list[RemoteFile]:
    """The file that a URL names, or the files that a glob matches where the server can list.

    Raises:
        UserError: there is none, or the server cannot be reached.
    """
    system = _file_system(given)
    try:
        if not HTTP.match(given) and re.search(r"[*?\[]", given):
            found = system.glob(given, detail=True)
            return [
                _remote_file(str(system.unstrip_protocol(name)), info)
                for name, info in sorted(found.items())
                if info.get("type") != "directory"
            ]
        info = system.info(given)
    except Exception as error:
        raise UserError(_why(given, error)) from None
    if info.get("type") == "directory":
        raise UserError(f"{given}: a remote folder: name its files, as in {given.rstrip('/')}/**")
    return [_remote_file(given, info)]


def _remote_file(url: str, info: dict[str, Any]) -> RemoteFile:
    size = int(info.get("size") or 0)
    versions = sorted(
        f"{key.lower()}={value}" for key, value in info.items() if key.lower() in VERSION_KEYS
    )
    identity = "\n".join([url, str(size), *versions])
    return RemoteFile(url, size, hashlib.sha256(identity.encode("utf-8", "replace")).hexdigest())


def _file_system(url: str) -> Any:
    """fsspec's file system for a URL."""
    protocol = url.partition("://")[0].lower()
    try:
        import fsspec

        options: dict[str, Any] = {}
        if HTTP.match(url):
            import aiohttp

            options["client_kwargs"] = {
                "timeout": aiohttp.ClientTimeout(
                    total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS
                )
            }
        return fsspec.filesystem(protocol, **options)
    except ImportError as error:
        # fsspec says which package it lacks: "Install s3fs to access S3".
        raise UserError(f"{url}: {protocol}:// needs another package: {error}") from None
    except ValueError:
        raise UserError(f"{url}: {protocol}:// is not known: http, https, s3, gs, ...") from None


def _why(url: str, error: Exception) -> str:
    """One line on what went wrong."""
    # For http, fsspec calls everything a missing file; what happened is the cause.
    cause = error.__cause__ or error
    if isinstance(cause, FileNotFoundError) or getattr(cause, "status", None) in (404, 410):
        return f"{url}: no such file on the server: check the address"
    said = " ".join(str(cause).split()) or type(cause).__name__
    return f"{url}: cannot be read: {said}"


class _Remote(io.RawIOBase):
    """A remote stream whose errors, of whatever library, are `OSError`s."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self.stream.read(len(buffer))
        except Exception as error:
            raise OSError(f"{type(error).__name__}: {error}".rstrip(": ")) from error
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self.stream.close()
        super().close()
