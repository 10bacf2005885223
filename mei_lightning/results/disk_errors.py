"""What to say of a disk that is full or must not be written to."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mei_lightning.exceptions import AlreadyThereError, FullDiskError, NotPermittedError
from mei_lightning.paths import local_path

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


def check_writable(directory: Path, way_out: str = "") -> None:
    """Find out whether something can be made in a directory, which need not be there yet, before any work.

    Args:
        directory: where it is to be made.
        way_out: which argument names another place.

    Raises:
        PermissionError: if the directory, or the file system that it is on, is read-only, or it is a file.
        OSError: if there is no space.
    """
    place = directory
    while not place.exists() and place != place.parent:
        place = place.parent
    with explained(directory, "Nothing was begun", way_out):
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        with tempfile.TemporaryFile(dir=place):
            pass


def free_place(name: str, path: str | Path) -> Path:
    """Where something new is to be made, before any work for it.

    Args:
        name: of the argument.
        path: its value.

    Raises:
        FileExistsError: if there is something already: results are never overwritten.
        OSError: if nothing can be made there.
        ValueError: as ``local_path``.
    """
    place = local_path(name, path)
    if place.exists():
        raise AlreadyThereError(
            f"{place} exists already; results are not overwritten. Give another {name}, or move it."
        )
    check_writable(place.parent)
    return place


@contextmanager
def explained(path: Path, kept: str, way_out: str = "") -> Iterator[None]:
    """Say of a full or read-only disk which store is concerned, what is left of it, and what to do."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        if error.errno in _FULL:
            raise FullDiskError(
                error.errno,
                f"No space for {path} ({reason}). {kept}: free space and run the same command again",
            ) from error
        if error.errno in _FORBIDDEN:
            raise NotPermittedError(
                error.errno,
                f"{path} cannot be written to ({reason}). Get permission to write there, or give another directory"
                f"{way_out}",
            ) from error
        raise
