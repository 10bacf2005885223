"""Write data/mouse_v1_reference.json: the best responses that a long search finds for neurons of the mouse V1 network.

A plain loop that shares nothing with the package's optimisers, constraints and module. Run it once, with
MEI_LIGHTNING_TEST_DATA set; it takes about 20 minutes on two cores:

    python tests/make_mouse_v1_reference.py
"""

import json
from pathlib import Path

import torch
from mouse_v1 import load_mouse_v1
from torch import Tensor

NORM = 10.0
NEURONS_PER_SESSION = 16
STEPS = 200
ANNEALED_RESTARTS = 8
SGD_RESTARTS = 4
SGD_LEARNING_RATE = 10.0


def to_norm(images: Tensor) -> Tensor:
    return images * (NORM / images.square().sum((1, 2, 3), keepdim=True).sqrt())


def annealed(images: Tensor, gradient: Tensor, step: int) -> Tensor:
    length = NORM * 1.0 * 0.005 ** (step / (STEPS - 1))
    return to_norm(images + length * gradient / gradient.square().sum((1, 2, 3), keepdim=True).sqrt())


def sgd(images: Tensor, gradient: Tensor, step: int) -> Tensor:
    return to_norm(images + SGD_LEARNING_RATE * gradient)


def ascend(network: torch.nn.Module, session: str, neurons: list[int], update, seed: int) -> Tensor:
    """Best response [neurons] on the way from one noise image for each neuron."""
    images = to_norm(torch.randn(len(neurons), 2, 36, 64, generator=torch.Generator().manual_seed(seed)))
    best = torch.zeros(len(neurons))
    for step in range(STEPS + 1):
        images.requires_grad_()
        responses = network(images, data_key=session)[range(len(neurons)), neurons]
        (gradient,) = torch.autograd.grad(responses.sum(), images)
        best = torch.maximum(best, responses.detach())
        images = update(images.detach(), gradient, step)
    return best


def main() -> None:
    model = load_mouse_v1()
    best = {}
    for session, count in sorted(model.neurons_per_session.items()):
        neurons = list(range(0, count, count // NEURONS_PER_SESSION))[:NEURONS_PER_SESSION]
        runs = [ascend(model.network, session, neurons, annealed, seed) for seed in range(ANNEALED_RESTARTS)]
        runs += [ascend(model.network, session, neurons, sgd, 1000 + seed) for seed in range(SGD_RESTARTS)]
        responses = torch.stack(runs)
        shares = responses / responses.amax(0)
        print(session, "median and lowest share of the best, each run:", flush=True)
        for share in shares:
            print(f"  {share.median():.3f} {share.min():.3f}", flush=True)
        for neuron, response in zip(neurons, responses.amax(0).tolist(), strict=True):
            best[f"{session}/{neuron}"] = round(response, 4)
    reference = {
        "norm": NORM,
        "steps": STEPS,
        "annealed_restarts": ANNEALED_RESTARTS,
        "sgd_restarts": SGD_RESTARTS,
        "sgd_learning_rate": SGD_LEARNING_RATE,
        "best_responses": best,
    }
    path = Path(__file__).with_name("data") / "mouse_v1_reference.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(reference, indent=1) + "\n")


if __name__ == "__main__":
    main()
