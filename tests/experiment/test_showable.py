"""MEIs that no projector can show are said to be so when they are found."""

import ast

import numpy as np
import pytest
from conftest import find, still_model
from test_experiment import MEAN, SD, meis_of_levels, random_levels

import mei_lightning as ml
from mei_lightning.experiment.showable import not_showable

NEURONS = [("session_1", 0), ("session_1", 5), ("session_2", 3)]


def warnings_of(recwarn):
    return [str(one.message) for one in recwarn if "No projector" in str(one.message)]


@pytest.mark.slow
def test_the_ranges_of_the_warning_make_them_showable(recwarn, tmp_path):
    meis = find("simulated", NEURONS, max_steps=10)
    levels = meis.stimulus.values * SD.reshape(1, 2, 1, 1, 1) + MEAN.reshape(1, 2, 1, 1, 1)
    outside = ((levels.round() < 0) | (levels.round() > 255)).any(axis=(1, 2, 3, 4)).sum()
    (warning,) = warnings_of(recwarn)
    assert f"{outside} of these 3 MEIs" in warning
    recwarn.clear()
    ranges = ast.literal_eval(warning.split("ranges=")[1].split(";")[0])
    within = find("simulated", NEURONS, max_steps=10, ranges=ranges)
    assert not warnings_of(recwarn)
    ml.export_for_experiment(within, tmp_path, within["neuron"].values.tolist())


def test_of_a_model_without_mean_and_sd_nothing_is_said(recwarn):
    find(still_model(), [0, 3], max_steps=2)
    assert not warnings_of(recwarn)


@pytest.mark.parametrize(
    ("level", "can_be"), [(-0.4, True), (-0.6, False), (255.4, True), (255.6, False), (np.nan, True)]
)
def test_what_rounds_to_a_value_of_the_projector_can_be_shown(level, can_be):
    levels = random_levels(70).astype(float)
    levels[66, 1, 2, 3, 1] = level
    assert not_showable(meis_of_levels(levels)) == ([] if can_be else ["a/66"])
