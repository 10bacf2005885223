"""MEIs of an ensemble's members beside the ensemble's, against what linear models say in closed form."""

import json
import shutil
import signal

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import find, still_model, video_model
from lightning.pytorch import Callback
from torch import nn

import mei_lightning as ml
from mei_lightning.analysis import members as comparing
from mei_lightning.analysis import side_by_side
from mei_lightning.analysis.members import agreement_of, compare_members, members_of_neurons, members_table

NORM = 2.0
# Which gradients of convolutions are faster is measured, and which are used changes the last bits.
VIDEO = {"time_steps": 8, "search": "quick", "max_steps": 4, "norm": 3.0, "fast_path": False}
NEURONS = [("monday", 0), ("tuesday", 2)]


class Kernels(nn.Module):
    """Each neuron is the inner product of the stimulus with a kernel ``[channels, time, height, width]`` of its own."""

    def __init__(self, kernels):
        super().__init__()
        self.kernels = nn.Parameter(torch.as_tensor(kernels, dtype=torch.float32))

    def forward(self, stimulus):
        return torch.einsum("bcthw,ncthw->bn", stimulus, self.kernels)[:, None]


def linear_ensemble(kernels):
    """Members with kernels ``[member, neuron, channel, time, y, x]``, which they see one response of."""
    _, neurons, channels, frames, height, width = np.shape(kernels)
    names = [f"channel {number}" for number in range(channels)]
    facts = ml.StimulusFormat(names, height, width, frame_rate=30.0, frames_lost=frames - 1)
    return ml.Ensemble([ml.RetinaModel(Kernels(one), facts, neurons) for one in kernels])


def video_ensemble(count=3):
    return ml.Ensemble([video_model(seed) for seed in range(count)])


def correlation_over_shifts(one, other):
    """The cosine at each shift, by moving one stimulus over the other between frames of zeros."""
    frames = one.shape[1]
    beside = np.zeros((one.shape[0], 3 * frames - 2, *one.shape[2:]))
    beside[:, frames - 1 : 2 * frames - 1] = other
    windows = [beside[:, start : start + frames] for start in range(2 * frames - 1)]
    return np.array([(one * window).sum() for window in windows]) / np.linalg.norm(one) / np.linalg.norm(other)


def optima_of(kernels):
    """MEIs ``[mei, neuron, channel, time, y, x]`` of the ensemble and of the members, which are their kernels."""
    each = np.concatenate([kernels.mean(axis=0)[None], kernels])
    return NORM * each / np.sqrt(np.square(each).sum(axis=(2, 3, 4, 5), keepdims=True)), each


def as_found(ensemble, stimuli, **values):
    """A dataset of MEIs as of a run, of stimuli that are known."""
    facts, count = ensemble.stimulus_format, len(stimuli)
    time = np.arange(stimuli.shape[2]) / 30
    return xr.Dataset(
        {
            "stimulus": (("neuron", "channel", "time", "y", "x"), stimuli.astype(np.float32)),
            "score": ("neuron", values.get("score", np.ones(count))),
            "status": ("neuron", values.get("status", ["converged"] * count)),
        },
        {
            "neuron": [str(number) for number in range(count)],
            "session": ("neuron", [""] * count),
            "index": ("neuron", np.arange(count)),
            "channel": list(facts.channel_names),
            "time": ("time", time, {"units": "s"}),
            "y": np.arange(facts.height),
            "x": np.arange(facts.width),
        },
    )


def compared(kernels, **values):
    """How the optima of linear members compare with those of their ensemble, for all neurons."""
    ensemble, (optima, _) = linear_ensemble(kernels), optima_of(kernels)
    neurons = np.shape(kernels)[1]
    objectives = [
        ml.NeuronObjective(model, list(range(neurons)), ml.MeanReducer()) for model in (ensemble, *ensemble.members)
    ]
    meis, *of_members = [as_found(ensemble, stimuli, **values) for stimuli in optima]
    parts = compare_members(meis, dict(enumerate(of_members)), objectives, accelerator="cpu", progress_bar=False)
    return xr.concat(list(parts), "neuron", data_vars="minimal", coords="minimal", compat="override", join="override")


