import socket
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("openretina.models.core_readout", reason="openretina is not installed")

from openretina.models import core_readout
from openretina.modules.layers.ensemble import EnsembleModel
from openretina_checkpoints import (
    SESSIONS,
    example_core_readout,
    unified_core_readout,
    write_checkpoint,
    write_ensemble_folder,
    write_example_checkpoint,
    write_unified_checkpoint,
)

from mei_lightning.acceleration.prepare import prepare
from mei_lightning.models.openretina import OpenRetinaModel
from mei_lightning.neurons import Neuron
from mei_lightning.openretina_api import load_core_readout_from_remote

GREEN_UV_MEAN, GREEN_UV_SD = (37.417, 36.132), (28.905, 39.841)


@pytest.fixture(autouse=True)
def _no_consent_from_the_environment(monkeypatch):
    monkeypatch.delenv("MEI_LIGHTNING_ALLOW_UNPICKLING", raising=False)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_example_checkpoint(tmp_path_factory.mktemp("openretina") / "legacy.ckpt")


@pytest.fixture(scope="module")
def unified_checkpoint(tmp_path_factory):
    return write_unified_checkpoint(tmp_path_factory.mktemp("openretina") / "unified.ckpt")


def random_stimulus(model, batch=2, frames=50, seed=0):
    _, channels, _, height, width = model.stimulus_shape(1)
    return torch.randn(batch, channels, frames, height, width, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def feature_maps(network, stimulus):
    return network.core(stimulus)


@pytest.mark.parametrize("which", ["checkpoint", "unified_checkpoint"])
@torch.no_grad()
def test_responses_are_those_of_openretinas_own_loader(which, request):
    path = request.getfixturevalue(which)
    model = OpenRetinaModel(path, allow_unpickling=True)
    expected = core_readout.load_core_readout_model(str(path), "cpu").eval()
    for session, count in SESSIONS.items():
        stimulus = random_stimulus(model)
        responses = model(stimulus, data_key=session)
        assert responses.shape == (2, 50 - model.stimulus_format.frames_lost, count)
        assert responses.std() > 0.1
        torch.testing.assert_close(responses, expected(stimulus, data_key=session), rtol=0, atol=0)


def test_a_loaded_model_is_frozen_and_named(checkpoint):
    model = OpenRetinaModel(str(checkpoint), allow_unpickling=True)
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.name == "legacy"
    assert model.source == str(checkpoint)
    assert model.neurons_per_session == SESSIONS
    assert model.stimulus_shape(time_steps=40) == (1, 2, 40, 18, 16)
    with pytest.raises(ValueError, match="no session 'yesterday'"):
        model(random_stimulus(model), data_key="yesterday")


def test_use_does_not_change_the_weights(checkpoint):
    """openretina's readouts clip negative features when they are first used."""
    model = OpenRetinaModel(checkpoint, allow_unpickling=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for session in SESSIONS:
        model(random_stimulus(model), data_key=session)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(("which", "frames_lost"), [("checkpoint", 20), ("unified_checkpoint", 30)])
def test_stimulus_format_of_the_hoefling_models(which, frames_lost, request):
    facts = OpenRetinaModel(request.getfixturevalue(which), allow_unpickling=True).stimulus_format
    assert facts.channel_names == ("green", "UV")
    assert (facts.height, facts.width, facts.pixel_size, facts.frame_rate) == (18, 16, 50.0, 30.0)
    assert facts.frames_lost == frames_lost
    assert facts.mean == pytest.approx(GREEN_UV_MEAN, abs=1e-3)
    assert facts.sd == pytest.approx(GREEN_UV_SD, abs=1e-3)


def test_high_resolution_has_its_own_pixels_and_normalisation():
    small_kernels = {"temporal_kernel_sizes": [3, 3], "spatial_kernel_sizes": [9, 5], "maxpool_every_n_layers": 2}
    network = unified_core_readout({"a": 2}, shape=(2, 72, 64), core=small_kernels)
    facts = OpenRetinaModel.from_module(network).stimulus_format
    assert facts.pixel_size == 12.5
    assert facts.mean == pytest.approx((37.198, 36.761), abs=1e-3)
    assert facts.sd == pytest.approx((30.269, 42.655), abs=1e-3)


@pytest.mark.parametrize(
    ("stated", "expected_mean", "expected_sd"),
    [
        ({"stim_mean": 36.9, "stim_std": 37.0}, (36.9, 36.9), (37.0, 37.0)),
        ({"stim_mean": 0.0, "stim_std": 1.0}, GREEN_UV_MEAN, GREEN_UV_SD),
        ({"stim_mean": float("nan"), "stim_std": float("nan")}, GREEN_UV_MEAN, GREEN_UV_SD),
    ],
)
def test_a_normalisation_that_the_checkpoint_states_wins_unless_it_is_a_placeholder(stated, expected_mean, expected_sd):
    facts = OpenRetinaModel.from_module(unified_core_readout(data_info=stated)).stimulus_format
    assert facts.mean == pytest.approx(expected_mean, abs=1e-3)
    assert facts.sd == pytest.approx(expected_sd, abs=1e-3)


@pytest.mark.parametrize(("stated", "rate"), [(75, 75.0), ("85Hz", 85.0), ("59.94", 59.94)])
def test_the_stated_frame_rate_is_used(stated, rate):
    network = unified_core_readout(shape=(1, 18, 20), data_info={"stimulus_rate_hz": stated, "stim_mean": 9.0})
    facts = OpenRetinaModel.from_module(network).stimulus_format
    assert facts.frame_rate == rate
    assert facts.channel_names == ("luminance",)
    assert (facts.height, facts.width) == (18, 20)
    assert facts.mean is facts.sd is facts.pixel_size is None


def test_a_film_without_a_frame_rate_is_30_hz_with_a_warning():
    network = unified_core_readout(shape=(1, 18, 20), data_info={"stimulus_rate_hz": None})
    with pytest.warns(UserWarning, match="does not state its frame rate"):
        model = OpenRetinaModel.from_module(network)
    assert model.stimulus_format.frame_rate == 30.0
    model.stimulus_format = replace(model.stimulus_format, frame_rate=75.0)
    assert model.stimulus_format.frame_rate == 75.0


@torch.no_grad()
def test_a_network_that_sees_one_frame_at_a_time_takes_still_images():
    still_core = {"convolution_type": "time_independent", "temporal_kernel_sizes": [1, 1]}
    network = unified_core_readout(shape=(1, 20, 20), core=still_core, data_info={"stimulus_rate_hz": None})
    model = OpenRetinaModel.from_module(network)
    assert model.stimulus_format.is_still
    image = random_stimulus(model, frames=1)
    responses = model(image, data_key=next(iter(SESSIONS)))
    assert responses.shape == (2, 1, 5)
    torch.testing.assert_close(responses, network(image, data_key=next(iter(SESSIONS))))


def test_a_film_model_padded_in_time_is_no_model_of_still_images():
    network = unified_core_readout(core={"input_padding": True, "hidden_padding": True})
    facts = OpenRetinaModel.from_module(network).stimulus_format
    assert facts.frames_lost == 0
    assert facts.frame_rate == 30.0


def test_without_consent_nothing_is_imported_read_or_downloaded(checkpoint, monkeypatch):
    monkeypatch.setattr("importlib.import_module", lambda *_: pytest.fail("imported something before consent"))
    for source in (checkpoint, "hoefling_2024_low_res"):
        with pytest.raises(PermissionError, match=r"unpickles a file.*any code.*allow_unpickling=True.*digital_twin"):
            OpenRetinaModel(source)


def test_consent_by_environment_variable(checkpoint, monkeypatch):
    monkeypatch.setenv("MEI_LIGHTNING_ALLOW_UNPICKLING", "1")
    assert OpenRetinaModel(checkpoint).neurons_per_session == SESSIONS
    monkeypatch.setenv("MEI_LIGHTNING_ALLOW_UNPICKLING", "0")
    with pytest.raises(PermissionError, match="MEI_LIGHTNING_ALLOW_UNPICKLING=1"):
        OpenRetinaModel(checkpoint)


def test_without_openretina_the_error_says_what_to_install(checkpoint, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "openretina"]:
        monkeypatch.setitem(sys.modules, name, None)
    for source in (checkpoint, "hoefling_2024_low_res"):
        with pytest.raises(ImportError, match=r'pip install "mei-lightning\[openretina\]".*digital_twin'):
            OpenRetinaModel(source, allow_unpickling=True)


def test_without_a_network_the_error_names_model_cause_and_ways_out(tmp_path, monkeypatch):
    def unreachable(*_args, **_kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with pytest.raises(ConnectionError, match=r"hoefling_2024_base_low_res.*could not be downloaded") as caught:
        OpenRetinaModel("hoefling_2024_base_low_res", allow_unpickling=True, cache_directory=tmp_path)
    assert "Name or service not known" in str(caught.value)
    assert ".ckpt" in str(caught.value)
    assert "digital_twin" in str(caught.value)


@pytest.mark.parametrize("name", sorted(core_readout._MODEL_NAME_TO_REMOTE_LOCATION))
def test_every_hub_name_is_downloaded_by_openretina(name, checkpoint, tmp_path, monkeypatch):
    asked = []

    def download(location, cache):
        asked.append((location, cache))
        return checkpoint

    monkeypatch.setattr(core_readout, "get_local_file_path", download)
    monkeypatch.setattr(core_readout, "load_core_readout_model", lambda path, device: example_core_readout())
    model = OpenRetinaModel(name, allow_unpickling=True, cache_directory=tmp_path)
    assert asked == [(core_readout._MODEL_NAME_TO_REMOTE_LOCATION[name], tmp_path)]
    assert model.name == model.source == name


def test_a_model_in_the_cache_needs_no_network(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: pytest.fail("asked the network"))
    location = core_readout._MODEL_NAME_TO_REMOTE_LOCATION["hoefling_2024_low_res"].split("main/")[1]
    (tmp_path / location).parent.mkdir(parents=True)
    (tmp_path / location).write_bytes(checkpoint.read_bytes())
    model = OpenRetinaModel("hoefling_2024_low_res", allow_unpickling=True, cache_directory=tmp_path)
    assert model.neurons_per_session == SESSIONS


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="no model 'hoefling_1924'") as caught:
        OpenRetinaModel("hoefling_1924", allow_unpickling=True)
    for name in core_readout._MODEL_NAME_TO_REMOTE_LOCATION:
        assert name in str(caught.value)


def test_a_missing_path_and_a_file_that_is_no_model(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.ckpt"):
        OpenRetinaModel(tmp_path / "gone.ckpt", allow_unpickling=True)
    torch.save({"a": 1}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"other\.ckpt' does not hold a model that openretina can load"):
        OpenRetinaModel(tmp_path / "other.ckpt", allow_unpickling=True)
    with pytest.raises(ValueError, match=r"no ensemble in openretina's layout.*config_\*\.yaml"):
        OpenRetinaModel(tmp_path, allow_unpickling=True)


def test_a_module_that_does_not_say_its_shape():
    network = unified_core_readout()
    network.data_info = {}
    network.hparams.pop("in_shape")
    with pytest.raises(ValueError, match=r"does not say the shape.*RetinaModel\(network, StimulusFormat"):
        OpenRetinaModel.from_module(network)


@torch.no_grad()
def test_centred_readouts_put_every_gaussian_mask_at_the_centre(checkpoint):
    model = OpenRetinaModel(checkpoint, allow_unpickling=True)
    centred = OpenRetinaModel(checkpoint, allow_unpickling=True, centred_readouts=True)
    stimulus = random_stimulus(model)
    features = feature_maps(model.network, stimulus)
    for session in SESSIONS:
        readout = model.network.readout[session]
        assert readout.mask_mean.abs().min() > 0
        assert centred.network.readout[session].mask_mean.abs().max() == 0
        height, width = features.shape[-2:]
        y, x = np.meshgrid(
            np.linspace(-1, 1, height) * height / max(height, width),
            np.linspace(-1, 1, width) * width / max(height, width),
            indexing="ij",
        )
        variance = np.exp(readout.mask_log_var.numpy() * 4.0)
        masks = np.exp(-(y**2 + x**2)[..., None] / 2 / variance)
        masks = torch.from_numpy(masks / masks.sum((0, 1))).float()
        drive = torch.einsum("bcthw,hwn,cn->btn", features, masks, readout.features[0, :, 0])
        expected = torch.nn.functional.softplus(drive * readout.scale_param + readout.bias)
        responses = centred(stimulus, data_key=session)
        torch.testing.assert_close(responses, expected, rtol=1e-3, atol=2e-3)
        assert (responses - model(stimulus, data_key=session)).abs().max() > 0.1


@torch.no_grad()
def test_centring_a_module_in_memory_leaves_the_callers_module_alone():
    network = example_core_readout()
    stimulus = torch.randn(1, 2, 40, 18, 16)
    session = next(iter(SESSIONS))
    before = network(stimulus, data_key=session)
    centred = OpenRetinaModel.from_module(network, centred_readouts=True)
    assert (centred(stimulus, data_key=session) - before).abs().max() > 0.1
    torch.testing.assert_close(network(stimulus, data_key=session), before)


@torch.no_grad()
def test_centred_point_readouts_read_the_centre_of_the_feature_map():
    model = OpenRetinaModel.from_module(
        unified_core_readout(readout="MultiSampledGaussianReadout"), centred_readouts=True
    )
    stimulus = random_stimulus(model)
    session = next(iter(SESSIONS))
    readout = model.network.readout[session]
    features = feature_maps(model.network, stimulus)
    height, width = features.shape[-2:]
    middle = features[..., height // 2 - 1 : height // 2 + 1, width // 2 - 1 : width // 2 + 1].mean(dim=(-2, -1))
    expected = torch.nn.functional.softplus(
        torch.einsum("bct,cn->btn", middle, readout.features[0, :, 0]) + readout.bias
    )
    torch.testing.assert_close(model(stimulus, data_key=session), expected, rtol=1e-4, atol=1e-4)


def test_readouts_without_a_gaussian_mask_cannot_be_centred():
    with pytest.raises(ValueError, match=r"Gaussian mask.*session_1_dorsal1_20200101.*FactorizedReadout"):
        OpenRetinaModel.from_module(unified_core_readout(readout="MultiFactorizedReadout"), centred_readouts=True)


def test_linear_nonlinear_models_are_wrapped():
    model = OpenRetinaModel.from_module(unified_core_readout(readout="MultipleLNPReadout"), name="LNP")
    assert model.neurons_per_session == SESSIONS
    assert model.name == "LNP"
    assert model.source is None


@torch.no_grad()
def test_an_ensemble_module_is_wrapped_and_centred():
    networks = [example_core_readout(seed=seed) for seed in range(2)]
    session = next(iter(SESSIONS))
    model = OpenRetinaModel.from_module(EnsembleModel(*networks))
    stimulus = random_stimulus(model)
    expected = sum(network(stimulus, data_key=session) for network in networks) / 2
    torch.testing.assert_close(model(stimulus, data_key=session), expected)
    assert model.stimulus_format.frames_lost == 20
    centred = OpenRetinaModel.from_module(EnsembleModel(*networks), centred_readouts=True)
    singles = [OpenRetinaModel.from_module(network, centred_readouts=True) for network in networks]
    expected = sum(single(stimulus, data_key=session) for single in singles) / 2
    torch.testing.assert_close(centred(stimulus, data_key=session), expected)


@torch.no_grad()
@pytest.mark.parametrize("centred_readouts", [False, True])
def test_a_folder_in_openretinas_layout_is_an_ensemble(tmp_path, centred_readouts):
    loading = pytest.importorskip("openretina.utils.nnfabrik_model_loading")
    write_ensemble_folder(tmp_path, {"a": 3, "b": 4})
    model = OpenRetinaModel(tmp_path, allow_unpickling=True, centred_readouts=centred_readouts)
    centre = loading.Center([0.0, 0.0]) if centred_readouts else None
    _, expected = loading.load_ensemble_retina_model_from_directory(str(tmp_path), "cpu", centre)
    stimulus = random_stimulus(model)
    assert model.neurons_per_session == {"a": 3, "b": 4}
    assert model.stimulus_format.channel_names == ("green", "UV")
    for session in "ab":
        responses = model(stimulus, data_key=session)
        assert responses.shape == (2, 20, model.neurons_per_session[session])
        torch.testing.assert_close(responses, expected(stimulus, data_key=session), rtol=0, atol=0)


@torch.no_grad()
def test_the_drop_in_loader_as_in_openretinas_published_example(tmp_path, monkeypatch):
    monkeypatch.setenv("MEI_LIGHTNING_ALLOW_UNPICKLING", "1")
    location = core_readout._MODEL_NAME_TO_REMOTE_LOCATION["hoefling_2024_base_low_res"].split("main/")[1]
    (tmp_path / location).parent.mkdir(parents=True)
    write_checkpoint(example_core_readout(), tmp_path / location)
    model = load_core_readout_from_remote("hoefling_2024_base_low_res", "cpu", cache_directory_path=tmp_path)
    stimulus = torch.randn(model.stimulus_shape(time_steps=40)) * 0.1
    responses = model(stimulus, data_key="session_2_ventral2_20201016")
    assert responses.shape == (1, 20, 12)
    torch.testing.assert_close(
        responses, example_core_readout()(stimulus, data_key="session_2_ventral2_20201016"), rtol=1e-5, atol=1e-6
    )


def test_the_drop_in_loader_asks_for_consent_by_environment_variable(checkpoint):
    with pytest.raises(PermissionError, match="MEI_LIGHTNING_ALLOW_UNPICKLING=1"):
        load_core_readout_from_remote(str(checkpoint), "cpu")


@pytest.mark.parametrize("name", ["simulated", "digital_twin"])
def test_the_drop_in_loader_knows_the_built_in_models_without_consent(name):
    model = load_core_readout_from_remote(name, "meta")
    assert {value.device.type for value in model.state_dict().values()} == {"meta"}


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence", "error:.*runs as it is")
def test_a_recurrent_core_has_the_right_gradient_when_prepared():
    core = {
        "_target_": "openretina.modules.core.gru_core.ConvGRUCore",
        "temporal_kernel_sizes": [5, 3],
        "spatial_kernel_sizes": [7, 5],
        "hidden_padding": True,
        "input_padding": False,
        "use_gru": True,
        "gru_kwargs": {"rec_channels": 8, "input_kern": 3, "rec_kern": 3},
    }
    model = OpenRetinaModel.from_module(unified_core_readout(core=core))
    neuron = Neuron(next(iter(SESSIONS)), 2)
    stimulus = random_stimulus(model, batch=1, frames=12).requires_grad_()
    prepared = prepare(model, stimulus.shape)
    (gradient,) = torch.autograd.grad(prepared.read_out([0], [neuron])(stimulus).sum(), stimulus)
    for seed in range(3):
        move = random_stimulus(model, batch=1, frames=12, seed=seed)
        ahead, behind = (stimulus.detach() + step * move for step in (1e-2, -1e-2))
        with torch.no_grad():
            # Its cell makes a state in single precision, whatever it is given.
            rise = (model(ahead, neuron.session) - model(behind, neuron.session))[..., neuron.index].sum() / 2e-2
        assert abs(rise) > 1e-3
        assert (gradient * move).sum().item() == pytest.approx(rise.item(), rel=1e-2)
