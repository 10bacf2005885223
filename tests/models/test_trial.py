"""What a model is, found out by trying, and what is said of one that is not what it is said to be."""

from dataclasses import replace

import pytest
import torch
from conftest import STILL_FORMAT, VIDEO_FORMAT, LinearNetwork, StillNetwork, VideoNetwork, find, video_model
from torch import nn
from torch.nn import functional as F

import mei_lightning as ml

GREY = ml.StimulusFormat(("grey",), height=4, width=5, frame_rate=30.0)
STILL_GREY = replace(GREY, frame_rate=None, frames_lost=0)


class Network(nn.Module):
    """As many neurons as there are channels of a convolution over space and 3 frames, changed as a test wants it."""

    def __init__(self, change=lambda responses: responses, neurons=3, channels=1, size=(4, 5), before=lambda x: x):
        super().__init__()
        self.convolution = nn.Conv3d(channels, neurons, (3, *size))
        self.change = change
        self.before = before

    def forward(self, stimulus):
        return self.change(self.convolution(self.before(stimulus))[..., 0, 0].mT)


class Still(nn.Module):
    def __init__(self, channels=1, size=(4, 5)):
        super().__init__()
        self.convolution = nn.Conv2d(channels, 3, size)

    def forward(self, image):
        return self.convolution(image)[..., 0, 0]


@pytest.mark.parametrize(
    ("network", "facts", "neurons", "frames_lost"),
    [
        (Network(), GREY, 3, 2),
        (Network(neurons=1).double(), GREY, 1, 2),
        (nn.Sequential(nn.Conv3d(1, 4, (41, 4, 5)), nn.Flatten(2)), GREY, None, None),
        (Network(neurons=38), GREY, 38, 2),
        (nn.Sequential(nn.BatchNorm3d(1), nn.Dropout(), Network()), GREY, 3, 2),
        (StillNetwork(), STILL_FORMAT, 5, 0),
        (Still(), ml.StimulusFormat(("grey",), 4, 5), 3, 0),
    ],
)
def test_neurons_and_lost_frames_are_found_out(network, facts, neurons, frames_lost):
    if neurons is None:
        network = nn.Sequential(network, Transposed())
        neurons, frames_lost = 4, 40
    model = ml.RetinaModel(network, facts)
    assert model.neurons_per_session == {"": neurons}
    assert model.stimulus_format.frames_lost == frames_lost


class Transposed(nn.Module):
    def forward(self, x):
        return x.mT


def test_lost_frames_of_a_model_with_sessions_are_found_out():
    facts = ml.StimulusFormat(("green", "UV"), 6, 5, 30.0, 50.0)
    model = ml.RetinaModel(VideoNetwork(), facts, {"monday": 4, "tuesday": 3})
    assert model.stimulus_format == VIDEO_FORMAT
    assert find(model, [("tuesday", 2)], max_steps=1).sizes["response_time"] == 20


def test_a_network_of_one_length_keeps_what_it_is_given():
    facts = ml.StimulusFormat(("green", "UV"), 6, 5, 30.0, frames_lost=3)
    assert find(ml.RetinaModel(LinearNetwork(), facts, 3), [0], time_steps=4, max_steps=1).sizes["response_time"] == 1


def test_what_cannot_be_found_out_has_to_be_given():
    with pytest.raises(ValueError, match="number of neurons of a VideoNetwork could not be found out"):
        ml.RetinaModel(VideoNetwork(), VIDEO_FORMAT)


@pytest.mark.parametrize(
    ("network", "facts", "expected"),
    [
        (Network(channels=3), GREY, ["to have 3 channels, but got 1 channels", "It takes 3 channel(s): give so many"]),
        (Network(size=(5, 4)), GREY, ["Kernel size", "It takes height=5 and width=4: exchange them"]),
        (Network(), STILL_GREY, ["taken for a model of still images)", "It takes movies: give the frame_rate"]),
        (Still(), GREY, ["Expected", "It takes still images: give frame_rate=None"]),
        (Network(size=(7, 8)), GREY, ["Kernel size", "check channel_names, height, width and frame_rate"]),
        (Network(lambda responses: [responses]), GREY, ["model 'Network' returned a list, where the responses alone"]),
        (Network(lambda responses: responses[..., None]), GREY, ["responses have the shape (1, 38, 3, 1)"]),
    ],
)
def test_neurons_that_cannot_be_counted_are_told_with_the_networks_error(network, facts, expected):
    with pytest.raises(ml.MEIError) as refused:
        ml.RetinaModel(network, facts)
    for part in expected:
        assert part in str(refused.value)


