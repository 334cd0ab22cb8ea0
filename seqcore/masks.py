"""Which steps of a sequence count: lengths, masks, zeros at all other steps, the last step.

A step of an example counts if it lies within the example's length and its mask is True. Other
steps affect no result and no gradient: they become 0 before anything is computed from them, so
that not even NaN gets through.

(1) e[j] = 1 + the last t of example j that counts, or 0 if none does
(2) last[:, j] = y[e[j] - 1, :, j], or 0 where e[j] = 0
(2') dy[t, :, j] = dlast[:, j] where t = e[j] - 1, else 0
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from seqcore import arrays, checks
from seqcore.arrays import Array, Namespace


def sequence_mask(lengths: Array, n_steps: int) -> Array:
    """Return which steps each example has: `(T, m)` of bool from `lengths (m,)`.

    Parameters
    ----------
    lengths : (m,)
        Steps of each example. Beyond them the y of a layer is 0, so `y[-1]` is not each
        example's last step: that is `last(y, lengths)`.
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
        If its rank is not 1, a length is negative, or n_steps is less than 1.

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
    n_steps = checks.whole(place, "n_steps", n_steps)
    least = arrays.bounds(lengths)[0] if arrays.is_readable(lengths) else 0
    if least < 0:
        raise ValueError(f"{place}: lengths holds {least}, expected 0 or more")
    return _within(xp, lengths, n_steps)


def _within(xp: Namespace, lengths: Array, n_steps: int) -> Array:
    # Count in the default integers: the dtype of the lengths may be too narrow for T.
    times = xp.arange(n_steps, device=arrays.device(lengths))
    return times[:, None] < xp.astype(lengths, times.dtype)[None, :]


