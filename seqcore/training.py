"""Training: one step of a model, and the loop around it.

    (1) y, state, tape = model.forward(params, x, state, draw=step)   the state of the last window
    (2) loss, dy       = loss(y, targets)
    (3) _, grads, _    = model.backward(params, tape, dy)     no gradient leaves the window
    (4) grads          = clip_by_global_norm(grads, clip)
    (5) params, opt_state = optimizer.update(params, grads, opt_state)

A step changes no array that it is given, so whatever stops the loop, a good `Progress` is at
hand to be saved: after Ctrl-C and where memory runs out that of the last whole step, after a
loss that is not finite that of the step before it, as the last update is what spoiled the
parameters.
"""

from __future__ import annotations

import math
import re
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from seqcore import arrays, checks
from seqcore.arrays import Array, Params
from seqcore.cells import State
from seqcore.layers import Layer
from seqcore.optimizers import Optimizer, clip_by_global_norm

CHECKPOINT = "checkpoint.safetensors"  # its name in a run folder

Loss: TypeAlias = Callable[[Array, Array], tuple[Array, Array]]

# How libraries say it that have no MemoryError for it: PyTorch on a GPU and on the CPU, XLA,
# and CUDA's own libraries.
_NO_MEMORY = re.compile(
    r"out of memory|can't allocate memory|RESOURCE_EXHAUSTED|_ALLOC_FAILED", re.IGNORECASE
)


class Progress(NamedTuple):
    """All that training carries from step to step."""

    step: int  # steps done
    params: Params
    opt_state: Any
    state: State  # of the model, after the last window; None before a new sequence


class Window(NamedTuple):
    """What one step sees."""

    x: Array
    targets: Array
    fresh: bool  # a new sequence begins: do not carry the state on


@dataclass(frozen=True)
class Step:
    """One step of truncated BPTT: equations (1) to (5).

    Parameters
    ----------
    model, loss
        What to train, and on what.
    optimizer
        `optimizer(done)` is the one to use when the fraction `done` of the training is over,
        so that a learning rate can follow steps or time. All must share one kind of state.
    clip
        The largest global norm of the gradients; None for no limit.
    """

    model: Layer
    loss: Loss
    optimizer: Callable[[float], Optimizer]
    clip: float | None = None

    def start(self, params: Params) -> Progress:
        """Return the progress before the first step."""
        return Progress(0, params, self.optimizer(0.0).init(params), None)

    def __call__(self, progress: Progress, window: Window, done: float) -> tuple[Progress, Array]:
        """Return the progress after one step, and the loss before it."""
        step, params, opt_state, state = progress
        before = None if window.fresh else state
        y, state, tape = self.model.forward(params, window.x, before, draw=step)  # (1)
        loss, dy = self.loss(y, window.targets)  # (2)
        _, grads, _ = self.model.backward(params, tape, dy)  # (3)
        if self.clip is not None:
            grads, _ = clip_by_global_norm(grads, self.clip)  # (4)
        params, opt_state = self.optimizer(done).update(params, grads, opt_state)  # (5)
        return Progress(step + 1, params, opt_state, state), loss


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


class OutOfMemoryError(MemoryError):
    """Memory ran out, on the host or on a device; `progress` is that after the last whole step.

    `words` are the library's own, which say how much was asked for.
    """

    def __init__(self, words: str, progress: Progress) -> None:
        said = words or "no amount is said"
        super().__init__(f"{said}; take a smaller batch, shorter windows or fewer hidden units")
        self.words, self.progress = words, progress


def ran_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out, whatever its library calls it.

    Parameters
    ----------
    error
        CuPy's and NumPy's are a MemoryError; others raise a RuntimeError with a text.
    """
    if isinstance(error, RuntimeError):
        return _NO_MEMORY.search(str(error)) is not None
    return isinstance(error, MemoryError)


def in_words(error: BaseException) -> str:
    """Return what an error says as one line, without a full stop; nothing where it is silent."""
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
        What one step does.
    progress
        Where to go on from.
    window
        `window(k)` is what step k (from 0) sees.
    steps
        Steps in all, those already done counted.
    seconds
        Seconds from now.
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
        If memory runs out. What the step held is freed, so that one may go on.
    ValueError
        If neither `steps` nor `seconds` is given, or one is not more than 0.

    Notes
    -----
    What a step is told of the fraction done is counted in steps where `steps` is given, and
    then the same numbers come out each time; else in seconds.
    """
    if steps is None and seconds is None:
        raise ValueError("fit: neither steps nor seconds were given, expected one of them")
    if steps is not None:
        checks.count("fit", steps=steps)
    if seconds is not None:
        checks.positive("fit", seconds=seconds)
    begin = clock()
    elapsed = 0.0
    good = progress  # the last one whose loss was finite
    try:
        with arrays.blas_threads(1):
            while steps is None or progress.step < steps:
                if seconds is not None and elapsed >= seconds:
                    return Stopped("seconds", progress, elapsed)
                done = progress.step / steps if steps is not None else elapsed / (seconds or 1.0)
                after, loss_array = step(progress, window(progress.step), done)
                loss = float(arrays.to_host(loss_array))
                if not math.isfinite(loss):
                    raise NotFiniteError("loss", loss, progress.step + 1, good)
                good, progress = progress, after
                elapsed = clock() - begin
                if after_step is not None:
                    after_step(progress, loss, elapsed)
    except KeyboardInterrupt:
        return Stopped("interrupted", progress, clock() - begin)
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        # Whoever keeps the error would keep the arrays of the step that it ended.
        traceback.clear_frames(error.__traceback__)
        raise OutOfMemoryError(in_words(error), progress) from error
    return Stopped("steps", progress, elapsed)
