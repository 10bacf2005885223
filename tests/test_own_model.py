"""A model of the user's own, as the README brings it."""

import numpy as np
import torch

import mei_lightning as ml

OWN_MODEL = """
from torch import nn

from mei_lightning import RetinaModel, StimulusFormat, find_meis


class LinearNonlinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.filters = nn.Conv3d(2, 8, kernel_size=(15, 12, 10))  # 8 neurons, 2 channels, 15 frames, 12 x 10 pixels

    def forward(self, stimulus):  # [batch, channels, time, height, width]
        drive = self.filters(stimulus)  # [batch, neurons, time', 1, 1]
        return nn.functional.softplus(drive)[..., 0, 0].mT  # [batch, time', neurons]


stimulus = StimulusFormat(("green", "UV"), height=12, width=10, frame_rate=60.0, pixel_size=40.0, frames_lost=14)
model = RetinaModel(LinearNonlinear(), stimulus, neurons_per_session=8)
meis = find_meis(model, neurons=[0, 3, 5], norm=10.0)
"""


def test_a_module_of_a_dozen_lines():
    torch.manual_seed(0)
    names = {}
    exec(OWN_MODEL, names)
    meis, model = names["meis"], names["model"]
    assert meis["neuron"].values.tolist() == ["0", "3", "5"]
    assert dict(meis.sizes) == {"neuron": 3, "channel": 2, "time": 34, "y": 12, "x": 10, "response_time": 20}
    noise = torch.randn(500, *meis["stimulus"].shape[1:])
    noise *= 10.0 / noise.flatten(1).norm(dim=1).view(-1, 1, 1, 1, 1)
    with torch.no_grad():
        of_noise = model(noise).mean(1).amax(0)[[0, 3, 5]]
    assert (meis["score"].values > of_noise.numpy()).all()

    meis = ml.find_meis(model, [0, 3, 5], time_steps=15, norm=10.0, progress_bar=False)
    filters = model.network.filters.weight.detach()[[0, 3, 5]].flatten(1).numpy()
    found = meis["stimulus"].values.reshape(3, -1)
    cosine = (found * filters).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(filters, axis=1)
    assert (cosine > 0.999).all()
