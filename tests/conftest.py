"""Tiny models, one way to fit, and one way to start processes, shared by the tests."""

import gc
import multiprocessing
import os
import signal
import tempfile
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import settings
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import nn
from torch.nn import functional as F

START_METHOD = os.environ.get("MEI_LIGHTNING_TEST_START_METHOD") or (
    "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
)
"""How processes begin: with "spawn" in place of "fork" everything is tested as on a system that has no fork."""
if START_METHOD != "fork":
    # Before the package asks.
    multiprocessing.get_all_start_methods = lambda: [START_METHOD]

import mei_lightning as ml  # noqa: E402
from mei_lightning.callbacks.tensorboard import StimulusLogger  # noqa: E402

PROCESSES = multiprocessing.get_context(START_METHOD)
needs_fork = pytest.mark.skipif(
    START_METHOD != "fork", reason="needs so many processes, or parts of Linux, that it forks"
)

# Tests of what is refused look at the exceptions.
os.environ["MEI_LIGHTNING_TRACEBACK"] = "1"
# Models this small only lose by sharing work among threads, and much so on a busy machine.
torch.set_num_threads(1)

# A shell starts what runs in the background deaf to interrupts, and so would be the processes of tests.
signal.signal(signal.SIGINT, signal.default_int_handler)

# What is imported stays. To look through all of it for garbage, again and again, would take a tenth of the tests' time.
gc.collect()
gc.freeze()

# On a busy machine any example may take long.
settings.register_profile("without deadline", deadline=None)
settings.load_profile("without deadline")


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="the first case of each test that is not marked as slow")


def pytest_collection_modifyitems(config, items):
    """In a quick run every kind of thing is tested once: the first case of each test, unless it is slow."""
    if not config.getoption("--quick"):
        return
    seen, kept, left_out = set(), [], []
    for item in items:
        test = (item.path, getattr(item, "cls", None), getattr(item, "originalname", item.name))
        if test in seen or item.get_closest_marker("slow"):
            left_out.append(item)
        else:
            kept.append(item)
            seen.add(test)
    items[:] = kept
    config.hook.pytest_deselected(items=left_out)


VIDEO_FORMAT = ml.StimulusFormat(("green", "UV"), height=6, width=5, frame_rate=30.0, pixel_size=50.0, frames_lost=2)
STILL_FORMAT = ml.StimulusFormat(("luminance",), height=7, width=6)
SESSIONS = {"monday": 4, "tuesday": 3}


def draw(*shape, generator):
    return nn.Parameter(torch.randn(shape, generator=generator) * 2 / torch.tensor(shape[1:]).prod().sqrt())


class VideoNetwork(nn.Module):
    """A convolution over space and time, batch norm and dropout, and a readout for each session."""

    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.kernel = draw(4, 2, 3, 3, 3, generator=generator)
        self.norm = nn.BatchNorm3d(4)
        self.norm.running_mean.copy_(torch.randn(4, generator=generator) * 0.1)
        self.norm.running_var.copy_(torch.rand(4, generator=generator) + 0.5)
        self.dropout = nn.Dropout(0.5)
        self.readout = nn.ParameterDict(
            {name: draw(count, 4, 4, 3, generator=generator) for name, count in SESSIONS.items()}
        )

    def forward(self, stimulus, data_key):
        features = self.dropout(F.softplus(self.norm(F.conv3d(stimulus, self.kernel))))
        return F.softplus(torch.einsum("bfthw,nfhw->btn", features, self.readout[data_key]))


class StillNetwork(nn.Module):
    """Two layers on a still image."""

    def __init__(self, seed=0, neurons=5):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.kernel = draw(3, 1, 3, 3, generator=generator)
        self.readout = draw(neurons, 3, 5, 4, generator=generator)

    def forward(self, image):
        return torch.einsum("bfhw,nfhw->bn", F.elu(F.conv2d(image, self.kernel)), self.readout)


class FailingNetwork(StillNetwork):
    """On monday neuron 1 is dead and neuron 2 answers NaN; on tuesday the gradient is NaN at finite responses."""

    def forward(self, image, data_key):
        if data_key == "tuesday":
            # The slope of the root at 0 is infinite, and infinity times 0 is NaN.
            return (image.flatten(1)[:, :1] * 0).square().sqrt()
        constant = torch.tensor([0.0, 0.0, torch.nan, 0.0, 0.0]).expand(len(image), 5)
        return torch.where(torch.tensor([True, False, False, True, True]), super().forward(image), constant)


class LinearNetwork(nn.Module):
    """Each neuron is the inner product with its own kernel, so its MEI is that kernel at the norm."""

    def __init__(self, neurons=3, shape=(2, 4, 6, 5), seed=0, gain=1.0):
        super().__init__()
        self.kernels = nn.Parameter(torch.randn(neurons, *shape, generator=torch.Generator().manual_seed(seed)))
        self.gain = gain

    def forward(self, stimulus):
        return self.gain * torch.einsum("bcthw,ncthw->bn", stimulus, self.kernels)[:, None]


