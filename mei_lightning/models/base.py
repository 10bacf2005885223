"""What every retina model offers: a stimulus format, sessions of neurons, and frozen weights."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from mei_lightning.arguments import check_instance, in_short, is_positive, number, plain, several, whole_number
from mei_lightning.devices import defaults_like
from mei_lightning.exceptions import InvalidTypeError, InvalidValueError
from mei_lightning.models.found_out import frames_lost_by, neurons_of
from mei_lightning.models.network_errors import responses_alone
from mei_lightning.models.precision import as_shown_to, as_used, in_own_precision
from mei_lightning.models.read_out import SessionReadOut
from mei_lightning.models.weights import load_weights
from mei_lightning.neurons import Neuron, check_neuron_indices, session_name
from mei_lightning.wording import first_few


@dataclass(frozen=True)
class StimulusFormat:
    """The physical facts of a model's stimulus.

    Args:
        channel_names: one name for each stimulus channel, e.g. ``("green", "UV")``.
        height: rows of pixels.
        width: columns of pixels.
        frame_rate: frames per second (Hz); None for a model of still images.
        pixel_size: side of a pixel on the retina in micrometres, if known.
        mean: for each channel the value, on the projector's 8-bit scale, that the model sees as 0.
        sd: for each channel the size, on the projector's 8-bit scale, of the model's unit.
        frames_lost: how many frames fewer the response has than the stimulus (the length of the temporal
            receptive field minus one); by default a ``RetinaModel`` finds out by trying.

    Raises:
        ValueError: if a size is not positive, two channels have the same name, or ``mean`` or ``sd`` does not have one
            value for each channel.
        TypeError: if an argument is of a wrong type.

    Example:
        >>> facts = ml.StimulusFormat(("green", "UV"), height=18, width=16, frame_rate=30.0, pixel_size=50.0)
        >>> facts.height * facts.pixel_size, facts.width * facts.pixel_size  # micrometres on the retina
        (900.0, 800.0)
        >>> ml.StimulusFormat(("luminance",), height=32, width=32).is_still
        True
    """

    channel_names: tuple[str, ...]
    height: int
    width: int
    frame_rate: float | None = None
    pixel_size: float | None = None
    mean: tuple[float, ...] | None = None
    sd: tuple[float, ...] | None = None
    frames_lost: int = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        object.__setattr__(self, "channel_names", _channel_names(self.channel_names))
        if self.frames_lost is None and self.frame_rate is None:
            object.__setattr__(self, "frames_lost", 0)
        for name in ("height", "width", *([] if self.frames_lost is None else ["frames_lost"])):
            object.__setattr__(self, name, whole_number(f"StimulusFormat: {name}", getattr(self, name)))
        for name in ("mean", "sd"):
            if (value := getattr(self, name)) is not None:
                numbers = tuple(number(f"StimulusFormat: {name}", one) for one in several(value))
                object.__setattr__(self, name, numbers)
        if not self.channel_names or self.height < 1 or self.width < 1 or (self.frames_lost or 0) < 0:
            raise InvalidValueError(
                f"A stimulus needs channels, a positive height and width, frames_lost >= 0: {self}."
            )
        for name in ("frame_rate", "pixel_size"):
            value = plain(getattr(self, name))
            if value is not None and not is_positive(value):
                raise InvalidValueError(
                    f"StimulusFormat({name}={in_short(value)}) must be positive, or None if it is not known."
                )
            object.__setattr__(self, name, value)
        for name in ("mean", "sd"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.channel_names):
                raise InvalidValueError(
                    f"StimulusFormat({name}={value}) needs one value for each of the "
                    f"{len(self.channel_names)} channels {self.channel_names}."
                )

    @property
    def is_still(self) -> bool:
        """Whether the model takes still images (one frame, no frame rate)."""
        return self.frame_rate is None


def _channel_names(names: object) -> tuple[str, ...]:
    if isinstance(names, str):
        raise InvalidTypeError(
            f"StimulusFormat(channel_names={names!r}) is one text, where there has to be a name for each channel: give "
            f"channel_names=({names!r},)."
        )
    for name in (given := several(names)):
        if not isinstance(name, str):
            raise InvalidTypeError(
                f"StimulusFormat(channel_names={in_short(names)}) must be names, one for each channel, e.g. "
                'channel_names=("green", "UV").'
            )
    if len(set(given)) < len(given):
        raise InvalidValueError(f"StimulusFormat(channel_names={in_short(names)}) must be different from each other.")
    return tuple(str(name) for name in given)


class RetinaModel(nn.Module):
    """A frozen model of neurons' responses, in the one form that the rest of the package uses.

    Wraps any network of yours; the models that come with the package derive from it.

    Args:
        network: an ``nn.Module`` called as ``network(stimulus)``, or ``network(stimulus, data_key=session)`` if
            ``neurons_per_session`` names sessions. A video model takes ``[batch, channels, time, height, width]``
            and returns ``[batch, time', neurons]``. A model of still images (``stimulus_format.frame_rate``
            is None) takes ``[batch, channels, height, width]`` and returns ``[batch, neurons]``.
        stimulus_format: the stimulus that the network was trained on.
        neurons_per_session: the number of neurons of each session, or one number for a model without sessions, which
            by default is found out by trying. A session is named by a text or a whole number; results have it as text,
            and the network is given it as it is here.
        name: what results and logs call the model; the class name of the network by default.
        weights: a file to load into the network: its ``state_dict``, from ``torch.save`` (``.pt``, ``.pth``) or as
            ``.safetensors``.
        row_by_row: whether to show the network one stimulus of a batch at a time, for one whose answer to a stimulus
            depends on the others, or that takes no batch. It is slow.

    The network is put into evaluation mode and its weights stop requiring gradients.

    The model is called as ``model(stimulus)``, or ``model(stimulus, data_key=session)``, with stimuli
    ``[batch, channels, time, height, width]``, of one frame for still images, and returns responses
    ``[batch, time', neurons]`` in the network's own unit.

    Raises:
        ValueError: if there are no neurons, or the weights are not the network's.
        FileNotFoundError: if there is no file of weights.
        TypeError: if an argument is of a wrong type.

    Example:
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
        >>> model = ml.RetinaModel(network, ml.StimulusFormat(("luminance",), height=4, width=3))
        >>> model.neurons_per_session  # found out by trying
        {'': 3}
        >>> images = torch.zeros(model.stimulus_shape(time_steps=1, num_batches=5))
        >>> model(images).shape  # rows, response frames, neurons
        torch.Size([5, 1, 3])
    """

    def __init__(
        self,
        network: nn.Module,
        stimulus_format: StimulusFormat,
        neurons_per_session: Mapping[str | int, int] | Mapping[str, int] | int | None = None,
        name: str | None = None,
        weights: str | Path | None = None,
        row_by_row: bool = False,
    ) -> None:
        super().__init__()
        _check_parts(network, stimulus_format, name, row_by_row)
        self.row_by_row = row_by_row
        if weights is not None:
            load_weights(network, weights)
        _check_sizes_are_known(network)
        self.network = network
        self.name = name or type(network).__name__
        freeze(self)
        self.has_sessions = isinstance(neurons_per_session, Mapping)
        if neurons_per_session is None:
            neurons_per_session = neurons_of(network, _size(stimulus_format), stimulus_format.is_still)
        self._neurons_per_session = _counts(neurons_per_session)
        given = neurons_per_session if isinstance(neurons_per_session, Mapping) else {}
        self._data_keys: dict[str, Any] = dict(zip(self._neurons_per_session, given, strict=False))
        self.stimulus_format = _with_frames_lost(stimulus_format, network, next(iter(given), None))

    @property
    def neurons_per_session(self) -> dict[str, int]:
        """Number of neurons of each session; a model without sessions has one, named ``""``."""
        return dict(self._neurons_per_session)

    def key_of_session(self, session: str | int | None) -> Any:
        """What the network is given for a session, by its name: the name as it was given.

        Raises:
            ValueError: if the session is missing or unknown.
        """
        self.check_session(session)
        return self._data_keys[session_name(session)] if self.has_sessions else None

    @property
    def neurons(self) -> pd.DataFrame:
        """A row for each neuron, with columns ``session`` and ``index`` (and more, where a model knows more)."""
        return pd.DataFrame(
            [(session, index) for session, count in self._neurons_per_session.items() for index in range(count)],
            columns=["session", "index"],
        )

    @property
    def members(self) -> "list[RetinaModel]":
        """The models whose mean it is; itself alone, unless it is an ensemble."""
        return [self]

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all parts, of those too that are what they were exported as by ``torch.export``."""
        try:
            return super().train(mode)
        except NotImplementedError:
            for part in self.modules():
                part.training = mode
            return self

    def stimulus_shape(self, time_steps: int, num_batches: int = 1) -> tuple[int, int, int, int, int]:
        """Shape ``(num_batches, channels, time_steps, height, width)`` of a stimulus of so many frames."""
        facts = self.stimulus_format
        return num_batches, len(facts.channel_names), time_steps, facts.height, facts.width

    def forward(self, stimulus: Tensor, data_key: str | None = None) -> Tensor:
        """Responses ``[batch, time', neurons]`` of a session to stimuli ``[batch, channels, time, height, width]``.

        Raises:
            ValueError: if the session is missing or unknown.
        """
        key = self.key_of_session(data_key)
        if self.stimulus_format.is_still:
            stimulus = stimulus[:, :, 0]
        # A network may work in place.
        shown = as_shown_to(self.network, stimulus).clone()
        with defaults_like(stimulus):
            rows = shown.split(1) if self.row_by_row else [shown]
            answers = [self._answer(row, key) for row in rows]
        responses = torch.cat(answers) if len(answers) > 1 else answers[0]
        return as_used(responses[:, None] if responses.ndim == 2 else responses, stimulus)

    def _answer(self, shown: Tensor, data_key: str | None) -> Tensor:
        responses = self.network(shown, data_key=data_key) if self.has_sessions else self.network(shown)
        return responses_alone(responses, self.name)

    def read_out(self, rows: Sequence[int] | None, neurons: Sequence[Neuron]) -> nn.Module:
        """A module for the responses of chosen neurons, each to one stimulus of a batch, or each to all of them.

        It maps stimuli ``[batch, channels, time, height, width]`` to responses ``[len(neurons), time']``, of which
        entry ``m`` is the response of ``neurons[m]`` to the stimulus ``rows[m]``; without rows to responses
        ``[len(neurons), batch, time']`` of every neuron to every stimulus. It may hold a copy of the neurons'
        weights: make it anew if the weights have changed. A subclass that overrides ``forward`` of a model that has a
        fast ``read_out`` overrides ``_read_out`` as well.

        Args:
            rows: for each response the index of its stimulus in the batch. A row may occur several times. None for
                all stimuli of the batch.
            neurons: for each response its neuron. Neurons may belong to different sessions, and occur several times.

        Raises:
            ValueError: if a session is missing or unknown, there are no neurons, or not as many rows as neurons.
            IndexError: if a session has no such neuron.
        """
        num_rows = len(neurons) if rows is None else len(rows)
        if not neurons or num_rows != len(neurons):
            raise InvalidValueError(
                f"read_out needs a row for each of at least one neuron: {num_rows} and {len(neurons)}."
            )
        indices: dict[str | None, list[int]] = {}
        for neuron in neurons:
            indices.setdefault(neuron.session, []).append(neuron.index)
        for session, of_session in indices.items():
            self.check_session(session)
            extremes = [min(of_session), max(of_session)]
            check_neuron_indices(extremes, self._neurons_per_session[session or ""], session)
        return in_own_precision(self._read_out(rows, neurons), self)

    def _read_out(self, rows: Sequence[int] | None, neurons: Sequence[Neuron]) -> nn.Module:
        """Make the module of ``read_out``: the slow way that is right for every model."""
        return SessionReadOut(self, rows, neurons)

    def check_session(self, session: str | int | None) -> None:
        """Raise a ValueError that lists the sessions unless ``session`` is one of them."""
        if not self.has_sessions and session not in (None, ""):
            raise InvalidValueError(f"Model '{self.name}' has no sessions, but session {session!r} was asked for.")
        if self.has_sessions and (session is None or session_name(session) not in self._neurons_per_session):
            raise InvalidValueError(
                f"Model '{self.name}' has no session {session!r}. Its sessions: {', '.join(self._neurons_per_session)}."
            )


def _check_sizes_are_known(network: nn.Module) -> None:
    unknown = [name for name, values in network.named_parameters() if is_lazy(values)]
    if unknown:
        raise InvalidValueError(
            f"The weights {first_few(unknown)} of {type(network).__name__} have no size yet, as those of Lazy layers "
            "before their first call: show the network one stimulus, or load its weights, before you wrap it."
        )


def _check_parts(network: object, stimulus_format: object, name: object, row_by_row: object) -> None:
    check_instance("network", network, nn.Module, "MyNetwork()")
    check_instance("stimulus_format", stimulus_format, StimulusFormat, 'StimulusFormat(("green", "UV"), 18, 16, 30.0)')
    if name is not None and not isinstance(name, str):
        raise InvalidTypeError(f"RetinaModel(name={in_short(name)}) must be a text.")
    if not isinstance(row_by_row, bool):
        raise InvalidTypeError(f"RetinaModel(row_by_row={in_short(row_by_row)}) must be True or False.")


def _with_frames_lost(facts: StimulusFormat, network: nn.Module, session: str | int | None) -> StimulusFormat:
    if facts.frames_lost is not None:
        return facts
    lost = None
    if not facts.is_still:
        lost = frames_lost_by(network, _size(facts), session)
    return replace(facts, frames_lost=lost or 0)


def _size(facts: StimulusFormat) -> tuple[int, int, int]:
    return len(facts.channel_names), facts.height, facts.width


def _counts(neurons_per_session: object) -> dict[str, int]:
    what = "RetinaModel: neurons_per_session"
    if not isinstance(neurons_per_session, Mapping):
        way_out = 'Give the number of neurons, or that of each session: {"monday": 20}.'
        return {"": whole_number(what, neurons_per_session, 1, way_out)}
    if not neurons_per_session:
        raise InvalidValueError(f"{what} is empty: give the number of neurons of each session.")
    counts = {session_name(it): whole_number(f"{what}[{it!r}]", one, 1) for it, one in neurons_per_session.items()}
    if unusable := [name for name in counts if not name or "\0" in name]:
        raise InvalidValueError(f"{what}: {unusable[0]!r} cannot be the name of a session. Give it another one.")
    if len(counts) < len(neurons_per_session):
        raise InvalidValueError(f"{what}: two sessions have one name, once as a text and once as a number.")
    return counts


def sessions_of(model: nn.Module) -> list[str]:
    """The names of a model's sessions; none of a model without sessions, or one that is no ``RetinaModel``."""
    return list(model.neurons_per_session) if isinstance(model, RetinaModel) and model.has_sessions else []


def freeze(model: nn.Module) -> None:
    """Put a model into evaluation mode and stop gradients into its weights."""
    model.eval()
    model.requires_grad_(False)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Freeze a model for the time of a ``with`` block; each part is then where it was, with its own flags."""
    training = [(module, module.training) for module in model.modules()]
    # By name, since a move to another device may put other parameters into their place.
    requires_grad = {name: weight.requires_grad for name, weight in model.named_parameters()}
    devices = _devices(model)
    freeze(model)
    try:
        yield
    finally:
        if _devices(model) != devices:
            for (module, _), device in zip(training, devices, strict=True):
                if device is not None:
                    module.to(device)
        for module, was_training in training:
            module.training = was_training
        for name, weight in model.named_parameters():
            weight.requires_grad_(requires_grad[name])


def _devices(model: nn.Module) -> list[torch.device | None]:
    """Where each module's own weights are, a module before its parts; None for modules without any."""
    own = [[*module.parameters(recurse=False), *module.buffers(recurse=False)] for module in model.modules()]
    return [values[0].device if values else None for values in own]


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of a model's parameters and buffers by name: equal digests mean equal weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, Tensor):
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            dense = value.detach().to_dense() if value.layout is not torch.strided else value.detach()
            digest.update(dense.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
