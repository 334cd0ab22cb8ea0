"""What a built-in layer has to say: its checks, and what it computes without any.

    check_*                     of all that a call is given, called once, by `door.py`
    run, infer, run_back, step  of the layer, which check nothing

A container asks its children for the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

from seqcore import checks, masks
from seqcore.arrays import Array, Params, Shapes
from seqcore.layers.contract import STATE, State
from seqcore.random import Draw

if TYPE_CHECKING:
    import numpy as np

# One time step of a stream, with parameters that are checked already.
Step: TypeAlias = Callable[[Array, State], tuple[Array, State]]
Wanted: TypeAlias = frozenset[str]

WINDOW = 1024  # steps


class Hooks(ABC):
    """What a built-in layer has to say; `door.py` has the public methods that ask it."""

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

    @property
    def all_built_in(self) -> bool:
        """Whether no user's layer is in it: of one, nothing is known before it has run."""
        return True

    def features(self, n_in: int | None) -> int | None:
        """Return the features of y for those of x; None where they are not known."""
        return n_in if self.n_out is None else self.n_out

    def reads_windows(self) -> bool:
        """Tell whether a sequence can be read in windows, with the state carried on.

        A layer that ends time can if its last window's y is that of the whole.
        """
        return self.keeps_time

    def window(self, x: Array) -> int:
        """Return how many steps `predict` takes at a time of a long sequence."""
        return WINDOW

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

    # --- checks -------------------------------------------------------------------------

    def check(
        self, params: Params, x: Array, state: State, lengths: Any, mask: Any
    ) -> Array | None:
        """Check all arguments of a call; return which steps count, or None for all."""
        checks.parameters(self.name, params, self.names())
        own = self.checked_params(params)
        self.check_arrays(own, x)  # before shapes, which only arrays have
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
        self.check_arrays(own, x)
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

    def one_of(self, params: Params) -> Mapping[str, Array]:
        """Return one of the parameters that built-in layers check, if any: all are alike."""
        return dict(islice(self.checked_params(params).items(), 1))

    def check_arrays(self, own: Mapping[str, Array], x: Array) -> None:
        """Require x and `own` to be arrays of one library and of the right dtypes."""
        checks.one_library(self.name, {"x": x, **own})
        self.check_kinds(own, x)

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