def test_identical_members_have_the_same_mei():
    found = compared(np.tile(np.random.default_rng(1).standard_normal((1, 2, 2, 4, 6, 5)), (3, 1, 1, 1, 1, 1)))
    np.testing.assert_allclose(found["member_similarity"], 1, atol=1e-6)
    np.testing.assert_allclose(found["relative_score"], 1, rtol=1e-5)
    expected = np.broadcast_to(found["cross_score"].values[:, :1, :1], (2, 4, 4))
    np.testing.assert_allclose(found["cross_score"], expected, rtol=1e-5)
    np.testing.assert_allclose(found["agreement"], 1, atol=1e-6)
    np.testing.assert_array_equal(found["member_shift"], 0)
    table = members_table(found)
    assert table.index.tolist() == ["member 0", "member 1", "member 2"]
    assert table["neurons"].tolist() == [2, 2, 2]
    np.testing.assert_allclose(table.drop(columns="neurons"), 1, rtol=1e-5)


def assert_as_kernels(found, kernels, atol):
    """The comparison of each neuron is that of the members' kernels."""
    assert found["mei"].values.tolist() == ["ensemble", *(f"member {number}" for number in range(len(kernels)))]
    optima, each = optima_of(kernels)
    for neuron in range(found.sizes["neuron"]):
        scores = np.einsum("kcthw,jcthw->kj", each[:, neuron], optima[:, neuron])
        np.testing.assert_allclose(found["cross_score"][neuron], scores, rtol=atol, atol=atol)
        shares = scores / np.diagonal(scores)[:, None]
        np.testing.assert_allclose(found["relative_score"][neuron], shares, rtol=atol, atol=atol)
        by_shift = [[correlation_over_shifts(one, other) for other in optima[:, neuron]] for one in optima[:, neuron]]
        np.testing.assert_allclose(found["member_similarity"][neuron], np.max(by_shift, axis=-1), atol=atol)


@pytest.mark.parametrize("frames", [1, 4])
def test_linear_members_compare_as_their_kernels_do(frames):
    kernels = np.random.default_rng(3).standard_normal((3, 2, 2, frames, 5, 4))
    found = compared(kernels)
    assert_as_kernels(found, kernels, 1e-5)
    optima, _ = optima_of(kernels)
    moves = [correlation_over_shifts(optima[0, 0], other).argmax() - (frames - 1) for other in optima[1:, 0]]
    np.testing.assert_allclose(found["member_shift"][0], -np.array(moves) / 30 if frames > 1 else 0, atol=1e-6)
    if frames == 1:
        agreement = np.abs(optima[1:, 1].sum(axis=0)) / np.abs(optima[1:, 1]).sum(axis=0)
        np.testing.assert_allclose(found["agreement"][1], agreement[:, 0], atol=1e-5)


@pytest.mark.slow
def test_what_is_found_for_linear_members_are_their_kernels():
    kernels = np.random.default_rng(3).standard_normal((2, 1, 2, 4, 5, 4))
    meis = find(linear_ensemble(kernels), [0], per_member=True, time_steps=4, search="quick", norm=NORM)
    optima, _ = optima_of(kernels)
    np.testing.assert_allclose(meis["stimulus"], optima[0], atol=1e-4)
    np.testing.assert_allclose(meis["member_stimulus"][0], optima[1:, 0], atol=1e-4)
    assert_as_kernels(meis, kernels, 1e-4)
    own = meis["cross_score"].values[:, [1, 2], [1, 2]]
    np.testing.assert_allclose(meis["member_score"], own, rtol=1e-5)


