"""The training loop, and what ends it.

Whatever ends the loop, a good `Progress` is at hand to be saved. After Ctrl-C, and when memory
runs out, it is the one after the last complete step. After a loss that is not finite it is the
one before that step, because the last update has already spoiled the parameters.
"""

from __future__ import annotations

import logging
import math
import re
import time
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

from seqcore import arrays, checks, process
from seqcore.training.step import Progress, Step, Window

# The words of the libraries that don't raise a MemoryError when memory runs out: PyTorch on a GPU
# and on the CPU, XLA, and CUDA's own libraries.
_NO_MEMORY = re.compile(
    r"out of memory|can't allocate memory|RESOURCE_EXHAUSTED|_ALLOC_FAILED", re.IGNORECASE
)


_log = logging.getLogger(__name__)


class Stopped(NamedTuple):
    """Why training stopped, and where."""

    why: str  # "steps", "seconds" or "interrupted"
    progress: Progress
    seconds: float


class NotFiniteError(ArithmeticError):
    """A loss is NaN or infinite; `progress` is the last one whose loss was finite."""

    def __init__(self, what: str, loss: float, step: int, progress: Progress) -> None:
        super().__init__(f"the {what} is {loss} at step {step}, expected a finite number")
        self.progress = progress

    def __reduce__(self) -> tuple[Any, ...]:
        """Let it be pickled, as worker processes do with what they raise."""
        return _again, (type(self), self.args), vars(self)


class OutOfMemoryError(MemoryError):
    """Memory ran out on the host or on a device.

    Attributes
    ----------
    words
        The library's own message, which says how much it asked for.
    progress
        The progress after the last complete step.
    """

    def __init__(self, words: str, progress: Progress) -> None:
        said = words or "out of memory"
        super().__init__(f"{said}; use a smaller batch, shorter windows or fewer hidden units")
        self.words, self.progress = words, progress

    def __reduce__(self) -> tuple[Any, ...]:
        """Let it be pickled, as worker processes do with what they raise."""
        return _again, (type(self), self.args), vars(self)


def _again(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """Make an unpickled error from its message, without the arguments that the message is of."""
    return kind.__new__(kind, *args)


def ran_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out.

    Parameters
    ----------
    error
        NumPy and CuPy raise a MemoryError; other libraries raise a RuntimeError that says so.
    """
    if isinstance(error, RuntimeError):
        return _NO_MEMORY.search(str(error)) is not None
    return isinstance(error, MemoryError)


def in_words(error: BaseException) -> str:
    """Return an error's message as one line without a full stop; it may be empty."""
    said = error.words if isinstance(error, OutOfMemoryError) else str(error)
    return " ".join(said.split()).removesuffix(".")


def fit(
    step: Step,
    progress: Progress,
    window: Callable[[int], Window],
    *,
    steps: int | None = None,
    seconds: float | None = None,
    after_step: Callable[[Progress, float, float], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Stopped:
    """Train until `steps` are done in all, `seconds` have passed, or Ctrl-C.

    Parameters
    ----------
    step
        Takes one step.
    progress
        Where to go on from.
    window
        `window(k)` returns the input of step k, counted from 0.
    steps
        The steps to do in all, including those done before.
    seconds
        The time limit, counted from this call.
    after_step
        Called as `after_step(progress, loss, seconds)` after each step.
    clock
        Returns the time in seconds.

    Returns
    -------
    Stopped
        Why it stopped, the progress, and the seconds that passed.

    Raises
    ------
    NotFiniteError
        If a loss is NaN or infinite.
    OutOfMemoryError
        If memory runs out. The arrays of the failed step are freed, so that training can go on
        with less.
    ValueError
        If neither `steps` nor `seconds` is given, or one of them is not greater than 0.

    Notes
    -----
    The fraction done that a step is given counts steps if `steps` is given, and seconds
    otherwise. Only with `steps` are the results the same each time.

    BLAS has one thread meanwhile, as in `blas_threads(1)`. The logger `seqcore.training.loop`
    is told at INFO when the training begins, and when and why it ends.
    """
    if steps is None and seconds is None:
        raise ValueError("fit: neither steps nor seconds were given, expected one of them")
    if steps is not None:
        checks.count("fit", steps=steps)
    if seconds is not None:
        checks.positive("fit", seconds=seconds, infinite=True)
    _log.info("fit begins at step %d: steps=%s, seconds=%s", progress.step, steps, seconds)
    begin = clock()
    elapsed = 0.0
    good = progress  # the last one whose loss was finite
    try:
        with process.blas_threads(1):
            while steps is None or progress.step < steps:
                if seconds is not None and elapsed >= seconds:
                    return _stopped("seconds", progress, elapsed)
                done = progress.step / steps if steps is not None else elapsed / (seconds or 1.0)
                after, loss_array = step(progress, window(progress.step), done)
                checks.one_library("fit", {"loss": loss_array})
                checks.shape("fit", "loss", loss_array, (), {})
                loss = float(arrays.to_host(loss_array))
                if not math.isfinite(loss):
                    raise NotFiniteError("loss", loss, progress.step + 1, good)
                good, progress = progress, after
                elapsed = clock() - begin
                if after_step is not None:
                    after_step(progress, loss, elapsed)
    except KeyboardInterrupt:
        return _stopped("interrupted", progress, clock() - begin)
    except Exception as error:
        _log.info("fit ends after step %d: %s: %s", progress.step, type(error).__name__, error)
        if not ran_out_of_memory(error):
            raise
        # A caller that keeps the error would otherwise keep the arrays of the failed step.
        traceback.clear_frames(error.__traceback__)
        raise OutOfMemoryError(in_words(error), progress) from error
    return _stopped("steps", progress, elapsed)


def _stopped(why: str, progress: Progress, seconds: float) -> Stopped:
    _log.info("fit ends after step %d and %.3f seconds: %s", progress.step, seconds, why)
    return Stopped(why, progress, seconds)
