"""The command ``mei-lightning``: Lightning's command line for MEIs."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback

from mei_lightning.callbacks.convergence import RowConvergence
from mei_lightning.callbacks.progress import StepProgressBar
from mei_lightning.callbacks.results_writer import ResultsWriter
from mei_lightning.callbacks.tensorboard import StimulusLogger
from mei_lightning.mei_module import MEIModule


class SaveConfigWithLogs(SaveConfigCallback):
    """Saves the configuration beside the logs; without a logger there is no place of its own for it."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save the configuration."""
        if trainer.loggers:
            super().setup(trainer, pl_module, stage)


class MEICommandLine(LightningCLI):
    """``mei-lightning fit``: an ``MEIModule``, a ``Trainer``, and the callbacks that every run wants."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Give the callbacks options of their own."""
        parser.add_lightning_class_args(RowConvergence, "convergence")
        parser.add_lightning_class_args(StimulusLogger, "stimulus_logger")
        parser.add_lightning_class_args(ResultsWriter, "results")

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        # Lightning would unpickle the checkpoint given to --ckpt_path; ours hold tensors and plain values only.
        parser.set_defaults({"weights_only": True})
        return parser

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Show one progress bar for the run, unless progress bars are switched off."""
        wanted = self._get(self.config_init, "trainer").get("enable_progress_bar") is not False
        self.trainer_defaults["callbacks"] = [StepProgressBar()] if wanted else []
        return super().instantiate_trainer(**kwargs)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Only ``fit``: there is nothing to validate, test or predict."""
        return {"fit": LightningCLI.subcommands()["fit"]}


def main(args: ArgsType = None) -> None:
    """Run the command line.

    Args:
        args: the arguments; by default those of the process.
    """
    MEICommandLine(
        MEIModule,
        args=args,
        seed_everything_default=False,
        save_config_callback=SaveConfigWithLogs,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        trainer_defaults={
            "max_steps": 100,
            "max_epochs": -1,
            "devices": 1,
            "log_every_n_steps": 1,
            "enable_model_summary": False,
            "logger": {
                "class_path": "TensorBoardLogger",
                "init_args": {"save_dir": "logs", "name": "meis", "default_hp_metric": False},
            },
        },
        parser_kwargs={"description": "Maximally exciting inputs of a frozen retina model."},
    )


if __name__ == "__main__":
    main()
