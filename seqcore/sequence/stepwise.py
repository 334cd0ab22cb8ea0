"""A cell over time step by step, and back through time (BPTT): the generic code.

    forward   (1) z_x[t] = W_x x[t] + b                   a block of t at once
              (2) s[t], saved[t] = step(z_x[t], s[t-1])   t = 0 .. T-1, y = h
    backward  (2') ds[t] += dy[t];  dz[t], ds[t-1] = step_vjp(ds[t])    t = T-1 .. 0
              (1') dx = W_x^T dz,  dW_x = sum_t dz x^T,  db = sum_t dz, dW_h
                                                          a block of t at once

With `reverse` the loop (2) runs from t = T-1 to 0 and (2') from 0 to T-1; all arrays stay
in time order.

Where the mask is False there is no step: y is 0 and the state stays as it is, so that the
final state is that of the last step. x and dy must be 0 there.

With `recompute` the forward pass keeps only the state before every k-th step, and the backward
pass runs forward again over one segment of k steps at a time. All products are taken over the
same blocks of steps as without it, so that the gradients are the same to the bit.

Source of `recompute`: Chen, Xu, Zhang & Guestrin, "Training deep nets with sublinear memory
cost", arXiv:1604.06174, section 4.
"""

from __future__ import annotations

from collections.abc import Callable

from seqcore import arrays, kernels
from seqcore.arrays import Array, Namespace, Params, Series, Static
from seqcore.cells import Cell, Saved, State, linear
from seqcore.kernels import Weights
from seqcore.masks import where_mask
from seqcore.sequence.loop import Block, scan, segments
from seqcore.sequence.tape import How, Tape


def predict(
    cell: Cell,
    weights: Weights,
    x: Array,
    state: State,
    mask: Array | None,
    *,
    reverse: bool,
) -> tuple[Array, State]:
    """Run `cell` over `x (T, n_x, m)` and keep nothing but y and the state."""
    xp = kernels.of(arrays.namespace(x)).inner
    n_steps, _, m = x.shape
    over = _forward_blocks(cell, xp, weights, x, mask, reverse=reverse, keep=False)
    (blocks,) = segments(xp, n_steps, m, recompute=False, reverse=reverse)
    y = kernels.of(xp).parts(n_steps)
    for block in blocks:
        state, h, _ = over(block, state)
        if mask is not None:
            h = where_mask(xp, mask[slice(*block), ...], arrays.joined(xp, [h], axis=0))
        y.put(block[0], h)
    return y.array(), state


def forward(
    how: How,
    weights: Weights,
    x: Array,
    state: State,
    mask: Array | None,
) -> tuple[Array, State, Tape]:
    """Run a cell over `x (T, n_x, m)`: return y `(T, n_a, m)`, the state after, and the tape."""
    cell, reverse, recompute, _ = how
    xp = kernels.of(arrays.namespace(x)).inner
    n_steps, _, m = x.shape
    over = _forward_blocks(cell, xp, weights, x, mask, reverse=reverse, keep=True)
    starts: list[State] = []
    hs: list[Series] = []
    saved: list[Saved] = []
    for blocks in segments(xp, n_steps, m, recompute, reverse=reverse):
        starts.append(state)
        for block in blocks:
            state, h, kept = over(block, state)
            hs.append(h)
            if not recompute:
                saved.append(kept)
    kept_steps = None if recompute else tuple(saved)
    tape = Tape(Static(how), x, mask, tuple(starts), kept_steps)
    return _joined(xp, hs, mask, reverse=reverse), state, tape


def _joined(xp: Namespace, hs: list[Series], mask: Array | None, *, reverse: bool) -> Array:
    if reverse:
        hs.reverse()
    return where_mask(xp, mask, arrays.joined(xp, hs, axis=0))


