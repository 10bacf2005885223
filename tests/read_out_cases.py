"""Models of every kind that has neurons to read out."""

from functools import cache
from importlib.util import find_spec

import pytest
from conftest import VideoNetwork, still_model, video_model

import mei_lightning as ml
from mei_lightning.models.base import freeze
from mei_lightning.neurons import Neuron

needs_openretina = pytest.mark.skipif(find_spec("openretina") is None, reason="openretina is not installed")
SESSIONS = {"a": 4, "b": 3, "c": 5}


def openretina_network(readout="MultiGaussianMaskReadout", seed=0):
    from openretina_checkpoints import unified_core_readout

    fast = {"temporal_kernel_sizes": [3, 3], "spatial_kernel_sizes": [9, 5]}
    return unified_core_readout(SESSIONS, seed, readout=readout, core=fast)


def wrap(network):
    from mei_lightning.models.openretina import OpenRetinaModel

    return OpenRetinaModel.from_module(network, name="mine")


def openretina_ensemble():
    from openretina.modules.layers.ensemble import EnsembleModel

    return EnsembleModel(openretina_network(seed=1), openretina_network("MultiFactorizedReadout", seed=2))


def with_other_forward(network):
    class Doubled(type(network)):
        def forward(self, x, data_key=None):
            return 2 * super().forward(x, data_key=data_key)

    network.__class__ = Doubled
    return network


def plain_network():
    network = VideoNetwork()
    freeze(network)
    return network


MAKE = {
    "own network": video_model,
    "own network, not wrapped": plain_network,
    "still images": still_model,
    "simulated": ml.SimulatedRetina,
    "digital twin": ml.DigitalTwin,
    "ensemble": lambda: ml.Ensemble([ml.DigitalTwin(), ml.SimulatedRetina()]),
    "openretina, Gaussian masks": lambda: wrap(openretina_network()),
    "openretina, points": lambda: wrap(openretina_network("MultiSampledGaussianReadout")),
    "openretina, any mask": lambda: wrap(openretina_network("MultiFactorizedReadout")),
    "openretina, own forward": lambda: wrap(with_other_forward(openretina_network())),
    "openretina, ensemble": lambda: wrap(openretina_ensemble()),
    "ensemble of openretina": lambda: ml.Ensemble([wrap(openretina_network(seed=seed)) for seed in range(2)]),
}


def cases(*names):
    return [
        pytest.param(name, marks=needs_openretina if "openretina" in name else [], id=name.replace(" ", "_"))
        for name in names or MAKE
    ]


@cache
def neurons_of(model):
    if not isinstance(model, ml.RetinaModel):
        return [Neuron(session, index) for session, values in model.readout.items() for index in range(len(values))]
    counts = model.neurons_per_session
    return [Neuron(session or None, index) for session, count in counts.items() for index in range(count)]
