"""How good MEIs are that a search finds: scores as shares of the best of a long reference.

    python scripts/compare_searches.py mouse_v1_color.pt --searches quick normal --neurons 48 --seeds 3
    python scripts/compare_searches.py simulated --searches normal --neurons 108

The model is "simulated", "digital_twin", or the weights of a network of mouse visual cortex as the Sinz lab publishes
them: a core of convolutions, and a read-out at one point for each neuron. Of such a network each neuron is given the
square of pixels that it sees.

The reference of a neuron is the best of 16 ascents of 200 steps, each from a start of its own: 8 with steps along the
gradient whose length falls from the norm to 2 % of it, 4 of stochastic gradient descent with momentum 0.9 and a
learning rate that makes the first step a tenth of the norm, and 4 of Adam. It takes 3,200 gradients for each neuron,
and is kept in a file. The first lines of the table are what each kind of ascent alone reaches.
"""

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmark import RowSteps, be_quiet
from markdown_table import print_head, print_line
from torch import Tensor, nn
from torch.nn.functional import elu, grid_sample

import mei_lightning as ml

STEPS = 200
SEEN = 28
"""Width and height of what a neuron sees: 9 pixels by the first convolution, and 6 more by each of three others."""


class Annealed(ml.RowOptimizer):
    """Steps along the gradient, whose length falls geometrically from the norm of the stimulus to 2 % of it."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})

    def initial_state(self, group: dict[str, Any], stimulus: Tensor) -> dict[str, Tensor]:
        """The number of steps."""
        return {"step": stimulus.new_zeros(len(stimulus))}

    def moved(self, group: dict[str, Any], stimulus: Tensor, gradient: Tensor, state: dict[str, Tensor]) -> Tensor:
        """A step."""
        length = norms(stimulus) * per_row(0.02 ** (state["step"] / STEPS))
        state["step"] += 1
        return stimulus - length * gradient / norms(gradient)


class Momentum(ml.RowOptimizer):
    """Stochastic gradient descent with momentum 0.9, whose first step is a tenth of the norm of the stimulus."""

    normalises_gradients = False

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})

    def initial_state(self, group: dict[str, Any], stimulus: Tensor) -> dict[str, Tensor]:
        """Learning rate, 0 for one that is not chosen yet, and velocity."""
        return {"rate": stimulus.new_zeros(len(stimulus)), "velocity": torch.zeros_like(stimulus)}

    def moved(self, group: dict[str, Any], stimulus: Tensor, gradient: Tensor, state: dict[str, Tensor]) -> Tensor:
        """A step."""
        first = 0.1 * (norms(stimulus) / norms(gradient)).flatten()
        state["rate"] += torch.where(state["rate"] == 0, first, 0)
        state["velocity"] += gradient - 0.1 * state["velocity"]
        return stimulus - per_row(state["rate"]) * state["velocity"]


class Adam(ml.RowOptimizer):
    """Adam with a learning rate of a tenth of the root mean square of the stimulus."""

    normalises_gradients = False

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})

    def initial_state(self, group: dict[str, Any], stimulus: Tensor) -> dict[str, Tensor]:
        """Both moments of the gradient, and the number of steps."""
        moments = {name: torch.zeros_like(stimulus) for name in ("first", "second")}
        return {"step": stimulus.new_zeros(len(stimulus)), **moments}

    def moved(self, group: dict[str, Any], stimulus: Tensor, gradient: Tensor, state: dict[str, Tensor]) -> Tensor:
        """A step."""
        state["step"] += 1
        state["first"] += 0.1 * (gradient - state["first"])
        state["second"] += 0.001 * (gradient.square() - state["second"])
        first, second = (
            state[name] / per_row(1 - b ** state["step"]) for name, b in (("first", 0.9), ("second", 0.999))
        )
        rate = 0.1 * norms(stimulus) / stimulus[0].numel() ** 0.5
        return stimulus - rate * first / (second.sqrt() + 1e-12)


COLUMNS = {
    "search": ("search", "{}"),
    "seed": ("seed", "{}"),
    "steps": ("steps a neuron", "{:.1f}"),
    "mean": ("mean", "{:.4f}"),
    "median": ("median", "{:.4f}"),
    "least": ("least", "{:.4f}"),
    "good": ("at least 0.99", "{:.0%}"),
    "seconds": ("s", "{:.0f}"),
}
REFERENCE: dict[type[ml.RowOptimizer], int] = {Annealed: 8, Momentum: 4, Adam: 4}
"""Starts of each kind."""


def norms(values: Tensor) -> Tensor:
    """The norm of each row, to be multiplied with rows; never 0."""
    return per_row(values.flatten(1).norm(dim=1).clamp(min=1e-20))


def per_row(values: Tensor) -> Tensor:
    """Values ``[rows]``, to be multiplied with rows."""
    return values.view(-1, 1, 1, 1, 1)


class VisualCortex(nn.Module):
    """Neurons of a network of mouse visual cortex, each with the pixels that it sees as its image.

    Args:
        weights: of the network, by name.
        neurons: how many, drawn by chance.
    """

    def __init__(self, weights: dict[str, Tensor], neurons: int) -> None:
        super().__init__()
        core = [value for name, value in weights.items() if name.startswith("core.features")]
        channels = core[0].shape[1]
        self.core = nn.Sequential(
            nn.Sequential(nn.Conv2d(channels, 64, 9, bias=False), nn.BatchNorm2d(64), nn.ELU()),
            *(nn.Sequential(separable(64), nn.BatchNorm2d(64), nn.ELU()) for _ in range(3)),
        )
        self.core.load_state_dict(dict(zip(self.core.state_dict(), core, strict=True)))
        position, features, bias = read_outs(weights)
        chosen = torch.randperm(len(bias), generator=torch.Generator().manual_seed(5))[:neurons]
        self.features, self.bias = nn.Parameter(features[:, chosen]), nn.Parameter(bias[chosen])
        # The feature map of a whole image of 36 by 64 pixels has 28 by 56; that of a square has 20 by 20.
        pixels = (position[chosen] + 1) / 2 * torch.tensor([55.0, 27.0])
        corner = (pixels.floor() - 9).clamp(torch.zeros(2), torch.tensor([36.0, 8.0]))
        self.register_buffer("position", 2 * (pixels - corner) / (SEEN - 9) - 1)

    def forward(self, image: Tensor) -> Tensor:
        """Responses ``[rows, neurons]``."""
        position = self.position[None, :, None].expand(len(image), -1, -1, -1)
        seen = grid_sample(self.core(image), position, align_corners=True)[..., 0]
        return elu((seen * self.features).sum(1) + self.bias) + 1


def separable(channels: int) -> nn.Sequential:
    """A depthwise-separable convolution."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.Conv2d(channels, channels, 7, padding=3, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
    )


