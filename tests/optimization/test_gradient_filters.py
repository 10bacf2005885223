"""Gradients that are smoothed before each step."""

import re

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import assert_same_meis, find, fit, linear_model, video_model
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

import mei_lightning as ml

NEURONS = [("monday", 0), ("tuesday", 2), ("monday", 3)]
OPTIONS = {"time_steps": 8, "norm": 3.0, "max_steps": 5, "fast_path": False}
BLUR = ml.GradientBlur(space=0.7, time=1.2)

sigmas = st.just(0.0) | st.floats(0.2, 6.0)


@st.composite
def gradients(draw):
    shape = tuple(draw(st.integers(1, largest)) for largest in (3, 2, 7, 5, 4))
    return np.random.default_rng(draw(st.integers(0, 2**32 - 1))).standard_normal(shape)


def by_scipy(gradient, space, time):
    return gaussian_filter(gradient, (0, 0, time, space, space), mode="reflect")


@given(gradient=gradients(), space=sigmas, time=sigmas)
def test_a_gradient_is_smoothed_as_scipy_does(gradient, space, time):
    found = ml.GradientBlur(space, time)(torch.from_numpy(gradient)).numpy()
    np.testing.assert_allclose(found, by_scipy(gradient, space, time), atol=1e-12)


@given(gradient=gradients(), space=st.floats(0.2, 2), time=st.floats(0.2, 2))
def test_a_small_step_along_it_raises_the_value(gradient, space, time):
    smoothed = ml.GradientBlur(space, time)(torch.from_numpy(gradient)).numpy()
    # Truncation at 4 standard deviations leaves a share of 6e-5.
    assert (smoothed * gradient).sum() > -1e-3 * (gradient**2).sum()


@given(gradient=gradients())
def test_a_row_does_not_know_its_neighbours(gradient):
    rows = torch.from_numpy(gradient).float()
    alone = torch.cat([BLUR(row[None]) for row in rows])
    torch.testing.assert_close(BLUR(rows), alone, rtol=1e-6, atol=1e-6)


def test_a_step_follows_the_smoothed_gradient():
    kernel = torch.randn(2, 2, 6, 5, 4, generator=torch.Generator().manual_seed(0))
    start = torch.randn(2, 2, 6, 5, 4, generator=torch.Generator().manual_seed(1))

    def score(stimulus):
        return (kernel * stimulus).flatten(1).sum(1) + 0.1 * stimulus.pow(3).flatten(1).sum(1)

    module = ml.StimulusModule(
        score, start, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.5), gradient_filter=BLUR
    )
    fit(module, 1)
    gradient = (kernel + 0.3 * start**2).numpy()
    expected = start.numpy() + 0.5 * by_scipy(gradient, BLUR.space, BLUR.time)
    np.testing.assert_allclose(module.stimulus.detach().numpy(), expected, atol=1e-5)


def test_stimuli_of_linear_neurons_go_towards_their_smoothed_kernels():
    kernels, start = torch.randn(2, 3, 2, 4, 6, 5, generator=torch.Generator().manual_seed(0))
    module = ml.StimulusModule(
        lambda stimulus: (kernels[: len(stimulus)] * stimulus).flatten(1).sum(1),
        start,
        constraint=ml.FixedNorm(2.0),
        gradient_filter=BLUR,
    )
    fit(module, 40)
    expected = by_scipy(kernels.numpy(), BLUR.space, BLUR.time)
    expected *= 2.0 / np.linalg.norm(expected.reshape(3, -1), axis=1).reshape(-1, 1, 1, 1, 1)
    np.testing.assert_allclose(module.stimulus.detach().numpy(), expected, atol=1e-4)


