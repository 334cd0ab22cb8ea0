"""Layers one after another, as one layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from seqcore import checks, random
from seqcore.arrays import Array, Params, Shapes
from seqcore.layers import children
from seqcore.layers.contract import STATE, Layer, State, X, check_layer, names_of
from seqcore.layers.door import BuiltIn
from seqcore.layers.hooks import Step, Wanted
from seqcore.random import Draw

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, init=False)
class Sequential(BuiltIn):
    """Layers one after another, as one layer.

    Parameters
    ----------
    *layers
        Each takes the output of the one before it. It is named after its kind: "lstm", a
        second one "lstm_1".
    **named
        Further layers, named as you like, without dots.

    Notes
    -----
    Names of parameters begin with the layer's name: `"lstm.0.W_h"`. The state is a tuple with
    one entry per layer.

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

    def __init__(self, /, *layers: Layer, **named: Layer) -> None:
        if not layers and not named:
            raise ValueError("sequential: no layers were given, expected at least one")
        for layer in (*layers, *named.values()):
            check_layer("sequential", layer)
        labels: list[str] = []
        twins: Counter[str] = Counter()
        for layer in layers:
            name = layer.name
            labels.append(f"{name}_{twins[name]}" if twins[name] else name)
            twins.update([name])
        labels += named
        seen: set[str] = set()
        for label in labels:
            if not label or "." in label:
                raise ValueError(
                    f"sequential: a layer is named {label!r:.60}, expected a name without dots, "
                    "which divide the names of parameters"
                )
            if label in seen:
                raise ValueError(f"sequential: two layers are named {label!r:.60}")
            seen.add(label)
        object.__setattr__(self, "layers", (*layers, *named.values()))
        object.__setattr__(self, "labels", tuple(labels))

    @property
    def name(self) -> str:
        """The name that its parameters and errors begin with."""
        return "sequential"

    @property
    def n_out(self) -> int | None:
        """Number of output features, of the last layer that sets it."""
        # Each is asked once: twice at each level of a nesting would be 2^levels times.
        widths = (layer.n_out for layer in reversed(self.layers))
        return next((width for width in widths if width is not None), None)

    @property
    def keeps_time(self) -> bool:
        """Whether y has the time axis of x."""
        return all(map(children.keeps_time, self.layers))

    @property
    def drops(self) -> bool:
        """Whether `forward` needs a draw."""
        return any(getattr(layer, "drops", False) for layer in self.layers)

    @property
    def ndim(self) -> int:
        """Axes of x where it has a time axis; a user's layer may take tokens."""
        first = self.layers[0]
        return first.ndim if isinstance(first, BuiltIn) else 2

    @cached_property
    def all_built_in(self) -> bool:
        """Whether no user's layer is in it."""
        return all(map(children.all_built_in, self.layers))

    @cached_property
    def _unknown(self) -> tuple[bool, ...]:
        """For each layer, whether its x comes through a user's layer."""
        known = [children.all_built_in(layer) for layer in self.layers]
        return tuple(not all(known[:number]) for number in range(len(known)))

    def features(self, n_in: int | None) -> int | None:
        """Return the features of y for those of x; None where they are not known."""
        for layer in self.layers:
            n_in = children.features(layer, n_in)
        return n_in

    def shapes(self) -> Shapes:
        """The shape of each parameter, with its layer's name in front."""
        return {
            f"{label}.{name}": shape
            for label, layer in self._named()
            for name, shape in layer.shapes().items()
        }

    def names(self) -> list[str]:
        """The names of its parameters, each with its layer's name in front."""
        return [whole for names in self._own_names for whole in names.values()]

    def _named(self) -> list[tuple[str, Layer]]:
        return list(zip(self.labels, self.layers, strict=True))

    @cached_property
    def _own_names(self) -> list[dict[str, str]]:
        """For each layer, its own names of its parameters, and their names in the model."""
        return [
            {name: f"{label}.{name}" for name in names_of(layer)} for label, layer in self._named()
        ]

    def _own(self, params: Mapping[str, Array], number: int) -> Params:
        """Return the parameters of one layer, by its own names."""
        return {name: params[whole] for name, whole in self._own_names[number].items()}

    def init(self, n_in: int, *, like: Array, rng: np.random.Generator | int) -> Params:
        """Draw parameters for `n_in` features (with an Embedding in front: tokens)."""
        rng = random.generator(rng)
        params: Params = {}
        for label, layer in self._named():
            drawn = layer.init(n_in, like=like, rng=rng)
            params |= {f"{label}.{name}": value for name, value in drawn.items()}
            n_in = layer.n_out or n_in
        return params

    # --- checks -------------------------------------------------------------------------

    def checked_params(self, params: Params) -> Mapping[str, Array]:
        """Return the parameters that built-in layers check."""
        return {
            f"{self.labels[number]}.{name}": value
            for number, layer in enumerate(self.layers)
            if isinstance(layer, BuiltIn)
            for name, value in layer.checked_params(self._own(params, number)).items()
        }

    def check_kinds(self, params: Mapping[str, Array], x: Array) -> None:
        """Require floats of one dtype, and what the first layer requires of x."""
        first = self.layers[0]
        if isinstance(first, BuiltIn):
            with _inside(self.labels[0]):
                first.check_kinds(params, x)
        else:
            checks.floating(self.name, params)

    def check_shapes(self, params: Params, n_in: int | None) -> int | None:
        """Require the declared shapes, each layer's for the features of the one before it."""
        came: int | None = None
        begun = False  # whether a layer has set its own number of features
        for number, (label, layer) in enumerate(self._named()):
            if isinstance(layer, BuiltIn):
                with _inside(label):
                    found = layer.check_shapes(self._own(params, number), n_in)
                if not begun and came is None:
                    came = found
                n_in = found if n_in is None else n_in
            begun = begun or layer.n_out is not None or not children.all_built_in(layer)
            n_in = children.features(layer, n_in)
        return came

    def check_x(self, shape: tuple[int, ...], n_in: int | None) -> None:
        """Require a shape that every layer takes, up to the first that is not built in."""
        if not shape:
            raise ValueError(f"{self.name}: x has shape (), expected a batch in its last axis")
        for number, (label, layer) in enumerate(self._named()):
            if not isinstance(layer, BuiltIn):
                return  # it may take any x, and the shape of its y is not known
            with _inside(label):
                layer.check_x(shape, None if number else n_in)
            if not layer.all_built_in:
                return
            shape = layer.y_shape(shape)

    def y_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of y from that of x, where all layers are built in."""
        for layer in self.layers:
            if isinstance(layer, BuiltIn):
                shape = layer.y_shape(shape)
        return shape

    def check_state(self, what: str, state: State, like: Array, m: int) -> None:
        """Require None or a tuple with one entry per layer."""
        for (label, layer), own in zip(self._named(), self._states(what, state), strict=True):
            with _inside(label):
                children.check_state(layer, what, own, like, m)

    def _states(self, what: str, state: State) -> tuple[State, ...]:
        if state is None:
            return (None,) * len(self.layers)
        expected = f"a tuple with one entry for each of the layers {', '.join(self.labels)}"
        if not isinstance(state, tuple):
            raise TypeError(f"{self.name}: {what} is a {type(state).__name__}, expected {expected}")
        if len(state) != len(self.layers):
            raise ValueError(f"{self.name}: {what} is a tuple of {len(state)}, expected {expected}")
        return state

    # --- over time ----------------------------------------------------------------------

    def run(
        self, params: Params, x: Array, state: State, steps: Array | None, draw: Draw | None
    ) -> tuple[Array, State, tuple[Any, ...]]:
        """Run x through every layer."""
        after: list[State] = []
        kept: list[Any] = []
        for number, (label, layer) in enumerate(self._named()):
            own, before = self._own(params, number), self._states(STATE, state)[number]
            drawn = None if draw is None else draw.child(number)
            with _inside(label):
                self._check_behind(number, own, x)
                x, end, keep = children.run(layer, own, x, before, steps, drawn)
            after.append(end)
            kept.append(keep)
            if not children.keeps_time(layer):
                steps = None
        return x, tuple(after), tuple(kept)

    def infer(
        self, params: Params, x: Array, state: State, steps: Array | None
    ) -> tuple[Array, State]:
        """Run x through every layer, and keep nothing."""
        after: list[State] = []
        for number, (label, layer) in enumerate(self._named()):
            own, before = self._own(params, number), self._states(STATE, state)[number]
            with _inside(label):
                self._check_behind(number, own, x)
                x, end = children.infer(layer, own, x, before, steps)
            after.append(end)
            if not children.keeps_time(layer):
                steps = None
        return x, tuple(after)

    def reads_windows(self) -> bool:
        """Tell whether a sequence can be read in windows, with the state carried on."""
        return all(isinstance(layer, BuiltIn) and layer.reads_windows() for layer in self.layers)

    def _check_behind(self, number: int, params: Params, x: Array) -> None:
        """Check what came through a user's layer, which was not known before it had run."""
        layer = self.layers[number]
        if self._unknown[number] and isinstance(layer, BuiltIn):
            n_in = layer.check_shapes(params, None)
            layer.check_input(layer.checked_params(params), x, None, None, None, n_in)

    def run_back(
        self, params: Params, kept: tuple[Any, ...], dy: Array, dstate: State, wanted: Wanted
    ) -> tuple[Array | None, Params, State]:
        """Run the backward pass through the layers, until nothing more is wanted."""
        dafter = self._states("dstate", dstate)
        grads: Params = {}
        dbefore: list[State] = [None] * len(self.layers)
        dx: Array | None = dy
        for number, (label, layer) in reversed(list(enumerate(self._named()))):
            own = self._own(params, number)
            names = frozenset(name for name in own if f"{label}.{name}" in wanted)
            below = X in wanted or any(
                name.startswith(tuple(f"{lower}." for lower in self.labels[:number]))
                for name in wanted
            )
            needs = names | (wanted & {STATE}) | ({X} if below or STATE in wanted else set())
            if number == 0:
                needs = names | (wanted & {STATE, X})
            if not needs:
                dx = None
                break
            with _inside(label):
                dx, part, dbefore[number] = children.run_back(
                    layer, own, kept[number], dx, dafter[number], needs
                )
            grads |= {f"{label}.{name}": part[name] for name in names}
        return dx, grads, tuple(dbefore)

    def step(self, params: Params, m: int) -> Step:
        """Return one step of a stream through every layer."""
        steps: list[Step] = []
        for number, (label, layer) in enumerate(self._named()):
            own, unknown = self._own(params, number), self._unknown[number]
            with _inside(label):
                steps.append(children.step(layer, own, m, unknown=unknown))

        def take(x: Array, state: State = None) -> tuple[Array, State]:
            states = self._states(STATE, state)
            after: list[State] = []
            try:
                for layer, before in zip(steps, states, strict=True):
                    x, end = layer(x, before)
                    after.append(end)
            except (TypeError, ValueError) as error:
                error.add_note(_where(self.labels[len(after)]))
                raise
            return x, tuple(after)

        return take

    def example(self, params: Params, kept: tuple[Any, ...]) -> Array | None:
        """Return an array of the library, device and dtype of y, if one is known."""
        own = self.checked_params(params)
        if own:
            return next(iter(own.values()))
        return children.example(self.layers[0], self._own(params, 0), kept[0])


def _where(label: str) -> str:
    return f"in the layer {label!r} of a Sequential"


@contextmanager
def _inside(label: str) -> Iterator[None]:
    """Note in an error which layer of a Sequential it comes from."""
    try:
        yield
    except (TypeError, ValueError) as error:
        error.add_note(_where(label))
        raise
