"""The command ``mei-lightning``: Lightning's command line for MEIs."""

import argparse
import difflib
import hashlib
import inspect
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import xarray as xr
from jsonargparse import auto_cli
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger

from mei_lightning.analysis.analyze import ANALYSIS, TABLE, analyze_meis
from mei_lightning.analysis.held_out import score_held_out
from mei_lightning.analysis.measures import measures_table
from mei_lightning.callbacks.convergence import RowConvergence
from mei_lightning.callbacks.interrupt import InterruptTogether
from mei_lightning.callbacks.progress import StepProgressBar
from mei_lightning.callbacks.results_writer import ResultsWriter
from mei_lightning.callbacks.tensorboard import StimulusLogger
from mei_lightning.callbacks.time_limit import TimeLimit
from mei_lightning.cli.errors import TRACEBACK, OneMessage, messages_in_place_of_tracebacks
from mei_lightning.cli.methods import METHODS
from mei_lightning.devices import chosen_accelerator
from mei_lightning.experiment import export_for_experiment
from mei_lightning.models.base import RetinaModel
from mei_lightning.optimization.mei_module import MEIModule
from mei_lightning.optimization.strategies import cluster_plugins, strategy_for
from mei_lightning.plots.stability import UNKNOWN_STABILITY
from mei_lightning.report.page import write_report
from mei_lightning.results.export import export_meis

_DESCRIPTION = """Maximally exciting inputs of a frozen retina model: fit finds them, in a store that analyze, report,
validate, export and experiment go on from."""
_EPILOG = f"""mei-lightning COMMAND --help tells the options of a command. Of errors in what you ask for there is the
message only; the environment variable {TRACEBACK}=1 shows where they come from."""


