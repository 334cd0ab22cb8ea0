"""Which calls of a layer are checked, and the numbers that they are made with."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from seqcore import arrays, checks, random
from seqcore.arrays import Array, Params
from seqcore.gradients.differences import largest
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
    _double("like", like)
    if x is not None:
        checks.one_library(PLACE, {"like": like, "x": x})
        _check_x(x)
    return like


def _double(name: str, array: Array) -> None:
    if array.dtype != arrays.namespace(array).float64:
        raise TypeError(
            f"{PLACE}: {name} has dtype {array.dtype}, expected float64: differences need its "
            "digits"
        )


def _finite(name: str, array: Array) -> None:
    if not math.isfinite(largest(array)):
        raise ValueError(f"{PLACE}: {name} has an entry that is not finite")


def _check_x(x: Array) -> None:
    shape = tuple(x.shape)
    if len(shape) < 2 or 0 in shape:
        raise ValueError(
            f"{PLACE}: x has shape {shape}, expected (T, n_in, m), (T, m) of tokens, or (n_in, m) "
            "without time, none of them 0"
        )
    if arrays.is_floating(x):
        _double("x", x)
        _finite("x", x)


def batch_of(x: Array | None, m: int | None) -> int:
    """Return the batch size: that of x, where there is one."""
    if m is not None:
        checks.count(PLACE, m=m)
    if x is None:
        return 3 if m is None else int(m)
    if m is not None and m != x.shape[-1]:
        raise ValueError(f"{PLACE}: m is {m}, expected {x.shape[-1]}, the batch of x, or None")
    return int(x.shape[-1])


def check_draw(layer: Any, draw: Any) -> None:
    """Require a draw that the layer takes, or None."""
    if draw is None:
        return
    # A layer in the contract takes an array without axes too.
    if not checks.is_whole(draw) and not (
        arrays.is_array(draw) and arrays.is_integer(draw) and draw.ndim == 0
    ):
        raise TypeError(
            f"{PLACE}: draw is {draw!r}, expected a whole number, a 0-d array of integers or None"
        )
    if not _takes(layer, "draw"):
        raise ValueError(f"{PLACE}: draw is {draw!r}, but the layer's forward takes no draw")


def _takes(layer: Any, option: str) -> bool:
    taken = inspect.signature(layer.forward).parameters
    return option in taken or any(p.kind is p.VAR_KEYWORD for p in taken.values())


def _flag(layer: Any, option: str, given: Any) -> bool:
    """Return whether to call the layer with lengths or a mask."""
    if given is None:
        return _takes(layer, option)
    if not isinstance(given, bool):
        said = f"a {type(given).__name__}" if arrays.is_array(given) else repr(given)
        raise TypeError(
            f"{PLACE}: {option} is {said}, expected True, False or None: the numbers are drawn"
        )
    if given and not _takes(layer, option):
        raise ValueError(f"{PLACE}: {option} is True, but the layer's forward takes no {option}")
    return given


def _steps(steps: Any, x: Array | None) -> tuple[int, ...]:
    if steps is None:
        return (1, 4) if x is None else (1, x.shape[0])
    if isinstance(steps, str) or arrays.is_array(steps) or not isinstance(steps, Iterable):
        said = f"a {type(steps).__name__}" if arrays.is_array(steps) else repr(steps)
        raise TypeError(f"{PLACE}: steps is {said}, expected a tuple of whole numbers")
    steps = tuple(steps)
    if not steps:
        raise ValueError(f"{PLACE}: steps is empty, expected at least one number of steps")
    for n in steps:
        checks.count(PLACE, steps=n)
        if x is not None and n > x.shape[0]:
            raise ValueError(f"{PLACE}: steps holds {n}, expected at most T = {x.shape[0]} of x")
    return tuple(map(int, steps))


def cases(
    layer: Any,
    x: Array | None,
    steps: tuple[int, ...] | None,
    lengths: bool | None,
    mask: bool | None,
) -> list[Case]:
    """Return the calls to be checked, simple ones first."""
    which = {name: _flag(layer, name, v) for name, v in (("lengths", lengths), ("mask", mask))}
    if x is not None and x.ndim == 2 and arrays.is_floating(x):
        for name, value in (("steps", steps), ("lengths", lengths), ("mask", mask)):
            if value:
                raise ValueError(f"{PLACE}: {name} is {value!r}, but x is a matrix without time")
        return [Case(None), Case(None, started=False)]
    found = []
    for n in dict.fromkeys(_steps(steps, x)):
        found.append(Case(n))
        if which["lengths"]:
            found.append(Case(n, lengths=True))
        if which["mask"]:
            found.append(Case(n, mask=True))
        if all(which.values()):
            found.append(Case(n, lengths=True, mask=True))
    return found + [case._replace(started=False) for case in found]


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
    checks.one_library(PLACE, {"like": like, **params})
    for name, value in params.items():
        checks.floating(PLACE, {name: value})
        _double(name, value)
        _finite(name, value)
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
