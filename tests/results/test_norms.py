"""MEIs at several norms: what a call for each would find, in a store for each, and together in one dataset."""

import json
import math
import signal

import numpy as np
import pytest
import xarray as xr
from conftest import find, linear_model, read, still_model, video_model
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Callback

import mei_lightning as ml
from mei_lightning.results.norms import directory_of_norm

NEURONS = [("monday", 0), ("tuesday", 2)]
# Which gradients of convolutions are faster is measured, and which are used changes the last bits.
QUICK = {"time_steps": 8, "search": "quick", "max_steps": 4, "fast_path": False}
NORMS = [3, 1.5]


def assert_at_each_norm_alone(meis, norms=NORMS, **options):
    assert meis["norm"].values.tolist() == norms
    for norm in norms:
        alone = find(video_model(), NEURONS, norm=norm, **QUICK, **options)
        at_norm = meis.sel(norm=norm).drop_vars(["norm", "rms"], errors="ignore")
        xr.testing.assert_identical(at_norm.drop_attrs(deep=False), alone.drop_attrs(deep=False))
        attributes = {name: value for name, value in meis.attrs.items() if name != "configuration"}
        assert attributes == {name: value for name, value in alone.attrs.items() if name != "configuration"}


@pytest.mark.slow
def test_each_norm_gives_what_a_call_with_it_gives(tmp_path):
    meis = find(video_model(), NEURONS, norm=NORMS, **QUICK)
    assert_at_each_norm_alone(meis)
    configuration = json.loads(meis.attrs["configuration"])
    assert configuration["constraint"]["arguments"]["norm"] == NORMS
    ml.save_dataset(meis, tmp_path / "meis.zarr")


@pytest.mark.slow
def test_other_settings_hold_at_each_norm():
    options = {"ranges": (-0.5, 2), "mask": np.eye(6, 5), "initial": ml.PinkNoise(), "robustness": [ml.Jitter(1)]}
    assert_at_each_norm_alone(find(video_model(), NEURONS, norm=np.array(NORMS), **QUICK, **options), **options)


@pytest.mark.slow
def test_several_root_mean_squares_are_several_norms():
    root = math.sqrt(480)
    meis = find(video_model(), NEURONS, rms=[norm / root for norm in NORMS], **QUICK)
    np.testing.assert_allclose(meis["rms"], np.sqrt((meis["stimulus"] ** 2).mean(("channel", "time", "y", "x"))[:, 0]))
    assert_at_each_norm_alone(meis)


