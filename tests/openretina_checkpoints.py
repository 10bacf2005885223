"""Small models of openretina with random weights, in memory and as the checkpoints that openretina would save."""

import pickle
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning import LightningModule, Trainer

pytest.importorskip("openretina.models.core_readout", reason="openretina is not installed")

from omegaconf import OmegaConf
from openretina.models.core_readout import BaseCoreReadout, ExampleCoreReadout, UnifiedCoreReadout
from openretina.modules.readout.factorized_gaussian import GaussianMaskReadout
from openretina.modules.readout.gaussian import PointGaussianReadout

SESSIONS = {"session_1_dorsal1_20200101": 5, "session_2_ventral2_20201016": 12}
SHAPE = (2, 18, 16)


def example_core_readout(
    sessions: Mapping[str, int] = SESSIONS, seed: int = 0, data_info: Mapping[str, Any] | None = None
) -> BaseCoreReadout:
    """The legacy class, padded in time as the paper's model: 20 frames of the stimulus are lost."""
    with _seeded(seed):
        model = ExampleCoreReadout(
            in_shape=(SHAPE[0], 150, *SHAPE[1:]),
            hidden_channels=(8, 8),
            temporal_kernel_sizes=(21, 11),
            spatial_kernel_sizes=(11, 5),
            n_neurons_dict=dict(sessions),
            core_input_padding=False,
            core_hidden_padding=True,
            cut_first_n_frames_in_core=0,
            data_info={"input_shape": SHAPE, "n_neurons_dict": dict(sessions), **(data_info or {})},
        )
        return _liven(model)


def unified_core_readout(
    sessions: Mapping[str, int] = SESSIONS,
    seed: int = 0,
    data_info: Mapping[str, Any] | None = None,
    *,
    shape: tuple[int, int, int] = SHAPE,
    readout: str = "MultiGaussianMaskReadout",
    core: Mapping[str, Any] | None = None,
) -> BaseCoreReadout:
    """The class that openretina configures by hydra; unpadded in time, so that 30 frames are lost."""
    readout_arguments = {
        "MultiGaussianMaskReadout": {
            "scale": True,
            "bias": True,
            "gaussian_mean_scale": 6.0,
            "gaussian_var_scale": 4.0,
            "positive": True,
        },
        "MultiSampledGaussianReadout": {"bias": True, "init_mu_range": 0.5, "init_sigma_range": 0.2},
        "MultiFactorizedReadout": {
            "mask_l1_reg": 0.0,
            "weights_l1_reg": 0.0,
            "laplace_mask_reg": 0.0,
            "readout_bias": True,
            "init_scales": [[0.0, 0.1], [0.0, 0.5]],
        },
        "MultipleLNPReadout": {"nonlinearity": "softplus"},
    }[readout]
    core_arguments = {
        "_target_": "openretina.modules.core.base_core.SimpleCoreWrapper",
        "temporal_kernel_sizes": [21, 11],
        "spatial_kernel_sizes": [11, 5],
        "input_padding": 0,
        "hidden_padding": [0, 2, 2],
        "cut_first_n_frames": 0,
        "gamma_input": 0.0,
        "gamma_temporal": 0.0,
        "gamma_in_sparse": 0.0,
        "gamma_hidden": 0.0,
        **(core or {}),
    }
    with _seeded(seed):
        model = UnifiedCoreReadout(
            in_shape=(shape[0], 150, *shape[1:]),
            n_neurons_dict=dict(sessions),
            hidden_channels=(8, 8),
            core=OmegaConf.create({"_convert_": "object", **core_arguments}),
            readout=OmegaConf.create(
                {
                    "_target_": f"openretina.modules.readout.multi_readout.{readout}",
                    "_convert_": "object",
                    **readout_arguments,
                }
            ),
            data_info={"input_shape": shape, "n_neurons_dict": dict(sessions), **(data_info or {})},
        )
        return _liven(model)


def write_example_checkpoint(path: Path, sessions: Mapping[str, int] = SESSIONS, seed: int = 0) -> Path:
    """Save ``example_core_readout`` as openretina's training does."""
    return write_checkpoint(example_core_readout(sessions, seed), path)


