"""The linear maps of a cell: all its matrix products, of one step and of many steps at once.

A cell declares its gates; this module computes their products. The gates are the first axis of
the parameters, `W (G, n_a, k)`, and of all z, `(G, n_a, m)`. A row of ones below x adds the bias
to the products of many steps, which are taken as columns:

    z_x = [W_x b] [x; 1],    [dW_x db dW_h] = dz [x; 1; h']^T

x is multiplied either apart, for a block of steps before the loop, or joint with h, in one
product at each step. The kernels say which is faster.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from seqcore import arrays, kernels, random
from seqcore.arrays import Array, Namespace, Params, Series
from seqcore.cells.columns import columns, flat, outer, transposed, with_ones
from seqcore.cells.contract import BackwardMaps, Cell, ForwardMaps, Gate, Saved
from seqcore.kernels import Weights

if TYPE_CHECKING:
    import numpy as np


def init(cell: Cell, n_x: int, n_a: int, *, like: Array, rng: np.random.Generator) -> Params:
    """Draw W_x Glorot uniform and W_h orthogonal; b is as the gates say, all others are 0."""
    count = len(cell.gates)
    params = {
        "W_x": random.glorot_uniform(rng, (count, n_a, n_x), n_x, n_a, like),
        "W_h": random.orthogonal(rng, count, n_a, like),
        "b": arrays.like([[[gate.bias]] * n_a for gate in cell.gates], like),
    }
    rows = {name: len(gates) for name, gates in cell.own.items()}
    apart = _apart(cell)
    if apart:
        rows = {"b_h": apart} | rows
    return params | {
        name: arrays.like([[[0.0]] * n_a] * count, like) for name, count in rows.items()
    }


def _apart(cell: Cell) -> int:
    return sum(gate.apart for gate in cell.gates)


# --- forward ---------------------------------------------------------------------------


def prepared(xp: Namespace, cell: Cell, params: Params) -> Weights:
    """Return the parameters as the forward pass takes them: rows of sigmoids are halved."""
    W = xp.concat((params["W_x"], params["b"]), axis=2)
    W_h = params["W_h"]
    if any(gate.sigmoid for gate in cell.gates):
        half = _halves(cell.gates, params["b"])
        W *= half
        W_h = W_h * half
    by_name = {gate.name: gate for gate in cell.gates}
    own = [
        params[name] * _halves([by_name[row] for row in rows], params["b"])
        for name, rows in cell.own.items()
    ]
    return Weights(W, W_h, (params["b_h"],) if "b_h" in params else (), tuple(own))


def _halves(gates: tuple[Gate, ...] | list[Gate], like: Array) -> Array:
    return arrays.like([[[0.5 if gate.sigmoid else 1.0]] for gate in gates], like)


class ForwardPlan(NamedTuple):
    """How a loop takes x: `of_x` returns what the step gets at each time."""

    of_x: Callable[[Array], Series]  # of x (T, n_x, m): z_x (T, G, n_a, m), or [x; 1]
    of_step: Callable[[Array], Array]  # the same for x (n_x, m) at one time
    maps: ForwardMaps


def plan_forward(xp: Namespace, cell: Cell, weights: Weights, m: int) -> ForwardPlan:
    """Return the plan of a cell's forward pass, for a batch of m."""
    kernel = kernels.of(xp)
    W, W_h, b_h, own = weights
    count, n_a, _ = W_h.shape
    n_x = W.shape[2] - 1
    gates = kernel.gates(cell.name, cell.options, cell.elementwise)
    inner = kernel.inner
    shape = (count, n_a, m)
    ones = inner.ones((1, m), dtype=W.dtype, device=arrays.device(W))

    def one_below(x: Array) -> Array:
        return inner.concat((x, ones))

    if _is_joint(xp, cell, n_a, n_x, m):
        rows = kernel.rows(flat(inner, inner.concat((W, W_h), axis=2)), m)

        def joint(x: Array, h: Array) -> Array:
            return inner.reshape(rows @ inner.concat((x, h)), shape)

        return ForwardPlan(_with_one(inner), one_below, ForwardMaps((joint,), own, gates))
    apart = _apart(cell)
    if apart:
        products = [_in_parts(inner, kernel.rows(flat(inner, W_h), m), count - apart, b_h[0])]
    else:
        products = [
            _added(inner, kernel.rows(flat(inner, W_h[rows, ...]), m), rows, count)
            for rows in _products(cell)
        ]
    W = flat(inner, W)

    def of_x(x: Array) -> Array:
        n_steps, _, m = x.shape
        z_x = inner.reshape(W @ with_ones(inner, x), (count, -1, n_steps, m))
        return inner.moveaxis(z_x, 2, 0)

    def of_step(x: Array) -> Array:
        return inner.reshape(W @ one_below(x), shape)

    return ForwardPlan(of_x, of_step, ForwardMaps(tuple(products), own, gates))