@pytest.mark.parametrize(("model", "options"), [(linear_model, {"time_steps": 4}), (still_model, {})])
def test_one_norm_of_a_list_and_any_model(model, options):
    meis = find(model(), [0, 1], norm=[2.0], search="quick", **options)
    assert meis.sizes["norm"] == 1
    np.testing.assert_allclose(np.sqrt((meis["stimulus"] ** 2).sum(("channel", "time", "y", "x"))), 2.0, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.pictures
def test_each_norm_has_an_ordinary_store_that_is_continued(tmp_path, monkeypatch):
    meis = find(video_model(), NEURONS, norm=NORMS, directory=tmp_path, **QUICK)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["norm_1.5", "norm_3"]
    assert (tmp_path / "norm_3" / "meis.png").is_file()
    xr.testing.assert_identical(ml.open_norms(tmp_path)["stimulus"], meis.sortby("norm")["stimulus"])
    xr.testing.assert_identical(read(tmp_path / "norm_3"), find(video_model(), NEURONS, norm=3, **QUICK))
    assert ml.analyze_meis(tmp_path / "norm_1.5" / "meis.zarr", video_model()).sizes["neuron"] == 2
    # Another one is added; those that are there are only read.
    find(video_model(), NEURONS, norm=2.0, directory=tmp_path / "norm_2", **QUICK)
    monkeypatch.setattr(ml.StimulusModule, "training_step", lambda *_: pytest.fail("work began"))
    more = find(video_model(), NEURONS, norm=[2, *NORMS], directory=tmp_path, **QUICK)
    xr.testing.assert_identical(more.sel(norm=NORMS)["stimulus"], meis["stimulus"])


def test_other_settings_are_refused_before_any_work(tmp_path, monkeypatch):
    find(video_model(), NEURONS, norm=[3], directory=tmp_path, **QUICK)
    monkeypatch.setattr(ml.StimulusModule, "training_step", lambda *_: pytest.fail("work began"))
    with pytest.raises(ValueError, match=r"(?s)norm_3.*other settings.*seed"):
        find(video_model(), NEURONS, norm=[1.5, 3], directory=tmp_path, seed=1, **QUICK)
    rule = ml.RowConvergence(0.1)
    with pytest.raises(ValueError, match="relative_gain"):
        find(video_model(), NEURONS, norm=[1.5, 3], directory=tmp_path, callbacks=[rule], **QUICK)


class InSecondFit(Callback):
    """Does something in the second fit that it is in, after a step."""

    def __init__(self, act, step=2):
        self.fits, self.step, self.act = 0, step, act

    def setup(self, trainer, pl_module, stage):
        self.fits += 1

    def on_train_batch_end(self, trainer, *_):
        if self.fits == 2 and trainer.global_step == self.step:
            self.act(trainer)


def press(trainer):
    signal.raise_signal(signal.SIGINT)


@pytest.mark.slow
@pytest.mark.parametrize("kept", [True, False], ids=["in a directory", "without one"])
def test_an_interrupted_run_keeps_the_norms_that_are_done(tmp_path, monkeypatch, kept):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    place = {"directory": tmp_path / "mei_lightning_run"} if kept else {}
    with pytest.raises(KeyboardInterrupt, match=r"2 of 4 MEIs are done, of 2 neurons at 2 norms.*open_norms\("):
        find(video_model(), NEURONS, norm=NORMS, callbacks=[InSecondFit(press)], **QUICK, **place)
    (directory,) = tmp_path.glob("mei_lightning_*")
    begun = ml.open_norms(directory)
    assert begun["norm"].values.tolist() == [1.5, 3.0]
    assert "pending" not in begun.sel(norm=3)["status"].values
    assert_at_each_norm_alone(find(video_model(), NEURONS, norm=NORMS, directory=directory, **QUICK))


def test_a_run_that_ends_early_does_not_begin_another_norm():
    def stop(trainer):
        trainer.should_stop = True

    meis = find(video_model(), NEURONS, norm=[3, 2, 1], callbacks=[InSecondFit(stop, 1)], **QUICK)
    assert meis["norm"].values.tolist() == [3, 2]
    assert "interrupted" in meis.sel(norm=2)["status"].values


def test_an_error_leaves_the_norms_that_are_done_and_says_where(tmp_path, monkeypatch):
    def fail(trainer):
        raise RuntimeError("the user's callback fails")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(RuntimeError, match="the user's callback fails") as failed:
        find(video_model(), NEURONS, norm=NORMS, callbacks=[InSecondFit(fail)], **QUICK)
    assert failed.value.__notes__[0].startswith("2 of 4 MEIs are done")


def test_norms_of_different_runs_are_not_put_together(tmp_path):
    with pytest.raises(FileNotFoundError, match="no MEIs of several norms"):
        ml.open_norms(tmp_path)
    find(video_model(), NEURONS, norm=3, directory=tmp_path / "norm_3", **QUICK)
    find(video_model(), NEURONS, norm=2, seed=1, directory=tmp_path / "norm_2", **QUICK)
    (tmp_path / "norm_of_others" / "meis.zarr").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"(?s)norm 2 and 3 .*different settings.*seed"):
        ml.open_norms(tmp_path)


@given(norms=st.lists(st.floats(min_value=0, exclude_min=True, allow_infinity=False), unique=True, max_size=5))
def test_directories_have_names_of_their_own_that_every_system_takes(norms):
    names = [directory_of_norm(norm) for norm in norms]
    assert [float(name.removeprefix("norm_")) for name in names] == norms
    for name in names:
        assert not set(name) & set('<>:"/\\|?* ')
        assert not name.endswith(".")
    assert len({name.lower() for name in names}) == len(norms)
