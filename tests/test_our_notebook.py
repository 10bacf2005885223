"""A notebook of ours in a kernel: the README's first listing, figures, and an interrupt in the midst of a run."""

import importlib.util
import re

import pytest
from conftest import assert_same_meis, find, read, video_model
from documentation import README, listings
from kernels import WIDGET, images, printed, running_kernel

NEURONS = [("monday", 0), ("tuesday", 1), ("monday", 3), ("tuesday", 2)]
SETTINGS = {"time_steps": 6, "restarts": 2, "max_steps": 20, "rows_per_device": 2}
HAS_WIDGETS = importlib.util.find_spec("ipywidgets") is not None


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("notebook")


@pytest.fixture(scope="module")
def kernel(directory):
    with running_kernel(directory) as kernel:
        yield kernel


def bar_in_the_end(kernel, cell):
    """The last bar of a cell, as it is read in the end, after all that was written over."""
    if HAS_WIDGETS:
        assert any(WIDGET in output.get("data", {}) for output in cell.outputs)
        texts = [state["value"] for state in kernel.widgets() if state.get("_model_name") == "HTMLModel"]
        before, after = texts[-2:]
        return f"{before}|█|{after}".replace("\u2007", " ").rstrip()
    lines = [line.rpartition("\r")[2] for line in printed(cell, "stderr").split("\n")]
    return re.sub(r"\x1b\[\d*m", "", [line for line in lines if line.startswith("MEIs")][-1]).rstrip()


@pytest.mark.slow
def test_the_first_listing_of_the_readme_shows_its_figure_once(kernel):
    cells = kernel.run(
        [
            *listings(README, "python")[0].split("\n\n"),
            "plot_meis(meis)",
            "fig = plot_meis(meis)",
            "%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([0, 1])\nplt.show()",
            "plot_meis(meis)",
            "assert not plt.get_fignums()",
        ]
    )
    assert [images(cell) for cell in cells] == [0, 0, 0, 1, 0, 1, 1, 0]
    bar = bar_in_the_end(kernel, cells[1])
    assert re.fullmatch(r"MEIs: 100%\|█+\| 2/2 neurons, \S+ a minute, in \d\d:\d\d", bar)


@pytest.mark.slow
def test_an_interrupted_cell_says_where_the_next_one_goes_on(kernel, directory):
    call = f"meis = find_meis(video_model(), {NEURONS}, **{SETTINGS}, accelerator='cpu'"
    setup = [
        "from conftest import video_model; from process_callbacks import PressesCtrlC; from mei_lightning import *"
    ]
    interrupted = kernel.run([*setup, f"{call}, callbacks=[PressesCtrlC(14)])"], fails=1)[1]
    (error,) = (output for output in interrupted.outputs if output.output_type == "error")
    assert error.ename == "KeyboardInterrupt"
    place = re.fullmatch(r"1 of 4 neurons are done. The same call with directory='(.*?)' goes on .*", error.evalue)[1]
    assert place.startswith(str(directory))
    assert re.fullmatch(r"MEIs:  25%\|.*\| 1/4 neurons, stopped after \d\d:\d\d", bar_in_the_end(kernel, interrupted))
    continued = kernel.run([*setup, f"{call}, directory={place!r})"])[1]
    assert re.match(r"MEIs: 100%\|█+\| 4/4 neurons", bar_in_the_end(kernel, continued))
    assert_same_meis(read(place), find(video_model(), NEURONS, **SETTINGS))
