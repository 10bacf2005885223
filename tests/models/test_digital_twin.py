"""The shipped digital twin predicts the simulated retina, and the script that trains it works."""

import importlib.util
import math
from itertools import islice
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mei_lightning.models.digital_twin import SHIPPED_WEIGHTS, DigitalTwin, DigitalTwinNetwork, GaussianReadout
from mei_lightning.models.natural_movies import naturalistic_movies
from mei_lightning.models.simulated import LINEAR_TYPES, SimulatedRetina

SCRIPT = Path(__file__).parents[2] / "scripts" / "train_digital_twin.py"


@pytest.fixture(scope="module")
def twin() -> DigitalTwin:
    return DigitalTwin()


@pytest.fixture(scope="module")
def retina() -> SimulatedRetina:
    return SimulatedRetina()


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_digital_twin", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_user_asks_the_twin_for_the_neurons_of_the_retina(twin, retina):
    assert twin.name == "digital_twin"
    assert twin.neurons.equals(retina.neurons)
    stimulus = torch.randn(twin.stimulus_shape(time_steps=40, num_batches=2))
    for session, count in retina.neurons_per_session.items():
        responses = twin(stimulus, data_key=session)
        assert responses.shape == (2, 20, count)
        assert (responses > 0).all()
    assert not twin.training
    assert not any(parameter.requires_grad for parameter in twin.parameters())


def test_shipped_weights_are_small():
    assert SHIPPED_WEIGHTS.stat().st_size < 1_000_000


def test_held_out_correlation_per_type(twin, retina):
    movies = naturalistic_movies(60, 50, torch.Generator().manual_seed(987))
    correlations = []
    for session, count in retina.neurons_per_session.items():
        predicted, true = (model(movies, data_key=session).flatten(0, 1).numpy() for model in (twin, retina))
        correlations += [np.corrcoef(predicted[:, n], true[:, n])[0, 1] for n in range(count)]
    table = retina.neurons.assign(correlation=correlations)
    assert table.groupby("type")["correlation"].mean().min() > 0.9
    assert table["correlation"].min() > 0.85
    assert table["correlation"].mean() > 0.95


def test_receptive_fields_lie_where_the_cells_are(twin, retina):
    session = "session_1"
    table = retina.neurons.query("session == @session")
    stimulus = torch.zeros(1, 2, 21, 18, 16, requires_grad=True)
    responses = twin(stimulus, data_key=session)[0, 0]
    for index, cell_type, y, x in table[["index", "type", "y", "x"]].itertuples(index=False):
        if cell_type in LINEAR_TYPES:
            (gradient,) = torch.autograd.grad(responses[index], stimulus, retain_graph=True)
            energy = gradient[0].square().sum((0, 1))
            energy = energy * (energy > 0.3 * energy.max()) / energy[energy > 0.3 * energy.max()].sum()
            assert abs((energy.sum(1) * torch.arange(18)).sum() - y) < 1
            assert abs((energy.sum(0) * torch.arange(16)).sum() - x) < 1


def test_future_frames_do_not_matter(twin):
    generator = torch.Generator().manual_seed(5)
    stimulus = torch.randn(2, 2, 45, 18, 16, generator=generator)
    changed = stimulus.clone()
    changed[:, :, 33:] = torch.randn(2, 2, 12, 18, 16, generator=generator)
    before, after = twin(stimulus, data_key="session_2"), twin(changed, data_key="session_2")
    torch.testing.assert_close(before[:, :13], after[:, :13])
    assert (before[:, 13:] != after[:, 13:]).any(2).all()


def test_readout_equals_a_written_out_sum():
    generator = torch.Generator().manual_seed(6)
    readout = GaussianReadout(2, 3, 9, 8, centers=torch.tensor([[2.5, 6.0], [7.0, 1.25]]))
    with torch.no_grad():
        readout.log_sd.copy_(torch.tensor([0.3, -0.4]))
        readout.weight.normal_(generator=generator)
        readout.bias.normal_(generator=generator)
    features = torch.randn(1, 3, 2, 9, 8, generator=generator)
    actual = readout(features).detach().numpy()
    for n, (y, x) in enumerate([(2.5, 6.0), (7.0, 1.25)]):
        sd = np.exp([0.3, -0.4])[n]
        rows, columns = np.mgrid[:9, :8]
        mask = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * sd**2))
        mask /= mask.sum()
        seen = (features.numpy() * mask).sum((-2, -1))[0]
        drive = readout.weight[n].detach().numpy() @ seen + readout.bias[n].item()
        np.testing.assert_allclose(actual[0, :, n], np.log1p(np.exp(drive)), rtol=1e-5)


def test_weights_that_are_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no digital twin weights at .*none\.safetensors.*train_digital_twin"):
        DigitalTwin(tmp_path / "none.safetensors")


