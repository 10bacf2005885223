"""All settings of a run as data that JSON holds: each part as its class and its arguments."""

import ast
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from inspect import Parameter, signature
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer

from mei_lightning.neurons import Neuron
from mei_lightning.objectives import NeuronObjective, Objective
from mei_lightning.wording import first_few

_LARGEST_LISTED = 64
_NAMES_OF_RANGES = ("ranges", "min_max_values")
"""Ours, and openretina's."""
_MISSING = object()


def as_data(value: object) -> Any:
    """A setting as strict JSON holds it.

    Numbers of any type become plain ones, infinities and NaN the texts "inf", "-inf" and "nan"; neurons their labels;
    arrays of at most two dimensions and 64 entries lists, others ``{"class": "array", "arguments": {"shape":
    ..., "sha256": ...}}``.

    Any other object becomes ``{"class": ..., "arguments": {...}}``. Its arguments are those that its constructor
    names, if it keeps each of them as an attribute of the same name; otherwise it becomes ``{"class": ..., "repr":
    ...}``. An ``nn.Module`` with a state, such as weights, has a digest of it as well. Of an objective of neurons
    there are the arguments after model, neurons and reducer; of an optimizer its defaults.
    """
    return _data(value, ())


def in_words(part: object, text: str) -> dict[str, Any]:
    """A part whose arguments are not known, but what it says of itself."""
    return {"class": type(part).__name__, "repr": re.sub(r" at 0x[0-9a-fA-F]+", "", text)}


def as_call(setting: Any) -> str:
    """A setting from a configuration as it would be written in Python, without arguments that are None."""
    if isinstance(setting, list):
        return f"[{', '.join(map(as_call, setting))}]"
    if not isinstance(setting, Mapping) or "class" not in setting:
        return repr(setting)
    if "repr" in setting:
        return str(setting["repr"])
    given = {**setting["arguments"], **({"weights": setting["weights"]} if "weights" in setting else {})}
    arguments = ", ".join(f"{name}={as_call(value)}" for name, value in given.items() if value is not None)
    return f"{setting['class']}({arguments})"


def as_text(setting: Any) -> str:
    """A setting from a configuration to read: a part as a call, a text as it is, numbers as of ``to_read``."""
    return setting if isinstance(setting, str) else as_call(to_read(setting))


def to_read(setting: Any) -> Any:
    """A setting from a configuration with 4 significant digits of each number that is not whole."""
    if isinstance(setting, Mapping):
        return {name: to_read(value) for name, value in setting.items()}
    if isinstance(setting, list):
        return [to_read(value) for value in setting]
    if isinstance(setting, float) and not setting.is_integer():
        return float(f"{setting:.4g}")
    return setting


class Setting(NamedTuple):
    """A setting as data, and as version 0.1 kept it: in words."""

    data: Any
    words: Any

    @classmethod
    def of(cls, part: object) -> "Setting":
        """That of a part, of several, or of None."""
        return cls(as_data(part), _words(part))


