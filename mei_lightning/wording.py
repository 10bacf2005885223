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
