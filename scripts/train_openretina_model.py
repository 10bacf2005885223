"""Train openretina core-readout models on the simulated retina's responses to naturalistic movies.

    python scripts/train_openretina_model.py --directory logs/benchmark

trains the low-resolution reference architecture of Höfling et al. 2024 (a few minutes on 2 cores), writes its weights,
and prints the correlation of its responses with the simulated ones. ``scripts/benchmark.py`` uses these models.
"""

import argparse
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from openretina.models.core_readout import ExampleCoreReadout
from reference_models import FRAMES_CONSUMED, HIGH_RES, LOW_RES
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader
from train_digital_twin import CALIBRATION_STEPS, HELD_OUT_SEED, Recordings, freeze_batch_norm, poisson_deviance

from mei_lightning.models.natural_movies import naturalistic_movies
from mei_lightning.models.simulated import STIMULUS_FORMAT, SimulatedRetina

FEATURE_MAP_SIZE = (8, 6)
FIRST_PIXEL = 5


def core_readout(architecture: Mapping, neurons_per_session: Mapping[str, int], seed: int) -> ExampleCoreReadout:
    """An openretina model of one of the two reference architectures, with random weights from a seed."""
    channels, _, height, width = architecture["in_shape"]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        torch.manual_seed(seed)
        return ExampleCoreReadout(
            **architecture,
            n_neurons_dict=dict(neurons_per_session),
            cut_first_n_frames_in_core=0,
            data_info={"input_shape": (channels, height, width), "n_neurons_dict": dict(neurons_per_session)},
        )


def trained_low_res(directory: Path, seed: int, steps: int) -> ExampleCoreReadout:
    """The low-resolution model trained for so many steps, from the directory if it has been trained before."""
    path = directory / f"low_res_seed{seed}_steps{steps}.safetensors"
    network = core_readout(LOW_RES, SimulatedRetina().neurons_per_session, seed)
    if not path.exists():
        train(network, seed, steps)
        directory.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        save_file({name: value.contiguous() for name, value in network.state_dict().items()}, partial)
        partial.rename(path)
    network.load_state_dict(load_file(path))
    return network.eval().requires_grad_(False)


@torch.no_grad()
def lively_high_res(seed: int) -> ExampleCoreReadout:
    """The high-resolution model with random weights, each layer's output of unit size: something to time."""
    network = core_readout(HIGH_RES, SimulatedRetina().neurons_per_session, seed)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm3d):
            layer.momentum = None
    network.train()
    network.core(torch.randn(1, *HIGH_RES["in_shape"], generator=torch.Generator().manual_seed(seed)))
    return network.eval().requires_grad_(False)


def train(network: ExampleCoreReadout, seed: int, steps: int, batch_size: int = 16) -> None:
    """Fit the low-resolution model by the Poisson likelihood of the simulated responses, in place."""
    place_readouts(network)
    network.train()
    optimizer = torch.optim.AdamW(
        [
            {"params": network.core.parameters(), "weight_decay": 0.01},
            {"params": network.readout.parameters(), "weight_decay": 0.0},
        ]
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=steps + 1, pct_start=0.1)
    recordings = DataLoader(Recordings(batch_size, num_frames=60, seed=seed), batch_size=None, num_workers=1)
    for step, (movies, recorded) in zip(range(steps), recordings, strict=False):
        if step == CALIBRATION_STEPS:
            freeze_batch_norm(network)
        with torch.autocast("cpu", torch.bfloat16):
            predicted = responses(network, movies)
        loss = poisson_deviance(predicted, torch.cat([response_after(recorded[key]) for key in recorded], dim=2))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"seed {seed}, step {step} of {steps}: loss {loss.item():.4f}", flush=True)


@torch.no_grad()
def place_readouts(network: ExampleCoreReadout) -> None:
    """Let each neuron's mask begin small and at its cell's place."""
    longest = max(FEATURE_MAP_SIZE)
    for session, table in SimulatedRetina().neurons.groupby("session"):
        readout = network.readout[session]
        for axis, (name, size) in enumerate(zip(("y", "x"), FEATURE_MAP_SIZE, strict=True)):
            share = (torch.tensor(table[name].to_numpy()) - FIRST_PIXEL) / (size - 1)
            readout.mask_mean[:, axis] = (2 * share - 1) * size / longest / readout.gaussian_mean_scale
        readout.mask_log_var.fill_(-2.5 / readout.gaussian_var_scale)
        readout.features.uniform_(0, 2 / readout.features.shape[1])


def responses(network: ExampleCoreReadout, movies: Tensor) -> Tensor:
    """Responses ``[movies, time, neurons]`` of all sessions' neurons."""
    features = network.core(movies)
    return torch.cat([readout(features) for readout in network.readout.values()], dim=2).float()


def response_after(recorded: Tensor) -> Tensor:
    """The frames of the simulated responses that the model, which consumes more frames, answers to."""
    return recorded[:, FRAMES_CONSUMED - STIMULUS_FORMAT.frames_lost :]


@torch.no_grad()
def held_out_correlation(network: ExampleCoreReadout, num_movies: int = 100) -> Tensor:
    """For each neuron the correlation ``[neurons]`` with the simulated responses to movies not trained on."""
    retina = SimulatedRetina()
    movies = naturalistic_movies(num_movies, 60, torch.Generator().manual_seed(HELD_OUT_SEED))
    recorded = [response_after(retina(movies, data_key=session)) for session in network.readout]
    predicted = torch.cat([responses(network, chunk) for chunk in movies.split(10)])
    pair = torch.stack([predicted, torch.cat(recorded, dim=2)]).flatten(1, 2)
    pair = pair - pair.mean(1, keepdim=True)
    return (pair[0] * pair[1]).sum(0) / (pair[0].norm(dim=0) * pair[1].norm(dim=0))


def main() -> None:
    """Train the models of some seeds and print how well they predict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, default=Path("logs/benchmark"), help="where the weights are kept")
    parser.add_argument("--steps", type=int, default=400, help="gradient steps (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="a model for each (default: %(default)s)")
    arguments = parser.parse_args()
    logging.getLogger("openretina").setLevel(logging.WARNING)
    for seed in arguments.seeds:
        correlation = held_out_correlation(trained_low_res(arguments.directory, seed, arguments.steps))
        print(
            f"seed {seed}: held-out correlation {correlation.mean():.3f} in the mean, {correlation.min():.3f} at least"
        )


if __name__ == "__main__":
    main()
