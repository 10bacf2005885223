"""Models by openretina's calls, and what its scripts do with them."""

import importlib
import os
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mei_lightning.exceptions import DownloadError, InvalidValueError, NotPermittedError
from mei_lightning.models.base import frozen
from mei_lightning.models.ensemble import Ensemble
from mei_lightning.models.loading import BUILT_IN_MODELS, load_model
from mei_lightning.models.openretina import CONSENT_VARIABLE, OpenRetinaModel
from mei_lightning.models.openretina_checkpoints import import_core_readout
from mei_lightning.models.sessions import SessionsModel

_MEMBERS = ("00000", "01000", "02000", "03000", "04000")
_FILES_OF_MEMBER = (("config_", ".yaml"), ("data_info_", ".pkl"), ("state_dict_", ".pth.tar"))


def load_core_readout_model(
    model_path_or_name: str,
    device: str | torch.device,
    cache_directory_path: str | os.PathLike[str] | None = None,
) -> SessionsModel:
    """Load a model with the call that openretina uses, for code that only changes its imports.

    An openretina model is unpickled, and this call has no argument for your consent to it: set the environment
    variable ``MEI_LIGHTNING_ALLOW_UNPICKLING=1``. What openretina itself would return is the model's ``network``; its
    ``readout``, ``core`` and ``data_info`` are the model's too.

    Args:
        model_path_or_name: a name on openretina's hub, the path of a checkpoint, or a built-in model
            (``"digital_twin"``, ``"simulated"``; these need neither openretina nor consent).
        device: where to put the model, e.g. ``"cpu"`` or ``"cuda"``.
        cache_directory_path: where downloads are kept; openretina's own cache by default.

    Raises:
        FileNotFoundError, PermissionError, ImportError, ValueError, ConnectionError: as :class:`OpenRetinaModel`.
    """
    if model_path_or_name in BUILT_IN_MODELS:
        model = load_model(model_path_or_name)
        assert isinstance(model, SessionsModel)
        return model.to(device)
    return OpenRetinaModel(model_path_or_name, cache_directory=cache_directory_path).to(device)


def load_core_readout_from_remote(
    model_path: str, device: str | torch.device, cache_directory_path: str | os.PathLike[str] | None = None
) -> SessionsModel:
    """Load a model with the call that openretina uses, for code that only changes its imports.

    An openretina model is unpickled, and this call has no argument for your consent to it: set the environment
    variable ``MEI_LIGHTNING_ALLOW_UNPICKLING=1``. ``load_core_readout_model`` is another name for this function.

    Args:
        model_path: a name on openretina's hub, the path of a checkpoint, or a built-in model (``"digital_twin"``,
            ``"simulated"``; these need neither openretina nor consent).
        device: where to put the model, e.g. ``"cpu"`` or ``"cuda"``.
        cache_directory_path: where downloads are kept; openretina's own cache by default.

    Returns:
        The model, called as ``model(stimulus, data_key=session)``. What openretina itself would return is its
        ``network``, whose ``readout``, ``core`` and ``data_info`` are the model's too.

    Raises:
        FileNotFoundError, PermissionError, ImportError, ValueError, ConnectionError: as :class:`OpenRetinaModel`.

    Example:
        >>> model = ml.load_core_readout_from_remote("digital_twin", "cpu")
        >>> model.stimulus_shape(time_steps=40)
        (1, 2, 40, 18, 16)
        >>> model.readout["session_1"].outdims  # neurons of the session
        36
    """
    return load_core_readout_model(model_path, device, cache_directory_path)


class EnsembleModel(Ensemble, SessionsModel):
    """The mean response of several models of the same neurons.

    Args:
        *members: models of this package or of openretina; any other is wrapped in a ``RetinaModel`` first.

    Raises:
        TypeError: if a member does not say what its stimulus is.
        ValueError: if there are no members, or they differ in stimulus or neurons.
    """

    def __init__(self, *members: nn.Module) -> None:
        super().__init__([load_model(member) for member in members], name="EnsembleModel")

    def forward(self, x: Tensor, data_key: str | None = None) -> Tensor:
        """Mean responses ``[batch, time', neurons]`` to stimuli; without a session those of all neurons."""
        return torch.stack([member(x, data_key=data_key) for member in self.members]).mean(dim=0)

    @property
    def data_info(self) -> dict[str, Any]:
        """What the first member states about its data."""
        first = self.members[0]
        return first.data_info if isinstance(first, SessionsModel) else super().data_info


class Center:
    """Moves all readouts to one place of the visual field.

    Args:
        target_mean: where, ``(0.0, 0.0)`` for the middle.
        mean_key: the part of a parameter's name by which those that say where are known.
    """

    def __init__(self, target_mean: float | Sequence[float], mean_key: str = "mask_mean") -> None:
        self.target_mean = target_mean
        self.mean_key = mean_key

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> None:
        """Move the readouts of a model.

        Raises:
            ValueError: if it has no such parameters.
        """
        places = [value for name, value in model.state_dict(keep_vars=True).items() if self.mean_key in name]
        if not places:
            raise InvalidValueError(
                f"Center(mean_key={self.mean_key!r}): a {type(model).__name__} has no parameter of such a name, so its "
                "readouts have no place of their own."
            )
        for place in places:
            place.copy_(torch.as_tensor(self.target_mean, dtype=place.dtype).expand_as(place))


