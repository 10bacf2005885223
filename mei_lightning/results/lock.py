"""One run at a time in a directory of results."""

import errno
import os
import socket
import warnings
from contextlib import suppress
from datetime import datetime
from io import FileIO
from pathlib import Path

from filelock import lock_descriptor, unlock_descriptor

from mei_lightning.exceptions import BusyStoreError
from mei_lightning.results.disk_errors import explained

_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_BYTES_LOCKED = 1
"""Windows locks the first byte of the file, and lets nobody else read it; who holds the lock is said after it."""


class RunLock:
    """Keeps a second run from a store while one writes it.

    The lock is the operating system's, on a file that says who holds it. It ends with the process that holds it,
    however that ends, so that a run which was killed can be continued at once; of a file that is left behind no run
    takes notice.

    Args:
        store: the store; the lock is beside it.
        part: of what in the store the lock is; by default of all of it.
        taken: what a message says of a lock that another process has.
    """

    def __init__(self, store: Path, part: str | None = None, taken: str | None = None) -> None:
        self.store = store
        self.path = store.with_name(f"{store.name}.{'' if part is None else f'{part}.'}lock")
        self._taken = taken or f"{store} is being written by another run"
        self._file: FileIO | None = None

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
                file = self.path.open("a+b", buffering=0)
                try:
                    has_locks = self._try(file)
                except OSError:
                    file.close()
                    raise
                if not has_locks:
                    file.close()
                    self.path.unlink(missing_ok=True)
                    return
                if _is_still_there(file, self.path):
                    self._file = file
                else:
                    # Removed by the run that had the lock until now: whoever comes next would make another file.
                    file.close()
            holder = f"process {os.getpid()} on {socket.gethostname()}, since {datetime.now():%Y-%m-%d %H:%M:%S}"
            self._file.truncate(0)
            self._file.write(b"\n" * _BYTES_LOCKED + holder.encode())

    def release(self) -> None:
        """Give the lock back, if this object has it, and remove the file."""
        if self._file is None:
            return
        # While the lock is held: later this could be another run's file.
        removed = self._remove(self._file)
        unlock_descriptor(self._file.fileno())
        self._file.close()
        self._file = None
        if not removed:
            # Windows removes no file that a process has open: not before it is closed here, and not another run's.
            with suppress(OSError):
                self.path.unlink()

    def _remove(self, file: FileIO) -> bool:
        """Remove the file that is locked, and say whether the system lets a process remove what it has open."""
        try:
            if _is_still_there(file, self.path):
                self.path.unlink()
        except PermissionError:
            return False
        except OSError:
            pass
        return True

    def _try(self, file: FileIO) -> bool:
        """Lock a file, and say whether there are locks at all."""
        try:
            locked = lock_descriptor(file.fileno(), blocking=False)
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                raise
            warnings.warn(
                f"The file system of {self.store} has no locks: see to it that no other run writes there.", stacklevel=4
            )
            return False
        if not locked:
            file.seek(_BYTES_LOCKED)
            holder = file.read().decode(errors="replace")
            raise BusyStoreError(
                errno.EAGAIN,
                f"{self._taken}{holder and f' ({holder})'}. Wait until that is done, or give another directory. If its "
                f"machine has gone down and a network file system still keeps the lock, remove {self.path}.",
            )
        return True


def _is_still_there(file: FileIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
