from functools import partial

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import find, fit, linear_model, still_model, video_model
from hypothesis import given, settings
from hypothesis import strategies as st

import mei_lightning as ml
from mei_lightning.starting_points.seeded_noise import default_norm


def ascend_by_hand(stimulus, gradient_of, project, start, smallest, taken):
    """The documented rule, one row and one step at a time, in numpy."""
    rows = []
    for row in stimulus.double().numpy():
        length, before, momentum = start, None, 0.0
        for step in range(taken):
            gradient = gradient_of(row)
            old, move = length, 0.0
            if before is not None:
                move = row - before
                curvature = (move * move).sum() / 2 * (gradient * row).sum() / (row * row).sum()
                rises = (gradient * move).sum() > curvature
                length *= (1.0 if rises else 0.9) if momentum else (1.3 if rises else 0.5)
                length = max(min(length, max(4.0, start)), smallest / 4 if momentum else smallest)
            kept = momentum * length / old
            if smallest >= 0.02 and step == 6 and np.linalg.norm(move) > 0.4 * np.linalg.norm(row) * old / (1 + old):
                straight = abs((gradient * move).sum()) >= 0.8 * np.linalg.norm(gradient) * np.linalg.norm(move)
                length, momentum = (length, 0.0) if straight else (start, 0.9)
            # As the optimizer keeps it: a row that is slow to leave the worst place multiplies what rounding does.
            length = float(np.float32(length))
            before = row
            ahead = (1 - momentum) * length * np.linalg.norm(row) * gradient / np.linalg.norm(gradient)
            row = project(row + ahead + kept * move)
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


def rugged_gradient(rows):
    """Of the sum of ``cos(x) + cos(17 x) / 4``: a broad maximum at 0, and small ones around it."""
    return -rows.sin() - 17 / 4 * (17 * rows).sin()


def test_rows_that_have_not_settled_go_on_with_momentum():
    first = torch.randn(8, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    stimulus = first.clone().requires_grad_()
    optimizer = ml.AdaptivePowerMethod([stimulus])
    ages = []
    for _ in range(9):
        stimulus.grad = -rugged_gradient(stimulus.detach())
        optimizer.step()
        stimulus.data = ml.FixedNorm(2.0)(stimulus.data[..., None, None])[..., 0, 0]
        ages.append(optimizer.state[stimulus]["age"].tolist())
    rugged = [age < 0 for age in ages[-1]]
    assert ages[5] == [6.0] * 8
    assert ages[6] == [-1.0 if row else 7.0 for row in rugged]
    assert sum(rugged) > 0
    expected = ascend_by_hand(
        first,
        lambda row: rugged_gradient(torch.from_numpy(row)).numpy(),
        lambda row: 2.0 * row / np.linalg.norm(row),
        1.0,
        0.02,
        9,
    )
    # A small difference of steps in single precision grows on a rugged slope.
    np.testing.assert_allclose(stimulus.detach().numpy(), expected, atol=1e-3)


def test_a_state_of_a_version_that_kept_less_is_taken():
    stimulus = torch.ones(2, 3, requires_grad=True)
    optimizer = ml.AdaptivePowerMethod([stimulus])
    stimulus.grad = torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]])
    optimizer.step()
    state = optimizer.state_dict()
    step = state["state"][0]["step"].clone()
    del state["state"][0]["age"]
    again = ml.AdaptivePowerMethod([stimulus])
    again.load_state_dict(state)
    assert again.state[stimulus]["age"].tolist() == [0, 0]
    assert again.state[stimulus]["step"].tolist() == step.tolist()
    again.step()
    assert again.state[stimulus]["age"].tolist() == [1, 1]


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


class OwnSteps(ml.RowOptimizer):
    """Gradient ascent with a memory; what its methods return is what functions make of it."""

    def __init__(self, params, began=lambda state, stimulus: state, went=lambda moved, state: moved):
        super().__init__(params, {})
        self.began, self.went = began, went

    def initial_state(self, group, stimulus):
        return self.began({"velocity": torch.zeros_like(stimulus), "age": torch.zeros(len(stimulus))}, stimulus)

    def moved(self, group, stimulus, gradient, state):
        state["velocity"] = 0.5 * state["velocity"] + gradient
        state["age"] = state["age"] + 1
        return self.went(stimulus - 0.1 * state["velocity"], state)


def step_of(**behaviour):
    stimulus = torch.ones(4, 1, 2, 3, 3, requires_grad=True)
    stimulus.grad = torch.ones_like(stimulus)
    optimizer = OwnSteps([stimulus], **behaviour)
    optimizer.rows = torch.tensor([0, 2, 3])
    optimizer.step()
    return optimizer, stimulus.detach()


def test_an_own_optimizer_steps():
    optimizer, stimulus = step_of()
    optimizer.step()
    torch.testing.assert_close(stimulus[:, 0, 0, 0, 0], torch.tensor([0.75, 1.0, 0.75, 0.75]))
    (state,) = optimizer.state.values()
    assert state["age"].tolist() == [2, 0, 2, 2]
    optimizer.begin_anew(torch.tensor([2, 0]))
    assert state["age"].tolist() == [0, 0, 0, 2]


GIVEN = r"like the stimulus that it is given: a tensor of shape \(3, 1, 2, 3, 3\), torch.float32, on cpu\."
FIRST = r"like what it was at first: a tensor of shape \(3,\), torch.float32, on cpu\."
ALL = r"tensors \[4, \.\.\.\] on cpu by name"


