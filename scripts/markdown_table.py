"""Tables that can be pasted into the documentation, a line as soon as it is known."""

from collections.abc import Mapping
from typing import Any


def print_head(columns: Mapping[str, tuple[str, str]]) -> None:
    """The head of a Markdown table: for each column its title, and how a value is written."""
    print("| " + " | ".join(title for title, _ in columns.values()) + " |")
    print("|" + " --- |" * len(columns), flush=True)


def print_line(columns: Mapping[str, tuple[str, str]], row: Mapping[str, Any]) -> None:
    """A line of a Markdown table, blank where nothing was measured; text stands for itself."""
    values = {key: row.get(key) for key in columns}
    cells = [
        "" if value is None else value if isinstance(value, str) else columns[key][1].format(value)
        for key, value in values.items()
    ]
    print("| " + " | ".join(cells) + " |", flush=True)
