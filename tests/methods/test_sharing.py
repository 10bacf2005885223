"""Neurons that take over MEIs from others: built populations with known optima, and what holds for any population."""

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import find, still_model, video_model
from torch import nn

import mei_lightning as ml
from mei_lightning.analysis import prediction
from mei_lightning.cli.main import main
from mei_lightning.methods import sharing
from mei_lightning.methods.donors import Candidate, Donors
from mei_lightning.results.lock import RunLock

QUIET = {"progress_bar": False, "accelerator": "cpu"}
HEIGHT, WIDTH = 14, 12
NORM = 3.0
GOOD = [(-1, 0), (0, -1), (0, 0), (0, 1), (1, 0)]
POOR = [(-1, -1), (-1, 1), (1, -1), (1, 1)]


def pattern(pixels, place, signs=None):
    """A filter of length 1 over some pixels around a place ``[channels, time, height, width]``."""
    image = torch.zeros(1, 1, HEIGHT, WIDTH)
    for number, (y, x) in enumerate(pixels):
        image[0, 0, place[0] + y, place[1] + x] = 1.0 if signs is None else signs[number]
    return image / image.norm()


class TwoOptima(nn.Module):
    """Each neuron answers to a cross at its place, or, half as much, to the corners around it, whichever is more.

    At a norm of r the best stimulus is the cross, with a response of r; the corners are a poor local optimum, of r / 2.
    """

    def __init__(self, places, signs=None):
        super().__init__()
        signs = [None] * len(places) if signs is None else signs
        good = [pattern(GOOD, place, sign) for place, sign in zip(places, signs, strict=True)]
        self.good = nn.Parameter(torch.stack(good).flatten(1))
        self.poor = nn.Parameter(torch.stack([pattern(POOR, place) for place in places]).flatten(1))

    def forward(self, image):
        flat = image.flatten(1)
        return torch.maximum(flat @ self.good.T, flat @ self.poor.T / 2)


PLACES = [(3, 3), (7, 5), (10, 8), (4, 8)]
STUCK = 2


def population(places=PLACES, signs=None):
    return ml.RetinaModel(TwoOptima(places, signs), ml.StimulusFormat(("grey",), height=HEIGHT, width=WIDTH))


def found_in(directory, stuck=(STUCK,), places=PLACES, signs=None, **settings):
    """A store in which some neurons were stopped at their poor optimum, since they began there."""
    model = population(places, signs)
    network = model.network
    starts = torch.where(
        torch.tensor([[number in stuck] for number in range(len(places))]), network.poor, network.good
    ).detach()
    meis = ml.find_meis(
        model,
        list(range(len(places))),
        norm=NORM,
        initial=ml.GivenStimuli(starts.view(-1, 1, 1, HEIGHT, WIDTH)),
        restarts=1,
        directory=directory,
        **settings,
        **QUIET,
    )
    expected = [NORM / 2 if number in stuck else NORM for number in range(len(places))]
    np.testing.assert_allclose(meis.score, expected, rtol=1e-5)
    return directory / "meis.zarr", model


def test_a_neuron_at_a_poor_optimum_is_helped_by_one_that_sees_elsewhere(tmp_path):
    store, model = found_in(tmp_path)
    meis = ml.share_meis(store, model, **QUIET)
    np.testing.assert_allclose(meis.score, NORM, rtol=1e-5)
    cross = pattern(GOOD, PLACES[STUCK]) * NORM
    np.testing.assert_allclose(meis.stimulus[STUCK], cross, atol=1e-5)
    np.testing.assert_allclose(meis.response[STUCK], NORM, rtol=1e-5)
    assert meis.shared_from.values.tolist() == ["", "", "0", ""]
    np.testing.assert_allclose(meis.score_before_sharing[STUCK], NORM / 2, rtol=1e-5)
    assert np.isnan(meis.score_before_sharing.values[[0, 1, 3]]).all()
    assert meis.sharing_steps[STUCK] > 0
    assert meis.steps[STUCK] == meis.sharing_steps[STUCK]
    assert (meis.best_restart[STUCK], meis.seed[STUCK]) == (-1, -1)
    assert not (tmp_path / "meis_sharing").exists()
    # The store says the same, and can be continued as before.
    xr.testing.assert_identical(xr.open_zarr(store).load().drop_encoding(), meis.load().drop_encoding())
    assert ml.MEIStore(store).finished() == {0, 1, 2, 3}


@pytest.mark.slow
def test_a_second_round_keeps_what_the_first_has_said(tmp_path):
    store, model = found_in(tmp_path)
    first = ml.share_meis(store, model, **QUIET).load()
    second = ml.share_meis(store, model, **QUIET).load()
    for name in ("stimulus", "score", "shared_from", "score_before_sharing"):
        xr.testing.assert_identical(first[name], second[name])


