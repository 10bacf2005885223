"""Weights of a user's own network, from a file that holds tensors and nothing that could run."""

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mei_lightning.exceptions import InvalidValueError, NothingThereError
from mei_lightning.paths import local_path
from mei_lightning.wording import first_few

SUFFIXES = (".pt", ".pth", ".safetensors")
"""Of files of weights."""


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Put weights from a file into a network.

    Args:
        network: made with the arguments that it had when it was trained.
        path: a ``state_dict`` that ``torch.save`` has written, or a checkpoint of Lightning's or one's own that holds
            it under ``state_dict`` (``.pt``, ``.pth``), or ``.safetensors``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no weights, or those of another network.
        TypeError: if the path is none.
    """
    place = local_path("weights", path)
    if not place.is_file():
        raise NothingThereError(f"There is no file of weights at {path}.")
    state = _read(place)
    own = network.state_dict()
    if missing := [name for name in own if name not in state]:
        raise _other_network(network, place, f"it lacks {first_few(missing, 3)}")
    if unknown := [name for name in state if name not in own]:
        raise _other_network(network, place, f"it also holds {first_few(unknown, 3)}")
    for name, value in own.items():
        if value.shape != state[name].shape:
            shapes = f"{name} is {tuple(state[name].shape)} there and {tuple(value.shape)} in the network"
            raise _other_network(network, place, shapes)
    network.load_state_dict(state)


def _other_network(network: nn.Module, place: Path, difference: str) -> InvalidValueError:
    return InvalidValueError(
        f"{place} holds the weights of another network than {type(network).__name__}: {difference}. Give the network "
        "the arguments that it was trained with."
    )


def _read(place: Path) -> dict[str, Tensor]:
    if place.suffix == ".safetensors":
        try:
            held: Any = load_file(place)
        except SafetensorError as error:
            raise InvalidValueError(f"{place} is no file of safetensors: {error}.") from error
    else:
        try:
            held = torch.load(place, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise InvalidValueError(
                f"{place} cannot be read as weights alone. Save them by torch.save(network.state_dict(), 'my.pt')."
            ) from error
    held = held.get("state_dict", held) if isinstance(held, dict) else held
    if not isinstance(held, dict) or not held or not all(isinstance(value, Tensor) for value in held.values()):
        raise InvalidValueError(
            f"{place} holds no weights by their names. Save them by torch.save(network.state_dict(), 'my.pt')."
        )
    return held
