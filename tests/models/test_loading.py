import sys

import pytest
import torch
from torch import nn

from mei_lightning.models.base import RetinaModel, StimulusFormat
from mei_lightning.models.digital_twin import DigitalTwin
from mei_lightning.models.loading import load_model
from mei_lightning.models.simulated import SimulatedRetina


@pytest.fixture(autouse=True)
def _no_consent_from_the_environment(monkeypatch):
    monkeypatch.delenv("MEI_LIGHTNING_ALLOW_UNPICKLING", raising=False)


@pytest.fixture
def checkpoints():
    pytest.importorskip("openretina.models.core_readout", reason="openretina is not installed")
    import openretina_checkpoints

    return openretina_checkpoints


def is_frozen(model):
    return not model.training and not any(parameter.requires_grad for parameter in model.parameters())


@torch.no_grad()
@pytest.mark.parametrize(("name", "kind"), [("simulated", SimulatedRetina), ("digital_twin", DigitalTwin)])
def test_built_in_models_by_name(name, kind):
    model = load_model(name)
    assert type(model) is kind
    assert is_frozen(model)
    session, count = next(iter(model.neurons_per_session.items()))
    stimulus = torch.randn(model.stimulus_shape(time_steps=40, num_batches=2))
    frames = 40 - model.stimulus_format.frames_lost
    assert model(stimulus, data_key=session).shape == (2, frames, count)


def test_built_in_models_need_no_openretina(monkeypatch):
    for name in {"openretina", *(name for name in sys.modules if name.startswith("openretina."))}:
        monkeypatch.setitem(sys.modules, name, None)
    assert load_model("digital_twin").neurons_per_session
    with pytest.raises(ImportError, match=r"mei-lightning\[openretina\]"):
        load_model("openretina:hoefling_2024_low_res", allow_unpickling=True)


def test_your_own_model_comes_back_as_it_is_and_frozen():
    model = RetinaModel(nn.Conv3d(1, 3, 1), StimulusFormat(("grey",), height=4, width=4, frame_rate=60.0), 3)
    model.requires_grad_(True).train()
    assert load_model(model) is model
    assert is_frozen(model)


def test_a_plain_module_is_refused_with_how_to_wrap_it():
    with pytest.raises(TypeError, match=r"Conv3d does not say.*RetinaModel\(network, StimulusFormat\("):
        load_model(nn.Conv3d(1, 1, 1))


@pytest.mark.parametrize("name", ["hoefling_2024_low_res", "digitaltwin", ""])
def test_an_unknown_name_lists_the_ways_to_name_a_model(name):
    with pytest.raises(ValueError, match=r"'simulated', 'digital_twin'.*'openretina:NAME'.*\.ckpt"):
        load_model(name, allow_unpickling=True)


def test_a_missing_checkpoint(tmp_path):
    for source in (str(tmp_path / "gone.ckpt"), tmp_path / "gone.ckpt"):
        with pytest.raises(FileNotFoundError, match=r"gone\.ckpt"):
            load_model(source, allow_unpickling=True)


@pytest.mark.parametrize("name", ["simulated", "digital_twin"])
def test_only_openretina_models_are_centred(name):
    for model in (name, load_model(name)):
        with pytest.raises(ValueError, match="centred_readouts=False"):
            load_model(model, centred_readouts=True)


@torch.no_grad()
def test_openretina_checkpoint_by_path(checkpoints, tmp_path):
    path = checkpoints.write_example_checkpoint(tmp_path / "mine.ckpt")
    with pytest.raises(PermissionError, match="allow_unpickling=True"):
        load_model(path)
    network = checkpoints.example_core_readout()
    for source in (path, str(path), f"openretina:{path}"):
        model = load_model(source, allow_unpickling=True)
        assert is_frozen(model)
        stimulus = torch.randn(model.stimulus_shape(time_steps=40, num_batches=2))
        for session in checkpoints.SESSIONS:
            expected = network(stimulus, data_key=session)
            torch.testing.assert_close(model(stimulus, data_key=session), expected, rtol=1e-5, atol=1e-6)
    centred = load_model(path, allow_unpickling=True, centred_readouts=True)
    assert all(readout.mask_mean.abs().max() == 0 for readout in centred.network.readout.values())


def test_openretina_hub_name(checkpoints, tmp_path):
    with pytest.raises(PermissionError, match="hoefling_2024_low_res"):
        load_model("openretina:hoefling_2024_low_res")
    with pytest.raises(ValueError, match=r"'nobody_2024'.*hoefling_2024_low_res"):
        load_model("openretina:nobody_2024", allow_unpickling=True)


def test_openretina_module_in_memory_is_wrapped_without_consent(checkpoints):
    network = checkpoints.unified_core_readout()
    model = load_model(network)
    assert model.network is network
    assert is_frozen(model)
    assert model.stimulus_format.frames_lost == 30
    centred = load_model(network, centred_readouts=True)
    assert centred.network is not network