class SaveConfigWithLogs(SaveConfigCallback):
    """Saves the configuration beside the logs; without a logger there is no place of its own for it."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save nothing yet: the run may be refused."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the configuration."""
        if trainer.loggers and not self.already_saved:
            super().setup(trainer, pl_module, "fit")


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
        """Put in what a run needs and the user has not chosen: strategy, logger, progress bar."""
        chosen = self._get(self.config_init, "trainer")
        self.trainer_defaults["callbacks"] = [
            *([] if chosen.enable_progress_bar is False else [StepProgressBar()]),
            TimeLimit(),
            InterruptTogether(),
            OneMessage(),
        ]
        kwargs["accelerator"] = chosen_accelerator(chosen.accelerator)
        if chosen.strategy == "auto":
            kwargs["strategy"] = strategy_for(chosen.devices, chosen.num_nodes)
        if chosen.plugins is None:
            kwargs["plugins"] = cluster_plugins()
        if chosen.logger is None:
            # The same command has the same name, so that it continues its run.
            kwargs["logger"] = TensorBoardLogger("logs", name="meis", version=self._name(), default_hp_metric=False)
        return super().instantiate_trainer(**kwargs)

    def _name(self) -> str:
        # In the words of version 0.1, so that a run that it began is continued.
        words = {**self.model.configuration.words, "convergence": repr(self._get(self.config_init, "convergence"))}
        settings = json.dumps({**self.model.configuration, **words}, sort_keys=True)
        readable = re.sub(r"[^\w.-]+", "_", self.model.configuration["model"])
        return f"{readable}-{hashlib.sha256(settings.encode()).hexdigest()[:8]}"

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Only ``fit``: there is nothing to validate, test or predict."""
        return {"fit": LightningCLI.subcommands()["fit"]}


def validate(
    store: str,
    retina: RetinaModel | str,
    members: list[int] | None = None,
    allow_unpickling: bool = False,
    accelerator: str = "auto",
) -> None:
    """Score the MEIs of a store on models that had no part in finding them, and keep the scores in the store.

    Args:
        store: where the MEIs are, e.g. results/meis.zarr.
        retina: the other model, or the ensemble that has it as members; as for fit.
        members: which members of the ensemble had no part in finding the MEIs.
        allow_unpickling: consent to loading an openretina checkpoint, which can run code hidden in the file.
        accelerator: as for Lightning's trainer.
    """
    held_out = score_held_out(
        store, retina, members, allow_unpickling=allow_unpickling, accelerator=accelerator
    ).dropna("neuron")
    score = xr.open_zarr(store, chunks=None)["score"].sel(neuron=held_out["neuron"])
    table = pd.DataFrame({"score": score.values, "held_out_score": held_out.values})
    print(table.describe().round(3).to_string())
    print(f"Held-out scores of {len(table)} neurons: variable held_out_score of {store}")


def export(store: str, target: str) -> None:
    """Copy the MEIs of a store into one file.

    Args:
        store: where the MEIs are, e.g. results/meis.zarr.
        target: the file to make; .nc is NetCDF4, .h5 the same for programs that read HDF5, .npz is numpy's.
    """
    print(f"MEIs: {export_meis(store, target)}")


def report(store: str, target: str | None = None, overwrite: bool = False) -> None:
    """Make one HTML page of a store of MEIs, with figures and a gallery to sort and filter; it works offline.

    Args:
        store: where the MEIs are, e.g. results/meis.zarr; if they have been analysed, measures and types are used.
        target: the file to make; by default report.html beside the store.
        overwrite: replace an earlier report.
    """
    print(f"Report: {write_report(store, target, overwrite=overwrite)}")


def experiment(
    store: str,
    directory: str,
    neurons: list[str],
    gap: float = 1.0,
    clip: bool = False,
    colours: dict[str, str] | None = None,
    frame_rate: float | None = None,
    video: Literal["mp4", "avi"] = "mp4",
) -> None:
    """Write MEIs as a projector shows them: 8-bit frames (numpy, lossless video) and the times of the frames.

    Args:
        store: where the MEIs are, e.g. results/meis.zarr.
        directory: where to write.
        neurons: labels in the order of showing, e.g. "[session_1/5,session_1/7]".
        gap: seconds of background before each stimulus and at the end.
        clip: clip values outside 0 to 255, and say how many; otherwise they are an error.
        colours: the projector's colours (R, G, B) of each channel; by default "{green: G, UV: B}".
        frame_rate: images per second of still images.
        video: mp4 (H.264) or avi (FFV1), both lossless.
    """
    shown = export_for_experiment(
        store, directory, neurons, gap=gap, clip=clip, colours=colours, frame_rate=frame_rate, video=video
    )
    print(shown.levels.to_string(index=False))
    print(f"{len(shown.frames)} frames, {len(shown.frames) / shown.frame_rate:.1f} s: {directory}")


def analyze(
    store: str,
    model: RetinaModel | str | None = None,
    overwrite: bool = False,
    allow_unpickling: bool = False,
    accelerator: str = "auto",
) -> None:
    """Measure the MEIs of a store, and keep the measures beside it: analysis.zarr and the table measures.csv.

    Args:
        store: where the MEIs are, e.g. results/meis.zarr.
        model: the model that found the MEIs; as for fit. Without it, ON-OFF neurons are not told from ON and OFF, and
            there are no types.
        overwrite: replace an earlier analysis.
        allow_unpickling: consent to loading an openretina checkpoint, which can run code hidden in the file.
        accelerator: as for Lightning's trainer.
    """
    analysis = analyze_meis(
        store, model, overwrite=overwrite, allow_unpickling=allow_unpickling, accelerator=accelerator
    )
    table = measures_table(analysis)
    # Of angles on a circle, and of categories, a median says nothing.
    without_order = ["index", "orientation", "direction", "cluster"]
    numbers = table.select_dtypes("number").drop(columns=without_order, errors="ignore")
    print(numbers.describe().T[["count", "min", "50%", "max"]].round(3).to_string())
    print(f"Polarity: {table['polarity'].value_counts().to_dict()}; opponent: {int(table['opponent'].sum())}")
    if table["seed_stability"].isna().all():
        print(f"{UNKNOWN_STABILITY} Effort quick follows one start.")
    directory = Path(store).parent
    print(f"Measures of {len(table)} neurons: {directory / TABLE} (table) and {directory / ANALYSIS} (dataset)")


def fit(args: ArgsType) -> None:
    """Find the maximally exciting inputs of neurons, and keep them in a store.

    Args:
        args: the arguments, the first of them "fit"; by default those of the process.
    """
    MEICommandLine(
        MEIModule,
        args=args,
        seed_everything_default=False,
        save_config_callback=SaveConfigWithLogs,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        trainer_defaults={
            "max_epochs": -1,
            "devices": 1,
            "log_every_n_steps": 1,
            "enable_model_summary": False,
            "enable_checkpointing": False,
        },
        save_config_kwargs={"overwrite": True},
        parser_kwargs={
            "description": _DESCRIPTION,
            "exit_on_error": False,
            "fit": {"description": _first_line(fit), "exit_on_error": False},
        },
    )


_OF_STORES: dict[str, Callable[..., None]] = {
    "analyze": analyze,
    "report": report,
    "validate": validate,
    "export": export,
    "experiment": experiment,
}
_COMMANDS: dict[str, Callable[..., None]] = {"fit": fit, **_OF_STORES, **METHODS}


def main(args: ArgsType = None) -> None:
    """Run the command line.

    Args:
        args: the arguments; by default those of the process.

    Raises:
        SystemExit: with 2, if the arguments cannot be parsed, or what they ask for is refused; then the message is
            printed.
    """
    with messages_in_place_of_tracebacks():
        _run(args)


def _run(args: ArgsType) -> None:
    arguments = sys.argv[1:] if args is None else args
    if not isinstance(arguments, list) or _begins_with_options(arguments):
        fit(args)
        return
    parser = _parser()
    if arguments and (near := difflib.get_close_matches(arguments[0], _COMMANDS, 1)) and near != arguments[:1]:
        parser.error(f"there is no command '{arguments[0]}'. Do you mean {near[0]}?")
    name = parser.parse_args(arguments[:1]).command
    if name == "fit":
        fit(args)
    else:
        auto_cli(
            _COMMANDS[name],
            args=arguments[1:],
            prog=f"mei-lightning {name}",
            as_positional=name in _OF_STORES,
            exit_on_error=False,
        )


def _begins_with_options(arguments: list[str]) -> bool:
    """Whether there are options before the command, which are Lightning's: a configuration with the command in it."""
    return bool(arguments) and arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")


def _parser() -> argparse.ArgumentParser:
    """The first argument: which command."""
    parser = argparse.ArgumentParser("mei-lightning", description=_DESCRIPTION, epilog=_EPILOG)
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for name, command in _COMMANDS.items():
        commands.add_parser(name, help=_first_line(command), add_help=False)
    return parser


def _first_line(command: Callable[..., None]) -> str:
    return (inspect.getdoc(command) or "").split("\n")[0]


if __name__ == "__main__":
    main()
