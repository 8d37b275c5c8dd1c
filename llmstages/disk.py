"""Whether a result can be written, and by one process alone, before anything is computed for it."""

import fcntl
import os
import shutil
from pathlib import Path

from llmstages.errors import UserError

LOCK_NAME = "lock"


def nearest_directory(path: Path) -> Path:
    """The directory itself, or the nearest above it that is there."""
    return next(place for place in (path, *path.absolute().parents) if place.is_dir())


def require_writable(path: Path, setting: str) -> None:
    """Raise `UserError` where nothing can be written at a path, which need not be there yet.

    setting: the key that names another place.
    """
    place = nearest_directory(path)
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(
            f"{path}: cannot be written ({place} is read-only, or another user's): "
            f"set {setting} to another place"
        )


def free_bytes(path: Path) -> int:
    """Room on the disk on which a path lies or will lie."""
    return shutil.disk_usage(nearest_directory(path)).free


def lock_directory(directory: Path, doing: str) -> int:
    """Keep other processes from writing into a directory; closing the descriptor lets them.

    The lock is a POSIX record lock on a file that stays there: it goes with the process, however
    that ends, and the same process may take it again. Raises `UserError` when another holds it;
    doing: what it does there.
    """
    descriptor = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise UserError(
            f"{directory}: another process is {doing}: wait for it, or set name=... for another "
            "place"
        ) from None
    return descriptor
