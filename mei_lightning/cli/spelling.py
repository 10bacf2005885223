"""Options in messages: as they are typed on the command line, and which one a misspelt one is near to."""

import ast
import difflib
import json
import re
from collections.abc import Sequence

# A call is Python and stays it, e.g. NormAndRange(norm=30.0); a setting is a name, "=" and a value of Python.
_BRACKETED = r"\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)"
_SETTING = re.compile(
    rf"\b\w+{_BRACKETED}|(?<![\w.])(?P<name>[a-z]\w*)="
    rf"(?P<value>\[(?:[^\[\]]|\[[^\[\]]*\])*\]|{_BRACKETED}|'[^']*'|[-+]?\d[\d.]*(?:e[-+]?\d+)?(?<!\.)|True|False|None)"
)


def as_typed(message: str, options: Sequence[str]) -> str:
    """A message in which settings such as ``overwrite=True`` are options such as ``--overwrite true``.

    Args:
        message: a message in the words of Python.
        options: the options that the command has, e.g. "--model.norm". What is no option stays as it is.
    """
    by_name: dict[str, str] = {}
    for option in options:
        if option.startswith("--"):
            by_name.setdefault(re.split(r"[.-]", option)[-1], option)
    # Of two options of the same name a message of ours means the one that is ours.
    by_name |= {
        option.rpartition(".")[2]: option for option in options if option.startswith(("--model.", "--results."))
    }

    def spelt(found: re.Match[str]) -> str:
        option = by_name.get(found["name"] or "")
        return f"{option} {_yaml(found['value'])}" if option else found[0]

    return _SETTING.sub(spelt, message)


def near(typed: str, options: Sequence[str]) -> list[str]:
    """The options that one that does not exist may stand for, the nearest first, at most three.

    Args:
        typed: e.g. "--model.nrom", or "--norm" for "--model.norm".
        options: the options that there are.
    """
    options = [option for option in options if not option.endswith("+")]
    last = typed.lstrip("-").rpartition(".")[2]
    same = [option for option in options if option.lstrip("-").rpartition(".")[2] == last]
    if same:
        return same[:3]
    if found := difflib.get_close_matches(typed, options, 3, cutoff=0.8):
        return found
    names = {option.rpartition(".")[2].lstrip("-"): option for option in reversed(options)}
    return [names[name] for name in difflib.get_close_matches(last, names, 3, cutoff=0.75)]


def _yaml(value: str) -> str:
    """A value of Python as one word of a shell."""
    try:
        text = json.dumps(ast.literal_eval(value), ensure_ascii=False)
    except (ValueError, SyntaxError):
        return value
    return f'"{text}"' if text.startswith("[") else text.strip('"')