def test_what_members_say_of_each_neuron_is_a_mean_over_them():
    kernels = np.random.default_rng(3).standard_normal((3, 1, 1, 1, 5, 4))
    found = compared(kernels)
    ensemble = kernels.mean(axis=0).ravel()
    cosines = [k.ravel() @ ensemble / np.linalg.norm(k) / np.linalg.norm(ensemble) for k in kernels]
    of_neurons = members_of_neurons(found)
    np.testing.assert_allclose(of_neurons["similarity_to_members"], [np.mean(cosines)], atol=1e-5)
    # On a linear member the cosine is the share of its optimum, too.
    np.testing.assert_allclose(of_neurons["score_on_members"], [np.mean(cosines)], atol=1e-5)
    np.testing.assert_allclose(members_table(found)["on_it"], cosines, atol=1e-5)


def test_members_that_see_the_same_at_another_time_agree():
    kernels = np.zeros((3, 1, 1, 12, 4, 3))
    blob = np.random.default_rng(0).standard_normal((1, 1, 4, 4, 3))
    for member, start in enumerate((4, 6, 3)):
        kernels[member, :, :, start : start + 4] = blob
    # The ensemble's MEI is then nearly that of the first member.
    kernels[0] *= 1000
    found = compared(kernels)
    np.testing.assert_allclose(found["member_similarity"], 1, atol=1e-5)
    np.testing.assert_allclose(found["member_shift"][0], [0, 2 / 30, -1 / 30], atol=1e-6)
    assert found["member_shift"].attrs["units"] == "s"
    np.testing.assert_allclose(found["agreement"], 1, atol=1e-6)
    # A cosine that is strict in time.
    moved = correlation_over_shifts(kernels[0, 0], kernels[1, 0])[11]
    share = found["relative_score"].sel(model="member 0", mei="member 1").item()
    np.testing.assert_allclose(share, moved, atol=1e-5)


def test_a_model_that_likes_nothing_has_no_shares():
    kernels = np.random.default_rng(3).standard_normal((2, 1, 1, 1, 5, 4))
    ensemble, (optima, _) = linear_ensemble(kernels), optima_of(kernels)
    objectives = [ml.NeuronObjective(model, [0], ml.MeanReducer()) for model in (ensemble, *ensemble.members)]
    meis = [as_found(ensemble, stimuli) for stimuli in optima]
    meis[1] = meis[1].assign(stimulus=-meis[1]["stimulus"])
    (found,) = compare_members(meis[0], dict(enumerate(meis[1:])), objectives, progress_bar=False)
    assert np.isnan(found["relative_score"].sel(model="member 0")).all()
    assert np.isfinite(found["relative_score"].sel(model="member 1")).all()


def test_agreement_in_closed_form():
    one = np.array([3.0, 3.0, 1.0, 0.0]).reshape(1, 1, 1, 4)
    other = np.array([1.0, -3.0, -2.0, 0.0]).reshape(1, 1, 1, 4)
    np.testing.assert_allclose(agreement_of(np.stack([one, other])), [[[1, 0, 1 / 3, np.nan]]])
    # A frame counts by how strong the stimuli are in it.
    frames = np.array([[9.0, 1.0], [9.0, -1.0]]).reshape(2, 1, 2, 1, 1)
    np.testing.assert_allclose(agreement_of(frames), [[[18 / 20]]])
    noise = np.random.default_rng(0).standard_normal((4, 1, 20000, 1, 1))
    np.testing.assert_allclose(agreement_of(noise), 0.5, atol=0.01)


@pytest.fixture(scope="module")
def undisturbed():
    """What is found for two members in one go, without a directory."""
    return find(video_ensemble(2), NEURONS, per_member=True, **VIDEO)


@pytest.mark.slow
def test_each_is_found_as_alone():
    ensemble = video_ensemble(3)
    meis = find(ensemble, NEURONS, members=[2, 0], per_member=True, **VIDEO)
    assert meis["member"].values.tolist() == [2, 0]
    assert json.loads(meis.attrs["configuration"])["members"] == [2, 0]
    for name, values in find(ml.select_members(ensemble, [2, 0]), NEURONS, **VIDEO).variables.items():
        np.testing.assert_array_equal(meis[name], values, err_msg=name)
    one = find(ml.select_members(ensemble, [0]), NEURONS, **VIDEO)
    for name in ("stimulus", "score", "status"):
        np.testing.assert_array_equal(meis[f"member_{name}"].sel(member=0), one[name])


