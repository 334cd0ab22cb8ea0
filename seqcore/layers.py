"""Layers: Embedding, Dense, Dropout, the recurrent ones, and Sequential, which chains them.

A layer is a frozen dataclass of sizes and options and never holds an array:

    params             = layer.init(n_in, like=array, rng=generator)
    y, state, tape     = layer.forward(params, x, state=None, lengths=None)
    dx, grads, dstate  = layer.backward(params, tape, dy, dstate=None)
    y, state           = layer.bind(params)(x, state=None)      one time step, nothing kept

`forward(..., draw=k)` trains: Dropout then uses the k-th of its masks, a number or a 0-d
integer array such as the count of an optimizer's state. Without it nothing is dropped.

`params` and `grads` are flat dicts with the same names. `state` goes in and comes out, so
that a sequence can be cut anywhere; a layer without one has `()`. `tape` is what backward
needs. x and y are `(T, n, m)`: time, features, batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from seqcore import arrays, checks, random, sequence
from seqcore.arrays import Array, Namespace, Params
from seqcore.cells import State, products
from seqcore.recurrent import GRU, LSTM, RNN, Stream

if TYPE_CHECKING:
    import numpy as np

__all__ = ["GRU", "LSTM", "RNN", "Dense", "Dropout", "Embedding", "Layer", "Sequential"]


class Layer(Protocol):
    """The contract of a layer, in the words of this module."""

    @property
    def n_out(self) -> int | None:
        """Features out; None where they are those that come in."""

    @property
    def name(self) -> str:
        """The name that its parameters and errors carry."""

    def names(self) -> list[str]:
        """The names of its parameters."""

    def init(self, n_in: int, *, like: Array, rng: np.random.Generator | int) -> Params:
        """Draw parameters for `n_in` features."""

    def forward(
        self,
        params: Params,
        x: Array,
        state: State = None,
        lengths: Any = None,
        *,
        draw: Any = None,
    ) -> tuple[Array, State, Any]:
        """Return y, the state after the last step, and the tape."""

    def backward(
        self, params: Params, tape: Any, dy: Array, dstate: State = None
    ) -> tuple[Array | None, Params, State]:
        """Return dL/dx, the gradient of every parameter, and dL/d(state before)."""

    def bind(self, params: Params, m: int = 1) -> Stream:
        """Return `y, state = step(x, state)` for one time step of a stream, without a tape."""


def _stateless(place: str, what: str, state: State) -> None:
    if state is not None and not (isinstance(state, tuple) and len(state) == 0):
        raise ValueError(f"{place}: {what} was given, expected None: this layer has no state")


class EmbeddingTape(NamedTuple):
    """The tokens, and which of them count: `(T, m)` each, or None for all."""

    tokens: Array
    mask: Array | None


@dataclass(frozen=True)
class Embedding:
    """A learned vector for each token of a vocabulary.

    Parameters
    ----------
    n_out
        Features of the vectors.

    Notes
    -----
    `init(n_in)` takes the size of the vocabulary. x is `(T, m)` of integers in
    `0 <= token < n_in`; its gradient dx is None. Parameter: `W (n_in, n_out)`.
    """

    n_out: int

    name: ClassVar[str] = "embedding"

    def __post_init__(self) -> None:
        """Refuse sizes below 1."""
        checks.count(self.name, n_out=self.n_out)

    def names(self) -> list[str]:
        """The names of its parameters."""
        return ["W"]

    def init(self, n_in: int, *, like: Array, rng: np.random.Generator | int) -> Params:
        """Draw `W (n_in, n_out)` from N(0, 1 / n_out), so that a vector's length is about 1."""
        checks.count(self.name, n_in=n_in)
        checks.floats(self.name, {"like": like})
        scale = self.n_out**-0.5
        return {"W": random.normal(random.generator(rng), (n_in, self.n_out), scale, like)}

    def forward(
        self,
        params: Params,
        x: Array,
        state: State = None,
        lengths: Any = None,
        *,
        draw: Any = None,
    ) -> tuple[Array, State, EmbeddingTape]:
        """Look up `x (T, m)`; y is `(T, n_out, m)`.

        With `lengths` the tokens beyond an example's length may be anything; y is 0 there.
        """
        checks.parameters(self.name, params, self.names())
        W = params["W"]
        xp = checks.one_library(self.name, {"x": x, "W": W})
        checks.floating(self.name, {"W": W})
        checks.integral(self.name, "x", x)
        checks.shape(self.name, "W", W, ("n_in", self.n_out), {})
        checks.shape(self.name, "x", x, ("T", "m"), {})
        _stateless(self.name, "state", state)
        lengths = checks.lengths(self.name, x, lengths)
        mask = None if lengths is None else sequence.sequence_mask(lengths, x.shape[0])
        x = sequence.where_mask(xp, mask, x)
        checks.indices(self.name, "x", x, W.shape[0], "token")
        rows = arrays.default_integers(xp, xp.reshape(x, (-1,)))  # PyTorch takes no others
        y = xp.take(W, rows, axis=0)  # (T m, n_out)
        y = xp.matrix_transpose(xp.reshape(y, (*x.shape, self.n_out)))
        return self._masked(xp, mask, y), (), EmbeddingTape(x, mask)

    def backward(
        self, params: Params, tape: EmbeddingTape, dy: Array, dstate: State = None
    ) -> tuple[None, Params, State]:
        """Return None, as integers have no gradient, and dW.

        The standard has no scatter-add; a product with the one-hot tokens is one.
        """
        checks.parameters(self.name, params, self.names())
        W = params["W"]
        checks.tape(self.name, tape, EmbeddingTape)
        tokens, mask = tape
        n_steps, m = tokens.shape
        checks.floats(self.name, {"dy": dy, "W": W})
        xp = checks.one_library(self.name, {"x": tokens, "dy": dy})
        checks.shape(self.name, "W", W, ("n_in", self.n_out), {})
        checks.shape(self.name, "dy", dy, (n_steps, self.n_out, m), {})
        _stateless(self.name, "dstate", dstate)
        hot = arrays.one_hot(xp, xp.reshape(tokens, (-1,)), W.shape[0], dy.dtype, axis=0)
        dy = self._masked(xp, mask, dy)
        return None, {"W": products.outer(xp, hot, products.columns(xp, dy))}, ()

    def bind(self, params: Params, m: int = 1) -> Stream:
        """Return `y, state = step(x, state=None)`: x `(m,)`, y `(n_out, m)`.

        A step does not look whether its tokens are in the vocabulary.
        """
        checks.parameters(self.name, params, self.names())
        W = params["W"]
        checks.floats(self.name, {"W": W})
        checks.shape(self.name, "W", W, ("n_in", self.n_out), {})
        checks.count(self.name, m=m)
        xp = arrays.inner(arrays.namespace(W))

        def step(x: Array, _: State = None) -> tuple[Array, State]:
            if x.shape != (m,):
                raise ValueError(f"{self.name}: x has shape {tuple(x.shape)}, expected {(m,)}")
            rows = xp.take(W, arrays.default_integers(xp, x), axis=0)
            return xp.matrix_transpose(rows), ()

        return step

    def _masked(self, xp: Namespace, mask: Array | None, y: Array) -> Array:
        return y if mask is None else sequence.where_mask(xp, mask[:, None, :], y)


