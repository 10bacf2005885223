"""The script that judges searches by a long reference."""

import importlib
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mouse_v1 import load_mouse_v1

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def compare_searches(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("compare_searches")


@pytest.mark.slow
def test_a_search_is_judged_by_the_best_of_long_ascents(compare_searches, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compare_searches, "STEPS", 30)
    command = ["compare_searches.py", "simulated", "--neurons", "2", "--seeds", "1", "--searches", "quick"]
    monkeypatch.setattr("sys.argv", [*command, "--cache", str(tmp_path)])
    compare_searches.main()
    # ON cells, whose only optimum any ascent finds.
    table = capsys.readouterr().out
    assert re.search(r"\| quick \| all \| \d+\.\d \| (1\.0|0\.99)\d+ \|", table)
    kept = dict(np.load(tmp_path / "simulated_2.npz"))
    assert {name: values.shape for name, values in kept.items()} == {
        "Annealed": (2, 8),
        "Momentum": (2, 4),
        "Adam": (2, 4),
    }


def test_a_neuron_of_visual_cortex_answers_to_its_square_as_to_the_whole_image(compare_searches):
    whole = load_mouse_v1()
    weights = torch.load(
        Path(os.environ["MEI_LIGHTNING_TEST_DATA"]) / "mouse_v1_color.pt", weights_only=True, map_location="cpu"
    )
    network = compare_searches.VisualCortex(weights, 6).eval()
    positions, _, biases = compare_searches.read_outs(weights)
    chosen = torch.randperm(len(biases), generator=torch.Generator().manual_seed(5))[:6]
    images = torch.randn(3, 2, 36, 64, generator=torch.Generator().manual_seed(0))
    everything = torch.cat([whole.network(images, session) for session in sorted(whole.network.readouts)], dim=1)
    for number, neuron in enumerate(chosen.tolist()):
        column, row = ((positions[neuron] + 1) / 2 * torch.tensor([55.0, 27.0])).floor().long().tolist()
        column, row = min(max(column - 9, 0), 36), min(max(row - 9, 0), 8)
        square = images[:, :, row : row + 28, column : column + 28]
        torch.testing.assert_close(network(square)[:, number], everything[:, neuron], rtol=1e-4, atol=1e-5)
