"""The calls of openretina's notebooks, cell by cell in the notebooks' order, and models where its downloads would be.

The models are small ones with random weights.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from openretina_checkpoints import SESSIONS, example_core_readout, write_checkpoint, write_ensemble_folder

MEMBERS = (0, 1000, 2000, 3000, 4000)

MEI_EXAMPLE = [
    """
from functools import partial
import matplotlib.pyplot as plt
import numpy as np
import torch
from openretina.insilico.stimulus_optimization.objective import (
    AbstractObjective, IncreaseObjective, ResponseReducer, SliceMeanReducer
)
from openretina.insilico.stimulus_optimization.optimization_stopper import OptimizationStopper
from openretina.insilico.stimulus_optimization.optimizer import optimize_stimulus
from openretina.insilico.stimulus_optimization.regularizer import ChangeNormJointlyClipRangeSeparately
from openretina.utils.nnfabrik_model_loading import load_ensemble_model_from_remote
from openretina.utils.plotting import play_stimulus, plot_stimulus_composition
""",
    """
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
data_info, ensemble_model = load_ensemble_model_from_remote(device=device)
""",
    """
stimulus_shape = (1, 2, 50, 18, 16)
stimulus = torch.randn(stimulus_shape, requires_grad=True, device=device)
stimulus.data = stimulus.data * 0.1
limits = {"norm": 5.0, "x_min_green": -0.654, "x_max_green": 6.269, "x_min_uv": -0.913, "x_max_uv": 6.269}
stimulus_postprocessor = ChangeNormJointlyClipRangeSeparately(
    min_max_values=[(limits["x_min_green"], limits["x_max_green"]), (limits["x_min_uv"], limits["x_max_uv"])],
    norm=limits["norm"],
)
stimulus.data = stimulus_postprocessor.process(stimulus.data)
""",
    """
session_id = list(ensemble_model.members[0].readout.keys())[0]
neuron_id = 2
response_reducer = SliceMeanReducer(axis=0, start=10, length=10)
objective = IncreaseObjective(
    ensemble_model, neuron_indices=neuron_id, data_key=session_id, response_reducer=response_reducer
)
optimization_stopper = OptimizationStopper(max_iterations=4)
optimizer_init_fn = partial(torch.optim.SGD, lr=10.0)
""",
    """
optimize_stimulus(
    stimulus,
    optimizer_init_fn,
    objective,
    optimization_stopper,
    stimulus_postprocessor=stimulus_postprocessor,
    stimulus_regularization_loss=None,
)
stimulus_np = stimulus[0].numpy()
""",
    "shown = play_stimulus(stimulus[0])",
    """
fig, axes = plt.subplots(2, 2, figsize=(7 * 3, 12))
plot_stimulus_composition(
    stimulus=stimulus_np,
    temporal_trace_ax=axes[0, 0],
    freq_ax=axes[0, 1],
    spatial_ax=axes[1, 0],
    highlight_x_list=[(40, 49)],
)
neuron_trace = ensemble_model.forward(stimulus, data_key=session_id)[0, :, neuron_id].detach().cpu().numpy()
axes[1, 1].plot(np.arange(30, 30 + len(neuron_trace)) / 30.0, neuron_trace)
""",
    """
class FewNeurons(AbstractObjective):
    def __init__(self, model, data_key, response_reducer: ResponseReducer, wanted):
        super().__init__(model, data_key)
        self._response_reducer = response_reducer
        self._wanted = wanted

    def forward(self, stimulus):
        scores = self._response_reducer.forward(self.model_forward(stimulus))
        return torch.topk(scores, self._wanted).values.mean() - scores.mean()

few = FewNeurons(ensemble_model, session_id, response_reducer, 2)
sparse_stim = torch.randn(stimulus_shape, requires_grad=True, device=device)
sparse_stim.data = stimulus_postprocessor.process(sparse_stim.data * 0.1)
before = few.forward(sparse_stim).item()
optimize_stimulus(sparse_stim, optimizer_init_fn, few, optimization_stopper, None, stimulus_postprocessor)
after = few.forward(sparse_stim).item()
""",
]

MOST_DISCRIMINATIVE = [
    """
