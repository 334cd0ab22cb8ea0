"""How a container runs its children: built-in layers unchecked, others by public methods.

A built-in layer was checked at the door. Of a user's layer nothing is known before it has run, so
all that it returns is checked here, the only place where it comes out: however containers are
nested, what goes on from a user's layer is an array that every other layer can take.

    y          of x's library, device and dtype, `(T, n_out, m)` or, without time, `(n_out, m)`
    dx, grads  of the shapes of x and of the parameters, in the dtype of y
    states     whose arrays are of x's library
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

from seqcore import arrays, checks, masks
from seqcore.arrays import Array, Params, Static
from seqcore.layers.contract import STATE, Bound, Layer, State, X
from seqcore.layers.door import BuiltIn
from seqcore.layers.hooks import Step, Wanted
from seqcore.random import Draw


class Taken(NamedTuple):
    """What a user's layer was given as x."""

    shape: tuple[int, ...]
    floats: bool  # others, such as tokens, have no gradient


class Kept(NamedTuple):
    """What the backward pass of a user's layer needs."""

    tape: Any
    steps: Array | None
    like: Array  # without entries, of the library, device and dtype of y
    x: Static[Taken]


def all_built_in(layer: Layer) -> bool:
    """Tell whether no user's layer is in it."""
    return isinstance(layer, BuiltIn) and layer.all_built_in


def keeps_time(layer: Layer) -> bool:
    """Tell whether y has the time axis of x."""
    return getattr(layer, "keeps_time", True)


def features(layer: Layer, n_in: int | None) -> int | None:
    """Return the features of y for those of x; None where they are not known."""
    if isinstance(layer, BuiltIn):
        return layer.features(n_in)
    return getattr(layer, "n_out", None)


def run(
    layer: Layer, params: Params, x: Array, state: State, steps: Array | None, draw: Draw | None
) -> tuple[Array, State, Any]:
    """Run a child forward; return y, the state after, and what `run_back` needs."""
    if isinstance(layer, BuiltIn):
        return layer.run(params, x, state, steps, draw)
    given: dict[str, Any] = {} if draw is None else {"draw": draw.plain(x)}
    found = layer.forward(params, x, state, **given, **_mask(steps))
    y, after, tape = _parts(layer, "forward", found, "y, state, tape")
    y = _came_out(layer, params, x, steps, y, after)
    like = arrays.namespace(y).zeros((0,), dtype=y.dtype, device=arrays.device(y))
    taken = Taken(tuple(x.shape), arrays.is_single_or_double(x))
    return y, after, Kept(tape, steps, like, Static(taken))


def infer(
    layer: Layer, params: Params, x: Array, state: State, steps: Array | None
) -> tuple[Array, State]:
    """Run a child without a tape."""
    if isinstance(layer, BuiltIn):
        return layer.infer(params, x, state, steps)
    found = layer.predict(params, x, state, **_mask(steps))
    y, after = _parts(layer, "predict", found, "y, state")
    return _came_out(layer, params, x, steps, y, after), after


def run_back(
    layer: Layer, params: Params, kept: Any, dy: Array, dstate: State, wanted: Wanted
) -> tuple[Array | None, Params, State]:
    """Run the backward pass of a child."""
    if isinstance(layer, BuiltIn):
        return layer.run_back(params, kept, dy, dstate, wanted)
    tape, steps, _, taken = kept
    some: dict[str, Any] = {} if wanted >= {X, *params} else {"wrt": tuple(wanted - {STATE})}
    found = layer.backward(params, tape, dy, dstate, **some)
    dx, grads, dbefore = _parts(layer, "backward", found, "dx, grads, dstate")
    if X in wanted and (dx is not None or taken.value.floats):
        _check_gradient(layer, "dx", dx, dy, taken.value.shape, "x")
        dx = masks.blank(arrays.namespace(dx), steps, dx)
    if not isinstance(grads, Mapping):
        raise TypeError(f"{_name(layer)}: grads is a {type(grads).__name__}, expected a dict")
    names = [name for name in params if name in wanted]
    for name in names:
        if name not in grads:
            came = ", ".join(map(repr, grads)) or "none"
            raise ValueError(f"{_name(layer)}: gradient {name!r} is missing; got {came}")
        shape = tuple(params[name].shape)
        _check_gradient(layer, f"gradient {name!r}", grads[name], dy, shape, name)
    _check_arrays(layer, "dL/d(state before)", dbefore, dy)
    return dx, {name: grads[name] for name in names}, dbefore


