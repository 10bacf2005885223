"""What to say of a disk that is full or must not be written to."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mei_lightning.exceptions import FullDiskError, NotPermittedError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def explained(path: Path, kept: str) -> Iterator[None]:
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
                f"{path} cannot be written to ({reason}). Get permission to write there, or give another directory",
            ) from error
        raise
