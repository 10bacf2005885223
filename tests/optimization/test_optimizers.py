from functools import partial

import numpy as np
import pytest
import torch
from conftest import find, fit, linear_model, still_model, video_model
from hypothesis import given, settings
from hypothesis import strategies as st

import mei_lightning as ml
from mei_lightning.starting_points.seeded_noise import default_norm


def ascend_by_hand(stimulus, gradient_of, project, start, smallest, taken):
    """The documented rule, one row and one step at a time, in numpy."""
    rows = []
    for row in stimulus.double().numpy():
        length, before = start, None
        for _ in range(taken):
            gradient = gradient_of(row)
            if before is not None:
                move = row - before
                curvature = (move * move).sum() / 2 * (gradient * row).sum() / (row * row).sum()
                length *= 1.3 if (gradient * move).sum() > curvature else 0.5
                length = min(max(length, smallest), max(4.0, start))
            before = row
            row = project(row + length * np.linalg.norm(row) * gradient / np.linalg.norm(gradient))
        rows.append(row)
    return np.stack(rows)


@given(
    start=st.floats(0.01, 5),
    ratio=st.floats(0.01, 1),
    on_sphere=st.booleans(),
    taken=st.integers(1, 12),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40)
def test_steps_follow_the_rule(start, ratio, on_sphere, taken, seed):
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(3, 2, 4, generator=generator, dtype=torch.float64)
    target = torch.randn(2, 4, generator=generator, dtype=torch.float64)
    stimulus = first.clone().requires_grad_()
    optimizer = ml.AdaptivePowerMethod([stimulus], start=start, smallest=start * ratio)
    for _ in range(taken):
        optimizer.zero_grad()
        (0.5 * (stimulus - target).square().sum()).backward()
        optimizer.step()
        if on_sphere:
            stimulus.data = ml.FixedNorm(2.0)(stimulus.data[..., None, None])[..., 0, 0]
    expected = ascend_by_hand(
        first,
        lambda row: target.numpy() - row,
        lambda row: 2.0 * row / np.linalg.norm(row) if on_sphere else row,
        start,
        start * ratio,
        taken,
    )
    # The step's length is kept in float32.
    np.testing.assert_allclose(stimulus.detach().numpy(), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_steps_grow_while_the_response_rises():
    # On the unit circle, almost half a turn from the optimum.
    stimulus = torch.tensor([[-0.99, 0.14]], requires_grad=True)
    optimizer = ml.AdaptivePowerMethod([stimulus], start=0.5, smallest=0.01)
    lengths = []
    for _ in range(3):
        optimizer.zero_grad()
        (-((stimulus * torch.tensor([1.0, 0.0])) ** 3)).sum().backward()
        optimizer.step()
        stimulus.data /= stimulus.data.norm(dim=1, keepdim=True)
        lengths.append(optimizer.state[stimulus]["step"].item())
    assert lengths == pytest.approx([0.5, 0.65, 0.845])


def test_rows_that_begin_anew_step_as_new_ones_do():
    first = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))

    def steps(stimulus, optimizer, count):
        for _ in range(count):
            stimulus.grad = (stimulus.detach() - 1) ** 3
            optimizer.step()

    old = first.clone().requires_grad_()
    optimizer = ml.AdaptivePowerMethod([old])
    steps(old, optimizer, 3)
    old.data[1:3] = first[:2]
    optimizer.begin_anew(torch.tensor([False, True, True, False]))
    steps(old, optimizer, 4)
    new = first[:2].clone().requires_grad_()
    steps(new, ml.AdaptivePowerMethod([new]), 4)
    torch.testing.assert_close(old.detach()[1:3], new.detach())


def test_a_row_without_gradient_and_a_row_of_zeros():
    stimulus = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]], requires_grad=True)
    stimulus.grad = torch.tensor([[0.0, 0.0], [0.0, -2.0], [-7.0, 0.0]])
    ml.AdaptivePowerMethod([stimulus], start=0.5).step()
    # A row of zeros has no norm to be relative to; it steps in the stimulus' own units.
    torch.testing.assert_close(stimulus.detach(), torch.tensor([[3.0, 4.0], [0.0, 0.5], [1.5, 0.0]]))


def test_a_closure_is_evaluated_once_with_gradients():
    stimulus = torch.ones(2, 3, requires_grad=True)
    optimizer = ml.AdaptivePowerMethod([stimulus])
    calls = []

    def closure():
        calls.append(torch.is_grad_enabled())
        loss = -stimulus.sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == -6
    assert calls == [True]


