"""One way to every model: by name, by path, or from memory."""

import os
from pathlib import Path

import torch
from torch import nn

from mei_lightning.arguments import flag, in_short
from mei_lightning.devices import in_usual_modes
from mei_lightning.exceptions import InvalidTypeError, InvalidValueError
from mei_lightning.models.base import RetinaModel, freeze
from mei_lightning.models.openretina import OpenRetinaModel, is_openretina_module
from mei_lightning.models.weights import SUFFIXES

BUILT_IN_MODELS = ("simulated", "digital_twin")
_OPENRETINA_PREFIX = "openretina:"


@in_usual_modes
def load_model(
    name_or_path: str | Path | nn.Module, *, allow_unpickling: bool = False, centred_readouts: bool = False
) -> RetinaModel:
    """Load a retina model, frozen: in evaluation mode and without gradients into its weights.

    Args:
        name_or_path: ``"simulated"`` or ``"digital_twin"`` (built in), ``"openretina:NAME"`` (a model on openretina's
            hub), the path of an openretina checkpoint, or a model in memory: a :class:`RetinaModel` (returned as it
            is, and frozen) or a model of openretina (wrapped).
        allow_unpickling: consent to unpickling the files of an openretina model, which runs whatever code their
            author put into them (see :class:`~mei_lightning.models.openretina.OpenRetinaModel`).
        centred_readouts: read every neuron of an openretina model out at the centre of the visual field.

    Returns:
        The model. Called with stimuli ``[batch, channels, time, height, width]`` it returns responses
        ``[batch, time', neurons]``; ``neurons`` is the table of its neurons, ``stimulus_format`` says what its stimulus
        is.

    Raises:
        ValueError: if there is no model of that name, or a model cannot be centred.
        TypeError: if a module in memory does not say what its stimulus is; wrap it in a :class:`RetinaModel`.
        FileNotFoundError, PermissionError, ImportError, ConnectionError: as
            :class:`~mei_lightning.models.openretina.OpenRetinaModel`.

    Example:
        >>> model = ml.load_model("simulated")
        >>> model.neurons_per_session
        {'session_1': 36, 'session_2': 36, 'session_3': 36}
        >>> print(model.neurons.loc[:2, ["session", "index", "type"]])
             session  index           type
        0  session_1      0   on_sustained
        1  session_1      1   on_transient
        2  session_1      2  off_sustained
    """
    flag("allow_unpickling", allow_unpickling)
    flag("centred_readouts", centred_readouts)
    _check_kind(name_or_path)
    if isinstance(name_or_path, nn.Module) and not isinstance(name_or_path, RetinaModel):
        if is_openretina_module(name_or_path):
            return OpenRetinaModel.from_module(name_or_path, centred_readouts=centred_readouts)
        raise InvalidTypeError(
            f"A {type(name_or_path).__name__} does not say what its stimulus is. Wrap it: RetinaModel(network, "
            "StimulusFormat(channel_names=..., height=..., width=..., frame_rate=...), neurons_per_session)."
        )
    if centred_readouts and (isinstance(name_or_path, RetinaModel) or name_or_path in BUILT_IN_MODELS):
        name = name_or_path.name if isinstance(name_or_path, RetinaModel) else name_or_path
        raise InvalidValueError(
            f"centred_readouts=True is for models that openretina loads, not for '{name}'. "
            "Leave centred_readouts=False."
        )
    if isinstance(name_or_path, RetinaModel):
        model = name_or_path
    elif name_or_path in BUILT_IN_MODELS:
        # Networks are made with random weights before theirs are loaded; the user's random state must not notice.
        with torch.random.fork_rng(devices=[]):
            model = _built_in_model(str(name_or_path))
    else:
        with torch.random.fork_rng(devices=[]):
            model = OpenRetinaModel(
                _openretina_source(name_or_path), allow_unpickling=allow_unpickling, centred_readouts=centred_readouts
            )
    freeze(model)
    return model


def _check_kind(model: object) -> None:
    if isinstance(model, str | Path | nn.Module):
        return
    if isinstance(model, type) and issubclass(model, nn.Module):
        raise InvalidTypeError(
            f"model={model.__name__} is a class, where a model is needed: make it, {model.__name__}(...), and wrap it "
            "as a RetinaModel unless it is one."
        )
    raise InvalidTypeError(
        f"model={in_short(model)} is no model: give a name, the path of a checkpoint, or a RetinaModel(...)."
    )


def _built_in_model(name: str) -> RetinaModel:
    if name == "simulated":
        from mei_lightning.models.simulated import SimulatedRetina

        return SimulatedRetina()
    from mei_lightning.models.digital_twin import DigitalTwin

    return DigitalTwin()


def _openretina_source(name_or_path: str | Path) -> str | Path:
    if isinstance(name_or_path, str) and name_or_path.startswith(_OPENRETINA_PREFIX):
        return name_or_path.removeprefix(_OPENRETINA_PREFIX)
    path = os.path.expanduser(name_or_path)
    if path.endswith(SUFFIXES):
        raise InvalidValueError(
            f"'{name_or_path}' holds weights and not the network that they are of: give that, as RetinaModel(network, "
            f"StimulusFormat(...), weights='{name_or_path}'), on the command line by class_path and init_args in a "
            "YAML file."
        )
    if os.path.exists(path) or path.endswith(".ckpt"):
        return Path(path)
    raise InvalidValueError(
        f"There is no model '{name_or_path}'. Give a built-in model ({', '.join(map(repr, BUILT_IN_MODELS))}), "
        f"a model on openretina's hub ('{_OPENRETINA_PREFIX}NAME'), or the path of an openretina checkpoint (.ckpt)."
    )
