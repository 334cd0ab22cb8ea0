"""Recurrent layers: a cell over time, stacked and in both directions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from seqcore import arrays, cells, checks, kernels, random, sequence
from seqcore.arrays import Array, Params, Shapes
from seqcore.cells import Cell, Ended, linear
from seqcore.layers.contract import STATE, State, X, check_kind, check_like
from seqcore.layers.door import BuiltIn
from seqcore.layers.hooks import Step, Wanted
from seqcore.random import Draw
from seqcore.sequence import stream

if TYPE_CHECKING:
    import numpy as np


class _Pass(NamedTuple):
    """One pass of a cell: its number in the state, its prefix in params, its direction."""

    number: int
    prefix: str
    reverse: bool


@dataclass(frozen=True)
class Recurrent(BuiltIn):
    """A cell over time: the base class of RNN, LSTM and GRU, which say which cell.

    Parameters
    ----------
    n_a
        Hidden units.
    layers
        How many are stacked.
    bidirectional
        Read in both directions and join the two outputs along the features. The state that such
        a layer returns is the end of its sequence in both directions: it cannot be continued
        from and is refused as a `state`. `tuple(state)` is accepted.
    recompute
        Keep the state of every k-th step only, and compute the steps between again in the
        backward pass, for long sequences: a number k, or True for about the square root of T.
        k is rounded up to whole blocks of steps, so that the gradients are the same to the bit.
    """

    n_a: int
    layers: int = field(default=1, kw_only=True)
    bidirectional: bool = field(default=False, kw_only=True)
    recompute: bool | int = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        """Refuse sizes below 1, and options that the cell does not know."""
        checks.count(self.name, n_a=self.n_a, layers=self.layers)
        checks.flag(self.name, bidirectional=self.bidirectional)
        if not isinstance(self.recompute, bool):
            checks.count(self.name, recompute=self.recompute)
        checks.plain(self)
        self.cell()

    @abstractmethod
    def cell(self) -> Cell:
        """Return the cell."""

    @property
    def n_out(self) -> int:
        """Number of output features: n_a, or 2 n_a with both directions."""
        return self.n_a * (2 if self.bidirectional else 1)

    def reads_windows(self) -> bool:
        """Tell whether a sequence can be read in windows: not in both directions."""
        return not self.bidirectional

    def shapes(self) -> Shapes:
        """The shape of each parameter: `"0.W_h"`, `"0.reverse.W_h"`, `"1.W_h"`, ..."""
        own = cells.shapes(self.cell())
        above = {"n_x": self.n_out, "n_a": self.n_a}
        found: Shapes = {}
        for number, layer in enumerate(self._stack()):
            for _, prefix, _ in layer:
                for name, shape in own.items():
                    # The first layer takes the features of x.
                    known = above if number else {"n_a": self.n_a}
                    found[prefix + name] = tuple([_known(size, known) for size in shape])
        return found

    def _stack(self) -> list[list[_Pass]]:
        """Return the passes over time, layer by layer, numbered as the state is."""
        directions = ((".", False), (".reverse.", True))[: 2 if self.bidirectional else 1]
        return [
            [
                _Pass(layer * len(directions) + i, f"{layer}{suffix}", reverse)
                for i, (suffix, reverse) in enumerate(directions)
            ]
            for layer in range(self.layers)
        ]

    def init(self, n_in: int, *, like: Array, rng: np.random.Generator | int) -> Params:
        """Draw W_x Glorot uniform and W_h orthogonal; biases are those of the cell."""
        n_in = check_like(self.name, like, n_in)
        rng, cell = random.generator(rng), self.cell()
        params: Params = {}
        for layer in self._stack():
            for _, prefix, _ in layer:
                drawn = linear.init(cell, n_in, self.n_a, like=like, rng=rng)
                params |= {prefix + name: value for name, value in drawn.items()}
            n_in = self.n_out
        return params

    # --- checks -------------------------------------------------------------------------

    def check_shapes(self, params: Params, n_in: int | None) -> int | None:
        """Require the declared shapes; return the features in."""
        own = cells.shapes(self.cell())
        sizes: checks.Sizes = {"n_a": self.n_a}
        if n_in is not None:
            sizes["n_x"] = n_in
        first = None
        for layer in self._stack():
            for _, prefix, _ in layer:
                for name, shape in own.items():
                    checks.shape(self.name, prefix + name, params[prefix + name], shape, sizes)
            first = sizes["n_x"] if first is None else first
            sizes["n_x"] = self.n_out
        return first

    def check_x(self, shape: tuple[int, ...], n_in: int | None) -> None:
        """Require `(T, n_x, m)`."""
        sizes = {} if n_in is None else {"n_x": n_in}
        checks.series(self.name, "x", shape, ("T", "n_x", "m"), sizes)

    def y_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of y from that of x."""
        return (shape[0], self.n_out, shape[2])

    def check_state(self, what: str, state: State, like: Array, m: int) -> None:
        """Require a tuple of the cell's states, each with a leading axis of passes."""
        if state is None:
            return
        kind = self.cell().state_type
        check_kind(self.name, what, state, kind)
        if isinstance(state, Ended) and what == "state":
            raise ValueError(
                f"{self.name}: {what} is the end of a sequence that was read in both directions, "
                "which cannot be continued from: give the whole sequence at once, or tuple(state) "
                "to start from it all the same"
            )
        named = {f"{what}.{name}": value for name, value in zip(kind._fields, state, strict=True)}
        checks.floats(self.name, {"x": like, **named})
        sizes = {"n_a": self.n_a, "m": m, "layers": sum(map(len, self._stack()))}
        for name, value in named.items():
            checks.shape(self.name, name, value, ("layers", "n_a", "m"), sizes)

    # --- over time ----------------------------------------------------------------------

    def run(
        self, params: Params, x: Array, state: State, steps: Array | None, draw: Draw | None
    ) -> tuple[Array, State, tuple[sequence.Tape, ...]]:
        """Run every pass; keep their tapes."""
        tapes: list[sequence.Tape] = []

        def over(
            ready: sequence.Ready, x: Array, start: State, mask: Array | None, *, reverse: bool
        ) -> tuple[Array, State]:
            y, end, tape = sequence.forward(
                ready, x, start, mask, reverse=reverse, recompute=self.recompute
            )
            tapes.append(tape)
            return y, end

        y, ends = self._over(params, x, state, steps, over)
        return y, ends, tuple(tapes)

    def infer(
        self, params: Params, x: Array, state: State, steps: Array | None
    ) -> tuple[Array, State]:
        """Run every pass, without tapes."""
        return self._over(params, x, state, steps, sequence.predict)

    def window(self, x: Array) -> int:
        """Return whole blocks of steps, so that products are taken over the same steps."""
        block = kernels.of(arrays.namespace(x)).block_steps(x.shape[0], x.shape[2])
        return -(-super().window(x) // block) * block

    def _over(
        self,
        params: Params,
        x: Array,
        state: State,
        steps: Array | None,
        over: Callable[..., tuple[Array, State]],
    ) -> tuple[Array, State]:
        cell = self.cell()
        xp = kernels.of(arrays.namespace(x)).inner
        mask = None if steps is None else steps[:, None, :]
        zero = sequence.zeros(cell, x, self.n_a) if state is None else None
        ends: list[State] = []
        for layer in self._stack():
            outs: list[Array] = []
            for number, prefix, reverse in layer:
                ready = sequence.prepare(cell, _under(params, prefix, cell))
                start = zero if state is None else _entry(cell, state, number)
                y, end = over(ready, x, start, mask, reverse=reverse)
                outs.append(y)
                ends.append(end)
            x = outs[0] if len(outs) == 1 else xp.concat(outs, axis=1)
        kind = cells.ended(cell.state_type) if self.bidirectional else cell.state_type
        return x, kind._make([xp.stack(column) for column in zip(*ends, strict=True)])

    def run_back(
        self,
        params: Params,
        kept: tuple[sequence.Tape, ...],
        dy: Array,
        dstate: State,
        wanted: Wanted,
    ) -> tuple[Array | None, Params, State]:
        """Run the backward pass of every pass that the wanted gradients need.

        If that leaves any out, dL/d(state before) is None.
        """
        cell = self.cell()
        names = cells.shapes(cell)
        xp = kernels.of(arrays.namespace(dy)).inner
        grads: Params = {}
        starts: dict[int, State] = {}
        dx: Array | None = None
        lowest = self._lowest(wanted)
        for level, layer in reversed(list(enumerate(self._stack()))[lowest:]):
            dx = None
            needs: Wanted = frozenset({X}) if level > lowest else wanted
            for number, prefix, reverse in layer:
                part = dy
                if self.bidirectional:
                    part = dy[:, self.n_a :, :] if reverse else dy[:, : self.n_a, :]
                end = None if dstate is None else _entry(cell, dstate, number)
                own = {name for name in names if prefix + name in wanted}
                if not own and not needs & {X, STATE}:
                    continue
                back, drawn, starts[number] = sequence.backward(
                    _under(params, prefix, cell), kept[number], part, end, (needs & {X}) | own
                )
                grads |= {prefix + name: value for name, value in drawn.items()}
                if back is not None:
                    dx = back if dx is None else dx + back
            dy = dx
        if len(starts) < sum(map(len, self._stack())):
            return dx, grads, None
        ordered = [starts[number] for number in range(len(starts))]
        states = [xp.stack(column) for column in zip(*ordered, strict=True)]
        return dx, grads, cell.state_type._make(states)

    def _lowest(self, wanted: Wanted) -> int:
        """Return the lowest layer with a wanted gradient; the number of layers if none has one."""
        if wanted & {X, STATE}:
            return 0
        return min([int(name.partition(".")[0]) for name in wanted], default=self.layers)

    def step(self, params: Params, m: int) -> Step:
        """Return one step of a stream through all layers; in both directions it refuses."""
        if self.bidirectional:

            def refuse(*_: Array) -> tuple[Array, State]:
                raise ValueError(
                    f"{self.name}: bidirectional layers cannot take one step at a time"
                )

            return refuse
        cell = self.cell()
        stacked = [_under(params, own.prefix, cell) for (own,) in self._stack()]
        like = stacked[0]["b"]

        def check(state: State) -> None:
            self.check_state(STATE, state, like, m)

        return stream.stack(self.name, cell, stacked, m, check)


def _known(size: int | str, known: dict[str, int]) -> int | str:
    return known.get(size, "n_in" if size == "n_x" else size) if isinstance(size, str) else size


def _under(params: Params, prefix: str, cell: Cell) -> Params:
    """Return the parameters of one pass."""
    return {name: params[prefix + name] for name in cells.shapes(cell)}


def _entry(cell: Cell, state: State, number: int) -> State:
    """Return the state of one pass."""
    return cell.state_type._make([value[number, ...] for value in state])
