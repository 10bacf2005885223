"""A copy of a model, parts of which are rewritten to be faster."""

from collections.abc import Sequence
from contextlib import nullcontext

import pandas as pd
import torch
from torch import Tensor, nn

from mei_lightning.acceleration.blocks import ROWS_PER_BLOCK
from mei_lightning.acceleration.fast_convolutions import FastConvolutions
from mei_lightning.acceleration.frozen_core import FrozenCore
from mei_lightning.models.base import RetinaModel
from mei_lightning.models.read_out import part_of_read_out
from mei_lightning.neurons import Neuron


class FastModel(RetinaModel):
    """A copy of a model that computes the same, faster; ``prepare`` makes it.

    The copy shares the weights that it did not rewrite with the original.

    Args:
        model: the copy, with parts of it rewritten.
        convolutions: intercepts its convolutions, or None if nothing is to be gained from that.

    Attributes:
        smallest_block: the fewest rows of a block that is computed to the same last bit as a larger one.
    """

    smallest_block = ROWS_PER_BLOCK

    compiles = False
    """Whether read-outs go through ``torch.compile``."""

    def __init__(self, model: RetinaModel, convolutions: FastConvolutions | None) -> None:
        counts = model.neurons_per_session
        super().__init__(model, model.stimulus_format, counts if model.has_sessions else counts[""], model.name)
        self.convolutions = convolutions
        # In a tuple, so that the module's parts, which are the model's, are not registered a second time.
        self._whole: tuple[dict[Neuron, int], nn.Module] = {}, nn.Identity()

    @property
    def neurons(self) -> pd.DataFrame:
        """A row for each neuron, as the original has it."""
        return self._model.neurons

    @property
    def members(self) -> list[RetinaModel]:
        """The prepared members of an ensemble; itself alone, unless it is one."""
        if len(self._model.members) == 1:
            return [self]
        members = [FastModel(member, self.convolutions) for member in self._model.members]
        for member in members:
            member.smallest_block = self.smallest_block
        return [*members]

    @property
    def computes_in_blocks(self) -> bool:
        """Whether all its convolutions are rewritten, so that a CPU computes them in blocks of rows."""
        return self.convolutions is None and any(isinstance(part, FrozenCore) for part in self.modules())

    @property
    def _model(self) -> RetinaModel:
        assert isinstance(self.network, RetinaModel)
        return self.network

    def forward(self, stimulus: Tensor, data_key: str | None = None) -> Tensor:
        """Responses ``[batch, time', neurons]`` of a session to stimuli ``[batch, channels, time, height, width]``.

        Raises:
            ValueError: if the session is missing or unknown.
        """
        with self.convolutions or nullcontext():
            return self._model(stimulus, data_key=data_key)

    def _read_out(self, rows: Sequence[int] | None, neurons: Sequence[Neuron]) -> nn.Module:
        read_out = self._from_whole(rows, neurons) or self._model.read_out(rows, neurons)
        if self.convolutions is not None:
            read_out = _Intercepted(read_out, self.convolutions)
        return torch.compile(read_out) if self.compiles else read_out  # type: ignore[return-value]

    def _from_whole(self, rows: Sequence[int] | None, neurons: Sequence[Neuron]) -> nn.Module | None:
        """A read-out that is made from that of all neurons that were asked for so far, since its weights are fixed."""
        # Threads may do this at the same time: what belongs together is read and written at once.
        place_of, read_out = self._whole
        if not place_of.keys() >= set(neurons):
            place_of = {neuron: place for place, neuron in enumerate(dict.fromkeys([*place_of, *neurons]))}
            read_out = self._model.read_out(None, list(place_of))
            self._whole = place_of, read_out
        return part_of_read_out(read_out, rows, [place_of[neuron] for neuron in neurons])


class _Intercepted(nn.Module):
    def __init__(self, module: nn.Module, convolutions: FastConvolutions) -> None:
        super().__init__()
        self.module = module
        self.convolutions = convolutions

    def forward(self, stimulus: Tensor) -> Tensor:
        with self.convolutions:
            return self.module(stimulus)
