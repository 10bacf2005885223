"""openretina's objectives: those to derive from, and the units inside a network."""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mei_lightning.exceptions import InvalidValueError
from mei_lightning.models.base import RetinaModel
from mei_lightning.objectives import ContrastiveNeuronObjective as ContrastiveNeuronObjective
from mei_lightning.objectives import IncreaseObjective as IncreaseObjective
from mei_lightning.objectives import MeanReducer as MeanReducer
from mei_lightning.objectives import Reducer
from mei_lightning.objectives import SliceMeanReducer as SliceMeanReducer


class _Reduces(Protocol):
    def forward(self, responses: Tensor, /) -> Tensor: ...


class ResponseReducer(Reducer, ABC):
    """Responses to fewer numbers; derive from it and write ``forward`` for one of your own.

    Args:
        axis: the axis to reduce, also as ``_axis``, which openretina's reducers use.
    """

    def __init__(self, axis: int = 0) -> None:
        super().__init__(axis)
        self._axis = axis

    @abstractmethod
    def forward(self, responses: Tensor) -> Tensor:
        """Reduce responses, ``[time']`` or ``[time', neurons]``."""


class AbstractObjective(ABC):
    """Scores a stimulus; derive from it and write ``forward`` for an objective of your own.

    It is given one stimulus ``[1, channels, time, height, width]`` at a time, by ``optimize_stimulus`` and wherever
    else this package takes an objective, and returns one number.

    Args:
        model: called as ``model(stimulus, data_key=data_key)``, or ``model(stimulus)`` without a session.
        data_key: the session; None for the neurons of all sessions.
    """

    def __init__(self, model: nn.Module, data_key: str | None) -> None:
        self._model = model
        self._data_key = data_key

    def model_forward(self, stimulus: Tensor) -> Tensor:
        """Responses ``[time', neurons]`` to one stimulus ``[1, channels, time, height, width]``."""
        session = {} if self._data_key is None else {"data_key": self._data_key}
        return self._model(stimulus, **session).squeeze(0)

    @abstractmethod
    def forward(self, stimulus: Tensor) -> Tensor:
        """The score of the stimulus, to be maximised."""


class SingleNeuronObjective(IncreaseObjective):
    """The response of one neuron, as openretina's earlier notebooks ask for it.

    Args:
        model: as for ``IncreaseObjective``.
        neuron_idx: the neuron.
        data_key: the session; None for the neurons of all sessions.
        response_reducer: turns responses over time into a number.
    """

    def __init__(self, model: nn.Module, neuron_idx: int, data_key: str | None, response_reducer: Reducer) -> None:
        super().__init__(model, neuron_idx, data_key, response_reducer)


@dataclass
class LayerOutput:
    """A layer of a network, and what it put out when it was last asked for (None before)."""

    module: nn.Module
    module_output_tensor: Tensor | None = None


class InnerNeuronVisualizationObjective(AbstractObjective):
    """The unit in the middle of a channel's feature map, of any layer; no hook stays in the model.

    ``InnerUnits`` makes such units neurons of a model, for all else that can be done with neurons.

    Args:
        model: as for ``AbstractObjective``.
        data_key: the session whose responses lead through the layer.
        response_reducer: turns the unit's course in time ``[time']`` into a number.

    Attributes:
        features_dict: the layers by name, the names of nested modules joined by ``_``.
    """

    def __init__(self, model: nn.Module, data_key: str | None, response_reducer: _Reduces) -> None:
        super().__init__(model, data_key)
        self.features_dict = self.hook_model(model)
        self._response_reducer = response_reducer
        self.layer_name = ""
        self.channel_id = -1

    @staticmethod
    def hook_model(model: nn.Module) -> "OrderedDict[str, LayerOutput]":
        """The layers of a model by name; those of its network if it is a ``RetinaModel``."""
        network = model.network if isinstance(model, RetinaModel) else model
        layers = ((name.replace(".", "_"), module) for name, module in network.named_modules() if name)
        return OrderedDict((name, LayerOutput(module)) for name, module in layers)

    def set_layer_channel(self, layer: str, channel: int) -> None:
        """Choose the unit.

        Raises:
            ValueError: if there is no such layer.
        """
        self._check_layer(layer)
        self.layer_name = layer
        self.channel_id = channel

    @torch.no_grad()
    def get_output_shape_for_layer(self, layer_name: str, stimulus_shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """Shape of a layer's output for stimuli of a shape; None if there is no such layer, or it is not used."""
        if layer_name not in self.features_dict:
            return None
        weight = next(self._model.parameters())
        output = self._output_of(layer_name, weight.new_zeros(stimulus_shape))
        return None if output is None else tuple(output.shape)

    def forward(self, stimulus: Tensor) -> Tensor:
        """The score of a stimulus ``[1, channels, time, height, width]``.

        Raises:
            ValueError: if no unit was chosen, or the responses do not lead through the layer.
        """
        if not self.layer_name or self.channel_id < 0:
            raise InvalidValueError("There is no unit yet: call set_layer_channel(layer, channel) first.")
        output = self._output_of(self.layer_name, stimulus)
        if output is None or output.ndim < 4:
            raise InvalidValueError(
                f"Layer {self.layer_name!r} puts out no feature maps for session {self._data_key!r}: choose another "
                "of features_dict, or another data_key."
            )
        if self.channel_id >= output.shape[1]:
            raise InvalidValueError(
                f"channel={self.channel_id}: layer {self.layer_name!r} has channels 0 to {output.shape[1] - 1}."
            )
        features = output[:, self.channel_id]
        height, width = features.shape[-2:]
        course = features[..., height // 2, width // 2].mean(dim=0)
        return self._response_reducer.forward(course)

    def _output_of(self, layer: str, stimulus: Tensor) -> Tensor | None:
        place = self.features_dict[layer]
        place.module_output_tensor = None
        with _recording(place):
            self.model_forward(stimulus)
        return place.module_output_tensor

    def _check_layer(self, layer: str) -> None:
        if layer not in self.features_dict:
            raise InvalidValueError(f"The model has no layer {layer!r}. Its layers: {', '.join(self.features_dict)}.")


@contextmanager
def _recording(place: LayerOutput) -> Iterator[None]:
    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        place.module_output_tensor = output if isinstance(output, Tensor) else None

    hook = place.module.register_forward_hook(keep)
    try:
        yield
    finally:
        hook.remove()
