"""What holds for every model, optimizer and set of neurons, checked through what a user calls."""

import random
from functools import partial

import numpy as np
import pytest
import torch
from conftest import (
    NO_LIMIT,
    STILL_FORMAT,
    FailingNetwork,
    assert_same_meis,
    find,
    fit,
    results,
    still_model,
    video_model,
)
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

import mei_lightning as ml
from mei_lightning.models.base import weights_digest

OPTIMIZERS = {
    "power method": ml.AdaptivePowerMethod,
    "SGD": partial(torch.optim.SGD, lr=2.0),
    "Adam": partial(torch.optim.Adam, lr=0.05),
}
NEVER_CONVERGES = ml.RowConvergence(patience=1000)
VIDEO_NEURONS = [("monday", 0), ("tuesday", 1), ("monday", 3), [("monday", 1), ("tuesday", 2)]]
STILL_NEURONS = [0, 4, [1, 2]]
SIMULATED_NEURONS = [("session_1", 0), ("session_2", 1)]


@pytest.fixture(params=["video", "still", "simulated", "twin"])
def case(request):
    """A model, neurons of it, and options that make its stimulus small."""
    if request.param == "video":
        return video_model(), VIDEO_NEURONS, {"time_steps": 8}
    if request.param == "still":
        return still_model(), STILL_NEURONS, {}
    model = request.getfixturevalue(request.param)
    return model, SIMULATED_NEURONS, {"time_steps": model.stimulus_format.frames_lost + 4}


def ranges_of(model):
    """Ranges that are tight enough to matter at the default norm."""
    return [(-1.5, 2.0), (-2.0, 1.0)][: len(model.stimulus_format.channel_names)]


# A row does not know its neighbours


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_an_mei_is_the_same_alone_in_a_batch_and_in_another_order(case, optimizer):
    model, neurons, options = case
    options = {**options, "max_steps": 12, "restarts": 2, "optimizer": optimizer, "ranges": ranges_of(model)}
    batch = find(model, neurons, **options)
    another_order = find(model, neurons[::-1], **options)
    assert_same_meis(another_order.isel(neuron=slice(None, None, -1)), batch)
    for number, neuron in enumerate(neurons):
        assert_same_meis(find(model, [neuron], **options), batch.isel(neuron=[number]))


