"""A frozen model prepared once, so that each step, responses and their stimulus gradient, takes a fraction of the time.

Two levels. Cores that are understood (openretina's, the digital twin's, and any ``nn.Sequential`` of convolutions,
batch norm, ELU and max-pooling) are rewritten: kernels composed once, batch norm folded into them, convolutions
computed in the frequency domain (``spectral_convolution``). All other convolutions keep their place, and get a faster
input gradient (``fast_convolutions``).
"""

import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from typing import Any, Literal, get_args

import pandas as pd
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn

from mei_lightning.acceleration.blocks import ROWS_OF_SMALLEST_BLOCK, ROWS_PER_BLOCK, on_one_thread_each
from mei_lightning.acceleration.fast_convolutions import FastConvolutions
from mei_lightning.acceleration.frozen_core import FrozenCore, NotUnderstood, frozen_core
from mei_lightning.acceleration.rounding import full_precision
from mei_lightning.devices import made_on_cpu
from mei_lightning.exceptions import CompilationError, InvalidValueError
from mei_lightning.models.base import RetinaModel, weights_digest
from mei_lightning.models.read_out import part_of_read_out
from mei_lightning.neurons import Neuron

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

_SESSIONS_VERIFIED = 4
_PREPARED: "weakref.WeakKeyDictionary[RetinaModel, dict[tuple[Any, ...], FastModel]]" = weakref.WeakKeyDictionary()


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


@made_on_cpu
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
    device = torch.device(device) if device is not None else _weight_of(model).device
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
        _copy(model)
    except Exception as error:
        # A user's module may hold anything: files, locks, handles of other libraries.
        rank_zero_info(f"The model '{model.name}' cannot be copied ({error}): it runs as it is.")
        return FastModel(model, None)
    rewritten = _with_frozen_cores(model, shape, device)
    copy = _copy(model).to(device) if rewritten is None else rewritten
    convolutions = FastConvolutions()
    fast, plain = FastModel(copy, convolutions), FastModel(copy, None)
    stimulus = _random_stimulus(shape, _weight_of(copy))
    _step(fast, stimulus)
    if not convolutions.ways:
        if rewritten is None:
            rank_zero_info(f"Nothing in the model '{model.name}' is known to be computed faster: it runs as it is.")
        return plain
    own = _step(plain, stimulus[:2])
    exact = _step_in_double(_copy(copy).cpu(), stimulus[:2].cpu()) or own
    difference = max(_differences(_step(fast, stimulus[:2]), exact))
    if difference > max(TOLERANCE, _SHARE_OF_ROUNDING * max(_differences(own, exact))):
        _warn(model, difference)
        return plain
    if rewritten is None:
        rank_zero_info(f"The model '{model.name}' runs as it is, but for the gradients of its convolutions.")
    return fast


def _with_frozen_cores(model: RetinaModel, shape: tuple[int, ...], device: torch.device) -> RetinaModel | None:
    """A copy with its cores rewritten; None if there are none that are understood, or they do not compute the same."""
    original = _copy(model)
    stimulus = _random_stimulus((1, *shape[1:]), _weight_of(original))
    sizes = _sizes_of_inputs(original, stimulus)
    cores = _cores(_copy(original).to("cpu", torch.float64), sizes)
    if not cores:
        return None
    rewritten = _copy(original).cpu()
    for path, core in cores.items():
        rewritten.set_submodule(path, _CoreOfOneSize(core, rewritten.get_submodule(path)))
    found = expected = None
    if sum(core.multiplications for core in cores.values()) <= _MOST_MULTIPLICATIONS_IN_DOUBLE:
        # So that nothing but a difference in what is computed can show.
        found, expected = (_step_in_double(part, stimulus.cpu()) for part in (rewritten, original.cpu()))
    tolerances = TOLERANCE, TOLERANCE
    rewritten.to(device, stimulus.dtype)
    if found is None or expected is None:
        found, expected = (_step(part, stimulus.to(device)) for part in (rewritten, original.to(device)))
        if any(any(core.pools) for core in cores.values()):
            # Of nearly equal inputs of a max-pooling, rounding alone lets another one pass, and its gradient.
            tolerances = TOLERANCE, _TOLERANCE_OF_POOLED_GRADIENT
    differences = _differences(found, expected)
    if any(difference > tolerance for difference, tolerance in zip(differences, tolerances, strict=True)):
        _warn(model, max(differences))
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
    stimulus = _random_stimulus((1, *shape[1:]), _weight_of(fast))
    before = _step(fast, stimulus)
    for part in cores:
        part.core.to(torch.bfloat16)
    errors = [
        float((values - right).norm() / right.norm())
        for values, right in zip(_step(fast, stimulus), before, strict=True)
    ]
    rank_zero_info(
        f"The model '{fast.name}' computes in bfloat16: responses are off by {errors[0]:.1g}, gradients by "
        f"{errors[1]:.1g} (root mean square, relative)."
    )


