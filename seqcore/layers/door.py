"""The base class of built-in layers: its public methods check all arguments, once.

    forward, predict, backward, bind     check, zero the steps that do not count, and call
    run, infer, run_back, step           of the layer, which check nothing

The module is called `door` because a call enters through it. A container calls `run`, `infer`
and `run_back` of its children through `children.py`, and the public methods of a child that is
not built in.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

from seqcore import arrays, checks, masks
from seqcore.arrays import Array, Namespace, Params, Shapes
from seqcore.layers.contract import STATE, State, Tape, X, check_tape, check_wrt
from seqcore.random import Draw

if TYPE_CHECKING:
    import numpy as np

# One time step of a stream, with parameters that are checked already.
Step: TypeAlias = Callable[[Array, State], tuple[Array, State]]
Wanted: TypeAlias = frozenset[str]


class BuiltIn(ABC):
    """What built-in layers share. See `contract.py` for the public methods."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name that its parameters and errors begin with."""

    if TYPE_CHECKING:  # a field in some layers, for which a property here would be the default

        @property
        def n_out(self) -> int | None:
            """Number of output features; None where it is that of the input."""

    @property
    def keeps_time(self) -> bool:
        """Whether y has the time axis of x."""
        return True

    @property
    def drops(self) -> bool:
        """Whether `forward` needs a draw."""
        return False

    def reads_windows(self) -> bool:
        """Tell whether a sequence can be read in windows, with the state carried on."""
        return self.keeps_time

    @abstractmethod
    def shapes(self) -> Shapes:
        """The shape of each parameter, in sizes and letters."""

    def names(self) -> list[str]:
        """The names of its parameters."""
        return list(self._shapes)

    @cached_property
    def _shapes(self) -> Shapes:
        # A layer never changes, and every call needs its shapes.
        return self.shapes()

    @abstractmethod
    def init(self, n_in: int, *, like: Array, rng: np.random.Generator | int) -> Params:
        """Draw parameters for `n_in` features."""

    # --- public -------------------------------------------------------------------------

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
            stays as it is.
        mask : (T, m) of bool, optional
            Which steps count. Where it is False, y is 0 and the state stays as it is. With
            `lengths` too, a step counts where both say so.
        draw
            Which of its masks a Dropout uses: a whole number, or a 0-d array of integers.

        Returns
        -------
        y, state, tape
            y `(T, n_out, m)`, the state after the last step, and what `backward` needs. The
            tape shares its arrays with x, y, the state and the parameters: do not write into
            them before `backward`.

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
                    f"{self.name}: draw is None, expected a number: `forward` trains, and this "
                    "layer drops; `predict` drops nothing"
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
        x = masks.blank(arrays.namespace(x), steps, x)
        return self.infer(params, x, state, steps)

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
            `(n_out, m)`; it checks the shape of x and nothing else. y may share its memory with
            the state. `y, state = bound.predict(x, state, lengths, mask)` takes a whole
            sequence and does not check the parameters again.

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
        checks.count(self.name, m=m)
        checks.parameters(self.name, params, self.names())
        own = self.checked_params(params)
        if own:
            checks.floats(self.name, own)
        n_in = self.check_shapes(params, None)
        return BoundLayer(self, params, n_in, self.step(params, m))

    # --- checks -------------------------------------------------------------------------

    def check(
        self, params: Params, x: Array, state: State, lengths: Any, mask: Any
    ) -> Array | None:
        """Check all arguments of a call; return which steps count, or None for all."""
        checks.parameters(self.name, params, self.names())
        own = self.checked_params(params)
        # Before shapes, which only arrays have.
        checks.one_library(self.name, {"x": x, **own})
        self.check_kinds(own, x)
        n_in = self.check_shapes(params, None)
        return self.check_call(own, x, state, lengths, mask, n_in)

    def check_input(
        self,
        own: Mapping[str, Array],
        x: Array,
        state: State,
        lengths: Any,
        mask: Any,
        n_in: int | None,
    ) -> Array | None:
        """Check a call whose `checked_params` have the right names and shapes already."""
        checks.one_library(self.name, {"x": x, **own})
        self.check_kinds(own, x)
        return self.check_call(own, x, state, lengths, mask, n_in)

    def check_call(
        self,
        own: Mapping[str, Array],
        x: Array,
        state: State,
        lengths: Any,
        mask: Any,
        n_in: int | None,
    ) -> Array | None:
        """Check the arguments of a call, where x and `own` are of one library and right dtypes."""
        self.check_x(tuple(x.shape), n_in)
        if state is not None:
            self.check_state(STATE, state, next(iter(own.values()), x), x.shape[-1])
        if lengths is None and mask is None:
            return None
        if x.ndim < self.ndim:
            raise ValueError(
                f"{self.name}: {'lengths' if mask is None else 'mask'} was given, but x of shape "
                f"{tuple(x.shape)} has no time axis"
            )
        return masks.steps(self.name, x, lengths, mask)

    def checked_params(self, params: Params) -> Mapping[str, Array]:
        """Return the parameters that built-in layers check."""
        return params

    def check_kinds(self, params: Mapping[str, Array], x: Array) -> None:
        """Require floats of one dtype."""
        checks.floating(self.name, {"x": x, **params})

    def check_shapes(self, params: Params, n_in: int | None) -> int | None:
        """Require the declared shapes, for `n_in` features if given; return the features in."""
        sizes: checks.Sizes = {} if n_in is None else {"n_in": n_in}
        for name, shape in self._shapes.items():
            checks.shape(self.name, name, params[name], shape, sizes)
        return sizes.get("n_in")

    @property
    def ndim(self) -> int:
        """Axes of x where it has a time axis."""
        return 3

    @abstractmethod
    def check_x(self, shape: tuple[int, ...], n_in: int | None) -> None:
        """Require a shape of x, with `n_in` features if given."""

    @abstractmethod
    def y_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of y from that of x."""

    @abstractmethod
    def check_state(self, what: str, state: State, like: Array, m: int) -> None:
        """Require a state for a batch of m, of the dtype and library of `like`."""

    # --- what a layer does --------------------------------------------------------------

    @abstractmethod
    def run(
        self, params: Params, x: Array, state: State, steps: Array | None, draw: Draw | None
    ) -> tuple[Array, State, Any]:
        """Return y, the state after the last step, and what `run_back` needs.

        x is 0 where `steps` is False; y must be, too.
        """

    @abstractmethod
    def infer(
        self, params: Params, x: Array, state: State, steps: Array | None
    ) -> tuple[Array, State]:
        """Return y and the state as `run` does, but drop nothing and keep nothing."""

    @abstractmethod
    def run_back(
        self, params: Params, kept: Any, dy: Array, dstate: State, wanted: Wanted
    ) -> tuple[Array | None, Params, State]:
        """Return dx, at least the gradients that are wanted, and dL/d(state before).

        dy is 0 at the steps that do not count; dx must be, too.
        """

    def example(self, params: Params, kept: Any) -> Array | None:
        """Return an array of the library, device and dtype of y, if one is known."""
        return next(iter(params.values()))

    @abstractmethod
    def step(self, params: Params, m: int) -> Step:
        """Return one time step of a stream."""


@dataclass(frozen=True, eq=False)  # hashable, for jax.jit
class BoundLayer:
    """A layer with parameters that are checked and prepared already; see `BuiltIn.bind`."""

    layer: BuiltIn
    params: Params
    n_in: int | None
    take: Step

    def __call__(self, x: Array, state: State = None) -> tuple[Array, State]:
        """Take one time step."""
        return self.take(x, state)

    def predict(
        self, x: Array, state: State = None, lengths: Any = None, mask: Array | None = None
    ) -> tuple[Array, State]:
        """Run over a whole sequence."""
        layer, params = self.layer, self.params
        few = dict(islice(layer.checked_params(params).items(), 1))  # all are alike
        steps = layer.check_input(few, x, state, lengths, mask, self.n_in)
        x = masks.blank(arrays.namespace(x), steps, x)
        return layer.infer(params, x, state, steps)


def in_time(xp: Namespace, columns: Array, n_steps: int, m: int) -> Array:
    """Return columns `(n, T m)` as `(T, n, m)`."""
    return xp.moveaxis(xp.reshape(columns, (-1, n_steps, m)), 1, 0)
