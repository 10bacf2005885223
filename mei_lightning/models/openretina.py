"""Models of the openretina package: from its hub, from a checkpoint on disk, or already in memory."""

import importlib
import math
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from mei_lightning.exceptions import (
    DownloadError,
    InvalidValueError,
    NothingThereError,
    NotPermittedError,
)
from mei_lightning.models.base import RetinaModel, StimulusFormat, freeze
from mei_lightning.models.openretina_checkpoints import import_core_readout, load_openretina_path
from mei_lightning.models.openretina_read_out import (
    answers_for_all_sessions,
    computes_core_then_readout,
    is_ensemble,
    network_read_out,
)
from mei_lightning.models.precision import as_shown_to, as_used
from mei_lightning.models.read_out import MeanReadOut
from mei_lightning.models.sessions import SessionsModel
from mei_lightning.neurons import Neuron

CONSENT_VARIABLE = "MEI_LIGHTNING_ALLOW_UNPICKLING"

# Pixel sizes (micrometres) of the two resolutions of the films of Höfling et al. 2024, by (height, width).
_HOEFLING_PIXEL_SIZES = {(18, 16): 50.0, (72, 64): 12.5}
_FRAME_RATE = 30.0


class OpenRetinaModel(SessionsModel):
    """A frozen model of the openretina package.

    The stimulus format is inferred. Channels are green and UV if there are two. The frame rate is the one that the
    checkpoint states; without it a network that sees one frame at a time is a model of still images, and any other
    is taken to run at 30 Hz (with a warning, unless its stimulus is that of Höfling et al. 2024). Pixel size and
    normalisation are given only for stimuli of Höfling et al. 2024 (eLife 86860), whose two channels have 18 x 16 or
    72 x 64 pixels. If you know better, assign ``dataclasses.replace(model.stimulus_format, ...)``.

    Args:
        source: a name on openretina's hub (e.g. ``"hoefling_2024_low_res"``), the path of a checkpoint (.ckpt), or
            the path of a folder with an ensemble in openretina's layout (``config_*.yaml``, ``data_info_*.pkl``,
            ``state_dict_*.pth.tar``).
        allow_unpickling: your consent to unpickling the source's files, which runs whatever code their author put
            into them. The environment variable ``MEI_LIGHTNING_ALLOW_UNPICKLING=1`` is consent as well.
        centred_readouts: read every neuron out at the centre of the visual field, (0, 0) of its Gaussian mask, so
            that the stimuli of different neurons are centred alike (an option of Höfling et al. 2024).
        cache_directory: where downloads are kept; openretina's own cache by default. A model that is there already
            is loaded without a network.

    Raises:
        FileNotFoundError: if ``source`` is a path to nothing.
        PermissionError: if consent to unpickling is missing. Nothing has been read or downloaded by then.
        ImportError: if openretina, or a package that it needs, is not installed.
        ValueError: if the hub does not have the name, the file holds no openretina model, or the readouts cannot be
            centred.
        ConnectionError: if the download fails.

    Example:
        >>> ml.OpenRetinaModel("hoefling_2024_base_low_res")
        Traceback (most recent call last):
        ...
        mei_lightning.exceptions.NotPermittedError: ... If you trust the source, consent with allow_unpickling=True ...
    """

    def __init__(
        self,
        source: str | Path,
        *,
        allow_unpickling: bool = False,
        centred_readouts: bool = False,
        cache_directory: str | os.PathLike[str] | None = None,
    ) -> None:
        path = Path(source).expanduser()
        is_path = isinstance(source, Path) or path.suffix == ".ckpt" or len(path.parts) > 1
        if is_path and not path.exists():
            raise NothingThereError(f"There is no openretina checkpoint at '{source}'.")
        if not (allow_unpickling or os.environ.get(CONSENT_VARIABLE) == "1"):
            raise NotPermittedError(
                f"Loading the openretina model '{source}' unpickles a file, and a pickle can run any code that its "
                "author put into it. If you trust the source, consent with allow_unpickling=True or with the "
                f"environment variable {CONSENT_VARIABLE}=1. The built-in model 'digital_twin' needs no consent."
            )
        core_readout = import_core_readout()
        is_path = is_path or (path.exists() and source not in core_readout._MODEL_NAME_TO_REMOTE_LOCATION)
        network = load_openretina_path(path) if is_path else _load_from_hub(core_readout, str(source), cache_directory)
        self._adopt(network, path.stem if is_path else str(source), str(source), centred_readouts)

    @classmethod
    def from_module(
        cls, module: nn.Module, *, name: str | None = None, centred_readouts: bool = False
    ) -> "OpenRetinaModel":
        """Wrap an openretina model that is in memory already, and freeze it.

        Args:
            module: a core-readout model of openretina, or an openretina ``EnsembleModel`` of such.
            name: what results and logs call the model; the name of its class by default.
            centred_readouts: as in the constructor; the wrapped network is then a copy of ``module``.

        Raises:
            ValueError: if ``module`` does not say the shape of its stimulus, or its readouts cannot be centred.
        """
        model = cls.__new__(cls)
        model._adopt(module, name or type(module).__name__, None, centred_readouts, copy=True)
        return model

    def _adopt(
        self, network: nn.Module, name: str, source: str | None, centred_readouts: bool, copy: bool = False
    ) -> None:
        freeze(network)
        stimulus_format, neurons_per_session = inspect_network(network)
        if centred_readouts:
            network = deepcopy(network) if copy else network
            _centre_readouts(network)
        super().__init__(network, stimulus_format, neurons_per_session, name)
        self.source = source
        self._members_are_split: list[bool] | None = None

    @property
    def members(self) -> list[RetinaModel]:
        """The models of an openretina ensemble; itself alone, unless it is one."""
        if not is_ensemble(self.network):
            return [self]
        parts = enumerate(_members(self.network))
        return [OpenRetinaModel.from_module(part, name=f"{self.name}[{position}]") for position, part in parts]

    def forward(self, stimulus: Tensor, data_key: str | None = None) -> Tensor:
        """Responses ``[batch, time', neurons]`` of a session to stimuli ``[batch, channels, time, height, width]``.

        Without a session those of all neurons, one session after the other, in the order of the sessions' names.

        Raises:
            ValueError: if the session is unknown.
        """
        if data_key is not None or not self.has_sessions:
            self.check_session(data_key)
            return as_used(self.network(as_shown_to(self.network, stimulus), data_key=data_key), stimulus)
        if not all(map(answers_for_all_sessions, _members(self.network))):
            return super().forward(stimulus)
        with warnings.catch_warnings():
            # openretina warns at each step that all sessions are meant, which the caller has said.
            warnings.filterwarnings("ignore", "No data key provided", UserWarning)
            return as_used(self.network(as_shown_to(self.network, stimulus)), stimulus)

    @property
    def core(self) -> nn.Module:
        """The core of openretina's network; that of the first member of an ensemble."""
        return _members(self.network)[0].core

    @property
    def readout(self) -> Mapping[str, Any]:
        """The readouts of openretina's network, by session; those of the first member of an ensemble."""
        return getattr(_members(self.network)[0], "readout", None) or super().readout

    @property
    def data_info(self) -> dict[str, Any]:
        """What openretina's network states about its data."""
        return getattr(_members(self.network)[0], "data_info", None) or super().data_info

    def _read_out(self, rows: Sequence[int] | None, neurons: Sequence[Neuron]) -> nn.Module:
        members = _members(self.network) if is_ensemble(self.network) else [self.network]
        if self._members_are_split is None:
            frames = self.stimulus_format.frames_lost + 4
            self._members_are_split = [
                computes_core_then_readout(member, self.stimulus_shape(frames), self.name) for member in members
            ]
        read_outs = [
            network_read_out(member, rows, neurons, is_split)
            for member, is_split in zip(members, self._members_are_split, strict=True)
        ]
        return MeanReadOut(read_outs) if is_ensemble(self.network) else read_outs[0]


