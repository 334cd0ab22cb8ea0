"""Which calls of a layer are checked, and the numbers that they are made with."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from seqcore import arrays, checks, random
from seqcore.arrays import Array, Params
from seqcore.layers.contract import names_of

if TYPE_CHECKING:
    import numpy as np

PLACE = "check_gradients"


class Case(NamedTuple):
    """One call to be checked."""

    n_steps: int | None  # None for an x without time
    lengths: bool = False
    mask: bool = False
    started: bool = True  # from a state of its own

    def __str__(self) -> str:
        words = "x without time" if self.n_steps is None else f"T = {self.n_steps}"
        which = [w for w, on in (("lengths", self.lengths), ("a mask", self.mask)) if on]
        words += f" with {' and '.join(which)}" if which else ""
        return words if self.started else f"{words} from the layer's own initial state"


def like_of(x: Array | None, like: Array | None) -> Array:
    """Return an array of float64 of the library to use."""
    if x is not None:
        checks.one_library(PLACE, {"x": x})
    if like is None:
        xp = arrays.import_library("numpy") if x is None else arrays.namespace(x)
        where = {} if x is None else {"device": arrays.device(x)}
        like = xp.zeros((0,), dtype=xp.float64, **where)
    checks.floats(PLACE, {"like": like})
    if like.dtype != arrays.namespace(like).float64:
        raise TypeError(
            f"{PLACE}: like has dtype {like.dtype}, expected float64: differences need its digits"
        )
    if x is not None:
        checks.one_library(PLACE, {"like": like, "x": x})
        if arrays.is_floating(x):
            checks.floating(PLACE, {"like": like, "x": x})
    return like


def cases(
    layer: Any,
    x: Array | None,
    steps: tuple[int, ...] | None,
    lengths: bool | None,
    mask: bool | None,
) -> Iterator[Case]:
    """Yield the calls to be checked, simple ones first."""
    if x is not None and x.ndim == 2 and arrays.is_floating(x):
        yield Case(None)
        yield Case(None, started=False)
        return
    if steps is None:
        steps = (1, 4) if x is None else (1, x.shape[0])
    for n in steps:
        checks.count(PLACE, steps=n)
        if x is not None and n > x.shape[0]:
            raise ValueError(f"{PLACE}: steps holds {n}, expected at most T = {x.shape[0]} of x")
    taken = inspect.signature(layer.forward).parameters
    any_name = any(p.kind is p.VAR_KEYWORD for p in taken.values())
    lengths = (any_name or "lengths" in taken) if lengths is None else lengths
    mask = (any_name or "mask" in taken) if mask is None else mask
    for n in dict.fromkeys(steps):
        yield Case(n)
        if lengths:
            yield Case(n, lengths=True)
        if mask:
            yield Case(n, mask=True)
        if lengths and mask:
            yield Case(n, lengths=True, mask=True)
    yield Case(max(steps), started=False)


def parameters(
    layer: Any, n_in: int, params: Params | None, like: Array, rng: np.random.Generator
) -> Params:
    """Return the parameters given, or draw some of which none is 0."""
    if params is None:
        params = layer.init(n_in, like=like, rng=rng)
        params = {
            name: value + random.normal(rng, tuple(value.shape), 0.1, like)
            for name, value in params.items()
        }
    checks.parameters(PLACE, params, names_of(layer))
    checks.floats(PLACE, {"like": like, **params})
    return params


def input_of(
    case: Case, x: Array | None, n_in: int, m: int, like: Array, rng: np.random.Generator
) -> Array:
    """Return x of a call: drawn, or as much of the one that was given as the call takes."""
    if x is None:
        return random.normal(rng, (case.n_steps or 1, n_in, m), 1.0, like)
    return x if case.n_steps is None else x[: case.n_steps, ...]


def options_of(
    case: Case, layer: Any, x: Array, draw: int | None, like: Array, rng: np.random.Generator
) -> dict[str, Any]:
    """Return the lengths, the mask and the draw of a call, where it has them."""
    n_steps, m = x.shape[0], x.shape[-1]
    options: dict[str, Any] = {}
    if case.lengths:  # some of the steps, all, and none
        lengths = [(n_steps // 2, n_steps, 0)[j % 3] for j in range(m)]
        options["lengths"] = arrays.integers_like(lengths, like)
    if case.mask:
        seen = (rng.random((n_steps, m)) < 0.6).tolist()
        options["mask"] = arrays.like(seen, like, dtype=arrays.namespace(like).bool)
    if getattr(layer, "drops", False) or draw is not None:
        options["draw"] = 0 if draw is None else draw
    return options
