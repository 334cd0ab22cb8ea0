"""The contract of a layer.

A layer is a frozen dataclass of sizes and options and never holds an array:

    params            = layer.init(n_in, like=array, rng=generator)
    y, state, tape    = layer.forward(params, x, state, lengths, mask, draw)     to train
    dx, grads, dstate = layer.backward(params, tape, dy, dstate, wrt)
    y, state          = layer.predict(params, x, state, lengths, mask)           keeps no tape
    bound             = layer.bind(params, m)
    y, state          = bound(x, state)                                          one time step

`params` and `grads` are flat dicts with the same names. x and y are `(T, n, m)`: time,
features, batch. `state` goes in and comes out, so that a sequence can be read in windows; a
layer without one has `()`. A layer that reads in both directions needs its whole sequence at
once: the state that it returns cannot be continued from, and the layer refuses it.

Floats are float32 or float64, all of one dtype; backends/ states the accuracy that each library
reaches in them. Half precision (float16, bfloat16) is refused by name: Adam's eps rounds to 0
there, and sums over a batch or over many classes lose most of their digits. So is an array whose
meaning the functions of the standard would drop, such as a masked array.

`lengths (m,)` and `mask (T, m)` say which steps of each example count; with both, a step counts
where both say so. Other steps affect no result and no gradient, in any layer: y and dx are 0
there, and the state stays as it is. So `y[-1]` is not the last step of every example: that is
`seqcore.last(y, lengths, mask)`, or a layer `Last`. Behind a layer that ends time (`keeps_time`
is False) there are no steps, and a container passes neither lengths nor mask on.

`draw`, a number or a 0-d array of integers such as the count of an optimizer's state, says
which of its masks a Dropout uses. A container makes each child's own draw from it. A user's layer
gets a number, which has no room for where a shard begins in its batch: inside a Sharded it is
another one in each shard, so what such a layer drops depends on the number of shards.

`wrt` names the gradients that are wanted: parameters, and "x" for dx; None stands for all. The
built-in layers also know "state", for dstate: of a layer below all that is wanted it is None.

A container checks what a user's layer returns, and names it where it does not keep to this: y
and the gradients are arrays of x's library, device and dtype, y has the T (unless `keeps_time`
is False, which a layer has to say) and the batch of x, and as many features as `n_out` says, and
gradients have the shapes of x and of the parameters. It checks no x before a user's layer has
run: such a layer may take any whose first axis is time and whose last one is the batch, also
tokens.

`seqcore.check_gradients(layer, n_in)` checks whether a layer keeps to this and whether its
gradients are right.

`tape` is what backward needs. It remembers the layer and the parameters that it was made with,
and backward refuses others. It shares arrays with x, y and the state, so do not write into
them, nor into the parameters, before `backward`: that cannot be detected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from seqcore import arrays, checks
from seqcore.arrays import Array, Params, Shapes, Static, Witness

if TYPE_CHECKING:
    import numpy as np

# A named tuple of arrays, a tuple with one entry per layer, or `()`.
State: TypeAlias = Any

X, STATE = "x", "state"  # what `wrt` may name besides parameters


class Bound(Protocol):
    """A layer with parameters that are checked and prepared already."""

    def __call__(self, x: Array, state: State = None) -> tuple[Array, State]:
        """Take one time step: x `(n_in, m)`, y `(n_out, m)`. Only the shape of x is checked."""

    def predict(
        self, x: Array, state: State = None, lengths: Any = None, mask: Array | None = None
    ) -> tuple[Array, State]:
        """Run over a whole sequence, as `Layer.predict` does."""


class Layer(Protocol):
    """The contract of a layer; the module's docstring explains it."""

    @property
    def name(self) -> str:
        """The name that its parameters and errors begin with."""

    @property
    def n_out(self) -> int | None:
        """Number of output features; None where it is that of the input."""

    @property
    def keeps_time(self) -> bool:
        """Whether y has the time axis of x; after a layer without it, nothing is masked."""

    def shapes(self) -> Shapes:
        """The shape of each parameter, in sizes and letters."""

    def init(self, n_in: int, *, like: Array, rng: np.random.Generator | int) -> Params:
        """Draw parameters for `n_in` features."""

    def forward(
        self,
        params: Params,
        x: Array,
        state: State = None,
        lengths: Any = None,
        mask: Array | None = None,
        draw: Any = None,
    ) -> tuple[Array, State, Any]:
        """Return y, the state after the last step, and the tape."""

    def backward(
        self,
        params: Params,
        tape: Any,
        dy: Array,
        dstate: State = None,
        wrt: Any = None,
    ) -> tuple[Array | None, Params, State]:
        """Return dL/dx, the gradients that `wrt` names, and dL/d(state before)."""

    def predict(
        self,
        params: Params,
        x: Array,
        state: State = None,
        lengths: Any = None,
        mask: Array | None = None,
    ) -> tuple[Array, State]:
        """Return y and the state after the last step."""

    def bind(self, params: Params, m: int = 1) -> Bound:
        """Return the layer with these parameters, for a batch of m."""


