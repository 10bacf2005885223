"""Words that messages have in common."""

from collections.abc import Iterable


def first_few(items: Iterable[object], most: int = 10) -> str:
    """The first few items, separated by commas, and how many there are if these are not all.

    Args:
        items: what to name.
        most: how many at most.
    """
    names = [str(item) for item in items]
    more = f", ... ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def how_many(shown: int, total: int) -> str:
    """How many neurons are shown, and of how many if these are not all: "48 of 3000 neurons"."""
    return f"{shown} of {total} neurons" if shown < total else f"{total} neuron{'s' * (total > 1)}"
