"""What the package refuses, by kinds: each is a kind of ``MEIError`` and of the built-in exception that it resembles.

The message names the bad value and the way out. A plain ``ValueError``, ``IndexError`` and so on comes from elsewhere,
and is a defect of the package or of a user's own code.
"""


class MEIError(Exception):
    """Something that was asked for and cannot be done; the message names the bad value and the way out.

    Each error that the package raises is one, and one of Python's own too, which the documentation names: a
    ``ValueError``, ``TypeError``, ``IndexError``, ``FileNotFoundError``, ``FileExistsError``, ``BlockingIOError``,
    ``PermissionError``, ``OSError``, ``RuntimeError``, ``ImportError`` or ``ConnectionError``. One of these that is no
    ``MEIError`` comes from elsewhere: from a network or an objective of your own, or from a defect of the package.

    Example:
        >>> try:
        ...     ml.find_meis("simulated", [("session_1", 60)])
        ... except ml.MEIError as error:
        ...     print(error)
        Session 'session_1' has no neuron 60: its 36 neurons are 0 to 35.
    """


class InvalidValueError(MEIError, ValueError):
    """A value that does not fit, of an argument or in a file."""


class InvalidTypeError(MEIError, TypeError):
    """An argument of a wrong type."""


class UnknownNeuronError(MEIError, IndexError):
    """A neuron that a session, or a store, does not have."""


class NothingThereError(MEIError, FileNotFoundError):
    """A place where there is no such file or store."""


class AlreadyThereError(MEIError, FileExistsError):
    """A place that is taken; nothing is overwritten."""


class BusyStoreError(MEIError, BlockingIOError):
    """A store that another run is writing."""


class NotPermittedError(MEIError, PermissionError):
    """A place that cannot be written to, or a file that must not be read without consent."""


class FullDiskError(MEIError, OSError):
    """A disk without space."""


class FullMemoryError(MEIError, RuntimeError):
    """A device without memory for a single row."""


class MissingPackageError(MEIError, ImportError):
    """A package that is needed and not installed."""


class DownloadError(MEIError, ConnectionError):
    """A model that cannot be downloaded."""


class CompilationError(MEIError, RuntimeError):
    """A model that ``torch.compile`` cannot compile here."""
