"""Whether a network answers each stimulus of a batch for itself, and which of its layers does not."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from mei_lightning.exceptions import InvalidValueError
from mei_lightning.models.base import RetinaModel
from mei_lightning.models.network_errors import OF_NETWORKS, what_it_says
from mei_lightning.models.read_out import session_responses

_SAME = 1e-3
"""Relative difference up to which a stimulus is answered the same alone and among others."""
_ROUNDING = 5e-2
"""Relative difference that may be rounding, of networks in half precision, if it does not vary with the others."""
_LOUD = 4.0
"""How much stronger the other stimuli are, so that a batch's mean and variance are theirs."""

_ROW_BY_ROW = "RetinaModel(..., row_by_row=True), which shows the network one stimulus at a time"

_GivenAndPutOut = tuple[Tensor, Tensor]


def check_rows_are_apart(model: RetinaModel, stimulus: Tensor, responses: Tensor, session: str | None) -> None:
    """See by one pass whether a stimulus is answered the same beside another one.

    Args:
        model: the model, frozen.
        stimulus: one, ``[1, channels, time, height, width]``.
        responses: to it alone, ``[1, time', neurons]``.
        session: the session that was asked, if there are sessions.

    Raises:
        ValueError: if it is not, or if the model takes only one stimulus at a time. It names the layer.
    """
    beside = torch.cat([stimulus, _LOUD * stimulus.flip(-1)])
    try:
        among = session_responses(model, beside, session)
    except OF_NETWORKS as error:
        if isinstance(error, (torch.OutOfMemoryError, NotImplementedError)):
            raise
        raise InvalidValueError(
            f"Model '{model.name}' cannot compute two stimuli at once: {what_it_says(error)}. Let its forward take a "
            f"batch, or say {_ROW_BY_ROW}."
        ) from error
    shape = (2, *responses.shape[1:])
    if among.shape != shape:
        raise InvalidValueError(
            f"Model '{model.name}' answers two stimuli with responses of shape {tuple(among.shape)}, where [batch, "
            f"time', neurons] should be {shape}. Let its forward keep the batch axis, or say {_ROW_BY_ROW}."
        )
    difference = _difference(among[:1], responses)
    if difference <= _SAME:
        return
    others = torch.cat([stimulus, -stimulus.flip(-2)])
    if difference <= _ROUNDING and _difference(session_responses(model, others, session)[:1], among[:1]) <= _SAME:
        return
    culprit = _coupling_part(model, lambda shown: session_responses(model, shown, session), (beside, others))
    raise InvalidValueError(
        f"Model '{model.name}' answers a stimulus differently beside others, since {culprit} depends on the whole "
        "batch: MEIs would depend on what they are computed with. Take that out of it (batch norm needs running "
        f"statistics), or say {_ROW_BY_ROW}."
    )


def _difference(one: Tensor, other: Tensor) -> float:
    """The largest difference as a share of the largest value; infinite where only one is a number."""
    if not one.numel():
        return 0.0
    one, other = one.float(), other.float()
    size = other.nan_to_num(0.0, 0.0, 0.0).abs().max().clamp(min=1e-37)
    apart = torch.where(one.eq(other) | (one.isnan() & other.isnan()), 0.0, (one - other).abs() / size)
    return float(apart.nan_to_num(nan=torch.inf).max())


def _coupling_part(model: RetinaModel, answer: Callable[[Tensor], Tensor], batches: tuple[Tensor, Tensor]) -> str:
    """The innermost part whose answer to the first stimulus varies with the second, in words."""
    one, other = (_seen_by_parts(model.network, answer, batch) for batch in batches)
    # Inner parts are through before the outer ones.
    for name in one:
        if name and name in other and _varies(one[name], other[name]):
            return f"its layer '{name}' ({type(model.network.get_submodule(name)).__name__})"
    return f"the forward of its {type(model.network).__name__}"


def _varies(one: _GivenAndPutOut, other: _GivenAndPutOut) -> bool:
    if any(values.shape != too.shape for values, too in zip(one, other, strict=True)):
        return False
    given, put_out = (_difference(values, too) for values, too in zip(one, other, strict=True))
    return given <= _SAME < put_out


def _seen_by_parts(network: nn.Module, answer: Callable[[Tensor], Tensor], batch: Tensor) -> dict[str, _GivenAndPutOut]:
    """What each part is given and puts out for the first of two stimuli, by its name."""
    seen: dict[str, _GivenAndPutOut] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, given: tuple[Any, ...], put_out: Any) -> None:
            if given and isinstance(given[0], Tensor) and isinstance(put_out, Tensor) and name not in seen:
                seen[name] = _first(given[0]), _first(put_out)

        return hook

    hooks = []
    try:
        for name, part in network.named_modules():
            # A part in TorchScript has no hooks.
            with suppress(RuntimeError):
                hooks.append(part.register_forward_hook(note(name)))
        answer(batch)
    finally:
        for handle in hooks:
            handle.remove()
    return seen


def _first(values: Tensor) -> Tensor:
    return values[: max(len(values) // 2, 1)].detach().clone() if values.ndim else values.detach().clone()