@pytest.mark.parametrize(
    ("bad", "kind", "message"),
    [
        (lambda moved, _: None, TypeError, rf"returned None; it must be {GIVEN}"),
        (lambda moved, _: moved.numpy(), TypeError, rf"returned a value of type ndarray; it must be {GIVEN}"),
        (lambda moved, _: moved[:1], ValueError, rf"returned a tensor of shape \(1, 1, 2, 3, 3\), .*; .* {GIVEN}"),
        (lambda moved, _: moved.flatten(1), ValueError, rf"a tensor of shape \(3, 18\), .* {GIVEN}"),
        (lambda moved, _: moved.double(), ValueError, rf"\(3, 1, 2, 3, 3\), torch.float64, on cpu; .* {GIVEN}"),
        (lambda moved, _: moved.to("meta"), ValueError, rf"\(3, 1, 2, 3, 3\), torch.float32, on meta; .* {GIVEN}"),
        (
            lambda moved, state: state.update(age=1.0) or moved,
            TypeError,
            rf"has a state in which 'age' is 1\.0; it must be {FIRST}",
        ),
        (
            lambda moved, state: state.update(age=state["age"].sum()) or moved,
            ValueError,
            rf"'age' is a tensor of shape \(\), torch.float32, on cpu; it must be {FIRST}",
        ),
        (
            lambda moved, state: state.update(older=state["age"]) or moved,
            ValueError,
            "has a state of velocity, age, older; it must have .* at first: velocity, age",
        ),
        (lambda moved, state: state.clear() or moved, ValueError, "has a state of nothing; .*: velocity, age"),
    ],
)
def test_what_moved_returns_and_keeps_is_checked(bad, kind, message):
    with pytest.raises(ml.exceptions.MEIError, match=rf"^OwnSteps\.moved .*{message}") as caught:
        step_of(went=bad)
    assert isinstance(caught.value, kind)


@pytest.mark.parametrize(
    ("bad", "kind", "message"),
    [
        (lambda state, _: None, TypeError, f"None; it must return a dict of {ALL}"),
        (lambda state, _: [*state.values()], TypeError, f"a value of type list; it must return a dict of {ALL}"),
        (lambda state, _: {"age": 0.0}, TypeError, rf"0\.0 as 'age'; it must return {ALL}"),
        (lambda state, _: {"age": torch.zeros(())}, ValueError, rf"shape \(\), .* as 'age'; it must return {ALL}"),
        (lambda state, _: {"age": torch.zeros(1, 4)}, ValueError, rf"shape \(1, 4\), .* as 'age'; .* {ALL}"),
        (lambda state, _: {"age": torch.zeros(4, device="meta")}, ValueError, rf"on meta as 'age'; .* {ALL}"),
        (lambda state, stimulus: {"start": stimulus}, ValueError, r"as 'start' that shares memory.*say \.clone\(\)"),
        (
            lambda state, _: {"age": torch.zeros(1).expand(4)},
            ValueError,
            r"as 'age' that shares memory.*among its rows",
        ),
        (lambda state, _: {**state, "old": state["age"]}, ValueError, r"as 'old' that shares memory.*another tensor"),
    ],
)
def test_what_initial_state_returns_is_checked(bad, kind, message):
    with pytest.raises(ml.exceptions.MEIError, match=rf"^OwnSteps\.initial_state returned .*{message}") as caught:
        step_of(began=bad)
    assert isinstance(caught.value, kind)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda state, _: list(state), "initial_state returned a value of type list; it must return a dict"),
        (lambda state, _: {"age": state["age"]}, "initial_state has a state of age; .* at first: velocity, age"),
        (lambda state, _: {**state, "age": torch.zeros(4)}, r"'age' is a tensor of shape \(4,\).*of shape \(2,\)"),
    ],
)
def test_what_rows_that_begin_anew_are_given_is_checked(bad, message):
    optimizer, _ = step_of()
    optimizer.began = bad
    with pytest.raises(ml.exceptions.MEIError, match=message):
        optimizer.begin_anew(torch.tensor([1, 3]))


def test_a_run_with_a_bad_optimizer_of_ones_own_ends_with_what_is_wrong():
    flat = partial(OwnSteps, went=lambda moved, state: moved.flatten(1))
    with pytest.raises(ml.exceptions.InvalidValueError, match=r"OwnSteps\.moved returned a tensor of shape"):
        find(video_model(), [("monday", 0), ("monday", 2)], time_steps=8, optimizer=flat)


class SignAscent(ml.RowOptimizer):
    """A step of one size for each pixel, which makes rounding as large as the rest."""

    def __init__(self, params):
        super().__init__(params, {})

    def moved(self, group, stimulus, gradient, state):
        return stimulus - 0.1 * gradient.sign()


def test_an_own_optimizer_has_the_gradients_of_the_model_itself_unless_it_forgives_rounding():
    options = {"optimizer": SignAscent, "max_steps": 6, "restarts": 1}
    fast, slow = (find(video_model(), [("monday", 0)], fast_path=fast_path, **options) for fast_path in (True, False))
    xr.testing.assert_equal(fast["stimulus"], slow["stimulus"])
    with pytest.raises(ValueError, match="SignAscent, which makes rounding as large as the rest"):
        ml.MEISettings(optimizer=SignAscent, fast_path="bfloat16")
    forgiving = type("Forgiving", (SignAscent,), {"forgives_rounding": True})
    assert ml.MEISettings(optimizer=forgiving, fast_path="bfloat16").fast_path == "bfloat16"