def is_openretina_module(module: nn.Module) -> bool:
    """Whether a module is of a class of openretina, or of a class derived from one."""
    return any(base.__module__.split(".")[0] == "openretina" for base in type(module).__mro__)


def inspect_network(network: nn.Module) -> tuple[StimulusFormat, dict[str, int] | int]:
    """The stimulus and the number of neurons of each session of an openretina model; one number if it has no sessions.

    They come from what the model states about its data and from a stimulus of zeros put through every readout.

    Raises:
        ValueError: if the network does not say the shape of its stimulus, or does not take such a stimulus.
    """
    facts = getattr(_members(network)[0], "data_info", None) or {}
    channels, height, width = _input_shape(_members(network)[0], facts)
    frames_lost, neurons_per_session = _measure(network, channels, height, width)
    pixel_size = _HOEFLING_PIXEL_SIZES.get((height, width)) if channels == 2 else None
    frame_rate = _number(facts.get("stimulus_rate_hz"))
    if frame_rate is None and not (frames_lost == 0 and _sees_one_frame_at_a_time(network, channels, height, width)):
        frame_rate = _FRAME_RATE
        if pixel_size is None:
            warnings.warn(
                f"The openretina model {type(network).__name__} does not state its frame rate; it is taken to be "
                f"{frame_rate:g} Hz. Set another by model.stimulus_format = "
                "dataclasses.replace(model.stimulus_format, frame_rate=...).",
                stacklevel=2,
            )
    mean, sd = _hoefling_normalisation(height, facts) if pixel_size else (None, None)
    stimulus_format = StimulusFormat(
        channel_names=_channel_names(channels),
        height=height,
        width=width,
        frame_rate=frame_rate,
        pixel_size=pixel_size,
        mean=mean,
        sd=sd,
        frames_lost=frames_lost,
    )
    return stimulus_format, neurons_per_session