@dataclass(frozen=True)
class Dense:
    """y = W x + b at each time.

    Parameters
    ----------
    n_out
        Features out.

    Notes
    -----
    x is `(T, n_in, m)`, or `(n_in, m)` without time. Parameters: `W (n_out, n_in)`,
    `b (n_out, 1)`.
    """

    n_out: int

    name: ClassVar[str] = "dense"

    def __post_init__(self) -> None:
        """Refuse sizes below 1."""
        checks.count(self.name, n_out=self.n_out)

    def names(self) -> list[str]:
        """The names of its parameters."""
        return ["W", "b"]

    def init(self, n_in: int, *, like: Array, rng: np.random.Generator | int) -> Params:
        """Draw W Glorot uniform; b is 0."""
        checks.count(self.name, n_in=n_in)
        checks.floats(self.name, {"like": like})
        rng = random.generator(rng)
        return {
            "W": random.glorot_uniform(rng, (self.n_out, n_in), n_in, self.n_out, like),
            "b": arrays.like([[0.0]] * self.n_out, like),
        }

    def forward(
        self,
        params: Params,
        x: Array,
        state: State = None,
        lengths: Any = None,
        *,
        draw: Any = None,
    ) -> tuple[Array, State, Array]:
        """Return y with n_out features; `lengths` changes nothing, a loss masks it."""
        checks.parameters(self.name, params, self.names())
        W, b = params["W"], params["b"]
        xp = checks.floats(self.name, {"x": x, "W": W, "b": b})
        sizes: checks.Sizes = {}
        checks.shape(self.name, "W", W, (self.n_out, "n_in"), sizes)
        checks.shape(self.name, "b", b, (self.n_out, 1), sizes)
        batch = ("n_in", "m") if x.ndim == 2 else ("T", "n_in", "m")
        checks.shape(self.name, "x", x, batch, sizes)
        _stateless(self.name, "state", state)
        y = W @ (x if x.ndim == 2 else products.columns(xp, x))  # (n_out, T m)
        y += b
        return (y if x.ndim == 2 else _in_time(xp, y, x)), (), x

    def backward(
        self, params: Params, tape: Array, dy: Array, dstate: State = None
    ) -> tuple[Array, Params, State]:
        """Return dx in the shape of x, dW and db."""
        checks.parameters(self.name, params, self.names())
        W, x = params["W"], tape
        if not arrays.is_array(x):
            raise TypeError(f"{self.name}: tape is a {type(x).__name__}, expected that of forward")
        xp = checks.floats(self.name, {"dy": dy, "W": W, "x": x})
        checks.shape(self.name, "W", W, (self.n_out, "n_in"), {"n_in": x.shape[-2]})
        checks.shape(self.name, "dy", dy, (*x.shape[:-2], self.n_out, x.shape[-1]), {})
        _stateless(self.name, "dstate", dstate)
        flat = [value if x.ndim == 2 else products.columns(xp, value) for value in (dy, x)]
        grads = {"W": products.outer(xp, *flat), "b": xp.sum(flat[0], axis=1, keepdims=True)}
        dx = xp.matrix_transpose(W) @ flat[0]  # (n_in, T m)
        return (dx if x.ndim == 2 else _in_time(xp, dx, x)), grads, ()

    def bind(self, params: Params, m: int = 1) -> Stream:
        """Return `y, state = step(x, state=None)`: x `(n_in, m)`, y `(n_out, m)`."""
        checks.parameters(self.name, params, self.names())
        W, b = params["W"], params["b"]
        checks.floats(self.name, {"W": W, "b": b})
        sizes: checks.Sizes = {}
        checks.shape(self.name, "W", W, (self.n_out, "n_in"), sizes)
        checks.shape(self.name, "b", b, (self.n_out, 1), sizes)
        checks.count(self.name, m=m)
        shape = (sizes["n_in"], m)

        def step(x: Array, _: State = None) -> tuple[Array, State]:
            if x.shape != shape:
                raise ValueError(f"{self.name}: x has shape {tuple(x.shape)}, expected {shape}")
            y = W @ x
            y += b
            return y, ()

        return step