class Configuration(dict[str, Any]):
    """The settings of a run as data, by name.

    Args:
        settings: each a ``Setting``, or a plain value.

    Attributes:
        words: settings as version 0.1 kept them, by which its runs are known again. They are not kept on disk.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.words: dict[str, Any] = {}
        for name, value in settings.items():
            self.put(name, value)

    def put(self, name: str, value: Any) -> None:
        """Put in a setting, or another value of one."""
        setting = value if isinstance(value, Setting) else Setting(as_data(value), None)
        self[name] = setting.data
        if setting.words is not None:
            self.words[name] = setting.words

    def __reduce__(self) -> tuple[Any, ...]:
        # Not by its constructor, which would take words for settings.
        return _unpickled, (dict(self), self.words)


def _unpickled(settings: dict[str, Any], words: dict[str, Any]) -> Configuration:
    configuration = Configuration(settings)
    configuration.words = words
    return configuration


def read_configuration(text: str) -> dict[str, Any]:
    """The settings from the attribute of a store.

    In a store of version 0.1 parts are texts, except for optimizers, which become what they are today.
    """
    settings: dict[str, Any] = json.loads(text)
    return _with_optimizer_of_today(settings)


def ranges_in(constraint: Any) -> tuple[tuple[float | None, float | None] | None, ...] | None:
    """The ranges of channels in the configuration of a constraint, also one of version 0.1; None if there are none."""
    if isinstance(constraint, str):
        return _ranges_in_words(constraint)
    if isinstance(constraint, list):
        return next((found for part in constraint if (found := ranges_in(part)) is not None), None)
    if not isinstance(constraint, Mapping):
        return None
    if "repr" in constraint:
        return _ranges_in_words(constraint["repr"])
    arguments = constraint.get("arguments", {})
    for name in _NAMES_OF_RANGES:
        if _are_ranges(ranges := arguments.get(name)):
            return ranges_from(ranges)
    return ranges_in(list(arguments.values())) if "class" in constraint else None


def ranges_from(data: list[Any]) -> tuple[tuple[float | None, float | None] | None, ...]:
    """Ranges of channels from what ``as_data`` made of them."""
    return tuple(None if pair is None else (_number(pair[0]), _number(pair[1])) for pair in data)


def configuration_differences(stored: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """What differs between two configurations, a line for each setting; empty if nothing does.

    Values of different number types are equal if the numbers are. Of parts of one class there are the arguments that
    differ. Versions of ``mei_lightning`` may differ. What is stored in words, as version 0.1 did, is compared with the
    words for what is given.
    """
    words = given.words if isinstance(given, Configuration) else {}
    old, new = as_data(dict(stored)), as_data(dict(given))
    for name, text in words.items():
        if name in old and _is_worded(old[name]):
            old[name], new[name] = _without_types(old[name]), _without_types(as_data(text))
        elif old.get(name) == as_data(text):
            new[name] = old[name]
    old, new = _with_optimizer_of_today(old), _with_optimizer_of_today(new)
    names = [name for name in {**old, **new} if name != "mei_lightning"]
    return "\n".join(
        f"  {line}" for name in names for line in _differences(name, old.get(name, _MISSING), new.get(name, _MISSING))
    )


def _data(value: Any, within: tuple[int, ...]) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str | os.PathLike):
        return str(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, Neuron):
        return value.label
    if id(value) in within:
        return {"class": type(value).__name__}
    within = (*within, id(value))
    if isinstance(value, Mapping):
        return {str(name): _data(item, within) for name, item in value.items()}
    if isinstance(value, Sequence | nn.ModuleList) and not isinstance(value, bytes | bytearray):
        return [_data(item, within) for item in value]
    if isinstance(value, Set):
        return sorted((_data(item, within) for item in value), key=json.dumps)
    if hasattr(value, "__array__"):
        return _array_data(value)
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return _part_data(value, within)


def _array_data(value: Any) -> Any:
    if isinstance(value, Tensor):
        value = value.detach().cpu().to_dense()
        value = value if value.is_complex() or not value.is_floating_point() else value.double()
    array = np.asarray(value)
    if array.ndim == 0 or (array.ndim <= 2 and array.size <= _LARGEST_LISTED):
        item = array.tolist()
        return repr(item) if isinstance(item, complex) else as_data(item)
    if array.dtype.kind in "biuf":
        # Zero in place of minus zero, so that equal arrays have equal bytes.
        content = (array.astype(np.float64) + 0.0).tobytes()
    else:
        content = json.dumps(as_data(array.tolist())).encode()
    return {"class": "array", "arguments": {"shape": list(array.shape), "sha256": _digest(content)}}


def _part_data(part: Any, within: tuple[int, ...]) -> dict[str, Any]:
    arguments = _arguments(part)
    if arguments is None:
        data = in_words(part, part.describe() if isinstance(part, Objective) else repr(part))
    else:
        data = {
            "class": type(part).__name__,
            "arguments": {name: _data(value, within) for name, value in arguments.items()},
        }
    if isinstance(part, nn.Module) and not isinstance(part, NeuronObjective) and (state := part.state_dict()):
        data["weights"] = _digest(json.dumps(_data(state, within)).encode())
    return data


def _arguments(part: Any) -> dict[str, Any] | None:
    """What a part has been made with, as far as that can be found out."""
    if isinstance(part, Optimizer):
        return part.defaults
    if isinstance(part, nn.Module) and type(part).__init__ is nn.Module.__init__:
        # Whatever a module without a constructor of its own is given, it keeps nothing.
        return {} if repr(part) == f"{type(part).__name__}()" else None
    try:
        parameters = list(signature(type(part)).parameters.values())
    except ValueError:
        return None
    if isinstance(part, Objective) and type(part).describe not in (Objective.describe, NeuronObjective.describe):
        # It says itself what it is made of.
        return None
    if isinstance(part, NeuronObjective):
        kept = {parameter.name: getattr(part, parameter.name, _MISSING) for parameter in parameters[3:]}
        return {name: value for name, value in kept.items() if value is not _MISSING}
    if any(parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD) for parameter in parameters):
        return None
    kept = {parameter.name: getattr(part, parameter.name, _MISSING) for parameter in parameters}
    # A method of that name is not what was given.
    if any(value is _MISSING or getattr(value, "__self__", None) is part for value in kept.values()):
        return None
    # Settings that are no arguments are known only to what it says of itself.
    plain = kept or type(part).__repr__ is object.__repr__ or repr(part) == f"{type(part).__name__}()"
    return kept if plain else None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _words(part: Any) -> Any:
    if part is None:
        return None
    if isinstance(part, Sequence):
        return [_words(item) for item in part]
    if isinstance(part, NeuronObjective):
        return part.describe()
    if isinstance(part, Optimizer):
        return {"name": type(part).__name__, **json.loads(json.dumps(part.defaults, default=str))}
    return repr(part)


def _with_optimizer_of_today(settings: dict[str, Any]) -> dict[str, Any]:
    match settings.get("optimizer"):
        case {"name": name, **options}:
            return {**settings, "optimizer": {"class": name, "arguments": options}}
    return settings


def _is_worded(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))


def _without_types(words: Any) -> Any:
    """Words in which NumPy's numbers are plain ones, and whole numbers look alike whether they were floats or not."""
    if isinstance(words, list):
        return [_without_types(text) for text in words]
    if not isinstance(words, str):
        return words
    plain = re.sub(r"\bnp\.\w+\(([^()]*)\)", r"\1", words)
    return re.sub(r"(?<![\w.])(\d+)\.0(?![\w.])", r"\1", plain)


