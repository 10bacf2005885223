"""Progress bars that read well on a terminal, in a notebook and in a log."""

import sys
from typing import Any

from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

_SECONDS_BETWEEN_LINES = 30.0


class Bar(Tqdm):
    """Says how many are done a minute, and how long the others will take, unless it is stopped."""

    stopped = False

    @property
    def format_dict(self) -> dict[str, Any]:
        """What a line is made of."""
        facts = super().format_dict
        done, seconds = facts["n"] - facts["initial"], facts["elapsed"]
        elapsed = self.format_interval(seconds)
        pace = f", stopped after {elapsed}" if self.stopped else f", {elapsed}"
        if not self.stopped and done > 0 and seconds > 0:
            left = (facts["total"] - facts["n"]) * seconds / done if facts["total"] else 0
            time = f"{self.format_interval(left)} left" if left > 0 else f"in {elapsed}"
            pace = f", {60 * done / seconds:.3g} a minute, {time}"
        return {**facts, "pace": pace}


class _Lines(Bar):
    """A line whenever a bar would be redrawn."""

    def display(self, *_: Any, **__: Any) -> None:
        self.fp.write(f"{self}\n")
        self.fp.flush()

    def close(self) -> None:
        if not self.disable:
            self.display()
            # Then tqdm has no line of a terminal to clear.
            self.sp = None
        super().close()


def new_bar(description: str, total: int | None, unit: str, done: int = 0, disable: bool = False) -> Bar:
    """A progress bar on standard error, which says how many are done a minute, and how long the others will take.

    Where standard error is neither a terminal nor a notebook (nohup, SLURM) it is a line every half minute.
    """
    # In a notebook, too.
    redraws = hasattr(sys, "ps1") or sys.stderr.isatty()
    return (Bar if redraws else _Lines)(
        desc=description,
        total=total,
        initial=done,
        unit=unit,
        disable=disable,
        dynamic_ncols=redraws,
        file=sys.stderr,
        bar_format="{desc}: {percentage:3.0f}%" + "|{bar}|" * redraws + " {n_fmt}/{total_fmt} {unit}{pace}",
        mininterval=0.1 if redraws else _SECONDS_BETWEEN_LINES,
        miniters=0,
        smoothing=0,
    )
