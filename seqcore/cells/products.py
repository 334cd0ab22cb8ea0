"""The matrix products of a recurrent cell: of one step, and of many steps at once.

Parameters have the gates in front, `W (G, n_a, k)`, and so have all z, `(G, n_a, m)`. What
is multiplied for many steps at once lies as columns: `(rows, T m)`, time before batch, so
that the products of all steps are one. A row of ones below x takes the bias into them:

    z_x = [W_x b] [x; 1],    [dW_x db dW_h] = dz [x; 1; h']^T
"""

from __future__ import annotations

from collections.abc import Callable

from seqcore import arrays
from seqcore.arrays import Array, Namespace, Params, Series


def flat(xp: Namespace, W: Array) -> Array:
    """Return `W (G, n_a, k)` with its gates one below the other: `(G n_a, k)`."""
    return xp.reshape(W, (W.shape[0] * W.shape[1], W.shape[2]))


def transposed(xp: Namespace, W: Array) -> Array:
    """Return `W (G, n_a, k)` as a contiguous `(k, G n_a)`, the matrix of the way back."""
    return arrays.contiguous(xp, xp.matrix_transpose(flat(xp, W)))


def blocked(xp: Namespace, W: Array, m: int) -> Array:
    """Return `W (rows, k)` as it is multiplied soonest with `(k, m)` at each step.

    Either as it is or in blocks of rows, `(blocks, rows / blocks, k)`.
    """
    return arrays.kernel(xp, "blocked", _as_it_is)(W, m)


def _as_it_is(W: Array, m: int) -> Array:  # noqa: ARG001 - the signature of a kernel
    return W


def columns(xp: Namespace, series: Series) -> Array:
    """Return a series of `(..., n, m)` as columns: `(... n, T m)`."""
    array = arrays.joined(xp, [series], axis=-2)
    return xp.reshape(array, (-1, array.shape[-2] * array.shape[-1]))


def with_ones(xp: Namespace, x: Array, *below: Series) -> Array:
    """Return x, a row of ones and what is `below` as columns: `(n_x + 1 + ..., T m)`."""
    n_steps, _, m = x.shape
    ones = xp.ones((1, n_steps, m), dtype=x.dtype, device=arrays.device(x))
    rows = [xp.moveaxis(x, 0, 1), ones, *[arrays.joined(xp, [part], axis=-2) for part in below]]
    return xp.reshape(xp.concat(rows), (-1, n_steps * m))


def recurrent(
    xp: Namespace, W: Array, W_h: Array, m: int
) -> tuple[Array | None, Callable[[Array, Array], Array]]:
    """Return how a loop takes `z = W_x x + b + W_h h'` from W = [W_x b] and W_h.

    Either apart, the input product of all steps before the loop: then W comes back, and the
    function takes z_x `(G, n_a, m)` and h'. Or joint, in one product at each step: then None
    comes back, and the function takes [x; 1] and h'.
    """
    gates, n_a, _ = W_h.shape
    shape = (gates, n_a, m)
    if _is_joint(xp, W_h, W.shape[2] - 1, m):
        both = blocked(xp, flat(xp, xp.concat((W, W_h), axis=2)), m)
        return None, lambda x, h: xp.reshape(both @ xp.concat((x, h)), shape)
    rows = blocked(xp, flat(xp, W_h), m)

    def apart(z_x: Array, h: Array) -> Array:
        z = xp.reshape(rows @ h, shape)
        z += z_x
        return z

    return flat(xp, W), apart


def recurrent_back(
    xp: Namespace, W_x: Array, W_h: Array, m: int
) -> tuple[Array | None, Callable[[Array], tuple[Array | None, Array]]]:
    """Return how a loop takes dx and dh' from dz, in the way that `recurrent` went.

    Apart: W_x^T comes back, and the function returns None and dh'. Joint: None comes back,
    and the function returns dx and dh'.
    """
    n_x, n_a = W_x.shape[2], W_h.shape[1]
    if _is_joint(xp, W_h, n_x, m):
        both = blocked(xp, transposed(xp, xp.concat((W_x, W_h), axis=2)), m)

        def joint(dz: Array) -> tuple[Array, Array]:
            d = xp.reshape(both @ xp.reshape(dz, (-1, m)), (n_x + n_a, m))
            return d[:n_x, ...], d[n_x:, ...]

        return None, joint
    rows = blocked(xp, transposed(xp, W_h), m)

    def apart(dz: Array) -> tuple[None, Array]:
        return None, xp.reshape(rows @ xp.reshape(dz, (-1, m)), (n_a, m))

    return xp.matrix_transpose(flat(xp, W_x)), apart


def _is_joint(xp: Namespace, W_h: Array, n_x: int, m: int) -> bool:
    gates, n_a, _ = W_h.shape
    joint: bool = arrays.kernel(xp, "is_joint", _never)(gates, n_a, n_x, m)
    return joint


def _never(*_: int) -> bool:
    return False


def input_product(xp: Namespace, W: Array | None, x: Array, gates: int) -> Array:
    """Return what a step takes of x, at all times: z_x `(T, G, n_a, m)`, or [x; 1].

    From `W = [W_x b]` and `x (T, n_x, m)`.
    """
    n_steps, _, m = x.shape
    if W is None:
        ones = xp.ones((n_steps, 1, m), dtype=x.dtype, device=arrays.device(x))
        return xp.concat((x, ones), axis=1)
    z_x = xp.reshape(W @ with_ones(xp, x), (gates, -1, n_steps, m))
    return xp.moveaxis(z_x, 2, 0)


def outer(xp: Namespace, dz: Array, v: Array) -> Array:
    """Return `sum_t dz v^T`, both as columns: `(rows of dz, rows of v)`."""
    return dz @ xp.matrix_transpose(v)


def split(xp: Namespace, outer: Array, n_x: int, gates: int) -> Params:
    """Return `[dW_x db dW_h]` as the gradients of a cell with these three parameters."""
    rows = xp.reshape(outer, (gates, -1, outer.shape[1]))
    return {"W_x": rows[:, :, :n_x], "b": rows[:, :, n_x : n_x + 1], "W_h": rows[:, :, n_x + 1 :]}