def read_outs(weights: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Positions ``[neurons, 2]``, features ``[channels, neurons]`` and biases of all sessions."""
    parts = []
    for session in sorted({name.split(".")[1] for name in weights if name.startswith("readout.")}):
        own = {name.removeprefix(f"readout.{session}."): value for name, value in weights.items()}
        if "_mu" in own:
            position = own["_mu"].reshape(-1, 2)
        else:
            position = own["source_grid"] @ own["mu_transform.0.weight"].T + own["mu_transform.0.bias"]
        parts.append((position.clamp(-1, 1), own["_features"][0, :, 0], own["bias"]))
    positions, features, biases = zip(*parts, strict=True)
    return torch.cat(positions), torch.cat(features, dim=1), torch.cat(biases)


def model_and_neurons(name: str, count: int) -> tuple[ml.RetinaModel, Any, dict[str, Any]]:
    """A model, some of its neurons, and settings of the run."""
    if not name.endswith(".pt"):
        model = ml.load_model(name)
        every = [(row.session, row.index) for row in model.neurons.itertuples(index=False)]
        return model, every[:count], {}
    weights = torch.load(name, weights_only=True, map_location="cpu")
    network = VisualCortex(weights, count)
    names = tuple(f"channel {number}" for number in range(network.core[0][0].in_channels))
    return ml.RetinaModel(network, ml.StimulusFormat(names, SEEN, SEEN)), list(range(count)), {"norm": 10.0}


def found(model: ml.RetinaModel, neurons: Any, settings: dict[str, Any]) -> tuple[Any, float]:
    """MEIs, and the steps that were computed for each."""
    counted = RowSteps()
    callbacks = [counted, *settings.pop("callbacks", [])]
    meis = ml.find_meis(model, neurons, accelerator="cpu", progress_bar=False, callbacks=callbacks, **settings)
    return meis, counted.computed / meis.sizes["neuron"]


def reference(path: Path, model: ml.RetinaModel, neurons: Any, settings: Any) -> dict[str, np.ndarray]:
    """Scores ``[neurons, starts]`` of each kind of ascent, kept at a path."""
    if not path.exists():
        scores = {}
        for kind, starts in REFERENCE.items():
            search = ml.MultiStart(starts=starts, keep=starts, max_steps=STEPS, shifts=())
            endless = ml.RowConvergence(patience=STEPS)
            options = {"optimizer": kind, "search": search, "seed": 1000 + len(scores), "callbacks": [endless]}
            meis, _ = found(model, neurons, {**settings, **options})
            scores[kind.__name__] = meis["restart_scores"].values
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **scores)
    return dict(np.load(path))


def main() -> None:
    """Print a line for each search and seed, and one for all seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help='"simulated", "digital_twin", or a file of weights (.pt)')
    parser.add_argument("--searches", nargs="+", default=["quick", "normal"], help="by default quick and normal")
    parser.add_argument("--neurons", type=int, default=48)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=Path("logs/search_reference"), help="where references are kept")
    arguments = parser.parse_args()
    be_quiet()
    warnings.simplefilter("ignore")
    model, neurons, settings = model_and_neurons(arguments.model, arguments.neurons)
    cache = arguments.cache / f"{Path(arguments.model).stem}_{len(neurons)}.npz"
    long = reference(cache, model, neurons, settings)
    best = np.nanmax(np.concatenate(list(long.values()), axis=1), axis=1)
    print_head(COLUMNS)
    parts = {f"Momentum, {starts} of its starts": ("Momentum", starts) for starts in range(1, REFERENCE[Momentum])}
    parts |= {f"{kind.__name__}, {starts} starts": (kind.__name__, starts) for kind, starts in REFERENCE.items()}
    for told, (kind, starts) in parts.items():
        shares = long[kind][:, :starts].max(axis=1) / best
        print_line(COLUMNS, {"search": told, "steps": starts * STEPS, **numbers_of(shares)})
    for search in arguments.searches:
        all_shares, all_steps = [], []
        for seed in range(arguments.seeds):
            begun = time.perf_counter()
            meis, steps = found(model, neurons, {**settings, "search": search, "seed": seed})
            shares = meis["score"].values / best
            row = {"search": search, "seed": seed, "steps": steps, "seconds": time.perf_counter() - begun}
            print_line(COLUMNS, row | numbers_of(shares))
            all_shares.append(shares)
            all_steps.append(steps)
        row = {"search": search, "seed": "all", "steps": np.mean(all_steps)}
        print_line(COLUMNS, row | numbers_of(np.concatenate(all_shares)))


def numbers_of(shares: np.ndarray) -> dict[str, float]:
    """What a line says of scores as shares of the reference's."""
    return {"mean": shares.mean(), "median": np.median(shares), "least": shares.min(), "good": np.mean(shares >= 0.99)}


if __name__ == "__main__":
    main()
