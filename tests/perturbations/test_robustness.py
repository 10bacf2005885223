"""Jitter, noise and random members while stimuli are optimised."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import (
    NO_LIMIT,
    STILL_FORMAT,
    assert_same_meis,
    find,
    fit,
    linear_model,
    read,
    results,
    still_model,
    video_model,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback
from processes import fit as fit_on_devices
from scipy import stats
from torch import nn

import mei_lightning as ml
from mei_lightning.cli.main import main
from mei_lightning.perturbations.draws import bits, integers, keys_of, normals
from mei_lightning.perturbations.members import scores_by_members
from mei_lightning.perturbations.perturbations import translate

MASK = 2**64 - 1


def split_mix(seed, count):
    """SplitMix64 as it was published, in Python's integers."""
    numbers = []
    for _ in range(count):
        seed = (seed + 0x9E3779B97F4A7C15) & MASK
        mixed = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & MASK
        numbers.append(mixed ^ (mixed >> 31))
    return numbers


def key_by_hand(seed, step, part):
    """Three levels of SplitMix64: of the seed, the numbers step and part of what it gives."""
    (key,) = split_mix(seed & MASK, 1)
    for number in (step, part):
        key = split_mix(key, number + 1)[-1]
    return key


# Random numbers


def test_split_mix_gives_its_published_numbers():
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert split_mix(1234567, 4) == expected
    assert [number & MASK for number in bits(torch.tensor([1234567]), 4)[0].tolist()] == expected


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 400), st.integers(0, 5))
@settings(max_examples=30)
def test_keys_are_those_of_seed_step_and_part_whatever_rows_there_are(seed, step, part):
    rows = keys_of(torch.tensor([3, seed, 5]), torch.tensor([1, step, 2], dtype=torch.int32), part)
    key = key_by_hand(seed, step, part)
    assert rows[1].item() & MASK == key
    assert [number & MASK for number in bits(rows, 5)[1].tolist()] == split_mix(key, 5)


def test_numbers_are_random():
    # As near to each other as seeds, steps and parts are in a run.
    seeds, steps, parts = (axis.flatten() for axis in torch.meshgrid(*[torch.arange(10)] * 3, indexing="ij"))
    keys = torch.cat([keys_of(seeds[parts == part], steps[parts == part], part) for part in range(10)])
    assert len(keys.unique()) == 1000
    drawn = normals(keys, 501, torch.float32).numpy()
    assert stats.kstest(drawn.ravel(), "norm").pvalue > 1e-3
    # Between rows as well as between values of a row there is no more correlation than by chance.
    assert abs(stats.kurtosis((drawn @ drawn.T)[np.triu_indices(1000, 1)] / np.sqrt(501))) < 0.2
    assert (drawn @ drawn.T)[np.triu_indices(1000, 1)].std() == pytest.approx(np.sqrt(501), rel=0.02)
    assert abs((drawn[:, 1:] * drawn[:, :-1]).mean()) < 0.005
    for column in integers(keys, [(-2, 2), (0, 0), (0, 6)]).T.numpy():
        _, counts = np.unique(column, return_counts=True)
        assert stats.chisquare(counts).pvalue > 1e-3 if len(counts) > 1 else (column == 0).all()
    assert set(integers(keys, [(-2, 2)]).flatten().tolist()) == {-2, -1, 0, 1, 2}


# Perturbations


def moved(stimulus, frames, y, x):
    """One stimulus, moved pixel by pixel."""
    target = np.zeros_like(stimulus)
    _, height, width = stimulus.shape[1:]
    for t in range(stimulus.shape[1]):
        for row in range(height):
            for column in range(width):
                there = t + frames, row + y, column + x
                if all(0 <= place < size for place, size in zip(there, stimulus.shape[1:], strict=True)):
                    target[(slice(None), *there)] = stimulus[:, t, row, column]
    return target


