"""A cell over a sequence, and back through time.

A whole recurrence of a kernel is used where one supports the job, and otherwise the loop over
time of `stepwise.py`, whose equations hold for both.

For truncated BPTT, give each window the state that the last one returned, and pass no gradient
back between them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from seqcore import arrays, kernels
from seqcore.arrays import Array, Params, Static
from seqcore.cells import Cell, State, linear
from seqcore.kernels import Job, Recurrence, Weights
from seqcore.sequence import stepwise
from seqcore.sequence.tape import How, Tape

__all__ = ["Ready", "Tape", "backward", "forward", "predict", "prepare", "zeros"]


class Ready(NamedTuple):
    """A cell with its parameters, prepared for many calls."""

    cell: Cell
    params: Params
    weights: Weights


def prepare(cell: Cell, params: Params) -> Ready:
    """Return a cell that is ready to run."""
    xp = kernels.of(arrays.namespace(params["b"])).inner
    return Ready(cell, params, linear.prepared(xp, cell, params))


def zeros(cell: Cell, x: Array, n_a: int) -> State:
    """Return the zero state, before a sequence begins."""
    zero = arrays.namespace(x).zeros((n_a, x.shape[2]), dtype=x.dtype, device=arrays.device(x))
    return cell.state_type._make([zero] * len(cell.state_type._fields))


def forward(
    ready: Ready,
    x: Array,
    state: State,
    mask: Array | None = None,
    *,
    reverse: bool = False,
    recompute: bool | int = False,
) -> tuple[Array, State, Tape]:
    """Run a cell over `x (T, n_x, m)`.

    Parameters
    ----------
    ready
        From `prepare`.
    x : (T, n_x, m)
        0 where the mask is False.
    state
        Before the first step, `(n_a, m)` each.
    mask : (T, 1, m) of bool, optional
        Where there is a step.
    reverse
        Run from the last step to the first.
    recompute
        Keep the state of every k-th step only; True for k about the square root of T.

    Returns
    -------
    y, state, tape
        y `(T, n_a, m)`, the state after the last step, and what `backward` needs.
    """
    cell, params, weights = ready
    found = _recurrence(ready, x, mask, reverse=reverse, recompute=recompute)
    how = How(cell, reverse, recompute, found)
    if found is None:
        return stepwise.forward(how, weights, x, state, mask)
    y, end, extra = found.forward(found.prepare(params, weights), x, mask, tuple(state))
    tape = Tape(Static(how), x, mask, (state,), None, extra)
    return y, cell.state_type._make(end), tape


def predict(
    ready: Ready,
    x: Array,
    state: State,
    mask: Array | None = None,
    *,
    reverse: bool = False,
) -> tuple[Array, State]:
    """Run a cell as `forward` does, but keep no tape."""
    cell, params, weights = ready
    found = _recurrence(ready, x, mask, reverse=reverse, recompute=False)
    if found is None:
        return stepwise.predict(cell, weights, x, state, mask, reverse=reverse)
    y, end = found.predict(found.prepare(params, weights), x, mask, tuple(state))
    return y, cell.state_type._make(end)


def backward(
    params: Params,
    tape: Tape,
    dy: Array,
    dstate: State | None = None,
    wanted: frozenset[str] | None = None,
) -> tuple[Array | None, Params, State]:
    """Run the backward pass of a call of `forward`, from its tape.

    Parameters
    ----------
    params
        Those that `forward` was given.
    dy : (T, n_a, m)
        dL/dy, 0 where the mask is False.
    dstate
        dL/d(state after the last step); None for zero.
    wanted
        Names of the parameters whose gradients are wanted, and "x" for dx; None for all.

    Returns
    -------
    dx, grads, dstate
        dL/dx `(T, n_x, m)` or None, the gradients that are wanted, and dL/d(state before the
        first step).
    """
    how = tape.how.value
    xp = arrays.namespace(tape.x)
    if wanted is None:
        wanted = frozenset({"x", *params})
    if dstate is None:
        kind = how.cell.state_type
        dstate = kind._make([xp.zeros_like(first) for first in tape.starts[0]])
    if how.recurrence is None:
        return stepwise.backward(params, tape, dy, dstate, wanted)
    inner = kernels.of(xp).inner
    ready = how.recurrence.prepare(params, linear.prepared(inner, how.cell, params))
    dx, grads, dbefore = how.recurrence.backward(
        ready, tape.x, tape.mask, tape.extra, dy, tuple(dstate), wanted
    )
    return dx, grads, how.cell.state_type._make(dbefore)


def _recurrence(
    ready: Ready, x: Array, mask: Any, *, reverse: bool, recompute: bool | int
) -> Recurrence | None:
    n_steps, n_x, m = x.shape
    job = Job(
        cell=ready.cell.name,
        options=ready.cell.options,
        n_steps=n_steps,
        n_x=n_x,
        n_a=ready.params["b"].shape[1],
        m=m,
        dtype=x.dtype,
        reverse=reverse,
        masked=mask is not None,
        recompute=recompute,
    )
    return kernels.of(arrays.namespace(x)).recurrence(job)
