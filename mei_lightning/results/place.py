"""Where the results of a call are, and what becomes of them if it does not come to its end."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mei_lightning.paths import local_path
from mei_lightning.results.store import MEIStore

STORE = "meis.zarr"
"""The store in a directory of results."""


@dataclass(frozen=True)
class Parts:
    """The stores of a call that has several.

    Args:
        directories: that have one each.
        told: which they are, after the number of neurons, e.g. "at 2 norms".
        opened: how to open what there is; ``{place}`` stands for the directory of all.
    """

    directories: Sequence[str]
    told: str
    opened: str


@contextmanager
def place_of_results(directory: str | Path | None, parts: Parts | None = None) -> Iterator[Path]:
    """The directory of a call's results; without one of the user's, a directory that is gone after the call.

    If the call ends before its work does, the results stay, and the exception says where.

    Args:
        directory: the user's, or None.
        parts: the stores, if there are several, each in a directory in it.

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


def _stores(place: Path, parts: Parts | None) -> list[MEIStore]:
    """Those that have been begun."""
    stores = [place / part / STORE for part in (["."] if parts is None else parts.directories)]
    return [MEIStore(store) for store in stores if store.exists()]


def _what_there_is(place: Path, parts: Parts | None, begun: Sequence[MEIStore]) -> str:
    for store in begun:
        # Processes that were interrupted may have left that to others.
        store.collect()
    done, neurons = sum(len(store.finished()) for store in begun), len(begun[0].configuration["neurons"])
    goes_on = f"The same call with directory={str(place)!r} goes on from there"
    if parts is None:
        return (
            f"{done} of {neurons} neurons are done. {goes_on}; xarray.open_zarr({str(begun[0].path)!r}, chunks=None) "
            "has what there is."
        )
    return (
        f"{done} of {neurons * len(parts.directories)} MEIs are done, of {neurons} neurons {parts.told}. {goes_on}; "
        f"{parts.opened.format(place=repr(str(place)))} has what there is."
    )
