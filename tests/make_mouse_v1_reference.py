"""Write data/mouse_v1_reference.json: the best responses that a long search finds for neurons of the mouse V1 network.

A plain loop that shares nothing with the package's optimisers, constraints and module. Run it once, with
MEI_LIGHTNING_TEST_DATA set; it takes about 10 minutes on two cores:

    python tests/make_mouse_v1_reference.py
"""

import json
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path

import torch
from mouse_v1 import load_mouse_v1
from torch import Tensor

NORM = 10.0
NEURONS_PER_SESSION = 16
STEPS = 150
ANNEALED_RESTARTS = 6
SGD_RESTARTS = 2
SGD_LEARNING_RATE = 10.0


def to_norm(images: Tensor) -> Tensor:
    return images * (NORM / images.square().sum((1, 2, 3), keepdim=True).sqrt())


def annealed(images: Tensor, gradient: Tensor, step: int) -> Tensor:
    length = NORM * 0.005 ** (step / STEPS)
    return to_norm(images + length * gradient / gradient.square().sum((1, 2, 3), keepdim=True).sqrt())


def sgd(images: Tensor, gradient: Tensor, step: int) -> Tensor:
    return to_norm(images + SGD_LEARNING_RATE * gradient)


def chosen_neurons(count: int) -> list[int]:
    return list(range(0, count, count // NEURONS_PER_SESSION))[:NEURONS_PER_SESSION]


def ascend(session: str, seed: int) -> Tensor:
    """Best response [neurons] on the way from one noise image for each neuron."""
    torch.set_num_threads(1)
    update = annealed if seed < ANNEALED_RESTARTS else sgd
    model = load_mouse_v1()
    neurons = chosen_neurons(model.neurons_per_session[session])
    images = to_norm(torch.randn(len(neurons), 2, 36, 64, generator=torch.Generator().manual_seed(seed)))
    best = torch.zeros(len(neurons))
    for step in range(STEPS + 1):
        images.requires_grad_()
        responses = model.network(images, data_key=session)[range(len(neurons)), neurons]
        (gradient,) = torch.autograd.grad(responses.sum(), images)
        best = torch.maximum(best, responses.detach())
        images = update(images.detach(), gradient, step)
    return best


def main() -> None:
    neurons_per_session = load_mouse_v1().neurons_per_session
    seeds = range(ANNEALED_RESTARTS + SGD_RESTARTS)
    with ProcessPoolExecutor(2) as pool:
        runs = list(pool.map(ascend, *zip(*product(neurons_per_session, seeds), strict=True)))
    best = {}
    for number, (session, count) in enumerate(neurons_per_session.items()):
        responses = torch.stack(runs[number * len(seeds) : (number + 1) * len(seeds)])
        highest = responses.amax(0)
        shares = [f"{share.median():.2f} ({share.min():.2f})" for share in responses / highest]
        print(session, "median (lowest) share of the best in each run:", *shares)
        for neuron, response in zip(chosen_neurons(count), highest.tolist(), strict=True):
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
