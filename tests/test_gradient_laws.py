"""What `check_gradients` sees besides differences: rounding, ends, tapes, steps, windows."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from own_layer import N_IN, Own, OwnState, with_grads
from problems import Mean, Scaled

import seqcore as sc
from seqcore import masks

pytestmark = [pytest.mark.usefixtures("unoptimized"), pytest.mark.host]

UNMASKED: dict[str, Any] = {"lengths": False, "mask": False}
STRICT: dict[str, Any] = {"lengths": True, "mask": True}
HIDDEN = "cannot be compared: rounding hides it, as y is so much larger than what "


def normal(*shape):
    return np.random.default_rng(0).standard_normal(shape)


# --- rounding ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Offset(Scaled):
    """y = offset + size tanh(w x), with all gradients times `share`: 1 is right."""

    offset: float = 0.0
    size: float = 1.0
    share: float = 1.0

    def shapes(self):
        return {"w": ("n_in", 1)}

    def forward(self, params, x, state=None, lengths=None, mask=None, draw=None):
        tanh = np.tanh(params["w"] * x)
        return self.offset + self.size * tanh, (), (x, tanh)

    def backward(self, params, tape, dy, dstate=None, wrt=None):
        x, tanh = tape
        dz = self.share * self.size * dy * (1.0 - tanh * tanh)
        return params["w"] * dz, {"w": np.sum(dz * x, axis=(0, 2))[:, None]}, ()


def judged(layer, **options):
    """Check a layer without masks; return its result, or the text of the error."""
    try:
        return sc.check_gradients(layer, N_IN, **UNMASKED, **options)
    except sc.GradientError as error:
        return str(error)


@pytest.mark.parametrize("offset", [0.0, 1e2, 1e5, 1e7, 1e9, 1e12])
@pytest.mark.parametrize("size", [1e-2, 1.0, 1e4])
def test_a_wrong_gradient_never_passes_and_no_error_exceeds_the_tolerance(offset, size):
    for share in (0.0, 0.5, 0.99, 1.0 + 1e-5, -1.0):
        said = judged(Offset(offset=offset, size=size, share=share))
        assert isinstance(said, str)
        assert "is wrong at" in said or HIDDEN in said
        # What rounding does not hide is named as wrong.
        if offset <= size and share != 1.0 + 1e-5:
            assert said.startswith("scaled: x is wrong at")
        if HIDDEN in said:
            assert "give other numbers by x= or params=, or center y" in said
    found = judged(Offset(offset=offset, size=size))
    if isinstance(found, str):
        assert HIDDEN in found
        assert "is wrong" not in found
        assert offset >= 1e4 * size
    else:
        assert max(found.errors.values()) <= 1e-6
        assert offset <= 1e8 * size


@pytest.mark.parametrize("size", [1e-12, 1e-6, 1.0, 1e3, 1e6, 1e10])
def test_steps_are_relative_to_the_array(size):
    x = size * normal(4, N_IN, 3)
    found = judged(Scaled(), x=x)
    # Beside b, of 1, y does not show w x, and the other way around.
    assert isinstance(found, str) == (size in (1e-12, 1e10))
    if isinstance(found, str):
        assert re.match(rf"scaled: params\['{'w' if size < 1 else 'b'}'\] {HIDDEN}", found)
    else:
        assert max(found.errors.values()) <= 1e-6

    class Half(Scaled):
        def backward(self, params, tape, dy, dstate=None, wrt=None):
            dx, *others = super().backward(params, tape, dy, dstate, wrt)
            return 0.5 * dx, *others

    said = judged(Half(), x=x)
    assert "scaled: x is wrong at" in said
    assert not re.search(r"^right:.*\bx\b", said, re.MULTILINE)


@pytest.mark.parametrize("size", [1e-12, 1e-3, 20.0])
@pytest.mark.parametrize("layer", [sc.LSTM(2), sc.RNN(3, activation="relu")], ids=["lstm", "relu"])
def test_layers_that_are_right_pass_with_small_and_large_parameters(layer, size):
    drawn = layer.init(N_IN, like=np.zeros(0), rng=0)
    params = {name: min(size, 3.0) * (value + 0.1) for name, value in drawn.items()}
    found = judged(layer, params=params, entries=8)
    assert not isinstance(found, str) or (size == 1e-12 and HIDDEN in found)
    x = size * normal(3, N_IN, 2)
    found = judged(layer, x=x, entries=8)
    if isinstance(found, str):
        assert HIDDEN in found  # W_x at a small x
        assert size == 1e-12
    else:
        assert max(found.errors.values()) <= 1e-6


class Dead(Scaled):
    """y = max(x w - 30, 0), which is 0: nothing depends on anything."""

    def forward(self, params, x, state=None, lengths=None, mask=None, draw=None):
        return np.maximum(params["w"] * x + 0.0 * params["b"] - 30.0, 0.0), (), (x,)

    def backward(self, params, tape, dy, dstate=None, wrt=None):
        return super().backward(params, tape, 0.0 * dy, dstate, wrt)


class Centered(Scaled):
    """y = w (x + b) less its mean over the batch, so that db is 0 but for rounding."""

    def forward(self, params, x, state=None, lengths=None, mask=None, draw=None):
        moved = x + params["b"]
        z = moved - np.mean(moved, axis=-1, keepdims=True)
        return params["w"] * z, (), (z,)

    def backward(self, params, tape, dy, dstate=None, wrt=None):
        dx, grads, _ = super().backward(params, tape, dy)
        dx = dx - np.mean(dx, axis=-1, keepdims=True)
        return dx, grads | {"b": np.sum(dx, axis=(0, 2))[:, None]}, ()


def test_a_gradient_that_is_zero_passes():
    found = judged(Dead())
    assert set(found.scales.values()) == {0.0}
    found = judged(Centered())
    assert found.scales["params['b']"] == 0
    assert min(found.scales["x"], found.scales["params['w']"]) > 0.1

    class Wrong(Centered):
        def backward(self, params, tape, dy, dstate=None, wrt=None):
            dx, grads, _ = super().backward(params, tape, dy)
            return dx, grads | {"b": grads["b"] + 1e-3}, ()

    assert re.match(r"scaled: params\['b'\] is wrong at", judged(Wrong()))


# --- one wrong entry among many ---------------------------------------------------------


@pytest.mark.parametrize("share", [1e-1, 1e-4])
def test_one_wrong_entry_of_ten_thousand_is_found(share):
    class Dense(sc.Dense):
        def backward(self, params, tape, dy, dstate=None, wrt=None):
            dx, grads, after = super().backward(params, tape, dy, dstate, wrt)
            if "W" in grads:
                off = np.zeros((100, 100))
                off[place] = share * np.max(np.abs(grads["W"]))
                grads["W"] = grads["W"] + off
            return dx, grads, after

    for place in ((0, 1), (50, 3), (98, 99)):
        with pytest.raises(sc.GradientError, match=r"^dense: params\['W'\] is wrong at") as caught:
            sc.check_gradients(Dense(100), 100, steps=(1,), **UNMASKED)
        assert caught.value.index == place


# --- what a layer promises besides ------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Ignoring(Own):
    """Takes lengths and masks, and ignores them."""

    def forward(self, params, x, state=None, lengths=None, mask=None, draw=None):
        return super().forward(params, x, state)


@dataclasses.dataclass(frozen=True)
class Ones(Own):
    """Gives 1 at the steps that do not count."""

    def forward(self, params, x, state=None, lengths=None, mask=None, draw=None):
        y, after, tape = super().forward(params, x, state, lengths, mask, draw)
        steps = masks.steps("ones", x, lengths, mask)
        return y if steps is None else y + ~steps[:, None, :], after, tape


@dataclasses.dataclass(frozen=True)
class Remembering(Own):
    """Keeps its activations on itself, and ignores its tape."""

    seen: list[Any] = dataclasses.field(default_factory=list)

    def forward(self, *args, **options):
        found = super().forward(*args, **options)
        self.seen[:] = [found[2]]
        return found

    def backward(self, params, tape, dy, dstate=None, wrt=None):
        return super().backward(params, self.seen[0], dy, dstate, wrt)


@dataclasses.dataclass(frozen=True)
class Backwards(Own):
    """Reads from the end, and takes the state that it has returned."""

    def forward(self, params, x, state=None, lengths=None, mask=None, draw=None):
        y, after, tape = super().forward(params, x[::-1], state)
        return y[::-1], after, tape

    def backward(self, params, tape, dy, dstate=None, wrt=None):
        dx, *others = super().backward(params, tape, dy[::-1], dstate, wrt)
        return dx[::-1], *others


def uncounted(made, like):
    return 0.0 if made.steps is None else np.where(made.steps[:, None, :], 0.0, like)


Spoil = Callable[[SimpleNamespace], Any]


def dx_is_tiny(b):
    return b.dx + uncounted(b, np.full_like(b.dx, 1e-12)), b.grads, b.dstate


def half_alone(b):
    return b.dx * (0.5 if b.dafter is None and not b.fresh else 1.0), b.grads, b.dstate


def more_alone(b):
    return with_grads(b, w=b.grads["w"] * (1 + (b.dafter is None and b.fresh and len(b.x) == 1)))


def state_alone(b):
    return b.dx, b.grads, OwnState(b.dstate.h * (2 if b.dafter is None else 1))


PROMISES: dict[str, tuple[Any, str]] = {
    "half of dx without dstate": (Own(half_alone), "x is wrong with dstate=None: "),
    "the state without dstate": (Own(state_alone), "state.h is wrong with dstate=None: "),
    "another tape": (
        Remembering(),
        "backward does not depend on its tape alone: with another call of forward before it",
    ),
    "y at steps that do not count": (Ones(), "y at [0, 0, 0] is 1 in size, "),
    "dx at steps that do not count": (Own(dx_is_tiny), "dx at [0, 0, 0] is 1e-12 in size, "),
    "lengths and masks ignored": (Ignoring(), "y at [0, "),
    "NaN in a gradient": (
        Own(blanks=False),
        "params['w'] depends on x or dy at steps that do not count: NaN there changes it by nan",
    ),
    "a state that is not carried": (
        Own(carries=False),
        "state.h of example 0 is not that of its sequence without the steps that do not count",
    ),
    "windows": (Backwards(), "y of two windows, with the state carried on, is not that of the"),
}


@pytest.mark.parametrize(("layer", "text"), PROMISES.values(), ids=PROMISES)
def test_what_a_layer_promises_besides_its_gradients_is_checked(layer, text):
    options = UNMASKED if isinstance(layer, Backwards) else STRICT
    with pytest.raises(sc.GradientError, match=f"^own: {re.escape(text)}") as caught:
        sc.check_gradients(layer, N_IN, entries=1, **options)
    assert "in the call with T = " in str(caught.value)


def test_the_calls_without_dstate_are_made_from_both_states():
    # Right wherever dstate is given: (1) alone sees it.
    with pytest.raises(sc.GradientError, match=r"^own: params\['w'\] is wrong with") as caught:
        sc.check_gradients(Own(more_alone), N_IN, entries=1)
    assert "in the call with T = 1" in str(caught.value)
    assert "from the layer's own initial state" in str(caught.value)


@pytest.mark.parametrize("layer", [Scaled(), Mean()], ids=["keeps time", "ends time"])
def test_a_layer_may_leave_steps_to_its_container(layer):
    with pytest.raises(sc.GradientError, match=r"step does not count|at steps that do not count"):
        sc.check_gradients(layer, N_IN, **STRICT)
    for found in (sc.check_gradients(layer, N_IN), sc.check_gradients(sc.Sequential(layer), N_IN)):
        assert len(found.cases) == 16


def test_what_no_container_can_do_for_a_layer_is_required_of_it():
    @dataclasses.dataclass(frozen=True)
    class Ignores(Mean):
        """The mean over all steps, whatever counts."""

        def forward(self, params, x, state=None, lengths=None, mask=None, draw=None):
            return Mean().forward(params, x)

        def predict(self, params, x, state=None, lengths=None, mask=None):
            return Mean().predict(params, x)

    with pytest.raises(sc.GradientError, match=r"^mean: y depends on x at steps that do not count"):
        sc.check_gradients(Ignores(), N_IN)
    sc.check_gradients(Ignores(), N_IN, **UNMASKED)


def test_a_token_that_does_not_count_changes_nothing():
    @dataclasses.dataclass(frozen=True)
    class Lookup(Scaled):
        """y = w[token], 0 where it does not count; dw has all of them."""

        blanks: bool = True

        def shapes(self):
            return {"w": (2, 5)}

        def init(self, n_in, *, like, rng):
            return {"w": normal(2, 5)}

        def forward(self, params, x, state=None, lengths=None, mask=None, draw=None):
            steps = masks.steps("lookup", x, lengths, mask)
            y = np.moveaxis(params["w"][:, x], 0, 1)
            return masks.blank(np, steps, y), (), (x, steps)

        def backward(self, params, tape, dy, dstate=None, wrt=None):
            x, steps = tape
            dy = masks.blank(np, steps, dy) if self.blanks else dy
            hot = (x[..., None] == np.arange(5)).astype(float)
            return None, {"w": np.einsum("tim,tmk->ik", dy, hot)}, ()

    x = np.arange(12).reshape(4, 3) % 5
    sc.check_gradients(Lookup(), 5, x=x)
    with pytest.raises(sc.GradientError, match=r"^scaled: params\['w'\] is wrong at"):
        sc.check_gradients(Lookup(blanks=False), 5, x=x)
