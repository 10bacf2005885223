"""openretina's objectives to derive from, its inner units and its sessions, compared with its own."""

import pytest
import torch

pytest.importorskip("openretina.models.core_readout", reason="openretina is not installed")

from openretina.insilico.stimulus_optimization import objective as openretina
from openretina.modules.layers.ensemble import EnsembleModel as TheirEnsembleModel
from openretina_checkpoints import SESSIONS, example_core_readout, unified_core_readout

import mei_lightning as ml
from mei_lightning import openretina_api

SESSION = "session_2_ventral2_20201016"
pytestmark = pytest.mark.filterwarnings("ignore:No data key provided")


@pytest.fixture(scope="module")
def network():
    return example_core_readout()


def noise(rows=1, seed=0):
    return 0.1 * torch.randn(rows, 2, 40, 18, 16, generator=torch.Generator().manual_seed(seed))


def own_objective(names):
    """As a notebook writes one: the response of a neuron at its largest, minus the mean of the others'."""

    class Largest(names.ResponseReducer):
        def forward(self, responses):
            return responses.amax(dim=self._axis)

    class Selective(names.AbstractObjective):
        def __init__(self, model, neuron, data_key, reducer):
            super().__init__(model, data_key)
            self.neuron = neuron
            self.reducer = reducer

        def forward(self, stimulus):
            responses = self.reducer.forward(self.model_forward(stimulus))
            return 2 * responses[self.neuron] - responses.mean()

    return lambda model, data_key: Selective(model, 3, data_key, Largest(axis=0))


@torch.no_grad()
@pytest.mark.parametrize("data_key", [SESSION, None])
def test_objectives_of_ones_own_score_the_same(network, data_key):
    expected = own_objective(openretina)(network, data_key).forward(noise())
    for model in (network, ml.load_model(network)):
        for names in (openretina, openretina_api):
            torch.testing.assert_close(own_objective(names)(model, data_key).forward(noise()), expected)


def test_an_objective_of_ones_own_goes_wherever_objectives_go(network):
    stimuli = []
    for names in (openretina, openretina_api):
        module = ml.StimulusModule(
            own_objective(names)(ml.load_model(network), SESSION), noise(2), constraint=ml.FixedNorm(3.0)
        )
        torch.testing.assert_close(module.stimulus.detach(), ml.FixedNorm(3.0)(noise(2)))
        stimuli.append(module.evaluate(module.stimulus)[0])
    torch.testing.assert_close(*stimuli)
    assert stimuli[0].shape == (2,)


def test_what_is_to_be_written_is_asked_for():
    with pytest.raises(TypeError, match="abstract"):
        openretina_api.AbstractObjective(None, None)
    with pytest.raises(TypeError, match="abstract"):
        openretina_api.ResponseReducer()


@torch.no_grad()
@pytest.mark.parametrize("reducer", [openretina.SliceMeanReducer(0, 3, 5), ml.SliceMeanReducer(0, 3, 5)])
def test_all_sessions_are_meant_by_no_session(network, reducer):
    """Neuron 7 of all is the third of the second session, as 5 neurons come before."""
    expected = openretina.IncreaseObjective(network, [7], None, reducer).forward(noise())
    alone = openretina.IncreaseObjective(network, [2], SESSION, reducer).forward(noise())
    torch.testing.assert_close(expected, alone)
    for model in (network, ml.load_model(network)):
        for objective in (
            ml.IncreaseObjective(model, [7], None, reducer),
            openretina.IncreaseObjective(model, [7], None, reducer),
            openretina_api.SingleNeuronObjective(model, 7, None, reducer),
        ):
            torch.testing.assert_close(objective.forward(noise()).reshape(()), expected)


@torch.no_grad()
@pytest.mark.parametrize("name", ["digital_twin", "simulated"])
def test_built_in_models_have_openretinas_names(name):
    model = openretina_api.load_core_readout_model(name, "cpu")
    stimulus = noise()
    sessions = list(model.readout.keys())
    assert sessions == model.readout.readout_keys() == model.readout.sessions == ["session_1", "session_2", "session_3"]
    assert [model.readout[session].outdims for session in sessions] == list(model.neurons_per_session.values())
    assert model.data_info["input_shape"] == (2, 18, 16)
    assert model.device == torch.device("cpu")
    each = [model(stimulus, data_key=session) for session in sessions]
    torch.testing.assert_close(model(stimulus), torch.cat(each, dim=-1))
    torch.testing.assert_close(model.forward(stimulus), torch.cat(each, dim=-1))
    ensemble = openretina_api.EnsembleModel(model)
    torch.testing.assert_close(ensemble(stimulus), model(stimulus))
    assert list(ensemble.members[0].readout.keys()) == sessions