@given(st.lists(st.tuples(*[st.integers(-4, 4)] * 3), min_size=1, max_size=4))
@settings(max_examples=20)
def test_rows_are_moved_by_their_own_distances(distances):
    stimulus = torch.randn(len(distances), 2, 4, 6, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found = translate(stimulus, torch.tensor(distances))
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    (found * weights).sum().backward()
    for row, distance in enumerate(distances):
        np.testing.assert_array_equal(found[row].detach(), moved(stimulus[row].detach().numpy(), *distance))
        # The gradient of a shift is the shift back.
        back = moved(weights[row].numpy(), *(-number for number in distance))
        np.testing.assert_array_equal(stimulus.grad[row], back)


def test_jitter_reaches_its_largest_distances_and_no_farther():
    stimulus = torch.zeros(2000, 1, 9, 9, 9)
    stimulus[:, :, 4, 4, 4] = 1
    places = ml.Jitter(space=2, time=1)(stimulus, keys_of(torch.arange(2000), torch.zeros(2000), 0)).nonzero()[:, 2:]
    assert places.amin(dim=0).tolist() == [3, 2, 2]
    assert places.amax(dim=0).tolist() == [5, 6, 6]
    assert len(places.unique(dim=0)) == 3 * 5 * 5


class Quadratic(ml.Objective):
    """Minus the squared distance to 1, times a half: its gradient tells where it was taken."""

    def forward(self, stimulus):
        return -0.5 * (stimulus - 1).square().flatten(1).sum(dim=1)


def test_the_gradient_is_that_of_the_noisy_stimulus_and_the_score_that_of_the_stimulus():
    initial = torch.randn(2, 1, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    seen = []

    class Visited(Callback):
        def on_train_batch_end(self, trainer, module, *_):
            seen.append(module.stimulus.detach().clone())

    module = ml.StimulusModule(
        Quadratic(),
        initial,
        optimizer=partial(torch.optim.SGD, lr=0.1),
        robustness=[ml.Noise(0.5)],
        regularizer=ml.SpatialSmoothness(0.1),
        seeds=[7, 9],
        check_interval=3,
    )
    fit(module, 7, Visited())
    before = initial
    for step, after in enumerate(seen):
        cost = before.clone().requires_grad_()
        ml.SpatialSmoothness(0.1)(cost).sum().backward()
        noise = normals(keys_of(torch.tensor([7, 9]), torch.tensor([step, step]), 0), 18, torch.float32)
        gradient = (1 - before - 0.5 * noise.view(initial.shape)) - cost.grad
        torch.testing.assert_close(after, before + 0.1 * gradient)
        before = after
    assert torch.stack(seen).diff(dim=0).abs().max() > 0.05
    torch.testing.assert_close(module.best_score, Quadratic()(module.best_stimulus))


def test_of_a_linear_neuron_noise_changes_nothing():
    plain = find(linear_model(), [0, 2], time_steps=4, restarts=2)
    noisy = find(linear_model(), [0, 2], time_steps=4, restarts=2, robustness=[ml.Noise(0.3)])
    assert_same_meis(noisy, plain)


@pytest.mark.slow
def test_what_is_found_under_jitter_is_better_and_loses_less_when_it_is_moved(twin):
    neurons = [("session_1", 0), ("session_1", 2)]
    found, share = {}, {}
    for name, robustness in {"plain": [], "robust": [ml.Jitter(space=2)]}.items():
        meis = find(twin, neurons, time_steps=36, norm=5.0, search="quick", robustness=robustness)
        around = [moved(mei, 0, y, x) for mei in meis["stimulus"].values for y in range(-2, 3) for x in range(-2, 3)]
        with torch.no_grad():
            responses = twin(torch.from_numpy(np.stack(around)), "session_1").mean(dim=1)[:, [0, 2]]
        scores = responses.view(2, 25, 2)[[0, 1], :, [0, 1]].numpy()
        np.testing.assert_allclose(scores[:, 12], meis["score"], rtol=1e-4)
        found[name], share[name] = scores.mean(axis=1), scores.mean(axis=1) / scores[:, 12]
    assert (found["robust"] > found["plain"]).all()
    assert (share["robust"] > share["plain"] + 0.04).all()


# Members of an ensemble


def linear_members(count=3):
    return ml.Ensemble([linear_model(seed=seed) for seed in range(count)])


def test_each_row_follows_one_member_at_each_step_and_is_scored_by_all():
    ensemble = linear_members()
    kernels = torch.stack([member.network.kernels for member in ensemble.members])
    neurons, seeds = [2, 0, 1, 0, 2], [11, 5, 2**62, 0, 8]
    objective = ml.NeuronObjective(ensemble, neurons, ml.MeanReducer())
    initial = torch.randn(5, 2, 4, 6, 5, generator=torch.Generator().manual_seed(0))
    gradients = []

    class Gradients(Callback):
        def on_before_optimizer_step(self, trainer, module, optimizer):
            gradients.append(-module.stimulus.grad.clone())

    module = ml.StimulusModule(
        objective,
        initial,
        optimizer=partial(torch.optim.SGD, lr=1e-3),
        robustness=[ml.Noise(0.1), ml.RandomMember()],
        seeds=seeds,
        check_interval=4,
    )
    fit(module, 10, Gradients())
    followed = set()
    for step, gradient in enumerate(gradients):
        for row, (neuron, seed) in enumerate(zip(neurons, seeds, strict=True)):
            member = (split_mix(key_by_hand(seed, step, 1), 1)[0] >> 33) * 3 >> 31
            torch.testing.assert_close(gradient[row], kernels[member, neuron])
            followed.add((row, member))
    assert len(followed) == 5 * 3
    torch.testing.assert_close(module.best_score, objective(module.best_stimulus).detach())


def test_scores_by_members_are_in_the_order_of_the_rows():
    ensemble, neurons, members = linear_members(), [2, 0, 1, 0], [1, 0, 2, 1]
    whole = ml.NeuronObjective(ensemble, neurons, ml.MeanReducer())
    stimulus = torch.randn(4, 2, 4, 6, 5, generator=torch.Generator().manual_seed(0))
    found = scores_by_members(members, [whole.on(member).for_rows for member in ensemble.members], stimulus)
    for row, (member, neuron) in enumerate(zip(members, neurons, strict=True)):
        expected = (ensemble.members[member].network.kernels[neuron] * stimulus[row]).sum()
        torch.testing.assert_close(found[row], expected)


@pytest.mark.slow
def test_members_are_followed_on_the_prepared_model_too(twin):
    other = copy.deepcopy(twin)
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1.05)
    ensemble = ml.Ensemble([twin, other])
    options = {"time_steps": 34, "restarts": 1, "max_steps": 8, "robustness": [ml.RandomMember()]}
    neurons = [("session_1", index) for index in (0, 3, 5)]
    fast = find(ensemble, neurons, **options)
    slow = find(ensemble, neurons, fast_path=False, **options)
    np.testing.assert_allclose(fast["score"], slow["score"], rtol=1e-4)
    alone = find(ensemble, neurons[1:2], **options)
    np.testing.assert_array_equal(fast["stimulus"][1], alone["stimulus"][0])


# Rows, batches, devices, interruptions


def video_ensemble():
    return ml.Ensemble([video_model(0), video_model(1)])


NEURONS = [("monday", 0), ("tuesday", 1), ("monday", 3)]
ALL_KINDS = [ml.Jitter(space=1, time=1), ml.Noise(0.05), ml.RandomMember()]
# Movies with the default effort: starts, finalists and shifted rows.
OPTIONS = {"time_steps": 16, "norm": 3.0, "max_steps": 16, "robustness": ALL_KINDS, "fast_path": False}


@pytest.fixture(scope="module")
def whole():
    return find(video_ensemble(), NEURONS, **OPTIONS)


def test_perturbations_are_at_work(whole):
    plain = find(video_ensemble(), NEURONS, **{**OPTIONS, "robustness": []})
    assert not np.isclose(plain["restart_scores"], whole["restart_scores"], rtol=1e-4).any()
    other = find(video_ensemble(), NEURONS, **OPTIONS, seed=1)
    assert not np.isclose(other["restart_scores"], whole["restart_scores"], rtol=1e-4).any()


class Mine(ml.Perturbation):
    """A perturbation of a user's own, that remembers the keys it was given."""

    def __init__(self):
        self.keys = []

    def __call__(self, stimulus, keys):
        self.keys += keys.tolist()
        return stimulus


def test_every_row_has_another_key_at_every_step():
    mine = Mine()
    found = find(video_model(), NEURONS, **{**OPTIONS, "robustness": [mine]})
    # Starts and shifted rows of all neurons, for as many steps as the best ones took, and more.
    assert len(mine.keys) > 2 * found["steps"].values.sum()
    assert len(set(mine.keys)) == len(mine.keys)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [3, 7])
