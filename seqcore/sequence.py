"""A cell over time, and back through time (BPTT).

    forward   (1) z_x[t] = W_x x[t] + b                   a block of t at once
              (2) s[t], saved[t] = step(z_x[t], s[t-1])   t = 0 .. T-1, y = h
    backward  (2') ds[t] += dy[t];  dz[t], ds[t-1] = step_vjp(ds[t])    t = T-1 .. 0
              (1') dx = W_x^T dz,  dW_x = sum_t dz x^T,  db = sum_t dz, dW_h
                                                          a block of t at once

With `reverse` the loop (2) runs from t = T-1 to 0 and (2') from 0 to T-1; all arrays stay
in time order.

With `lengths (m,)` example j has the steps 0 .. lengths[j]-1. Beyond them its y is 0, its
state stays as it is (so the final state is that of its last step; in reverse it starts at
its last step), and nothing there, NaN included, touches a result or a gradient.

With `recompute` the forward keeps the state before every k-th step only, and the backward
goes forward again over one segment of k steps at a time. All products are taken over the
same blocks of steps as without it, so that the gradients are the same to the bit.

Truncated BPTT needs nothing more: the state that one window returns is the one that the
next window is given, and no gradient is passed back between them.

Source of `recompute`: Chen, Xu, Zhang & Guestrin, "Training deep nets with sublinear memory
cost", arXiv:1604.06174, section 4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from math import isqrt
from typing import NamedTuple, TypeAlias

from seqcore import arrays, checks
from seqcore.arrays import Array, Namespace, Params, Series
from seqcore.cells import Cell, Saved, State, products

# Its first step and the one behind its last.
Block: TypeAlias = tuple[int, int]


class Tape(NamedTuple):
    """What the forward keeps for the way back: arrays, in tuples and None only."""

    x: Array  # (T, n_x, m)
    starts: tuple[State, ...]  # before each segment, (n_a, m) each
    saved: tuple[Saved, ...] | None  # a series of all that each step kept, for each block
    mask: Array | None  # (T, 1, m), True where there is a step


def tape(x: Array, start: State, saved: Saved) -> Tape:
    """Return the tape of a sequence without lengths from a series of each saved array."""
    xp, (n_steps, _, m) = arrays.namespace(x), x.shape
    (blocks,) = _segments(xp, n_steps, m, recompute=False, reverse=False)
    parts = [type(saved)._make([series[first:stop] for series in saved]) for first, stop in blocks]
    return Tape(x, (start,), tuple(parts), None)


def saved_steps(xp: Namespace, tape: Tape) -> tuple[tuple[Array, ...], ...]:
    """Return all that each step saved, as on a tape of a loop onward without `recompute`."""
    columns: Iterable[tuple[Series, ...]] = zip(*(tape.saved or ()), strict=True)
    return tuple([tuple(chain(*[arrays.unstacked(xp, p) for p in parts])) for parts in columns])


def sequence_mask(lengths: Array, n_steps: int) -> Array:
    """Return which steps an example has: `(T, m)` of bool from `lengths (m,)`.

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
        If lengths is no array of integers.
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
    # Counted in the default integers: the lengths may be too narrow to count to T.
    times = xp.arange(n_steps, device=arrays.device(lengths))
    return times[:, None] < xp.astype(lengths, times.dtype)[None, :]


def where_mask(xp: Namespace, mask: Array | None, array: Array) -> Array:
    """Return `array` with zeros where there is no step."""
    return array if mask is None else xp.where(mask, array, xp.zeros_like(array))


def forward(
    cell: Cell,
    params: Params,
    x: Array,
    state: State | None = None,
    lengths: Array | None = None,
    *,
    reverse: bool = False,
    recompute: bool | int = False,
) -> tuple[Array, State, Tape]:
    """Run `cell` over `x (T, n_x, m)`.

    Returns
    -------
    y, state, tape
        y `(T, n_a, m)`, the state after the last step, and what `backward` needs, given the
        same `reverse` and `recompute`.
    """
    xp = arrays.namespace(x)
    n_steps, _, m = x.shape
    if state is None:
        n_a = params["b"].shape[1]
        zero = xp.zeros((n_a, m), dtype=x.dtype, device=arrays.device(x))
        state = cell.state_type._make([zero] * len(cell.state_type._fields))
    mask = None if lengths is None else sequence_mask(lengths, n_steps)[:, None, :]
    x = where_mask(xp, mask, x)
    xp = arrays.inner(xp)
    ahead = _ahead(cell, xp, params, x, mask, reverse=reverse)
    starts: list[State] = []
    hs: list[Series] = []
    saved: list[Saved] = []
    for blocks in _segments(xp, n_steps, m, recompute, reverse=reverse):
        starts.append(state)
        for block in blocks:
            state, h, kept = ahead(block, state)
            hs.append(h)
            if not recompute:
                saved.append(kept)
    if reverse:
        hs.reverse()
    y = arrays.joined(xp, hs, axis=0)
    tape = Tape(x, tuple(starts), None if recompute else tuple(saved), mask)
    return where_mask(xp, mask, y), state, tape


