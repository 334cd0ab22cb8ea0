"""What libraries lack and recurrent networks need: memory order, one-hot, series, picking, NaN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import array_api_compat as compat
import numpy as np

from seqcore.arrays.namespaces import namespace
from seqcore.arrays.placing import device
from seqcore.arrays.types import Array, Namespace, Series


def contiguous(xp: Namespace, array: Array) -> Array:
    """Return `array` in row-major order: a copy, unless that is its order already.

    The standard does not specify memory order. Flattening a transposed view forces every
    library to write the elements out in the order of the axes.
    """
    return xp.reshape(xp.reshape(array, (-1,)), array.shape)


def one_hot(xp: Namespace, indices: Array, n: int, dtype: Any, axis: int) -> Array:
    """Return `indices` as a one-hot array with a new axis of size `n` at `axis`."""
    # Count in the default integers: the dtype of the indices may be too narrow for n.
    classes = xp.arange(n, device=device(indices))
    indices = xp.expand_dims(xp.astype(indices, classes.dtype), axis=axis)
    shape = [1] * indices.ndim
    shape[axis] = n
    return xp.astype(indices == xp.reshape(classes, tuple(shape)), dtype)


def picked(xp: Namespace, array: Array, index: Array) -> Array:
    """Return `array[index[j], :, j]` at each `[:, j]`: `(n, m)` from `(T, n, m)` and `(m,)`."""
    if hasattr(xp, "take_along_axis"):
        rows = xp.broadcast_to(index, (1, *array.shape[1:]))
        return xp.take_along_axis(array, rows, axis=0)[0, ...]
    # Dask has none. Its values are not multiplied by 0, which would let NaN through.
    there = xp.arange(array.shape[0], device=device(index))[:, None] == index
    return xp.sum(xp.where(there[:, None, :], array, xp.zeros_like(array)), axis=0)


def unstacked(xp: Namespace, series: Series) -> tuple[Array, ...]:
    """Return the entry of a series at each time."""
    return series if isinstance(series, tuple) else cast("tuple[Array, ...]", xp.unstack(series))


def joined(xp: Namespace, parts: Sequence[Series], axis: int) -> Array:
    """Return series that follow one another as one array with time at `axis`."""
    if isinstance(parts[0], tuple):
        return xp.stack([array for part in parts for array in part], axis=axis)
    moved = [xp.moveaxis(part, 0, axis) for part in parts]
    return moved[0] if len(moved) == 1 else xp.concat(moved, axis=axis)


def nan_unless(good: Array, dtype: Any) -> Array:
    """Return 0 where `good` is True, and NaN elsewhere.

    Where all is good no NaN is made on the way, in any library: whoever has his library stop at
    the first NaN is not led here. Elsewhere NumPy does not warn, as the NaN is meant.
    """
    if compat.is_dask_array(good):
        # Chunk by chunk, as it is computed later, where nothing here silences NumPy.
        lazy, meta = cast("Any", good), np.empty((0,) * good.ndim, dtype)
        return cast("Array", lazy.map_blocks(nan_unless, dtype, dtype=dtype, meta=meta))
    if isinstance(good, np.bool_) and good:  # the usual case, where values cost nothing to read
        return np.zeros((), dtype)
    xp = namespace(good)
    with np.errstate(invalid="ignore"):
        return xp.sqrt(xp.astype(good, dtype) - 1.0)
