"""Metrics of a population against numpy, in batches and on several devices."""

import numpy as np
import pytest
import torch
from conftest import START_METHOD
from torch import distributed
from torch.multiprocessing.spawn import start_processes

from mei_lightning.optimization.metrics import ScoreStatistics, mean_of_known, seed_similarity

GENERATOR = np.random.default_rng(0)
SCORES = GENERATOR.standard_normal(23).astype(np.float32)


def test_score_statistics_are_those_of_all_finite_scores():
    metric = ScoreStatistics()
    for part in np.split(SCORES, [3, 4, 20]):
        metric.update(torch.from_numpy(part))
    metric.update(torch.tensor([[torch.nan, -torch.inf]]))
    found = {name: value.item() for name, value in metric.compute().items()}
    levels = (0.0, 0.25, 0.5, 0.75, 1.0)
    expected = {f"quantile_{level:.2f}": np.quantile(SCORES, level) for level in levels} | {"mean": SCORES.mean()}
    assert found == pytest.approx(expected, abs=1e-6)


def test_what_is_not_known_does_not_count():
    similarity = mean_of_known()
    similarity.update(torch.tensor([0.5, torch.nan]))
    similarity.update(torch.tensor(1.0))
    assert similarity.compute() == 0.75


@pytest.mark.parametrize("metric", [ScoreStatistics(), mean_of_known()])
def test_before_anything_is_known_there_is_no_value(metric):
    metric.update(torch.zeros(0))
    values = metric.compute()
    for value in values.values() if isinstance(values, dict) else [values]:
        assert value.isnan().all()


def test_similarity_of_seeds_is_the_mean_cosine_of_those_that_count():
    stimuli = torch.randn(4, 2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    flat = stimuli.flatten(1).double().numpy()
    cosines = flat @ flat[2] / np.linalg.norm(flat, axis=1) / np.linalg.norm(flat[2])
    counts = torch.tensor([True, True, True, False])
    assert seed_similarity(stimuli, torch.tensor(2), counts).item() == pytest.approx(cosines[:2].mean(), abs=1e-6)
    assert seed_similarity(stimuli, torch.tensor(2), torch.arange(4) == 2).isnan()


def on_device(rank, place):
    distributed.init_process_group("gloo", init_method=f"file://{place}/rendezvous", rank=rank, world_size=3)
    # The last device has nothing yet.
    part = slice(0, 5) if rank == 0 else slice(5, None) if rank == 1 else slice(0, 0)
    scores, similarity = ScoreStatistics(), mean_of_known()
    for metric in (scores, similarity):
        metric.update(torch.from_numpy(SCORES[part]))
    values = [metric.compute() for metric in (scores, similarity)]
    torch.save(values, f"{place}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
def test_devices_agree_on_the_values_of_all_of_them(tmp_path):
    start_processes(on_device, (str(tmp_path),), nprocs=3, start_method=START_METHOD)
    for rank in range(3):
        scores, similarity = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert scores["mean"].item() == pytest.approx(SCORES.mean(), abs=1e-6)
        assert scores["quantile_0.25"].item() == pytest.approx(np.quantile(SCORES, 0.25), abs=1e-6)
        assert similarity.item() == pytest.approx(SCORES.mean(), abs=1e-6)