def _is_joint(xp: Namespace, cell: Cell, n_a: int, n_x: int, m: int) -> bool:
    one = len(cell.takes) == 1 and not _apart(cell)
    return one and kernels.of(xp).joins(len(cell.gates), n_a, n_x, m)


def _products(cell: Cell) -> list[slice]:
    """Return the gates of each product."""
    numbers = [gate.product for gate in cell.gates]
    return [
        slice(numbers.index(k), numbers.index(k) + numbers.count(k)) for k in range(len(cell.takes))
    ]


def _with_one(xp: Namespace) -> Callable[[Array], Array]:
    def of_x(x: Array) -> Array:
        n_steps, _, m = x.shape
        ones = xp.ones((n_steps, 1, m), dtype=x.dtype, device=arrays.device(x))
        return xp.concat((x, ones), axis=1)

    return of_x


def _added(xp: Namespace, rows: Array, gates: slice, count: int) -> Callable[[Array, Array], Array]:
    """Return the product of some of the gates: their z_x + W_h v."""
    if gates == slice(0, count):

        def whole(z_x: Array, v: Array) -> Array:
            z = xp.reshape(rows @ v, z_x.shape)
            z += z_x
            return z

        return whole

    def some(z_x: Array, v: Array) -> Array:
        part = z_x[gates, ...]
        z = xp.reshape(rows @ v, part.shape)
        z += part
        return z

    return some


def _in_parts(
    xp: Namespace, rows: Array, whole: int, b_h: Array
) -> Callable[[Array, Array], tuple[Array, Array, Array]]:
    """Return the product of a cell with gates apart, in the three parts that it gets."""

    def parts(z_x: Array, v: Array) -> tuple[Array, Array, Array]:
        z = xp.reshape(rows @ v, z_x.shape)
        return z[:whole, ...] + z_x[:whole, ...], z_x[whole:, ...], z[whole:, ...] + b_h

    return parts


# --- backward ----------------------------------------------------------------------------


class BackwardPlan(NamedTuple):
    """How a loop gets dx: after each step, `dx()` returns that step's part of it."""

    maps: BackwardMaps
    dx: Callable[[], tuple[Array, ...]]  # a 1-tuple where x is joint, else empty
    W_x_t: Array | None  # (n_x, G n_a), which gives dx after the loop where x is apart


