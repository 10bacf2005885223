"""Networks that PyTorch has compiled, exported or checkpointed, or that work in place: they have the same MEIs."""

import numpy as np
import pytest
import torch
from conftest import assert_same_meis, find, fit
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import mei_lightning as ml

FACTS = ml.StimulusFormat(("grey",), 3, 4, 30.0, frames_lost=2)
OPTIONS = {"time_steps": 6, "norm": 2.0, "max_steps": 4}


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv3d(1, 3, (3, 3, 4))

    def forward(self, movie):
        return F.softplus(self.convolution(movie)).flatten(2).transpose(1, 2)


class Around(nn.Module):
    """A network around another one."""

    def __init__(self, part):
        super().__init__()
        self.part = part
        self.norm = nn.BatchNorm3d(1, eps=0.0)

    def forward(self, movie):
        return self.part(self.norm(movie))


class Changed(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.plain = Plain()
        self.change = forward

    def forward(self, movie):
        return self.change(self.plain, movie)


def movie():
    return torch.randn(2, 1, 6, 3, 4, generator=torch.Generator().manual_seed(0))


def exported():
    shapes = {"movie": {0: torch.export.Dim("batch", min=1, max=64)}}
    return torch.export.export(Plain().eval(), (movie(),), dynamic_shapes=shapes).module()


def in_place(plain, movie):
    return plain(movie.mul_(2.0).div_(2.0))


def in_place_after_the_convolution(plain, movie):
    features = nn.Sequential(plain.convolution)(movie).add_(1.0).sub_(1.0)
    return F.softplus(features).flatten(2).mT


class AfterCore(nn.Module):
    """What follows a part that is prepared works in place on what that puts out."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.core = nn.Sequential(nn.Conv3d(1, 3, (3, 3, 4)))

    def forward(self, movie):
        return F.softplus(self.core(movie).add_(1.0).sub_(1.0)).flatten(2).mT


NETWORKS = {
    "scripted": lambda: torch.jit.script(Plain()),
    "traced": lambda: torch.jit.trace(Plain().eval(), movie()),
    "scripted and frozen": lambda: torch.jit.freeze(torch.jit.script(Plain().eval())),
    "a scripted part": lambda: Around(torch.jit.script(Plain())),
    "exported": exported,
    "an exported part": lambda: Around(exported()),
    "checkpointed, reentrant": lambda: Changed(lambda plain, x: checkpoint(plain, x, use_reentrant=True)),
    "checkpointed": lambda: Changed(lambda plain, x: checkpoint(plain, x, use_reentrant=False)),
    "in place on the stimulus": lambda: Changed(in_place),
    "in place on features": lambda: Changed(in_place_after_the_convolution),
    "in place after a core": AfterCore,
    "compiled": lambda: torch.compile(Plain(), backend="eager"),
}


@pytest.fixture(scope="module")
def expected():
    return find(ml.RetinaModel(Plain(), FACTS, 3, name="network"), [0, 2], **OPTIONS)


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_meis_are_those_of_the_plain_network(network, expected):
    model = ml.RetinaModel(network(), FACTS, 3, name="network")
    meis = find(model, [0, 2], **OPTIONS)
    assert_same_meis(meis, expected.assign_attrs(meis.attrs), 1e-4)
    crossed = ml.cross_responses(model, expected, progress_bar=False)
    plain = ml.RetinaModel(Plain(), FACTS, 3)
    np.testing.assert_allclose(crossed, ml.cross_responses(plain, expected, progress_bar=False), rtol=1e-5)
    shown = torch.from_numpy(expected["stimulus"].values)
    fields = ml.find_receptive_fields(model, [0, 2], at=shown)["stimulus"]
    np.testing.assert_allclose(fields, ml.find_receptive_fields(plain, [0, 2], at=shown)["stimulus"], atol=1e-5)


def test_a_network_that_works_in_place_does_not_change_the_stimulus():
    model = ml.RetinaModel(Changed(lambda plain, x: plain(x.mul_(2.0))), FACTS, 3)
    shown = movie()
    model(shown)
    assert torch.equal(shown, movie())


def test_a_checkpointed_network_leaves_no_gradients():
    weight = nn.Parameter(torch.ones(()))
    plain = Plain()
    module = ml.StimulusModule(
        lambda stimuli: weight * checkpoint(plain, stimuli, use_reentrant=True)[:, :, 0].mean(1), movie()
    )
    fit(module, 3)
    assert weight.grad is None
    assert module.steps.tolist() == [3, 3]


def test_whether_a_network_is_checkpointed_is_looked_up_once_for_the_rows_of_a_selection(monkeypatch):
    """It takes a walk over the whole history of a loss, which no step has time for."""
    looked = []
    monkeypatch.setattr("mei_lightning.optimization.row_module.recomputes", lambda loss: bool(looked.append(loss)))
    module = ml.StimulusModule(lambda stimuli: Plain()(stimuli)[:, :, 0].mean(1), movie(), check_interval=2)
    fit(module, 6)
    assert module.steps.tolist() == [6, 6]
    assert len(looked) == 1


@pytest.mark.parametrize("step", ["_with_frozen_cores", "_with_fast_convolutions"])
def test_a_step_of_preparation_that_fails_is_left_out_with_a_word(step, expected, monkeypatch, caplog):
    def fails(*_):
        raise KeyError("surprise")

    monkeypatch.setattr(f"mei_lightning.acceleration.prepare.{step}", fails)
    with caplog.at_level("INFO"):
        meis = find(ml.RetinaModel(Plain(), FACTS, 3, name="network"), [0, 2], **OPTIONS)
    assert "'network' runs without a part of what makes others faster" in caplog.text
    assert "surprise" in caplog.text
    assert_same_meis(meis, expected, 1e-4)
