"""What has no gradient: a maximum that is flat was found, a plain from the beginning tells of no response."""

import pytest
import torch
from conftest import find, fit
from torch import nn

import mei_lightning as ml


def along_first_pixel(response):
    return lambda stimuli: response(stimuli.flatten(1)[:, 0])


RESPONSES = {
    "saturates": (lambda x: x.clamp(max=0.9), 0.1, ml.Status.CONVERGED),
    "saturates from below 0": (lambda x: x.clamp(-0.9, 0.9) - 5.0, 0.1, ml.Status.CONVERGED),
    "its square root saturates": (lambda x: x.clamp(1e-3, 0.8).sqrt(), 0.1, ml.Status.CONVERGED),
    "a sigmoid that is flat in single precision": (lambda x: (200 * x).sigmoid(), -0.05, ml.Status.CONVERGED),
    "does not respond": (lambda x: x.clamp(max=-2.0), 0.1, ml.Status.NO_GRADIENT),
    "saturated from the start": (lambda x: x.clamp(max=0.05), 0.1, ml.Status.NO_GRADIENT),
    "falls silent": (lambda x: x * (x < 0.5), 0.1, ml.Status.NO_GRADIENT),
}


@pytest.mark.parametrize(("response", "start", "status"), RESPONSES.values(), ids=RESPONSES)
def test_rows_without_a_gradient(response, start, status, recwarn):
    stimulus = torch.zeros(1, 1, 1, 1, 2)
    stimulus[..., 0], stimulus[..., 1] = start, (1 - start**2) ** 0.5
    module = ml.StimulusModule(along_first_pixel(response), stimulus, constraint=ml.NormAndRange(1.0))
    fit(module, 8)
    assert module.status.tolist() == [status]
    warned = any("ended with 'no gradient'" in str(warning.message) for warning in recwarn)
    assert warned == (status is ml.Status.NO_GRADIENT)
    best = torch.linspace(-1.0, 1.0, 2001)
    if status is ml.Status.CONVERGED:
        assert module.best_score.item() == pytest.approx(response(best).max().item())


class Saturating(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.filters = nn.Parameter(torch.randn(2, 12, generator=generator))

    def forward(self, image):
        drive = image.flatten(1) @ self.filters.T
        return torch.stack([drive[:, 0].clamp(max=3.0), drive[:, 1] * 0.0], dim=1)


def test_a_saturated_neuron_is_converged_and_a_dead_one_has_no_gradient():
    model = ml.RetinaModel(Saturating(), ml.StimulusFormat(("grey",), 3, 4), 2)
    with pytest.warns(UserWarning, match=r"1 of 2 stimuli ended with 'no gradient': 1\."):
        meis = find(model, [0, 1], norm=2.0)
    assert meis["status"].values.tolist() == ["converged", "no gradient"]
    assert meis["score"].values[0] == pytest.approx(3.0)