def write_unified_checkpoint(path: Path, sessions: Mapping[str, int] = SESSIONS, seed: int = 0) -> Path:
    """Save ``unified_core_readout`` as openretina's training does."""
    return write_checkpoint(unified_core_readout(sessions, seed), path)


def write_checkpoint(model: LightningModule, path: Path) -> Path:
    trainer = Trainer(logger=False, enable_checkpointing=False, enable_model_summary=False, accelerator="cpu")
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path)
    return path


def write_ensemble_folder(
    folder: Path, sessions: Mapping[str, int], seeds: Sequence[int] = (0, 1000), gain: float = 1.0
) -> Path:
    """Save models of the paper's class with random weights as the folder of an ensemble.

    Their responses hardly depend on the stimulus, unless a gain of 1e5 or so makes them.
    """
    from openretina.legacy.models import SFB3d_core_SxF3d_readout

    data_info = {
        session: {
            "input_dimensions": (1, 2, 50, 18, 16),
            "input_channels": 2,
            "output_dimension": count,
            "mean_response": np.zeros(count, dtype=np.float32),
            "roi_coords": np.zeros((count, 2), dtype=np.float32),
        }
        for session, count in sessions.items()
    }
    config = {
        "hidden_channels": [4, 4],
        "temporal_kernel_size": [21, 11],
        "spatial_kernel_size": [11, 5],
        "layers": 2,
        "stack": -1,
        "batch_adaptation": False,
        "gaussian_masks": True,
        "gaussian_mean_scale": 6.0,
        "gaussian_var_scale": 4.0,
        "readout_positive": True,
        "laplace_padding": 0,
    }
    for seed in seeds:
        network = SFB3d_core_SxF3d_readout(None, seed=seed, data_info=data_info, **config)
        for readout in network.readout.values():
            readout.mask_mean.data.normal_(0.0, 0.05)
            readout.features.data.normal_(0.3, 0.5).mul_(gain)
        torch.save(network.state_dict(), folder / f"state_dict_{seed:05d}.pth.tar")
        (folder / f"data_info_{seed:05d}.pkl").write_bytes(pickle.dumps(data_info))
        (folder / f"config_{seed:05d}.yaml").write_text(
            yaml.safe_dump(
                {"model_fn": "openretina.hoefling_2024.models.SFB3d_core_SxF3d_readout", "model_config": config}
            )
        )
    return folder


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Random weights from a seed, without a trace in the global generator or openretina's warnings on the screen."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        torch.manual_seed(seed)
        yield


@torch.no_grad()
def _liven(model: BaseCoreReadout) -> BaseCoreReadout:
    """Give a fresh model batch norm statistics of random stimuli, and neurons that differ in place and features."""
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm3d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_(0.0, 0.3)
    for _ in range(2):
        features = model.core(torch.randn(4, *_with_time(model, 40)))
    model.eval()
    for readout in model.readout.values():
        _scatter_neurons(readout, features)
    return model


def _with_time(model: BaseCoreReadout, frames: int) -> tuple[int, int, int, int]:
    channels, height, width = model.data_info["input_shape"]
    return channels, frames, height, width


def _scatter_neurons(readout: torch.nn.Module, features: torch.Tensor) -> None:
    if isinstance(readout, GaussianMaskReadout):
        readout.mask_mean.uniform_(-0.1, 0.1)
        readout.mask_log_var.uniform_(-0.8, -0.4)
        readout.features.normal_(0.3, 0.5)
        drive = torch.einsum("nctwh,whd,ocod->ntd", features, readout.masks, readout.features.clamp(min=0))
        readout.scale_param.copy_(1.5 / drive.std(dim=(0, 1)))
        readout.bias.copy_(-readout.scale_param * drive.mean(dim=(0, 1)))
    elif isinstance(readout, PointGaussianReadout):
        readout._features.normal_(0.0, 1.0)
        readout.bias.normal_(0.0, 0.5)