def test_a_row_does_not_know_its_neighbours(whole, rows):
    order = [2, 0, 1]
    neurons = [NEURONS[number] for number in order]
    assert_same_meis(find(video_ensemble(), neurons, rows_per_device=rows, **OPTIONS), whole.isel(neuron=order), 1e-4)
    assert_same_meis(find(video_ensemble(), neurons[1:2], **OPTIONS), whole.isel(neuron=[0]), 1e-4)


def test_scores_are_those_of_the_stimuli_by_all_members_and_stimuli_are_feasible(whole):
    for number, (session, index) in enumerate(NEURONS):
        stimulus = torch.from_numpy(whole["stimulus"].values[number : number + 1])
        assert stimulus.norm().item() == pytest.approx(3.0, rel=1e-5)
        score = np.mean([member(stimulus, session)[0, :, index].mean().item() for member in video_ensemble().members])
        assert whole["score"].values[number] == pytest.approx(score, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("interrupted", [6, 9, 11])
def test_an_interrupted_run_ends_as_if_it_had_not_been(whole, tmp_path, interrupted):
    def run(max_steps, **more):
        return fit(ml.MEIModule(video_ensemble(), NEURONS, **OPTIONS), max_steps, ml.RowConvergence(), **more)

    trainer = run(interrupted, directory=tmp_path / "begun")
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    assert "interrupted" in read(tmp_path / "begun").status
    assert_same_meis(results(run(NO_LIMIT, ckpt_path=tmp_path / "half.ckpt")), whole, 1e-4)
    assert_same_meis(results(run(NO_LIMIT, directory=tmp_path / "begun")), whole, 1e-4)


@pytest.mark.slow
def test_two_devices_find_what_one_finds(whole, tmp_path):
    options = {key: value for key, value in OPTIONS.items() if key != "robustness"}
    found = fit_on_devices(
        tmp_path, 2, model=video_ensemble(), neurons=NEURONS, restarts=None, robustness=ALL_KINDS, **options
    )
    assert_same_meis(found, whole, 1e-4)


def test_a_run_with_other_perturbations_is_not_continued(tmp_path):
    options = {"time_steps": 8, "max_steps": 2, "directory": tmp_path}
    find(video_model(), NEURONS[:1], robustness=[ml.Jitter(space=1)], **options)
    with pytest.raises(ValueError, match=r"robustness: it was \[Jitter\(space=1, time=0\)\], now it is nothing"):
        find(video_model(), NEURONS[:1], **options)


# Gradients that vanish


class Window(nn.Module):
    """Sees the corner pixel, if that is positive."""

    def forward(self, image):
        return torch.relu(image[:, 0, :1, 0])


def test_a_row_whose_gradient_vanishes_at_some_steps_goes_on():
    initial = torch.zeros(1, 1, 1, 7, 6)
    initial[..., 0, 0] = initial[..., 1, 1] = 1.0
    initial = initial.repeat(8, 1, 1, 1, 1)
    jitter = ml.Jitter(space=1)
    keys = [keys_of(torch.arange(8), torch.full((8,), step), 0) for step in range(40)]
    # Many moves take what the neuron sees out of its sight.
    blind = torch.stack([jitter(initial, own)[:, 0, 0, 0, 0] == 0 for own in keys], dim=1)
    assert blind.float().mean() > 0.5
    # Steps so small that this remains what it sees.
    objective = ml.NeuronObjective(ml.RetinaModel(Window(), STILL_FORMAT, 1), [0] * 8, ml.MeanReducer())
    optimizer = partial(torch.optim.SGD, lr=1e-4)
    module = ml.StimulusModule(objective, initial, optimizer=optimizer, robustness=[jitter], max_steps=40)
    with pytest.warns(UserWarning, match="stimuli ended with 'no gradient'"):
        fit(module, NO_LIMIT)
    ends = []
    for row in blind.tolist():
        runs = [step for step in range(3, 40) if all(row[step - 3 : step + 1])]
        ends.append(runs[0] if runs else 40)
    assert module.steps.tolist() == ends
    assert 40 > max(ends) > 4


def test_a_row_without_any_gradient_says_so():
    model = ml.RetinaModel(Window(), STILL_FORMAT, 1)
    objective = ml.NeuronObjective(model, [0], ml.MeanReducer())
    module = ml.StimulusModule(objective, -torch.ones(1, 1, 1, 7, 6), robustness=[ml.Noise(0.01)], max_steps=20)
    with pytest.warns(UserWarning, match="1 of 1 stimuli ended with 'no gradient': row_0"):
        fit(module, NO_LIMIT, ml.RowConvergence())
    assert module.steps.item() == 3


# Refusals


@pytest.mark.parametrize("wrong", [{}, {"space": -1}, {"space": 1, "time": -1}, {"space": 1.5}, {"time": float("nan")}])
def test_jitter_needs_a_distance(wrong):
    with pytest.raises(ValueError, match=r"Jitter\(space=.*\) needs whole numbers of pixels and frames"):
        ml.Jitter(**wrong)


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), float("inf")])
def test_noise_needs_a_standard_deviation(wrong):
    with pytest.raises(ValueError, match=r"Noise\(standard_deviation=.*\) has to be positive"):
        ml.Noise(wrong)


