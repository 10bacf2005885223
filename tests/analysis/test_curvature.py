"""The curvature at MEIs, against neurons for which it is known in closed form."""

import math

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import STILL_FORMAT, find, linear_model, still_model, video_model
from torch import nn
from torch.nn import functional as F

import mei_lightning as ml

FORMAT = ml.StimulusFormat(("green", "UV"), height=4, width=3, frame_rate=30.0, frames_lost=4)
SHAPE = (2, 5, 4, 3)
SIZE = math.prod(SHAPE)
ANGLE = math.radians(30)
ONE_PERCENT = 0.01


def measured(model, meis, **options):
    return ml.mei_curvature(model, meis, accelerator="cpu", progress_bar=False, **options)


class OfPixels(nn.Module):
    """A function of a flat stimulus ``[rows, n]`` as a single neuron."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, stimulus):
        return self.function(stimulus.flatten(1))[:, None, None]


def at(function, stimuli, **options):
    """A neuron, and a dataset in which its MEIs are these stimuli ``[neurons, n]``."""
    model = ml.RetinaModel(OfPixels(function), FORMAT, len(stimuli))
    model.network.forward = lambda stimulus: function(stimulus.flatten(1))[:, None, None].expand(-1, 1, len(stimuli))
    norm = stimuli[0].norm().item()
    meis = find(model, range(len(stimuli)), time_steps=5, max_steps=1, restarts=1, **{"norm": norm, **options})
    return model, meis.assign(stimulus=(meis.stimulus.dims, stimuli.reshape(-1, *SHAPE).numpy()))


def unit_vectors(count, seed=0):
    return torch.linalg.qr(torch.randn(SIZE, count, generator=torch.Generator().manual_seed(seed))).Q.T


def quadratic_cell(norm, linear):
    """``x' A x / 2 + b' x`` with few different eigenvalues of A, and its stimulus of a norm with the largest value."""
    values = torch.tensor([1.0, 0.9, 0.85, 0.3, -0.6]).double()
    vectors = unit_vectors(5).double()
    matrix = vectors.T * values @ vectors
    kernel = linear * unit_vectors(7, seed=1)[6].double()

    def best(multiple):
        return torch.linalg.solve(multiple * torch.eye(SIZE).double() - matrix, kernel)

    if linear == 0:
        return matrix, kernel, norm * vectors[0]
    low, high = 1.0, 100.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if best(middle).norm() > norm else (low, middle)
    return matrix, kernel, best(low)


@pytest.mark.parametrize("linear", [0.0, 0.5, 5.0])
def test_a_quadratic_neuron(linear):
    norm = 3.0
    matrix, kernel, stimulus = quadratic_cell(norm, linear)
    response = (stimulus @ matrix @ stimulus / 2 + kernel @ stimulus).item()
    model, meis = at(
        lambda shown: ((shown @ matrix.float()) * shown).sum(1) / 2 + shown @ kernel.float(), stimulus.float()[None]
    )
    found = measured(model, meis, directions=7).isel(neuron=0)

    axis = stimulus / norm
    tangent = torch.eye(SIZE).double() - torch.outer(axis, axis)
    bends, vectors = torch.linalg.eigh(tangent @ matrix @ tangent)
    slope = (stimulus @ (matrix @ stimulus + kernel)).item()
    curvatures = (slope - norm**2 * bends.numpy()) / response
    assert found.linear_curvature.item() == pytest.approx(slope / response, rel=ONE_PERCENT)
    assert found.lowest_curvature.item() == pytest.approx(curvatures.min(), rel=ONE_PERCENT)
    assert found.highest_curvature.item() == pytest.approx(curvatures.max(), rel=ONE_PERCENT)
    # All that are found are there.
    assert np.abs(found.curvature.values[:, None] - curvatures).min(axis=1).max() < ONE_PERCENT
    assert found.curvature_error.max() < ONE_PERCENT

    for name, true in (("least_determined", vectors[:, -1]), ("most_determined", vectors[:, 0])):
        direction = torch.from_numpy(found[name].values).flatten().double()
        assert direction.norm().item() == pytest.approx(norm, rel=1e-4)
        assert abs(direction @ true).item() == pytest.approx(norm, rel=ONE_PERCENT)
    # The same directions, walked along.
    fall = (slope - norm**2 * bends[-1].item()) / 2 * math.sin(ANGLE) ** 2 + kernel @ stimulus * (
        (1 - math.cos(ANGLE)) - math.sin(ANGLE) ** 2 / 2
    )
    middle = found.turned_response.values[0].mean()
    assert 1 - middle == pytest.approx(fall.item() / response, rel=ONE_PERCENT)
    contribution = (stimulus * (matrix @ stimulus / 2 + kernel)).reshape(SHAPE)
    np.testing.assert_allclose(found.contribution_in_space, contribution.sum(1), atol=1e-4)
    np.testing.assert_allclose(found.contribution_in_time, contribution.sum((2, 3)), atol=1e-4)


@pytest.mark.parametrize("bias", [-2.0, 0.0, 3.0])
def test_a_linear_nonlinear_neuron_is_determined_alike_in_all_directions(bias):
    kernel = 0.7 * unit_vectors(1)[0]
    stimulus = 6 * kernel / kernel.norm()
    model, meis = at(lambda shown: F.softplus(shown @ kernel + bias), stimulus[None])
    found = measured(model, meis).isel(neuron=0)
    drive = torch.tensor(6 * 0.7)
    response = F.softplus(drive + bias)
    np.testing.assert_allclose(found.curvature, torch.sigmoid(drive + bias) * drive / response, rtol=ONE_PERCENT)
    turned = F.softplus(drive * math.cos(ANGLE) + bias) / response
    np.testing.assert_allclose(found.turned_response, turned, rtol=1e-4)
    assert found.free_directions.item() == (6 if turned >= 0.95 else 0)
    contribution = (stimulus * kernel).reshape(SHAPE) * (response - F.softplus(torch.tensor(bias))) / drive
    np.testing.assert_allclose(found.contribution_in_space, contribution.sum(1), rtol=ONE_PERCENT, atol=1e-5)
    np.testing.assert_allclose(found.contribution_in_time, contribution.sum((2, 3)), rtol=ONE_PERCENT, atol=1e-5)


def test_a_saturated_neuron_is_not_determined():
    kernel = unit_vectors(1)[0]
    model, meis = at(lambda shown: torch.tanh(shown @ kernel), 2.5 * kernel[None])
    found = measured(model, meis, directions=4).isel(neuron=0)
    assert found.linear_curvature.item() == pytest.approx(2.5 / math.cosh(2.5) ** 2 / math.tanh(2.5), rel=ONE_PERCENT)
    assert found.free_directions.item() == 4
    assert found.free_share.item() == pytest.approx(1)


@pytest.mark.parametrize("number", [2, 3])
def test_an_energy_model_is_free_to_change_its_phase(number):
    filters = unit_vectors(number)
    model, meis = at(lambda shown: (shown @ filters.T).square().sum(1), 4 * filters[:1])
    found = measured(model, meis, directions=number + 2).isel(neuron=0)
    # Of several equal ones, directions from one random vector meet but one, and then those from further ones.
    assert found.free_directions.item() >= 1
    assert found.lowest_curvature.item() == pytest.approx(0, abs=1e-3)
    assert found.highest_curvature.item() == pytest.approx(2, rel=ONE_PERCENT)
    np.testing.assert_allclose(found.turned_response[0], 1, rtol=1e-4)
    phase = found.least_determined.values.flatten() / 4
    assert np.linalg.norm(filters[1:].numpy() @ phase) == pytest.approx(1, abs=1e-3)


def test_rectifiers_bend_although_their_second_derivatives_are_zero():
    filters, spacing, bend = unit_vectors(2), 5e-4, 1.0
    thresholds = (torch.arange(1000) + 0.5) * spacing

    def response(shown):
        drive = shown @ filters[1]
        rectified = F.relu(drive.abs()[:, None] - thresholds)
        return shown @ filters[0] - bend * spacing * rectified.sum(1)

    # Near 0 the sum is nearly the parabola drive^2 / 2.
    model, meis = at(response, 3 * filters[:1])
    found = measured(model, meis, directions=3).isel(neuron=0)
    assert found.highest_curvature.item() == pytest.approx((3 + 9 * bend) / 3, rel=ONE_PERCENT)
    cosine = np.dot(found.most_determined.values.flatten() / 3, filters[1].numpy())
    assert abs(cosine) == pytest.approx(1, abs=ONE_PERCENT)


def test_entries_at_a_limit_stay_there():
    model, ranges = linear_model(neurons=2), [(-0.4, 0.7), (None, 0.5)]
    meis = find(model, [0, 1], time_steps=4, ranges=ranges, norm=6.0)
    found = measured(model, meis, directions=3)
    for number in range(2):
        stimulus, kernel = meis.stimulus.values[number], model.network.kernels[number].numpy()
        limits = np.array([[-0.4, 0.7], [-np.inf, 0.5]], dtype=np.float32)[:, :, None, None, None]
        held = (stimulus <= limits[:, 0]) | (stimulus >= limits[:, 1])
        assert 0.1 < held.mean() < 0.9
        inside = np.square(stimulus[~held]).sum()
        multiple = (kernel * stimulus)[~held].sum() / inside
        response = (kernel * stimulus).sum()
        np.testing.assert_allclose(found.curvature[number], multiple * 36 / response, rtol=ONE_PERCENT)
        fall = multiple * 36 * (1 - math.cos(ANGLE)) / response
        np.testing.assert_allclose(1 - found.turned_response[number], fall, rtol=ONE_PERCENT)
        assert not found.least_determined.values[number][held].any()


def test_a_mask_has_to_be_given_and_freezes():
    model, mask = linear_model(neurons=1), torch.ones(2, 1, 6, 5)
    mask[:, :, :2] = 0
    meis = find(model, [0], time_steps=4, mask=mask, norm=5.0)
    with pytest.raises(ValueError, match=r"were found with a mask.*mask="):
        measured(model, meis)
    found = measured(model, meis, mask=mask, directions=2)
    np.testing.assert_allclose(found.curvature, 1, rtol=ONE_PERCENT)
    assert not found.most_determined[..., :2, :].any()
    assert np.linalg.norm(found.most_determined) == pytest.approx(5, rel=1e-4)


def test_what_cannot_turn_has_no_curvature():
    kernel = torch.zeros(SIZE)
    kernel[:3] = torch.tensor([1.0, 2.0, -1.0])
    mask = torch.zeros(SIZE)
    mask[:3] = 1
    model, meis = at(lambda shown: shown @ kernel, 2 * kernel[None] / kernel.norm(), mask=mask.reshape(SHAPE), norm=2.0)
    found = measured(model, meis, mask=mask.reshape(SHAPE).numpy(), directions=4).isel(neuron=0)
    # Three free pixels on a sphere: two directions.
    np.testing.assert_allclose(found.curvature[:2], 1, rtol=ONE_PERCENT)
    assert found.curvature[2:].isnull().all()
    assert found.turned_response[2:].isnull().all()
    assert found.free_directions.item() == 0
    assert np.isfinite(found.most_determined).all()


def test_too_few_free_entries_to_turn_the_stimulus():
    kernel = torch.ones(SIZE) + 0.01 * unit_vectors(1)[0]
    kernel[:4] = 0.05
    stimulus = torch.full((1, SIZE), 0.5)
    stimulus[:, :4] = 0.1
    model, meis = at(lambda shown: shown @ kernel, stimulus, ranges=(-0.5, 0.5))
    found = measured(model, meis, directions=2).isel(neuron=0)
    assert np.isfinite(found.curvature).all()
    assert found.turned_response.isnull().all()
    assert np.isnan(found.free_directions)


def test_neurons_without_an_mei_or_a_response():
    model = video_model()
    meis = find(model, [("monday", 0), ("tuesday", 1), ("tuesday", 2)], time_steps=6, max_steps=4, restarts=1)
    whole = measured(model, meis, directions=3)
    meis.stimulus[0], meis.score[0], meis.status[0] = np.nan, np.nan, "pending"
    found = measured(model, meis, directions=3)
    for name in found.data_vars:
        assert found[name][0].isnull().all(), name
        # A neuron's values do not depend on the others.
        np.testing.assert_allclose(found[name][1:], whole[name][1:], rtol=1e-3, atol=1e-4, err_msg=name)
    negative = ml.RetinaModel(OfPixels(lambda shown: -1 - shown.square().sum(1)), FORMAT, 1)
    meis = find(negative, [0], time_steps=5, max_steps=2, norm=1.0, restarts=1)
    assert measured(negative, meis, directions=2).curvature.isnull().all()
    with pytest.raises(ValueError, match="at least one MEI that is done"):
        measured(negative, meis.assign(score=meis.score * np.nan))


def test_turned_responses_are_those_of_the_model():
    model = video_model()
    meis = find(model, [("monday", 3)], time_steps=6, norm=8.0)
    found = measured(model, meis, directions=4)
    assert (np.diff(found.curvature) >= 0).all()
    for name, number in (("least_determined", 0), ("most_determined", 3)):
        for place, angle in enumerate(found.angle.values):
            turn = np.deg2rad(angle)
            turned = np.cos(turn) * meis.stimulus + np.sin(turn) * found[name]
            assert np.linalg.norm(turned) == pytest.approx(8, rel=1e-4)
            response = model(torch.from_numpy(turned.values).float(), data_key="monday")[0, :, 3].mean()
            share = found.turned_response[0, number, place].item()
            assert response.item() / meis.score.item() == pytest.approx(share, rel=1e-3)


CALLS = []
"""Whether a gradient was asked for, in each call of ``Counting`` or a copy of it."""


class Counting(nn.Module):
    def forward(self, image):
        CALLS.append(image.requires_grad)
        return image.flatten(1)[:, :1]


def test_each_direction_takes_two_gradients_and_two_responses():
    model = ml.RetinaModel(Counting(), STILL_FORMAT, 1)
    meis = find(model, [0], max_steps=4, restarts=1)
    counts = []
    for directions in (2, 5):
        CALLS.clear()
        measured(model, meis, directions=directions)
        counts.append((CALLS.count(True), CALLS.count(False)))
    assert [more - fewer for fewer, more in zip(*counts, strict=True)] == [6, 6]


def test_the_simulated_retina_is_as_it_was_made(simulated):
    """An LN cell is linear at its MEI; the motion energy of a direction-selective cell does not depend on phase."""
    meis = find(simulated, [("session_1", 0), ("session_1", 5)], search="quick", max_steps=40)
    found = measured(simulated, meis)
    assert found.type.values.tolist() == ["on_sustained", "direction_selective"]
    assert found.free_directions.values[0] == 0
    assert np.ptp(found.curvature.values[0]) < ONE_PERCENT
    assert found.free_directions.values[1] >= 1
    assert abs(found.lowest_curvature[1]) < 0.03
    np.testing.assert_allclose(found.turned_response[1, 0], 1, atol=0.01)
    grey = simulated(torch.zeros(1, 2, 40, 18, 16), data_key="session_1").mean(dim=1)[0, [0, 5]]
    above_grey = meis.score - grey.numpy()
    np.testing.assert_allclose(found.contribution_in_space.sum(("channel", "y", "x")), above_grey, rtol=0.02)
    np.testing.assert_allclose(found.contribution_in_time.sum(("channel", "time")), above_grey, rtol=0.02)


def test_wrong_arguments_are_refused():
    model = still_model()
    meis = find(model, [0], max_steps=2, restarts=1)
    with pytest.raises(ValueError, match="directions=0"):
        measured(model, meis, directions=0)
    with pytest.raises(TypeError, match="directions"):
        measured(model, meis, directions=2.5)
    assert isinstance(measured(model, meis, directions=1), xr.Dataset)