@pytest.mark.slow
@pytest.mark.parametrize("objective", [{"reducer": ml.MaxReducer()}, {"objective": lambda traces: -traces.amin(dim=1)}])
def test_scores_are_those_of_the_objective(objective):
    meis = find(video_ensemble(2), NEURONS, per_member=True, **VIDEO, **objective)
    scores = meis["cross_score"].values
    np.testing.assert_allclose(scores[:, 0, 0], meis["score"], rtol=1e-5)
    np.testing.assert_allclose(np.diagonal(scores[:, 1:, 1:], axis1=1, axis2=2), meis["member_score"], rtol=1e-5)


@pytest.mark.slow
def test_groups_and_still_images():
    meis = find(ml.Ensemble([still_model(0), still_model(1)]), [[0, 1], 3], per_member=True, search="quick")
    assert meis["neuron"].values.tolist() == ["0+1", "3"]
    assert np.isfinite(meis["relative_score"]).all()
    assert (np.abs(meis["member_similarity"]) <= 1 + 1e-9).all()


def test_neurons_are_compared_a_few_at_a_time(monkeypatch):
    kernels = np.random.default_rng(3).standard_normal((3, 5, 1, 2, 5, 4))
    together = compared(kernels)
    monkeypatch.setattr(side_by_side, "_BYTES_AT_A_TIME", 2000)
    xr.testing.assert_identical(compared(kernels), together)


@pytest.mark.parametrize("missing", [{"status": ["pending", "converged"]}, {"score": [np.nan, 1.0]}])
def test_a_neuron_without_an_mei_has_nan(missing):
    kernels = np.random.default_rng(3).standard_normal((2, 2, 1, 1, 5, 4))
    found, complete = compared(kernels, **missing), compared(kernels)
    for name in ("cross_score", "relative_score", "member_similarity", "member_stimulus", "member_shift", "agreement"):
        assert np.isnan(found[name][0]).all(), name
        np.testing.assert_allclose(found[name][1], complete[name][1], rtol=1e-6, err_msg=name)


@pytest.mark.slow
def test_results_in_a_directory_are_stores_of_their_own_and_are_opened_again(tmp_path, monkeypatch, undisturbed):
    ensemble = video_ensemble(2)
    # Members can be added to a run of the ensemble.
    find(ensemble, NEURONS, directory=tmp_path, **VIDEO)
    with pytest.raises(FileNotFoundError, match=r"no comparison of members.*per_member"):
        ml.open_members(tmp_path)
    with monkeypatch.context() as meanwhile:
        # A neuron at a time.
        meanwhile.setattr(side_by_side, "_BYTES_AT_A_TIME", 1)
        meis = find(ensemble, NEURONS, per_member=True, directory=tmp_path, **VIDEO)
    assert {path.name for path in tmp_path.iterdir()} == {"meis.zarr", "member_0", "member_1", "members.zarr"}
    xr.testing.assert_identical(ml.open_members(tmp_path), meis)
    xr.testing.assert_identical(meis.load(), undisturbed)
    # What is done is only read.
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(ml.StimulusModule, "training_step", lambda *_: pytest.fail("work began"))
        meanwhile.setattr(comparing, "predict_rows", lambda *_, **__: pytest.fail("scores were computed"))
        xr.testing.assert_identical(find(ensemble, NEURONS, per_member=True, directory=tmp_path, **VIDEO), meis)
    # A comparison of other MEIs is not opened, and is made anew.
    shutil.rmtree(tmp_path / "member_1")
    with pytest.raises(FileNotFoundError, match=r"members.zarr is older than the MEIs, or of others"):
        ml.open_members(tmp_path)
    xr.testing.assert_identical(find(ensemble, NEURONS, per_member=True, directory=tmp_path, **VIDEO), meis)


class InFit(Callback):
    """Does something after two steps of the fit of a number, counted from 1."""

    def __init__(self, number, act):
        self.fits, self.number, self.act = 0, number, act

    def setup(self, trainer, pl_module, stage):
        self.fits += 1

    def on_train_batch_end(self, trainer, *_):
        if self.fits == self.number and trainer.global_step == 2:
            self.act(trainer)