@torch.no_grad()
def test_an_ensemble_is_that_of_openretina():
    networks = [example_core_readout(seed=seed) for seed in range(2)]
    theirs, ours = TheirEnsembleModel(*networks), openretina_api.EnsembleModel(*networks)
    for session in (SESSION, None):
        torch.testing.assert_close(ours(noise(), data_key=session), theirs(noise(), data_key=session))
    assert len(ours.members) == 2
    assert ours.neurons_per_session == SESSIONS
    assert ours.readout[SESSION].outdims == SESSIONS[SESSION]
    assert ours.data_info["input_shape"] == networks[0].data_info["input_shape"]
    with pytest.raises(TypeError, match="does not say what its stimulus is"):
        openretina_api.EnsembleModel(torch.nn.Identity())


def units(module, model):
    return module.InnerNeuronVisualizationObjective(model, SESSION, openretina.SliceMeanReducer(0, 2, 4))


@pytest.mark.parametrize("layer", ["core_features_layer0", "core_features_layer1_conv"])
def test_inner_units_are_those_of_openretina(layer, network):
    theirs = units(openretina, example_core_readout())
    for model in (network, ml.load_model(network)):
        ours = units(openretina_api, model)
        assert list(ours.features_dict) == list(theirs.features_dict)
        assert ours.get_output_shape_for_layer(layer, (1, 2, 40, 18, 16)) == tuple(
            theirs.get_output_shape_for_layer(layer, (1, 2, 40, 18, 16))
        )
        assert ours.get_output_shape_for_layer("nothing", (1, 2, 40, 18, 16)) is None
        gradients = []
        for objective in (theirs, ours):
            objective.set_layer_channel(layer, 3)
            stimulus = noise().requires_grad_()
            objective.forward(stimulus).backward()
            gradients.append(stimulus.grad)
        assert gradients[0].abs().max() > 0
        torch.testing.assert_close(*gradients)
        assert not any(module._forward_hooks for module in model.modules())


def test_an_inner_unit_that_is_not_there_is_an_error(network):
    objective = units(openretina_api, network)
    with pytest.raises(ValueError, match="call set_layer_channel"):
        objective.forward(noise())
    with pytest.raises(ValueError, match="no layer 'nothing'"):
        objective.set_layer_channel("nothing", 0)
    objective.set_layer_channel("core_features_layer0", 99)
    with pytest.raises(ValueError, match="has channels 0 to 7"):
        objective.forward(noise())
    objective.set_layer_channel("readout_session_1_dorsal1_20200101", 0)
    with pytest.raises(ValueError, match="no feature maps"):
        objective.forward(noise())


@pytest.mark.parametrize(("make", "causal"), [(unified_core_readout, True), (example_core_readout, False)])
def test_causality_is_that_of_openretina(make, causal):
    """A second layer that is padded in time on both sides sees what comes later."""
    from openretina.utils.debug_model import is_model_causal

    model = make()
    assert is_model_causal(model) is causal
    assert openretina_api.is_model_causal(model) is causal
    assert openretina_api.is_model_causal(ml.load_model(model)) is causal


def test_centring_is_that_of_openretina():
    from openretina.utils.nnfabrik_model_loading import Center

    theirs, ours, wrapped = (example_core_readout() for _ in range(3))
    Center((0.1, -0.2))(theirs)
    openretina_api.Center((0.1, -0.2))(ours)
    openretina_api.Center((0.1, -0.2))(ml.load_model(wrapped))
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)
        if "mask_mean" in name:
            torch.testing.assert_close(wrapped.state_dict()[name], value)
    with pytest.raises(ValueError, match="no parameter of such a name"):
        openretina_api.Center((0.0, 0.0))(ml.load_model("simulated"))