@pytest.mark.parametrize("kind", ["text", "renamed", "shape", "incomplete"])
def test_weights_of_something_else(tmp_path, kind):
    path = tmp_path / "weights.safetensors"
    weights = load_file(SHIPPED_WEIGHTS)
    name = "readout.session_1.bias"
    if kind == "text":
        path.write_text("not weights at all")
    else:
        value = weights.pop(name)
        if kind == "renamed":
            weights["readout.session_9.bias"] = value
        if kind == "shape":
            weights[name] = value[:-1].clone()
        save_file(weights, path)
    with pytest.raises(ValueError, match=r"weights\.safetensors does not hold the weights of a digital twin"):
        DigitalTwin(path)


def test_recordings_are_what_the_retina_answers(script, retina):
    recordings = script.Recordings(batch_size=2, num_frames=23, seed=7)
    (first, responses), (second, _) = islice(recordings, 2)
    assert first.shape == (2, 2, 23, 18, 16)
    assert not torch.equal(first, second)
    assert set(responses) == set(retina.neurons_per_session)
    for session, response in responses.items():
        torch.testing.assert_close(response, retina(first, data_key=session))


def test_a_step_of_the_training_script(script, tmp_path):
    torch.manual_seed(8)
    training = script.TwinTraining(learning_rate=0.005, weight_decay=0.01, steps=1)
    before = {name: value.clone() for name, value in training.network.named_parameters()}
    trainer = L.Trainer(fast_dev_run=True, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)
    trainer.fit(training, script.Recordings(batch_size=2, num_frames=24, seed=9))
    assert torch.isfinite(trainer.callback_metrics["loss"])
    changed = {name for name, value in training.network.named_parameters() if not torch.equal(value, before[name])}
    assert {"readout.session_1.weight", "readout.session_3.bias"} <= changed

    script.save_weights(training.network, tmp_path / "twin.safetensors")
    stimulus = torch.randn(1, 2, 25, 18, 16)
    reloaded = DigitalTwin(tmp_path / "twin.safetensors")
    expected = training.network.eval()(stimulus, data_key="session_2")
    torch.testing.assert_close(reloaded(stimulus, data_key="session_2"), expected.detach())


def test_the_loss_is_zero_for_the_truth_and_grows_with_the_error(script):
    wanted = torch.rand(4, 5, 6) + 0.1
    assert script.poisson_deviance(wanted, wanted).item() == pytest.approx(0, abs=1e-6)
    errors = [script.poisson_deviance(wanted * factor, wanted).item() for factor in (1.1, 1.5, 2.0)]
    assert 0 < errors[0] < errors[1] < errors[2]
    difference = torch.nn.functional.poisson_nll_loss(
        2 * wanted, wanted, log_input=False, eps=0
    ) - torch.nn.functional.poisson_nll_loss(wanted, wanted, log_input=False, eps=0)
    assert errors[2] == pytest.approx(difference.item(), rel=1e-4)


def test_a_network_has_a_readout_for_each_session():
    network = DigitalTwinNetwork({"a": 3, "b": 1}).eval()
    stimulus = torch.randn(1, 2, 30, 18, 16)
    assert network(stimulus, data_key="a").shape == (1, 10, 3)
    torch.testing.assert_close(network(stimulus, data_key="b"), network.readout["b"](network.core(stimulus)))


def test_a_fresh_core_tells_directions_of_motion_apart():
    torch.manual_seed(10)
    first = DigitalTwinNetwork({"a": 1}).core[0]
    y, x, frame = torch.arange(18.0)[:, None], torch.arange(16.0), torch.arange(60.0)[:, None, None]
    for i in range(6):
        angle = math.pi * i / 6
        phase = 2 * math.pi / 7 * (x * math.cos(angle) + y * math.sin(angle))
        stimulus = torch.stack([torch.cos(phase - sign * 2 * math.pi * frame / 10) for sign in (1, -1)])
        with torch.no_grad():
            features = first[1](first[0](stimulus[:, None].expand(-1, 2, -1, -1, -1)))[..., 4, 4].std(2)
        backwards, forwards = features[:, 8 * i : 8 * i + 8].unflatten(1, (2, 4)).mean(2).T
        assert forwards[0] > 2 * forwards[1]
        assert backwards[1] > 2 * backwards[0]


def test_frozen_batch_norm_keeps_its_statistics_in_training(script):
    network = DigitalTwinNetwork({"a": 1}).train()
    script.freeze_batch_norm(network)
    stimulus = 5 + torch.randn(2, 2, 24, 18, 16)
    alone, together = network(stimulus[:1], "a"), network(stimulus, "a")
    torch.testing.assert_close(alone, together[:1])
    assert all((network.state_dict()[name] == 0).all() for name in network.state_dict() if "running_mean" in name)
