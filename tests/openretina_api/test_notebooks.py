"""The calls of openretina's notebooks, cell by cell in the notebooks' order, with nothing but their imports changed.

The models are small ones with random weights, put where openretina's downloads would be.
"""

import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

pytest.importorskip("openretina.utils.nnfabrik_model_loading", reason="openretina is not installed")
pytest.importorskip("IPython.display", reason="IPython is not installed")

from openretina.insilico.stimulus_optimization.regularizer import ChangeNormJointlyClipRangeSeparately
from openretina.models import core_readout
from openretina.utils import file_utils
from openretina_checkpoints import SESSIONS, example_core_readout, write_checkpoint, write_ensemble_folder

pytestmark = pytest.mark.filterwarnings("ignore:No data key provided", "ignore:.*non-interactive")

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


@pytest.fixture
def downloads(tmp_path, monkeypatch):
    """Models where openretina's downloads are kept, and consent to unpickling them."""
    folder = tmp_path / "ensemble"
    folder.mkdir()
    write_ensemble_folder(folder, {"a": 4, "b": 3}, MEMBERS, gain=1e5)
    groups = {session: {"group_assignment": np.resize([28, 1, 2, 15, 16], n)} for session, n in SESSIONS.items()}
    location = core_readout._MODEL_NAME_TO_REMOTE_LOCATION["hoefling_2024_low_res"].split("main/")[1]
    (tmp_path / location).parent.mkdir(parents=True)
    write_checkpoint(example_core_readout(data_info={"sessions_kwargs": groups}), tmp_path / location)
    monkeypatch.setattr(
        file_utils, "optionally_download_from_url", lambda url, path, *_, **__: folder / path.split("/")[-1]
    )
    monkeypatch.setattr(core_readout, "get_cache_directory", lambda: str(tmp_path))
    monkeypatch.setenv("MEI_LIGHTNING_ALLOW_UNPICKLING", "1")
    plt.switch_backend("agg")
    yield folder
    plt.close("all")


def run(cells):
    """The names after all cells, whose imports of openretina are of this package's names."""
    names = {"__name__": "__main__"}
    torch.manual_seed(0)
    for number, cell in enumerate(cells):
        changed = re.sub(r"from openretina\.[\w.]+ import", "from mei_lightning.openretina_api import", cell)
        exec(compile(changed, f"cell {number}", "exec"), names)
    return names


def test_mei_example(downloads):
    names = run(MEI_EXAMPLE)
    assert names["stimulus_np"].shape == (2, 50, 18, 16)
    assert names["stimulus"].norm().item() == pytest.approx(5.0, rel=1e-4)
    assert names["shown"].data.startswith("<video")
    assert names["after"] > names["before"]
    assert set(names["data_info"]) == {"a", "b"}
    assert len(names["ensemble_model"].members) == len(MEMBERS)


def test_most_discriminative_stimulus(downloads):
    names = run(MOST_DISCRIMINATIVE)
    torch.manual_seed(40)
    start = 0.1 * torch.randn(names["stimulus_shape"])
    start = ChangeNormJointlyClipRangeSeparately([(-0.6, 6.2), (-0.9, 6.2)], 30.0).process(start)
    for kind in ("mei", "mds"):
        objective = names[f"objective_{kind}"]
        assert objective.forward(names[f"stimulus_{kind}"]) > objective.forward(start)
    assert names["responses_mds_np"].shape == (sum(SESSIONS.values()), 20)


def test_hoefling_gradient_analysis(downloads):
    names = run(GRADIENT_ANALYSIS)
    assert names["gradient_grid"].shape == (2, 5, 5)
    assert names["n_neurons"] == 4
    # The MEI itself excites more than grey does, and than its negative.
    responses = names["resp_grid"]
    assert responses[-1, -1] > max(responses[2, 2], responses[0, 0])


def test_the_ensemble_is_centred_on_demand(downloads):
    from mei_lightning import openretina_api

    centre = openretina_api.Center((0.0, 0.0))
    _, model = openretina_api.load_ensemble_model_from_remote(center_readout=centre)
    places = [value for name, value in model.state_dict().items() if "mask_mean" in name]
    assert places
    assert all(not place.any() for place in places)
    _, same = openretina_api.load_ensemble_model_from_remote(model_path=str(downloads), center_readout=centre)
    stimulus = torch.randn(1, 2, 40, 18, 16)
    torch.testing.assert_close(same(stimulus), model(stimulus))


def test_a_download_needs_consent_and_says_what_else_there_is(downloads, monkeypatch):
    from mei_lightning import openretina_api

    def unreachable(*_args, **_kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(file_utils, "optionally_download_from_url", unreachable)
    with pytest.raises(ConnectionError, match=r"no route to host.*digital_twin"):
        openretina_api.load_ensemble_model_from_remote()
    monkeypatch.delenv("MEI_LIGHTNING_ALLOW_UNPICKLING")
    with pytest.raises(PermissionError, match="MEI_LIGHTNING_ALLOW_UNPICKLING=1"):
        openretina_api.load_ensemble_model_from_remote()
    _, built_in = openretina_api.load_ensemble_model_from_remote(model_path="digital_twin")
    assert list(built_in.members[0].readout.keys()) == ["session_1", "session_2", "session_3"]