def test_what_does_not_fit_is_refused_before_any_work():
    with pytest.raises(ValueError, match=r"Jitter\(space=5, time=0\) can move a stimulus of 8 frame\(s\) of 6 x 5"):
        ml.MEIModule(video_model(), NEURONS, time_steps=8, robustness=[ml.Jitter(space=5)])
    with pytest.raises(ValueError, match=r"Jitter\(space=1, time=2\) moves in time, which a still image does not have"):
        ml.MEIModule(still_model(), [0], robustness=[ml.Jitter(space=1, time=2)])
    for model, name in ((video_model(), "VideoNetwork"), (ml.Ensemble([video_model()]), "Ensemble")):
        with pytest.raises(TypeError, match=rf"RandomMember\(\): model '{name}' is not an ensemble of several models"):
            ml.MEIModule(model, NEURONS, time_steps=8, robustness=[ml.RandomMember()])
    with pytest.raises(TypeError, match=r"RandomMember\(\) needs the objective of neurons .* this is a Quadratic"):
        ml.StimulusModule(Quadratic(), torch.ones(1, 1, 1, 2, 2), robustness=[ml.RandomMember()])
    with pytest.raises(ValueError, match=r"2 seeds for 1 row\(s\)"):
        ml.StimulusModule(Quadratic(), torch.ones(1, 1, 1, 2, 2), seeds=[0, 1])


# As a user says it


@pytest.mark.slow
def test_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["mei-lightning"])
    config = tmp_path / "robust.yaml"
    config.write_text("""
model:
  retina: simulated
  neurons: [[session_1, 0]]
  time_steps: 24
  max_steps: 3
  robustness:
    - class_path: mei_lightning.Jitter
      init_args: {space: 1, time: 1}
    - class_path: mei_lightning.Noise
      init_args: {standard_deviation: 0.1}
""")
    main(
        [
            "fit",
            "--config",
            str(config),
            "--trainer.enable_progress_bar=false",
            "--results.directory=results",
            "--results.report=false",
        ]
    )
    expected = find(
        "simulated",
        [("session_1", 0)],
        time_steps=24,
        max_steps=3,
        robustness=[ml.Jitter(space=1, time=1), ml.Noise(0.1)],
    )
    written = xr.open_zarr("results/meis.zarr").load()
    np.testing.assert_array_equal(written["stimulus"], expected["stimulus"])
    assert written.attrs == expected.attrs
