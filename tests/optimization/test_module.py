import math
from functools import partial

import numpy as np
import pytest
import torch
from conftest import (
    NO_LIMIT,
    STILL_FORMAT,
    assert_same_meis,
    count_computations,
    find,
    fit,
    read,
    results,
    still_model,
    video_model,
)
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

import mei_lightning as ml
from mei_lightning.models.base import weights_digest

SGD = partial(torch.optim.SGD, lr=1.0, momentum=0.8)
ADAM = partial(torch.optim.Adam, lr=0.05)
NEURONS = [("monday", 0), ("tuesday", 1), ("monday", 3)]


def video_module(**options):
    return ml.MEIModule(video_model(), NEURONS, **{"time_steps": 8, "restarts": 2, "check_interval": 5, **options})


class Interrupt(Callback):
    """Fails after a number of steps."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            raise RuntimeError("the power went out")


class RetireAt(Callback):
    """Ends rows after a number of steps."""

    def __init__(self, step, rows):
        self.step = step
        self.rows = rows

    def on_train_batch_end(self, trainer, module, *_):
        if trainer.global_step == self.step:
            module.retire(self.rows, ml.Status.CONVERGED)


# Convergence of rows


class Script(ml.Objective):
    """Scores that are scripted: row r scores ``values[r][step]``; the gradient is of no matter."""

    def __init__(self, values, rows=None):
        super().__init__()
        self.values = values
        self.rows = list(range(len(values))) if rows is None else list(rows)
        self.step = [0] if rows is None else None

    def for_rows(self, rows):
        part = Script(self.values, rows)
        part.step = self.step
        return part

    def forward(self, stimulus):
        step = min(self.step[0], len(self.values[0]) - 1)
        self.step[0] += torch.is_grad_enabled()
        values = torch.tensor([self.values[row][step] for row in self.rows])
        flat = stimulus.flatten(1).sum(dim=1)
        return values + (flat - flat.detach())


def retirement_by_hand(values, relative_gain, patience):
    """The step after which a row retires, counted from 1, or None."""
    best, reference, stalled = -math.inf, None, 0
    for step, value in enumerate(values, start=1):
        best = max(best, value)
        if reference is None or best > reference + relative_gain * abs(reference):
            reference, stalled = best, 0
        else:
            stalled += 1
        if stalled >= patience:
            return step
    return None


@pytest.mark.parametrize("check_interval", [1, 4, 10])
@pytest.mark.parametrize(("relative_gain", "patience"), [(0.0, 3), (1e-3, 1), (0.02, 5), (0.1, 4)])
def test_rows_retire_at_the_right_step(relative_gain, patience, check_interval):
    random = np.random.default_rng(0)
    steps = 60
    values = [
        np.zeros(steps),
        -np.exp(-np.arange(steps) / 5),
        1 - np.exp(-np.arange(steps) / 8),
        np.maximum.accumulate(random.random(steps)),
        random.random(steps) - 5,
        np.arange(1, steps + 1.0),
    ]
    values = [row.astype(np.float32).tolist() for row in values]
    # Nothing keeps these stimuli from growing.
    module = ml.StimulusModule(
        Script(values), torch.ones(len(values), 1, 1, 1, 2), optimizer=SGD, check_interval=check_interval
    )
    trainer = fit(module, steps, ml.RowConvergence(relative_gain, patience))
    for row, sequence in enumerate(values):
        retired = retirement_by_hand(sequence, relative_gain, patience)
        assert module.status[row] == (ml.Status.ACTIVE if retired is None else ml.Status.CONVERGED)
        assert module.steps[row] == (trainer.global_step if retired is None else retired)
        assert module.best_score[row] == max(sequence[: module.steps[row]])


@pytest.mark.parametrize(("patience", "check_interval", "steps"), [(3, 1, 4), (3, 5, 5), (8, 5, 10)])
def test_the_run_ends_at_the_check_after_the_last_row_has_retired(patience, check_interval, steps):
    module = ml.StimulusModule(Script([[1.0], [2.0]]), torch.ones(2, 1, 1, 1, 2), check_interval=check_interval)
    trainer = fit(module, 100, ml.RowConvergence(patience=patience))
    assert trainer.global_step == steps
    assert module.steps.tolist() == [patience + 1] * 2


@pytest.mark.parametrize("wrong", [{"relative_gain": -0.1}, {"relative_gain": float("nan")}, {"patience": 0}])
def test_bad_arguments_of_row_convergence_are_refused(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"RowConvergence.*{name}={value}.* needs relative_gain >= 0"):
        ml.RowConvergence(**wrong)


def test_rows_that_are_done_are_not_computed_any_more():
    sizes = []

    class Recording(ml.NeuronObjective):
        def traces(self, stimulus):
            sizes.append(len(stimulus))
            return super().traces(stimulus)

        def for_rows(self, rows):
            return Recording(self.model, [list(self.groups[row]) for row in rows], self.response_reducer)

    objective = Recording(video_model(), NEURONS, ml.MeanReducer())
    module = ml.StimulusModule(objective, torch.randn(3, 2, 8, 6, 5), check_interval=2)
    module.retire(torch.tensor([False, True, False]), ml.Status.CONVERGED)
    fit(module, 6)
    assert set(sizes) == {2}
    assert module.steps.tolist() == [6, 0, 6]


@pytest.mark.parametrize(("max_steps", "check_interval"), [(1, 1), (1, 10), (6, 3), (6, 4), (6, 10), (13, 5)])
def test_the_step_limit_of_rows_is_the_trainers_limit_without_its_end_of_the_run(max_steps, check_interval):
    """Rows stop after their last step; the run goes on to the next check, where all is known about them."""

    def module_of(**options):
        return ml.StimulusModule(
            ml.NeuronObjective(video_model(), NEURONS, ml.MeanReducer()),
            torch.randn(3, 2, 8, 6, 5, generator=torch.Generator().manual_seed(0)),
            constraint=ml.FixedNorm(4.0),
            check_interval=check_interval,
            **options,
        )

    limited, expected = module_of(max_steps=max_steps), module_of()
    trainer = fit(limited, NO_LIMIT)
    fit(expected, max_steps)
    assert trainer.global_step == math.ceil(max_steps / check_interval) * check_interval
    assert limited.steps.tolist() == expected.steps.tolist() == [max_steps] * 3
    assert limited.status.tolist() == [ml.Status.STEP_LIMIT] * 3
    assert expected.status.tolist() == [ml.Status.ACTIVE] * 3
    for name in ("stimulus", "best_stimulus", "best_score", "best_value"):
        torch.testing.assert_close(getattr(limited, name), getattr(expected, name), atol=1e-6, rtol=1e-6)


def test_a_row_that_has_converged_by_the_step_limit_has_converged():
    module = ml.StimulusModule(Script([[1.0], [2.0]]), torch.ones(2, 1, 1, 1, 2), max_steps=4, check_interval=10)
    fit(module, NO_LIMIT, ml.RowConvergence(patience=3))
    assert module.status.tolist() == [ml.Status.CONVERGED] * 2
    assert module.steps.tolist() == [4] * 2


def test_status_in_words():
    words = {status.name: status.label for status in ml.Status}
    assert words.pop("EMPTY")
    assert words == {
        "ACTIVE": "interrupted",
        "CONVERGED": "converged",
        "NO_GRADIENT": "no gradient",
        "NOT_FINITE": "not finite",
        "STEP_LIMIT": "step limit",
        "PRUNED": "given up",
        "DUPLICATE": "given up",
    }


# Checkpoints


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer", [partial(ml.AdaptivePowerMethod, start=0.05), SGD, ADAM], ids=["power method", "momentum", "Adam"]
)
@pytest.mark.parametrize("interrupted", [10, 8])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(tmp_path, optimizer, interrupted):
    """Rows retire before and after the interruption, which is at a check or between two."""

    def run(max_steps, ckpt_path=None):
        module = video_module(optimizer=optimizer, max_steps=30)
        # These rows are alike, so some of them are made to finish early.
        finished = torch.tensor([False, True, False, False, True, False])
        trainer = fit(module, max_steps, RetireAt(6, finished), ml.RowConvergence(1e-4, 3), ckpt_path=ckpt_path)
        return module, trainer

    _, whole = run(NO_LIMIT)
    part, trainer = run(interrupted)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    assert part.steps.tolist()[1] == 6
    assert (part.status == ml.Status.ACTIVE).any()
    _, resumed = run(NO_LIMIT, tmp_path / "half.ckpt")
    assert results(whole).steps.max() > interrupted
    # Checks are at the same steps, even after an interruption between two of them.
    assert resumed.global_step == whole.global_step
    assert_same_meis(results(whole), results(resumed), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [ml.AdaptivePowerMethod, SGD, ADAM], ids=["power method", "momentum", "Adam"])
@pytest.mark.parametrize("interrupted", [30, 33])
def test_a_checkpoint_while_neurons_stream(tmp_path, optimizer, interrupted):
    """The second neuron is being optimised when the run is interrupted; the first is on disk, the third waits."""

    def run(max_steps, directory, ckpt_path=None):
        module = video_module(optimizer=optimizer, max_steps=20, rows_per_device=3)
        computations = count_computations(module)
        trainer = fit(module, max_steps, directory=directory, ckpt_path=ckpt_path)
        return sum(rows for rows, has_gradient in computations if has_gradient), trainer

    row_steps, _ = run(NO_LIMIT, tmp_path / "whole")
    assert row_steps == 3 * 2 * 20
    _, trainer = run(interrupted, tmp_path / "part")
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    assert read(tmp_path / "part").status.values.tolist() == ["step limit", "interrupted", "pending"]
    row_steps, _ = run(NO_LIMIT, tmp_path / "part", tmp_path / "half.ckpt")
    # Of the second neuron what is left, and the third one.
    assert row_steps == 2 * (40 - interrupted + 20)
    assert_same_meis(read(tmp_path / "part"), read(tmp_path / "whole"), atol=1e-6)


@pytest.mark.parametrize("every_n_train_steps", [4, 5])
def test_a_run_that_crashed_goes_on_from_its_last_checkpoint(tmp_path, every_n_train_steps):
    whole = fit(video_module(optimizer=ADAM, max_steps=30), NO_LIMIT)
    checkpoint = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=every_n_train_steps)
    with pytest.raises(RuntimeError, match="the power went out"):
        fit(video_module(optimizer=ADAM, max_steps=30), NO_LIMIT, Interrupt(14), checkpoint, directory=tmp_path)
    resumed = video_module(optimizer=ADAM, max_steps=30, rows_per_device=6)
    computations = count_computations(resumed)
    fit(resumed, NO_LIMIT, ckpt_path=checkpoint.best_model_path, directory=tmp_path)
    last = 14 // every_n_train_steps * every_n_train_steps
    assert sum(rows for rows, has_gradient in computations if has_gradient) == 6 * (30 - last)
    assert_same_meis(results(whole), read(tmp_path), atol=1e-6)


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    trainer = fit(video_module(), NO_LIMIT, ml.RowConvergence(patience=2), directory=tmp_path)
    assert trainer.global_step < 100
    finished = read(tmp_path)
    assert set(finished.status.values) == {"converged"}
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    resumed = video_module(rows_per_device=6)
    computations = count_computations(resumed)
    fit(resumed, NO_LIMIT, ml.RowConvergence(patience=2), ckpt_path=tmp_path / "end.ckpt", directory=tmp_path)
    assert not any(has_gradient for _, has_gradient in computations)
    assert_same_meis(finished, read(tmp_path), atol=0)


def test_checkpoints_hold_the_rows_and_no_model(tmp_path):
    module = video_module()
    fit(module, 10, ModelCheckpoint(tmp_path, filename="run"))
    checkpoint = torch.load(tmp_path / "run.ckpt", weights_only=True)
    assert checkpoint["configuration"] == module.configuration
    state = checkpoint["state_dict"]
    assert state.pop("neuron_in_slot").tolist() == [0, 1, 2]
    assert state.pop("shifted").tolist() == [False] * 3
    assert state.pop("frame_shifted").tolist() == [False] * 3
    assert state.pop("generations").tolist() == [0] * 3
    assert set(state) == {
        "stimulus",
        "best_stimulus",
        "best_score",
        "best_value",
        "status",
        "steps",
        "flat_steps",
        "begun",
    }
    assert all(len(value) == 6 for value in state.values())
    optimizer = checkpoint["optimizer_states"][0]["state"]
    assert all(len(value) == 6 for state in optimizer.values() for value in state.values())


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"neurons": [1, 0]}, "neurons"),
        ({"retina": still_model(seed=1)}, "weights_digest"),
        ({"seed": 1}, "seed"),
        ({"norm": 2.0}, "constraint"),
        ({"reducer": ml.MaxReducer()}, "reducer"),
        ({"regularizer": ml.SpatialSmoothness(0.1)}, "regularizer"),
        ({"optimizer": SGD}, "optimizer"),
        ({"restarts": 3}, "restarts"),
        ({"max_steps": 7}, "max_steps"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, options, name):
    # The number of starts is given, since it is another one by default with another optimizer.
    settings = {"retina": still_model(), "neurons": [0, 1], "norm": 1.0, "restarts": 4}
    fit(ml.MEIModule(**settings), 3).save_checkpoint(tmp_path / "other.ckpt")
    module = ml.MEIModule(**{**settings, **options})
    with pytest.raises(ValueError, match=rf"(?s)checkpoint is of another run.*\b{name}\b") as caught:
        fit(module, 6, ckpt_path=tmp_path / "other.ckpt")
    others = {"neurons", "weights_digest", "seed", "constraint", "reducer", "regularizer", "restarts", "max_steps"}
    named = str(caught.value).partition("Resume with")[0]
    assert not any(f"{other}:" in named for other in others - {name})
    assert not module.steps.any()


@pytest.mark.parametrize("entry", ["stimulus", "best_score", "neuron_in_slot"])
def test_a_checkpoint_with_a_misnamed_entry_is_refused(entry):
    module = video_module()
    state = module.state_dict()
    state[f"{entry}s"] = state.pop(entry)
    with pytest.raises(RuntimeError, match=f"{entry}s"):
        module.load_state_dict(state)


# What is refused, and what ends


@pytest.mark.slow
def test_lbfgs_is_for_one_row():
    lbfgs = partial(torch.optim.LBFGS, lr=0.05)
    model, neurons = still_model(), [0, 1, 2]
    with pytest.raises(ValueError, match="LBFGS couples the 3 rows"):
        fit(ml.MEIModule(model, neurons, restarts=1, optimizer=lbfgs), NO_LIMIT)

    # One after another they share nothing, least of all the history of gradients.
    options = {"restarts": 1, "rows_per_device": 1, "max_steps": 8, "optimizer": lbfgs}
    trainer = fit(ml.MEIModule(model, neurons, **options), NO_LIMIT)
    for number, neuron in enumerate(neurons):
        module = ml.MEIModule(model, [neuron], **options)
        found = results(trainer).isel(neuron=[number])
        assert_same_meis(results(fit(module, NO_LIMIT)), found)
        before = module.objective(module.constraint(module.problem.starts(0))).item()
        assert found.score.item() > before + 0.1
        assert module.objective(torch.from_numpy(found.stimulus.values)).item() == pytest.approx(found.score.item())


def test_gradient_clipping_is_refused():
    with pytest.raises(ValueError, match=r"Trainer\(gradient_clip_val=0.5\) clips the gradients of all rows together"):
        fit(video_module(), 3, gradient_clip_val=0.5)


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda stimulus: stimulus.sum(), r"objective returned a tensor of shape \(\) for 2 row\(s\)"),
        (lambda stimulus: stimulus[:, 0, 0, 0], r"shape \(2, 3\) for 2 row\(s\); .* shape \(2,\)"),
        (lambda stimulus: stimulus[:1].sum((1, 2, 3, 4)), r"shape \(1,\) for 2 row\(s\)"),
        (lambda stimulus: stimulus.detach().sum((1, 2, 3, 4)), "does not depend on the stimulus"),
    ],
)
def test_objectives_that_are_none_are_refused(score, message):
    with pytest.raises(ValueError, match=message):
        fit(ml.StimulusModule(score, torch.ones(2, 1, 1, 1, 3)), 3)


def test_a_regularizer_that_returns_one_number_is_refused():
    class Sum(ml.Regularizer):
        def forward(self, stimulus):
            return stimulus.sum()

    module = ml.StimulusModule(lambda s: s.sum((1, 2, 3, 4)), torch.ones(2, 1, 1, 1, 3), regularizer=Sum())
    with pytest.raises(ValueError, match=r"regularizer returned a tensor of shape \(\)"):
        fit(module, 3)


@pytest.mark.parametrize(
    ("stimulus", "options", "message"),
    [
        (torch.ones(2, 3, 4, 5), {}, r"not \(2, 3, 4, 5\)"),
        (torch.ones(0, 1, 1, 2, 2), {}, "at least one row"),
        (torch.ones(1, 1, 1, 2, 2), {"check_interval": 0}, "check_interval=0"),
        (torch.ones(1, 1, 1, 2, 2), {"max_steps": 0}, "max_steps=0 leaves nothing to do"),
        (torch.zeros(2, 1, 1, 2, 2), {"constraint": ml.FixedNorm(1.0)}, r"Row\(s\) 0, 1 .* zero"),
        (torch.full((1, 1, 1, 2, 2), float("nan")), {"constraint": ml.FixedNorm(1.0)}, r"Row\(s\) 0 .* not finite"),
        (torch.ones(1, 1, 1, 2, 2), {"constraint": ml.ChannelRange([(0, 1)] * 2)}, "2 channel range"),
        (torch.ones(1, 1, 1, 2, 2), {"regularizer": ml.RangePenalty([(0, 1)] * 2)}, "2 channel range"),
    ],
)
def test_bad_arguments_are_refused(stimulus, options, message):
    with pytest.raises(ValueError, match=message):
        ml.StimulusModule(lambda s: s.sum((1, 2, 3, 4)), stimulus, **options)


def test_a_step_out_of_the_numbers_ends_the_row_and_keeps_it_feasible():
    """Row 1 steps to infinity; row 0 does not."""
    scale = torch.tensor([1.0, 1e15])
    module = ml.StimulusModule(
        lambda stimulus: stimulus.sum((1, 2, 3, 4)) * scale[: len(stimulus)],
        torch.rand(2, 1, 1, 2, 2),
        constraint=ml.FixedNorm(1.0),
        optimizer=partial(torch.optim.SGD, lr=1e25),
    )
    with pytest.warns(UserWarning, match="1 of 2 stimuli ended with 'not finite': row_1"):
        fit(module, 3)
    torch.testing.assert_close(module.stimulus.detach().flatten(1).norm(dim=1), torch.ones(2))
    torch.testing.assert_close(module.best_stimulus.flatten(1).norm(dim=1), torch.ones(2))


def test_a_regularizer_decides_what_is_best_and_the_score_is_without_its_cost():
    class Energy(ml.Regularizer):
        def forward(self, stimulus):
            return self.factor * stimulus.flatten(1).square().sum(dim=1)

    # score 2a - a^2 has its maximum at a = 1 for each of the four pixels
    module = ml.StimulusModule(
        lambda stimulus: 2 * stimulus.sum((1, 2, 3, 4)),
        torch.zeros(2, 1, 1, 2, 2),
        regularizer=Energy(1.0),
        optimizer=partial(torch.optim.SGD, lr=0.3),
    )
    fit(module, 30)
    torch.testing.assert_close(module.best_stimulus, torch.ones(2, 1, 1, 2, 2), atol=1e-3, rtol=0)
    torch.testing.assert_close(module.best_score, torch.full((2,), 8.0), atol=1e-2, rtol=0)
    torch.testing.assert_close(module.best_value, torch.full((2,), 4.0), atol=1e-4, rtol=0)


# The model comes out as it went in


def scrambled_network():
    """A network with mixed flags, a hook and gradients that are None."""
    network = video_model().network
    network.train()
    network.dropout.eval()
    network.readout.train()
    network.requires_grad_(True)
    network.kernel.requires_grad_(False)
    return network


def facts_of(network):
    return (
        [(name, module.training) for name, module in network.named_modules()],
        [(name, weight.requires_grad, weight.grad) for name, weight in network.named_parameters()],
        [
            (name, len(m._forward_hooks), len(m._backward_hooks), len(m._forward_pre_hooks))
            for name, m in network.named_modules()
        ],
        weights_digest(network),
    )


@pytest.mark.parametrize("fails", [False, True])
def test_a_plain_network_comes_out_as_it_went_in(fails):
    network = scrambled_network()
    network.norm.register_forward_hook(lambda *_: None)
    before = facts_of(network)
    objective = ml.IncreaseObjective(network, 0, "monday", ml.MeanReducer())
    module = ml.StimulusModule(objective, torch.randn(2, 2, 6, 6, 5), constraint=ml.FixedNorm(3.0))
    if fails:
        with pytest.raises(RuntimeError, match="the power went out"):
            fit(module, 6, Interrupt(3))
    else:
        fit(module, 6)
        assert (module.steps == 6).all()
    assert facts_of(network) == before


def test_weights_behind_a_plain_function_collect_no_gradients():
    network = scrambled_network().eval()
    module = ml.StimulusModule(
        lambda stimulus: network(stimulus, data_key="monday").mean(dim=(1, 2)), torch.randn(2, 2, 6, 6, 5)
    )
    before = facts_of(network)
    fit(module, 3)
    assert facts_of(network) == before


def test_settings_are_kept_with_the_run():
    module = ml.MEIModule(still_model(), [4, [0, 1]], restarts=3, seed=7, optimizer=SGD)
    fit(module, 2, ml.RowConvergence(0.5, 3))
    assert module.labels == ["4", "0+1"]
    assert module.stimulus_format == STILL_FORMAT
    assert module.configuration["optimizer"]["class"] == "SGD"
    assert module.configuration["optimizer"]["arguments"]["momentum"] == 0.8
    assert module.configuration["weights_digest"] == weights_digest(module.retina)
    assert module.configuration["max_steps"] == 100
    rule = {"class": "RowConvergence", "arguments": {"relative_gain": 0.5, "patience": 3}}
    assert module.configuration["convergence"] == rule
    assert module.hparams["seed"] == 7
    assert len({module.problem.starts.seed_of(number, restart) for number in range(2) for restart in range(3)}) == 6


def test_an_optimizer_of_something_else_is_refused():
    module = ml.StimulusModule(
        lambda stimulus: stimulus.flatten(1).sum(1),
        torch.ones(1, 1, 1, 2, 2),
        optimizer=lambda _: torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0),
    )
    with pytest.raises(ValueError, match="does not hold the stimulus"):
        fit(module, 1)


def test_a_run_of_no_steps_is_refused(simulated):
    with pytest.raises(ValueError, match="max_steps=0 leaves nothing to do"):
        find(simulated, [("session_1", 0)], max_steps=0)


def test_a_place_that_is_too_small_for_a_neuron_is_refused():
    with pytest.raises(ValueError, match="rows_per_device=3 has no room for a neuron with restarts=4"):
        ml.MEIModule(still_model(), [0], restarts=4, rows_per_device=3)


def test_find_meis_takes_another_convergence(simulated):
    meis = find(
        simulated, [("session_1", 0)], restarts=1, callbacks=[ml.RowConvergence(relative_gain=10.0, patience=2)]
    )
    assert meis.steps.item() < 10
    assert '"patience": 2' in meis.attrs["configuration"]
