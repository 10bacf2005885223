"""The help of ``fit``: our options first, briefly; all that there is of one group of them on request."""

import argparse
import re
import textwrap
from collections.abc import Sequence
from typing import Any

from jsonargparse import DefaultHelpFormatter
from lightning.pytorch.cli import LightningArgumentParser

GROUPS = {
    "model": "Which neurons of which model, and how their stimuli are found",
    "results": "Where results go",
    "convergence": "When a stimulus has converged",
    "stimulus_logger": "What TensorBoard shows of stimuli",
}
"""The groups of options that are ours, as the help shows them, and what each is about."""

_RUN = ("config", "ckpt_path", "trainer.devices", "trainer.accelerator", "trainer.max_time", "trainer.logger")
"""Options of Lightning, and of its Trainer, that most users want at some time."""

_USAGE = "mei-lightning fit --model.retina MODEL --model.neurons NEURONS [options]"
_EPILOG = """Values are YAML: true, null, [[session_1, 5], [session_1, 7]]. --help=model tells everything about the
options of model, and so on; --help=trainer lists those of Lightning's Trainer, such as --trainer.max_time 00:12:00:00,
and --help=all all that there are. --model.initial.help says what can be given to an option that takes a class,
--model.initial.help PinkNoise what the class takes. --print_config prints all settings as a file for --config."""

_MOST_CHARACTERS = 110


class FitParser(LightningArgumentParser):
    """Lightning's parser, which knows the brief help and that of one group of options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, formatter_class=_WithoutTorch, **kwargs)

    @property
    def option_names(self) -> list[str]:
        """All options, as they are typed."""
        return [name for action in self._actions for name in action.option_strings]

    def brief_help(self) -> str:
        """Our options, with the beginning of the description of each, and how to see the others."""
        shown = argparse.ArgumentParser(
            usage=_USAGE,
            description=self.description,
            epilog=_EPILOG,
            add_help=False,
            formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=34),
        )
        chosen = {name: [one for one in self._own() if one.dest.startswith(f"{name}.")] for name in GROUPS}
        for name, actions in chosen.items():
            _add(shown, GROUPS[name], actions)
        _add(shown, "Members of an ensemble", [one for one in self._own() if one.dest == "per_member"])
        _add(shown, "Before and beside other runs", [one for one in self._own() if one.dest in ("dry_run", "shard")])
        _add(shown, "Lightning's", [one for one in self._own() if one.dest in _RUN])
        return shown.format_help()

    def group_help(self, name: str) -> str:
        """All that there is to say of the options of a group, or of all with the name "all".

        Raises:
            ArgumentError: if there is no such group.
        """
        if name == "all":
            return self.format_help()
        groups = [*GROUPS, "trainer"]
        if name not in groups:
            self.error(f"there is no help of '{name}'; there is of {', '.join(groups)}, and all.")
        for action in self._actions:
            if not action.dest.startswith(f"{name}.") and f"--{name}." not in "".join(action.option_strings):
                action.help = argparse.SUPPRESS
        self.usage = argparse.SUPPRESS
        return self.format_help()

    def _own(self) -> list[argparse.Action]:
        return [one for one in self._actions if argparse.SUPPRESS not in (one.dest, one.default)]


class ShowHelp(argparse.Action):
    """The option ``--help``, with or without the name of a group."""

    def __init__(self, option_strings: Sequence[str], dest: str, **_: Any) -> None:
        super().__init__(
            option_strings,
            dest=argparse.SUPPRESS,
            default=argparse.SUPPRESS,
            nargs="?",
            metavar="GROUP",
            help="Show the help, of all or of a group of options, and exit.",
        )

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Print the help, and exit."""
        print(parser.brief_help() if values is None else parser.group_help(values))
        parser.exit()


class _WithoutTorch(DefaultHelpFormatter):
    """Does not list torch's hundreds of modules as what a model of the retina could be."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = super()._get_help_string(action)
        before, listed, _ = text.partition(", known subclasses: torch.nn.Module")
        return f"{before})" if listed else text


def _add(parser: argparse.ArgumentParser, title: str, actions: list[argparse.Action]) -> None:
    group = parser.add_argument_group(title)
    for action in actions:
        group.add_argument(
            max(action.option_strings, key=_without_plus), metavar="", help=_brief(action).replace("%", "%%")
        )


def _without_plus(option: str) -> tuple[bool, int]:
    return not option.endswith("+"), len(option)


def _brief(action: argparse.Action) -> str:
    """The first sentence of a description, or what fits in two lines, and the default."""
    whole = " ".join((action.help or "").split()).replace("``", "")
    first = re.split(r"(?<!e\.g)\.(?: |$)", whole)[0]
    text = textwrap.shorten(first, _MOST_CHARACTERS, placeholder=" ...")
    if action.default in (None, []) or not isinstance(action.default, bool | int | float | str):
        return text
    return f"{text} (default: {str(action.default).lower() if isinstance(action.default, bool) else action.default})"
