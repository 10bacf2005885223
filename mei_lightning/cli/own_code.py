"""Errors in a module of the user's own that the command line imports, or in a class of it that it makes."""

import inspect
import pydoc
import re
import traceback
from pathlib import Path
from types import FrameType

import jsonargparse

import mei_lightning

_JSONARGPARSE = Path(jsonargparse.__file__).parent
_OURS = Path(mei_lightning.__file__).parent
_PROBLEM = r"Problem with given class_path '(?P<name>(?!mei_lightning\.|torch\.)[\w.]+)':\s+"
_EXPECTED = r"--(?P<option>\w+):\s+Expected an? (?:<class ')?(?P<kind>[^'\n]+?)'?>?\. Got value: (?P<what>.*)"


def error_in_own_code(error: BaseException) -> str | None:
    """What is wrong in the user's code, with its file and line, if that is where an error comes from.

    Args:
        error: as the command line's parser raised it, be it from an import or from a constructor.

    Returns:
        One line; None if the error comes from elsewhere, or from the user's code when our own called it.
    """
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    frames = list(traceback.walk_tb(cause.__traceback__))
    last = max((number for number, (frame, _) in enumerate(frames) if _lies_in(frame, _JSONARGPARSE)), default=None)
    if last is None:
        return None
    own = [(frame, line) for frame, line in frames[last + 1 :] if not frame.f_code.co_filename.startswith("<")]
    if isinstance(cause, SyntaxError) and cause.filename and (not own or not _lies_in(own[0][0], _OURS)):
        text = f": {cause.text.strip()}" if cause.text else ""
        return f"{_short(cause.filename)}, line {cause.lineno}: {type(cause).__name__}: {cause.msg}{text}"
    if not own:
        return _of_missing_module(cause)
    if _lies_in(own[0][0], _OURS) or _is_installed(own[0][0]):
        return None
    # What the user's code calls of other packages is less telling than where it does so.
    frame, line = next((it for it in reversed(own) if _lies_in(it[0], Path.cwd()) and not _is_installed(it[0])), own[0])
    inside = "" if frame.f_code.co_name == "<module>" else f", in {frame.f_code.co_qualname}"
    said = f"{type(cause).__name__}: {cause}"
    way_out = f" Install {cause.name}, or correct its name." if isinstance(cause, ModuleNotFoundError) else ""
    return f"{_short(frame.f_code.co_filename)}, line {line}{inside}: {said.rstrip('.')}.{way_out}"


def misfit_of_own_class(message: str) -> str | None:
    """What does not fit between a class of the user's and its arguments, with the file and line of the class.

    Args:
        message: jsonargparse's.

    Returns:
        One line; None if the message is about something else.
    """
    if found := re.search(_PROBLEM + r"the following arguments are required: (?P<what>[\w, ]+)", message):
        return f"{found['name']} needs {found['what']}, which init_args has to give{place_of(found['name'])}."
    if found := re.search(_PROBLEM + _EXPECTED, message):
        kind = f"{found['option']}={found['what']}: it has to be of type {found['kind']}"
        return f"{found['name']}, {kind}{place_of(found['name'])}."
    if found := re.search(r"Import path (?P<name>[\w.]+) does not correspond to a subclass of (?P<kind>\w+)", message):
        return f"{found['name']} is no {found['kind']}: derive it from one{place_of(found['name'])}."
    return None


def place_of(name: str) -> str:
    """Where a class is written, by its path with dots, in brackets after a space; empty if it is one of ours."""
    kind = pydoc.locate(name)
    try:
        file, line = inspect.getfile(kind), inspect.getsourcelines(kind)[1]  # type: ignore[arg-type]
    except (OSError, TypeError):
        return ""
    return "" if Path(file).is_relative_to(_OURS) else f" ({_short(file)}, line {line})"


def _of_missing_module(cause: BaseException) -> str | None:
    if not isinstance(cause, ModuleNotFoundError) or cause.name is None:
        return None
    return (
        f"There is no module {cause.name}: no {cause.name.partition('.')[0]}.py in {Path.cwd()}, where the command is "
        "run, and no installed package of that name."
    )


def _lies_in(frame: FrameType, directory: Path) -> bool:
    return Path(frame.f_code.co_filename).is_relative_to(directory)


def _is_installed(frame: FrameType) -> bool:
    return "site-packages" in Path(frame.f_code.co_filename).parts


def _short(path: str) -> str:
    return str(Path(path).relative_to(Path.cwd())) if Path(path).is_relative_to(Path.cwd()) else path
