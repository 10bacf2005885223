"""Paths as users give them, treated in one way by every function that takes one."""

import os
import re
from pathlib import Path

from mei_lightning.arguments import in_short
from mei_lightning.exceptions import InvalidTypeError, InvalidValueError

_LONGEST_NAME = 255
_LONGEST_PATH = 4096
"""Bytes of the name of a file, and of a path with all its folders, on the usual file systems of Linux and macOS."""
_ADDED_TO_NAME = 50
_ADDED_TO_PATH = 200
"""What is made beside a file until it is complete, and in a directory, has longer names by so much."""
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|::")
"""What the libraries that read and write zarr take for a place on another machine, wherever it begins with."""


def local_path(name: str, path: object) -> Path:
    """A path of this machine, ``~`` being the user's home; it may have any other characters in it.

    Args:
        name: of the argument.
        path: its value.

    Raises:
        TypeError: if it is no path.
        ValueError: if it is empty, an address, of a user who has no home, or too long for what is to be made there.
    """
    if not isinstance(path, str | os.PathLike) or isinstance(text := os.fspath(path), bytes):
        raise InvalidTypeError(f"{name}={in_short(path)} must be a path, e.g. {name}='results'.")
    if not text or "\0" in text:
        raise InvalidValueError(f"{name}={text!r} is no path: give one, e.g. {name}='results'.")
    if _ADDRESS.search(text):
        raise InvalidValueError(
            f"{name}={text!r} reads like an address (:// or ::): give a path on this machine, and copy from there."
        )
    try:
        place = Path(path).expanduser()
    except RuntimeError as error:
        raise InvalidValueError(f"{name}={text!r}: there is no such home. Give a whole path.") from error
    longest = max((len(os.fsencode(part)) for part in place.parts), default=0)
    is_long = len(os.fsencode(place.absolute())) > _LONGEST_PATH - _ADDED_TO_PATH
    if is_long or longest > _LONGEST_NAME or len(os.fsencode(place.name)) > _LONGEST_NAME - _ADDED_TO_NAME:
        raise InvalidValueError(
            f"{name}='{text[:40]}...' is too long: what is made there needs names of up to {_LONGEST_NAME} bytes, and "
            f"paths of up to {_LONGEST_PATH}. Give a shorter one."
        )
    return place
