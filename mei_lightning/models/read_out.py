"""Read-outs: the responses of chosen neurons, each to a stimulus of its own or to all, computed together."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mei_lightning.acceleration.blocks import ROWS_LAST
from mei_lightning.acceleration.rounding import summing_precision
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.models.finite_weights import with_finite_weights
from mei_lightning.models.precision import as_shown_to, as_used
from mei_lightning.neurons import Neuron, check_neuron_indices

# So many neurons of the same stimulus share one copy of its features. It bounds the memory of large groups, and of
# responses of many neurons to all stimuli.
_SLOT_WIDTH = 32


class SessionReadOut(nn.Module):
    """Responses of chosen neurons of any model, which is called once for each session, with only the session's rows.

    Args:
        model: called as ``model(stimulus, data_key=session)``, or ``model(stimulus)`` for neurons without a session;
            returns responses ``[batch, time', neurons]`` (or ``[batch, neurons]``).
        rows: for each response the index of its stimulus in the batch; None for responses to all of the batch.
        neurons: for each response its neuron.

    Raises:
        IndexError: in ``forward``, if a session has no such neuron.
    """

    order: Tensor

    def __init__(self, model: nn.Module, rows: Sequence[int] | None, neurons: Sequence[Neuron]) -> None:
        super().__init__()
        self.model = model
        self.finite_model = with_finite_weights(model)
        self._to_all_rows = rows is None
        self._sessions: list[tuple[str | None, list[int]]] = []
        places_of_sessions, order = _by_session(neurons)
        self.register_buffer("order", order, persistent=False)
        for number, (session, places) in enumerate(places_of_sessions.items()):
            indices = [neurons[place].index for place in places]
            self._sessions.append((session, [min(indices), max(indices)]))
            self.register_buffer(f"neurons_{number}", torch.tensor(indices), persistent=False)
            if rows is not None:
                distinct_rows, row_of_place = np.unique([rows[place] for place in places], return_inverse=True)
                self.register_buffer(f"rows_{number}", torch.from_numpy(distinct_rows), persistent=False)
                self.register_buffer(f"places_{number}", torch.from_numpy(row_of_place), persistent=False)

    def forward(self, stimulus: Tensor) -> Tensor:
        """Responses ``[len(neurons), time']``, or ``[len(neurons), batch, time']``, to stimuli ``[batch, ...]``."""
        members = []
        for number, (session, extremes) in enumerate(self._sessions):
            neurons = self.get_buffer(f"neurons_{number}")
            shown = stimulus if self._to_all_rows else stimulus[self.get_buffer(f"rows_{number}")]
            responses = self._responses(shown, session)
            check_neuron_indices(extremes, responses.shape[-1], session)
            if self._to_all_rows:
                members.append(responses[:, :, neurons].permute(2, 0, 1))
            else:
                members.append(responses[self.get_buffer(f"places_{number}"), :, neurons])
        return torch.cat(members)[self.order]

    def _responses(self, shown: Tensor, session: str | None) -> Tensor:
        if self.finite_model is None or not (torch.is_grad_enabled() and shown.requires_grad):
            return session_responses(self.model, shown, session)
        with torch.no_grad():
            responses = session_responses(self.model, shown, session)
        differentiable = session_responses(self.finite_model, shown, session)
        return responses + (differentiable - differentiable.detach())


class MaskReadOut(nn.Module):
    """Responses of neurons that each look at a core's features through a mask of their own.

    Args:
        rows: for each response the index of its features in the batch; None for responses to all of the batch.
        masks: for each response its neuron's mask, ``[responses, height', width']``.
        weights: for each response its neuron's weights of the features, ``[responses, features]``.
        bias: for each response its neuron's bias, ``[responses]``.
        nonlinearity: turns the drive, the weighed features under the mask plus the bias, into a response.
    """

    nonlinearity: Callable[[Tensor], Tensor]
    masks: Tensor
    weights: Tensor
    bias: Tensor
    slot_rows: Tensor
    slots: Tensor
    places: Tensor

    def __init__(
        self,
        rows: Sequence[int] | None,
        masks: Tensor,
        weights: Tensor,
        bias: Tensor,
        nonlinearity: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.nonlinearity = nonlinearity
        self._to_all_rows = rows is None
        values = {"masks": masks.flatten(1), "weights": weights, "bias": bias}
        if rows is not None:
            slot_rows, slots, places = _slots(rows)
            self._rows_in_order = torch.equal(slot_rows, torch.arange(len(slot_rows), device=slot_rows.device))
            values.update(slot_rows=slot_rows, slots=slots, places=places)
        for name, value in values.items():
            self.register_buffer(name, value.detach().to(masks.device), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Responses to features ``[batch, features, time', height', width']``.

        Returns:
            ``[responses, time']``, or without rows ``[responses, batch, time']``.
        """
        if self._to_all_rows:
            return self._responses_to_all(features)
        size = features.shape[1:3]
        in_order = self._rows_in_order and len(features) == len(self.slot_rows)
        if in_order and self.slots.shape[1] == 1 and features.stride(0) == 1:
            return self._one_response_each(features.permute(ROWS_LAST))
        # Copying the features, and their gradients, takes longer than all the rest.
        copied = features if in_order else features[self.slot_rows]
        seen = copied.flatten(3).flatten(1, 2) @ self.masks[self.slots].mT
        drive = (seen.unflatten(1, size) * self.weights[self.slots].mT[:, :, None]).sum(dim=1)
        return self.nonlinearity(drive.mT.flatten(0, 1)[self.places] + self.bias[:, None])

    def of(self, rows: Sequence[int] | None, places: Sequence[int]) -> "MaskReadOut":
        """The read-out of some of its responses, by their places among them, each to a row of its own choice."""
        chosen = torch.tensor(places, device=self.masks.device)
        return MaskReadOut(rows, self.masks[chosen], self.weights[chosen], self.bias[chosen], self.nonlinearity)

    def _responses_to_all(self, features: Tensor) -> Tensor:
        rows, _, frames = features.shape[:3]
        pixels_last = features.transpose(1, 2).flatten(3).flatten(0, 2)
        drives = []
        for masks, weights in zip(self.masks.split(_SLOT_WIDTH), self.weights.split(_SLOT_WIDTH), strict=True):
            seen = (pixels_last @ masks.T).view(rows * frames, -1, len(masks))
            drives.append((seen * weights.T).sum(dim=1).T)
        return self.nonlinearity(torch.cat(drives).view(-1, rows, frames) + self.bias[:, None, None])

    def _one_response_each(self, features: Tensor) -> Tensor:
        """Responses to features ``[time', height', width', features, batch]``, as a prepared core leaves them."""
        order = self.slots[:, 0]
        template = self.masks[order].T[:, None] * self.weights[order].T
        # The nonlinearity's exponentials, too, round to the same in double precision in whatever way they are taken.
        drive = (features.flatten(1, 2) * template).sum(dim=(1, 2), dtype=summing_precision(features))
        return self.nonlinearity(drive.T[self.places] + self.bias[:, None]).to(features.dtype)


class MeanReadOut(nn.Module):
    """The mean of several read-outs of the same neurons.

    Args:
        members: the read-outs.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, stimulus: Tensor) -> Tensor:
        """Responses ``[neurons, time']`` to stimuli ``[batch, channels, time, height, width]``."""
        return torch.stack([member(stimulus) for member in self.members]).mean(dim=0)


def part_of_read_out(read_out: nn.Module, rows: Sequence[int] | None, places: Sequence[int]) -> nn.Module | None:
    """The read-out of some responses of another read-out, with what that knows of the neurons.

    Args:
        read_out: of any rows.
        rows: for each response the index of its stimulus in the batch; None for responses to all of the batch.
        places: which of the responses.

    Returns:
        None if the read-out does not keep what it knows of each neuron.
    """
    if isinstance(read_out, MaskReadOut):
        return read_out.of(rows, places)
    if type(read_out) is nn.Sequential:
        *before, last = read_out
        part = part_of_read_out(last, rows, places)
        return None if part is None else nn.Sequential(*before, part)
    if isinstance(read_out, MeanReadOut):
        parts = [part_of_read_out(member, rows, places) for member in read_out.members]
        members = [part for part in parts if part is not None]
        return MeanReadOut(members) if len(members) == len(parts) else None
    return None


def gather_neurons(
    neurons: Sequence[Neuron], of_session: Callable[[str | None, Tensor], tuple[Tensor, ...]]
) -> tuple[Tensor, ...]:
    """What a model knows about each neuron, in the order of ``neurons``.

    Args:
        neurons: the neurons; one may occur several times.
        of_session: maps a session and indices ``[n]`` of its neurons to tensors ``[n, ...]``.

    Returns:
        Those tensors of all sessions, ``[len(neurons), ...]``.
    """
    places_of_sessions, order = _by_session(neurons)
    parts = [
        of_session(session, torch.tensor([neurons[place].index for place in places]))
        for session, places in places_of_sessions.items()
    ]
    return tuple(torch.cat(tensors)[order.to(tensors[0].device)] for tensors in zip(*parts, strict=True))


def session_responses(model: nn.Module, stimulus: Tensor, session: str | None) -> Tensor:
    """Responses ``[rows, time', neurons]`` of one session; a model that returns no time axis has one frame."""
    shown = as_shown_to(model, stimulus)
    responses = model(shown) if session is None else model(shown, data_key=session)
    if responses.ndim == 2:
        responses = responses[:, None]
    if responses.ndim != 3:
        raise InvalidValueError(
            f"The model returned responses of shape {tuple(responses.shape)} for a stimulus of shape "
            f"{tuple(stimulus.shape)}; expected [batch, time', neurons] or [batch, neurons]."
        )
    return as_used(responses, stimulus)


def _by_session(neurons: Sequence[Neuron]) -> tuple[dict[str | None, list[int]], Tensor]:
    """The places of each session's neurons, and what puts all sessions' neurons, one after the other, in order."""
    places: dict[str | None, list[int]] = {}
    for place, neuron in enumerate(neurons):
        places.setdefault(neuron.session, []).append(place)
    return places, torch.argsort(torch.tensor([place for session in places.values() for place in session]))


def _slots(rows: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Put responses to the same stimulus side by side, into slots of equal width.

    Returns:
        The row of each slot ``[slots]``, the responses in it ``[slots, width]``, and the place of each response in
        the flattened slots ``[len(rows)]``.
    """
    distinct_rows, row_of_response, counts = np.unique(np.asarray(rows), return_inverse=True, return_counts=True)
    width = min(_SLOT_WIDTH, int(counts.max()))
    slots_of_row = -(-counts // width)
    first_slot = np.cumsum(slots_of_row) - slots_of_row
    by_row = np.argsort(row_of_response, kind="stable")
    number_in_row = np.arange(len(by_row)) - np.repeat(np.cumsum(counts) - counts, counts)
    slot, column = first_slot[row_of_response[by_row]] + number_in_row // width, number_in_row % width
    # A place that is left over holds the slot's first response again, so that a neuron whose weights are not finite
    # cannot reach another row through it.
    slots = np.repeat(by_row[column == 0][:, None], width, axis=1)
    slots[slot, column] = by_row
    places = np.empty(len(by_row), dtype=np.int64)
    places[by_row] = slot * width + column
    return (
        torch.from_numpy(np.repeat(distinct_rows, slots_of_row)),
        torch.from_numpy(slots),
        torch.from_numpy(places),
    )
