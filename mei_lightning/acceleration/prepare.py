"""A frozen model prepared once, so that each step, responses and their stimulus gradient, takes a fraction of the time.

Two levels. Cores that are understood (openretina's, the digital twin's, and any ``nn.Sequential`` of convolutions,
batch norm, ELU and max-pooling) are rewritten: kernels composed once, batch norm folded into them, convolutions
computed in the frequency domain (``spectral_convolution``). All other convolutions keep their place, and get a faster
input gradient (``fast_convolutions``).
"""

import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn

from mei_lightning.acceleration.blocks import ROWS_OF_SMALLEST_BLOCK, ROWS_PER_BLOCK, on_one_thread_each
from mei_lightning.acceleration.fast_convolutions import FastConvolutions
from mei_lightning.acceleration.fast_model import FastModel
from mei_lightning.acceleration.frozen_core import FrozenCore, NotUnderstood, frozen_core
from mei_lightning.acceleration.rounding import full_precision
from mei_lightning.acceleration.verification import (
    copy_of,
    differences_of,
    random_stimulus,
    some_neurons,
    step_in_double,
    step_of,
    tensors_of,
    weight_of,
)
from mei_lightning.devices import in_usual_modes
from mei_lightning.exceptions import CompilationError, InvalidValueError
from mei_lightning.models.base import RetinaModel, weights_digest

Precision = Literal["float32", "bfloat16"]
FastPath = bool | Literal["bfloat16"]
"""Whether to compute steps on a prepared copy of the model; in bfloat16 if so named, and else in its own precision."""

TOLERANCE = 1e-5
"""How far responses and gradients may be from the original's, as a share of the largest."""

_SHARE_OF_ROUNDING = 4.0
"""A result may be so much farther from the exact one than PyTorch's own in single precision is, if that is much."""

_MOST_MULTIPLICATIONS_IN_DOUBLE = 2e9
"""A core that takes more than that is verified in its own precision: double precision would take a minute."""

_TOLERANCE_OF_POOLED_GRADIENT = 3e-2

_LEAST_GAIN = 0.7
"""A core whose estimated gain is smaller is left as it is. Some with a gain below 1 are faster still."""

_PREPARED: "weakref.WeakKeyDictionary[RetinaModel, dict[tuple[Any, ...], FastModel]]" = weakref.WeakKeyDictionary()


@in_usual_modes
def prepare(
    model: RetinaModel,
    stimulus_shape: Sequence[int],
    device: torch.device | str | None = None,
    *,
    precision: Precision = "float32",
    compile: bool = False,
) -> FastModel:
    """A copy of a model that computes responses, and their gradient with respect to the stimulus, faster.

    What was rewritten is compared with the original on random stimuli, and dropped with a warning if responses or
    gradients differ by more than 1e-5 of the largest. Preparing the same model again, with the same weights, for
    stimuli of the same size, returns the same copy.

    Args:
        model: the original. It stays as it is.
        stimulus_shape: ``(rows, channels, time, height, width)``. The copy takes any number of rows; stimuli of
            another size than this are computed as the original computes them.
        device: where the copy shall be; where the original is by default.
        precision: ``"float32"``, which is the model's own, or ``"bfloat16"`` for the rewritten cores. What the
            latter changes about responses and gradients is logged.
        compile: whether the copy's read-outs go through ``torch.compile``. That takes a minute, and has made none of
            the rewritten models faster on a CPU.

    Raises:
        ValueError: if the precision is unknown, or ``"bfloat16"`` and no core is rewritten.
        RuntimeError: if ``torch.compile`` fails.
    """
    if precision not in get_args(Precision):
        raise InvalidValueError(f"prepare(precision={precision!r}): choose one of {', '.join(get_args(Precision))}.")
    device = torch.device(device) if device is not None else weight_of(model).device
    shape = tuple(stimulus_shape)
    # Without the number of rows: the result of a row must not depend on how many others there are.
    key = (shape[1:], device, precision, compile, weights_digest(model))
    prepared = _PREPARED.setdefault(model, {})
    if key not in prepared:
        prepared.clear()
        # What is compared must differ in nothing but how it is computed.
        with full_precision():
            fast = _prepare(model, shape, device)
            if precision == "bfloat16":
                _lower_precision(fast, shape)
        if compile:
            _compile(fast, shape)
        if device.type == "cpu" and fast.computes_in_blocks and _agrees_in_smaller_blocks(fast, shape):
            fast.smallest_block = ROWS_OF_SMALLEST_BLOCK
        prepared[key] = fast
    return prepared[key]


