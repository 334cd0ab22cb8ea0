"""The loop over time, and its division into blocks and segments of steps.

A block is a number of steps whose input products, dx and weight gradients are taken at once.
A segment is a number of blocks between two states that are kept: with `recompute` a sequence
has several segments, otherwise one.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt
from typing import Any, TypeAlias, TypeVar

from seqcore import arrays, kernels
from seqcore.arrays import Array, Namespace, Series
from seqcore.kernels.contract import stack_series

Carry = TypeVar("Carry")
# The first step, and the one after the last.
Block: TypeAlias = tuple[int, int]


def scan(
    step: Callable[[Carry, tuple[Any, ...]], tuple[Carry, tuple[Array, ...]]],
    init: Carry,
    xs: tuple[Series | None, ...],
    *,
    reverse: bool = False,
    columns: int = 0,
) -> tuple[Carry, tuple[Series, ...]]:
    """Carry a state through time and keep the outputs of each step.

    Parameters
    ----------
    step
        `step(carry, x) -> (carry, out)`, where `x` is the tuple of the `xs` at one time
        (None stays None) and `out` is a tuple of arrays.
    init
        The carry before the first step.
    xs
        Series of one length T >= 1, or None.
    reverse
        Run from the last time to the first. The outputs stay in time order.
    columns
        How many of the outputs, the first ones, are returned as one array `(..., T, m)` each.

    Returns
    -------
    carry, outs
        The carry after the last step, and a series of each output.
    """
    xp = arrays.namespace(*[x[0] if isinstance(x, tuple) else x for x in xs if x is not None][:1])
    kernel = kernels.of(xp)
    if kernel.loops:
        stacked = tuple([None if x is None else stack_series(xp, x) for x in xs])
        scanned = kernel.scan(step, init, stacked, reverse=reverse)
        if scanned is not None:
            carry, outs = scanned
            first = [arrays.joined(xp, [out], axis=-2) for out in outs[:columns]]
            return carry, (*first, *outs[columns:])
    xp = kernel.inner
    n_steps = next(len(x) if isinstance(x, tuple) else x.shape[0] for x in xs if x is not None)
    rows = [(None,) * n_steps if x is None else arrays.unstacked(xp, x) for x in xs]
    times = list(enumerate(zip(*rows, strict=True)))
    gathered = [kernel.columns(n_steps) for _ in range(columns)]
    carry = init
    kept: list[tuple[Array, ...]] = []
    for t, at in reversed(times) if reverse else times:
        carry, out = step(carry, at)
        for i in range(columns):
            gathered[i].put(t, out[i])
        kept.append(out[columns:] if columns else out)
    if reverse:
        kept.reverse()
    return carry, (*[columns.array() for columns in gathered], *zip(*kept, strict=True))


def segments(
    xp: Namespace, n_steps: int, m: int, recompute: bool | int, *, reverse: bool
) -> list[list[Block]]:
    """Return the blocks of each segment, in the order of the forward pass.

    With `recompute` a segment has about k steps, rounded up to whole blocks: the same blocks
    as without it.
    """
    steps = n_steps
    if recompute:
        steps = isqrt(n_steps) if recompute is True else recompute
    length = kernels.of(xp).block_steps(steps, m)
    steps = -(-steps // length) * length
    found = [
        [
            (first, min(first + length, n_steps))
            for first in range(start, min(start + steps, n_steps), length)
        ]
        for start in range(0, n_steps, steps)
    ]
    return [blocks[::-1] for blocks in found[::-1]] if reverse else found