def _agrees_in_smaller_blocks(fast: FastModel, shape: tuple[int, ...]) -> bool:
    """Whether responses and gradients of a row are the same to the last bit in blocks of fewer rows.

    That depends on the libraries that multiply matrices, and on the CPU that they choose their way for.
    """
    stimulus = _random_stimulus((ROWS_PER_BLOCK, *shape[1:]), _weight_of(fast))
    neurons = _some_neurons(fast)[:1] * ROWS_PER_BLOCK

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
        _step(fast, _random_stimulus((1, *shape[1:]), _weight_of(fast)))
    except Exception as error:
        raise CompilationError(
            f"prepare(compile=True): torch.compile cannot compile the model '{fast.name}' here ({error}). "
            "Leave compile=False."
        ) from error


class _CoreOfOneSize(nn.Module):
    """A rewritten core, and the original for stimuli of another size."""

    def __init__(self, core: FrozenCore, original: nn.Module) -> None:
        super().__init__()
        self.core = core
        self.original = original

    def forward(self, stimulus: Tensor) -> Tensor:
        if stimulus.shape[1:] != self.core.stimulus_shape:
            return self.original(stimulus)
        return self.core(stimulus.to(self.core.dtype)).to(stimulus.dtype)


def _sizes_of_inputs(model: RetinaModel, stimulus: Tensor) -> dict[str, list[torch.Size]]:
    """The shapes of what the parts of a model are given, by their names, while it responds to a stimulus.

    A part that is left before its end, for the sake of what is inside it, is not among them.
    """
    sizes: dict[str, list[torch.Size]] = {}
    read_out = model.read_out([0], _some_neurons(model)[:1])

    def note(path: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            sizes.setdefault(path, []).extend(inputs[0].shape for _ in inputs[:1] if isinstance(inputs[0], Tensor))

        return hook

    hooks = [part.register_forward_hook(note(path)) for path, part in model.named_modules()]
    try:
        with torch.no_grad():
            read_out(stimulus)
    finally:
        for hook in hooks:
            hook.remove()
    return sizes


def _cores(model: RetinaModel, sizes: Mapping[str, Sequence[torch.Size]]) -> dict[str, FrozenCore]:
    """The outermost parts of a model that are better rewritten for what they are given, by their names."""
    cores: dict[str, FrozenCore] = {}
    for path, part in model.named_modules():
        given = sizes.get(path, [])
        if len(given) == 1 and len(given[0]) == 5 and not any(path.startswith(f"{outer}.") for outer in cores):
            try:
                core = frozen_core(part, given[0][1:])
            except NotUnderstood:
                continue
            if core.gain >= _LEAST_GAIN:
                cores[path] = core
    return cores


def _copy(model: RetinaModel) -> RetinaModel:
    """A copy in evaluation mode that shares the original's weights, but needs no gradients of them."""
    shared: dict[int, Any] = {}
    for module in model.modules():
        for values in (*module.__dict__.values(), *module._buffers.values()):
            if isinstance(values, Tensor):
                shared[id(values)] = values.detach()
        for parameter in module._parameters.values():
            if parameter is not None:
                shared[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    return deepcopy(model, shared).eval()


def _step(model: RetinaModel, stimulus: Tensor) -> tuple[Tensor, Tensor]:
    """Responses of some neurons, and the gradient of a random sum of them."""
    neurons = _some_neurons(model)
    stimulus = stimulus.clone().requires_grad_()
    rows = [place % len(stimulus) for place in range(len(neurons))]
    with torch.enable_grad():
        responses = model.read_out(rows, neurons)(stimulus)
        generator = torch.Generator().manual_seed(1)
        weights = torch.randn(responses.shape, generator=generator, dtype=torch.float64).to(responses)
        (gradient,) = torch.autograd.grad((weights * responses).sum(), stimulus)
    return responses.detach(), gradient


def _step_in_double(model: RetinaModel, stimulus: Tensor) -> tuple[Tensor, Tensor] | None:
    """A ``_step`` of a copy in double precision; None if the model computes only in its own."""
    try:
        return _step(_copy(model).double(), stimulus.double())
    except RuntimeError:
        return None


def _some_neurons(model: RetinaModel) -> list[Neuron]:
    """The first and the last neuron of some sessions."""
    counts = [(session, count) for session, count in model.neurons_per_session.items() if count]
    return [
        Neuron(session or None, index) for session, count in counts[:_SESSIONS_VERIFIED] for index in (0, count - 1)
    ]


def _differences(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> list[float]:
    """The largest difference of each, as a share of the largest value; infinite if there is what is not a number."""
    differences = []
    for values, right in zip(found, expected, strict=True):
        values, right = values.cpu().double(), right.cpu().double()
        share = (values - right).abs().max() / right.abs().max().clamp(min=1e-300)
        differences.append(share.nan_to_num(nan=float("inf")).item())
    return differences


def _random_stimulus(shape: Sequence[int], like: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(like)


def _weight_of(model: nn.Module) -> Tensor:
    return next((values for values in _tensors_of(model) if values.is_floating_point()), torch.zeros(()))


def _tensors_of(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _warn(model: RetinaModel, difference: float) -> None:
    warnings.warn(
        f"The model '{model.name}' runs as it is: made faster, its responses or gradients would differ by "
        f"{difference:.1g} of the largest.",
        stacklevel=4,
    )