def _ranges_in_words(text: str) -> tuple[tuple[float | None, float | None] | None, ...] | None:
    described = re.search(r"ranges=(\((?:[^()]|\([^()]*\))*\))", _without_types(text))
    if described is None:
        return None
    # What Python writes for infinity it does not read.
    ranges = ast.literal_eval(re.sub(r"\binf\b", "1e999", described[1]))
    return tuple(None if pair is None else tuple(pair) for pair in ranges)


def _are_ranges(value: Any) -> bool:
    return isinstance(value, list) and all(
        pair is None or (isinstance(pair, list) and len(pair) == 2) for pair in value
    )


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _differences(name: str, old: Any, new: Any) -> Iterator[str]:
    if old == new:
        return
    if isinstance(old, Mapping) and isinstance(new, Mapping) and old.get("class") == new.get("class"):
        for one, other in ((old, new), (old.get("arguments"), new.get("arguments"))):
            one, other = (value if isinstance(value, Mapping) else {} for value in (one, other))
            for key in {**one, **other}:
                if key != "arguments":
                    yield from _differences(f"{name}.{key}", one.get(key, _MISSING), other.get(key, _MISSING))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new) and _holds_parts(old + new):
        for position, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from _differences(f"{name}[{position}]", one, other)
    else:
        yield f"{name}: {_difference(old, new)}"


def _holds_parts(values: list[Any]) -> bool:
    return all(isinstance(value, Mapping) and "class" in value for value in values)


def _shown(value: Any) -> str:
    if value is _MISSING:
        return "nothing"
    is_of_parts = isinstance(value, list) and bool(value) and _holds_parts(value)
    return as_call(value) if is_of_parts or _holds_parts([value]) else json.dumps(value, ensure_ascii=False)


def _difference(stored: Any, given: Any, longest: int = 80) -> str:
    texts = [_shown(stored), _shown(given)]
    if not (isinstance(stored, list) and isinstance(given, list)) or max(map(len, texts)) <= longest:
        return f"it was {texts[0]}, now it is {texts[1]}"
    in_stored, in_given = ({_shown(item): None for item in items} for items in (stored, given))
    parts = [
        f"{len(only)} only {where} ({first_few(only, most=5)})"
        for where, only in (
            ("before", [item for item in in_stored if item not in in_given]),
            ("now", [item for item in in_given if item not in in_stored]),
        )
        if only
    ]
    if parts:
        return ", ".join(parts)
    pairs = zip(stored, given, strict=False)
    first = next((k for k, (old, new) in enumerate(pairs) if old != new), min(len(stored), len(given)))
    return (
        f"in another order or number, first at position {first}: it was {first_few(stored[first : first + 3])}, "
        f"now {first_few(given[first : first + 3])}"
    )
