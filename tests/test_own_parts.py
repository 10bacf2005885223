"""A search and an optimizer of the user's own are of equal rank with those of the package."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from conftest import NO_LIMIT, assert_same_meis, find, fit, linear_model, results, still_model, video_model
from documentation import HOW_TO, listings
from emulation import EmulatedDevice
from lightning.pytorch import Callback
from torch import nn

import mei_lightning as ml
from mei_lightning.optimization.optimizers import RowByRow

NEURONS = [("monday", 0), ("monday", 2), ("tuesday", 1), ("monday", 1)]


@pytest.fixture(scope="module")
def halving():
    page = HOW_TO / "norm_range_window.md"
    (listing,) = [block for block in listings(page, "python") if "class SuccessiveHalving" in block]
    names = {"__name__": page.stem}
    exec(compile(listing.split("\n\n\nhalved")[0], str(page), "exec"), names)
    return names["SuccessiveHalving"]


class RowsLeft(Callback):
    """How many rows are active after each step."""

    def __init__(self):
        self.counts = []

    def on_train_batch_start(self, trainer, module, batch, number):
        self.counts.append(int(module.active.sum()))


def test_of_an_own_search_the_worse_half_ends_again_and_again(halving):
    rows = RowsLeft()
    module = ml.MEIModule(video_model(), NEURONS[:1], time_steps=16, search=halving(starts=8, every=4))
    meis = results(fit(module, NO_LIMIT, ml.RowConvergence(patience=1000), rows))
    # Rows are compared after a step, and leave the computation after every second one.
    assert [rows.counts[step] for step in (3, 4, 7, 8, 11, 12, 59)] == [8, 4, 4, 2, 2, 1, 1]
    assert meis["steps"].item() == 60
    assert np.isfinite(meis["restart_scores"]).sum() == 1
    arguments = {"starts": 8, "every": 4, "max_steps": 60}
    assert module.configuration["search"] == {"class": "SuccessiveHalving", "arguments": arguments}


@pytest.mark.slow
def test_an_own_search_finds_the_same_alone_and_in_a_stream(halving):
    options = {"time_steps": 16, "search": halving(), "max_steps": 20, "fast_path": False}
    together = find(video_model(), NEURONS, rows_per_device=8, **options)
    assert int(together["steps"].max()) <= 20
    for number, neuron in enumerate(NEURONS):
        assert_same_meis(together.isel(neuron=[number]), find(video_model(), [neuron], **options), atol=1e-4)


@pytest.mark.slow
def test_of_many_starts_the_best_half_is_at_least_as_good_as_the_first(halving):
    many = find(video_model(), NEURONS, time_steps=16, search=halving(starts=16))
    one = find(video_model(), NEURONS, time_steps=16, restarts=1, max_steps=60)
    assert (many["score"] > one["score"] * (1 - 1e-3)).all()
    assert (many["score"] > one["score"] * (1 + 1e-3)).any()


def test_other_numbers_of_starts():
    search = ml.MultiStart(starts=5, keep=2, trial_steps=6, max_steps=20, shifts=())
    meis = find(video_model(), NEURONS[:2], time_steps=16, search=search)
    assert meis.sizes["restart"] == 5
    assert (np.isfinite(meis["restart_scores"]).sum("restart") == 2).all()


def test_a_search_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"still image.*Give shifts=\(\)"):
        ml.MEIModule(still_model(), [0], search=ml.MultiStart())
    with pytest.raises(ValueError, match=r"restarts=3.*both say how many"):
        ml.MEIModule(video_model(), NEURONS, restarts=3, search=ml.MultiStart())
    with pytest.raises(ValueError, match="choose one of quick, normal, thorough"):
        ml.MEIModule(video_model(), NEURONS, search="quik")


class GivesTheBestUp(ml.Search):
    """Not a wise one."""

    def __init__(self):
        super().__init__(starts=2, keep=1, max_steps=10)

    def ended(self, rows, meets):
        best = rows.values == rows.values.amax(dim=1, keepdim=True)
        return best & (rows.steps == 4), torch.zeros_like(best)


def test_a_search_that_gives_the_best_start_up_loses_no_neuron():
    meis = find(video_model(), NEURONS, time_steps=16, search=GivesTheBestUp())
    assert np.isfinite(meis["score"]).all()
    assert set(meis["status"].values) <= {"given up", "step limit", "converged"}


class OneMask(GivesTheBestUp):
    def ended(self, rows, meets):
        return rows.active[:, 0], rows.active


def test_masks_of_a_wrong_shape_are_refused():
    with pytest.raises(
        ValueError, match=r"OneMask.*ended returned torch.bool of shape \(1,\).*\(1, 2\): \[slots, rows\]"
    ):
        find(video_model(), NEURONS[:1], time_steps=16, search=OneMask())
    with pytest.raises(ValueError, match=r"Search\(starts=2, keep=0\)"):
        ml.Search(starts=2, keep=0, max_steps=1)


def test_effort_is_understood_for_one_more_version():
    with pytest.warns(DeprecationWarning, match="effort='quick' is called search='quick' now"):
        module = ml.MEIModule(video_model(), NEURONS, effort="quick")
    assert module.problem.search == ml.MEIModule(video_model(), NEURONS, search="quick").problem.search


ADAM = partial(torch.optim.Adam, lr=0.03)
MOMENTUM = partial(torch.optim.SGD, lr=2.0, momentum=0.5)


class Slots(Callback):
    """Which neurons are computed in each epoch."""

    def __init__(self):
        self.neurons = []

    def on_train_epoch_start(self, trainer, module):
        self.neurons.append(module.neuron_in_slot.tolist())


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [ADAM, MOMENTUM], ids=["Adam", "SGD with momentum"])
def test_optimizers_with_a_memory_stream_neurons_too(optimizer):
    options = {"time_steps": 16, "optimizer": optimizer, "restarts": 1, "fast_path": False, "check_interval": 1}
    slots = Slots()
    module = ml.MEIModule(video_model().double(), NEURONS, rows_per_device=2, max_steps=40, **options)
    together = results(fit(module, NO_LIMIT, ml.RowConvergence(relative_gain=0.01), slots))
    # One neuron begins while another one goes on.
    assert any(
        sum(one != other for one, other in zip(before, after, strict=True)) == 1
        for before, after in itertools.pairwise(slots.neurons)
    )
    for number, neuron in enumerate(NEURONS):
        module = ml.MEIModule(video_model().double(), [neuron], max_steps=40, **options)
        alone = results(fit(module, NO_LIMIT, ml.RowConvergence(relative_gain=0.01)))
        assert_same_meis(together.isel(neuron=[number]), alone, atol=1e-8)


def test_each_row_of_adam_is_what_torch_makes_of_it_alone():
    start = torch.randn(3, 1, 2, 2, 2, generator=torch.Generator().manual_seed(0))

    def run(parameter, optimizer):
        for _ in range(5):
            parameter.grad = parameter.detach() ** 3
            optimizer.step()
        return parameter.detach().clone()

    stimulus = nn.Parameter(start.clone())
    optimizer = RowByRow([stimulus], ADAM)
    run(stimulus, optimizer)
    # The second row begins anew.
    stimulus.data[1] = start[1]
    optimizer.begin_anew(torch.tensor([1]))
    found = run(stimulus, optimizer)
    for number, times in ((0, 2), (1, 1), (2, 2)):
        row = nn.Parameter(start[number].clone())
        alone = ADAM([row])
        for _ in range(times):
            run(row, alone)
        torch.testing.assert_close(found[number], row.detach(), atol=0, rtol=0)


def test_a_step_of_adam_makes_the_host_wait_only_where_rows_have_changed():
    with EmulatedDevice("cuda") as device:
        stimulus = nn.Parameter(torch.ones(3, 1, 2, 2, 2, device="cuda"))
        stimulus.grad = torch.ones_like(stimulus)
        optimizer = RowByRow([stimulus], ADAM)
        optimizer.rows = torch.tensor([0, 2], device="cuda")
        optimizer.step()
        device.counts.clear()
        optimizer.step()
        assert device.counts.waits == 0
    assert torch.equal(stimulus[0], stimulus[2])
    assert (stimulus[1] == 1).all()
    assert (stimulus[0] < 1).all()


@pytest.mark.slow
def test_adam_goes_on_from_shifted_stimuli_if_it_is_told_to():
    search = ml.MultiStart(starts=2, max_steps=30)
    options = {"time_steps": 16, "optimizer": ADAM, "norm": 3.0, "fast_path": False, "search": search}
    together = find(video_model().double(), NEURONS, rows_per_device=5, **options)
    for number, neuron in enumerate(NEURONS[:2]):
        assert_same_meis(together.isel(neuron=[number]), find(video_model().double(), [neuron], **options), atol=1e-7)
    with pytest.raises(ValueError, match="optimizer whose rows can begin one by one"):
        ml.MEIModule(video_model(), NEURONS, optimizer=torch.optim.LBFGS, search=search)


def norms(values):
    return values.flatten(1).norm(dim=1).view(-1, 1, 1, 1, 1)


class UnitMomentum(ml.RowOptimizer):
    """Momentum on gradients of unit length."""

    def __init__(self, params, step=0.5, memory=0.5):
        super().__init__(params, {"step": step, "memory": memory})

    def initial_state(self, group, stimulus):
        return {"velocity": torch.zeros_like(stimulus)}

    def moved(self, group, stimulus, gradient, state):
        unit = gradient / norms(gradient).clamp(min=1e-30)
        state["velocity"] = group["memory"] * state["velocity"] + (1 - group["memory"]) * unit
        return stimulus - group["step"] * norms(stimulus) * state["velocity"]


def test_an_own_optimizer_finds_the_mei_of_a_linear_neuron():
    model = linear_model()
    meis = find(model, [0, 1, 2], time_steps=4, norm=2.0, optimizer=UnitMomentum)
    kernels = model.network.kernels.detach().flatten(1)
    np.testing.assert_allclose(meis["score"], 2.0 * kernels.norm(dim=1), rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [5, 9])
def test_an_own_optimizer_streams_neurons_with_shifts(rows):
    options = {"time_steps": 16, "optimizer": UnitMomentum, "max_steps": 30, "fast_path": False}
    module = ml.MEIModule(video_model(), NEURONS, rows_per_device=rows, **options)
    assert module.problem.shifts == [1, 4]
    together = results(fit(module, NO_LIMIT, ml.RowConvergence()))
    for number, neuron in enumerate(NEURONS):
        assert_same_meis(together.isel(neuron=[number]), find(video_model(), [neuron], **options), atol=1e-4)
