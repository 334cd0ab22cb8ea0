"""Which steps of a sequence count: lengths, masks, and zeros at all other steps.

A step of an example counts if it lies within the example's length and its mask is True. Other
steps affect no result and no gradient: they become 0 before anything is computed from them, so
that not even NaN gets through.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from seqcore import arrays, checks
from seqcore.arrays import Array, Namespace


def sequence_mask(lengths: Array, n_steps: int) -> Array:
    """Return which steps each example has: `(T, m)` of bool from `lengths (m,)`.

    Parameters
    ----------
    lengths : (m,)
        Steps of each example.
    n_steps
        T.

    Returns
    -------
    (T, m) of bool
        True at `[t, j]` where `t < lengths[j]`.

    Raises
    ------
    TypeError
        If lengths is not an array of integers.
    ValueError
        If its rank is not 1, or n_steps is less than 1.

    Examples
    --------
    >>> import numpy as np, seqcore as sc
    >>> sc.sequence_mask(np.asarray([2, 3]), 3).astype(int)
    array([[1, 1],
           [1, 1],
           [0, 1]])
    """
    place = "sequence_mask"
    xp = checks.one_library(place, {"lengths": lengths})
    checks.integral(place, "lengths", lengths)
    checks.shape(place, "lengths", lengths, ("m",), {})
    checks.count(place, n_steps=n_steps)
    # Count in the default integers: the dtype of the lengths may be too narrow for T.
    times = xp.arange(int(n_steps), device=arrays.device(lengths))
    return times[:, None] < xp.astype(lengths, times.dtype)[None, :]


def steps(place: str, x: Array, lengths: Any, mask: Any) -> Array | None:
    """Return which steps of `x (T, ..., m)` count: `(T, m)` of bool, or None for all.

    Parameters
    ----------
    place
        For messages.
    x
        The sequence, with time first and the batch last.
    lengths : (m,) of integers, optional
        An array on x's device, or a list or tuple of whole numbers.
    mask : (T, m) of bool, optional
        An array on x's device.

    Raises
    ------
    TypeError
        For wrong dtypes, or arrays of another library or device than x.
    ValueError
        For wrong shapes, or a length outside `0 <= length <= T`.
    """
    within = None if lengths is None else _within(place, x, lengths)
    if mask is None:
        return within
    checks.one_library(place, {"x": x, "mask": mask})
    if not arrays.is_bool(mask):
        raise TypeError(f"{place}: mask has dtype {mask.dtype}, expected bool")
    sizes = {"T": x.shape[0], "m": x.shape[-1]}
    checks.series(place, "mask", tuple(mask.shape), ("T", "m"), sizes)
    return mask if within is None else mask & within


def _within(place: str, x: Array, lengths: Any) -> Array:
    n_steps = x.shape[0]
    if isinstance(lengths, Sequence):
        _check_order(place, x, len(lengths))
    elif arrays.is_array(lengths) and lengths.ndim == 1:
        _check_order(place, x, lengths.shape[0])
    if not arrays.is_array(lengths):
        lengths = arrays.integers_like(_whole(place, lengths, n_steps + 1), x)
    checks.one_library(place, {"x": x, "lengths": lengths})
    checks.integral(place, "lengths", lengths)
    checks.shape(place, "lengths", lengths, ("m",), {"m": x.shape[-1]})
    checks.indices(place, "lengths", lengths, n_steps + 1, "length")
    return sequence_mask(lengths, n_steps)


def _check_order(place: str, x: Array, m: int) -> None:
    """Require that x has time first where there are as many lengths as its first axis has."""
    if m == x.shape[0] != x.shape[-1]:
        axes = "(T, m)" if x.ndim == 2 else "(T, n_x, m)"
        raise ValueError(
            f"{place}: x has shape {tuple(x.shape)}, expected time first, {axes} with m = {m}, "
            "the number of lengths"
        )


def _whole(place: str, given: Any, n: int) -> list[int]:
    """Return lengths on the host as whole numbers from 0 to n - 1."""
    for length in given if isinstance(given, list | tuple) else ():
        checks.concrete(place, lengths=length)
    # A direct conversion to an array would silently cut off the fractions of floats.
    try:
        # Of a dict or a set, the order would be a matter of luck.
        whole = [operator.index(length) for length in given] if _is_ordered(given) else None
    except TypeError:
        whole = None
    if whole is None or any(isinstance(length, bool) for length in given):
        raise TypeError(f"{place}: lengths is {given!r}, expected whole numbers")
    for length in whole:
        checks.in_range(place, "lengths", length, n, "length")
    return whole


def _is_ordered(given: Any) -> bool:
    return isinstance(given, Sequence) and not isinstance(given, str | bytes)


def where_mask(xp: Namespace, mask: Array | None, array: Array) -> Array:
    """Return `array` with zeros where `mask`, which broadcasts, is False."""
    return array if mask is None else xp.where(mask, array, xp.zeros_like(array))


def blank(xp: Namespace, steps: Array | None, array: Array) -> Array:
    """Return `array (T, ..., m)` with zeros at the steps that do not count."""
    if steps is None:
        return array
    between = (1,) * (array.ndim - 2)
    return where_mask(xp, xp.reshape(steps, (steps.shape[0], *between, steps.shape[1])), array)