def test_without_a_width_nothing_changes():
    plain = find(video_model(), NEURONS, **OPTIONS)
    blurred = find(video_model(), NEURONS, gradient_filter=ml.GradientBlur(), **OPTIONS)
    xr.testing.assert_identical(plain.drop_attrs(deep=False), blurred.drop_attrs(deep=False))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer": lambda parameters: torch.optim.Adam(parameters, lr=0.05)},
        {"parameterization": ml.LowRank(2)},
        {"robustness": [ml.Jitter(1)], "regularizer": ml.SpatialSmoothness(0.01)},
    ],
    ids=["default", "Adam", "parameterization", "robustness"],
)
def test_neurons_that_take_turns_have_the_meis_that_they_have_alone(options):
    settings = {**OPTIONS, **options, "gradient_filter": BLUR}
    together = find(video_model(), NEURONS, rows_per_device=4, **settings)
    alone = [find(video_model(), [neuron], **settings) for neuron in NEURONS]
    assert_same_meis(together, xr.concat(alone, dim="neuron"))
    assert not np.allclose(together["stimulus"], find(video_model(), NEURONS, **OPTIONS, **options)["stimulus"])


def test_stimuli_have_less_fine_structure():
    filters = None, ml.GradientBlur(0.6), ml.GradientBlur(1.2)
    found = [find(linear_model(), [0, 1], time_steps=4, norm=2.0, gradient_filter=blur) for blur in filters]
    rough = [float((meis["stimulus"].diff("x") ** 2).sum()) for meis in found]
    assert rough == sorted(rough, reverse=True)
    scores = [float(meis["score"].sum()) for meis in found]
    assert scores == sorted(scores, reverse=True)


def test_it_is_recorded_and_another_one_is_refused(tmp_path):
    options = {**OPTIONS, "directory": tmp_path, "search": "quick"}
    first = find(video_model(), NEURONS, gradient_filter=BLUR, **options).load()
    again = find(video_model(), NEURONS, gradient_filter=ml.GradientBlur(0.7, 1.2), **options)
    xr.testing.assert_identical(first, again.load())
    with pytest.raises(ValueError, match=r"gradient_filter\.space"):
        find(video_model(), NEURONS, gradient_filter=ml.GradientBlur(0.8, 1.2), **options)
    with pytest.raises(ValueError, match="gradient_filter: it was GradientBlur"):
        find(video_model(), NEURONS, **options)
    assert "gradient_filter" not in ml.MEIModule(video_model(), NEURONS, time_steps=8).problem.configuration


class Halved(ml.GradientFilter):
    """One of the user's own, which leaves out half of the pixels."""

    def __call__(self, gradient):
        return gradient * (torch.arange(gradient.shape[-1]) % 2)


def test_a_filter_of_ones_own():
    module = ml.StimulusModule(lambda x: x.flatten(1).sum(1), torch.zeros(1, 1, 2, 3, 4), gradient_filter=Halved())
    fit(module, 1)
    moved = module.stimulus.detach()[..., 1::2]
    assert (moved > 0).all()
    assert not module.stimulus.detach()[..., ::2].any()
    with pytest.raises(NotImplementedError, match="does not say what becomes of gradients"):
        ml.GradientFilter()(torch.ones(1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ml.GradientBlur(-1), "GradientBlur(space=-1) must be a standard deviation, at least 0 and finite"),
        (lambda: ml.GradientBlur(time=np.inf), "GradientBlur(time=inf) must be"),
        (lambda: ml.GradientBlur("1"), "GradientBlur(space='1') must be"),
        (lambda: ml.MEISettings(gradient_filter=1.0), "gradient_filter: 1.0 is not a GradientFilter"),
        (lambda: ml.MEISettings(gradient_filter=ml.GradientBlur), "gradient_filter=GradientBlur is a class"),
        (
            lambda: ml.StimulusModule(torch.sum, torch.ones(1, 2, 8, 6, 5), gradient_filter=3),
            "gradient_filter: 3 is not a GradientFilter. Give gradient_filter=GradientBlur(space=1.0)",
        ),
    ],
)
def test_slips_are_refused_in_one_line(make, message):
    with pytest.raises(ml.MEIError, match=re.escape(message)) as refused:
        make()
    assert "\n" not in str(refused.value)
