"""The tape of a sequence: what its backward pass needs, and how the forward pass ran."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any, NamedTuple

from seqcore import arrays
from seqcore.arrays import Array, Namespace, Series, Static
from seqcore.cells import Cell, Saved, State
from seqcore.kernels import Recurrence
from seqcore.sequence.loop import segments


class How(NamedTuple):
    """How the forward pass ran."""

    cell: Cell
    reverse: bool
    recompute: bool | int
    recurrence: Recurrence | None  # the kernel that made it; None for the loop over time


class Tape(NamedTuple):
    """What the forward pass keeps for the backward pass: tuples of arrays, and static values."""

    how: Static[How]
    x: Array  # (T, n_x, m)
    mask: Array | None  # (T, 1, m), True where there is a step
    starts: tuple[State, ...]  # before each segment, (n_a, m) each
    saved: tuple[Saved, ...] | None  # for each block, a series of what each step kept
    extra: Any = ()  # what a kernel kept


def of_steps(cell: Cell, x: Array, start: State, saved: Saved) -> Tape:
    """Return the tape of a sequence without a mask from a series of each saved array."""
    xp, (n_steps, _, m) = arrays.namespace(x), x.shape
    (blocks,) = segments(xp, n_steps, m, recompute=False, reverse=False)
    parts = [type(saved)._make([series[first:stop] for series in saved]) for first, stop in blocks]
    how = How(cell, reverse=False, recompute=False, recurrence=None)
    return Tape(Static(how), x, None, (start,), tuple(parts))


def saved_steps(xp: Namespace, tape: Tape) -> tuple[tuple[Array, ...], ...]:
    """Return all that each step saved, from a tape made without `reverse` and `recompute`."""
    columns: Iterable[tuple[Series, ...]] = zip(*(tape.saved or ()), strict=True)
    return tuple([tuple(chain(*[arrays.unstacked(xp, p) for p in parts])) for parts in columns])
