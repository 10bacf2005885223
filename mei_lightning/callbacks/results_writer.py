"""The dataset, figures and video of a run, on disk."""

from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from mei_lightning.mei_module import MEIModule
from mei_lightning.plotting import plot_mei, plot_meis
from mei_lightning.results import save_dataset, to_dataset
from mei_lightning.video import COLORS, save_meis_to_mp4_video


class ResultsWriter(Callback):
    """Writes the MEIs when the run ends, also if it ends early.

    In the directory there are then ``meis.zarr`` (the dataset: ``xarray.open_zarr``), ``meis.png`` (all MEIs),
    ``mei.png`` (the composition of the first one) and, for a video model, ``meis.mp4``.

    Args:
        directory: where to write; by default the directory of the trainer's logs.

    Raises:
        FileExistsError: at the start of the fit, if the directory holds results already.
    """

    def __init__(self, directory: str | None = None) -> None:
        self.directory = directory

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse to overwrite results before any work starts."""
        if not isinstance(pl_module, MEIModule):
            raise TypeError(f"ResultsWriter writes the results of an MEIModule, not of a {type(pl_module).__name__}.")
        if (store := self._place(trainer) / "meis.zarr").exists():
            raise FileExistsError(
                f"{store} exists already; results are not overwritten. Choose another directory, or move it."
            )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the results."""
        self._write(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write what there is when the user, or a cluster's time limit, interrupts the run."""
        if isinstance(exception, KeyboardInterrupt | SIGTERMException):
            self._write(trainer, pl_module)

    def _place(self, trainer: Trainer) -> Path:
        return Path(self.directory or trainer.log_dir or trainer.default_root_dir)

    @torch.no_grad()
    def _write(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, MEIModule)
        place = self._place(trainer)
        place.mkdir(parents=True, exist_ok=True)
        dataset = to_dataset(pl_module)
        written = {"MEIs (dataset)": save_dataset(dataset, place / "meis.zarr")}
        plot_meis(dataset).savefig(place / "meis.png", dpi=150)
        plot_mei(dataset, str(dataset["neuron"].values[0])).savefig(place / "mei.png", dpi=150)
        written |= {"Picture of all MEIs": place / "meis.png", "Picture of the first": place / "mei.png"}
        facts = pl_module.stimulus_format
        if not facts.is_still and len(facts.channel_names) <= COLORS:
            save_meis_to_mp4_video(dataset, place / "meis.mp4")
            written["Video"] = place / "meis.mp4"
        for what, path in written.items():
            rank_zero_info(f"{what}: {path}")
