"""What was written beside its place takes the place, also where readers are in the way for a moment."""

import os
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path

_SECONDS_BETWEEN_TRIES = 0.02
_TRIES = 50


def replace(source: Path, target: Path) -> None:
    """Give a file the name of another one, whose place it takes, or a new name.

    Args:
        source: the file.
        target: its new name, on the same file system.

    Raises:
        PermissionError: if it is refused for longer than a second: Windows refuses it while a reader has the file open.
        OSError: if it is impossible.
    """
    _insist(os.replace, source, target)


def rename(source: Path, target: Path) -> None:
    """Give a directory a name that nothing has.

    Args:
        source: the directory.
        target: its new name, on the same file system.

    Raises:
        PermissionError: if it is refused for longer than a second: Windows refuses it while a reader has a file in the
            directory open.
        OSError: if something has the name, or it is impossible.
    """
    _insist(os.rename, source, target)


def put_in_place(new: Path, target: Path) -> None:
    """Give a file or a directory a name, where something of its kind may have been before, which is gone then.

    Args:
        new: the file or directory.
        target: its name, on the same file system.

    Raises:
        OSError: as for ``replace`` and ``rename``.
    """
    if not target.is_dir():
        replace(new, target)
        return
    # A directory cannot take another's place.
    old = target.with_name(f".{target.name}.{uuid.uuid4().hex}.old")
    rename(target, old)
    rename(new, target)
    # Windows does not remove what a reader has open.
    shutil.rmtree(old, ignore_errors=True)


def _insist(move: Callable[[Path, Path], None], source: Path, target: Path) -> None:
    for _ in range(_TRIES - 1):
        try:
            return move(source, target)
        except PermissionError:
            time.sleep(_SECONDS_BETWEEN_TRIES)
    return move(source, target)