@pytest.mark.slow
def test_an_interrupted_run_loses_nothing(tmp_path, monkeypatch, undisturbed):
    ensemble = video_ensemble(2)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    press = InFit(3, lambda trainer: signal.raise_signal(signal.SIGINT))
    told = r"4 of 6 MEIs are done, of 2 neurons of an ensemble and its 2 members\. The same call with directory="
    with pytest.raises(KeyboardInterrupt, match=told):
        find(ensemble, NEURONS, per_member=True, callbacks=[press], **VIDEO)
    (directory,) = tmp_path.glob("mei_lightning_*")
    assert "interrupted" in xr.open_zarr(directory / "member_1" / "meis.zarr")["status"].values
    one_that_is_done = directory / "member_0" / "meis.zarr" / "stimulus" / "0.0.0.0.0"
    written = one_that_is_done.stat().st_mtime_ns
    meis = find(ensemble, NEURONS, per_member=True, directory=directory, **VIDEO)
    assert one_that_is_done.stat().st_mtime_ns == written
    xr.testing.assert_identical(meis.load(), undisturbed)


@pytest.mark.slow
def test_members_that_are_not_begun_are_nan(tmp_path, undisturbed):
    def stop(trainer):
        trainer.should_stop = True

    place = {"directory": tmp_path, "per_member": True}
    meis = find(video_ensemble(2), NEURONS, callbacks=[InFit(2, stop)], **place, **VIDEO).load()
    assert "interrupted" in meis["member_status"].sel(member=0).values
    assert meis["member_status"].sel(member=1).values.tolist() == ["pending"] * 2
    known = np.array([True, False, False])
    assert (np.isfinite(meis["cross_score"].values) == known).all()
    assert (np.isfinite(meis["member_similarity"].values) == np.outer(known, known)).all()
    assert np.isnan(meis["member_stimulus"]).all()
    assert members_table(meis)["neurons"].tolist() == [0, 0]
    xr.testing.assert_identical(find(video_ensemble(2), NEURONS, **place, **VIDEO).load(), undisturbed)


class OwnScore(ml.Objective):
    def forward(self, stimulus):
        return stimulus.flatten(1).mean(dim=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"members": [1]}, r"per_member=True: model 'Ensemble \(members 1\)' has no members to compare"),
        ({"objective": OwnScore()}, "per_member=True: the objective keeps the model that it was made with"),
        ({"robustness": [ml.RandomMember()]}, r"per_member=True: a member alone has no RandomMember\(\)"),
        ({"norm": [1.0, 2.0]}, r"norm=\[1.0, 2.0\] with per_member=True: MEIs are compared at one norm"),
        ({"per_member": 1}, "per_member=1"),
    ],
)
def test_what_has_no_meaning_is_refused_before_any_work(tmp_path, monkeypatch, options, message):
    monkeypatch.setattr(ml.StimulusModule, "training_step", lambda *_: pytest.fail("work began"))
    with pytest.raises((ValueError, TypeError), match=message):
        find(video_ensemble(2), NEURONS, **{**VIDEO, "per_member": True, **options}, directory=tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_a_model_without_members_is_refused_before_any_work(tmp_path):
    with pytest.raises(ValueError, match=r"has no members to compare\. Give an ensemble of at least two models"):
        find(video_model(), NEURONS, per_member=True, directory=tmp_path / "results", **VIDEO)
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_other_settings_of_a_member_are_refused_before_any_work(tmp_path, monkeypatch):
    ensemble = video_ensemble(2)
    find(ensemble, NEURONS, members=[1], directory=tmp_path / "member_1", **VIDEO)
    monkeypatch.setattr(ml.StimulusModule, "training_step", lambda *_: pytest.fail("work began"))
    with pytest.raises(ValueError, match=r"(?s)member_1.*other settings.*seed"):
        find(ensemble, NEURONS, per_member=True, directory=tmp_path, seed=1, **VIDEO)
