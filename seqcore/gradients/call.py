"""One call of a layer, forward and back: its arguments, and whether what it returns has the form.

The layer may be anyone's, so nothing is taken for granted: neither the number of values that it
returns, nor that it leaves its arguments alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from seqcore import arrays, random
from seqcore.arrays import Array, Params
from seqcore.cells import Ended
from seqcore.gradients.error import GradientError
from seqcore.layers.contract import State, names_of

if TYPE_CHECKING:
    import numpy as np

# The bytes of an array, with its shape and dtype: equal for equal arrays, NaN included.
Print = tuple[tuple[int, ...], str, bytes]


class Outcome(NamedTuple):
    """What forward returned."""

    y: Array
    state: State
    tape: Any


@dataclass(frozen=True)
class Call:
    """The arguments of one call of a layer, forward and back.

    Parameters
    ----------
    layer
        Any layer.
    params, x, state
        As forward takes them.
    options
        `lengths`, `mask` and `draw`, where they are given.
    like
        An array of the library, device and dtype of all floats.
    dy, dstate
        As backward takes them.
    """

    layer: Any
    params: Params
    x: Array
    state: State
    options: Mapping[str, Any]
    like: Array
    dy: Array = None
    dstate: State = None

    @classmethod
    def drawn(
        cls,
        layer: Any,
        params: Params,
        x: Array,
        options: Mapping[str, Any],
        like: Array,
        rng: np.random.Generator,
        *,
        started: bool,
    ) -> Call:
        """Draw dy and dstate and, if `started`, a state, of the shapes that forward gives."""
        y, state, _ = cls(layer, params, x, None, options, like).forward()

        def draw(array: Array) -> Array:
            return random.normal(rng, tuple(array.shape), 1.0, like)

        before = mapped(draw, continued(state)) if started else None
        after = mapped(draw, continued(state))
        return cls(layer, params, x, before, options, like, draw(y), after)

    # --- forward ------------------------------------------------------------------------

    def forward(self) -> Outcome:
        """Call forward."""
        found = self.layer.forward(self.params, self.x, self.state, **self.options)
        if not isinstance(found, tuple) or len(found) != 3:
            raise GradientError(f"forward returned {_kind(found)}, expected y, state, tape")
        outcome = Outcome(*found)
        self._check_y(outcome.y)
        for name, value in leaves("state", outcome.state):
            if not arrays.is_array(value):
                raise GradientError(
                    f"forward returned {_kind(value)} as {name}, expected an array or a tuple"
                )
        before = {name: tuple(value.shape) for name, value in leaves("state", self.state)}
        after = {name: tuple(value.shape) for name, value in leaves("state", outcome.state)}
        if self.state is not None and before != after:
            raise GradientError(
                f"the state after forward has {_spelled(after)}, expected {_spelled(before)} like "
                "the state before"
            )
        return outcome

    def _check_y(self, y: Array) -> None:
        if not arrays.is_array(y):
            raise GradientError(f"forward returned {_kind(y)} as y, expected an array")
        shape = tuple(y.shape)
        n_steps, m = self.x.shape[0], self.x.shape[-1]
        if not shape or shape[-1] != m or (self.keeps_time and shape[0] != n_steps):
            expected = f"time first and the batch last, ({n_steps}, ..., {m})"
            if not self.keeps_time:
                expected = f"the batch last, (..., {m})"
            raise GradientError(f"y has shape {shape}, expected {expected}")
        _same_kind("y", y, self.like, "what it was given")
        n_out = getattr(self.layer, "n_out", None)
        if n_out is not None and len(shape) >= 2 and shape[-2] != n_out:
            raise GradientError(
                f"y has shape {shape}, expected {n_out} features, as the layer's n_out says"
            )

    @property
    def has_time(self) -> bool:
        """Whether x has a time axis; a matrix of floats has none."""
        return self.x.ndim > 2 or not arrays.is_floating(self.x)

    @property
    def keeps_time(self) -> bool:
        """Whether y has the time axis of x."""
        return getattr(self.layer, "keeps_time", True) and self.has_time

    @property
    def has_state(self) -> bool:
        """Whether the layer carries floats over time."""
        return any(arrays.is_floating(value) for _, value in leaves("dstate", self.dstate))

    def on(self, **changed: Any) -> Call:
        """Return the same call with other arguments."""
        return dataclasses.replace(self, **changed)

    def predict(self) -> tuple[Array, State]:
        """Call predict."""
        options = {name: value for name, value in self.options.items() if name != "draw"}
        found = self.layer.predict(self.params, self.x, self.state, **options)
        if not isinstance(found, tuple) or len(found) != 2:
            raise GradientError(f"predict returned {_kind(found)}, expected y, state")
        return found

    # --- as a function to be differentiated ---------------------------------------------

    def at(self) -> Params:
        """Return what there are gradients of, by name."""
        own: Params = {"x": self.x} if arrays.is_floating(self.x) else {}
        own |= {param(name): value for name, value in self.params.items()}
        return own | {k: v for k, v in leaves("state", self.state) if arrays.is_floating(v)}

    def outputs(self, at: Params) -> list[Array]:
        """Return y and the state after it, at other values."""
        states = iter([at.get(name, value) for name, value in leaves("state", self.state)])
        params = {name: at[param(name)] for name in self.params}
        state = mapped(lambda _: next(states), self.state)
        y, after, _ = self.layer.forward(params, at.get("x", self.x), state, **self.options)
        return [y, *self._floats(after)]

    def weights(self) -> list[Array]:
        """Return dL/d of each output."""
        return [self.dy, *self._floats(self.dstate)]

    def _floats(self, state: State) -> list[Array]:
        if self.dstate is None:
            return []
        return [value for _, value in leaves("state", state) if arrays.is_floating(value)]

    # --- backward -----------------------------------------------------------------------

    def backward(self, tape: Any, wrt: tuple[str, ...] | None = None) -> Params:
        """Call backward; return the gradients by name, all that `wrt` names."""
        given = {} if wrt is None else {"wrt": wrt}
        found = self.layer.backward(self.params, tape, self.dy, self.dstate, **given)
        if not isinstance(found, tuple) or len(found) != 3:
            raise GradientError(f"backward returned {_kind(found)}, expected dx, grads, dstate")
        dx, grads, dstate = found
        named: Params = {}
        if arrays.is_floating(self.x) and (wrt is None or "x" in wrt):
            named["x"] = _like("dx", dx, self.x, "x")
        if not isinstance(grads, Mapping):
            raise GradientError(f"backward returned {_kind(grads)} as grads, expected a dict")
        for name in self.params if wrt is None else [name for name in wrt if name in self.params]:
            if name not in grads:
                came = ", ".join(map(repr, grads)) or "none"
                raise GradientError(f"grads has no {name!r}; it has {came}")
            named[param(name)] = _like(f"grads[{name!r}]", grads[name], self.params[name], name)
        for name in grads:
            if name not in self.params:
                raise GradientError(
                    f"grads has {name!r}, expected the parameters {', '.join(names_of(self.layer))}"
                )
        before = [(name, v) for name, v in leaves("state", self.state) if arrays.is_floating(v)]
        if before and wrt is None:
            own = dict(leaves("state", dstate))
            for name, value in before:
                named[name] = _like(f"d{name}", own.get(name), value, name)
        return named

    def prints(self) -> dict[str, Print]:
        """Return the bytes of every argument, by name."""
        own = {"x": self.x, "dy": self.dy}
        own |= {param(name): value for name, value in self.params.items()}
        own |= dict(leaves("state", self.state)) | dict(leaves("dstate", self.dstate))
        return {name: printed(value) for name, value in own.items()}


def param(name: str) -> str:
    """Return what a parameter is called in messages."""
    return f"params[{name!r}]"


def printed(array: Array) -> Print:
    """Return the bytes of an array."""
    host = arrays.to_host(array)
    return tuple(host.shape), str(host.dtype), host.tobytes()


# --- states -----------------------------------------------------------------------------


def leaves(name: str, tree: Any) -> Iterator[tuple[str, Any]]:
    """Yield whatever is in a state and not a tuple, with its name: state.h, state.1.h."""
    if tree is None:
        return
    if isinstance(tree, tuple):
        fields = getattr(tree, "_fields", range(len(tree)))
        for field, part in zip(fields, tree, strict=True):
            yield from leaves(f"{name}.{field}", part)
    else:
        yield name, tree


def mapped(change: Callable[[Array], Array], tree: Any) -> Any:
    """Return a state with every array of floats changed."""
    if tree is None:
        return None
    if isinstance(tree, tuple):
        parts = [mapped(change, part) for part in tree]
        return type(tree)._make(parts) if hasattr(tree, "_make") else tuple(parts)
    return change(tree) if arrays.is_floating(tree) else tree


def continued(tree: Any) -> Any:
    """Return a state that was returned as one that is taken: one of both directions too."""
    if not isinstance(tree, tuple):
        return tree
    parts = [continued(part) for part in tree]
    kind: Any = type(tree)
    if isinstance(tree, Ended):
        kind = next(base for base in kind.__mro__ if "_fields" in vars(base))
    return kind._make(parts) if hasattr(kind, "_make") else tuple(parts)


# --- what kind of thing it is -----------------------------------------------------------


def _spelled(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "no arrays"


def _kind(value: object) -> str:
    if value is None:
        return "None"
    size = f" of {len(value)}" if isinstance(value, tuple | list | dict) else ""
    return f"a {type(value).__name__}{size}"


def _same_kind(name: str, array: Array, like: Array, whose: str) -> None:
    """Require the library, the device and the dtype of another array."""
    for what, got, wanted in (
        ("library", arrays.library(array), arrays.library(like)),
        ("dtype", array.dtype, like.dtype),
        ("device", arrays.device(array), arrays.device(like)),
    ):
        if got != wanted:
            raise GradientError(f"{name} has {what} {got}, expected {wanted} like {whose}")


def _like(name: str, array: Any, like: Array, whose: str) -> Array:
    """Require an array of the kind and the shape of another one."""
    if not arrays.is_array(array):
        raise GradientError(f"{name} is {_kind(array)}, expected an array like {whose}")
    if tuple(array.shape) != tuple(like.shape):
        raise GradientError(
            f"{name} has shape {tuple(array.shape)}, expected {tuple(like.shape)} like {whose}"
        )
    _same_kind(name, array, like, whose)
    return array
