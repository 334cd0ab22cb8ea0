"""The forms in which the products of a training step can be given to a BLAS.

Which form is the fastest depends on sizes, BLAS and threads. Every form of a product has the
same result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
from harness.side import Array

BLOCKS = (16, 32, 64, 128, 256)  # rows


class Form(NamedTuple):
    """One way to take a product.

    Attributes
    ----------
    name
        In words.
    run
        Takes the product.
    result
        Returns the result in the layout of the plain product.
    """

    name: str
    run: Callable[[], object]
    result: Callable[[], Array]


def rows(v: Array) -> Array:
    """Return `v (T, k, m)` as `(T m, k)`: each example at each time is a row."""
    return np.ascontiguousarray(v.transpose(0, 2, 1)).reshape(-1, v.shape[1])


def columns(v: Array) -> Array:
    """Return `v (T, k, m)` as `(k, T m)`: each example at each time is a column."""
    return np.ascontiguousarray(v.transpose(1, 0, 2)).reshape(v.shape[1], -1)


def blocks(r: int, k: int) -> list[int]:
    """Return the sizes of blocks of rows into which a matrix `(r, k)` is divided."""
    divisors = [d for d in range(4, r) if r % d == 0]
    fitting = ([d for d in divisors if d <= most] for most in (*BLOCKS, k))
    return list(dict.fromkeys(few[-1] for few in fitting if few))


def stepwise(W: Array, v: Array) -> Iterator[Form]:
    """Yield the forms of `W (r, k) @ v[t] (k, m)`, one step after another.

    The result is the product of the last step, `(r, m)`.
    """
    r, k = W.shape
    m = v.shape[2]
    W, W_t = np.ascontiguousarray(W), np.ascontiguousarray(W.T)
    v_t = np.ascontiguousarray(v.transpose(0, 2, 1))

    def left(W: Array, out: Array) -> None:
        for v_now in v:
            np.matmul(W, v_now, out=out)

    def right(W: Array, out: Array) -> None:
        for v_now in v_t:
            np.matmul(v_now, W, out=out)

    z, z_t = np.empty((r, m), W.dtype), np.empty((m, r), W.dtype)
    yield Form("flat", partial(left, W, z), lambda: z)
    yield Form("flat, W stored transposed", partial(left, W_t.T, z), lambda: z)
    for block in blocks(r, k):
        stack = np.empty((r // block, block, m), W.dtype)
        run = partial(left, W.reshape(r // block, block, k), stack)
        yield Form(f"blocks of {block} rows", run, partial(stack.reshape, (r, m)))
    yield Form("transposed", partial(right, W_t, z_t), lambda: z_t.T)
    yield Form("transposed, W stored as it is", partial(right, W.T, z_t), lambda: z_t.T)


def at_once(W: Array, v: Array) -> Iterator[Form]:
    """Yield the forms of `W (r, k) @ v[t] (k, m)` for all t at once: `(T, r, m)`."""
    (r, k), (n_steps, _, m) = W.shape, v.shape
    W, W_t = np.ascontiguousarray(W), np.ascontiguousarray(W.T)
    v_rows, v_columns = rows(v), columns(v)
    z = np.empty((n_steps, r, m), W.dtype)
    z_columns = np.empty((r, n_steps * m), W.dtype)
    z_rows = np.empty((n_steps * m, r), W.dtype)

    def from_columns() -> Array:
        return z_columns.reshape(r, n_steps, m).transpose(1, 0, 2)

    def from_rows() -> Array:
        return z_rows.reshape(n_steps, m, r).transpose(0, 2, 1)

    yield Form("a stack of T", partial(np.matmul, W, v, out=z), lambda: z)
    for block in blocks(r, k):
        W_blocks = W.reshape(r // block, block, k)
        out = z.reshape(n_steps, r // block, block, m)
        run = partial(np.matmul, W_blocks, v[:, None], out=out)
        yield Form(f"a stack of T in blocks of {block} rows", run, lambda: z)
    yield Form("flat columns", partial(np.matmul, W, v_columns, out=z_columns), from_columns)
    yield Form("flat rows", partial(np.matmul, v_rows, W_t, out=z_rows), from_rows)
    run = partial(np.matmul, v_rows, W.T, out=z_rows)
    yield Form("flat rows, W stored as it is", run, from_rows)


def over_time(dz: Array, v: Array) -> Iterator[Form]:
    """Yield the forms of `sum_t dz[t] (r, m) @ v[t]^T (m, k)`: `(r, k)`.

    A stack of T products is not among them, because it has to be summed afterwards.
    """
    out = np.empty((dz.shape[1], v.shape[1]), dz.dtype)
    out_t = np.empty(out.shape[::-1], dz.dtype)
    dz_rows, dz_columns, v_rows, v_columns = rows(dz), columns(dz), rows(v), columns(v)
    for name, left, right in (
        ("rows", dz_rows.T, v_rows),
        ("columns", dz_columns, v_columns.T),
        ("columns by rows", dz_columns, v_rows),
    ):
        yield Form(f"flat {name}", partial(np.matmul, left, right, out=out), lambda: out)
        transposed = partial(np.matmul, right.T, left.T, out=out_t)
        yield Form(f"flat {name}, transposed", transposed, lambda: out_t.T)


# The plain products.
PLAIN: dict[Callable[[Array, Array], Iterator[Form]], Callable[[Array, Array], Array]] = {
    stepwise: lambda W, v: W @ v[-1],
    at_once: lambda W, v: W @ v,
    over_time: lambda dz, v: np.tensordot(dz, v, axes=((0, 2), (0, 2))),
}
