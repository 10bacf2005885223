"""A trainer that says nothing, for functions that fit as a part of something else."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def silent_trainer() -> Iterator[None]:
    """Keep Lightning from reporting what hardware there is, each time that a trainer is made."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