def test_few_donors_are_those_that_respond_alike(tmp_path):
    """Of 24 neurons of 8 kinds two are stuck. With 10 donors, 5 of them are the same for all."""
    generator = torch.Generator().manual_seed(3)
    kinds = torch.randn(8, len(GOOD), generator=generator)
    # A cross of equal energy everywhere has its centre at its place.
    kinds = kinds.sign() * torch.tensor([1.0, 0.8, 1.3, 0.8, 1.0])
    kinds = torch.unique(kinds, dim=0)
    of_neuron = [number % len(kinds) for number in range(24)]
    places = [(2 + number * 5 % 10, 2 + number * 7 % 8) for number in range(24)]
    store, model = found_in(tmp_path, (4, 17), places, kinds[of_neuron].tolist())
    meis = ml.share_meis(store, model, donors=10, least_share=0.5, **QUIET)
    np.testing.assert_allclose(meis.score, NORM, rtol=1e-5)
    for number in (4, 17):
        assert int(meis.shared_from[number].item()) % len(kinds) == number % len(kinds)


@pytest.mark.slow
def test_the_round_is_the_same_one_by_one_and_all_together(tmp_path, monkeypatch):
    store, model = found_in(tmp_path / "together", (1, 2))
    together = ml.share_meis(store, model, **QUIET).load()
    store, model = found_in(tmp_path / "apart", (1, 2))
    monkeypatch.setattr(prediction, "rows_that_fit", lambda *_: 1)
    apart = ml.share_meis(store, model, rows_per_device=1, **QUIET).load()
    xr.testing.assert_identical(together, apart)


@pytest.mark.parametrize("seed", range(4))
def test_no_neuron_becomes_worse(tmp_path, seed):
    """Random networks, and searches that are too short: whatever is replaced is better, and is what it says."""
    model, settings = still_model(seed), {"norm": 4.0, "ranges": [(-0.9, 1.1)]}
    before = find(model, range(5), max_steps=3, restarts=1, seed=seed, directory=tmp_path, **settings).load()
    meis = ml.share_meis(tmp_path / "meis.zarr", model, least_share=0.1, least_gain=0.0, **QUIET).load()
    assert (meis.score >= before.score).all()
    replaced = meis.shared_from.values != ""
    np.testing.assert_array_equal(replaced, (meis.score > before.score).values)
    assert replaced.any()
    np.testing.assert_array_equal(meis.stimulus[~replaced], before.stimulus[~replaced])
    np.testing.assert_array_equal(meis.score_before_sharing[replaced], before.score[replaced])
    stimuli = torch.from_numpy(meis.stimulus.values)
    with torch.no_grad():
        responses = model(stimuli)[:, 0].diagonal()
    np.testing.assert_allclose(meis.score, responses, rtol=1e-5)
    np.testing.assert_allclose(stimuli.flatten(1).norm(dim=1), 4.0, rtol=1e-5)
    assert stimuli.min() >= -0.9
    assert stimuli.max() <= 1.1


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["while ascents go on", "at the first replacement", "at the second"])
def test_an_interrupted_round_leaves_a_store_and_is_continued(tmp_path, monkeypatch, moment):
    store, model = found_in(tmp_path / "undisturbed", (1, 2))
    undisturbed = ml.share_meis(store, model, **QUIET).load()
    store, model = found_in(tmp_path / "disturbed", (1, 2))
    before = xr.open_zarr(store).load()
    replacements = []

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    def write(self, result, original=ml.MEIStore.write):
        if self.path == store:
            replacements.append(result.number)
            if len(replacements) == (1 if moment == "at the first replacement" else 2):
                interrupted()
        original(self, result)

    with monkeypatch.context() as patch:
        if moment == "while ascents go on":
            patch.setattr(sharing, "meis_in", interrupted)
        else:
            patch.setattr(ml.MEIStore, "write", write)
        with pytest.raises(KeyboardInterrupt, match="The same call goes on"):
            ml.share_meis(store, model, **QUIET)
    ml.MEIStore(store).collect()
    between = xr.open_zarr(store).load()
    assert (between.score >= before.score).all()
    assert (between.status == "converged").all()
    # What is chosen is not chosen anew.
    monkeypatch.setattr(Donors, "best", interrupted)
    xr.testing.assert_identical(ml.share_meis(store, model, **QUIET).load(), undisturbed)
    assert not (store.parent / "meis_sharing").exists()


