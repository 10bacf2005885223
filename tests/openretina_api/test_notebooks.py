"""openretina's notebooks in a kernel, with nothing but their imports changed."""

import pytest
import torch

pytest.importorskip("openretina.utils.nnfabrik_model_loading", reason="openretina is not installed")
pytest.importorskip("IPython.display", reason="IPython is not installed")

from kernels import images, running_kernel
from openretina.utils import file_utils
from openretina_notebooks import (
    GRADIENT_ANALYSIS,
    MEI_EXAMPLE,
    MOST_DISCRIMINATIVE,
    use_downloads,
    with_imports_changed,
    write_downloads,
)

SETUP = """
from pathlib import Path
from openretina_notebooks import MEMBERS, SESSIONS, use_downloads
use_downloads(Path.cwd())
import torch; torch.manual_seed(0)
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Where the models are that the notebooks load."""
    directory = tmp_path_factory.mktemp("downloads")
    write_downloads(directory)
    return directory


@pytest.fixture(scope="module")
def run(directory):
    """Runs a notebook, and a cell that checks what it has found; returns the notebook's cells."""
    with running_kernel(directory) as kernel:
        yield lambda cells, checks: kernel.run([SETUP, *map(with_imports_changed, cells), checks])[1:-1]


@pytest.fixture
def downloads(directory, monkeypatch):
    use_downloads(directory, monkeypatch.setattr)
    monkeypatch.setenv("MEI_LIGHTNING_ALLOW_UNPICKLING", "1")
    return directory / "ensemble"


@pytest.mark.slow
def test_mei_example(run):
    checks = """
assert stimulus_np.shape == (2, 50, 18, 16)
assert abs(stimulus.norm().item() / 5.0 - 1) < 1e-4
assert shown.data.startswith("<video")
assert after > before
assert set(data_info) == {"a", "b"}
assert len(ensemble_model.members) == len(MEMBERS)
"""
    cells = run(MEI_EXAMPLE, checks)
    assert [images(cell) for cell in cells] == [0, 0, 0, 0, 0, 0, 1, 0]


@pytest.mark.slow
def test_most_discriminative_stimulus(run):
    checks = """
from openretina.insilico.stimulus_optimization.regularizer import ChangeNormJointlyClipRangeSeparately as Theirs
torch.manual_seed(40)
start = Theirs([(-0.6, 6.2), (-0.9, 6.2)], 30.0).process(0.1 * torch.randn(stimulus_shape))
assert objective_mei.forward(stimulus_mei) > objective_mei.forward(start)
assert objective_mds.forward(stimulus_mds) > objective_mds.forward(start)
assert responses_mds_np.shape == (sum(SESSIONS.values()), 20)
"""
    cells = run(MOST_DISCRIMINATIVE, checks)
    assert [images(cell) for cell in cells] == [0, 0, 0, 0, 0, 1, 1, 0, 1]


@pytest.mark.slow
def test_hoefling_gradient_analysis(run):
    checks = """
assert gradient_grid.shape == (2, 5, 5)
assert n_neurons == 4
# The MEI itself excites more than grey does, and than its negative.
assert resp_grid[-1, -1] > max(resp_grid[2, 2], resp_grid[0, 0])
"""
    cells = run(GRADIENT_ANALYSIS, checks)
    assert images(cells[-1]) == 1


def test_the_ensemble_is_centred_on_demand(downloads):
    from mei_lightning import openretina_api

    centre = openretina_api.Center((0.0, 0.0))
    _, model = openretina_api.load_ensemble_model_from_remote(center_readout=centre)
    places = [value for name, value in model.state_dict().items() if "mask_mean" in name]
    assert places
    assert all(not place.any() for place in places)
    _, same = openretina_api.load_ensemble_model_from_remote(model_path=str(downloads), center_readout=centre)
    stimulus = torch.randn(1, 2, 40, 18, 16)
    torch.testing.assert_close(same(stimulus), model(stimulus))


@pytest.mark.slow
def test_a_download_needs_consent_and_says_what_else_there_is(downloads, monkeypatch):
    from mei_lightning import openretina_api

    def unreachable(*_args, **_kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(file_utils, "optionally_download_from_url", unreachable)
    with pytest.raises(ConnectionError, match=r"no route to host.*digital_twin"):
        openretina_api.load_ensemble_model_from_remote()
    monkeypatch.delenv("MEI_LIGHTNING_ALLOW_UNPICKLING")
    with pytest.raises(PermissionError, match="MEI_LIGHTNING_ALLOW_UNPICKLING=1"):
        openretina_api.load_ensemble_model_from_remote()
    _, built_in = openretina_api.load_ensemble_model_from_remote(model_path="digital_twin")
    assert list(built_in.members[0].readout.keys()) == ["session_1", "session_2", "session_3"]
