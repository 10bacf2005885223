"""What is wrong with a group of values that together are one argument of a class, e.g. a stimulus format."""

import difflib
import inspect
import pydoc
import re

_OF_CLASS = r"given class_path '(?P<owner>[\w.]+)':\s+"
_UNKNOWN = _OF_CLASS + r"Group '(?P<group>\w+)' does not accept option '(?P<name>\w+)'"
_MISSING = _OF_CLASS + r"the following arguments are required: (?P<group>\w+)\.(?P<names>\w+(?:, [\w.]+)*)"


def misfit_of_group(message: str) -> str | None:
    """Which name of a group does not exist, and what is near, or which value of it is missing.

    Args:
        message: jsonargparse's.

    Returns:
        One line; None if the message is about something else.
    """
    option = message.partition(":")[0]
    if found := re.search(_UNKNOWN, message):
        names = _names(found["owner"], found["group"])
        near = [one for one in names if found["name"] in one] or difflib.get_close_matches(found["name"], names, 1)
        hint = f"Do you mean {' or '.join(near)}?" if near else f"It has {', '.join(names)}."
        return f"{option}: {found['group']} has no {found['name']}. {hint}"
    if found := re.search(_MISSING, message):
        missing = ", ".join(re.findall(r"\w+$", found["names"].replace(",", "\n"), re.MULTILINE))
        return f"{option}: {found['group']} of {found['owner']} needs {missing}, which the configuration has to give."
    return None


def _names(owner: str, group: str) -> list[str]:
    kind = inspect.signature(pydoc.locate(owner)).parameters[group].annotation  # type: ignore[arg-type]
    return list(inspect.signature(kind).parameters) if isinstance(kind, type) else []
