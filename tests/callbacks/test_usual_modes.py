"""Whatever PyTorch is told to do by the caller: results are the same, and the mode is as it was afterwards."""

import numpy as np
import pytest
import torch
from conftest import StillNetwork, assert_same_meis, find, fit, still_model
from lightning.pytorch import LightningModule, Trainer
from torch import nn

import mei_lightning as ml

MODES = {
    "inference": torch.inference_mode,
    "no gradients": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast to float16": lambda: torch.autocast("cpu", torch.float16),
}
OPTIONS = {"norm": 3.0, "max_steps": 4}


def modes():
    return torch.is_inference_mode_enabled(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")


@pytest.fixture(scope="module")
def expected():
    return find(still_model(), [0, 3], **OPTIONS)


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_meis_are_the_same_in_any_mode(mode, expected):
    model = still_model()
    with mode():
        before = modes()
        meis = find(model, [0, 3], **OPTIONS)
        assert modes() == before
        with pytest.raises(ValueError, match="norm"):
            find(model, [0], norm=-1.0)
        assert modes() == before
    assert_same_meis(meis, expected, 0)
    assert not any(values.is_inference() for values in model.parameters())


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_so_are_those_of_a_trainer_and_what_is_made_of_them(mode, expected):
    model = still_model()
    shown = torch.from_numpy(expected["stimulus"].values)
    with mode():
        module = ml.MEIModule(model, [0, 3], **OPTIONS)
        before = modes()
        fit(module, -1, ml.RowConvergence())
        assert modes() == before
        stimulus = module.meis()["stimulus"].values
        field = ml.find_receptive_fields(model, [0, 3], at=shown)["stimulus"].values
        crossed = ml.cross_responses(model, expected, progress_bar=False).values
    np.testing.assert_array_equal(stimulus, expected["stimulus"].values)
    np.testing.assert_array_equal(field, ml.find_receptive_fields(model, [0, 3], at=shown)["stimulus"].values)
    np.testing.assert_array_equal(crossed, ml.cross_responses(model, expected, progress_bar=False).values)


class Validated(LightningModule):
    """A network whose MEIs are found each time that it is validated."""

    def __init__(self):
        super().__init__()
        self.network = StillNetwork()
        self.modes, self.found = [], []

    def val_dataloader(self):
        return [torch.zeros(1)]

    def validation_step(self, batch):
        before = modes()
        model = ml.RetinaModel(self.network, still_model().stimulus_format, 5)
        self.found.append(find(model, [0, 3], **OPTIONS))
        self.modes.append((before, modes()))


@pytest.mark.parametrize("inference", [True, False])
def test_meis_can_be_found_in_a_validation(inference, expected, tmp_path):
    module = Validated()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "accelerator": "cpu"}
    Trainer(inference_mode=inference, default_root_dir=tmp_path, **quiet).validate(module, verbose=False)
    assert_same_meis(module.found[0], expected, 0)
    ((before, after),) = module.modes
    assert before == after == (inference, False, False)


def test_weights_that_were_made_for_inference_are_refused():
    with torch.inference_mode():
        network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    model = ml.RetinaModel(network, ml.StimulusFormat(("grey",), 3, 4), 3)
    with pytest.raises(ValueError, match=r"made under torch.inference_mode\(\): make or load it outside of that"):
        find(model, [0], **OPTIONS)


def test_a_model_may_be_loaded_for_inference():
    with torch.inference_mode():
        assert not any(values.is_inference() for values in ml.load_model("simulated").state_dict().values())
