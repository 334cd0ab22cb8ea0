"""A cell over time, and back through time (BPTT).

    forward   (1) z_x[t] = W_x x[t] + b                   all t at once
              (2) s[t], saved[t] = step(z_x[t], s[t-1])   t = 0 .. T-1, y = h
    backward  (2') ds[t] += dy[t];  dz[t], ds[t-1] = step_vjp(ds[t])    t = T-1 .. 0
              (1') dx = W_x^T dz,  dW_x = sum_t dz x^T,  db = sum_t dz, dW_h   all t at once

With `reverse` the loop (2) runs from t = T-1 to 0 and (2') from 0 to T-1; all arrays stay
in time order.

With `lengths (m,)` example j has the steps 0 .. lengths[j]-1. Beyond them its y is 0, its
state stays as it is (so the final state is that of its last step; in reverse it starts at
its last step), and nothing there, NaN included, touches a result or a gradient.

Truncated BPTT needs nothing more: the state that one window returns is the one that the
next window is given, and no gradient is passed back between them.
"""

from __future__ import annotations

from typing import NamedTuple

from seqcore import arrays, checks
from seqcore.arrays import Array, Namespace, Params
from seqcore.cells import Cell, Saved, State, products


class Tape(NamedTuple):
    """What the forward keeps for the way back: arrays and None only."""

    x: Array  # (T, n_x, m)
    start: State  # before the first step, (n_a, m) each
    states: State  # after each step, (T, n_a, m) each
    saved: Saved  # what each step kept, with a leading T
    mask: Array | None  # (T, 1, m), True where there is a step


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
) -> tuple[Array, State, Tape]:
    """Run `cell` over `x (T, n_x, m)`.

    Returns
    -------
    y, state, tape
        y `(T, n_a, m)`, the state after the last step, and what `backward` needs.
    """
    xp = arrays.namespace(x)
    n_steps, _, m = x.shape
    W_x, b, weights = cell.prepare(xp, params)
    if state is None:
        zero = xp.zeros((b.shape[1], m), dtype=x.dtype, device=arrays.device(x))
        state = cell.state_type._make([zero] * len(cell.state_type._fields))
    mask = None if lengths is None else sequence_mask(lengths, n_steps)[:, None, :]
    x = where_mask(xp, mask, x)
    z_x = products.input_product(xp, W_x, b, x)  # (1)

    def step(before: State, at: tuple[Array, ...]) -> tuple[State, tuple[Array, ...]]:
        z_t, mask_t = at
        after, saved = cell.step(xp, weights, z_t, before)
        if mask_t is not None:
            after = _freeze(xp, mask_t, after, before)
        return after, (*after, *saved)

    last, outs = arrays.scan(step, state, (z_x, mask), reverse=reverse)  # (2)
    n_states = len(state)
    states, saved = cell.state_type._make(outs[:n_states]), cell.saved_type._make(outs[n_states:])
    return where_mask(xp, mask, states[0]), last, Tape(x, state, states, saved, mask)


def backward(
    cell: Cell,
    params: Params,
    tape: Tape,
    dy: Array,
    dstate: State | None = None,
    *,
    reverse: bool = False,
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
    x, start, states, kept, mask = tape
    xp = arrays.namespace(x)
    weights = cell.prepare_vjp(xp, params)
    n_states = len(states)
    before = cell.state_type._make(
        [_shift(xp, *pair, reverse=reverse) for pair in zip(states, start, strict=True)]
    )
    if dstate is None:
        dstate = cell.state_type._make([xp.zeros_like(first) for first in start])

    def step_vjp(dafter: State, at: tuple[Array, ...]) -> tuple[State, tuple[Array, ...]]:
        before_t = cell.state_type._make(at[:n_states])
        after_t = cell.state_type._make(at[n_states : 2 * n_states])
        saved_t = cell.saved_type._make(at[2 * n_states : -2])
        dy_t, mask_t = at[-2:]
        active = cell.state_type._make([where_mask(xp, mask_t, d) for d in dafter])
        active = active._replace(h=active.h + dy_t)
        dz, dbefore = cell.step_vjp(xp, weights, before_t, after_t, saved_t, active)  # (2')
        if mask_t is not None:
            dbefore = _freeze(xp, mask_t, dbefore, dafter)
        return dbefore, (dz,)

    # Where there is no step, a state that stays must not overflow in a derivative.
    after = [where_mask(xp, mask, value) for value in states]
    xs = (*before, *after, *kept, where_mask(xp, mask, dy), mask)
    dstart, (dz,) = arrays.scan(step_vjp, dstate, xs, reverse=not reverse)
    dx = products.back(xp, products.transposed(xp, params["W_x"]), dz)  # (1')
    grads = {
        "W_x": products.over_time(xp, dz, x),
        "b": products.bias_over_time(xp, dz),
        **cell.recurrent_grads(xp, before, kept, dz),
    }
    return dx, {name: grads[name] for name in params}, dstart


def _freeze(xp: Namespace, mask: Array, new: State, old: State) -> State:
    """Return the new state where there is a step, the old one where there is none."""
    return type(new)._make([xp.where(mask, *pair) for pair in zip(new, old, strict=True)])


def _shift(xp: Namespace, states: Array, start: Array, *, reverse: bool) -> Array:
    """Return the states before each step from those after each step."""
    start = xp.expand_dims(start, axis=0)
    if reverse:
        return xp.concat((states[1:, ...], start))
    return xp.concat((start, states[:-1, ...]))