def steps(place: str, x: Array, lengths: Any, mask: Any, *, name: str = "x") -> Array | None:
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
    name
        What messages call x.

    Raises
    ------
    TypeError
        For wrong dtypes, or arrays of another library or device than x.
    ValueError
        For wrong shapes, or a length outside `0 <= length <= T`.
    """
    if isinstance(lengths, Sequence):
        _check_order(place, name, x, len(lengths))
    elif arrays.is_array(lengths):
        checks.usable(place, "lengths", lengths)  # before its shape is asked for
        if lengths.ndim == 1:
            _check_order(place, name, x, lengths.shape[0])
    return _counted(place, name, x, x.shape[0], lengths, mask)


def _counted(
    place: str, name: str, like: Array, n_steps: int, lengths: Any, mask: Any
) -> Array | None:
    """Return which of `n_steps` count, for the batch in the last axis of `like`."""
    sizes = {"T": n_steps, "m": like.shape[-1]}
    within = None
    if lengths is not None:
        if not arrays.is_array(lengths):
            lengths = arrays.integers_like(_whole(place, lengths, n_steps + 1), like)
        checks.one_library(place, {name: like, "lengths": lengths})
        checks.integral(place, "lengths", lengths)
        checks.shape(place, "lengths", lengths, ("m",), sizes)
        checks.indices(place, "lengths", lengths, n_steps + 1, "length")
        within = _within(arrays.namespace(lengths), lengths, n_steps)
    if mask is None:
        return within
    checks.one_library(place, {name: like, "mask": mask})
    if not arrays.is_bool(mask):
        raise TypeError(f"{place}: mask has dtype {mask.dtype}, expected bool")
    checks.series(place, "mask", tuple(mask.shape), ("T", "m"), sizes)
    return mask if within is None else mask & within


def _check_order(place: str, name: str, x: Array, m: int) -> None:
    """Require that x has time first where there are as many lengths as its first axis has."""
    if m == x.shape[0] != x.shape[-1]:
        axes = "(T, m)" if x.ndim == 2 else "(T, n_x, m)" if name == "x" else "(T, n, m)"
        raise ValueError(
            f"{place}: {name} has shape {tuple(x.shape)}, expected time first, {axes} with "
            f"m = {m}, the number of lengths"
        )


def _whole(place: str, given: Any, n: int) -> list[int]:
    """Return lengths on the host as whole numbers from 0 to n - 1."""
    for length in given if isinstance(given, list | tuple) else ():
        checks.concrete(place, lengths=length)
    # A direct conversion to an array would silently cut off the fractions of floats, and take the
    # value of a masked entry. Of a dict or a set, the order would be a matter of luck.
    if not _is_ordered(given) or not all(map(checks.is_whole, given)):
        raise TypeError(f"{place}: lengths is {given!r}, expected whole numbers")
    whole = [int(length) for length in given]
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


# --- the last step that counts ----------------------------------------------------------


def last(y: Array, lengths: Any = None, mask: Array | None = None) -> Array:
    """Return each example's y at its last step that counts.

    In a ragged batch `y[-1]` is something else: behind the end of an example y is 0.

    Parameters
    ----------
    y : (T, n, m)
        What a layer gave, time first.
    lengths : (m,) of integers, optional
        Steps of each example, `0 <= length <= T`: an array, or a list or tuple of numbers.
    mask : (T, m) of bool, optional
        Which steps count. With `lengths` too, a step counts where both say so.

    Returns
    -------
    (n, m)
        0 for an example without any step that counts. No other step matters, not even NaN.

    Raises
    ------
    ValueError
        For wrong shapes, or a length out of range.
    TypeError
        For wrong or mixed dtypes, libraries or devices.

    See Also
    --------
    last_backward : its gradient. The layer `Last` has both.

    Examples
    --------
    >>> import numpy as np, seqcore as sc
    >>> y = np.asarray([[[1.0, 2.0]], [[3.0, 4.0]], [[5.0, 6.0]]])      # T, n, m = 3, 1, 2
    >>> sc.last(y, [2, 3])
    array([[3., 6.]])
    """
    place = "last"
    xp = checks.floats(place, {"y": y})
    checks.series(place, "y", tuple(y.shape), ("T", "n", "m"), {})
    which = steps(place, y, lengths, mask, name="y")
    return at_end(xp, None if which is None else ends(xp, which), y, None)


def last_backward(
    dlast: Array, n_steps: int, lengths: Any = None, mask: Array | None = None
) -> Array:
    """Return dL/dy from dL/dlast, where `last(y, lengths, mask)` was taken.

    Parameters
    ----------
    dlast : (n, m)
        dL/dlast.
    n_steps
        T of y.
    lengths, mask
        As they were given to `last`.

    Returns
    -------
    (T, n, m)
        dlast at each example's last step that counts, and 0 at all other steps.

    Raises
    ------
    ValueError
        For wrong shapes, fewer than 1 step, or a length out of range.
    TypeError
        For wrong or mixed dtypes, libraries or devices.

    Examples
    --------
    >>> import numpy as np, seqcore as sc
    >>> sc.last_backward(np.asarray([[1.0, 2.0]]), 3, [2, 3])[:, 0, :]
    array([[0., 0.],
           [1., 0.],
           [0., 2.]])
    """
    place = "last_backward"
    xp = checks.floats(place, {"dlast": dlast})
    checks.shape(place, "dlast", dlast, ("n", "m"), {})
    n_steps = checks.whole(place, "n_steps", n_steps)
    which = _counted(place, "dlast", dlast, n_steps, lengths, mask)
    return spread(xp, None if which is None else ends(xp, which), dlast, n_steps)


def ends(xp: Namespace, steps: Array) -> Array:
    """Return 1 + the last step of each example that counts, or 0: `(m,)` of integers, (1)."""
    times = xp.arange(1, steps.shape[0] + 1, device=arrays.device(steps))
    return xp.max(where_mask(xp, steps, times[:, None]), axis=0)


def at_end(xp: Namespace, end: Array | None, y: Array, before: Array | None) -> Array:
    """Return y `(n, m)` at the end that `ends` gave, or `before` (None: 0) without one, (2)."""
    if end is None:
        return xp.concat([y[-1, ...]])  # a copy: a view would keep all steps in memory
    there = end > 0
    found = arrays.picked(xp, y, xp.where(there, end - 1, end))
    return xp.where(there, found, xp.zeros_like(found) if before is None else before)


def spread(xp: Namespace, end: Array | None, d: Array, n_steps: int) -> Array:
    """Return d `(n, m)` at the end of each example and 0 elsewhere, `(T, n, m)`, (2')."""
    times = xp.arange(1, n_steps + 1, device=arrays.device(d))[:, None]
    at = times == (n_steps if end is None else end[None, :])  # (T, m) or (T, 1)
    return where_mask(xp, at[:, None, :], d[None, ...])
