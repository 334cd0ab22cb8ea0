"""Prediction of long sequences in windows, so that only y grows with their length.

Of a layer that ends time, such as `Last`, y of the last window is that of the whole sequence.
"""

from __future__ import annotations

from seqcore import arrays, kernels, masks
from seqcore.arrays import Array, Params
from seqcore.layers.contract import State
from seqcore.layers.hooks import Hooks


def predict(
    layer: Hooks, params: Params, x: Array, state: State, steps: Array | None
) -> tuple[Array, State]:
    """Run a layer without a tape, over windows of x if it can read it in windows."""
    xp = arrays.namespace(x)

    def infer(x: Array, state: State, steps: Array | None) -> tuple[Array, State]:
        return layer.infer(params, masks.blank(xp, steps, x), state, steps)

    n_steps = x.shape[0]
    has_time = x.ndim >= layer.ndim
    # JAX reuses the memory between the windows by itself.
    if not has_time or not layer.reads_windows() or arrays.is_traced(x):
        return infer(x, state, steps)
    length = layer.window(x)
    if n_steps <= length:
        return infer(x, state, steps)
    whole = kernels.of(xp).parts(n_steps)
    for first in range(0, n_steps, length):
        window = slice(first, min(first + length, n_steps))
        part = None if steps is None else steps[window, ...]
        y, state = infer(x[window, ...], state, part)
        if layer.keeps_time:
            whole.put(first, y)
            del y  # before the next one is made
    return whole.array() if layer.keeps_time else y, state