def backward(
    params: Params, tape: Tape, dy: Array, dstate: State, wanted: frozenset[str]
) -> tuple[Array | None, Params, State]:
    """Run the backward pass of a call of `forward`.

    Returns
    -------
    dx, grads, dstate
        dL/dx `(T, n_x, m)`, None unless "x" is wanted; the gradients of the parameters that
        are wanted; and dL/d(state before the first step).
    """
    cell, reverse, recompute, _ = tape.how.value
    x, mask = tape.x, tape.mask
    xp = kernels.of(arrays.namespace(x)).inner
    n_steps, n_x, m = x.shape
    names = [name for name in params if name in wanted]
    again = (
        _forward_blocks(
            cell, xp, linear.prepared(xp, cell, params), x, mask, reverse=reverse, keep=True
        )
        if tape.saved is None
        else None
    )
    over = _backward_blocks(cell, xp, params, x, dy, mask, reverse=reverse)
    found = segments(xp, n_steps, m, recompute, reverse=reverse)
    dxs: list[Array] = []
    outers: tuple[Array, ...] = ()
    own: tuple[Array, ...] = ()
    for blocks, state in zip(reversed(found), reversed(tape.starts), strict=True):
        kept = tape.saved or ()
        if again is not None:
            steps: list[Saved] = []
            for block in blocks:
                state, _, saved = again(block, state)
                steps.append(saved)
            kept = tuple(steps)
        for block, saved in zip(reversed(blocks), reversed(kept), strict=True):
            dstate, dz, dx, more = over(block, saved, dstate)
            if "x" in wanted:
                dxs.append(dx(dz))
            if names:
                here = x[slice(*block), ...]
                outers = linear.summed(outers, linear.outers(xp, cell, dz, here, saved))
                own = linear.summed(own, more)
    grads = linear.grads(xp, cell, outers, own, n_x) if names else {}
    if not reverse:
        dxs.reverse()
    whole = None
    if dxs:
        whole = xp.moveaxis(dxs[0] if len(dxs) == 1 else xp.concat(dxs, axis=1), 1, 0)
    return whole, {name: grads[name] for name in names}, dstate


def _forward_blocks(
    cell: Cell,
    xp: Namespace,
    weights: Weights,
    x: Array,
    mask: Array | None,
    *,
    reverse: bool,
    keep: bool,
) -> Callable[[Block, State], tuple[State, Series, Saved]]:
    """Return a function over a block of steps: to the state after, a series of h, and saved."""
    of_x, _, maps = linear.plan_forward(xp, cell, weights, x.shape[2])

    def step(before: State, at: tuple[Array, ...]) -> tuple[State, tuple[Array, ...]]:
        x_t, mask_t = at
        after, saved = cell.step(xp, maps, x_t, before)
        if mask_t is not None:
            after = _freeze(xp, mask_t, after, before)
        return after, ((after[0], *saved) if keep else (after[0],))

    def over(block: Block, state: State) -> tuple[State, Series, Saved]:
        at = slice(*block)
        xs = (of_x(x[at, ...]), None if mask is None else mask[at, ...])  # (1)
        state, (h, *saved) = scan(step, state, xs, reverse=reverse)  # (2)
        return state, h, cell.saved_type._make(saved) if keep else ()

    return over


def _backward_blocks(
    cell: Cell,
    xp: Namespace,
    params: Params,
    x: Array,
    dy: Array,
    mask: Array | None,
    *,
    reverse: bool,
) -> Callable[
    [Block, Saved, State],
    tuple[State, Array, Callable[[Array], Array], tuple[Array, ...]],
]:
    """Return a function that goes back over a block of steps.

    It returns dL/d(state before), dz as columns, a function from dz to dx `(n_x, T, m)`, and the
    gradients of the elementwise parameters.
    """
    n_x, m = x.shape[1:]
    plan = linear.plan_backward(xp, cell, params, m)
    columns = 1 if plan.W_x_t is not None else 2

    def step_vjp(dafter: State, at: tuple[Array, ...]) -> tuple[State, tuple[Array, ...]]:
        *saved, dy_t, mask_t = at
        saved_t = cell.saved_type._make(saved)
        active = dafter
        if mask_t is not None:
            active = [where_mask(xp, mask_t, d) for d in dafter]
        active = cell.state_type(active[0] + dy_t, *active[1:])
        dz, dbefore, own = cell.step_vjp(xp, plan.maps, saved_t, active)  # (2')
        if mask_t is not None:
            dbefore = _freeze(xp, mask_t, dbefore, dafter)
        return dbefore, (dz, *plan.dx(), *own)

    def over(
        block: Block, saved: Saved, dstate: State
    ) -> tuple[State, Array, Callable[[Array], Array], tuple[Array, ...]]:
        at = slice(*block)
        xs = (*saved, dy[at, ...], None if mask is None else mask[at, ...])
        dstate, outs = scan(step_vjp, dstate, xs, reverse=not reverse, columns=columns)
        n_steps = block[1] - block[0]
        dz = xp.reshape(outs[0], (-1, n_steps * m))
        own = tuple([xp.sum(arrays.joined(xp, [out], axis=0), axis=0) for out in outs[columns:]])

        def dx(dz: Array) -> Array:
            W_x_t = plan.W_x_t
            of_x = outs[1] if W_x_t is None else W_x_t @ dz[: W_x_t.shape[1], ...]  # (1')
            return xp.reshape(of_x, (n_x, n_steps, m))

        return dstate, dz, dx, own

    return over


def _freeze(xp: Namespace, mask: Array, new: State, old: State) -> State:
    """Return the new state where there is a step, the old one where there is none."""
    return type(new)._make([xp.where(mask, *pair) for pair in zip(new, old, strict=True)])