@pytest.mark.parametrize("neurons", [None, 3])
def test_neurons_and_time_exchanged_are_told_where_neither_was_given(neurons):
    with pytest.raises(ValueError, match=r"output of Network looks like \[batch, neurons, time'\].*last two axes"):
        ml.RetinaModel(Network(lambda responses: responses.mT), GREY, neurons)


def test_trying_leaves_no_trace():
    state = torch.random.get_rng_state()
    network = Network()
    torch.random.set_rng_state(state)
    ml.MEIModule(ml.RetinaModel(nn.Sequential(network, nn.Dropout()), GREY), [0], time_steps=5)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert network.convolution.weight.grad is None


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Network(lambda responses: responses.mT), "neurons and time exchanged: let its forward return responses.mT"),
        (Network(lambda responses: responses.mT, neurons=18), "a frame longer there is a response of one neuron more"),
        (Network(lambda responses: (responses, None)), "returned a tuple, where the responses alone are needed"),
        (Network(lambda responses: {"out": responses}), "returned a dict, where the responses alone are needed"),
        (Network(lambda responses: responses.detach()), "differentiable way. Take torch.no_grad()"),
        (Network(torch.no_grad()(lambda responses: responses * 2)), "differentiable way. Take torch.no_grad()"),
        (Network(lambda responses: torch.from_numpy(responses.numpy())), "Take torch.no_grad()"),
        (Network(lambda responses: F.dropout(responses)), "answers the same stimulus differently from one call"),
        (nn.Sequential(Network(), Noisy()), "answers the same stimulus differently from one call"),
        (Network(lambda responses: responses[:, :-2]), "Give frames_lost=4 in its StimulusFormat, or leave it out."),
        (Network(lambda responses: responses[..., :1]), "Give neurons_per_session=1, or leave it out."),
        (Network(lambda responses: responses[..., None]), "shape (1, 18, 3, 1) for a stimulus of shape"),
        (Network(channels=2), "It takes 2 channel(s): give so many channel_names in its StimulusFormat."),
        (Network(size=(5, 4)), "It takes height=5 and width=4: exchange them in its StimulusFormat."),
        (Network(size=(7, 8)), "Check channel_names, height, width"),
        (Network(before=lambda x: x.transpose(1, 2)), "begin its forward with x = x.transpose(1, 2)."),
        (Network(before=lambda x: x.movedim(-1, 1)), "begin its forward with x = x.movedim(1, -1)."),
        (Still(), "It takes still images: give frame_rate=None in its StimulusFormat."),
    ],
)
def test_a_network_is_refused_with_the_line_to_change(network, message):
    neurons = network.convolution.out_channels if hasattr(network, "convolution") else 3
    facts = ml.StimulusFormat(("grey",), height=4, width=5, frame_rate=30.0, frames_lost=2)
    with pytest.raises(ml.MEIError) as refused:
        ml.MEIModule(ml.RetinaModel(network, facts, neurons), [0], time_steps=20)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Still(channels=3), "It takes 3 channel(s)"),
        (Still(size=(5, 4)), "It takes height=5 and width=4"),
        (Network(), "It takes movies: give the frame_rate in its StimulusFormat."),
    ],
)
def test_a_network_of_still_images_is_refused_with_the_line_to_change(network, message):
    with pytest.raises(ml.MEIError, match=message.replace("(", r"\(").replace(")", r"\)")):
        ml.MEIModule(ml.RetinaModel(network, ml.StimulusFormat(("grey",), 4, 5), 3), [0])


def test_a_stimulus_that_is_too_short_is_refused():
    network = nn.Sequential(nn.Conv3d(1, 3, (9, 4, 5)), nn.Flatten(2), Transposed())
    facts = ml.StimulusFormat(("grey",), height=4, width=5, frame_rate=30.0, frames_lost=2)
    with pytest.raises(ValueError, match="It needs a longer stimulus: give time_steps of more than 8"):
        ml.MEIModule(ml.RetinaModel(network, facts, 3), [0], time_steps=8)