def step(layer: Layer, params: Params, m: int, *, unknown: bool = False) -> Step:
    """Return a step of a child; of `unknown` x, which a user's layer gave, it checks the kind."""
    if not isinstance(layer, BuiltIn):
        return _step_of_user(layer, params, m)
    take = layer.step(params, m)
    if not unknown:
        return take
    few = layer.one_of(params)

    def check_and_take(x: Array, state: State = None) -> tuple[Array, State]:
        layer.check_arrays(few, x)
        return take(x, state)

    return check_and_take


def _step_of_user(layer: Layer, params: Params, m: int) -> Step:
    """Return a step of a user's layer, which is not bound before the first one is taken."""
    bound: list[Bound] = []

    def take(x: Array, state: State = None) -> tuple[Array, State]:
        if x.shape[-1:] != (m,):
            raise ValueError(
                f"{_name(layer)}: x has shape {tuple(x.shape)}, expected a batch of {m}"
            )
        if not bound:
            bound.append(layer.bind(params, m))
        y, after = _parts(layer, "a step", bound[0](x, state), "y, state")
        _check_kind(layer, params, x, y)
        _check_shape(layer, y, ("n_out", "m"), {"m": m}, more=x.ndim > 2)
        _check_arrays(layer, "the state after", after, x)
        return y, after

    return take


def example(layer: Layer, params: Params, kept: Any) -> Array | None:
    """Return an array of the library, device and dtype of y, if one is known."""
    return layer.example(params, kept) if isinstance(layer, BuiltIn) else kept.like


def check_state(layer: Layer, what: str, state: State, like: Array, m: int) -> None:
    """Require a state that the child takes; of a user's layer only what its arrays are."""
    if isinstance(layer, BuiltIn):
        layer.check_state(what, state, like, m)
    else:
        _check_arrays(layer, what, state, like)


def check_batch(place: str, what: str, state: State, m: int) -> None:
    """Require a batch of m in every array of a state: slicing would hide a different one."""
    for name, value in _leaves(what, state):
        if value is None:
            continue
        if not arrays.is_array(value):
            raise TypeError(
                f"{place}: {name} is a {type(value).__name__}, expected arrays in tuples, whose "
                "batch can be divided"
            )
        if value.shape[-1:] != (m,):
            raise ValueError(
                f"{place}: {name} has shape {tuple(value.shape)}, expected a batch of {m}"
            )


# --- what a user's layer returns ----------------------------------------------------------


def _name(layer: Layer) -> str:
    return getattr(layer, "name", type(layer).__name__)


def _mask(steps: Array | None) -> dict[str, Array]:
    """Return the mask, if any, as a keyword argument: a user's layer may not take masks."""
    return {} if steps is None else {"mask": steps}


def _parts(layer: Layer, method: str, found: Any, expected: str) -> Any:
    """Require as many values as are expected."""
    n = expected.count(",") + 1
    if not isinstance(found, tuple | list) or len(found) != n:
        size = f" of {len(found)}" if isinstance(found, tuple | list) else ""
        raise TypeError(
            f"{_name(layer)}: {method} returned a {type(found).__name__}{size}, expected {expected}"
        )
    return found


