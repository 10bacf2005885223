"""How a rewritten model is compared with its original: by a step on random stimuli, in double precision if possible."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from mei_lightning.gradients import gradient_of
from mei_lightning.models.base import RetinaModel
from mei_lightning.neurons import Neuron

_SESSIONS_VERIFIED = 4


def copy_of(model: RetinaModel) -> RetinaModel:
    """A copy in evaluation mode that shares the original's weights, but needs no gradients of them."""
    shared: dict[int, Any] = {}
    for module in model.modules():
        for values in (*module.__dict__.values(), *module.buffers(recurse=False)):
            if isinstance(values, Tensor):
                shared[id(values)] = values.detach()
        for parameter in module.parameters(recurse=False):
            shared[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    return deepcopy(model, shared).eval()


def step_of(model: RetinaModel, stimulus: Tensor) -> tuple[Tensor, Tensor]:
    """Responses of some neurons, and the gradient of a random sum of them."""
    neurons = some_neurons(model)
    stimulus = stimulus.clone().requires_grad_()
    rows = [place % len(stimulus) for place in range(len(neurons))]
    with torch.enable_grad():
        responses = model.read_out(rows, neurons)(stimulus)
        generator = torch.Generator().manual_seed(1)
        weights = torch.randn(responses.shape, generator=generator, dtype=torch.float64).to(responses)
        gradient = gradient_of((weights * responses).sum(), stimulus)
    return responses.detach(), gradient


def step_in_double(model: RetinaModel, stimulus: Tensor) -> tuple[Tensor, Tensor] | None:
    """A ``step_of`` of a copy in double precision; None if the model computes only in its own."""
    try:
        return step_of(copy_of(model).double(), stimulus.double())
    except RuntimeError:
        return None


def some_neurons(model: RetinaModel) -> list[Neuron]:
    """The first and the last neuron of some sessions."""
    counts = [(session, count) for session, count in model.neurons_per_session.items() if count]
    return [
        Neuron(session or None, index) for session, count in counts[:_SESSIONS_VERIFIED] for index in (0, count - 1)
    ]


def differences_of(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> list[float]:
    """The largest difference of each, as a share of the largest value; infinite if there is what is not a number."""
    differences = []
    for values, right in zip(found, expected, strict=True):
        values, right = values.cpu().double(), right.cpu().double()
        share = (values - right).abs().max() / right.abs().max().clamp(min=1e-300)
        differences.append(share.nan_to_num(nan=float("inf")).item())
    return differences


def random_stimulus(shape: Sequence[int], like: Tensor) -> Tensor:
    """Stimuli of this shape, the same each time, where a tensor is and in its precision."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(like)


def weight_of(model: nn.Module) -> Tensor:
    """A tensor of a model, which tells where it is and in which precision it computes."""
    return next((values for values in tensors_of(model) if values.is_floating_point()), torch.zeros(()))


def tensors_of(model: nn.Module) -> list[Tensor]:
    """All parameters and buffers of a model."""
    return [*model.parameters(), *model.buffers()]