def _load_from_hub(core_readout: ModuleType, name: str, cache_directory: str | os.PathLike[str] | None) -> nn.Module:
    locations: Mapping[str, str] = core_readout._MODEL_NAME_TO_REMOTE_LOCATION
    if name not in locations:
        raise InvalidValueError(
            f"openretina has no model '{name}', and no file of that name exists. The models it knows: "
            f"{', '.join(locations)}."
        )
    cache = Path(cache_directory or core_readout.get_cache_directory()).expanduser()
    path = cache / locations[name].split("main/")[-1]
    if not path.is_file():
        try:
            path = Path(core_readout.get_local_file_path(locations[name], cache))
        except Exception as error:
            raise DownloadError(
                f"The openretina model '{name}' could not be downloaded ({type(error).__name__}: {error}). Give the "
                "path of a checkpoint (.ckpt) that you have, or use the built-in model 'digital_twin'."
            ) from error
    return load_openretina_path(path)


def _members(network: nn.Module) -> list[Any]:
    """The core-readout models of an ensemble, or the one model itself."""
    return list(getattr(network, "members", [network]))


def _input_shape(network: Any, facts: Mapping[str, Any]) -> tuple[int, int, int]:
    if "input_shape" in facts:
        channels, height, width = facts["input_shape"]
    elif "in_shape" in getattr(network, "hparams", {}):
        channels, _, height, width = network.hparams["in_shape"]
    elif isinstance(getattr(network, "kernel_size", None), tuple) and hasattr(network, "in_channels"):
        # A SingleCellSeparatedLNP sees only the part of the frame that its kernel covers.
        channels, (height, width) = network.in_channels, network.kernel_size
    elif not hasattr(network, "data_info") and hasattr(network, "stimulus_shape"):
        _, channels, _, height, width = network.stimulus_shape(1)
    else:
        raise InvalidValueError(
            f"{type(network).__name__} does not say the shape of its stimulus (no 'input_shape' in its data_info). "
            "Wrap it yourself: RetinaModel(network, StimulusFormat(...), neurons_per_session)."
        )
    return int(channels), int(height), int(width)