@pytest.mark.parametrize(
    ("network", "neurons", "message"),
    [
        (VideoNetwork(), 4, r"cannot be called as network\(stimulus\) \(missing a required argument: 'data_key'\)"),
        (
            Network(),
            {"monday": 3},
            r"cannot be called as network\(stimulus, data_key=session\).*def forward\(",
        ),
    ],
)
def test_a_network_that_cannot_be_called_says_how_to_call_it(network, neurons, message):
    facts = VIDEO_FORMAT if neurons == 4 else GREY
    with pytest.raises(TypeError, match=message):
        ml.MEIModule(ml.RetinaModel(network, facts, neurons), [("monday", 0)] if neurons != 4 else [0])


def test_as_many_neurons_as_frames_are_fine_in_the_right_order():
    model = ml.RetinaModel(Network(neurons=18), GREY)
    assert find(model, [17], time_steps=20, max_steps=1).sizes["response_time"] == 18


def test_each_session_is_asked_once_and_the_first_a_few_times_more():
    model = video_model()
    asked = []
    model.network.register_forward_pre_hook(lambda *given: asked.append(given[2]["data_key"]), with_kwargs=True)
    ml.MEIModule(model, [("monday", 0), ("tuesday", 1)], time_steps=8, fast_path=False)
    assert asked.count("tuesday") == 1
    assert len(asked) <= 4


class Coupled(nn.Module):
    """Whatever mixes the stimuli of a batch, after a convolution."""

    def __init__(self, coupling):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv3d(1, 3, (3, 4, 5)), coupling, nn.ELU())

    def forward(self, stimulus):
        return self.layers(stimulus)[..., 0, 0].mT


