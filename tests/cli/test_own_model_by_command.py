"""A model of one's own on the command line, as the documentation brings it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import read
from documentation import HOW_TO, blocks, listings
from safetensors.torch import save_file
from torch import nn

import mei_lightning as ml

PAGE = HOW_TO / "own_model.md"
FILES = {block.file: block.text for block in blocks(PAGE) if block.file}
COMMAND = next(block for block in listings(PAGE, "bash") if "my_model.yaml" in block).split()


@pytest.fixture
def network(tmp_path, monkeypatch):
    """The network, with its module, weights and configuration in the working directory."""
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        Path(name).write_text(text, encoding="utf-8")
    names = {}
    exec(FILES["my_model.py"], names)
    made = names["LinearNonlinear"]()
    torch.save(made.state_dict(), "my_model.pt")
    return made


@pytest.mark.slow
def test_from_zero_to_a_result(network):
    assert 'torch.save(network.state_dict(), "my_model.pt")' in "".join(listings(PAGE, "python"))
    command = [str(Path(sys.executable).with_name(COMMAND[0])), *COMMAND[1:]]
    ended = subprocess.run(
        [*command, "--model.max_steps=4", "--results.report=false", "--trainer.logger=false"],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    meis = read("results")
    assert meis["neuron"].values.tolist() == ["0", "3", "5"]
    with torch.no_grad():
        scores = network(torch.from_numpy(meis["stimulus"].values)).mean(1)[[0, 1, 2], [0, 3, 5]]
    assert meis["score"].values == pytest.approx(scores.numpy(), rel=1e-4)


@pytest.mark.parametrize("kind", ["pt", "of Lightning", "safetensors"])
def test_weights_of_each_kind_are_loaded(network, kind, tmp_path):
    state = network.state_dict()
    path = tmp_path / ("own.safetensors" if kind == "safetensors" else "own.pt")
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3} if kind == "of Lightning" else state, path)
    other = type(network)()
    model = ml.RetinaModel(other, ml.StimulusFormat(("green", "UV"), 12, 10, 60.0), weights=path)
    assert model.stimulus_format.frames_lost == 14
    assert torch.equal(other.filters.weight, network.filters.weight)


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (None, "There is no file of weights at"),
        ({"a": torch.ones(1)}, "of another network than Linear: it lacks weight, bias"),
        ({"weight": torch.ones(2, 4), "bias": torch.ones(2)}, "weight is (2, 4) there and (2, 3) in the network"),
        (nn.Linear(3, 2).state_dict() | {"more": torch.ones(1)}, "it also holds more"),
        (3, "holds no weights by their names"),
        (nn.Linear(3, 2), "cannot be read as weights alone. Save them by torch.save(network.state_dict(), 'my.pt')."),
    ],
)
def test_what_is_no_file_of_the_networks_weights_is_refused(held, message, tmp_path):
    path = tmp_path / "own.pt"
    if held is not None:
        torch.save(held, path)
    with pytest.raises(ml.MEIError) as refused:
        ml.RetinaModel(nn.Linear(3, 2), ml.StimulusFormat(("grey",), 1, 3), 2, weights=path)
    assert message in str(refused.value)


@pytest.mark.parametrize("path", ["my.pt", "my.pth", "my.safetensors"])
def test_weights_are_not_taken_for_a_model_of_openretina(path):
    with pytest.raises(ValueError, match=f"'{path}' holds weights and not the network.*class_path and init_args"):
        ml.load_model(path)
