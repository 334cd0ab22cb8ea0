"""The base class of built-in layers: its public methods check all arguments, once.

    forward, predict, backward, bind

The module is called `door` because a call enters through it. Behind it the hooks of a layer
(`hooks.py`) check nothing. A container calls the hooks of its children through `children.py`, and
the public methods of a child that is not built in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from seqcore import arrays, checks, kernels, masks
from seqcore.arrays import Array, Params
from seqcore.layers import windows
from seqcore.layers.contract import State, Tape, X, check_tape, check_wrt
from seqcore.layers.hooks import Hooks, Step
from seqcore.random import Draw


class BuiltIn(Hooks):
    """What built-in layers share. See `contract.py` for the public methods."""

    def forward(
        self,
        params: Params,
        x: Array,
        state: State = None,
        lengths: Any = None,
        mask: Array | None = None,
        draw: Any = None,
    ) -> tuple[Array, State, Tape]:
        """Run over time, for training.

        Parameters
        ----------
        params
            As `init` returns them.
        x : (T, n_in, m)
            Floats, time first. For tokens `(T, m)` of integers.
        state
            What an earlier call returned, or None for the layer's initial state.
        lengths : (m,) of integers, optional
            Steps that each example has, `0 <= length <= T`. Beyond them y is 0 and the state
            stays as it is. So `y[-1]` is not each example's last step: for that use
            `seqcore.last(y, lengths)`, or a layer `Last`.
        mask : (T, m) of bool, optional
            Which steps count. Where it is False, y is 0 and the state stays as it is. With
            `lengths` too, a step counts where both say so.
        draw
            Which of its masks a Dropout uses: a whole number, or a 0-d array of integers.

        Returns
        -------
        y, state, tape
            y `(T, n_out, m)`, or `(n_out, m)` of a layer that ends time; the state after the
            last step; and what `backward` needs. The tape shares its arrays with x, y, the state
            and the parameters: do not write into them before `backward`.

        Raises
        ------
        ValueError
            For wrong shapes or lengths, for missing or unexpected parameters, and for dropout
            without a draw.
        TypeError
            For wrong or mixed dtypes, libraries or devices.
        """
        steps = self.check(params, x, state, lengths, mask)
        if draw is None:
            if self.drops:
                raise ValueError(
                    f"{self.name}: draw is None, expected a number: `forward` is for training, and "
                    "this layer has dropout; `predict` drops nothing"
                )
        else:
            draw = Draw.of(self.name, draw, x)
        x = masks.blank(arrays.namespace(x), steps, x)
        y, after, kept = self.run(params, x, state, steps, draw)
        return y, after, Tape.of(self, params, steps, y, kept)

    def predict(
        self,
        params: Params,
        x: Array,
        state: State = None,
        lengths: Any = None,
        mask: Array | None = None,
    ) -> tuple[Array, State]:
        """Run over time, without dropout and without a tape.

        Parameters
        ----------
        params, x, state, lengths, mask
            As in `forward`.

        Returns
        -------
        y, state
            As from `forward`.

        Raises
        ------
        ValueError, TypeError
            As in `forward`.
        """
        steps = self.check(params, x, state, lengths, mask)
        return windows.predict(self, params, x, state, steps)

    def backward(
        self,
        params: Params,
        tape: Tape,
        dy: Array,
        dstate: State = None,
        wrt: Any = None,
    ) -> tuple[Array | None, Params, State]:
        """Run the backward pass of a call of `forward`.

        Parameters
        ----------
        params, tape
            The parameters given to `forward`, and the tape that it returned.
        dy
            dL/dy, of the shape of y.
        dstate
            dL/d(state that `forward` returned), or None for zeros.
        wrt
            Names of the gradients wanted: of parameters, "x" for dx, and "state" for dstate.
            Others are not computed. None stands for all of them.

        Returns
        -------
        dx, grads, dstate
            dL/dx (None where x holds tokens, or is not wanted), the gradient of every parameter
            that is wanted, and dL/d(state given). dstate is None for a layer that the backward
            pass does not need to go through.

        Raises
        ------
        ValueError
            For wrong shapes, for parameters that the tape was not made with, and for unknown
            names in `wrt`.
        TypeError
            For wrong or mixed dtypes, libraries or devices, and for the tape of another layer.
        """
        checks.parameters(self.name, params, self.names())
        tape = check_tape(self, tape, params)
        if tape.params.seen is None:  # a copy, which does not know its parameters
            checks.floats(self.name, {"dy": dy, **self.checked_params(params)})
            self.check_shapes(params, None)
        wanted = check_wrt(self, wrt, list(params))
        like = self.example(params, tape.kept)
        xp = checks.floats(self.name, {"dy": dy} if like is None else {"y": like, "dy": dy})
        checks.shape(self.name, "dy", dy, tape.made.value.y_shape, {})
        self.check_state("dstate", dstate, like, dy.shape[-1] if dy.ndim else 1)
        if self.keeps_time:
            dy = masks.blank(xp, tape.steps, dy)
        kernels.of(xp).note_training()
        dx, grads, dbefore = self.run_back(params, tape.kept, dy, dstate, wanted)
        named = {name: grads[name] for name in params if name in wanted}
        return (dx if X in wanted else None), named, dbefore

    def bind(self, params: Params, m: int = 1) -> BoundLayer:
        """Return the layer with these parameters, for streams and many sequences.

        Parameters
        ----------
        params
            As `init` returns them. They are checked and prepared here, once; a later change in
            their arrays may or may not take effect.
        m
            Batch size.

        Returns
        -------
        bound
            `y, state = bound(x, state=None)` takes one time step, x `(n_in, m)` and y
            `(n_out, m)`; it checks x and the state. y may share its memory with the state.
            `y, state = bound.predict(x, state, lengths, mask)` takes a whole sequence. Neither
            checks the parameters again. It is made anew in another process: it can't be pickled.

        Raises
        ------
        ValueError
            For wrong shapes, and for missing or unexpected parameters.
        TypeError
            For wrong or mixed dtypes, libraries or devices.

        Examples
        --------
        >>> import numpy as np, seqcore as sc
        >>> model = sc.Sequential(sc.LSTM(4), sc.Dense(2))
        >>> params = model.init(3, like=np.zeros(0), rng=0)
        >>> bound, state = model.bind(params), None
        >>> for _ in range(5):
        ...     y, state = bound(np.ones((3, 1)), state)
        >>> y.shape
        (2, 1)
        """
        m = checks.whole(self.name, "m", m)
        checks.parameters(self.name, params, self.names())
        own = self.checked_params(params)
        if own:
            checks.floats(self.name, own)
        n_in = self.check_shapes(params, None)
        return BoundLayer(self, params, n_in, self.step(params, m), _Seen())


class _Seen:
    """The type and dtype of the x that was checked last: one comparison finds another."""

    __slots__ = ("dtype", "enough", "kind")

    def __init__(self) -> None:
        self.kind: type[Any] | None = None
        self.dtype: Any = None
        self.enough = False  # whether they tell all: not layout and memory, in other libraries


@dataclass(frozen=True, eq=False)  # hashable, for jax.jit
class BoundLayer:
    """A layer with parameters that are checked and prepared already; see `BuiltIn.bind`."""

    layer: BuiltIn
    params: Params
    n_in: int | None
    take: Step
    seen: _Seen

    def __call__(self, x: Array, state: State = None) -> tuple[Array, State]:
        """Take one time step."""
        seen = self.seen
        if type(x) is not seen.kind or x.dtype != seen.dtype:
            self.layer.check_arrays(self.layer.one_of(self.params), x)
            seen.kind, seen.dtype, seen.enough = type(x), x.dtype, arrays.judged_by_kind(x)
        elif not seen.enough:
            checks.usable(self.layer.name, "x", x)
        return self.take(x, state)

    def predict(
        self, x: Array, state: State = None, lengths: Any = None, mask: Array | None = None
    ) -> tuple[Array, State]:
        """Run over a whole sequence."""
        layer, params = self.layer, self.params
        steps = layer.check_input(layer.one_of(params), x, state, lengths, mask, self.n_in)
        return windows.predict(layer, params, x, state, steps)