class Made(NamedTuple):
    """The layer that made a tape, and the shape of its y."""

    layer: Any
    y_shape: tuple[int, ...]


class Tape(NamedTuple):
    """What a layer's forward keeps for its backward."""

    made: Static[Made]
    params: Witness
    steps: Array | None  # (T, m) of bool, which steps count; None for all
    kept: Any  # arrays, in tuples and None only

    @classmethod
    def of(cls, layer: Any, params: Params, steps: Array | None, y: Array, kept: Any) -> Tape:
        """Return the tape of a call that gave y."""
        return cls(Static(Made(layer, tuple(y.shape))), Witness(dict(params)), steps, kept)

    def check(self, layer: Any, params: Params) -> None:
        """Require the layer and the parameters that this tape was made with.

        Raises
        ------
        TypeError
            If it was made by another layer.
        ValueError
            If it was made with other parameters, where that can be detected.
        """
        made = self.made.value.layer
        if made != layer:
            raise TypeError(
                f"{layer.name}: tape is that of {made!r}, expected that of this layer, {layer!r}"
            )
        for name, seen in (self.params.seen or {}).items():
            if arrays.is_another(params[name], seen):
                raise ValueError(
                    f"{layer.name}: the tape was made with another {name!r} than the one given; "
                    "backward takes the parameters of its forward"
                )


def check_tape(layer: Any, tape: Any, params: Params) -> Tape:
    """Require the tape that this layer's forward gave, with these parameters.

    Raises
    ------
    TypeError
        If it is not a tape, or that of another layer.
    ValueError
        If it was made with other parameters.
    """
    if not isinstance(tape, Tape):
        raise TypeError(
            f"{layer.name}: tape is a {type(tape).__name__}, expected that of this layer's forward"
        )
    tape.check(layer, params)
    return tape


def check_wrt(layer: Any, wrt: Any, names: list[str]) -> frozenset[str]:
    """Return what is wanted: names of parameters, "x" and "state".

    Raises
    ------
    TypeError
        If `wrt` is not a collection of names.
    ValueError
        If it names something else.
    """
    if wrt is None:
        return frozenset({X, STATE, *names})
    known = {X, STATE, *names}
    if isinstance(wrt, str) or not hasattr(wrt, "__iter__"):
        raise TypeError(f"{layer.name}: wrt is {wrt!r}, expected a collection of names")
    wanted = list(wrt)
    for name in wanted:
        if not isinstance(name, str) or name not in known:
            raise ValueError(
                f"{layer.name}: wrt names {name!r}, expected some of "
                f"{', '.join(repr(name) for name in (X, STATE, *names))}"
            )
    return frozenset(wanted)


def names_of(layer: Any) -> list[str]:
    """Return the names of a layer's parameters."""
    # A user's layer may define only `names`; then it checks the shapes itself when called.
    for names in ("names", "shapes"):
        if hasattr(layer, names):
            return list(getattr(layer, names)())
    raise TypeError(
        f"{layer!r} has neither shapes() nor names(), which say what its parameters are"
    )


def check_layer(place: str, layer: Any) -> None:
    """Require a layer, not its class.

    Raises
    ------
    TypeError
        If it is something else.
    """
    if isinstance(layer, type) or not hasattr(layer, "forward"):
        raise TypeError(f"{place}: {layer!r:.200} was given, expected a layer")


def check_no_state(place: str, what: str, state: State) -> None:
    """Require None or `()` as the state of a layer that has none.

    Raises
    ------
    ValueError
        If something else was given.
    """
    if state is not None and not (isinstance(state, tuple) and len(state) == 0):
        raise ValueError(f"{place}: {what} was given, expected None: this layer has no state")


def check_kind(place: str, what: str, state: State, kind: type[Any]) -> None:
    """Require a state of this kind, or a plain tuple with as many entries.

    Raises
    ------
    TypeError
        If it is something else.
    """
    fields: tuple[str, ...] = getattr(kind, "_fields", ())
    if not isinstance(state, tuple) or len(state) != len(fields):
        given = f"a {type(state).__name__}"
        given += f" of {len(state)}" if isinstance(state, tuple) else ""
        raise TypeError(
            f"{place}: {what} is {given}, expected a tuple "
            f"({', '.join(fields)}{',' if len(fields) == 1 else ''})"
        )
    if hasattr(state, "_fields") and not isinstance(state, kind):
        raise TypeError(
            f"{place}: {what} is a {type(state).__name__}, which another layer returned, expected "
            f"{kind.__name__} or a plain tuple"
        )


def check_like(place: str, like: Array, n_in: int) -> int:
    """Require what `init` needs: a number of features, which it returns, and an array of floats.

    Raises
    ------
    ValueError
        If n_in is less than 1.
    TypeError
        If n_in is not a whole number, or `like` is not an array of floats.
    """
    n_in = checks.whole(place, "n_in", n_in)
    checks.floats(place, {"like": like})
    return n_in
