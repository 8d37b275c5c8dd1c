"""Whether a result can be written, found out before anything is computed for it."""

import os
import shutil
from pathlib import Path

from llmstages.errors import UserError


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
