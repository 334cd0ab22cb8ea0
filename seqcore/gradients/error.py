"""The error of a layer whose gradients are wrong."""

from __future__ import annotations


class GradientError(AssertionError):
    """A layer's gradients, or what else it returns, are not what they have to be.

    Parameters
    ----------
    message
        What is wrong, and where.
    gradient
        The gradient that is furthest off: "x", "params['W']" or "state.h"; None if something
        else is wrong, or it cannot be compared.
    index
        Its worst entry; None if no single entry is wrong by itself.
    got, expected
        What backward gives there, and what central differences give; None where they were not
        compared, as two calls of backward were.
    wrong
        How many entries of this gradient are wrong, of those that were looked at.
    """

    def __init__(
        self,
        message: str,
        *,
        gradient: str | None = None,
        index: tuple[int, ...] | None = None,
        got: float | None = None,
        expected: float | None = None,
        wrong: int = 0,
    ) -> None:
        super().__init__(message)
        self.gradient, self.index, self.wrong = gradient, index, wrong
        self.got, self.expected = got, expected
