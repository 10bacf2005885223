"""Which of openretina's classes a checkpoint or a folder is of, and how to load it."""

import importlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from mei_lightning.exceptions import InvalidValueError, MissingPackageError, NothingThereError

_SPATIAL_CONTRAST = {"sta_file_pattern": "SpatialContrastCoreReadout", "sta_file_name": "SingleCellSpatialContrast"}
"""Arguments that only these classes have, by which a checkpoint tells its class."""


def import_core_readout() -> ModuleType:
    """openretina's module of core-readout models.

    Raises:
        ImportError: if openretina, or a package that it needs, is not installed.
    """
    try:
        return importlib.import_module("openretina.models.core_readout")
    except ImportError as error:
        raise MissingPackageError(
            f"An openretina model needs the openretina package, which could not be imported ({error}). Install it "
            "with: pip install \"mei-lightning[openretina]\" - or use the built-in model 'digital_twin'."
        ) from error


def load_openretina_path(path: Path) -> nn.Module:
    """The network in a checkpoint of any class of openretina, or in a folder with an ensemble of its layout.

    Raises:
        FileNotFoundError: if the model needs spike-triggered averages that are not where the checkpoint says.
        ValueError: if there is no model that can be loaded; it says what to do where there is a way.
        ImportError: if openretina is not installed.
    """
    import_core_readout()
    if path.is_dir():
        return _load_folder(path)
    try:
        # Consent to unpickling has been given.
        content = torch.load(path, map_location="cpu", weights_only=False)
        arguments, weights = content.get("hyper_parameters") or {}, content["state_dict"]
    except Exception as error:
        raise _no_model(path, error) from error
    _refuse_unless_it_says_how_it_was_made(path, arguments, weights)
    for argument, class_name in _SPATIAL_CONTRAST.items():
        if argument in arguments:
            return _load_spatial_contrast(path, class_name, arguments)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return import_core_readout().load_core_readout_model(str(path), "cpu")
    except Exception as error:
        raise _no_model(path, error) from error


def _load_folder(path: Path) -> nn.Module:
    if not any(path.glob("config_*.yaml")):
        raise InvalidValueError(
            f"The folder '{path}' holds no ensemble in openretina's layout (there is no config_*.yaml)."
        )
    try:
        ensembles = importlib.import_module("openretina.utils.nnfabrik_model_loading")
        return ensembles.load_ensemble_retina_model_from_directory(str(path), "cpu")[1]
    except Exception as error:
        raise _no_model(path, error) from error


def _refuse_unless_it_says_how_it_was_made(
    path: Path, arguments: Mapping[str, Any], weights: Mapping[str, Any]
) -> None:
    if {"encoder.weight", "decoder.weight"} <= weights.keys():
        raise InvalidValueError(
            f"'{path}' is openretina's Autoencoder of a layer's activations, which has no neurons and no stimulus. "
            "Give the checkpoint of the model whose activations it was trained on."
        )
    if arguments:
        return
    if {"space_conv.weight", "time_conv.weight"} <= weights.keys():
        rank, channels, _, height, width = weights["space_conv.weight"].shape
        frames = weights["time_conv.weight"].shape[2]
        raise InvalidValueError(
            f"'{path}' is a SingleCellSeparatedLNP, of which openretina saves the weights but not the arguments. "
            f"Make the model with those of its training, model = SingleCellSeparatedLNP(in_shape=({channels}, "
            f"{frames}, height, width), spat_kernel_size=({height}, {width}), rank={rank}, nonlinearity=...), then "
            f"model.load_state_dict(torch.load(path)['state_dict']), and give the model itself: load_model(model)."
        )
    raise InvalidValueError(
        f"'{path}' does not say how its model was made (no 'hyper_parameters'). Load it with its own class in "
        "Python, and give the model itself: load_model(model)."
    )


def _load_spatial_contrast(path: Path, class_name: str, arguments: Mapping[str, Any]) -> nn.Module:
    model_class = getattr(importlib.import_module("openretina.models.spatial_contrast"), class_name)
    place = str(arguments.get("sta_dir"))
    if "://" not in place and not Path(place).expanduser().is_dir():
        raise NothingThereError(
            f"'{path}' is a {class_name}, which openretina makes from spike-triggered averages in '{place}', and "
            "there is no such folder. Load it with the folder where they are, and give the model itself: "
            f"load_model({class_name}.load_from_checkpoint('{path}', sta_dir=..., weights_only=False))."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return model_class.load_from_checkpoint(path, map_location="cpu", weights_only=False)
    except Exception as error:
        raise _no_model(path, error) from error


def _no_model(path: Path, error: Exception) -> InvalidValueError:
    return InvalidValueError(
        f"'{path}' does not hold a model that openretina can load ({type(error).__name__}: {error}). A model of a "
        "class of your own is loaded with that class in Python, and given itself: load_model(model)."
    )
