"""One run at a time in a directory of results."""

import errno
import fcntl
import os
import socket
import warnings
from contextlib import suppress
from datetime import datetime
from io import TextIOWrapper
from pathlib import Path

from mei_lightning.store import explained

_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class RunLock:
    """Keeps a second run from a store while one writes it.

    The lock is the operating system's (``flock``), on a file that says who holds it. It ends with the process that
    holds it, however that ends, so that a run which was killed can be continued at once; of a file that is left behind
    no run takes notice.

    Args:
        store: the store; the lock is beside it.
    """

    def __init__(self, store: Path) -> None:
        self.store = store
        self.path = store.with_name(f"{store.name}.lock")
        self._file: TextIOWrapper | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            BlockingIOError: if another run has it.
            PermissionError: if the directory cannot be written to.
            OSError: if there is no space.

        Warns:
            UserWarning: if the file system has no locks; then there is none.
        """
        with explained(self.store, "Nothing was begun"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            while self._file is None:
                file = self.path.open("a+")
                if not self._try(file):
                    file.close()
                    self.path.unlink(missing_ok=True)
                    return
                if _is_still_there(file, self.path):
                    self._file = file
                else:
                    # Removed by the run that had the lock until now: whoever comes next would make another file.
                    file.close()
            self._file.truncate(0)
            self._file.write(
                f"process {os.getpid()} on {socket.gethostname()}, since {datetime.now():%Y-%m-%d %H:%M:%S}"
            )
            self._file.flush()

    def release(self) -> None:
        """Give the lock back, if this object has it, and remove the file."""
        if self._file is not None:
            # While the lock is held: later this could be another run's file.
            with suppress(OSError):
                if _is_still_there(self._file, self.path):
                    self.path.unlink()
            fcntl.flock(self._file, fcntl.LOCK_UN)
            self._file.close()
            self._file = None

    def _try(self, file: TextIOWrapper) -> bool:
        """Lock a file, and say whether there are locks at all."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read()
            file.close()
            raise BlockingIOError(
                error.errno,
                f"{self.store} is being written by another run{holder and f' ({holder})'}. Wait until that is done, or "
                "give another directory. If its machine has gone down and a network file system still keeps the lock, "
                f"remove {self.path}.",
            ) from error
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                raise
            warnings.warn(
                f"The file system of {self.store} has no locks: see to it that no other run writes there.", stacklevel=4
            )
            return False
        return True


def _is_still_there(file: TextIOWrapper, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
