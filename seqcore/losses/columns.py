"""What the losses share: columns, the mask over them, and the divisor of the mean.

A column is one step of one example: all features at `[t, :, j]` of `(T, n, m)`, or at
`[:, j]` of `(n, m)`.
"""

from __future__ import annotations

import math
from numbers import Real

from seqcore import arrays, checks
from seqcore.arrays import Array, Namespace


def features(place: str, name: str, letter: str, array: Array) -> int:
    """Require `(T, n, m)` or `(n, m)`, and return n.

    Raises
    ------
    ValueError
        For another number of axes, or an empty one.
    """
    batch = (letter, "m") if array.ndim == 2 else ("T", letter, "m")
    sizes: checks.Sizes = {}
    checks.shape(place, name, array, batch, sizes)
    return sizes[letter]


def kept(place: str, array: Array, mask: Array | None) -> Array | None:
    """Return the mask with an axis of size 1 for the features, or None without a mask.

    Raises
    ------
    TypeError
        If the mask is not of bool.
    ValueError
        If it does not have one entry for each column of `array`.
    """
    if mask is None:
        return None
    xp = arrays.namespace(mask)
    if not xp.isdtype(mask.dtype, "bool"):
        raise TypeError(f"{place}: mask has dtype {mask.dtype}, expected bool")
    checks.shape(place, "mask", mask, array.shape[:-2] + array.shape[-1:], {})
    return xp.expand_dims(mask, axis=-2)


def divisor(
    place: str, name: str, array: Array, keep: Array | None, total: float | Array | None
) -> Array | float:
    """Return what a sum over `array` is divided by: `total`, or how many entries are kept.

    Where nothing is kept it is 1, so that the mean is 0. The value of a `total` that is an
    array is not read, because it may be on a GPU; unless it is more than 0 and finite, it
    counts as NaN.

    Raises
    ------
    TypeError
        If `total` holds no number, or is of another library or device.
    ValueError
        If it is a number that is not more than 0, or one that the dtype cannot hold, or an array
        with axes.
    """
    if total is None and keep is None:
        return float(math.prod(array.shape))  # in PyTorch, `size` is a method
    # NumPy's scalars are numbers here, though array libraries take them for arrays.
    if total is not None and (isinstance(total, Real) or not arrays.is_array(total)):
        number = checks.above_zero(place, "total", total)
        info = arrays.namespace(array).finfo(array.dtype)
        if not float(info.smallest_normal) <= number <= float(info.max):
            raise ValueError(f"{place}: total is {total}, which {array.dtype} cannot hold")
        return number
    xp = arrays.namespace(array)
    given = None if total is None else _above_zero(place, xp, {name: array, "total": total})
    if keep is None:
        return given
    count = xp.sum(xp.astype(xp.broadcast_to(keep, array.shape), array.dtype))
    return xp.where(count > 0, count if given is None else given, xp.ones_like(count))


def _above_zero(place: str, xp: Namespace, named: dict[str, Array]) -> Array:
    """Return the total in the dtype of the array before it; NaN unless above 0 and finite."""
    checks.one_library(place, named)
    array, total = named.values()
    checks.shape(place, "total", total, (), {})
    if not (arrays.is_floating(total) or arrays.is_integer(total)):
        raise TypeError(f"{place}: total has dtype {total.dtype}, expected a number")
    if not arrays.is_integer(total):
        checks.floating(place, {"total": total})
    total = xp.astype(total, array.dtype)
    return total + arrays.nan_unless((total > 0) & xp.isfinite(total), array.dtype)