from functools import partial
import matplotlib.pyplot as plt
import numpy as np
import torch
from openretina.data_io.hoefling_2024.constants import FRAME_RATE_MODEL
from openretina.insilico.stimulus_optimization.objective import (
    ContrastiveNeuronObjective, IncreaseObjective, SliceMeanReducer
)
from openretina.insilico.stimulus_optimization.optimization_stopper import OptimizationStopper
from openretina.insilico.stimulus_optimization.optimizer import optimize_stimulus
from openretina.insilico.stimulus_optimization.regularizer import (
    ChangeNormJointlyClipRangeSeparately, TemporalGaussianLowPassFilterProcessor
)
from openretina.models.core_readout import load_core_readout_from_remote
from openretina.utils.plotting import plot_stimulus_composition
""",
    """
device = "cuda" if torch.cuda.is_available() else "cpu"
model = load_core_readout_from_remote("hoefling_2024_low_res", device=device)
""",
    """
group_assignment = np.concatenate(
    [model.data_info["sessions_kwargs"][k]["group_assignment"] for k in model.readout.readout_keys()]
)
type_to_idc = {int(t): np.where(group_assignment == t)[0].tolist() for t in set(group_assignment)}
""",
    """
def optimize_and_plot_stimulus(stimulus_shape, objective):
    torch.manual_seed(40)
    stimulus = torch.randn(stimulus_shape, requires_grad=True, device=device)
    stimulus_clipper = ChangeNormJointlyClipRangeSeparately(min_max_values=[(-0.6, 6.2), (-0.9, 6.2)], norm=30.0)
    stimulus_lowpass_filter = TemporalGaussianLowPassFilterProcessor(sigma=0.5, kernel_size=5, device=device)
    stimulus.data = stimulus_clipper.process(stimulus.data * 0.1)
    optimize_stimulus(
        stimulus,
        optimizer_init_fn=partial(torch.optim.SGD, lr=100.0),
        objective_object=objective,
        optimization_stopper=OptimizationStopper(max_iterations=4),
        stimulus_postprocessor=[stimulus_clipper, stimulus_lowpass_filter],
    )
    fig, axes = plt.subplots(2, 2, figsize=(7 * 3, 12))
    stim_length = stimulus_shape[2]
    plot_stimulus_composition(
        stimulus=stimulus[0].detach().cpu().numpy(),
        temporal_trace_ax=axes[0, 0],
        freq_ax=axes[0, 1],
        spatial_ax=axes[1, 0],
        highlight_x_list=[(stim_length - 10, stim_length - 1)],
    )
    return stimulus
""",
    """
stimulus_shape = model.stimulus_shape(time_steps=40)
reducer = SliceMeanReducer(axis=0, start=10, length=10)
objective_mei = IncreaseObjective(model, neuron_indices=type_to_idc[28], data_key=None, response_reducer=reducer)
off_cell_idc = sum([type_to_idc[i] for i in range(1, 3)], [])
on_cell_idc = sum([type_to_idc[i] for i in range(15, 17)], [])
objective_mds = ContrastiveNeuronObjective(
    model,
    on_cluster_idc=type_to_idc[28],
    off_cluster_idc_list=[on_cell_idc, off_cell_idc],
    data_key=None,
    response_reducer=reducer,
    temperature=1.6,
)
""",
    "stimulus_mei = optimize_and_plot_stimulus(stimulus_shape, objective_mei)",
    "stimulus_mds = optimize_and_plot_stimulus(stimulus_shape, objective_mds)",
    """
responses_mds_np = model.forward(stimulus_mds)[0].detach().transpose(1, 0).cpu().numpy()
responses_mei_np = model.forward(stimulus_mei)[0].detach().transpose(1, 0).cpu().numpy()
""",
    """