def test_one_that_is_killed_in_the_middle_of_a_replacement_is_continued(tmp_path, monkeypatch):
    """The old MEI is gone then, and the new one not yet there: the neuron is pending."""
    store, model = found_in(tmp_path)

    def killed(self, variable, key, values, original=ml.MEIStore._put):
        if self.path == store and variable == "stimulus":
            raise KeyboardInterrupt
        original(self, variable, key, values)

    with monkeypatch.context() as patch:
        patch.setattr(ml.MEIStore, "_put", killed)
        with pytest.raises(KeyboardInterrupt):
            ml.share_meis(store, model, **QUIET)
    assert ml.MEIStore(store).finished() == {0, 1, 3}
    meis = ml.share_meis(store, model, **QUIET)
    np.testing.assert_allclose(meis.score, NORM, rtol=1e-5)
    np.testing.assert_allclose(meis.score_before_sharing[STUCK], NORM / 2, rtol=1e-5)


def test_neurons_that_are_not_done_stay_so(tmp_path):
    model = population()
    meis = find(model, range(4), norm=NORM, directory=tmp_path / "other").load()
    problem = ml.MEIProblem(model, range(4), ml.MEISettings(norm=NORM))
    store = ml.MEIStore.create(tmp_path / "meis.zarr", problem.description, problem.configuration)
    for number in (1, 3):
        mei = meis.isel(neuron=number)
        names = ("steps", "best_restart", "seed", "restart_similarity")
        values = {name: mei[name].item() for name in names}
        arrays = {name: mei[name].values for name in ("stimulus", "response", "restart_scores")}
        store.write(ml.MEIResult(number=number, score=mei.score.item(), status="converged", **arrays, **values))
    store.collect()
    shared = ml.share_meis(store.path, model, **QUIET)
    assert shared.status.values.tolist() == ["pending", "converged", "pending", "converged"]
    assert (shared.shared_from == "").all()


def test_a_mei_is_moved_in_time_as_well(tmp_path):
    """Two neurons see the same two frames after each other, one of them a frame later."""

    class Frames(nn.Module):
        def __init__(self):
            super().__init__()
            kernel = torch.zeros(2, 1, 6, 1, 1)
            kernel[0, 0, 1:3, 0, 0] = torch.tensor([0.6, 0.8])
            kernel[1, 0, 3:5, 0, 0] = torch.tensor([0.6, 0.8])
            self.kernel = nn.Parameter(kernel.flatten(1))

        def forward(self, stimulus):
            return (stimulus.flatten(1) @ self.kernel.T)[:, None]

    model = ml.RetinaModel(Frames(), ml.StimulusFormat(("grey",), height=1, width=1, frame_rate=30.0, frames_lost=5), 2)
    problem = ml.MEIProblem(model, [0, 1], ml.MEISettings(norm=2.0, time_steps=6))
    meis = [np.zeros((1, 6, 1, 1), np.float32) for _ in range(2)]
    meis[0][0, 1:3, 0, 0] = [1.2, 1.6]
    meis[1][0, 0, 0, 0] = 2.0
    best = Donors(problem, {0: 2.0, 1: 0.0}, meis.__getitem__, **QUIET).best(1)
    assert best[1].candidate == Candidate(0, frames=2, rows=0, columns=0)
    assert best[1].value == pytest.approx(2.0, rel=1e-5)


@pytest.mark.parametrize(("frames", "rows", "columns"), [(0, 0, 0), (1, -2, 0), (-2, 1, 3), (0, 9, 0), (5, 0, -9)])
def test_what_is_moved_in_is_zero(frames, rows, columns):
    stimulus = np.random.default_rng(0).normal(size=(2, 4, 5, 6)).astype(np.float32)
    moved = Candidate(0, frames, rows, columns).of(stimulus)
    for c, t, y, x in np.ndindex(stimulus.shape):
        at = (t - frames, y - rows, x - columns)
        there = all(0 <= one < size for one, size in zip(at, stimulus.shape[1:], strict=True))
        assert moved[c, t, y, x] == (stimulus[(c, *at)] if there else 0)


class Doubled(ml.NeuronObjective):
    """An objective that looks at the stimulus as well, so that it has to have one for each row."""

    def forward(self, stimulus):
        return super().forward(stimulus) - stimulus.flatten(1).square().sum(dim=1)


