"""What tests compute: sizes, kinds of layers, lengths, and all numbers of one call.

A new kind of recurrent layer is one line in KINDS, and one that ends time in ENDING; every law
and every oracle then runs on it. Which steps count is one line in STEPS.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
from judging import mapped, named, structure

import seqcore as sc
from seqcore import masks, sequence
from seqcore.cells import (
    GRUCell,
    GRUResetBeforeCell,
    LSTMCell,
    PeepholeLSTMCell,
    RNNCell,
    linear,
)

# --- tables -----------------------------------------------------------------------------

# Distinct, so that no transpose hides. N_X is at most half of N_A, where NumPy's product is
# joint; a second layer has N_A features, where it is not.
T, N_X, N_A, N_Y, M = 7, 2, 5, 3, 6
TOKENS = 9
LENGTHS = [7, 0, 3, 1, 7, 4]  # all of T, nothing, and in between
# Gaps at the beginning, in the middle and at the end, nothing, and everything; (T, m).
MASK = np.asarray(
    [
        [1, 0, 1, 1, 0, 1],
        [1, 0, 0, 1, 1, 1],
        [1, 0, 1, 1, 0, 1],
        [1, 0, 1, 0, 0, 1],
        [1, 0, 0, 1, 1, 0],
        [1, 0, 0, 1, 1, 0],
        [1, 0, 1, 1, 0, 1],
    ],
    dtype=bool,
)


class Kind(NamedTuple):
    """A kind of recurrent layer."""

    make: Callable[..., Any]  # from n_a and the options that all kinds share
    cell: Any
    torch: str = ""  # the layer of torch.nn with the same equations, where there is one


KINDS = {
    "rnn-tanh": Kind(sc.RNN, RNNCell(), "RNN"),
    "rnn-relu": Kind(partial(sc.RNN, activation="relu"), RNNCell("relu"), "RNN"),
    "lstm": Kind(sc.LSTM, LSTMCell(), "LSTM"),
    "lstm-peephole": Kind(partial(sc.LSTM, peephole=True), PeepholeLSTMCell()),
    "gru-after": Kind(sc.GRU, GRUCell(), "GRU"),
    "gru-before": Kind(partial(sc.GRU, reset_after=False), GRUResetBeforeCell()),
}
CELLS = {name: kind.cell for name, kind in KINDS.items()}
WAYS: dict[str, dict[str, Any]] = {
    "one": {},
    "stacked": {"layers": 3},
    "both ways": {"bidirectional": True},
    "stacked both ways": {"layers": 2, "bidirectional": True},
}
# Layers that end time: their y is `(n, m)`.
ENDING: dict[str, Any] = {
    "last": sc.Last(),
    "lstm, last, dense": sc.Sequential(sc.LSTM(N_A), sc.Last(), sc.Dense(N_Y)),
    "both ways, last": sc.Sequential(sc.GRU(N_A, bidirectional=True, layers=2), sc.Last()),
}
# Which steps count: arguments of a layer, as Problem takes them.
STEPS: dict[str, dict[str, Any]] = {
    "full": {},
    "ragged": {"lengths": LENGTHS},
    "gaps": {"mask": MASK},
    "ragged with gaps": {"lengths": LENGTHS, "mask": MASK},
}

each_kind = pytest.mark.parametrize("kind", KINDS)
each_way = pytest.mark.parametrize("way", WAYS)
each_steps = pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)


def recurrent(kind: str, n_a: int = N_A, **options: Any) -> Any:
    """Make a recurrent layer of one of KINDS."""
    return KINDS[kind].make(n_a, **options)


@dataclasses.dataclass(frozen=True)
class OverTime:
    """A cell over time, in the form of a layer: what seqcore.sequence does, unchecked."""

    cell: Any
    n_a: int = N_A
    reverse: bool = False
    recompute: bool | int = False

    @property
    def _options(self) -> dict[str, Any]:
        return {"reverse": self.reverse, "recompute": self.recompute}

    def init(self, n_in: int, *, like: Any, rng: Any) -> Any:
        return linear.init(self.cell, n_in, self.n_a, like=like, rng=rng)

    def forward(
        self, params: Any, x: Any, state: Any = None, lengths: Any = None, mask: Any = None
    ) -> Any:
        xp = sc.arrays.namespace(x)
        steps = masks.steps("test", x, lengths, mask)
        state = sequence.zeros(self.cell, x, self.n_a) if state is None else state
        ready = sequence.prepare(self.cell, params)
        mask = None if steps is None else steps[:, None, :]
        return sequence.forward(ready, masks.blank(xp, steps, x), state, mask, **self._options)

    def backward(self, params: Any, tape: Any, dy: Any, dstate: Any = None) -> Any:
        xp = sc.arrays.namespace(dy)
        return sequence.backward(params, tape, masks.where_mask(xp, tape.mask, dy), dstate)


# --- layers of a user's own -------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Scaled:
    """y = w x + b for each feature: a layer that keeps the contract and is not built in.

    It ignores lengths and masks: its container applies them.
    """

    name = "scaled"
    n_out = None
    keeps_time = True

    def shapes(self) -> Any:
        return {"w": ("n_in", 1), "b": ("n_in", 1)}

    def init(self, n_in: int, *, like: Any, rng: Any) -> Any:
        return {name: sc.arrays.like([[1.0]] * n_in, like) for name in self.shapes()}

    def forward(
        self,
        params: Any,
        x: Any,
        state: Any = None,
        lengths: Any = None,
        mask: Any = None,
        draw: Any = None,
    ) -> Any:
        return params["w"] * x + params["b"], (), (x,)

    def predict(
        self, params: Any, x: Any, state: Any = None, lengths: Any = None, mask: Any = None
    ) -> Any:
        return self.forward(params, x, state, lengths, mask)[:2]

    def backward(self, params: Any, tape: Any, dy: Any, dstate: Any = None, wrt: Any = None) -> Any:
        (x,), xp = tape, sc.arrays.namespace(dy)
        columns = {name: xp.sum(d, axis=-1) for name, d in {"w": dy * x, "b": dy}.items()}
        if x.ndim > 2:
            columns = {name: xp.sum(d, axis=0) for name, d in columns.items()}
        return params["w"] * dy, {name: d[:, None] for name, d in columns.items()}, ()

    def bind(self, params: Any, m: int = 1) -> Any:
        return lambda x, _=None: (params["w"] * x + params["b"], ())


@dataclasses.dataclass(frozen=True)
class Mean:
    """The mean over the steps that count: a user's layer whose y has no time axis."""

    name = "mean"
    n_out = None
    keeps_time = False

    def shapes(self) -> Any:
        return {}

    def init(self, n_in: int, *, like: Any, rng: Any) -> Any:
        return {}

    def forward(
        self,
        params: Any,
        x: Any,
        state: Any = None,
        lengths: Any = None,
        mask: Any = None,
        draw: Any = None,
    ) -> Any:
        xp = sc.arrays.namespace(x)
        steps = masks.steps("mean", x, lengths, mask)
        counts = xp.ones_like(x[:, 0, :]) if steps is None else xp.astype(steps, x.dtype)
        share = counts / (xp.sum(counts, axis=0, keepdims=True) + 1.0)  # there may be none
        share = share[:, None, :]
        return xp.sum(share * x, axis=0), (), (share,)

    def predict(
        self, params: Any, x: Any, state: Any = None, lengths: Any = None, mask: Any = None
    ) -> Any:
        return self.forward(params, x, state, lengths, mask)[:2]

    def backward(self, params: Any, tape: Any, dy: Any, dstate: Any = None, wrt: Any = None) -> Any:
        return tape[0] * dy, {}, ()

    def bind(self, params: Any, m: int = 1) -> Any:
        raise ValueError("mean: there is no mean of one step")


