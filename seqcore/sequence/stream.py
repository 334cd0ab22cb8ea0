"""A stack of cells, one time step of a stream at a time, without a tape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from seqcore import arrays, kernels
from seqcore.arrays import Array, Params
from seqcore.cells import Cell, State, linear

# Raises an error if a state is not one of the layer's.
Check: TypeAlias = Callable[[State], None]
# From x `(n_x, m)` and a state with a leading axis of layers to y `(n_a, m)` and the state after.
Step: TypeAlias = Callable[[Array, State], tuple[Array, State]]


def stack(place: str, cell: Cell, stacked: list[Params], m: int, check: Check) -> Step:
    """Return one step through cells that are stacked, for a batch of m.

    Parameters
    ----------
    place
        For the message about a wrong x.
    cell
        The cell of every layer.
    stacked
        The parameters of each layer, checked already.
    m
        Batch.
    check
        Called with a state whose arrays are not exactly of the type, dtype and shape that a
        step returns.
    """
    first = stacked[0]["W_x"]
    xp = kernels.of(arrays.namespace(first)).inner
    _, n_a, n_x = first.shape
    shape = (1, n_a, m)
    steps = [_step(cell, params, m) for params in stacked]
    zeros = xp.zeros((len(stacked), n_a, m), dtype=first.dtype, device=arrays.device(first))
    zero = cell.state_type._make([zeros] * len(cell.state_type._fields))
    expects = _expecting(cell.state_type, zeros, check)

    def take(x: Array, state: State = None) -> tuple[Array, State]:
        if x.shape != (n_x, m):
            raise ValueError(f"{place}: x has shape {tuple(x.shape)}, expected {(n_x, m)}")
        if state is None:
            state = zero
        else:
            expects(state)
        ends = []
        for number, step in enumerate(steps):
            end = step(x, cell.state_type._make([value[number, ...] for value in state]))
            ends.append([xp.reshape(value, shape) for value in end])
            x = end[0]
        if len(ends) == 1:
            return x, cell.state_type._make(ends[0])
        columns = zip(*ends, strict=True)
        return x, cell.state_type._make([xp.concat(column) for column in columns])

    if len(stacked) > 1:
        return take
    return _of_kernel(cell, stacked[0], m, take, expects)


def _expecting(state_type: type[Any], like: Array, check: Check) -> Check:
    """Return a function that checks a state, unless it has only arrays exactly like `like`."""
    kind, shape, dtype = type(like), like.shape, like.dtype
    enough = arrays.judged_by_kind(like)

    def expects(state: State) -> None:
        if type(state) is state_type:
            for value in state:
                if type(value) is not kind or value.shape != shape or value.dtype != dtype:
                    break
                if not enough and arrays.refusal(value) is not None:
                    break
            else:
                return
        check(state)

    return expects


def _step(cell: Cell, params: Params, m: int) -> Callable[[Array, State], State]:
    """Return one step of a cell, from x `(n_x, m)` and the state before to that after."""
    xp = kernels.of(arrays.namespace(params["b"])).inner
    _, of_step, maps = linear.plan_forward(xp, cell, linear.prepared(xp, cell, params), m)

    def take(x: Array, before: State) -> State:
        after, _ = cell.step(xp, maps, of_step(x), before)
        return after

    return take


def _of_kernel(cell: Cell, params: Params, m: int, general: Step, expects: Check) -> Step:
    """Return the step of a kernel for a single layer, or the general one."""
    xp = arrays.namespace(params["b"])
    weights = linear.prepared(kernels.of(xp).inner, cell, params)
    fast = kernels.of(xp).stream(cell.name, cell.options, weights, m)
    if fast is None:
        return general
    kernel, make = fast, cell.state_type._make
    shape, fields = (params["W_x"].shape[2], m), range(len(cell.state_type._fields))

    def take(x: Array, state: State = None) -> tuple[Array, State]:
        if state is None or x.shape != shape:
            return general(x, state)  # which raises the error
        expects(state)
        end = kernel(x, *[state[i] for i in fields])
        return end[0][0, ...], make(end)

    return take