def _came_out(
    layer: Layer, params: Params, x: Array, steps: Array | None, y: Array, after: State
) -> Array:
    """Check y and the state; return y, which is 0 at the steps that do not count."""
    _check_kind(layer, params, x, y)
    _check_arrays(layer, "the state after", after, x)
    m = x.shape[-1]
    if not keeps_time(layer):
        _check_shape(layer, y, ("n_out", "m") if y.ndim > 1 else ("m",), {"m": m})
        return y
    # A matrix without a mask is `(n_in, m)`, or tokens `(T, m)`; of these y has one axis more.
    tokens = x.ndim == 2 and y.ndim > 2 and not arrays.is_floating(x)
    if x.ndim > 2 or steps is not None or tokens:
        _check_shape(layer, y, ("T", "n_out", "m"), {"T": x.shape[0], "m": m})
    else:
        _check_shape(layer, y, ("n_out", "m"), {"m": m})
    return masks.blank(arrays.namespace(y), steps, y)


def _check_kind(layer: Layer, params: Params, x: Array, y: Array) -> None:
    """Require y of the library and device of x, and of the dtype of x or of the parameters."""
    place = _name(layer)
    checks.one_library(place, {"x": x, "y": y})
    own = {k: v for k, v in params.items() if arrays.is_single_or_double(v)}
    floats = dict(islice(own.items(), 1))  # all are alike
    if arrays.is_single_or_double(x):
        floats = {"x": x, **floats}
    checks.floating(place, {**floats, "y": y})


def _check_shape(
    layer: Layer, y: Array, axes: tuple[str, ...], sizes: checks.Sizes, *, more: bool = True
) -> None:
    """Require the axes of y, between whose first and last two there may be `more`."""
    shape, n_out = tuple(y.shape), getattr(layer, "n_out", None)
    known = sizes if n_out is None else {**sizes, "n_out": n_out}
    right = len(shape) == len(axes) or (more and len(shape) > len(axes))
    if right:
        first, last = len(axes[:-2]), len(axes[-2:])
        found = shape[:first] + shape[-last:]
        right = all(known.get(axis, n) == n for axis, n in zip(axes, found, strict=True))
    if not right:
        values = ", ".join(str(known.get(axis, axis)) for axis in axes)
        hint = ""
        if axes[0] == "T" and (len(shape) < len(axes) or shape[0] != sizes["T"]):
            hint = "; if y has no time axis, or another one than x, the layer says so: declare "
            hint += "keeps_time = False"
        raise ValueError(
            f"{_name(layer)}: y has shape {shape}, expected ({', '.join(axes)}) = ({values}){hint}"
        )


def _check_gradient(
    layer: Layer, what: str, found: Any, dy: Array, shape: tuple[int, ...], whose: str
) -> None:
    """Require a gradient of the kind of dy."""
    place = _name(layer)
    if found is None:
        raise TypeError(f"{place}: {what} is None, expected an array of the shape of {whose}")
    checks.floats(place, {"dy": dy, what: found})
    if tuple(found.shape) != shape:
        raise ValueError(
            f"{place}: {what} has shape {tuple(found.shape)}, expected {shape} like {whose}"
        )


def _check_arrays(layer: Layer, what: str, tree: State, like: Array) -> None:
    """Require that the arrays of a state can be computed with; what else it holds may be."""
    for name, value in _leaves(what, tree):
        if arrays.is_array(value):
            checks.one_library(_name(layer), {"x": like, name: value})
            if not (arrays.is_integer(value) or arrays.is_bool(value)):
                checks.floating(_name(layer), {name: value})


def _leaves(name: str, tree: State) -> Iterator[tuple[str, Any]]:
    """Yield whatever is in a state and not a tuple, with its name."""
    if not isinstance(tree, tuple):
        yield name, tree
        return
    fields = getattr(tree, "_fields", range(len(tree)))
    for field, part in zip(fields, tree, strict=True):
        yield from _leaves(f"{name}.{field}", part)
