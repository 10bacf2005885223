"""The units inside a model as neurons of a model of their own."""

import itertools
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mei_lightning.exceptions import InvalidValueError
from mei_lightning.models.base import RetinaModel
from mei_lightning.models.precision import as_used

Position = Literal["centre", "mean"] | tuple[int, int]


class _Reached(Exception):
    """Ends a pass through a network at the layer that was wanted."""

    def __init__(self, output: Any) -> None:
        self.output = output


class InnerUnits(RetinaModel):
    """The channels of a layer of a model as its neurons, so that all that is done with neurons can be done with them.

    Neuron ``i`` is channel ``i`` of the layer, at one position of its feature map. A pass ends at the layer. A hook
    is on it only meanwhile.

    Args:
        model: the model.
        layer: the name of a part of ``model.network``, as in ``dict(model.network.named_modules())``, whose output is
            ``[batch, channels, time, height, width]``, ``[batch, channels, height, width]`` (still images),
            ``[batch, time, channels]`` or ``[batch, channels]``.
        position: where in the feature map: "centre" (``height // 2, width // 2``), a row and a column, or "mean" for
            the mean over all of them.
        session: the session whose pass leads through the layer, if not every one does; by default the first.

    Raises:
        ValueError: if there is no such layer or session, the pass does not lead through it, its output has another
            form, or the position is outside the feature map.

    Example:
        >>> units = ml.InnerUnits(ml.load_model("digital_twin"), "core.0", position="centre")
        >>> units.neurons_per_session  # a neuron for each channel of the layer
        {'': 48}
        >>> units(torch.zeros(units.stimulus_shape(time_steps=40))).shape
        torch.Size([1, 20, 48])
    """

    def __init__(
        self, model: RetinaModel, layer: str, position: Position = "centre", session: str | None = None
    ) -> None:
        names = [name for name, _ in model.network.named_modules() if name]
        if layer not in names:
            raise InvalidValueError(f"Model '{model.name}' has no layer {layer!r}. Its layers: {', '.join(names)}.")
        if session is None and model.has_sessions:
            session = next(iter(model.neurons_per_session))
        model.check_session(session)
        # How many there are, and how many frames are lost, is seen from what the layer puts out.
        super().__init__(model, model.stimulus_format, 1, f"{model.name}, layer {layer}")
        self.layer = layer
        self.position: Position = position if isinstance(position, str) else (position[0], position[1])
        self.session = session
        frames = 1 if model.stimulus_format.is_still else model.stimulus_format.frames_lost + 1
        tensors = itertools.chain(model.parameters(), model.buffers(), [torch.zeros(())])
        weight = next(values for values in tensors if values.is_floating_point())
        with torch.no_grad():
            responses = self(torch.zeros(model.stimulus_shape(frames), dtype=weight.dtype, device=weight.device))
        self.stimulus_format = replace(model.stimulus_format, frames_lost=max(frames - responses.shape[1], 0))
        self._neurons_per_session = {"": responses.shape[2]}

    def forward(self, stimulus: Tensor, data_key: str | None = None) -> Tensor:
        """Responses ``[batch, time', channels]`` to stimuli ``[batch, channels, time, height, width]``.

        Raises:
            ValueError: if a session is asked for, or the pass does not lead through the layer.
        """
        self.check_session(data_key)
        model = self.network
        assert isinstance(model, RetinaModel)
        rows = stimulus.split(1) if model.row_by_row else [stimulus]
        return torch.cat([self._features(model, row) for row in rows])

    def _features(self, model: RetinaModel, stimulus: Tensor) -> Tensor:
        hook = model.network.get_submodule(self.layer).register_forward_hook(_leave)
        try:
            model(stimulus, data_key=self.session)
        except _Reached as reached:
            return as_used(self._at_position(reached.output), stimulus)
        finally:
            hook.remove()
        raise InvalidValueError(
            f"A pass of model '{model.name}' for session {self.session!r} does not use {self.layer!r}."
        )

    def _at_position(self, output: Any) -> Tensor:
        if not isinstance(output, Tensor) or not 2 <= output.ndim <= 5:
            form = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise InvalidValueError(
                f"Layer {self.layer!r} puts out {form}, not features as a tensor of 2 to 5 dimensions."
            )
        if output.ndim < 4:
            return output[:, None] if output.ndim == 2 else output
        features = output[:, :, None] if output.ndim == 4 else output
        if self.position == "mean":
            return features.mean(dim=(3, 4)).mT
        height, width = features.shape[3:]
        row, column = (height // 2, width // 2) if self.position == "centre" else self.position
        if not (0 <= row < height and 0 <= column < width):
            raise InvalidValueError(
                f"position={self.position} is outside the {height} x {width} map of layer {self.layer!r}."
            )
        return features[:, :, :, row, column].mT


def _leave(module: nn.Module, inputs: Any, output: Any) -> None:
    raise _Reached(output)
