"""Checkpoints of every class that openretina can save: they load, or the error says what to do."""

import numpy as np
import pytest
import torch

pytest.importorskip("openretina.models.core_readout", reason="openretina is not installed")

from openretina.models.linear_nonlinear import SingleCellSeparatedLNP
from openretina.models.sparse_autoencoder import Autoencoder, SparsityMSELoss
from openretina.models.spatial_contrast import SingleCellSpatialContrast, SpatialContrastCoreReadout
from openretina_checkpoints import write_checkpoint

import mei_lightning as ml

HEIGHT, WIDTH, FRAMES = 12, 10, 8
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not state its frame rate", "ignore:Readout is NOT initialized", "ignore:.*is an instance of"
)


@pytest.fixture(scope="module")
def averages(tmp_path_factory):
    """A folder with spike-triggered averages of cells 1 and 3 of a retina "01"."""
    folder = tmp_path_factory.mktemp("averages")
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    for cell in (1, 3):
        blob = np.exp(-((y - 3 - cell) ** 2 + (x - 4) ** 2) / 8)
        course = np.linspace(-1, 1, FRAMES)[:, None, None]
        np.save(
            folder / f"cell_data_01_WN_stas_cell_{cell}.npy",
            course * blob + 0.01 * generator.standard_normal((FRAMES, HEIGHT, WIDTH)),
        )
    return folder


def single_cell(averages):
    return SingleCellSpatialContrast(
        (1, 20, HEIGHT, WIDTH), str(averages), "cell_data_01_WN_stas_cell_1.npy", w_init=0.7, b_init=2.0
    )


def core_readout(averages):
    return SpatialContrastCoreReadout(
        (1, 20, HEIGHT, WIDTH),
        {"01": 2},
        str(averages),
        temporal_crop_frames=FRAMES,
        w_init=0.7,
        data_info={
            "input_shape": (1, HEIGHT, WIDTH),
            "n_neurons_dict": {"01": 2},
            "sessions_kwargs": {"01": {"cell_indices": [1, 3]}},
        },
    )


def linear_nonlinear():
    return SingleCellSeparatedLNP((2, 6, HEIGHT, WIDTH), spat_kernel_size=(7, 5), rank=2, nonlinearity="softplus")


@torch.no_grad()
@pytest.mark.parametrize(("make", "session"), [(single_cell, None), (core_readout, "01")])
def test_spatial_contrast_models_load_and_have_meis(make, session, averages, tmp_path):
    network = make(averages).eval()
    model = ml.load_model(write_checkpoint(network, tmp_path / "model.ckpt"), allow_unpickling=True)
    stimulus = torch.randn(model.stimulus_shape(20), generator=torch.Generator().manual_seed(0))
    assert model.stimulus_format.frames_lost == FRAMES - 1
    torch.testing.assert_close(model(stimulus, data_key=session), network(stimulus, data_key=session))
    objective = ml.NeuronObjective(model, [0 if session is None else (session, 1)], ml.MeanReducer())
    torch.testing.assert_close(objective(stimulus), network(stimulus, data_key=session)[0, :, -1:].mean(0))


@pytest.mark.parametrize("make", [single_cell, core_readout])
def test_without_the_averages_the_error_says_how_to_load_it(make, averages, tmp_path):
    path = write_checkpoint(make(averages), tmp_path / "model.ckpt")
    content = torch.load(path, weights_only=False)
    content["hyper_parameters"]["sta_dir"] = str(tmp_path / "gone")
    torch.save(content, path)
    with pytest.raises(ml.MEIError, match=rf"gone.*{type(make(averages)).__name__}\.load_from_checkpoint.*sta_dir="):
        ml.load_model(path, allow_unpickling=True)


@torch.no_grad()
def test_what_the_error_says_of_a_separated_model_works(tmp_path):
    network = linear_nonlinear()
    path = write_checkpoint(network, tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=r"spat_kernel_size=\(7, 5\), rank=2.*load_state_dict.*load_model\(model\)"):
        ml.load_model(path, allow_unpickling=True)
    made = linear_nonlinear()
    made.load_state_dict(torch.load(path, weights_only=False)["state_dict"])
    model = ml.load_model(made)
    stimulus = torch.randn(model.stimulus_shape(20))
    assert model.stimulus_shape(20) == (1, 2, 20, 7, 5)
    assert (model.stimulus_format.frames_lost, model.neurons_per_session) == (5, {"": 1})
    torch.testing.assert_close(model(stimulus), network(stimulus))
    with pytest.raises(ValueError, match="SingleCellSeparatedLNP has none"):
        ml.load_model(linear_nonlinear(), centred_readouts=True)


def test_what_has_no_neurons_or_does_not_say_how_it_was_made_is_refused(tmp_path):
    path = write_checkpoint(Autoencoder(4, 8, SparsityMSELoss(0.1)), tmp_path / "autoencoder.ckpt")
    with pytest.raises(ValueError, match="Autoencoder of a layer's activations"):
        ml.load_model(path, allow_unpickling=True)
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"does not say how its model was made.*load_model\(model\)"):
        ml.load_model(tmp_path / "other.ckpt", allow_unpickling=True)
