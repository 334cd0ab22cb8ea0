"""The matrix products of a recurrent step, and their sums over time.

Parameters have the gates in front, `W (G, n_a, k)`, and so have all z, `(G, n_a, m)`.
"""

from __future__ import annotations

from seqcore import arrays
from seqcore.arrays import Array, Namespace


def input_product(xp: Namespace, W_x: Array, b: Array, x: Array) -> Array:
    """Return `W_x x + b` at all times: `(T, G, n_a, m)` from `x (T, n_x, m)`."""
    gates, n_a, n_x = W_x.shape
    z_x = xp.matmul(xp.reshape(W_x, (gates * n_a, n_x)), x)  # (T, G n_a, m)
    z_x += xp.reshape(b, (gates * n_a, 1))
    return xp.reshape(z_x, (x.shape[0], gates, n_a, x.shape[2]))


def transposed(xp: Namespace, W: Array) -> Array:
    """Return `W (G, n_a, k)` as a contiguous `(k, G n_a)`, the matrix of the way back."""
    gates, n_a, k = W.shape
    return arrays.contiguous(xp, xp.matrix_transpose(xp.reshape(W, (gates * n_a, k))))


def back(xp: Namespace, W_t: Array, dz: Array) -> Array:
    """Return `sum_g W_g^T dz_g`: `(..., k, m)` from `dz (..., G, n_a, m)`."""
    rows = (dz.shape[-3] * dz.shape[-2], dz.shape[-1])
    return xp.matmul(W_t, xp.reshape(dz, dz.shape[:-3] + rows))


def over_time(xp: Namespace, dz: Array, v: Array) -> Array:
    """Return `sum_t dz v^T` as one product: `(G, n_a, k)`.

    Takes `dz (T, G, n_a, m)` and `v (T, k, m)`.
    """
    return xp.tensordot(dz, v, axes=((0, 3), (0, 2)))


def bias_over_time(xp: Namespace, dz: Array) -> Array:
    """Return dz summed over time and batch: `(G, n_a, 1)` from `(T, G, n_a, m)`."""
    return xp.expand_dims(xp.sum(dz, axis=(0, 3)), axis=-1)