def load_ensemble_retina_model_from_directory(
    directory_path: str, device: str | torch.device = "cuda", center_readout: Center | None = None
) -> tuple[dict[str, Any], SessionsModel]:
    """Load an ensemble from a folder of openretina's layout, with the consent of ``load_core_readout_model``.

    Args:
        directory_path: a folder with ``config_*.yaml``, ``data_info_*.pkl`` and ``state_dict_*.pth.tar``.
        device: where to put the model.
        center_readout: what moves all readouts to one place, if anything.

    Returns:
        What the first member states about its data, and the ensemble, with its ``members``.

    Raises:
        FileNotFoundError, PermissionError, ImportError, ValueError: as :class:`OpenRetinaModel`.
    """
    model = OpenRetinaModel(Path(directory_path))
    if center_readout is not None:
        center_readout(model)
    # The model has been unpickled, with consent.
    data_info = pickle.loads(min(Path(directory_path).expanduser().glob("data_info_*.pkl")).read_bytes())
    return data_info, model.to(device)


def load_ensemble_model_from_remote(
    remote_url: str = "https://gin.g-node.org/",
    model_path: str = "eulerlab/rgc-natstim/raw/master/models/nonlinear/9d574ab9fcb85e8251639080c8d402b7",
    device: str | torch.device = "cpu",
    center_readout: Center | None = None,
) -> tuple[dict[str, Any], SessionsModel]:
    """Load the ensemble of Höfling et al. 2024, with the consent of ``load_core_readout_model``.

    Args:
        remote_url: where it is.
        model_path: the folder there; or a folder on this computer, or a built-in model, as an ensemble of one.
        device: where to put the model.
        center_readout: what moves all readouts to one place, if anything.

    Returns:
        What the first member states about its data, and the ensemble, with its ``members``.

    Raises:
        ConnectionError: if the download fails.
        PermissionError, ImportError, ValueError: as :class:`OpenRetinaModel`.
    """
    if model_path in BUILT_IN_MODELS:
        ensemble = EnsembleModel(load_model(model_path)).to(device)
        if center_readout is not None:
            center_readout(ensemble)
        return ensemble.data_info, ensemble
    if Path(model_path).expanduser().is_dir():
        return load_ensemble_retina_model_from_directory(str(Path(model_path).expanduser()), device, center_readout)
    if os.environ.get(CONSENT_VARIABLE) != "1":
        raise NotPermittedError(
            f"Loading the ensemble '{model_path}' unpickles files, and a pickle can run any code that its author put "
            f"into it. If you trust the source, set the environment variable {CONSENT_VARIABLE}=1."
        )
    import_core_readout()
    files = importlib.import_module("openretina.utils.file_utils")
    names = [f"{start}{member}{end}" for member in _MEMBERS for start, end in _FILES_OF_MEMBER]
    try:
        folders = {
            Path(files.optionally_download_from_url(remote_url, f"{model_path}/{name}")).parent for name in names
        }
    except Exception as error:
        raise DownloadError(
            f"The ensemble '{model_path}' could not be downloaded from {remote_url} ({type(error).__name__}: {error}). "
            "Give the path of a folder that you have as model_path, or the built-in model 'digital_twin'."
        ) from error
    return load_ensemble_retina_model_from_directory(str(folders.pop()), device, center_readout)


@contextmanager
def eval_state(model: nn.Module) -> Iterator[nn.Module]:
    """A model in evaluation mode for the time of a ``with`` block."""
    training = model.training
    try:
        yield model.eval()
    finally:
        model.train(training)


@torch.no_grad()
def is_model_causal(model: nn.Module, length_stimulus_same: int = 40, length_stimulus_different: int = 20) -> bool:
    """Whether no response depends on frames of the stimulus that come after it.

    All neurons of all sessions are asked, where openretina asks the first neuron of the first session; neurons that do
    not respond to the change at all are causal.

    Args:
        model: a model of this package or of openretina.
        length_stimulus_same: frames (of ones) until the stimulus changes.
        length_stimulus_different: frames (of twos) after that, where it does.
    """
    total = length_stimulus_same + length_stimulus_different
    with frozen(model):
        retina = load_model(model)
        weight = next(chain(retina.parameters(), retina.buffers()))
        steady = weight.new_ones(retina.stimulus_shape(total))
        changing = steady.clone()
        changing[:, :, length_stimulus_same:] = 2.0
        for session in retina.neurons_per_session if retina.has_sessions else [None]:
            before, after = retina(steady, data_key=session), retina(changing, data_key=session)
            same = length_stimulus_same - (total - before.shape[1])
            if not torch.allclose(before[:, :same], after[:, :same], rtol=1e-5, atol=1e-6):
                return False
    return True
