"""Learning-rate schedules: from the number of updates done to the next rate.

    constant  (1) lr(k) = value
    cosine    (2) lr(k) = final + (value - final) (1 + cos(pi min(k / steps, 1))) / 2
    warmup    (3) lr(k) = min((k + 1) / steps, 1) after(max(k - steps, 0))

k = 0, 1, ... is the number of updates done, a 0-d array of integers.

A schedule is a frozen dataclass of numbers, which is called with k: it can be compared, printed
and pickled, and so can an optimizer that has one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

from seqcore import arrays, checks
from seqcore.arrays import Array
from seqcore.optimizers.contract import Schedule, not_negative


@dataclass(frozen=True)
class Constant:
    """The rate of equation (1); see `constant`."""

    value: float

    def __post_init__(self) -> None:
        """Refuse numbers out of range, and keep the others as Python's own."""
        object.__setattr__(self, "value", checks.above_zero("constant", "value", self.value))

    def __call__(self, count: Array) -> Array:
        """Return the rate after `count` updates."""
        return _float("constant", count) * 0.0 + self.value


@dataclass(frozen=True)
class Cosine:
    """The rate of equation (2); see `cosine`."""

    value: float
    steps: int
    final: float = 0.0

    def __post_init__(self) -> None:
        """Refuse numbers out of range, and keep the others as Python's own."""
        object.__setattr__(self, "value", checks.above_zero("cosine", "value", self.value))
        object.__setattr__(self, "steps", checks.whole("cosine", "steps", self.steps))
        object.__setattr__(self, "final", not_negative("cosine", "final", self.final))

    def __call__(self, count: Array) -> Array:
        """Return the rate after `count` updates."""
        done = _float("cosine", count) / float(self.steps)
        xp = arrays.namespace(done)
        done = xp.where(done < 1.0, done, xp.ones_like(done))
        fall = 0.5 * (self.value - self.final)
        return self.final + fall * (1.0 + xp.cos(math.pi * done))


@dataclass(frozen=True)
class Warmup:
    """The rate of equation (3); see `warmup`. A number in `after` becomes a `Constant`."""

    steps: int
    after: float | Schedule

    def __post_init__(self) -> None:
        """Refuse numbers out of range, and keep the others as Python's own."""
        object.__setattr__(self, "steps", checks.whole("warmup", "steps", self.steps))
        if not callable(self.after):
            rate = Constant(checks.above_zero("warmup", "after", self.after))
            object.__setattr__(self, "after", rate)

    def __call__(self, count: Array) -> Array:
        """Return the rate after `count` updates."""
        xp = checks.one_library("warmup", {"count": count})
        if arrays.is_integer(count):
            count = arrays.default_integers(xp, count)  # an unsigned one knows nothing below 0
        past = count - self.steps
        past = xp.where(past > 0, past, xp.zeros_like(past))
        done = (_float("warmup", count) + 1.0) / float(self.steps)
        after = cast("Schedule", self.after)
        return after(past) * xp.where(done < 1.0, done, xp.ones_like(done))


def constant(value: float) -> Constant:
    """Return the schedule that is always `value`.

    Parameters
    ----------
    value
        The learning rate, more than 0.

    Raises
    ------
    ValueError
        If value is not more than 0.
    """
    return Constant(value)


def cosine(value: float, steps: int, *, final: float = 0.0) -> Cosine:
    """Return the schedule that falls from `value` to `final` over `steps` as half a cosine.

    Parameters
    ----------
    value
        The rate of the first update, more than 0.
    steps
        Updates until `final`, at least 1.
    final
        The rate from then on, at least 0.

    Raises
    ------
    ValueError
        For numbers out of range.
    TypeError
        If steps is not a whole number.

    Notes
    -----
    Source: Loshchilov & Hutter, "SGDR", ICLR 2017, equation 5, without restarts.

    Examples
    --------
    >>> import numpy as np, seqcore as sc
    >>> rate = sc.cosine(0.8, 4)
    >>> [round(float(rate(np.asarray(count))), 3) for count in range(6)]
    [0.8, 0.683, 0.4, 0.117, 0.0, 0.0]
    """
    return Cosine(value, steps, final)


def warmup(steps: int, after: float | Schedule) -> Warmup:
    """Return the schedule that rises linearly to `after` over `steps`, then follows it.

    Update k of the warm-up (k = 1 .. steps) has k / steps of the first rate of `after`.

    Parameters
    ----------
    steps
        Updates of the warm-up, at least 1.
    after
        A rate, more than 0, or a schedule; its count starts when the warm-up is done.

    Raises
    ------
    ValueError
        For numbers out of range.
    TypeError
        If steps is not a whole number.

    Examples
    --------
    >>> import numpy as np, seqcore as sc
    >>> rate = sc.warmup(4, 0.8)
    >>> [round(float(rate(np.asarray(count))), 3) for count in range(6)]
    [0.2, 0.4, 0.6, 0.8, 0.8, 0.8]
    """
    return Warmup(steps, after)


def _float(place: str, count: Array) -> Array:
    """Return a count in the widest float of its device."""
    xp = checks.one_library(place, {"count": count})
    if not arrays.is_floating(count):
        checks.integral(place, "count", count)
    info = xp.__array_namespace_info__().dtypes(device=arrays.device(count), kind="real floating")
    return xp.astype(count, info.get("float64", info["float32"]))
