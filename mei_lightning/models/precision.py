"""In which precision a network is shown stimuli, and in which its responses are used."""

import torch
from torch import Tensor, nn


def precision_of_weights(model: nn.Module) -> torch.dtype | None:
    """That of the first weight of a model, None if it has none."""
    weight = _first_weight(model)
    return None if weight is None else weight.dtype


def like_weights(model: nn.Module, values: Tensor) -> Tensor:
    """Values where the first weight of a model is, and in its precision; as they are if it has none."""
    weight = _first_weight(model)
    return values if weight is None else values.to(weight.device, weight.dtype)


def precision_of_stimuli(model: nn.Module) -> torch.dtype | None:
    """That in which stimuli are optimised: of the model's weights, but at least single; None if there are none."""
    precision = precision_of_weights(model)
    return None if precision is None else at_least_single(precision)


def at_least_single(precision: torch.dtype) -> torch.dtype:
    """Single precision in place of a lower one, in which steps and scores would be lost in rounding."""
    return torch.promote_types(precision, torch.float32)


def as_shown_to(network: nn.Module, stimulus: Tensor) -> Tensor:
    """A stimulus in the precision that a network takes: that of its weights, if that is less than single."""
    precision = precision_of_weights(network)
    return stimulus if precision is None or not _is_low(precision) else stimulus.to(precision)


def as_used(values: Tensor, stimulus: Tensor) -> Tensor:
    """Responses or scores in the precision of the stimulus, but at least single, whatever a network computes in."""
    return values.to(at_least_single(stimulus.dtype)) if values.is_floating_point() else values


def in_own_precision(read_out: nn.Module, model: nn.Module) -> nn.Module:
    """A read-out of a model that is shown stimuli as the model takes them, and whose responses are as they are used."""
    precision = precision_of_weights(model)
    return _InOwnPrecision(read_out, precision) if precision is not None and _is_low(precision) else read_out


def _first_weight(model: nn.Module) -> Tensor | None:
    return next((weight for weight in model.parameters() if weight.is_floating_point()), None)


def _is_low(precision: torch.dtype) -> bool:
    return at_least_single(precision) != precision


class _InOwnPrecision(nn.Module):
    def __init__(self, read_out: nn.Module, precision: torch.dtype) -> None:
        super().__init__()
        self.read_out = read_out
        self.precision = precision

    def forward(self, stimulus: Tensor) -> Tensor:
        return as_used(self.read_out(stimulus.to(self.precision)), stimulus)
