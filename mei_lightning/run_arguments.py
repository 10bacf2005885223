"""What arguments of a run have to be that are about where and how, and not about what is found."""

from lightning.pytorch import Callback
from lightning.pytorch.accelerators import Accelerator, AcceleratorRegistry

from mei_lightning.arguments import check_instance, flag, in_short, several, whole_numbers
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.paths import local_path

_NAMED_BY_LIGHTNING = ("auto", "gpu")


def check_run_arguments(
    directory: object,
    log_directory: object,
    devices: object,
    accelerator: object,
    progress_bar: object,
    callbacks: object,
) -> None:
    """Refuse arguments of ``find_meis`` that are of a wrong kind.

    Raises:
        TypeError: that names the argument, its value and what to give.
        ValueError: likewise, if there is no such accelerator, or no such number of devices.
    """
    for name, place in (("directory", directory), ("log_directory", log_directory)):
        if place is not None:
            local_path(name, place)
    flag("progress_bar", progress_bar)
    _check_accelerator(accelerator)
    _check_devices(devices)
    for callback in several(callbacks):
        check_instance("callbacks", callback, Callback, "ModelCheckpoint()", "[{}]")


def _check_accelerator(accelerator: object) -> None:
    known = [*_NAMED_BY_LIGHTNING, *AcceleratorRegistry.available_accelerators()]
    if isinstance(accelerator, Accelerator) or (isinstance(accelerator, str) and accelerator in known):
        return
    raise InvalidValueError(f"accelerator={in_short(accelerator)}: choose one of {', '.join(known)}.")


def _check_devices(devices: object) -> None:
    if isinstance(devices, str):
        numbers = devices.split(",")
        if devices == "auto" or all(number.strip().removeprefix("-").isdigit() for number in numbers if number):
            return
        raise InvalidValueError(f"devices={devices!r}: give how many, e.g. devices=2, their numbers, or 'auto'.")
    numbers_given = whole_numbers("devices", devices)
    alone = not isinstance(devices, list | tuple)
    if not numbers_given or (alone and (numbers_given[0] == 0 or numbers_given[0] < -1)):
        raise InvalidValueError(f"devices={in_short(devices)}: give at least 1, or -1 for all there are.")
