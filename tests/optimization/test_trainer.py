"""A Lightning trainer of one's own."""

import pytest
from conftest import assert_same_meis, find, video_model
from lightning.pytorch import Trainer

import mei_lightning as ml

NEURONS = [("monday", 0), ("tuesday", 1)]
SETTINGS = {"time_steps": 9, "norm": 3.0, "search": "quick"}


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_trainer_without_arguments_finds_what_find_meis_finds():
    """But the accelerator, which find_meis is not given either."""
    module = ml.MEIModule(video_model(), NEURONS, **SETTINGS)
    trainer = Trainer(accelerator="cpu")
    trainer.fit(module)
    meis = module.meis()
    assert_same_meis(meis.load(), find(video_model(), NEURONS, **SETTINGS))
    assert set(meis.status.values) == {"converged"}
    assert trainer.max_epochs == -1


def test_a_limit_of_epochs_is_one():
    module = ml.MEIModule(video_model(), NEURONS, **SETTINGS)
    Trainer(accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False).fit(module)
    assert module.meis().status.values.tolist() == ["interrupted"] * 2
    assert module.meis().steps.values.tolist() == [8, 8]


def test_before_the_fit_there_are_no_meis():
    module = ml.MEIModule(video_model(), NEURONS, **SETTINGS)
    with pytest.raises(FileNotFoundError, match=r"no MEIs yet: fit the module first, Trainer\(\)\.fit\(module\)"):
        module.meis()