@torch.no_grad()
def _measure(network: nn.Module, channels: int, height: int, width: int) -> tuple[int, dict[str, int] | int]:
    """Frames by which the response is shorter than the stimulus, and the number of neurons of each session, or of all.

    openretina's readouts enforce constraints on their weights (e.g. that they are positive) when they are used. As
    each is used here once, the weights stay the same from here on.
    """
    parameter = next(network.parameters())
    failure: RuntimeError | None = None
    for frames in (64, 128, 256, 512, 1024):
        try:
            responses = _responses_of_sessions(network, parameter.new_zeros(1, channels, frames, height, width))
        except RuntimeError as error:
            failure = error
            continue
        counts = {session: values.shape[-1] for session, values in responses.items()}
        response_frames = next(iter(responses.values())).shape[1]
        if response_frames > 0:
            return frames - response_frames, counts.pop(None) if None in counts else counts
    raise InvalidValueError(
        f"{type(network).__name__} gives no response to {frames} frames of {channels} x {height} x {width}."
    ) from failure


def _responses_of_sessions(network: nn.Module, stimulus: Tensor) -> dict[Any, Tensor]:
    """Put one stimulus through every readout of every member, computing each core once; None is for no sessions."""
    members = _members(network)
    if not hasattr(members[0], "readout"):
        return {None: network(stimulus)}
    first, *others = members[0].readout.keys()
    features: list[tuple[Any, Tensor]] = []
    hooks = [
        member.readout.register_forward_pre_hook(lambda readout, inputs: features.append((readout, inputs[0])))
        for member in members
    ]
    try:
        responses = {first: network(stimulus, data_key=first)}
    finally:
        for hook in hooks:
            hook.remove()
    for readout, readout_input in features:
        responses |= {session: readout(readout_input, data_key=session) for session in others}
    return responses


@torch.no_grad()
def _sees_one_frame_at_a_time(network: nn.Module, channels: int, height: int, width: int) -> bool:
    parameter = next(network.parameters())
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(1, channels, 2, height, width, generator=generator).to(parameter)
    session = next(iter(getattr(_members(network)[0], "readout", [None])))
    together = network(frames, data_key=session)
    swapped = network(frames.flip(2), data_key=session)
    return torch.allclose(together, swapped.flip(1), rtol=1e-4, atol=1e-6)


def _hoefling_normalisation(height: int, facts: Mapping[str, Any]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Mean and sd of green and UV: those that the model states, otherwise those of the original films."""
    mean, sd = (facts.get(key, math.nan) for key in ("stim_mean", "stim_std"))
    if all(isinstance(value, int | float) and math.isfinite(value) for value in (mean, sd)) and (mean, sd) != (0, 1):
        return (mean, mean), (sd, sd)
    constants = importlib.import_module("openretina.data_io.hoefling_2024.constants")
    values = constants.pre_normalisation_values_18x16 if height == 18 else constants.MEAN_STD_DICT_74x64
    return (
        (values["channel_0_mean"], values["channel_1_mean"]),
        (values["channel_0_std"], values["channel_1_std"]),
    )


def _channel_names(channels: int) -> tuple[str, ...]:
    names = {1: ("luminance",), 2: ("green", "UV")}
    return names.get(channels) or tuple(f"channel {index}" for index in range(channels))


def _number(value: Any) -> float | None:
    """A positive number, also if it is text with a unit (``"85Hz"``); None for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:hz)?\s*", str(value), re.IGNORECASE)
    return float(match[1]) if match and float(match[1]) > 0 else None


@torch.no_grad()
def _centre_readouts(network: nn.Module) -> None:
    for member in _members(network):
        if not hasattr(member, "readout"):
            raise InvalidValueError(
                f"centred_readouts=True needs readouts of sessions, and a {type(member).__name__} has none. "
                "Leave centred_readouts=False."
            )
        for session, readout in member.readout.items():
            _readout_position(session, readout).zero_()


def _readout_position(session: str, readout: Any) -> Tensor:
    """The parameter that holds where in the visual field each neuron of a session is read out."""
    if "mask_mean" in dict(readout.named_parameters()):
        return readout.mask_mean
    if "_mu" in dict(readout.named_parameters()) and not (readout._predicted_grid or readout._shared_grid):
        return readout._mu
    raise InvalidValueError(
        f"centred_readouts=True needs a Gaussian mask for each neuron, but session '{session}' has a "
        f"{type(readout).__name__}, which has none of its own. Leave centred_readouts=False."
    )
