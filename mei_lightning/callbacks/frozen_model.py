"""A model that is frozen while the trainer runs, and comes out as it went in."""

import warnings

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn


class FrozenModel(Callback):
    """Puts a model into evaluation mode without gradients into its weights, until the trainer is done or fails.

    Args:
        model: the model, or an objective that holds it.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._training: list[tuple[nn.Module, bool]] = []
        self._requires_grad: list[tuple[nn.Parameter, bool]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Freeze."""
        # Lightning suspects a mistake; here it is the point.
        warnings.filterwarnings("ignore", message="Found .* module.* in eval mode at the start of training")
        self._training = [(module, module.training) for module in self.model.modules()]
        self._requires_grad = [(weight, weight.requires_grad) for weight in self.model.parameters()]
        self.model.eval()
        self.model.requires_grad_(False)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore."""
        self._restore()

    def _restore(self) -> None:
        for module, training in self._training:
            module.training = training
        for weight, requires_grad in self._requires_grad:
            weight.requires_grad_(requires_grad)
        self._training, self._requires_grad = [], []