fig, ax = plt.subplots(figsize=(8, 3), sharey=True)
offset = 20
time = np.arange(offset, offset + responses_mds_np[0].shape[0]) / FRAME_RATE_MODEL
for resp, linestyle in [(responses_mei_np, "--"), (responses_mds_np, "-")]:
    ax.plot(time, resp[type_to_idc[28]].mean(axis=0), label="Group 28", color="red", linestyle=linestyle)
    ax.plot(time, resp[on_cell_idc].mean(axis=0), label="On Cells", color="green", linestyle=linestyle)
ax.fill_betweenx(
    ax.get_ylim(),
    (offset + reducer.start) / FRAME_RATE_MODEL,
    (offset + reducer.start + reducer.length) / FRAME_RATE_MODEL,
)
""",
]

GRADIENT_ANALYSIS = [
    *MEI_EXAMPLE[:3],
    """
session_id = list(ensemble_model.members[0].readout.keys())[0]
n_neurons = ensemble_model.members[0].readout[session_id].outdims
response_reducer = SliceMeanReducer(axis=0, start=10, length=10)
optimization_stopper = OptimizationStopper(max_iterations=2)
optimizer_init_fn = partial(torch.optim.SGD, lr=10.0)
""",
    """
mei_dict = dict.fromkeys(list(range(n_neurons)))
for neuron_id in range(2):
    objective = IncreaseObjective(
        ensemble_model, neuron_indices=neuron_id, data_key=session_id, response_reducer=response_reducer
    )
    stimulus = torch.randn(stimulus_shape, requires_grad=True, device=device)
    stimulus.data = stimulus_postprocessor.process(stimulus.data)
    optimize_stimulus(
        stimulus,
        optimizer_init_fn,
        objective,
        optimization_stopper,
        stimulus_postprocessor=stimulus_postprocessor,
        stimulus_regularization_loss=None,
    )
    mei_dict[neuron_id] = stimulus
""",
    """
from openretina.insilico.tuning_analyses.response_gradient import equalize_channels, get_gradient_grid
from openretina.utils.plotting import plot_vector_field_resp_iso
neuron_id = 1
model_neuron = IncreaseObjective(
    ensemble_model, neuron_indices=neuron_id, data_key=session_id, response_reducer=response_reducer
)
equalized_mei = equalize_channels(mei_dict[neuron_id], flip_green=False)
gradient_grid, resp_grid, norm_grid, green_contrast_values, uv_contrast_values = get_gradient_grid(
    equalized_mei, model_neuron, step_size=0.5
)
""",
    """
x = np.arange(-1, 1.5, 0.5)
fig = plot_vector_field_resp_iso(
    x, x, gradient_grid, resp_grid, normalize_response=True, rc_dict={"figure.figsize": (6, 6)}
)
""",
]


def with_imports_changed(cell: str) -> str:
    """A cell whose imports of openretina are of this package's names; nothing else is changed."""
    return re.sub(r"from openretina\.[\w.]+ import", "from mei_lightning.openretina_api import", cell)


def write_downloads(directory: Path) -> None:
    """Write the models that the notebooks load."""
    from openretina.models import core_readout

    (directory / "ensemble").mkdir()
    write_ensemble_folder(directory / "ensemble", {"a": 4, "b": 3}, MEMBERS, gain=1e5)
    groups = {session: {"group_assignment": np.resize([28, 1, 2, 15, 16], n)} for session, n in SESSIONS.items()}
    location = core_readout._MODEL_NAME_TO_REMOTE_LOCATION["hoefling_2024_low_res"].split("main/")[1]
    (directory / location).parent.mkdir(parents=True)
    write_checkpoint(example_core_readout(data_info={"sessions_kwargs": groups}), directory / location)


def use_downloads(directory: Path, set_attribute: Callable[[Any, str, Any], None] = setattr) -> None:
    """Let openretina find those models, as if it had downloaded them; one that it has not is an error."""
    from openretina.models import core_readout
    from openretina.utils import file_utils

    def downloaded(_url: str, path: str, *_args: Any, **_options: Any) -> Path:
        return directory / "ensemble" / os.path.basename(path)

    set_attribute(file_utils, "optionally_download_from_url", downloaded)
    set_attribute(core_readout, "get_cache_directory", lambda: str(directory))
