"""Where the results of a call are, and what becomes of them if it does not come to its end."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mei_lightning.paths import local_path
from mei_lightning.results.store import MEIStore

STORE = "meis.zarr"
"""The store in a directory of results."""


@contextmanager
def place_of_results(directory: str | Path | None, parts: Sequence[str] = (".",)) -> Iterator[Path]:
    """The directory of a call's results; without one of the user's, a directory that is gone after the call.

    If the call ends before its work does, the results stay, and the exception says where.

    Args:
        directory: the user's, or None.
        parts: the directories in it that have a store each.

    Raises:
        KeyboardInterrupt: in place of the one that has ended the work, with what there is in words.
    """
    place = local_path("directory", directory or tempfile.mkdtemp(prefix="mei_lightning_"))
    stays = directory is not None
    try:
        yield place
    except KeyboardInterrupt:
        if not (begun := _stores(place, parts)):
            raise
        stays = True
        raise KeyboardInterrupt(_what_there_is(place, parts, begun)) from None
    except BaseException as error:
        begun = [] if stays else _stores(place, parts)
        if any(store.finished() for store in begun):
            stays = True
            error.add_note(_what_there_is(place, parts, begun))
        raise
    finally:
        if not stays:
            shutil.rmtree(place, ignore_errors=True)


def _stores(place: Path, parts: Sequence[str]) -> list[MEIStore]:
    """Those that have been begun."""
    return [MEIStore(place / part / STORE) for part in parts if (place / part / STORE).exists()]


def _what_there_is(place: Path, parts: Sequence[str], begun: Sequence[MEIStore]) -> str:
    for store in begun:
        # Processes that were interrupted may have left that to others.
        store.collect()
    done, neurons = sum(len(store.finished()) for store in begun), len(begun[0].configuration["neurons"])
    goes_on = f"The same call with directory={str(place)!r} goes on from there"
    if begun[0].path.parent == place:
        return (
            f"{done} of {neurons} neurons are done. {goes_on}; xarray.open_zarr({str(begun[0].path)!r}, chunks=None) "
            "has what there is."
        )
    return (
        f"{done} of {neurons * len(parts)} MEIs are done, of {neurons} neurons at {len(parts)} norms. {goes_on}; "
        f"open_norms({str(place)!r}) has what there is."
    )