def video_model(seed=0):
    return ml.RetinaModel(VideoNetwork(seed), VIDEO_FORMAT, SESSIONS)


def still_model(seed=0):
    return ml.RetinaModel(StillNetwork(seed), STILL_FORMAT, 5)


def linear_model(neurons=3, gain=1.0, seed=0):
    network = LinearNetwork(neurons, seed=seed, gain=gain)
    return ml.RetinaModel(network, ml.StimulusFormat(("green", "UV"), 6, 5, frame_rate=30.0, frames_lost=3), neurons)


NO_LIMIT = -1
"""For the trainer, where the module's own limit of steps is meant to end the run."""

_directories = []


@pytest.fixture(scope="session", autouse=True)
def _directory_for_fits(tmp_path_factory):
    """Nothing that a run writes ends up in the working directory."""
    _directories.append(tmp_path_factory.mktemp("fits"))


def fit(module, max_steps, *callbacks, ckpt_path=None, directory=None, **options):
    """Fit with a quiet trainer on the CPU, and return the trainer.

    An MEIModule writes its results to ``directory``, or to one of its own, unless there is a ResultsWriter; its rows do
    not converge unless there is a RowConvergence.
    """
    callbacks = list(callbacks)
    if isinstance(module, ml.MEIModule) and not any(isinstance(callback, ml.RowConvergence) for callback in callbacks):
        callbacks.append(ml.RowConvergence(patience=10**9))
    if isinstance(module, ml.MEIModule) and not any(isinstance(callback, ml.ResultsWriter) for callback in callbacks):
        place = directory or tempfile.mkdtemp(dir=_directories[0])
        callbacks.insert(0, ml.ResultsWriter(str(place), report=False))
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=max_steps,
        max_epochs=-1,
        **{"logger": False, "enable_progress_bar": False, "default_root_dir": _directories[0], **options},
        callbacks=callbacks,
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        enable_model_summary=False,
    )
    trainer.fit(module, ckpt_path=ckpt_path)
    return trainer


def read(directory):
    """The results in a directory."""
    return xr.open_zarr(f"{directory}/meis.zarr", chunks=None).load()


def results(trainer):
    """The results that a fit of an MEIModule has written."""
    (writer,) = (callback for callback in trainer.callbacks if isinstance(callback, ml.ResultsWriter))
    return read(writer.place)


def assert_same_meis(one, other, atol=1e-5):
    """All that is found of each neuron is the same, up to rounding."""
    assert set(one.variables) == set(other.variables)
    np.testing.assert_array_equal(one["neuron"], other["neuron"])
    found = ("stimulus", "score", "response", "restart_scores", "score_spread", "restart_similarity")
    for name in found:
        np.testing.assert_allclose(one[name], other[name], atol=atol, rtol=atol, err_msg=name)
    for name in ("status", "steps", "best_restart", "seed"):
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


class Computations(ml.NeuronObjective):
    """An objective that counts the rows of each of its evaluations: those with a gradient are the steps of rows."""

    def __init__(self, model, neurons, response_reducer, counts=None):
        super().__init__(model, neurons, response_reducer)
        self.counts = [] if counts is None else counts

    def traces(self, stimulus):
        self.counts.append((len(stimulus), torch.is_grad_enabled()))
        return super().traces(stimulus)

    def for_rows(self, rows):
        return Computations(self.model, [list(self.groups[row]) for row in rows], self.response_reducer, self.counts)


def count_computations(module):
    """Let an MEIModule count what it computes from now on: a list of rows, whether with gradient."""
    problem = module.problem
    counting = Computations(problem.model, [list(group) for group in problem.groups], problem.reducer)
    problem.objective, problem.settings = counting, replace(problem.settings, fast_path=False)
    module._prepared_in_tuple = (counting,)
    module._selection_is_old = True
    module._select_active_rows()
    return module.objective.counts


def needs_export():
    """Skip a test that writes or reads files of NetCDF or HDF5 where the extra ``export`` is not installed."""
    for package in ("h5netcdf", "h5py", "dask"):
        pytest.importorskip(package, reason=f"{package}, of the extra export, is not installed")


def find(model, neurons, **options):
    """``find_meis`` on the CPU without a progress bar."""
    return ml.find_meis(model, neurons, accelerator="cpu", progress_bar=False, **options)


@pytest.fixture(autouse=True)
def _no_pictures(request, monkeypatch):
    """Drawing stimuli takes longer than finding them: tests that look at a run's pictures are marked."""
    if request.node.get_closest_marker("pictures") is None:
        monkeypatch.setattr(StimulusLogger, "_log_stimulus", staticmethod(lambda *_: None))
        monkeypatch.setattr(ml.ResultsWriter, "_draw", lambda *_: {})


@pytest.fixture(scope="session")
def simulated():
    return ml.SimulatedRetina()


@pytest.fixture(scope="session")
def twin():
    return ml.DigitalTwin()
