"""The command ``fit``: Lightning's command line for MEIs."""

import inspect
import signal
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from mei_lightning.callbacks.convergence import RowConvergence
from mei_lightning.callbacks.interrupt import InterruptTogether
from mei_lightning.callbacks.progress import StepProgressBar
from mei_lightning.callbacks.results_writer import ResultsWriter
from mei_lightning.callbacks.tensorboard import StimulusLogger
from mei_lightning.callbacks.time_limit import TimeLimit
from mei_lightning.cli.errors import is_explained
from mei_lightning.cli.fit_help import FitParser, ShowHelp
from mei_lightning.cli.required import check_required_are_given
from mei_lightning.devices import chosen_accelerator
from mei_lightning.estimate import estimate_run
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.further_runs import FurtherRuns, check_further_runs, further_runs
from mei_lightning.optimization.mei_module import MEIModule
from mei_lightning.optimization.strategies import cluster_plugins, strategy_for
from mei_lightning.optimization.trainer import silent_lightning, without_deprecations
from mei_lightning.paths import local_path
from mei_lightning.results.norms import directory_of_norm, is_complete
from mei_lightning.results.run_log import RunLogger, run_name
from mei_lightning.shard import Shard, shard_in
from mei_lightning.sizes import NAMES, Sizes, several_sizes

_AT_ONCE: signal.Signals = getattr(signal, "SIGKILL", signal.SIGTERM)
"""Ends a process without its doing. On Windows, which lacks SIGKILL, SIGTERM does."""