class OverBatch(nn.Module):
    """A function of the whole batch."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, values):
        return self.function(values)


def without_statistics():
    norm = nn.BatchNorm3d(3)
    norm.running_mean = norm.running_var = None
    return norm


COUPLINGS = {
    "batch norm that keeps no statistics": (lambda: nn.BatchNorm3d(3, track_running_stats=False), "BatchNorm3d"),
    "batch norm that has lost them": (without_statistics, "BatchNorm3d"),
    "the batch's mean": (lambda: OverBatch(lambda x: x - x.mean(0, keepdim=True) / 10), "OverBatch"),
    "the batch's largest value": (lambda: OverBatch(lambda x: x / x.abs().max()), "OverBatch"),
    "attention over the batch": (
        lambda: OverBatch(lambda x: torch.einsum("bc...,dc...->b...", x, x)[:, None] + x),
        "Over",
    ),
}


@pytest.mark.parametrize(("coupling", "kind"), COUPLINGS.values(), ids=COUPLINGS)
def test_what_couples_a_batch_is_refused_by_the_name_of_the_layer(coupling, kind):
    model = ml.RetinaModel(Coupled(coupling()), GREY, 3)
    with pytest.raises(ml.MEIError, match=rf"since its layer 'layers.1' \({kind}.*row_by_row=True"):
        ml.MEIModule(model, [0], time_steps=6)
    assert not any(part._forward_hooks for part in model.modules())


def test_what_couples_a_batch_outside_of_any_layer_is_refused_too():
    network = Network(lambda responses: responses / len(responses))
    with pytest.raises(ml.MEIError, match="since the forward of its Network depends on the whole batch"):
        ml.MEIModule(ml.RetinaModel(network, GREY, 3), [0], time_steps=6)


def only_one(responses):
    if len(responses) != 1:
        # As of an assert without a message, which pytest would give one.
        raise AssertionError
    return responses


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda responses: responses[:1], r"with responses of shape \(1, 4, 3\).*keep the batch axis"),
        (lambda responses: responses.reshape(1, -1, 3)[:, :4], r"with responses of shape \(1, 4, 3\).*row_by_row=True"),
        (lambda responses: responses.view(1, 4, 3), "cannot compute two stimuli at once: shape.*row_by_row=True"),
        (only_one, r"two stimuli at once: AssertionError \(line \d+ of .*test_trial.py\).*row_by_row=True"),
    ],
)
def test_a_network_of_one_stimulus_at_a_time_is_refused(change, message):
    facts = replace(GREY, frames_lost=2)
    with pytest.raises(ml.MEIError, match=message):
        ml.MEIModule(ml.RetinaModel(Network(change), facts, 3), [0], time_steps=6)
    ml.MEIModule(ml.RetinaModel(Network(change), facts, 3, row_by_row=True), [0], time_steps=6)


def test_batch_norm_that_needs_a_batch_is_refused_by_name():
    network = nn.Sequential(nn.Flatten(), nn.Linear(20, 3), nn.BatchNorm1d(3, track_running_stats=False))
    with pytest.raises(ml.MEIError, match=r"layer '2' \(BatchNorm1d\) has no running statistics"):
        ml.MEIModule(ml.RetinaModel(network, ml.StimulusFormat(("grey",), 4, 5), 3), [0])


@pytest.mark.slow
def test_row_by_row_each_stimulus_has_the_score_that_it_has_alone():
    options = {"time_steps": 6, "norm": 2.0, "max_steps": 5, "restarts": 2}
    for network in (Coupled(nn.BatchNorm3d(3, track_running_stats=False)), Network(lambda responses: responses[:1])):
        model = ml.RetinaModel(network, GREY, 3, row_by_row=True)
        meis = find(model, [0, 1], **options)
        for place, stimulus in enumerate(torch.from_numpy(meis["stimulus"].values)):
            with torch.no_grad():
                assert meis["score"].values[place] == pytest.approx(network(stimulus[None])[0, :, place].mean().item())
        alone = find(model, [1], **options)
        assert alone["score"].values[0] == pytest.approx(meis["score"].values[1])
        inner = ml.InnerUnits(model, next(name for name, part in network.named_modules() if type(part) is nn.Conv3d))
        assert inner(torch.randn(3, 1, 6, 4, 5)).shape == (3, 4, 3)


def test_rounding_in_a_batch_is_no_coupling():
    class Rounded(nn.Module):
        """Answers that are rounded otherwise in a batch than alone."""

        def forward(self, responses):
            return responses * (1 + 0.01 * (len(responses) > 1))

    assert find(ml.RetinaModel(nn.Sequential(Network(), Rounded()), GREY, 3), [0], time_steps=6, max_steps=1)


class Transposing(nn.Module):
    """Two sessions, the second of which has neurons and time exchanged."""

    def __init__(self):
        super().__init__()
        self.network = Network(neurons=4)

    def forward(self, stimulus, data_key):
        responses = self.network(stimulus)
        return responses.mT if data_key == "tuesday" else responses


@pytest.mark.parametrize(
    ("network", "facts", "neurons", "asked"),
    [
        (Network(lambda responses: responses.mT, neurons=4), GREY, 4, [0]),
        (Network(lambda responses: responses.mT, neurons=4), GREY, None, [0]),
        (Transposing(), GREY, {"monday": 4, "tuesday": 4}, [("monday", 0), ("tuesday", 1)]),
    ],
)
def test_exchanged_axes_are_found_where_there_are_as_many_neurons_as_frames(network, facts, neurons, asked):
    with pytest.raises(ml.MEIError, match=r"et its forward return responses.mT, which is \[batch, time', neurons\]"):
        ml.MEIModule(ml.RetinaModel(network, facts, neurons), asked, time_steps=6)


def test_weights_without_a_size_are_refused_by_name():
    network = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    with pytest.raises(ml.MEIError, match=r"weights 1.weight, 1.bias of Sequential have no size yet"):
        ml.RetinaModel(network, ml.StimulusFormat(("grey",), 4, 5), 3)
    network(torch.zeros(1, 1, 4, 5))
    assert find(ml.RetinaModel(network, ml.StimulusFormat(("grey",), 4, 5), 3), [0], max_steps=2).sizes["neuron"] == 1


def test_responses_that_are_not_finite_are_told_as_such():
    model = ml.RetinaModel(Network(lambda responses: responses * float("nan"), neurons=4), GREY)
    with pytest.warns(UserWarning, match="of model .Network. to noise are not finite") as warned:
        find(model, [0], time_steps=6, max_steps=1)
    assert not any("made faster" in str(one.message) for one in warned)
