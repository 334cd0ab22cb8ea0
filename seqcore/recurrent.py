"""Recurrent layers: RNN, LSTM and GRU, stacked and in both directions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeAlias

from seqcore import arrays, checks, random, sequence
from seqcore.arrays import Array, Namespace, Params
from seqcore.cells import Cell, GRUCell, LSTMCell, LSTMState, RNNCell, State

if TYPE_CHECKING:
    import numpy as np


# y, state = step(x, state), without time: x (n_in, m), y (n_out, m).
Stream: TypeAlias = Callable[..., tuple[Array, State]]


class _Pass(NamedTuple):
    """One cell over time once: its number in the state, its prefix in params, its way."""

    number: int
    prefix: str
    reverse: bool


@dataclass(frozen=True)
class _Recurrent:
    """What RNN, LSTM and GRU share: stacking, directions, names, checks."""

    n_a: int
    layers: int = field(default=1, kw_only=True)
    bidirectional: bool = field(default=False, kw_only=True)
    recompute: bool | int = field(default=False, kw_only=True)

    name: ClassVar[str]

    def __post_init__(self) -> None:
        """Refuse sizes below 1, and options that the cell does not know."""
        checks.count(self.name, n_a=self.n_a, layers=self.layers)
        if not isinstance(self.recompute, bool):
            checks.count(self.name, recompute=self.recompute)
        self._cell()

    def _cell(self) -> Cell:
        raise NotImplementedError

    @property
    def n_out(self) -> int:
        """Features out: n_a, twice that in both directions."""
        return self.n_a * (2 if self.bidirectional else 1)

    def names(self) -> list[str]:
        """The names of its parameters: `"0.W_h"`, `"0.reverse.W_h"`, `"1.W_h"`, ..."""
        cell = self._cell()
        return [p.prefix + name for layer in self._stack() for p in layer for name in cell.shapes]

    def _stack(self) -> list[list[_Pass]]:
        """Return the passes over time, layer by layer, numbered as the state is."""
        ways = ((".", False), (".reverse.", True))[: 2 if self.bidirectional else 1]
        return [
            [
                _Pass(layer * len(ways) + i, f"{layer}{suffix}", reverse)
                for i, (suffix, reverse) in enumerate(ways)
            ]
            for layer in range(self.layers)
        ]

    def init(self, n_in: int, *, like: Array, rng: np.random.Generator | int) -> Params:
        """Draw parameters for `n_in` features, in the library, device and dtype of `like`."""
        checks.count(self.name, n_in=n_in)
        checks.floats(self.name, {"like": like})
        rng, cell = random.generator(rng), self._cell()
        params: Params = {}
        for layer in self._stack():
            for _, prefix, _ in layer:
                drawn = cell.init(n_in, self.n_a, like=like, rng=rng)
                params |= {prefix + name: value for name, value in drawn.items()}
            n_in = self.n_out
        return params

    def forward(
        self,
        params: Params,
        x: Array,
        state: State = None,
        lengths: Any = None,
        *,
        draw: Any = None,
    ) -> tuple[Array, State, tuple[sequence.Tape, ...]]:
        """Run over time.

        Parameters
        ----------
        params
            As from `init`.
        x : (T, n_in, m)
            Floats.
        state
            What an earlier call returned, or None for zeros: a named tuple whose fields are
            `(layers, n_a, m)`, in both directions `(2 layers, n_a, m)`.
        lengths : (m,), optional
            Steps that each example has, `0 <= length <= T`. Beyond them y is 0 and the state
            stays as it is.
        draw
            Changes nothing: these layers drop nothing.

        Returns
        -------
        y, state, tape
            y `(T, n_out, m)` of the last layer, the state after the last step of each layer,
            and what `backward` needs. The tape shares its arrays with x, y and the state: do
            not write into them before `backward`.

        Raises
        ------
        ValueError
            For wrong shapes or lengths, and missing or unexpected parameters.
        TypeError
            For wrong or mixed dtypes, libraries or devices.
        """
        cell = self._cell()
        xp = self._check(params, x, state)
        lengths = checks.lengths(self.name, x, lengths)
        tapes: list[sequence.Tape] = []
        ends: list[State] = []
        y = x
        for layer in self._stack():
            outs: list[Array] = []
            for number, prefix, reverse in layer:
                own = {name: params[prefix + name] for name in cell.shapes}
                start = None if state is None else _entry(cell, state, number)
                out, end, tape = sequence.forward(
                    cell, own, y, start, lengths, reverse=reverse, recompute=self.recompute
                )
                outs.append(out)
                ends.append(end)
                tapes.append(tape)
            y = outs[0] if len(outs) == 1 else xp.concat(outs, axis=1)
        return y, _join(arrays.inner(xp), cell, ends), tuple(tapes)

    def backward(
        self,
        params: Params,
        tape: tuple[sequence.Tape, ...],
        dy: Array,
        dstate: State = None,
    ) -> tuple[Array, Params, State]:
        """Go back through time.

        Parameters
        ----------
        params, tape
            As in and from `forward`.
        dy : (T, n_out, m)
            dL/dy.
        dstate
            dL/d(state that `forward` returned), or None for zeros.

        Returns
        -------
        dx, grads, dstate
            dL/dx `(T, n_in, m)`, the gradient of every parameter, dL/d(state given).

        Raises
        ------
        ValueError, TypeError
            As in `forward`.
        """
        cell = self._cell()
        checks.tape(self.name, tape, tuple, sum(map(len, self._stack())))
        checks.tape(self.name, tape[0], sequence.Tape)
        n_steps, _, m = tape[0].x.shape
        self._check(params, tape[0].x, None)
        xp = checks.floats(self.name, {"x": tape[0].x, "dy": dy})
        checks.shape(self.name, "dy", dy, (n_steps, self.n_out, m), {})
        self._check_state("dstate", dy, dstate)
        grads: Params = {}
        starts: dict[int, State] = {}
        for layer in reversed(self._stack()):
            dx: Array = None
            for number, prefix, reverse in layer:
                own = {name: params[prefix + name] for name in cell.shapes}
                part = dy[:, self.n_a :, :] if reverse else dy[:, : self.n_a, :]
                end = None if dstate is None else _entry(cell, dstate, number)
                back, drawn, starts[number] = sequence.backward(
                    cell, own, tape[number], part, end, reverse=reverse, recompute=self.recompute
                )
                grads |= {prefix + name: value for name, value in drawn.items()}
                dx = back if dx is None else dx + back
            dy = dx
        dbefore = _join(arrays.inner(xp), cell, [starts[number] for number in range(len(starts))])
        return dy, {name: grads[name] for name in params}, dbefore

    def bind(self, params: Params, m: int = 1) -> Stream:
        """Return a function that takes one step, for streams.

        Parameters
        ----------
        params
            As from `init`. They are checked and prepared here, once; a later change in their
            arrays may or may not be seen.
        m
            Batch.

        Returns
        -------
        step
            `y, state = step(x, state=None)` with x `(n_in, m)`, y `(n_a, m)`, and a state as
            `forward` takes and returns it. It checks the shape of x and nothing else, and
            keeps no tape. y may share its memory with the state.

        Raises
        ------
        ValueError
            For wrong shapes, missing or unexpected parameters, and layers in both directions,
            which need the end of a sequence first.
        TypeError
            For wrong or mixed dtypes, libraries or devices.
        """
        if self.bidirectional:
            raise ValueError(f"{self.name}: bidirectional layers cannot take one step at a time")
        checks.count(self.name, m=m)
        xp = arrays.inner(self._check_parameters(params, {}))
        cell = self._cell()
        first = params["0.W_x"]
        n_in, shape = first.shape[2], (1, self.n_a, m)
        steps = [
            _stream(cell, xp, {name: params[p.prefix + name] for name in cell.shapes}, m)
            for (p,) in self._stack()
        ]
        zeros = xp.zeros(shape, dtype=first.dtype, device=arrays.device(first))
        zero = cell.state_type._make(
            [xp.concat([zeros] * self.layers)] * len(cell.state_type._fields)
        )

        def step(x: Array, state: State = None) -> tuple[Array, State]:
            if x.shape != (n_in, m):
                raise ValueError(f"{self.name}: x has shape {tuple(x.shape)}, expected {(n_in, m)}")
            ends = []
            for number, layer in enumerate(steps):
                end = layer(x, _entry(cell, zero if state is None else state, number))
                ends.append([xp.reshape(value, shape) for value in end])
                x = end[0]
            if len(ends) == 1:
                return x, cell.state_type._make(ends[0])
            columns = zip(*ends, strict=True)
            return x, cell.state_type._make([xp.concat(column) for column in columns])

        return step

    def _check(self, params: Params, x: Array, state: State) -> Namespace:
        xp = self._check_parameters(params, {"x": x})
        self._check_state("state", x, state)
        return xp

    def _check_parameters(self, params: Params, given: dict[str, Array]) -> Namespace:
        checks.parameters(self.name, params, self.names())
        xp = checks.floats(self.name, {**given, **params})
        sizes: checks.Sizes = {"n_a": self.n_a}
        for name, value in given.items():
            checks.shape(self.name, name, value, ("T", "n_x", "m"), sizes)
        shapes = self._cell().shapes
        for layer in self._stack():
            for _, prefix, _ in layer:
                for name, shape in shapes.items():
                    checks.shape(self.name, prefix + name, params[prefix + name], shape, sizes)
            sizes["n_x"] = self.n_out
        return xp

    def _check_state(self, what: str, x: Array, state: State) -> None:
        if state is None:
            return
        fields = self._cell().state_type._fields
        if not isinstance(state, tuple) or len(state) != len(fields):
            raise TypeError(
                f"{self.name}: {what} is a {type(state).__name__}, expected a tuple "
                f"({', '.join(fields)}{',' if len(fields) == 1 else ''})"
            )
        named = {f"{what}.{name}": value for name, value in zip(fields, state, strict=True)}
        checks.floats(self.name, {"x": x, **named})
        sizes = {"n_a": self.n_a, "m": x.shape[2], "layers": sum(map(len, self._stack()))}
        for name, value in named.items():
            checks.shape(self.name, name, value, ("layers", "n_a", "m"), sizes)


@dataclass(frozen=True)
class RNN(_Recurrent):
    """Simple recurrent layers, one on top of another.

    Parameters
    ----------
    n_a
        Hidden units.
    layers
        How many are stacked.
    bidirectional
        Run each both ways and join the two outputs along the features.
    recompute
        Keep the state of every k-th step only and compute the steps between again on the way
        back, for long sequences: a number k, or True for about the root of T. k is rounded
        up to whole blocks of steps (`arrays.block_steps`), so that the gradients are the
        same to the bit.
    activation
        "tanh" or "relu".

    Notes
    -----
    Parameters of layer l: `"l.W_x" (1, n_a, n_x)`, `"l.W_h" (1, n_a, n_a)`, `"l.b"
    (1, n_a, 1)`; of the way back `"l.reverse.W_x"` and so on. Equations and sources are in
    `seqcore.cells.rnn`.
    """

    activation: Literal["tanh", "relu"] = field(default="tanh", kw_only=True)

    name: ClassVar[str] = "rnn"

    def _cell(self) -> Cell:
        return RNNCell(self.activation)


@dataclass(frozen=True)
class LSTM(_Recurrent):
    """Long short-term memories, one on top of another.

    Parameters
    ----------
    n_a
        Hidden units.
    layers
        How many are stacked.
    bidirectional
        Run each both ways and join the two outputs along the features.
    recompute
        Keep the state of every k-th step only and compute the steps between again on the way
        back, for long sequences: a number k, or True for about the root of T. k is rounded
        up to whole blocks of steps (`arrays.block_steps`), so that the gradients are the
        same to the bit.

    Notes
    -----
    Parameters of layer l: `"l.W_x" (4, n_a, n_x)`, `"l.W_h" (4, n_a, n_a)`, `"l.b"
    (4, n_a, 1)`, gates in the order i, f, o, c; of the way back `"l.reverse.W_x"` and so
    on. Equations and sources are in `seqcore.cells.lstm`.

    Examples
    --------
    >>> import numpy as np, seqcore as sc
    >>> x = np.ones((5, 3, 2), dtype=np.float32)           # T, n_x, m
    >>> layer = sc.LSTM(4, layers=2)
    >>> params = layer.init(3, like=x, rng=0)
    >>> y, state, tape = layer.forward(params, x)
    >>> y.shape, state.h.shape, state.c.shape
    ((5, 4, 2), (2, 4, 2), (2, 4, 2))
    >>> dx, grads, dstate = layer.backward(params, tape, np.ones_like(y))
    >>> dx.shape, grads["1.W_h"].shape
    ((5, 3, 2), (4, 4, 4))
    """

    name: ClassVar[str] = "lstm"

    def _cell(self) -> Cell:
        return LSTMCell()

    def bind(self, params: Params, m: int = 1) -> Stream:
        """Return a function that takes one step, as `RNN` and `GRU` have it."""
        general = super().bind(params, m)
        fast = None
        if self.layers == 1 and m == 1:
            own = {name: params[f"0.{name}"] for name in LSTMCell().shapes}
            fast = LSTMCell().stream(arrays.namespace(own["W_x"]), own)
        if fast is None:
            return general
        take, n_in = fast, params["0.W_x"].shape[2]

        def step(x: Array, state: State = None) -> tuple[Array, State]:
            if state is None or x.shape != (n_in, 1):
                return general(x, state)
            h, c = take(x, state[0], state[1])
            return h[0, ...], LSTMState(h, c)

        return step


@dataclass(frozen=True)
class GRU(_Recurrent):
    """Gated recurrent units, one on top of another.

    Parameters
    ----------
    n_a
        Hidden units.
    layers
        How many are stacked.
    bidirectional
        Run each both ways and join the two outputs along the features.
    recompute
        Keep the state of every k-th step only and compute the steps between again on the way
        back, for long sequences: a number k, or True for about the root of T. k is rounded
        up to whole blocks of steps (`arrays.block_steps`), so that the gradients are the
        same to the bit.
    reset_after
        Where the reset gate stands: True as in cuDNN, PyTorch and Keras, False as in the
        first paper.

    Notes
    -----
    Parameters of layer l: `"l.W_x" (3, n_a, n_x)`, `"l.W_h" (3, n_a, n_a)`, `"l.b"
    (3, n_a, 1)`, gates in the order r, u, n, and with `reset_after` `"l.b_h" (1, n_a, 1)`;
    of the way back `"l.reverse.W_x"` and so on. Equations and sources are in
    `seqcore.cells.gru`.
    """

    reset_after: bool = field(default=True, kw_only=True)

    name: ClassVar[str] = "gru"

    def _cell(self) -> Cell:
        return GRUCell(self.reset_after)


def _stream(cell: Cell, xp: Namespace, params: Params, m: int) -> Callable[[Array, State], State]:
    """Return one step of a cell, from x `(n_x, m)` and the state before to that after."""
    W, weights = cell.prepare(xp, params, m)
    ones = xp.ones((1, m), dtype=params["b"].dtype, device=arrays.device(params["b"]))
    shape = (cell.gates, -1, m)

    def step(x: Array, before: State) -> State:
        at = xp.concat((x, ones))
        if W is not None:
            at = xp.reshape(W @ at, shape)
        after, _ = cell.step(xp, weights, at, before)
        return after

    return step


def _entry(cell: Cell, state: State, number: int) -> State:
    """Return the state of one pass."""
    return cell.state_type._make([value[number, ...] for value in state])


def _join(xp: Namespace, cell: Cell, states: list[State]) -> State:
    """Return one state with a leading axis of passes."""
    return cell.state_type._make([xp.stack(column) for column in zip(*states, strict=True)])