def _in_time(xp: Namespace, columns: Array, x: Array) -> Array:
    """Return columns `(n, T m)` as `(T, n, m)`, with T and m from x."""
    return xp.moveaxis(xp.reshape(columns, (-1, x.shape[0], x.shape[2])), 1, 0)


class DropoutTape(NamedTuple):
    """What each entry was multiplied by, 0 or the scale; None where nothing was dropped."""

    factor: Array | None
    x: Array


@dataclass(frozen=True)
class Dropout:
    """Drop each entry with probability `rate`, and scale what is kept by 1 / (1 - rate).

    Parameters
    ----------
    rate
        `0 <= rate < 1`; rounded to a multiple of 2^-16.
    seed
        Of the masks, `0 <= seed < 2^64`. In a `Sequential` a Dropout without one gets its
        place as its seed, so that no two drop the same.

    Notes
    -----
    Source: Srivastava et al., "Dropout: a simple way to prevent neural networks from
    overfitting", JMLR 15, 2014, in the form that scales while it trains. The masks are the
    same on every array library.

    Examples
    --------
    >>> import numpy as np, seqcore as sc
    >>> x = np.ones((1, 3, 4))
    >>> y, _, tape = sc.Dropout(0.5).forward({}, x, draw=0)
    >>> sorted(set(y.ravel().tolist()))
    [0.0, 2.0]
    >>> bool((sc.Dropout(0.5).forward({}, x)[0] == x).all())
    True
    """

    rate: float
    seed: int | None = None

    name: ClassVar[str] = "dropout"
    n_out: ClassVar[None] = None

    def __post_init__(self) -> None:
        """Refuse a rate or a seed out of range."""
        checks.concrete(self.name, rate=self.rate, seed=self.seed)
        if not 0 <= self.rate < 1:
            raise ValueError(f"dropout: rate is {self.rate}, expected 0 <= rate < 1")
        if round(self.rate * 2**16) == 2**16:
            raise ValueError(f"dropout: rate is {self.rate}, which rounds to 1, expected less")
        seed: object = self.seed
        if seed is None:
            return
        if isinstance(seed, bool) or not isinstance(seed, Integral):
            raise TypeError(f"dropout: seed is {seed!r}, expected a whole number")
        if not 0 <= int(seed) < 2**64:
            raise ValueError(f"dropout: seed is {seed}, expected 0 <= seed < 2^64")

    @property
    def _scale(self) -> float:
        """1 / (1 - rate), for the rate as it is rounded."""
        return 2**16 / (2**16 - round(self.rate * 2**16))

    def names(self) -> list[str]:
        """The names of its parameters: none."""
        return []

    def init(self, n_in: int, *, like: Array, rng: np.random.Generator | int) -> Params:
        """Return no parameters."""
        return {}

    def forward(
        self,
        params: Params,
        x: Array,
        state: State = None,
        lengths: Any = None,
        *,
        draw: Any = None,
    ) -> tuple[Array, State, DropoutTape]:
        """Drop entries of `x` with the mask number `draw`; without a number, none."""
        checks.parameters(self.name, params, [])
        xp = checks.one_library(self.name, {"x": x})
        checks.floating(self.name, {"x": x})
        _stateless(self.name, "state", state)
        if draw is None or self.rate == 0:
            return x, (), DropoutTape(None, x)
        if not isinstance(draw, int):
            checks.one_library(self.name, {"x": x, "draw": draw})
            checks.integral(self.name, "draw", draw)
            checks.shape(self.name, "draw", draw, (), {})
        keep = random.keep_mask(x.shape, self.rate, seed=int(self.seed or 0), draw=draw, like=x)
        # A product is ten times as fast as a choice by a mask that no processor can foresee.
        factor = xp.astype(keep, x.dtype) * self._scale
        return x * factor, (), DropoutTape(factor, x)

    def backward(
        self, params: Params, tape: DropoutTape, dy: Array, dstate: State = None
    ) -> tuple[Array, Params, State]:
        """Drop the same entries of `dy`."""
        checks.parameters(self.name, params, [])
        checks.one_library(self.name, {"x": tape.x, "dy": dy})
        checks.floating(self.name, {"x": tape.x, "dy": dy})
        checks.shape(self.name, "dy", dy, tuple(tape.x.shape), {})
        _stateless(self.name, "dstate", dstate)
        return (dy if tape.factor is None else dy * tape.factor), {}, ()

    def bind(self, params: Params, m: int = 1) -> Stream:
        """Return a step that drops nothing."""
        checks.parameters(self.name, params, [])
        checks.count(self.name, m=m)
        return lambda x, _=None: (x, ())


