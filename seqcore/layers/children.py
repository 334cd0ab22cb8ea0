"""How a container runs its children: built-in layers unchecked, others by public methods."""

from __future__ import annotations

from typing import Any

from seqcore import arrays, masks
from seqcore.arrays import Array, Params
from seqcore.layers.contract import STATE, Bound, Layer, State, X
from seqcore.layers.door import BuiltIn
from seqcore.layers.hooks import Step, Wanted
from seqcore.random import Draw


def run(
    layer: Layer, params: Params, x: Array, state: State, steps: Array | None, draw: Draw | None
) -> tuple[Array, State, Any]:
    """Run a child forward; return y, the state after, and what `run_back` needs."""
    if isinstance(layer, BuiltIn):
        return layer.run(params, x, state, steps, draw)
    given: dict[str, Any] = {} if draw is None else {"draw": draw.plain(x)}
    y, after, tape = layer.forward(params, x, state, **given, **_mask(steps))
    return _blank(layer, steps, y), after, (tape, steps)


def infer(
    layer: Layer, params: Params, x: Array, state: State, steps: Array | None
) -> tuple[Array, State]:
    """Run a child without a tape."""
    if isinstance(layer, BuiltIn):
        return layer.infer(params, x, state, steps)
    y, after = layer.predict(params, x, state, **_mask(steps))
    return _blank(layer, steps, y), after


def run_back(
    layer: Layer, params: Params, kept: Any, dy: Array, dstate: State, wanted: Wanted
) -> tuple[Array | None, Params, State]:
    """Run the backward pass of a child."""
    if isinstance(layer, BuiltIn):
        return layer.run_back(params, kept, dy, dstate, wanted)
    tape, steps = kept
    some: dict[str, Any] = {} if wanted >= {X, *params} else {"wrt": tuple(wanted - {STATE})}
    dx, grads, dbefore = layer.backward(params, tape, dy, dstate, **some)
    if dx is not None and X in wanted:
        dx = masks.blank(arrays.namespace(dx), steps, dx)
    return dx, grads, dbefore


def step(layer: Layer, params: Params, m: int) -> Step:
    """Return a step of a user's layer, which is not bound before the first one is taken."""
    bound: list[Bound] = []

    def take(x: Array, state: State = None) -> tuple[Array, State]:
        if not bound:
            bound.append(layer.bind(params, m))
        return bound[0](x, state)

    return take


def _mask(steps: Array | None) -> dict[str, Array]:
    """Return the mask, if any, as a keyword argument: a user's layer may not take masks."""
    return {} if steps is None else {"mask": steps}


def _blank(layer: Layer, steps: Array | None, y: Array) -> Array:
    keeps = getattr(layer, "keeps_time", True)
    return masks.blank(arrays.namespace(y), steps, y) if keeps else y
