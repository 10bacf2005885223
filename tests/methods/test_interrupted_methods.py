"""A method that is interrupted, or fails, after it has found the MEIs that it goes on from keeps them."""

import re
import signal
import tempfile
from functools import partial

import pytest
import xarray as xr
from conftest import find, video_model

import mei_lightning as ml
from mei_lightning.methods import fitting

NEURONS = [("monday", 0), ("tuesday", 1)]
OF_MEIS = {"time_steps": 6, "norm": 3.0, "search": ml.MultiStart(starts=1, keep=1, max_steps=8, shifts=())}
SETTINGS = {**OF_MEIS, "progress_bar": False, "max_steps": 6}
METHODS = {
    "surround": partial(ml.find_surrounds, centre=0.9, starts=1, **SETTINGS),
    "diverse": partial(ml.find_diverse_stimuli, number=2, least=0.5, **SETTINGS),
    "invariance": partial(ml.find_invariance_paths, points=3, least=0.5, **SETTINGS),
}


@pytest.fixture(autouse=True)
def _temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


class Interrupted(ml.StimulusModule):
    """What a method optimises; Ctrl-C is pressed in its second step."""

    def on_train_batch_start(self, batch, batch_idx):
        if batch_idx == 1:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The response is not constant")
@pytest.mark.parametrize("name", METHODS)
def test_an_interrupt_after_the_meis_leaves_them(name, monkeypatch, tmp_path, caplog):
    method = METHODS[name]
    whole = method(video_model(), NEURONS)
    assert not list(tmp_path.iterdir())
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(fitting, "StimulusModule", Interrupted)
        with pytest.raises(KeyboardInterrupt) as interrupted:
            method(video_model(), NEURONS)
    message = str(interrupted.value)
    assert message.startswith("2 of 2 neurons are done. The same call with directory=")
    place = re.search(r"directory='(.*?)'", message)[1]
    kept = xr.open_zarr(f"{place}/meis.zarr", chunks=None).load()
    # How a network that is not understood rounds depends on what was faster when it was prepared.
    found = find(video_model(), NEURONS, **OF_MEIS)
    xr.testing.assert_allclose(kept["stimulus"], found["stimulus"], atol=1e-3)
    with caplog.at_level("INFO"):
        continued = method(video_model(), NEURONS, directory=place)
    assert f"2 of 2 neurons are done already in {place}" in caplog.text
    xr.testing.assert_allclose(continued["score"], whole["score"], rtol=1e-2)


def test_a_refusal_after_the_meis_leaves_them_too(tmp_path):
    with pytest.raises(ml.MEIError, match="no room for a surround") as refused:
        ml.find_surrounds(video_model(), NEURONS, centre=1e-9, **SETTINGS)
    (note,) = refused.value.__notes__
    place = re.search(r"directory='(.*?)'", note)[1]
    assert ml.find_surrounds(video_model(), NEURONS, centre=0.9, directory=place, **SETTINGS)["score"].notnull().all()
