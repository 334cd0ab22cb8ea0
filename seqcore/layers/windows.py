"""Long sequences in windows, where only y is wanted."""

from __future__ import annotations

from collections.abc import Callable

from seqcore import arrays, kernels
from seqcore.arrays import Array
from seqcore.layers.contract import State

WINDOW = 1024  # steps


def in_windows(
    infer: Callable[[Array, State, Array | None], tuple[Array, State]],
    x: Array,
    state: State,
    steps: Array | None,
    length: int,
) -> tuple[Array, State]:
    """Predict a sequence in windows, so that memory between layers does not grow with T."""
    n_steps = x.shape[0]
    # JAX reuses the memory between layers by itself.
    if n_steps <= length or arrays.is_traced(x):
        return infer(x, state, steps)
    whole = kernels.of(arrays.namespace(x)).parts(n_steps)
    for first in range(0, n_steps, length):
        window = slice(first, min(first + length, n_steps))
        part = None if steps is None else steps[window, ...]
        y, state = infer(x[window, ...], state, part)
        whole.put(first, y)
        del y  # before the next one is made
    return whole.array(), state
