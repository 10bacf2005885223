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
def quiet_trainer(accelerator: str, **options: Any) -> Iterator[Trainer]:
    """Make a trainer for one device; until the end Lightning does not report what hardware there is.

    Args:
        accelerator: as for Lightning's ``Trainer``.
        options: others, as for ``Trainer``.
    """
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield Trainer(**{"accelerator": accelerator, "devices": 1, **_QUIET, **options})
    finally:
        logger.setLevel(level)
