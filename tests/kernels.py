"""Notebooks in a kernel, as nbconvert runs them."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from processes import TESTS

IMAGE = "image/png"
WIDGET = "application/vnd.jupyter.widget-view+json"

nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
pytest.importorskip("ipykernel", reason="ipykernel is not installed")


class Kernel:
    """A kernel that runs one notebook after the other."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def run(self, cells: Sequence[str], fails: int | None = None) -> list[Any]:
        """Run cells as a notebook with names of its own; one of them, by its number, has to fail, the others must not.

        Returns:
            The cells with their outputs.
        """
        self.client.nb = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(cell.strip()) for cell in ("%reset -f", *cells)]
        )
        for number, cell in enumerate(self.client.nb.cells):
            self.client.execute_cell(cell, number)
            failed = [output for output in cell.outputs if output.output_type == "error"]
            assert bool(failed) == (number - 1 == fails), "\n".join(
                [cell.source, *(failed or [{}])[0].get("traceback", "")]
            )
        nbformat.validate(self.client.nb)
        return self.client.nb.cells[1:]

    def widgets(self) -> list[dict[str, Any]]:
        """The states of all widgets so far, in the order in which they were made."""
        return list(self.client.widget_state.values())


@contextmanager
def running_kernel(directory: Path) -> Iterator[Kernel]:
    """A kernel that works in a directory, where temporary files are, too, and finds the modules of the tests."""
    client = nbclient.NotebookClient(
        nbformat.v4.new_notebook(), timeout=300, allow_errors=True, resources={"metadata": {"path": str(directory)}}
    )
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
        "TMPDIR": str(directory),
        "OMP_NUM_THREADS": "1",
        "MEI_LIGHTNING_ALLOW_UNPICKLING": "1",
    }
    with client.setup_kernel(env=environment):
        yield Kernel(client)


def printed(cell: Any, stream: str) -> str:
    """What a cell has written to "stdout" or "stderr"."""
    return "".join(output.text for output in cell.outputs if output.output_type == "stream" and output.name == stream)


def images(cell: Any) -> int:
    """How many pictures a cell shows."""
    return sum(IMAGE in output.get("data", {}) for output in cell.outputs)