@dataclass(frozen=True, init=False)
class Sequential:
    """Layers one after another, as one layer.

    Parameters
    ----------
    *layers
        Each takes what the one before it puts out. It is named after its kind: "lstm", a
        second one "lstm_1".
    **named
        Further layers, named as you like.

    Notes
    -----
    Parameters carry the layer's name in front: `"lstm.0.W_h"`. The state is a tuple with one
    entry a layer.

    Examples
    --------
    >>> import numpy as np, seqcore as sc
    >>> model = sc.Sequential(sc.Embedding(8), sc.GRU(16), sc.Dense(5))
    >>> params = model.init(5, like=np.zeros(0), rng=0)     # 5 tokens
    >>> tokens = np.asarray([[0, 1], [2, 3], [4, 0]])       # T, m
    >>> logits, state, tape = model.forward(params, tokens)
    >>> logits.shape
    (3, 5, 2)
    """

    layers: tuple[Layer, ...]
    labels: tuple[str, ...]

    name: ClassVar[str] = "sequential"

    def __init__(self, *layers: Layer, **named: Layer) -> None:
        if not layers and not named:
            raise ValueError("sequential: no layers were given, expected at least one")
        for layer in (*layers, *named.values()):
            if isinstance(layer, type) or not hasattr(layer, "forward"):
                raise TypeError(f"sequential: {layer!r} was given, expected a layer")
        labels: list[str] = []
        for number, layer in enumerate(layers):
            twins = sum(other.name == layer.name for other in layers[:number])
            labels.append(f"{layer.name}_{twins}" if twins else layer.name)
        for label in named:
            if label in labels:
                raise ValueError(f"sequential: two layers are named {label!r}")
        seeded = [
            replace(layer, seed=number)
            if isinstance(layer, Dropout) and layer.seed is None
            else layer
            for number, layer in enumerate((*layers, *named.values()))
        ]
        object.__setattr__(self, "layers", tuple(seeded))
        object.__setattr__(self, "labels", (*labels, *named))

    @property
    def n_out(self) -> int | None:
        """Features out of the last layer that sets their number."""
        widths = [layer.n_out for layer in self.layers if layer.n_out is not None]
        return widths[-1] if widths else None

    def names(self) -> list[str]:
        """The names of its parameters, each with its layer's in front."""
        return [f"{label}.{name}" for label, layer in self._named() for name in layer.names()]

    def _named(self) -> list[tuple[str, Layer]]:
        return list(zip(self.labels, self.layers, strict=True))

    def init(self, n_in: int, *, like: Array, rng: np.random.Generator | int) -> Params:
        """Draw parameters for `n_in` features (with an Embedding in front: tokens)."""
        rng = random.generator(rng)
        params: Params = {}
        for label, layer in self._named():
            drawn = layer.init(n_in, like=like, rng=rng)
            params |= {f"{label}.{name}": value for name, value in drawn.items()}
            n_in = layer.n_out or n_in
        return params

    def forward(
        self,
        params: Params,
        x: Array,
        state: State = None,
        lengths: Any = None,
        *,
        draw: Any = None,
    ) -> tuple[Array, State, tuple[Any, ...]]:
        """Run x through every layer; `state` is None or a tuple with one entry a layer."""
        checks.parameters(self.name, params, self.names())
        after, tapes = [], []
        for (label, layer), before in zip(self._named(), self._states("state", state), strict=True):
            with _inside(label):
                own = self._own(params, label, layer)
                x, end, tape = layer.forward(own, x, before, lengths, draw=draw)
            after.append(end)
            tapes.append(tape)
        return x, tuple(after), tuple(tapes)

    def backward(
        self, params: Params, tape: tuple[Any, ...], dy: Array, dstate: State = None
    ) -> tuple[Array | None, Params, State]:
        """Go back through every layer."""
        checks.parameters(self.name, params, self.names())
        checks.tape(self.name, tape, tuple, len(self.layers))
        dafter = self._states("dstate", dstate)
        grads: Params = {}
        dbefore: list[State] = []
        dx: Array | None = dy
        for number, (label, layer) in reversed(list(enumerate(self._named()))):
            with _inside(label):
                own = self._own(params, label, layer)
                dx, part, dstart = layer.backward(own, tape[number], dx, dafter[number])
            grads |= {f"{label}.{name}": value for name, value in part.items()}
            dbefore.append(dstart)
        return dx, {name: grads[name] for name in params}, tuple(reversed(dbefore))

    def bind(self, params: Params, m: int = 1) -> Stream:
        """Return `y, state = step(x, state=None)` through every layer.

        Examples
        --------
        >>> import numpy as np, seqcore as sc
        >>> model = sc.Sequential(sc.LSTM(4), sc.Dense(2))
        >>> params = model.init(3, like=np.zeros(0), rng=0)
        >>> step, state = model.bind(params), None
        >>> for _ in range(5):
        ...     y, state = step(np.ones((3, 1)), state)
        >>> y.shape
        (2, 1)
        """
        checks.parameters(self.name, params, self.names())
        steps: list[Stream] = []
        for label, layer in self._named():
            with _inside(label):
                steps.append(layer.bind(self._own(params, label, layer), m))

        def step(x: Array, state: State = None) -> tuple[Array, State]:
            after = []
            for layer, before in zip(steps, self._states("state", state), strict=True):
                x, end = layer(x, before)
                after.append(end)
            return x, tuple(after)

        return step

    def _own(self, params: Params, label: str, layer: Layer) -> Params:
        return {name: params[f"{label}.{name}"] for name in layer.names()}

    def _states(self, what: str, state: State) -> tuple[State, ...]:
        if state is None:
            return (None,) * len(self.layers)
        expected = f"a tuple with one entry for each of the layers {', '.join(self.labels)}"
        if not isinstance(state, tuple):
            raise TypeError(f"{self.name}: {what} is a {type(state).__name__}, expected {expected}")
        if len(state) != len(self.layers):
            raise ValueError(f"{self.name}: {what} is a tuple of {len(state)}, expected {expected}")
        return state


@contextmanager
def _inside(label: str) -> Iterator[None]:
    """Note in an error which layer of a Sequential it comes from."""
    try:
        yield
    except (TypeError, ValueError) as error:
        error.add_note(f"in the layer {label!r} of a Sequential")
        raise