def backward(
    cell: Cell,
    params: Params,
    tape: Tape,
    dy: Array,
    dstate: State | None = None,
    *,
    reverse: bool = False,
    recompute: bool | int = False,
) -> tuple[Array, Params, State]:
    """Go back through time over what `forward` did.

    Parameters
    ----------
    dy : (T, n_a, m)
        dL/dy.
    dstate
        dL/d(state after the last step); None for zero.

    Returns
    -------
    dx, grads, dstate
        dL/dx `(T, n_x, m)`, the gradient of every parameter, and dL/d(state before the
        first step).
    """
    x, starts, saved, mask = tape
    xp = arrays.inner(arrays.namespace(x))
    n_steps, n_x, m = x.shape
    if dstate is None:
        dstate = cell.state_type._make([xp.zeros_like(first) for first in starts[0]])
    ahead = _ahead(cell, xp, params, x, mask, reverse=reverse)
    back = _back(cell, xp, params, x, where_mask(xp, mask, dy), mask, reverse=reverse)
    segments = _segments(xp, n_steps, m, recompute, reverse=reverse)
    dxs: list[Array] = []
    total: tuple[Array, ...] = ()
    for blocks, state in zip(reversed(segments), reversed(starts), strict=True):
        if saved is None:
            again: list[Saved] = []
            for block in blocks:
                state, _, kept = ahead(block, state)
                again.append(kept)
        else:
            again = list(saved)
        for block, kept in zip(reversed(blocks), reversed(again), strict=True):
            dstate, dx, outers = back(block, kept, dstate)
            dxs.append(dx)
            total = _sums(total, outers) if total else outers
    if not reverse:
        dxs.reverse()
    dx = xp.moveaxis(dxs[0] if len(dxs) == 1 else xp.concat(dxs, axis=1), 1, 0)
    grads = cell.grads(xp, total, n_x)
    return dx, {name: grads[name] for name in params}, dstate


def _segments(
    xp: Namespace, n_steps: int, m: int, recompute: bool | int, *, reverse: bool
) -> list[list[Block]]:
    """Return the blocks of each segment, in the order in which forward runs.

    Without `recompute` all is one segment. With it they have about k steps, in whole
    blocks: the same blocks as without it.
    """
    steps = n_steps
    if recompute:
        steps = isqrt(n_steps) if recompute is True else recompute
    length = arrays.block_steps(xp, steps, m)
    steps = -(-steps // length) * length
    segments = [
        [
            (first, min(first + length, n_steps))
            for first in range(start, min(start + steps, n_steps), length)
        ]
        for start in range(0, n_steps, steps)
    ]
    return [blocks[::-1] for blocks in segments[::-1]] if reverse else segments


def _ahead(
    cell: Cell, xp: Namespace, params: Params, x: Array, mask: Array | None, *, reverse: bool
) -> Callable[[Block, State], tuple[State, Series, Saved]]:
    """Return how to go over a block of steps: to the state after, a series of h, and saved."""
    W, weights = cell.prepare(xp, params, x.shape[2])

    def step(before: State, at: tuple[Array, ...]) -> tuple[State, tuple[Array, ...]]:
        x_t, mask_t = at
        after, saved = cell.step(xp, weights, x_t, before)
        if mask_t is not None:
            after = _freeze(xp, mask_t, after, before)
        return after, (after[0], *saved)

    def ahead(block: Block, state: State) -> tuple[State, Series, Saved]:
        at = slice(*block)
        taken = products.input_product(xp, W, x[at, ...], cell.gates)  # (1)
        xs = (taken, None if mask is None else mask[at, ...])
        state, (h, *saved) = arrays.scan(step, state, xs, reverse=reverse)  # (2)
        return state, h, cell.saved_type._make(saved)

    return ahead


def _back(
    cell: Cell,
    xp: Namespace,
    params: Params,
    x: Array,
    dy: Array,
    mask: Array | None,
    *,
    reverse: bool,
) -> Callable[[Block, Saved, State], tuple[State, Array, tuple[Array, ...]]]:
    """Return how to go back over a block: to dL/d(state before), dx `(n_x, T, m)`, `outer`."""
    n_x, m = x.shape[1:]
    W_x_t, weights = cell.prepare_vjp(xp, params, m)

    def step_vjp(dafter: State, at: tuple[Array, ...]) -> tuple[State, tuple[Array, ...]]:
        *saved, dy_t, mask_t = at
        saved_t = cell.saved_type._make(saved)
        active = dafter
        if mask_t is not None:
            active = [where_mask(xp, mask_t, d) for d in dafter]
        active = cell.state_type(active[0] + dy_t, *active[1:])
        dz, dx, dbefore = cell.step_vjp(xp, weights, saved_t, active)  # (2')
        if mask_t is not None:
            dbefore = _freeze(xp, mask_t, dbefore, dafter)
        return dbefore, ((dz,) if dx is None else (dz, dx))

    def back(block: Block, saved: Saved, dstate: State) -> tuple[State, Array, tuple[Array, ...]]:
        at = slice(*block)
        x_b = x[at, ...]
        xs = (*saved, dy[at, ...], None if mask is None else mask[at, ...])
        dstate, columns = arrays.scan(
            step_vjp, dstate, xs, reverse=not reverse, columns=2 if W_x_t is None else 1
        )
        dz, *dx = [xp.reshape(c, (-1, x_b.shape[0] * m)) for c in columns]
        if W_x_t is not None:
            dx = [W_x_t @ dz[: W_x_t.shape[1], ...]]  # (1')
        v = products.with_ones(xp, x_b, saved[0])
        outers = cell.outer(xp, dz, v, n_x, saved)
        return dstate, xp.reshape(dx[0], (n_x, x_b.shape[0], m)), outers

    return back


def _sums(total: tuple[Array, ...], more: tuple[Array, ...]) -> tuple[Array, ...]:
    """Return the sums, one by one, in the arrays of `total`."""
    summed = []
    for a, b in zip(total, more, strict=True):
        a += b
        summed.append(a)
    return tuple(summed)


def _freeze(xp: Namespace, mask: Array, new: State, old: State) -> State:
    """Return the new state where there is a step, the old one where there is none."""
    return type(new)._make([xp.where(mask, *pair) for pair in zip(new, old, strict=True)])