def _prepare(model: RetinaModel, shape: tuple[int, ...], device: torch.device) -> FastModel:
    try:
        copy_of(model)
    except Exception as error:
        # A user's module may hold anything: files, locks, handles of other libraries.
        rank_zero_info(f"The model '{model.name}' cannot be copied ({error}): it runs as it is.")
        return FastModel(model, None)
    rewritten = None
    try:
        rewritten = _with_frozen_cores(model, shape, device)
    except Exception as error:
        _leave_out(model, "its cores are not rewritten", error)
    try:
        return _with_fast_convolutions(model, rewritten, shape, device)
    except Exception as error:
        _leave_out(model, "the gradients of its convolutions are PyTorch's", error)
        return FastModel(model if rewritten is None else rewritten, None)


def _leave_out(model: RetinaModel, what: str, error: Exception) -> None:
    """Say that a step of preparation has failed, which networks of one's own may bring about in any way."""
    if isinstance(error, torch.OutOfMemoryError):
        raise error
    said = str(error).partition("\n")[0].rstrip(".")
    rank_zero_info(f"The model '{model.name}' runs without a part of what makes others faster: {what} ({said}).")


def _with_fast_convolutions(
    model: RetinaModel, rewritten: RetinaModel | None, shape: tuple[int, ...], device: torch.device
) -> FastModel:
    """A copy whose convolutions get a faster input gradient, if it is the same; without that if there are none."""
    copy = copy_of(model).to(device) if rewritten is None else rewritten
    convolutions = FastConvolutions()
    fast, plain = FastModel(copy, convolutions), FastModel(copy, None)
    stimulus = random_stimulus(shape, weight_of(copy))
    step_of(fast, stimulus)
    if not convolutions.ways:
        if rewritten is None:
            rank_zero_info(f"Nothing in the model '{model.name}' is known to be computed faster: it runs as it is.")
        return plain
    own = step_of(plain, stimulus[:2])
    exact = step_in_double(copy_of(copy).cpu(), stimulus[:2].cpu()) or own
    difference = max(differences_of(step_of(fast, stimulus[:2]), exact))
    if difference > max(TOLERANCE, _SHARE_OF_ROUNDING * max(differences_of(own, exact))):
        _warn(model, difference, exact[0])
        return plain
    if rewritten is None:
        rank_zero_info(f"The model '{model.name}' runs as it is, but for the gradients of its convolutions.")
    return fast


def _with_frozen_cores(model: RetinaModel, shape: tuple[int, ...], device: torch.device) -> RetinaModel | None:
    """A copy with its cores rewritten; None if there are none that are understood, or they do not compute the same."""
    original = copy_of(model)
    stimulus = random_stimulus((1, *shape[1:]), weight_of(original))
    if any(values.is_complex() for values in tensors_of(original)):
        # Double precision would be that of their real parts.
        return None
    inputs = _inputs_of_parts(original, stimulus)
    cores = _cores(copy_of(original).to("cpu", torch.float64), inputs)
    if not cores:
        return None
    rewritten = copy_of(original).cpu()
    for path, core in cores.items():
        is_inner = not torch.equal(inputs[path][0], stimulus)
        rewritten.set_submodule(path, _CoreOfOneSize(core, rewritten.get_submodule(path), is_inner))
    found = expected = None
    if sum(core.multiplications for core in cores.values()) <= _MOST_MULTIPLICATIONS_IN_DOUBLE:
        # So that nothing but a difference in what is computed can show.
        found, expected = (step_in_double(part, stimulus.cpu()) for part in (rewritten, original.cpu()))
    tolerances = TOLERANCE, TOLERANCE
    rewritten.to(device, stimulus.dtype)
    if found is None or expected is None:
        found, expected = (step_of(part, stimulus.to(device)) for part in (rewritten, original.to(device)))
        if any(any(core.pools) for core in cores.values()):
            # Of nearly equal inputs of a max-pooling, rounding alone lets another one pass, and its gradient.
            tolerances = TOLERANCE, _TOLERANCE_OF_POOLED_GRADIENT
    differences = differences_of(found, expected)
    if any(difference > tolerance for difference, tolerance in zip(differences, tolerances, strict=True)):
        _warn(model, max(differences), expected[0])
        return None
    return rewritten


def _lower_precision(fast: FastModel, shape: tuple[int, ...]) -> None:
    """Let the rewritten cores compute in bfloat16, and log what that changes."""
    cores = [part for part in fast.modules() if isinstance(part, _CoreOfOneSize)]
    if not cores:
        raise InvalidValueError(
            f"fast_path='bfloat16' (of prepare: precision='bfloat16'): no core of the model '{fast.name}' could be "
            "rewritten to compute in this precision. Use fast_path=True (precision='float32')."
        )
    stimulus = random_stimulus((1, *shape[1:]), weight_of(fast))
    before = step_of(fast, stimulus)
    for part in cores:
        part.core.to(torch.bfloat16)
    errors = [
        float((values - right).norm() / right.norm())
        for values, right in zip(step_of(fast, stimulus), before, strict=True)
    ]
    rank_zero_info(
        f"The model '{fast.name}' computes in bfloat16: responses are off by {errors[0]:.1g}, gradients by "
        f"{errors[1]:.1g} (root mean square, relative)."
    )


