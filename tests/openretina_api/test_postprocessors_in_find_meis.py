"""openretina's postprocessors and costs, those of its package and of our room, in ``find_meis``."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import assert_same_meis, find, linear_model, video_model

import mei_lightning as ml
from mei_lightning import openretina_api

NEURONS = [("monday", 0), ("tuesday", 1), ("monday", 3)]
FREE = [(None, None), (None, None)]
RANGES = [(-0.2, 0.1), (-0.1, 0.3)]
SHORT = {"time_steps": 6, "restarts": 2, "max_steps": 12}


@pytest.fixture(params=["openretina's", "ours"])
def names(request):
    if request.param == "ours":
        return openretina_api
    theirs = pytest.importorskip(
        "openretina.insilico.stimulus_optimization.regularizer", reason="openretina is not installed"
    )
    return SimpleNamespace(**vars(theirs))


def derived(names):
    """A postprocessor and a cost that take all rows for one."""

    class WholeNorm(names.StimulusPostprocessor):
        def process(self, x):
            x *= 5.0 / x.norm()
            return x

    class WholeSize(names.StimulusRegularizationLoss):
        def forward(self, stimulus):
            return 0.02 * stimulus.norm() ** 2

    return WholeNorm(), WholeSize()


@pytest.mark.parametrize("way", ["theirs", "a list", "of one's own"])
def test_the_mei_of_a_linear_neuron_is_its_kernel_at_the_norm(names, way):
    clipper = names.ChangeNormJointlyClipRangeSeparately(FREE, 5.0)
    constraint = {
        "theirs": clipper,
        "a list": [names.StimulusPostprocessor(), clipper],
        "of one's own": derived(names)[0],
    }[way]
    model = linear_model()
    meis = find(model, [0, 1, 2], time_steps=4, constraint=constraint)
    kernels = model.network.kernels.detach()
    expected = 5.0 * kernels / kernels.flatten(1).norm(dim=1)[:, None, None, None, None]
    np.testing.assert_allclose(meis["stimulus"], expected, atol=1e-3)


@pytest.mark.slow
def test_rows_do_not_know_of_each_other(names):
    constraint, cost = derived(names)
    settings = {**SHORT, "constraint": constraint, "regularizer": [cost, ml.TemporalSmoothness()]}
    together = find(video_model(), NEURONS, **settings)
    for neuron in NEURONS:
        alone = find(video_model(), [neuron], **settings)
        assert_same_meis(alone, together.sel(neuron=alone["neuron"]))
    assert np.square(together["stimulus"]).sum(("channel", "time", "y", "x")).values == pytest.approx(25.0, rel=1e-4)


def test_ranges_are_kept_to_and_told(names):
    lowpass = names.TemporalGaussianLowPassFilterProcessor(1.0, 5)
    clipper = names.ChangeNormJointlyClipRangeSeparately(RANGES, 2.0)
    meis = find(video_model(), NEURONS[:1], **SHORT, constraint=[lowpass, clipper])
    for channel, (low, high) in enumerate(RANGES):
        values = meis["stimulus"].isel(channel=channel)
        assert values.min() >= low - 1e-6
        assert values.max() <= high + 1e-6
    ranges = ml.MEIProblem(video_model(), NEURONS[:1], ml.MEISettings(constraint=clipper)).space.constraint
    assert list(ranges.channel_ranges()) == RANGES


@pytest.mark.slow
def test_costs_are_those_of_our_own_regularizers(names):
    theirs = names.RangeRegularizationLoss(RANGES, None, factor=0.3)
    found = [
        find(video_model(), NEURONS[:2], **SHORT, norm=4.0, regularizer=cost)
        for cost in (theirs, [theirs], ml.RangePenalty(RANGES, 0.3))
    ]
    assert_same_meis(found[0], found[2])
    assert_same_meis(found[1], found[2])
    assert not np.allclose(found[0]["score"], find(video_model(), NEURONS[:2], **SHORT, norm=4.0)["score"], rtol=1e-3)


def test_other_settings_are_another_run(names, tmp_path):
    def call(sigma, factor):
        find(
            video_model(),
            NEURONS[:1],
            **SHORT,
            directory=tmp_path,
            constraint=[
                names.TemporalGaussianLowPassFilterProcessor(sigma, 5),
                names.ChangeNormJointlyClipRangeSeparately(RANGES, 2.0),
            ],
            regularizer=names.RangeRegularizationLoss(RANGES, None, factor),
        )

    call(1.0, 0.3)
    call(1.0, 0.3)
    with pytest.raises(ml.MEIError, match="constraint"):
        call(1.5, 0.3)
    with pytest.raises(ml.MEIError, match="factor"):
        call(1.0, 0.4)


class Processes:
    def __init__(self, process):
        self.process = process


class Costs:
    def forward(self, stimulus):
        return stimulus.sum((1, 2, 3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"constraint": Processes(lambda x: x[:, :1])},
            r"makes \(1, 1, 6, 6, 5\) of a stimulus",
        ),
        ({"constraint": Processes(lambda x: None)}, "makes NoneType of a stimulus"),
        ({"constraint": Processes(lambda x: x + torch.rand_like(x))}, r"robustness=\[Noise"),
        ({"constraint": Processes(lambda x: x / 0)}, "are not finite"),
        ({"constraint": Processes(lambda x: x @ x)}, "Processes.process fails .* with RuntimeError: .*Mend it"),
        ({"constraint": Processes}, "constraint: a value of type type is not a Constraint"),
        ({"constraint": []}, "no constraints"),
        (
            {"constraint": [openretina_api.ChangeNormJointlyClipRangeSeparately(FREE, 5.0), ml.TemporalLowPass(1.0)]},
            "would undo it. Put the norm and range last",
        ),
        ({"regularizer": Costs()}, "Costs.forward gives no number"),
        ({"regularizer": Costs}, "is not a Regularizer"),
    ],
)
def test_what_cannot_be_a_constraint_or_a_cost_is_said_before_any_step(settings, message):
    def step(*_):
        raise AssertionError("A step has been taken.")

    callback = ml.TimeLimit()
    callback.on_train_batch_end = step
    with pytest.raises(ml.MEIError, match=message):
        find(video_model(), NEURONS[:1], time_steps=6, callbacks=[callback], **settings)
