"""A setting of a wrong kind on the command line, in the words that Python has for it."""

import re
from typing import Any

import yaml


def refusal_of_value(message: str) -> str | None:
    """What the package itself says of a setting's value that jsonargparse could not parse.

    Args:
        message: jsonargparse's, with the option and the value that was given.

    Returns:
        One line; None if the message is about something else, or the package would take the value.
    """
    option = re.search(r'"model\.(\w+)"', message)
    value = re.search(r"(?:Given value|Got value): (.*)", message)
    if option is None or value is None:
        return None
    # Not at the top of the module, from where they would take seconds of every --help.
    from mei_lightning.exceptions import MEIError
    from mei_lightning.neurons import groups_of
    from mei_lightning.settings import settings_named
    from mei_lightning.sizes import several_sizes

    name, given = option[1], _plain(value[1])
    try:
        if name == "neurons":
            groups_of(given)
        elif several_sizes({name: given}) is None:
            settings_named({name: given})
    except MEIError as error:
        refused = str(error)
        return None if refused.startswith("There is no setting") else refused
    return None


def _plain(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text