def _agrees_in_smaller_blocks(fast: FastModel, shape: tuple[int, ...]) -> bool:
    """Whether responses and gradients of a row are the same to the last bit in blocks of fewer rows.

    That depends on the libraries that multiply matrices, and on the CPU that they choose their way for.
    """
    stimulus = random_stimulus((ROWS_PER_BLOCK, *shape[1:]), weight_of(fast))
    neurons = some_neurons(fast)[:1] * ROWS_PER_BLOCK

    def step(rows: int) -> tuple[Tensor, Tensor]:
        own = stimulus[:rows].clone().requires_grad_()
        with torch.enable_grad():
            responses = fast.read_out(range(rows), neurons[:rows])(own)
            responses.sum().backward()
        assert own.grad is not None
        return responses.detach(), own.grad

    smaller = range(ROWS_OF_SMALLEST_BLOCK, ROWS_PER_BLOCK, ROWS_OF_SMALLEST_BLOCK)
    whole, *parts = on_one_thread_each(step, [ROWS_PER_BLOCK, *smaller])
    return all(
        torch.equal(values, right[: len(values)]) for part in parts for values, right in zip(part, whole, strict=True)
    )


def _compile(fast: FastModel, shape: tuple[int, ...]) -> None:
    fast.compiles = True
    try:
        step_of(fast, random_stimulus((1, *shape[1:]), weight_of(fast)))
    except Exception as error:
        raise CompilationError(
            f"prepare(compile=True): torch.compile cannot compile the model '{fast.name}' here ({error}). "
            "Leave compile=False."
        ) from error


class _CoreOfOneSize(nn.Module):
    """A rewritten core, and the original for stimuli of another size.

    Args:
        core: the rewritten one.
        original: the original.
        is_inner: whether other parts of the network come before it.
    """

    def __init__(self, core: FrozenCore, original: nn.Module, is_inner: bool) -> None:
        super().__init__()
        self.is_inner = is_inner
        self.core = core
        self.original = original

    def forward(self, stimulus: Tensor) -> Tensor:
        if stimulus.shape[1:] != self.core.stimulus_shape:
            return self.original(stimulus)
        if stimulus.requires_grad and (self.is_inner or stimulus.is_contiguous()):
            # What comes before it in a network may be wrong for another layout, as the gradient of BatchNorm3d is.
            stimulus = stimulus.view_as(stimulus)
            stimulus.register_hook(Tensor.contiguous)
        return self.core(stimulus.to(self.core.dtype)).to(stimulus.dtype)


def _inputs_of_parts(model: RetinaModel, stimulus: Tensor) -> dict[str, list[Tensor]]:
    """What the parts of a model are given, by their names, while it responds to a stimulus.

    A part that is left before its end, for the sake of what is inside it, is not among them, nor is one that computes
    in a lower precision, by ``torch.autocast``, than what it is given.
    """
    seen: dict[str, list[Tensor]] = {}
    read_out = model.read_out([0], some_neurons(model)[:1])

    def note(path: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            given = [values for values in inputs[:1] if isinstance(values, Tensor)]
            seen.setdefault(path, []).extend(
                values for values in given if not torch.is_autocast_enabled(values.device.type)
            )

        return hook

    hooks = []
    try:
        for path, part in model.named_modules():
            if not isinstance(part, torch.jit.ScriptModule):
                hooks.append(part.register_forward_hook(note(path)))
        with torch.no_grad():
            read_out(stimulus)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _cores(model: RetinaModel, inputs: Mapping[str, Sequence[Tensor]]) -> dict[str, FrozenCore]:
    """The outermost parts of a model that are better rewritten for what they are given, by their names."""
    cores: dict[str, FrozenCore] = {}
    for path, part in model.named_modules():
        given = inputs.get(path, [])
        if len(given) == 1 and given[0].ndim == 5 and not any(path.startswith(f"{outer}.") for outer in cores):
            try:
                core = frozen_core(part, given[0].shape[1:])
            except NotUnderstood:
                continue
            if core.gain >= _LEAST_GAIN:
                cores[path] = core
    return cores


def _warn(model: RetinaModel, difference: float, responses: Tensor) -> None:
    if not responses.isfinite().all():
        warnings.warn(
            f"The responses of model '{model.name}' to noise are not finite, so it runs as it is: look for a division "
            "by 0, a logarithm or a root of what may be negative, and weights that are not numbers.",
            stacklevel=4,
        )
        return
    warnings.warn(
        f"The model '{model.name}' runs as it is: made faster, its responses or gradients would differ by "
        f"{difference:.1g} of the largest.",
        stacklevel=4,
    )
