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


@pytest.fixture(scope="module")
def meis(model):
    """48 neurons, 16 of each session, with the default settings."""
    neurons = [label.rsplit("/", 1) for label in REFERENCE["best_responses"]]
    return find(model, [(session, int(index)) for session, index in neurons], norm=NORM)


def test_default_settings_reach_the_best_of_a_long_search(meis):
    """The reference is the best of many restarts of 200 steps each (see make_mouse_v1_reference.py)."""
    best = np.array([REFERENCE["best_responses"][label] for label in meis["neuron"].values])
    assert len(best) == 48
    assert len(set(meis["session"].values)) == 3
    share = meis["score"].values / best
    print(f"share of the long search: median {np.median(share):.4f}, lowest {share.min():.4f}")
    assert np.median(share) >= 0.97
    assert share.min() >= 0.85


def test_scores_are_the_responses_to_images_of_the_norm(meis, model):
    images = torch.from_numpy(meis["stimulus"].values)
    torch.testing.assert_close(images.flatten(1).norm(dim=1), torch.full((48,), NORM))
    for row in range(0, 48, 6):
        with torch.no_grad():
            responses = model(images[row : row + 1], data_key=str(meis["session"].values[row]))
        response = responses[0, 0, int(meis["index"].values[row])]
        assert float(response) == pytest.approx(float(meis["score"].values[row]), rel=1e-4)


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
