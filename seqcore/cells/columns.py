"""Layouts for matrix products: gates one below the other, and many steps side by side.

Many steps are multiplied at once as columns, `(rows, T m)` with time before batch: one product
serves all steps.
"""

from __future__ import annotations

from seqcore import arrays
from seqcore.arrays import Array, Namespace, Series


def flat(xp: Namespace, W: Array) -> Array:
    """Return `W (G, n_a, k)` with its gates one below the other: `(G n_a, k)`."""
    return xp.reshape(W, (W.shape[0] * W.shape[1], W.shape[2]))


def transposed(xp: Namespace, W: Array) -> Array:
    """Return `W (G, n_a, k)` as a contiguous `(k, G n_a)`, the matrix of the backward pass."""
    return arrays.contiguous(xp, xp.matrix_transpose(flat(xp, W)))


def columns(xp: Namespace, series: Series) -> Array:
    """Return a series of `(..., n, m)` as columns: `(... n, T m)`."""
    array = arrays.joined(xp, [series], axis=-2)
    return xp.reshape(array, (-1, array.shape[-2] * array.shape[-1]))


def with_ones(xp: Namespace, x: Array, *below: Series) -> Array:
    """Return x, a row of ones and the series `below` as columns: `(n_x + 1 + ..., T m)`."""
    n_steps, _, m = x.shape
    ones = xp.ones((1, n_steps, m), dtype=x.dtype, device=arrays.device(x))
    rows = [xp.moveaxis(x, 0, 1), ones, *[arrays.joined(xp, [part], axis=-2) for part in below]]
    return xp.reshape(xp.concat(rows), (-1, n_steps * m))


def outer(xp: Namespace, dz: Array, v: Array) -> Array:
    """Return `sum_t dz v^T`, both as columns: `(rows of dz, rows of v)`."""
    return dz @ xp.matrix_transpose(v)


def in_time(xp: Namespace, columns: Array, n_steps: int, m: int) -> Array:
    """Return columns `(n, T m)` as `(T, n, m)`."""
    return xp.moveaxis(xp.reshape(columns, (-1, n_steps, m)), 1, 0)
