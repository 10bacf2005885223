"""A trainer that says and keeps nothing, for functions that fit as a part of something else."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Trainer

_QUIET: dict[str, Any] = {
    "max_epochs": -1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


@contextmanager
def silent_lightning() -> Iterator[None]:
    """Keep Lightning from reporting what hardware there is, each time that a trainer is made."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def quiet_trainer(accelerator: str, **options: Any) -> Iterator[Trainer]:
    """Make a trainer for one device; until the end Lightning is silent.

    Args:
        accelerator: as for Lightning's ``Trainer``.
        options: others, as for ``Trainer``.
    """
    with silent_lightning():
        yield Trainer(**{"accelerator": accelerator, "devices": 1, **_QUIET, **options})
