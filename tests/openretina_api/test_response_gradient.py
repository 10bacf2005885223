"""MEIs across contrasts, compared with openretina's functions and with an analytic response."""

import numpy as np
import pytest
import torch

from mei_lightning import IncreaseObjective, MeanReducer, load_model, openretina_api


def noise(seed=0):
    return torch.randn(1, 2, 40, 18, 16, generator=torch.Generator().manual_seed(seed))


class Squares:
    """a x^2 + b x y of the contrasts x and y, whose stimuli are ones."""

    def forward(self, stimulus):
        first, second = stimulus.mean(dim=(0, 2, 3, 4))
        return 3.0 * first**2 + 2.0 * first * second


def test_an_analytic_response_has_its_gradient():
    grid, responses, norms, first, second = openretina_api.get_gradient_grid(
        torch.ones(1, 2, 3, 4, 5), Squares(), start=-0.5, stop=0.5, step_size=0.25
    )
    x, y = np.meshgrid(first, second, indexing="ij")
    np.testing.assert_allclose(first, [-0.5, -0.25, 0.0, 0.25, 0.5])
    np.testing.assert_allclose(responses, 3 * x**2 + 2 * x * y, atol=1e-6)
    np.testing.assert_allclose(grid, [6 * x + 2 * y, 2 * x], atol=1e-5)
    np.testing.assert_allclose(norms, np.hypot(*grid))


@pytest.mark.slow
def test_gradients_are_those_of_openretina():
    theirs = pytest.importorskip("openretina.insilico.tuning_analyses.response_gradient")
    from openretina.insilico.stimulus_optimization.objective import IncreaseObjective as TheirObjective
    from openretina_checkpoints import example_core_readout

    network = example_core_readout()
    session = "session_2_ventral2_20201016"
    stimulus = openretina_api.equalize_channels(noise())
    torch.testing.assert_close(stimulus, theirs.equalize_channels(noise()))
    torch.testing.assert_close(
        openretina_api.equalize_channels(noise(), flip_green=True), theirs.equalize_channels(noise(), flip_green=True)
    )
    their_objective = TheirObjective(network, 3, session, MeanReducer())
    our_objective = IncreaseObjective(load_model(network), 3, session, MeanReducer())
    expected = theirs.get_gradient_grid(stimulus, their_objective, step_size=0.5)
    assert np.abs(expected[0]).max() > 0.01
    for function in (openretina_api.get_gradient_grid, theirs.get_gradient_grid):
        for objective in (our_objective, their_objective):
            for found, wanted in zip(function(stimulus, objective, step_size=0.5), expected, strict=True):
                np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    contrasts = torch.tensor([0.5, -1.0])
    found = openretina_api.trainer_fn(openretina_api.MeiAcrossContrasts(contrasts, stimulus), our_objective, lr=0.1)
    wanted = theirs.trainer_fn(theirs.MeiAcrossContrasts(contrasts, stimulus), their_objective, lr=0.1)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_all_rows_are_equalised():
    stimuli = torch.cat([noise(1), 3 * noise(2)]) * torch.tensor([1.0, 5.0]).reshape(1, 2, 1, 1, 1)
    equal = openretina_api.equalize_channels(stimuli)
    norms = equal.flatten(2).norm(dim=2)
    torch.testing.assert_close(norms[:, 0], norms[:, 1])
    torch.testing.assert_close(equal.flatten(1).norm(dim=1), stimuli.flatten(1).norm(dim=1))


def test_what_has_no_contrasts_is_an_error():
    dark = noise()
    dark[:, 1] = 0
    with pytest.raises(ValueError, match="channel of the stimulus is zero"):
        openretina_api.equalize_channels(dark)
    with pytest.raises(ValueError, match="two channels"):
        openretina_api.get_gradient_grid(noise()[:, :1], Squares())
    with pytest.raises(ValueError, match="no contrasts"):
        openretina_api.get_gradient_grid(noise(), Squares(), step_size=0)
