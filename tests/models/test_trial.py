"""What a model is, found out by trying, and what is said of one that is not what it is said to be."""

import pytest
import torch
from conftest import STILL_FORMAT, VIDEO_FORMAT, LinearNetwork, StillNetwork, VideoNetwork, find, video_model
from torch import nn
from torch.nn import functional as F

import mei_lightning as ml

GREY = ml.StimulusFormat(("grey",), height=4, width=5, frame_rate=30.0)


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