@pytest.mark.parametrize("kind", [ml.NeuronObjective, Doubled])
def test_pairs_are_scored_as_one_by_one(kind):
    model = video_model()
    neurons = [("monday", 0), [("tuesday", 1), ("monday", 2)], ("tuesday", 2)]
    objective = kind(model, neurons, ml.MeanReducer())
    stimuli = torch.randn(5, 2, 7, 6, 5, generator=torch.Generator().manual_seed(0))
    seen_by = [[0], [2, 1, 0], [1], [0, 1], [2]]
    scores = prediction.predict_pairs(objective, lambda numbers: stimuli[numbers], seen_by, title="Pairs", **QUIET)
    expected = [objective.for_rows([row])(stimuli[[i]]) for i, rows in enumerate(seen_by) for row in rows]
    torch.testing.assert_close(scores, torch.cat(expected).detach())


@pytest.mark.parametrize(("factor", "replaced"), [(10.0, False), (0.01, True)])
def test_with_a_cost_the_value_counts(tmp_path, factor, replaced):
    """A cross at the receiver's place costs 9 / 5 of the factor, the corners around it nothing."""
    y, x = PLACES[STUCK]

    class CostOfCross(ml.Regularizer):
        def forward(self, stimulus):
            return self.factor * stimulus[:, 0, 0, y, x].square()

    store, model = found_in(tmp_path, regularizer=CostOfCross(factor))
    with pytest.raises(ValueError, match="regularizer"):
        ml.share_meis(store, model, **QUIET)
    meis = ml.share_meis(store, model, regularizer=CostOfCross(factor), **QUIET)
    assert (meis.shared_from[STUCK] == "0") == replaced
    assert (meis.sharing_steps[STUCK] > 0) == replaced


def test_with_a_mask_it_has_to_be_given(tmp_path):
    mask = np.ones((HEIGHT, WIDTH))
    mask[0] = 0
    store, model = found_in(tmp_path, mask=mask)
    with pytest.raises(ValueError, match=r"other settings:\n.*constraint\.mask"):
        ml.share_meis(store, model, **QUIET)
    np.testing.assert_allclose(ml.share_meis(store, model, mask=mask, **QUIET).score, NORM, rtol=1e-5)


def test_what_a_mask_freezes_is_no_candidate():
    """The MEI of the donor, moved to where the other's is, would be grey, which excites them more than theirs."""

    class Bright(nn.Module):
        def forward(self, image):
            return 5.0 + image.flatten(1)[:, :1].repeat(1, 2)

    model = ml.RetinaModel(Bright(), ml.StimulusFormat(("grey",), height=6, width=6))
    mask = np.ones((6, 6))
    mask[4:] = 0
    problem = ml.MEIProblem(model, [0, 1], ml.MEISettings(norm=2.0, mask=mask))
    meis = np.zeros((2, 1, 1, 6, 6), np.float32)
    meis[0, 0, 0, 1, 2] = meis[1, 0, 0, 5, 2] = 2.0
    best = Donors(problem, {0: 1.0, 1: 1.0}, meis.__getitem__, **QUIET).best(1)
    assert best.keys() == {0}
    assert best[0].candidate == Candidate(1, 0, -4, 0)


def test_what_is_refused(tmp_path):
    store, model = found_in(tmp_path)
    with pytest.raises(ValueError, match="weights_digest"):
        ml.share_meis(store, population(signs=[[1.0, 1, 1, 1, 2]] * 4), **QUIET)
    with pytest.raises(ValueError, match=r"constraint\.norm: it was 3"):
        ml.share_meis(store, model, norm=2.0, **QUIET)
    with pytest.raises(FileNotFoundError, match="no store of MEIs"):
        ml.share_meis(tmp_path / "nothing.zarr", model, **QUIET)
    for bad in ({"donors": 0}, {"least_share": 3.0}, {"least_gain": -0.1}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            ml.share_meis(store, model, **bad, **QUIET)
    lock = RunLock(store)
    lock.acquire()
    with pytest.raises(BlockingIOError):
        ml.share_meis(store, model, **QUIET)
    lock.release()
    ml.save_dataset(xr.open_zarr(store).load(), tmp_path / "copy.zarr")
    with pytest.raises(ValueError, match="not a store of MEIs that a run could continue"):
        ml.share_meis(tmp_path / "copy.zarr", model, **QUIET)


@pytest.mark.slow
def test_the_command(tmp_path, capsys):
    cells = [("session_1", index) for index in (4, 16)]
    before = find("simulated", cells, max_steps=2, restarts=1, directory=tmp_path).load()
    capsys.readouterr()
    main(["share", str(tmp_path / "meis.zarr"), "simulated", "--least_share=0.5", "--accelerator=cpu"])
    meis = xr.open_zarr(tmp_path / "meis.zarr")
    assert (meis.score.values >= before.score.values).all()
    better = int((meis.shared_from != "").sum())
    assert f"{better} of 2 neurons have a better MEI" in capsys.readouterr().out