@pytest.mark.slow
@pytest.mark.parametrize("check_interval", [1, 7])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("retina", [video_model, still_model], ids=["video", "still"])
def test_rows_that_leave_disturb_nobody(retina, optimizer, check_interval):
    """With convergence, every row is the row of a run that it has for itself, whenever the others leave."""
    neurons = VIDEO_NEURONS if retina is video_model else STILL_NEURONS
    options = {"restarts": 1, "optimizer": optimizer, "max_steps": 60}
    # Small enough for all rows to get there, and large enough for them to do so at different steps.
    gain = 5e-3 if retina is still_model and optimizer is ml.AdaptivePowerMethod else 1e-3
    convergence = ml.RowConvergence(relative_gain=gain, patience=3)
    together = results(fit(ml.MEIModule(retina(), neurons, check_interval=check_interval, **options), 60, convergence))
    assert len(np.unique(together["steps"])) > 1

    def module_of(neurons, check_interval):
        """The same rows without the bookkeeping of neurons, so that every row can be seen after the run."""
        population = ml.MEIModule(retina(), neurons, **options)
        return ml.StimulusModule(
            ml.NeuronObjective(population.retina, neurons, ml.MeanReducer()),
            torch.cat([population.problem.starts(number) for number in range(len(neurons))]),
            constraint=population.constraint,
            optimizer=optimizer,
            check_interval=check_interval,
        )

    module = module_of(neurons, check_interval)
    fit(module, 60, convergence)
    for row, neuron in enumerate(neurons):
        alone = module_of([neuron], check_interval=60)
        fit(alone, 60, convergence)
        torch.testing.assert_close(alone.stimulus[0], module.stimulus[row], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(alone.best_stimulus[0], module.best_stimulus[row], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(alone.best_score[0], module.best_score[row], atol=1e-5, rtol=1e-5)
        assert (alone.steps[0], alone.status[0]) == (module.steps[row], module.status[row])
        np.testing.assert_allclose(together["stimulus"].values[row], alone.best_stimulus[0], atol=1e-5, rtol=1e-5)
        assert together["score"].values[row] == pytest.approx(alone.best_score.item(), rel=1e-5, abs=1e-5)
        assert together["steps"].values[row] == alone.steps[0]


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_dead_and_broken_neurons_are_named_and_disturb_nobody(optimizer):
    model = ml.RetinaModel(FailingNetwork(), STILL_FORMAT, {"monday": 5, "tuesday": 1})
    options = {"max_steps": 15, "restarts": 2, "optimizer": optimizer}
    neurons = [("monday", 0), ("monday", 1), ("tuesday", 0), ("monday", 2), ("monday", 4)]
    with pytest.warns(UserWarning, match="stimuli ended with") as caught:
        meis = find(model, neurons, **options)
    messages = [str(warning.message) for warning in caught if "stimuli ended with" in str(warning.message)]
    named, advice = zip(*(message.split(". ", 1) for message in messages), strict=True)
    assert named == (
        "1 of 5 stimuli ended with 'no gradient': monday/1",
        "2 of 5 stimuli ended with 'not finite': tuesday/0, monday/2",
    )
    assert "begin elsewhere" in advice[0]
    assert "look at the model's weights" in advice[1]
    assert meis["status"].values[[1, 2, 3]].tolist() == ["no gradient", "not finite", "not finite"]
    assert np.isfinite(meis["stimulus"]).all()
    healthy = meis.isel(neuron=[0, 4])
    assert_same_meis(healthy, find(model, [("monday", 0), ("monday", 4)], **options))


# Feasible at every step that anyone sees


class Watch(Callback):
    """Keeps what the trainer's callbacks get to see, and the highest score of each neuron in any of its rows."""

    def __init__(self):
        self.seen = []
        self.highest = {}

    def _look(self, trainer, module, *_):
        self.seen += [module.stimulus.detach().clone(), module.best_stimulus.clone()]
        for place, number in enumerate(module.neuron_in_slot.tolist()):
            if number >= 0:
                own = module.stimulus.detach()[place * module.rows.starts : (place + 1) * module.rows.starts]
                score = module.objective.for_rows([number] * module.rows.starts)(own).max().item()
                self.highest[number] = max(score, self.highest.get(number, score))

    on_train_start = on_train_batch_start = on_before_optimizer_step = _look
    on_train_batch_end = on_train_epoch_end = on_train_end = on_save_checkpoint = _look


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_norm_and_range_hold_wherever_a_stimulus_is_seen(case, optimizer, tmp_path):
    model, neurons, options = case
    ranges, norm = ranges_of(model), 6.0
    watch = Watch()
    checkpoints = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=3)
    options = {**options, "norm": norm, "ranges": ranges, "max_steps": 12, "restarts": 1, "optimizer": optimizer}
    meis = find(model, neurons, callbacks=[watch, checkpoints, NEVER_CONVERGES], **options)

    saved = []
    for path in tmp_path.glob("*.ckpt"):
        state = torch.load(path, weights_only=True)["state_dict"]
        assert not any("network" in name or "." in name for name in state)
        saved += [state["stimulus"], state["best_stimulus"]]
    assert len(saved) == 2 * 4
    assert len(watch.seen) > 4 * 12
    for stimulus in [*watch.seen, *saved, torch.from_numpy(meis["stimulus"].values)]:
        np.testing.assert_allclose(stimulus.double().flatten(1).norm(dim=1), norm, rtol=1e-5)
        for channel, (low, high) in enumerate(ranges):
            assert stimulus[:, channel].min() >= low - 1e-5
            assert stimulus[:, channel].max() <= high + 1e-5


# The best iterate is what you get, with its own score


@pytest.mark.parametrize("optimizer", [*OPTIMIZERS.values(), partial(torch.optim.SGD, lr=30.0)])
def test_the_result_is_the_best_stimulus_seen_with_its_own_score(case, optimizer):
    model, neurons, options = case
    watch = Watch()
    reducer = ml.MaxReducer()
    options = {**options, "optimizer": optimizer, "ranges": ranges_of(model), "restarts": 2, "max_steps": 12}
    meis = find(model, neurons, reducer=reducer, callbacks=[watch, NEVER_CONVERGES], **options)

    best = torch.from_numpy(meis["stimulus"].values)
    objective = ml.NeuronObjective(model, neurons, reducer)
    np.testing.assert_allclose(objective(best), meis["score"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(objective.traces(best), meis["response"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(meis["response"].max("response_time"), meis["score"], rtol=1e-5, atol=1e-5)

    # Of every score of any restart, from the initial stimulus to that after the last step.
    highest = [watch.highest[number] for number in range(len(neurons))]
    np.testing.assert_allclose(meis["score"], highest, rtol=1e-5, atol=1e-5)


# The model, and the rest of the process, come out as they went in


def facts_of(model):
    return (
        [(name, module.training) for name, module in model.named_modules()],
        [(name, weight.requires_grad, weight.grad) for name, weight in model.named_parameters()],
        [(name, len(part._forward_hooks), len(part._forward_pre_hooks)) for name, part in model.named_modules()],
        weights_digest(model),
    )


def random_state():
    return random.getstate(), [part.tolist() for part in np.random.get_state()[1:2]], torch.get_rng_state().tolist()  # noqa: NPY002


class Fail(Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 3:
            raise RuntimeError("the power went out")


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("flags", ["frozen", "training", "mixed"])
@pytest.mark.parametrize("retina", [video_model, still_model], ids=["video", "still"])
def test_the_model_and_the_random_state_come_out_as_they_went_in(retina, flags, fails):
    model = retina()
    neurons = VIDEO_NEURONS if retina is video_model else STILL_NEURONS
    expected = find(model, neurons, max_steps=5, restarts=1)
    if flags != "frozen":
        model.train().requires_grad_(True)
    if flags == "mixed":
        model.network.eval()
        model.network.kernel.requires_grad_(False)
    before, before_random = facts_of(model), random_state()
    if fails:
        with pytest.raises(RuntimeError, match="the power went out"):
            find(model, neurons, max_steps=5, restarts=1, callbacks=[Fail()])
    else:
        # The flags do not matter to the result either: there is no dropout in an MEI.
        assert_same_meis(find(model, neurons, max_steps=5, restarts=1), expected, atol=0)
    assert facts_of(model) == before
    assert random_state() == before_random


@pytest.mark.parametrize("name", ["simulated", "digital_twin"])
def test_a_built_in_model_draws_nothing_from_the_global_generators(name):
    before = random_state()
    find(name, [("session_1", 0)], max_steps=2, restarts=1, time_steps=24)
    assert random_state() == before


# Seeds


def test_the_seed_decides_the_initial_stimuli(case):
    model, neurons, options = case
    options = {**options, "max_steps": 3, "restarts": 2}
    one = find(model, neurons, seed=1, **options)
    torch.manual_seed(99)
    assert_same_meis(find(model, neurons, seed=1, **options), one, atol=0)
    other = find(model, neurons, seed=2, **options)
    assert not np.isclose(other["stimulus"], one["stimulus"]).all(axis=(1, 2, 3, 4)).any()
    assert set(one["seed"].values).isdisjoint(other["seed"].values)


class Beginning(Callback):
    """Keeps the stimuli of each neuron as its optimisation begins."""

    def __init__(self):
        self.stimuli = {}

    def on_train_batch_start(self, trainer, module, *_):
        for place, number in enumerate(module.neuron_in_slot.tolist()):
            rows = module.stimulus.detach()[place * module.rows.starts : (place + 1) * module.rows.starts]
            if number >= 0:
                self.stimuli.setdefault(module.labels[number], rows.clone())


def test_an_initial_stimulus_depends_on_its_neuron_and_restart_only():
    few = ml.MEIModule(video_model(), VIDEO_NEURONS[1:3], restarts=2, seed=5, max_steps=2, check_interval=2)
    many = ml.MEIModule(
        video_model(), VIDEO_NEURONS, restarts=3, seed=5, max_steps=2, check_interval=2, rows_per_device=7
    )
    begun_few, begun_many = Beginning(), Beginning()
    fit(few, NO_LIMIT, begun_few)
    fit(many, NO_LIMIT, begun_many)
    assert list(begun_few.stimuli) == many.labels[1:3]
    assert list(begun_many.stimuli) == many.labels
    for number, label in enumerate(few.labels):
        assert [few.problem.starts.seed_of(number, restart) for restart in range(2)] == [
            many.problem.starts.seed_of(number + 1, restart) for restart in range(2)
        ]
        torch.testing.assert_close(begun_many.stimuli[label][:2], begun_few.stimuli[label], atol=0, rtol=0)
    for number, label in enumerate(many.labels):
        seeds = [many.problem.starts.seed_of(number, restart) for restart in range(3)]
        noise = [torch.randn(2, 22, 6, 5, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        torch.testing.assert_close(begun_many.stimuli[label], many.constraint(torch.stack(noise)))
    flat = torch.cat(list(begun_many.stimuli.values())).flatten(1)
    similarity = (flat @ flat.T / flat.norm(dim=1).square()).fill_diagonal_(0)
    assert similarity.abs().max() < 0.5
