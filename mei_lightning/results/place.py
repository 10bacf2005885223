"""Where the results of a call are, and what becomes of them if it does not come to its end."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mei_lightning.paths import local_path
from mei_lightning.results.store import MEIStore

STORE = "meis.zarr"
"""The store in a directory of results."""


@contextmanager
def place_of_results(directory: str | Path | None) -> Iterator[Path]:
    """The directory of a call's results; without one of the user's, a directory that is gone after the call.

    If the call ends before its work does, the results stay, and the exception says where.

    Args:
        directory: the user's, or None.

    Raises:
        KeyboardInterrupt: in place of the one that has ended the work, with what there is in words.
    """
    place = local_path("directory", directory or tempfile.mkdtemp(prefix="mei_lightning_"))
    stays = directory is not None
    try:
        yield place
    except KeyboardInterrupt:
        if not (place / STORE).exists():
            raise
        stays = True
        raise KeyboardInterrupt(_what_there_is(place)) from None
    except BaseException as error:
        if not stays and (place / STORE).exists() and MEIStore(place / STORE).finished():
            stays = True
            error.add_note(_what_there_is(place))
        raise
    finally:
        if not stays:
            shutil.rmtree(place, ignore_errors=True)


def _what_there_is(place: Path) -> str:
    store = MEIStore(place / STORE)
    # Processes that were interrupted may have left that to others.
    store.collect()
    neurons = len(store.configuration["neurons"])
    return (
        f"{len(store.finished())} of {neurons} neurons are done. The same call with directory={str(place)!r} goes on "
        f"from there; xarray.open_zarr({str(store.path)!r}, chunks=None) has what there is."
    )
