"""PyTorch's default precision is a matter of the user's: nothing here depends on it, and it is as it was afterwards."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import STILL_FORMAT, StillNetwork, assert_same_meis, find, linear_model, video_model

import mei_lightning as ml
from mei_lightning.devices import defaults_like, usual_modes

NEURONS = [("monday", 0), ("tuesday", 1)]
OPTIONS = {"time_steps": 9, "max_steps": 4}


@pytest.fixture
def double_by_default():
    torch.set_default_dtype(torch.float64)
    yield
    assert torch.get_default_dtype() == torch.float64
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def in_single_precision():
    """Made before the default changes."""
    model = video_model()
    limits = {"norm": 5.0, "ranges": (-1, 1)}
    return model, {name: find(model, NEURONS, **OPTIONS, **more) for name, more in ((0, {}), (1, limits))}, limits


@pytest.mark.slow
@pytest.mark.usefixtures("in_single_precision", "double_by_default")
@pytest.mark.parametrize("limited", [0, 1])
def test_meis_and_measures_do_not_depend_on_it(in_single_precision, limited):
    model, expected, limits = in_single_precision
    found = find(model, NEURONS, **OPTIONS, **(limits if limited else {}))
    assert_same_meis(found, expected[limited])
    assert {name: found[name].dtype for name in found} == {name: expected[limited][name].dtype for name in found}
    measured = ml.measure_meis(found, model, progress_bar=False)
    torch.set_default_dtype(torch.float32)
    again = ml.measure_meis(expected[limited], model, progress_bar=False)
    torch.set_default_dtype(torch.float64)
    assert {name: measured[name].dtype for name in measured} == {name: again[name].dtype for name in again}


@pytest.mark.usefixtures("double_by_default")
@pytest.mark.parametrize("name", ["simulated", "digital_twin"])
def test_built_in_models_do_not_depend_on_it(name):
    model = ml.load_model(name)
    assert {values.dtype for values in model.state_dict().values() if values.is_floating_point()} == {torch.float32}
    assert find(model, [("session_1", 0)], max_steps=2)["score"].notnull().all()


class MakesItsOwn(StillNetwork):
    """Multiplies with a matrix that it makes on the way, in the default precision."""

    def forward(self, image):
        return super().forward(image) @ torch.eye(5)


@pytest.mark.usefixtures("double_by_default")
def test_a_network_in_double_precision_may_count_on_it():
    model = ml.RetinaModel(MakesItsOwn().double(), STILL_FORMAT, 5)
    expected = find(ml.RetinaModel(StillNetwork().double(), STILL_FORMAT, 5), [0, 3], max_steps=4)
    assert_same_meis(find(model, [0, 3], max_steps=4), expected)


@pytest.mark.usefixtures("double_by_default")
def test_a_linear_neuron_has_its_kernel():
    meis = find(linear_model().double(), [0, 2], norm=3.0, time_steps=4, max_steps=60)
    kernels = linear_model().network.kernels[[0, 2]].detach()
    expected = 3.0 * kernels / kernels.flatten(1).norm(dim=1)[:, None, None, None, None]
    torch.testing.assert_close(torch.tensor(meis["stimulus"].values).double(), expected, atol=1e-3, rtol=1e-3)


def test_threads_that_leave_a_network_do_not_take_its_default_from_those_inside():
    """Blocks of rows are computed on several threads; PyTorch's default is one for all of them."""
    values = torch.zeros(1, dtype=torch.float64)
    first, second = defaults_like(values), defaults_like(values)
    with ThreadPoolExecutor(1) as another:
        another.submit(first.__enter__).result()
        with second:
            another.submit(first.__exit__, None, None, None).result()
            assert torch.get_default_dtype() == torch.float64
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.usefixtures("double_by_default")
def test_threads_that_come_and_go_leave_the_users_default():
    first, second = usual_modes(), usual_modes()
    with ThreadPoolExecutor(1) as another:
        another.submit(first.__enter__).result()
        with second:
            another.submit(first.__exit__, None, None, None).result()
            assert torch.get_default_dtype() == torch.float32


def test_a_network_in_double_precision_on_another_thread_leaves_it_too():
    alone, run = defaults_like(torch.zeros(1, dtype=torch.float64)), usual_modes()
    with ThreadPoolExecutor(1) as another:
        another.submit(alone.__enter__).result()
        with run:
            assert torch.get_default_dtype() == torch.float64
            another.submit(alone.__exit__, None, None, None).result()
            assert torch.get_default_dtype() == torch.float32
    assert torch.get_default_dtype() == torch.float32


def test_networks_of_single_precision_leave_the_default_alone(monkeypatch):
    monkeypatch.setattr(torch, "set_default_dtype", lambda _: pytest.fail("the default was set"))
    video_model()(torch.zeros(1, 2, 9, 6, 5), "monday")