def plan_backward(xp: Namespace, cell: Cell, params: Params, m: int) -> BackwardPlan:
    """Return the plan of a cell's backward pass, for a batch of m."""
    kernel = kernels.of(xp)
    inner = kernel.inner
    W_x, W_h = params["W_x"], params["W_h"]
    count, n_a, n_x = W_x.shape
    gates = kernel.gates(cell.name, cell.options, cell.elementwise)
    own = tuple([params[name] for name in cell.own])
    if _is_joint(xp, cell, n_a, n_x, m):
        rows = kernel.rows(transposed(inner, inner.concat((W_x, W_h), axis=2)), m)
        aside: list[Array] = []

        def joint(dz: Array) -> Array:
            d = inner.reshape(rows @ inner.reshape(dz, (-1, m)), (n_x + n_a, m))
            aside.append(d[:n_x, ...])
            return d[n_x:, ...]

        return BackwardPlan(BackwardMaps((joint,), own, gates), lambda: (aside.pop(),), None)
    apart = _apart(cell)
    if apart:
        W_x = inner.concat((W_x[count - apart :, ...], W_x[: count - apart, ...]))
    products = [
        _transposed_product(inner, kernel.rows(transposed(inner, W_h[rows, ...]), m), apart, m)
        for rows in _products(cell)
    ]
    W_x_t = inner.matrix_transpose(flat(inner, W_x))
    return BackwardPlan(BackwardMaps(tuple(products), own, gates), lambda: (), W_x_t)


def _transposed_product(xp: Namespace, rows: Array, apart: int, m: int) -> Callable[[Array], Array]:
    def product(dz: Array) -> Array:
        if apart:
            dz = dz[apart:, ...]
        return xp.reshape(rows @ xp.reshape(dz, (-1, m)), (-1, m))

    return product


def outers(xp: Namespace, cell: Cell, dz: Array, x: Array, saved: Saved) -> tuple[Array, ...]:
    """Return the sums over a block of steps from which `grads` takes the gradients.

    Parameters
    ----------
    dz
        As columns.
    x
        `(T, n_x, m)`.
    saved
        A series of each array that the steps saved.
    """
    n_x = x.shape[1]
    v = with_ones(xp, x, saved[0])
    count, apart = len(cell.gates), _apart(cell)
    n_a = dz.shape[0] // (count + apart)
    if apart:
        of_x = outer(xp, dz[: count * n_a, ...], v[: n_x + 1, ...])
        return of_x, outer(xp, dz[apart * n_a :, ...], v[n_x:, ...])  # [db_h dW_h]
    if len(cell.takes) == 1:
        return (outer(xp, dz, v),)  # [dW_x db dW_h]
    first, *later = _products(cell)
    of_x = outer(xp, dz, v[: n_x + 1, ...])
    of_h = outer(xp, dz[first.start * n_a : first.stop * n_a, ...], v[n_x + 1 :, ...])
    of_later = [
        outer(
            xp,
            dz[rows.start * n_a : rows.stop * n_a, ...],
            columns(xp, getattr(saved, cell.takes[k])),
        )
        for k, rows in enumerate(later, start=1)
    ]
    return (of_x, of_h, *of_later)


def grads(
    xp: Namespace, cell: Cell, outers: tuple[Array, ...], own: tuple[Array, ...], n_x: int
) -> Params:
    """Return the gradient of every parameter; `own` has those of the elementwise ones."""
    count, apart = len(cell.gates), _apart(cell)
    of_x = xp.reshape(outers[0], (count, -1, outers[0].shape[1]))
    found = dict(zip(cell.own, own, strict=True))
    if len(outers) == 1:
        found["W_h"] = of_x[:, :, n_x + 1 :]
    elif apart:
        of_x = xp.concat((of_x[apart:, ...], of_x[:apart, ...]))
        of_h = xp.reshape(outers[1], (count, of_x.shape[1], -1))
        found |= {"W_h": of_h[:, :, 1:], "b_h": of_h[count - apart :, :, :1]}
    else:
        found["W_h"] = xp.reshape(xp.concat(outers[1:]), (count, of_x.shape[1], -1))
    return found | {"W_x": of_x[:, :, :n_x], "b": of_x[:, :, n_x : n_x + 1]}


def summed(total: tuple[Any, ...], more: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the pairwise sums, in the arrays of `total`; an empty total is 0."""
    if not total:
        return more
    sums = []
    for a, b in zip(total, more, strict=True):
        a += b
        sums.append(a)
    return tuple(sums)
