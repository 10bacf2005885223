"""The command ``mei-lightning``: which command is meant. Only the module of that command is imported."""

import ast
import difflib
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse import ArgumentParser, Namespace, auto_cli

from mei_lightning import __version__
from mei_lightning.cli.errors import TRACEBACK, messages_in_place_of_tracebacks

_DESCRIPTION = """Maximally exciting inputs of a frozen retina model: fit finds them, in a store that status, analyze,
report, validate, share, export and experiment go on from."""
_EPILOG = f"""mei-lightning COMMAND --help tells the options of a command. Of errors in what you ask for there is the
message only; the environment variable {TRACEBACK}=1 shows where they come from."""


class Command(NamedTuple):
    """A command: the module of this folder and the function there that runs it, and what it does, in a line."""

    module: str
    function: str
    line: str

    def load(self) -> Callable[..., None]:
        """The function, from its module, which is imported now."""
        return getattr(import_module(f"mei_lightning.cli.{self.module}"), self.function)


def commands() -> dict[str, Command]:
    """The commands by their names: each public function of ``fit.py``, ``stores.py`` and ``methods.py`` is one.

    The modules are read and not imported, because what they import takes seconds.
    """
    return {
        node.name.replace("_", "-"): Command(module, node.name, (ast.get_docstring(node) or "").partition("\n")[0])
        for module in ("fit", "stores", "methods")
        for node in ast.parse(Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }


def main(args: list[str] | dict[str, Any] | Namespace | None = None) -> None:
    """Run the command line.

    Args:
        args: the arguments; by default those of the process. What is not a list is for ``fit``.

    Raises:
        SystemExit: with 2, if the arguments cannot be parsed, or what they ask for is refused; then the message is
            printed.
    """
    # As in "python script.py": modules of one's own are found where one works.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    options: list[str] = []
    with messages_in_place_of_tracebacks(options):
        known = commands()
        words = sys.argv[1:] if args is None else args
        if isinstance(words, list) and (name := _meant(words, known)) != "fit":
            auto_cli(
                known[name].load(),
                args=words[1:],
                prog=f"mei-lightning {name}",
                as_positional=known[name].module == "stores",
                exit_on_error=False,
                parser_class=_listing(options),
            )
        else:
            # Not the words: Lightning warns of arguments in place of those of the process.
            known["fit"].load()(args, options)


def _listing(options: list[str]) -> type[ArgumentParser]:
    """A parser that adds its options to a list before it parses."""

    class Listing(ArgumentParser):
        def parse_args(self, *args: Any, **kwargs: Any) -> Namespace:  # type: ignore[override]
            options.extend(name for action in self._actions for name in action.option_strings)
            return super().parse_args(*args, **kwargs)

    return Listing


def _meant(words: list[str], known: dict[str, Command]) -> str:
    """The command: fit if there are options before it, which are Lightning's (a configuration with the command in it).

    Raises:
        ArgumentError: if there is no such command.
        SystemExit: with 0, after the help or the version that is asked for.
    """
    if words and words[0].startswith("-") and words[0] not in ("-h", "--help", "--version"):
        return "fit"
    parser = ArgumentParser("mei-lightning", description=_DESCRIPTION, epilog=_EPILOG, exit_on_error=False)
    parser.add_argument("--version", action="version", version=f"mei-lightning {__version__}")
    choice = parser.add_subcommands(title="commands", description=None, dest="command", metavar="COMMAND")
    for name, command in known.items():
        choice.add_subcommand(name, ArgumentParser(), help=command.line)
    if words and (near := difflib.get_close_matches(words[0], known, 1)) and near != words[:1]:
        parser.error(f"there is no command '{words[0]}'. Do you mean {near[0]}?")
    return parser.parse_args(words[:1]).command


if __name__ == "__main__":
    main()
