"""Learning-rate schedules: functions from the number of updates done to the next rate.

    constant  (1) lr(k) = value
    cosine    (2) lr(k) = final + (value - final) (1 + cos(pi min(k / steps, 1))) / 2
    warmup    (3) lr(k) = min((k + 1) / steps, 1) after(max(k - steps, 0))

k = 0, 1, ... is the number of updates done, a 0-d array of integers.
"""

from __future__ import annotations

import math

from seqcore import arrays, checks
from seqcore.arrays import Array
from seqcore.optimizers.contract import Schedule, not_negative


def constant(value: float) -> Schedule:
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
    checks.positive("constant", value=value)
    value = float(value)
    return lambda count: _float("constant", count) * 0.0 + value


def cosine(value: float, steps: int, *, final: float = 0.0) -> Schedule:
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
    checks.positive("cosine", value=value)
    checks.count("cosine", steps=steps)
    value, final = float(value), not_negative("cosine", "final", final)

    def rate(count: Array) -> Array:
        xp = arrays.namespace(count)
        done = _float("cosine", count) / float(steps)
        done = xp.where(done < 1.0, done, xp.ones_like(done))
        return final + (0.5 * (value - final)) * (1.0 + xp.cos(math.pi * done))

    return rate


def warmup(steps: int, after: float | Schedule) -> Schedule:
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
    checks.count("warmup", steps=steps)
    if not callable(after):
        checks.positive("warmup", after=after)
    then = after if callable(after) else constant(after)

    def rate(count: Array) -> Array:
        xp = arrays.namespace(count)
        past = count - steps
        past = xp.where(past > 0, past, xp.zeros_like(past))
        done = (_float("warmup", count) + 1.0) / float(steps)
        return then(past) * xp.where(done < 1.0, done, xp.ones_like(done))

    return rate


def _float(place: str, count: Array) -> Array:
    """Return a count in the widest float of its device."""
    xp = checks.one_library(place, {"count": count})
    info = xp.__array_namespace_info__().dtypes(device=arrays.device(count), kind="real floating")
    return xp.astype(count, info.get("float64", info["float32"]))