class EndRanksOnRefusal(Callback):
    """Ends the other processes of a run that the first one refuses, before they complain of its absence."""

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End the processes that this one has launched."""
        launcher = trainer.strategy.launcher
        if is_explained(exception) and isinstance(launcher, _SubprocessScriptLauncher):
            launcher.kill(_AT_ONCE)


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
        parser.add_argument(
            "--per_member",
            type=bool,
            default=False,
            help="Find the MEIs of each member of an ensemble as well, with the same settings, and compare them: "
            "member_0/meis.zarr and so on in the directory of the results, and members.zarr.",
        )
        parser.add_argument(
            "--repeats",
            type=int,
            default=0,
            help="Find each MEI so many times again, from other starts, and compare: would another run find the same? "
            "repeat_1/meis.zarr and so on in the directory of the results, and repeats.zarr.",
        )
        parser.add_argument(
            "--shard",
            type=str | None,
            default=None,
            help="Find one share only of the neurons, e.g. 3/16, the third of sixteen; processes with the other shards "
            "and the same --results.directory, say of a job array, find the others at the same time.",
        )
        parser.link_arguments("shard", "results.shard")
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="Say how many rows, how much memory, disk and time the run takes, as tried for a minute at most, and "
            "write nothing.",
        )

    def __init__(self, *args: Any, options: list[str], one_of_several: bool, **kwargs: Any) -> None:
        self._options = options
        self._one_of_several = one_of_several
        self.further: FurtherRuns | None = None
        super().__init__(*args, **kwargs)

    def before_instantiate_classes(self) -> None:
        """See whether classes have the arguments that they need, and whether several runs are asked for.

        Raises:
            SeveralSizesError: if there are several norms; nothing has been done by then.
            ValueError: if an argument is missing, there cannot be several norms, or several runs have no directory.
        """
        check_required_are_given(self.config)
        model = self._get(self.config, "model")
        sizes = several_sizes({name: model.get(name) for name in NAMES})
        per_member, repeats = self._get(self.config, "per_member"), self._get(self.config, "repeats")
        check_further_runs(per_member, repeats, sizes)
        if (shard := self._get(self.config, "shard")) is not None:
            shard_in(self._get(self.config, "results").directory, shard, per_member, repeats)
        if (sizes or per_member or repeats) and self._get(self.config, "results").directory is None:
            one_of_several = "per_member=True" if per_member else f"repeats={repeats}"
            asked = f"{sizes.name}={sizes.values}" if sizes else one_of_several
            raise InvalidValueError(
                f"{asked} needs a directory, in which each has a store: say --results.directory results."
            )
        if sizes:
            raise SeveralSizesError(self.config, sizes)

    def before_fit(self) -> None:
        """See what is to be found after this, if that is asked for.

        Raises:
            ValueError: if there are no members to compare, or repeats would be the same; nothing has been done by then.
        """
        per_member, repeats = self._get(self.config, "per_member"), self._get(self.config, "repeats")
        self.further = further_runs(self.model.problem, per_member, repeats)

    def further_configs(self) -> Iterator[Namespace]:
        """What to run after this."""
        assert self.further is not None
        for number, settings in self.further.settings.items():
            config = self.config.clone()
            config["fit.per_member"], config["fit.repeats"] = False, 0
            for name, value in settings.items():
                config[f"fit.model.{name}"] = value
            config["fit.results.directory"] = str(self.place / self.further.comparison.part(number))
            yield config

    @property
    def is_tried(self) -> bool:
        """Whether only an estimate is asked for."""
        return bool(self._get(self.config, "dry_run"))

    def _run_subcommand(self, subcommand: str) -> None:
        if not self.is_tried:
            super()._run_subcommand(subcommand)
            return
        trainer = self.trainer
        if not trainer.is_global_zero:
            return
        estimate = estimate_run(
            self.model.problem,
            self._get(self.config_init, "convergence"),
            self._get(self.config_init, "trainer").accelerator,
            trainer.num_devices * trainer.num_nodes,
            self.shard,
        )
        print("\n".join(estimate.lines()))
        further = further_runs(
            self.model.problem, self._get(self.config, "per_member"), self._get(self.config, "repeats")
        )
        if further is not None:
            print(f"So for each of {len(further.parts)} runs, which are compared")

    @property
    def shard(self) -> Shard | None:
        """The shard that is asked for, if one is."""
        shard = self._get(self.config, "shard")
        return None if shard is None else Shard.of(shard)

    @property
    def place(self) -> Path:
        """The directory of the results, if one was given."""
        return local_path("directory", self._get(self.config, "results").directory)

    def compare(self) -> None:
        """Compare what further runs have found with what this has, and print how they compare."""
        assert self.further is not None
        trainer = self._get(self.config_init, "trainer")
        meis = self.further.compare_in(
            self.place,
            accelerator=chosen_accelerator(trainer.accelerator),
            progress_bar=trainer.enable_progress_bar is not False,
        )
        if self.trainer.is_global_zero:
            kind = self.further.comparison
            print(self.further.table(meis).round(3).to_string())
            print(f"Comparison of {kind.dimension}s (dataset): {self.place / kind.name}")

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        assert isinstance(parser, FitParser)
        parser.add_argument("-h", "--help", action=ShowHelp)
        self._options += parser.option_names
        # Lightning would unpickle the checkpoint given to --ckpt_path; ours hold tensors and plain values only.
        parser.set_defaults({"weights_only": True})
        return parser

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Put in what a run needs and the user has not chosen: strategy, logger, progress bar."""
        chosen, results = self._get(self.config_init, "trainer"), self._get(self.config_init, "results")
        if self._one_of_several:
            results.directory = str(Path(results.directory) / directory_of_norm(self.model.problem.norm))
        self.trainer_defaults["callbacks"] = [
            *([] if chosen.enable_progress_bar is False else [StepProgressBar()]),
            TimeLimit(),
            InterruptTogether(),
            EndRanksOnRefusal(),
        ]
        kwargs["accelerator"] = chosen_accelerator(chosen.accelerator)
        if chosen.strategy == "auto":
            kwargs["strategy"] = strategy_for(chosen.devices, chosen.num_nodes)
        if chosen.plugins is None:
            kwargs["plugins"] = cluster_plugins(chosen.num_nodes)
        if chosen.logger is None:
            # The same command has the same name, so that it continues its run.
            name = run_name(self.model.configuration, self._get(self.config_init, "convergence"), self.shard)
            kwargs["logger"] = RunLogger("logs", name="meis", version=name, default_hp_metric=False)
        with silent_lightning():
            return super().instantiate_trainer(**kwargs)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Only ``fit``: there is nothing to validate, test or predict."""
        return {"fit": LightningCLI.subcommands()["fit"]}


class SeveralSizesError(Exception):
    """Several norms are asked for, each of which is a run of its own.

    Args:
        config: what has been parsed.
        sizes: the norms, or root mean squares.
    """

    def __init__(self, config: Namespace, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.config = config
        self.sizes = sizes

    def configs(self) -> Iterator[Namespace]:
        """What to run for each."""
        for size in self.sizes.values:
            config = self.config.clone()
            config[f"fit.model.{self.sizes.name}"] = size
            yield config


@without_deprecations()
def fit(args: ArgsType, options: list[str]) -> None:
    """Find the maximally exciting inputs of neurons, and keep them in a store.

    Args:
        args: the arguments, the first of them "fit"; by default those of the process.
        options: to which the names of all options are added, for messages about them.
    """
    try:
        command = _run(args, options)
    except SeveralSizesError as asked:
        if asked.config["fit.dry_run"]:
            _run_while_complete([next(asked.configs())], options, one_of_several=True)
            print(f"So at the first of {len(asked.sizes.values)} values of {asked.sizes.name}")
            return
        _run_while_complete(asked.configs(), options, one_of_several=True)
        return
    if command.further is not None:
        if is_complete(command.model.meis()):
            _run_while_complete(command.further_configs(), options)
        command.compare()


def _run_while_complete(configs: Iterable[Namespace], options: list[str], one_of_several: bool = False) -> None:
    """Run one after the other, until one ends before all is found."""
    for config in configs:
        with warnings.catch_warnings():
            # They are those of the process, parsed.
            warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
            command = _run(config, options, one_of_several)
        if command.is_tried or not is_complete(command.model.meis(), command.shard):
            break


def _run(args: ArgsType, options: list[str], one_of_several: bool = False) -> MEICommandLine:
    description = (inspect.getdoc(fit) or "").partition("\n")[0]
    return MEICommandLine(
        MEIModule,
        args=args,
        options=options,
        one_of_several=one_of_several,
        parser_class=FitParser,
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
            "description": description,
            "exit_on_error": False,
            "fit": {"description": description, "exit_on_error": False, "add_help": False},
        },
    )
