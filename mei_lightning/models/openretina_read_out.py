"""Read-outs of openretina's core-readout networks: the core once, and of the readouts only the wanted neurons."""

import warnings
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from mei_lightning.models.base import frozen
from mei_lightning.models.read_out import MaskReadOut, SessionReadOut, gather_neurons
from mei_lightning.neurons import Neuron


def is_ensemble(network: nn.Module) -> bool:
    """Whether a network is openretina's mean over members."""
    return _method_of(network, "forward") == "openretina.modules.layers.ensemble.EnsembleModel.forward"


def answers_for_all_sessions(network: Any) -> bool:
    """Whether a network, not an ensemble, gives the responses of all sessions when it is asked for none."""
    return (
        _method_of(network, "forward") == "openretina.models.core_readout.BaseCoreReadout.forward"
        and _method_of(network.readout, "forward")
        == "openretina.modules.readout.multi_readout.MultiReadoutBase.forward"
    )


def network_read_out(network: Any, rows: Sequence[int] | None, neurons: Sequence[Neuron], is_split: bool) -> nn.Module:
    """Responses of chosen neurons of a network of openretina, as ``RetinaModel.read_out``.

    Args:
        network: the network, which is not an ensemble.
        rows: for each response the index of its stimulus in the batch; None for all stimuli.
        neurons: for each response its neuron.
        is_split: whether core and readout may be computed one after the other (``computes_core_then_readout``).
    """
    if not is_split:
        return SessionReadOut(network, rows, neurons)
    if not _has_gaussian_masks(network.readout):
        return nn.Sequential(network.core, SessionReadOut(network.readout, rows, neurons))
    return nn.Sequential(network.core, _gaussian_mask_read_out(network.readout, rows, neurons))


def computes_core_then_readout(network: Any, stimulus_shape: Sequence[int], name: str) -> bool:
    """Whether a network's responses are those of its readout to its core's features, and of nothing else.

    A network whose ``forward`` is not that of openretina's core-readout models is taken not to be. For others a
    random stimulus is put through the network, and all of its readouts, to see.

    Args:
        network: the network.
        stimulus_shape: ``(1, channels, time, height, width)`` of a stimulus that it has responses to.
        name: what to call it in the warning that it is not.
    """
    if _method_of(network, "forward") != "openretina.models.core_readout.BaseCoreReadout.forward":
        return False
    with torch.no_grad(), frozen(network):
        is_split = _split_responses_agree(network, stimulus_shape)
    if not is_split:
        warnings.warn(
            f"The openretina model '{name}' does not answer as its core and readout do. Its responses are right, but "
            "computed anew for each session, which takes longer.",
            stacklevel=2,
        )
    return is_split


def _split_responses_agree(network: Any, stimulus_shape: Sequence[int]) -> bool:
    generator = torch.Generator().manual_seed(0)
    stimulus = torch.randn(*stimulus_shape, generator=generator).to(next(network.parameters()))
    features = network.core(stimulus)
    first = next(iter(network.readout))
    expected = network(stimulus, data_key=first)
    if not _agree(network.readout(features, data_key=first), expected):
        return False
    if not _has_gaussian_masks(network.readout):
        return True
    # In double precision, so that nothing but a difference in what is computed can show.
    readouts, features = deepcopy(network.readout).to("cpu", torch.float64), features.to("cpu", torch.float64)
    for session in readouts:
        expected = readouts(features, data_key=session)
        neurons = [Neuron(session, index) for index in range(expected.shape[-1])]
        found = _gaussian_mask_read_out(readouts, [0] * len(neurons), neurons)(features)
        if not _agree(found.mT[None], expected):
            return False
    return True


def _agree(found: Tensor, expected: Tensor) -> bool:
    """Whether responses ``[1, time', neurons]`` are equal but for 1e-5 of each neuron's largest."""
    if found.shape != expected.shape:
        return False
    largest = expected.nan_to_num(0.0, 0.0, 0.0).abs().amax(dim=(0, 1))
    close = (found - expected).abs() <= 1e-5 * largest
    return bool((close | (found == expected) | (found.isnan() & expected.isnan())).all())


def _has_gaussian_masks(readouts: Any) -> bool:
    """Whether the responses of all sessions are those of openretina's Gaussian masks, with the same nonlinearity."""
    if _method_of(readouts, "forward") != "openretina.modules.readout.multi_readout.MultiReadoutBase.forward":
        return False
    readout_class = "openretina.modules.readout.factorized_gaussian.GaussianMaskReadout"
    return all(
        _method_of(readout, method) == f"{readout_class}.{method}"
        for readout in readouts.values()
        for method in ("forward", "get_mask")
    ) and (len({readout.nonlinearity_function for readout in readouts.values()}) == 1)


def _gaussian_mask_read_out(readouts: Any, rows: Sequence[int] | None, neurons: Sequence[Neuron]) -> MaskReadOut:
    def of_session(session: str | None, indices: Tensor) -> tuple[Tensor, ...]:
        readout = readouts[session]
        indices = indices.to(readout.bias.device)
        weights = readout.features[0, :, 0, indices].T
        # openretina enforces this on the weights themselves, but only when a readout is used.
        weights = weights.clamp(min=0) if readout.positive else weights
        return _masks(readout, indices), weights * readout.scale_param[indices, None], readout.bias[indices]

    nonlinearity = next(iter(readouts.values())).nonlinearity_function
    masks, weights, bias = gather_neurons(neurons, of_session)
    return MaskReadOut(rows, masks, weights, bias, nonlinearity)


def _masks(readout: Any, indices: Tensor) -> Tensor:
    """Masks ``[n, height', width']`` of some neurons of a session, each of unit sum, as openretina has them.

    They have openretina's quirks: no variance is 0, far away a mask does not fall below exp(-10) of its peak, and a
    mask that is not a number sees nothing.
    """
    log_variance = (readout.mask_log_var[indices] * readout.gaussian_var_scale).clamp(-20, 20)
    center = readout.mask_mean[indices] * readout.gaussian_mean_scale
    squared_distance = (readout.grid[indices] - center[:, None, None]).square().sum(dim=-1)
    exponent = squared_distance / (log_variance.exp()[:, None, None] + 1e-8)
    mask = (-0.5 * exponent.clamp(max=20)).exp()
    return torch.nan_to_num(mask / mask.sum(dim=(1, 2), keepdim=True))


def _method_of(module: nn.Module, name: str) -> str:
    """Where a method of a module was written, as ``package.module.Class.method``."""
    method = getattr(module, name)
    return f"{method.__module__}.{getattr(method, '__qualname__', name)}"
