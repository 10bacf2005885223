"""MEIs of a real network that others trained on real neurons, brought as a user's own module."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import find
from mouse_v1 import load_mouse_v1

REFERENCE = json.loads((Path(__file__).parents[1] / "data" / "mouse_v1_reference.json").read_text(encoding="utf-8"))
NORM = REFERENCE["norm"]


@pytest.fixture(scope="module")
def model():
    return load_mouse_v1()


BEST = dict(list(REFERENCE["best_responses"].items())[::2])
"""The responses of 24 neurons, 8 of each session, to the best of many restarts."""


def neurons_of(labels):
    return [(session, int(index)) for session, index in (label.rsplit("/", 1) for label in labels)]


@pytest.fixture(scope="module")
def meis(model):
    """With the default settings."""
    return find(model, neurons_of(BEST), norm=NORM)


def test_a_quick_search_of_a_neuron_of_each_session_gets_near(model):
    labels = list(BEST)[::8]
    meis = find(model, neurons_of(labels), norm=NORM, search="quick", max_steps=8)
    assert len(set(meis["session"].values)) == 3
    assert meis["status"].values.tolist() == ["step limit"] * 3
    assert (meis["score"].values > 0.8 * np.array([BEST[label] for label in labels])).all()


@pytest.mark.slow
def test_default_settings_reach_the_best_of_a_long_search(meis):
    """The reference is the best of many restarts of 200 steps each (see make_mouse_v1_reference.py)."""
    best = np.array([BEST[label] for label in meis["neuron"].values])
    assert len(best) == 24
    assert [(meis["session"] == session).sum() for session in sorted(set(meis["session"].values))] == [8, 8, 8]
    share = meis["score"].values / best
    print(f"share of the long search: median {np.median(share):.4f}, lowest {share.min():.4f}")
    assert np.median(share) >= 0.97
    assert share.min() >= 0.85


@pytest.mark.slow
def test_scores_are_the_responses_to_images_of_the_norm(meis, model):
    images = torch.from_numpy(meis["stimulus"].values)
    torch.testing.assert_close(images.flatten(1).norm(dim=1), torch.full((24,), NORM))
    for row in range(0, 24, 3):
        with torch.no_grad():
            responses = model(images[row : row + 1], data_key=str(meis["session"].values[row]))
        response = responses[0, 0, int(meis["index"].values[row])]
        assert float(response) == pytest.approx(float(meis["score"].values[row]), rel=1e-4)


@pytest.mark.slow
def test_meis_drive_neurons_many_times_more_than_noise(meis, model):
    """Published figures of this network: 2.2-3.5 for MEIs, 0.13-0.34 for the best of many noise images."""
    noise = torch.randn(100, 2, 1, 36, 64, generator=torch.Generator().manual_seed(0))
    noise *= NORM / noise.flatten(1).norm(dim=1).view(-1, 1, 1, 1, 1)
    best_noise = []
    with torch.no_grad():
        responses = {session: model(noise, data_key=session)[:, 0].amax(0) for session in model.neurons_per_session}
    for session, index in zip(meis["session"].values, meis["index"].values, strict=True):
        best_noise.append(float(responses[str(session)][int(index)]))
    assert (meis["score"].values > 3 * np.array(best_noise)).all()
    assert 0.1 < np.median(best_noise) < 0.5
    assert 2 < np.median(meis["score"]) < 6