@pytest.mark.parametrize(
    "wrong",
    [
        {"start": 0.01},
        {"smallest": 0.0},
        {"smallest": -1.0},
        {"smallest": 2.0},
        {"start": float("nan")},
        {"smallest": float("nan")},
        {"start": float("inf")},
    ],
)
def test_bad_arguments_are_refused(wrong):
    with pytest.raises(ValueError, match=r"AdaptivePowerMethod\(start=.* needs start >= smallest > 0") as caught:
        ml.AdaptivePowerMethod([torch.zeros(1, 1)], **wrong)
    for name, value in wrong.items():
        assert f"{name}={value}" in str(caught.value)


def test_linear_neurons_get_their_kernels():
    model = linear_model(neurons=3)
    meis = find(model, [0, 1, 2], time_steps=4, norm=5.0, restarts=1, max_steps=60)
    for number in range(3):
        kernel = model.network.kernels[number].numpy()
        found = meis["stimulus"].values[number]
        cosine = (found * kernel).sum() / np.linalg.norm(found) / np.linalg.norm(kernel)
        assert cosine >= 0.999
        assert meis["score"].values[number] == pytest.approx(5 * np.linalg.norm(kernel), rel=1e-3)


def test_linear_neurons_within_a_box_get_their_clipped_kernels():
    """The maximum of <k, x> with |x| = r and |x_i| <= b is clip(s * k); scipy finds s."""
    from scipy.optimize import brentq

    model = linear_model(neurons=2)
    meis = find(model, [0, 1], time_steps=4, norm=5.0, ranges=[(-0.5, 0.5)] * 2, restarts=1, max_steps=80)
    for number in range(2):
        kernel = model.network.kernels[number].double().numpy()
        scale = brentq(lambda s, k=kernel: np.linalg.norm((s * k).clip(-0.5, 0.5)) - 5.0, 1e-6, 1e6)
        best = (kernel * (scale * kernel).clip(-0.5, 0.5)).sum()
        assert 0.999 * best <= meis["score"].values[number] <= best * (1 + 1e-5)


@pytest.mark.parametrize("gain", [1e-6, 1e-3, 1e6])
def test_the_scale_of_the_responses_does_not_matter(gain):
    class Amplified(torch.nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, image):
            return gain * self.network(image)

    plain = still_model()
    amplified = ml.RetinaModel(Amplified(still_model().network), plain.stimulus_format, 5)
    one, other = (find(model, [0, 3], max_steps=30, restarts=2) for model in (plain, amplified))
    np.testing.assert_allclose(other["stimulus"], one["stimulus"], atol=1e-5)
    np.testing.assert_allclose(other["score"], gain * one["score"], rtol=1e-5)
    np.testing.assert_array_equal(other["steps"], one["steps"])


@pytest.mark.parametrize(
    "optimizer",
    [
        ml.AdaptivePowerMethod,
        partial(torch.optim.SGD, lr=1.0),
        partial(torch.optim.SGD, lr=0.3, momentum=0.9),
        partial(torch.optim.Adam, lr=0.05),
        partial(torch.optim.AdamW, lr=0.05),
        partial(torch.optim.RMSprop, lr=0.02),
    ],
    ids=["power method", "SGD", "momentum", "Adam", "AdamW", "RMSprop"],
)
@pytest.mark.parametrize("model", [video_model, still_model], ids=["video", "still"])
def test_optimizers_raise_the_score_of_every_row(model, optimizer):
    retina = model()
    neurons = [("monday", 0), ("tuesday", 2)] if retina.has_sessions else [0, 4]
    twice = [neuron for neuron in neurons for _ in range(2)]
    time_steps = 1 if retina.stimulus_format.is_still else 22
    noise = torch.randn(retina.stimulus_shape(time_steps, 4), generator=torch.Generator().manual_seed(0))
    module = ml.StimulusModule(
        ml.NeuronObjective(retina, twice, ml.MeanReducer()),
        noise,
        constraint=ml.NormAndRange(default_norm(noise.shape)),
        optimizer=optimizer,
    )
    before = module.objective(module.stimulus).detach()
    fit(module, 15)
    assert (module.best_score > before + 0.1 * before.abs()).all()
    assert (module.objective(module.stimulus) > before).all()
