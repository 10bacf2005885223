"""Reducers: responses over time to one number."""

from torch import Tensor

from mei_lightning.arguments import check_instance, whole_number
from mei_lightning.exceptions import InvalidValueError


def check_reducer(name: str, reducer: object) -> None:
    """Raise a TypeError unless a value is a reducer: a ``Reducer``, or another one with its method ``forward``."""
    if isinstance(reducer, type) or not callable(getattr(reducer, "forward", None)):
        check_instance(name, reducer, Reducer, "MeanReducer()")


class Reducer:
    """Responses over time to one number; derive from it and write ``forward`` for one of your own.

    Args:
        axis: the time axis of the responses; 0 in all objectives of this package.

    Raises:
        TypeError: if the axis is not a whole number.

    Example:
        >>> class MedianReducer(ml.Reducer):
        ...     def forward(self, responses):
        ...         return responses.median(dim=self.axis).values
        >>> MedianReducer().forward(torch.tensor([[0.0, 3.0], [1.0, 4.0], [8.0, 5.0]]))  # three frames of two rows
        tensor([1., 4.])
    """

    def __init__(self, axis: int = 0) -> None:
        self.axis = whole_number("axis", axis)

    def forward(self, responses: Tensor) -> Tensor:
        """Reduce responses ``[time', ...]`` to ``[...]``."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}(axis={self.axis})"


class MeanReducer(Reducer):
    """The mean response over time, of all response frames.

    Args:
        axis: the time axis of the responses; 0 in all objectives of this package.

    Raises:
        TypeError: if the axis is not a whole number.

    Example:
        >>> ml.MeanReducer().forward(torch.tensor([[0.0, 3.0], [1.0, 4.0], [8.0, 5.0]]))  # three frames of two rows
        tensor([3., 4.])
    """

    def forward(self, responses: Tensor) -> Tensor:
        """Reduce responses ``[time', ...]`` to ``[...]``."""
        return responses.mean(dim=self.axis)


class MaxReducer(Reducer):
    """The largest response over time, of all response frames.

    Args:
        axis: the time axis of the responses; 0 in all objectives of this package.

    Raises:
        TypeError: if the axis is not a whole number.

    Example:
        >>> ml.MaxReducer().forward(torch.tensor([[0.0, 3.0], [1.0, 4.0], [8.0, 5.0]]))  # three frames of two rows
        tensor([8., 5.])
    """

    def forward(self, responses: Tensor) -> Tensor:
        """Reduce responses ``[time', ...]`` to ``[...]``."""
        return responses.amax(dim=self.axis)


class SliceMeanReducer(Reducer):
    """The mean response in a window of response frames.

    Args:
        axis: the time axis of the responses; 0 in all objectives of this package.
        start: first response frame of the window.
        length: number of response frames in the window.

    Raises:
        ValueError: if the window is empty or starts before the response; in ``forward``, if it reaches outside the
            response.
        TypeError: if a number is not whole.

    Example:
        >>> reducer = ml.SliceMeanReducer(axis=0, start=10, length=3)
        >>> reducer.forward(torch.arange(20.0))  # the mean of 10, 11 and 12
        tensor(11.)
    """

    def __init__(self, axis: int, start: int, length: int) -> None:
        super().__init__(axis)
        self.start = whole_number("start", start)
        self.length = whole_number("length", length)
        if self.start < 0 or self.length < 1:
            raise InvalidValueError(
                f"SliceMeanReducer(start={start}, length={length}) needs start >= 0 and length >= 1."
            )

    def forward(self, responses: Tensor) -> Tensor:
        """Reduce responses ``[time', ...]`` to ``[...]``.

        Raises:
            ValueError: if the window reaches outside the response.
        """
        frames = responses.shape[self.axis]
        if self.start + self.length > frames:
            raise InvalidValueError(
                f"SliceMeanReducer(start={self.start}, length={self.length}) needs response frames {self.start} to "
                f"{self.start + self.length - 1}, but the response has {frames} frames. Choose a window inside it, "
                "or a stimulus with more time steps."
            )
        return responses.narrow(self.axis, self.start, self.length).mean(dim=self.axis)

    def __repr__(self) -> str:
        return f"SliceMeanReducer(axis={self.axis}, start={self.start}, length={self.length})"


class WindowContrastReducer(Reducer):
    """The mean response in one window minus that in another, e.g. a transient response against a sustained one.

    Args:
        axis: the time axis of the responses; 0 in all objectives of this package.
        start: first response frame of the window that counts for.
        length: number of its response frames.
        against_start: first response frame of the window that counts against.
        against_length: number of its response frames.

    Raises:
        ValueError: if a window is empty or starts before the response; in ``forward``, if it reaches outside the
            response.
        TypeError: if a number is not whole.

    Example:
        >>> transient = ml.WindowContrastReducer(axis=0, start=0, length=2, against_start=2, against_length=3)
        >>> transient.forward(torch.tensor([4.0, 6.0, 1.0, 1.0, 1.0]))
        tensor(4.)
    """

    def __init__(self, axis: int, start: int, length: int, against_start: int, against_length: int) -> None:
        super().__init__(axis)
        self.window = SliceMeanReducer(axis, start, length)
        self.against = SliceMeanReducer(axis, against_start, against_length)
        self.start, self.length = self.window.start, self.window.length
        self.against_start, self.against_length = self.against.start, self.against.length

    def forward(self, responses: Tensor) -> Tensor:
        """Reduce responses ``[time', ...]`` to ``[...]``.

        Raises:
            ValueError: if a window reaches outside the response.
        """
        return self.window.forward(responses) - self.against.forward(responses)

    def __repr__(self) -> str:
        windows = f"start={self.start}, length={self.length}"
        against = f"against_start={self.against_start}, against_length={self.against_length}"
        return f"WindowContrastReducer(axis={self.axis}, {windows}, {against})"