# --- numbers ----------------------------------------------------------------------------


Numbers = Callable[[np.random.Generator, str, tuple[int, ...]], np.ndarray]


def usual(rng: np.random.Generator, what: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draw numbers with which no gradient is small: biases too are not 0."""
    return (0.5 if what == "params" else 1.0) * rng.standard_normal(shape)


def weights(
    rng: np.random.Generator, layer: Any, n_in: int = N_X, numbers: Numbers = usual
) -> dict[str, np.ndarray]:
    """Draw the parameters of a layer."""
    drawn = layer.init(n_in, like=np.zeros(0), rng=rng)
    return {name: numbers(rng, "params", value.shape) for name, value in drawn.items()}


def on(place: Callable[[Any], Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Move named arrays."""
    return {name: place(value) for name, value in arrays.items()}


def given(state: Any) -> Any:
    """Return a state that a layer returned as one that it takes.

    The two may differ in type: what a layer in both directions returns may be of a subclass.
    """
    if not isinstance(state, tuple):
        return state
    parts = [given(part) for part in state]
    if not hasattr(state, "_fields"):
        return tuple(parts)
    own = next(base for base in type(state).__mro__ if "_fields" in vars(base))
    return own(*parts)


@dataclasses.dataclass
class Problem:
    """All numbers of one call of a layer, forward and back; float64 on NumPy until moved."""

    layer: Any
    params: dict[str, Any]
    x: Any
    state: Any
    dy: Any
    dstate: Any
    lengths: Any = None
    mask: Any = None
    draw: Any = None  # of dropout

    @classmethod
    def of(
        cls,
        rng: np.random.Generator,
        layer: Any,
        *,
        n_in: int = N_X,
        n_steps: int = T,
        m: int = M,
        tokens: int | None = None,
        lengths: Any = None,
        mask: Any = None,
        draw: Any = None,
        numbers: Numbers = usual,
    ) -> Problem:
        """Draw a problem for a layer; with `tokens`, x holds integers below it.

        `numbers(rng, what, shape)` draws params, x, dy, state and dstate.
        """
        params = weights(rng, layer, n_in if tokens is None else tokens, numbers)
        if tokens is None:
            x = numbers(rng, "x", (n_steps, n_in, m))
        else:
            x = rng.integers(tokens, size=(n_steps, m))
        # One step tells the shapes of y and of the state.
        y, state, _ = layer.forward(params, x[:1], **({} if draw is None else {"draw": draw}))
        dy = numbers(rng, "dy", (n_steps, *y.shape[1:]) if y.ndim == 3 else y.shape)
        before = mapped(lambda value: numbers(rng, "state", value.shape), given(state))
        dafter = mapped(lambda value: numbers(rng, "dstate", value.shape), given(state))
        lengths, mask = (None if v is None else np.asarray(v) for v in (lengths, mask))
        return cls(layer, params, x, before, dy, dafter, lengths, mask, draw)

    def but(self, **changes: Any) -> Problem:
        """Return the same problem with some fields replaced."""
        return dataclasses.replace(self, **changes)

    def move(self, change: Callable[[Any], Any]) -> Problem:
        """Return the same problem with every array changed."""
        return self.but(
            params=on(change, self.params),
            x=change(self.x),
            state=mapped(change, self.state),
            dy=change(self.dy),
            dstate=mapped(change, self.dstate),
            lengths=None if self.lengths is None else change(self.lengths),
            mask=None if self.mask is None else change(self.mask),
        )

    def batch(self, index: Any) -> Problem:
        """Return the problem of some of its examples."""
        return self.but(
            x=self.x[..., index],
            state=mapped(lambda value: value[..., index], self.state),
            dy=self.dy[..., index],
            dstate=mapped(lambda value: value[..., index], self.dstate),
            lengths=None if self.lengths is None else self.lengths[index],
            mask=None if self.mask is None else self.mask[..., index],
        )

    def arrays(self) -> dict[str, Any]:
        """Return every array, by name."""
        own = {"x": self.x, "dy": self.dy, "lengths": self.lengths, "mask": self.mask}
        own |= self.params | named("state", self.state) | named("dstate", self.dstate)
        return {name: value for name, value in own.items() if value is not None}

    def steps(self) -> dict[str, Any]:
        """Return what says which steps count, as arguments of a layer."""
        own = {"lengths": self.lengths, "mask": self.mask}
        return {name: value for name, value in own.items() if value is not None}

    # --- one call -----------------------------------------------------------------------

    def forward(self, params: Any = None, x: Any = None, state: Any = None) -> Any:
        """Return y, the last state and the tape; what is given replaces the problem's own."""
        options = self.steps() | ({} if self.draw is None else {"draw": self.draw})
        return self.layer.forward(
            self.params if params is None else params,
            self.x if x is None else x,
            self.state if state is None else state,
            **options,
        )

    def backward(self, tape: Any) -> Any:
        """Return dx, the gradients and that of the first state."""
        return self.layer.backward(self.params, tape, self.dy, self.dstate)

    def results(self) -> dict[str, Any]:
        """Return all that forward and backward return, by name: y, dx, W_h, last.h, dstart.h."""
        y, last, tape = self.forward()
        dx, grads, dstart = self.backward(tape)
        assert list(grads) == list(self.params)
        assert structure(given(last)) == structure(dstart) == structure(self.state)
        assert (dx is None) == (self.x.ndim == 2)  # tokens have no gradient
        backs = {} if dx is None else {"dx": dx}
        return {"y": y, **backs, **grads, **named("last", last), **named("dstart", dstart)}

    # --- as a function, to be differentiated --------------------------------------------

    def at(self) -> dict[str, Any]:
        """Return what there are gradients of, by name: x, W_h, start.h."""
        own = {"x": self.x} if self.x.ndim > 2 else {}
        return own | self.params | named("start", self.state)

    def outputs(self, at: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
        """Return what forward gives at other values, y and last.h by name, and the tape."""
        start = iter(named("start", self.state))
        state = mapped(lambda _: at[next(start)], self.state)
        params = {name: at[name] for name in self.params}
        y, last, tape = self.forward(params, at.get("x"), state)
        return {"y": y, **named("last", last)}, tape

    def cotangents(self) -> dict[str, Any]:
        """Return dL/d of each output, under its name."""
        return {"y": self.dy, **named("last", self.dstate)}

    def loss(self, at: Mapping[str, Any]) -> Any:
        """Return L, the sum of all outputs times their cotangents."""
        out, _ = self.outputs(at)
        return sum((out[name] * d).sum() for name, d in self.cotangents().items())

    def gradients(self, tape: Any = None) -> dict[str, Any]:
        """Return dL/d of what `at` names, by backward."""
        dx, grads, dstart = self.backward(self.forward()[2] if tape is None else tape)
        own = {} if dx is None else {"x": dx}
        return {**own, **grads, **named("start", dstart)}
