"""`check_gradients`: layers that are right pass, and each planted fault is caught and named."""

from __future__ import annotations

import dataclasses
import pickle
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from judging import exactly
from own_layer import N_IN, Own, OwnState, right, right_forward, with_grads
from problems import ENDING, KINDS, TOKENS, Mean, Scaled, recurrent

import seqcore as sc
from seqcore import masks
from seqcore.gradients import GradientCheck
from seqcore.gradients.differences import STEP

pytestmark = pytest.mark.usefixtures("unoptimized")

M = 3


# --- wrong gradients --------------------------------------------------------------------


def lengths_given(b):
    """Tell whether only lengths were given: no step counts after one that does not."""
    return b.steps is not None and bool((b.steps[1:] <= b.steps[:-1]).all())


def changed(array, index, by):
    array = array.copy()
    array[index] += by
    return array


def in_place(array):
    array *= 2.0
    return array


# What is wrong, by name: the fault; the gradient that is named; the call in which it is.
FAULTS: dict[str, tuple[Callable[[SimpleNamespace], Any], str, str]] = {
    "the sign of dx": (lambda b: (-b.dx, b.grads, b.dstate), "x", "T = 1"),
    "the sign of a parameter": (
        lambda b: with_grads(b, b=-b.grads["b"]),
        "params['b']",
        "T = 1",
    ),
    "without the first step": (
        lambda b: with_grads(b, w=b.grads["w"] - b.dzs[0] @ b.x[0].T),
        "params['w']",
        "T = 1",
    ),
    "without the last of several steps": (
        lambda b: with_grads(b, w=b.grads["w"] - (len(b.x) > 1) * b.dzs[-1] @ b.x[-1].T),
        "params['w']",
        "T = 4",
    ),
    "transposed": (lambda b: with_grads(b, u=b.grads["u"].T.copy()), "params['u']", "T = 1"),
    "h after the step for h before": (
        lambda b: with_grads(b, u=sum(d @ h.T for d, h in zip(b.dzs, b.hs[1:], strict=True))),
        "params['u']",
        "T = 1",
    ),
    "too large by a part": (
        lambda b: with_grads(b, u=b.grads["u"] * (1 + 1e-5)),
        "params['u']",
        "T = 1",
    ),
    "a mean instead of a sum": (
        lambda b: with_grads(b, b=b.grads["b"] / len(b.x)),
        "params['b']",
        "T = 4",
    ),
    "the gradient of the state": (
        lambda b: (b.dx, b.grads, OwnState(1.5 * b.dstate.h)),
        "state.h",
        "T = 1",
    ),
    "zeros for the state": (
        lambda b: (b.dx, b.grads, OwnState(0.0 * b.dstate.h)),
        "state.h",
        "T = 1",
    ),
    "with lengths only": (
        lambda b: (b.dx * (1 - 0.5 * lengths_given(b)), b.grads, b.dstate),
        "x",
        "T = 1 with lengths",
    ),
    "with lengths the state": (
        lambda b: (b.dx, b.grads, OwnState(b.dstate.h * (1 - lengths_given(b)))),
        "state.h",
        "T = 1 with lengths",
    ),
    "with a mask only": (
        lambda b: (
            b.dx,
            b.grads,
            OwnState(b.dstate.h if b.steps is None or lengths_given(b) else b.dstate.h + 0.1),
        ),
        "state.h",
        "T = 4 with a mask",
    ),
    "at T = 1 only": (
        lambda b: with_grads(b, b=b.grads["b"] * (1 + (len(b.x) == 1))),
        "params['b']",
        "T = 1",
    ),
    "without a state only": (
        lambda b: with_grads(b, w=b.grads["w"] * (1 + b.fresh)),
        "params['w']",
        "T = 1 from the layer's own initial state",
    ),
    "without a state and with lengths only": (
        lambda b: with_grads(b, w=b.grads["w"] * (1 + (b.fresh and lengths_given(b)))),
        "params['w']",
        "T = 1 with lengths from the layer's own initial state",
    ),
    "NaN": (lambda b: with_grads(b, w=b.grads["w"] * np.nan), "params['w']", "T = 1"),
    "infinite": (lambda b: with_grads(b, w=b.grads["w"] + np.inf), "params['w']", "T = 1"),
}


@pytest.mark.host
@pytest.mark.parametrize(("spoil", "gradient", "case"), FAULTS.values(), ids=FAULTS)
def test_a_wrong_gradient_is_caught_and_named(spoil, gradient, case):
    with pytest.raises(sc.GradientError) as caught:
        sc.check_gradients(Own(spoil), N_IN)
    error, text = caught.value, str(caught.value)
    assert error.gradient == gradient
    assert text.startswith(f"own: {gradient} is wrong at [")
    # Whatever else there is was right, and the calls before were, too.
    others = {"x", "params['w']", "params['u']", "params['b']", "state.h"} - {gradient}
    if "initial state" in case:
        others -= {"state.h"}
    said = re.search(r"^right: (.*)$", text, re.MULTILINE)
    assert set(said[1].split(", ")) == others
    assert re.search(rf"^in the call with {re.escape(case)}$", text, re.MULTILINE)
    assert ("\nall was right with T = 1" in text) == (case != "T = 1")
    assert error.wrong >= 1
    assert not abs(error.got - error.expected) <= 1e-7


@pytest.mark.host
def test_the_gradient_of_the_state_after_that_is_left_out_is_caught():
    def spoil(b):
        return Own().backward(b.params, (b.x, b.hs, b.steps, b.fresh), b.dy, None, b.wrt)

    with pytest.raises(sc.GradientError, match=r"^own: x is wrong at \[") as caught:
        sc.check_gradients(Own(spoil), N_IN)
    assert "right: none of the gradients" in str(caught.value)


@pytest.mark.host
def test_one_wrong_entry_is_found_with_its_values():
    def spoil(b):
        return with_grads(b, u=changed(b.grads["u"], (2, 1), 0.25))

    with pytest.raises(sc.GradientError) as caught:
        sc.check_gradients(Own(spoil), N_IN)
    error = caught.value
    assert (error.gradient, error.index, error.wrong) == ("params['u']", (2, 1), 1)
    assert error.got - error.expected == pytest.approx(0.25, abs=1e-8)
    numbers = f"backward gives {error.got:.9g}, central differences give {error.expected:.9g}"
    assert f"{numbers}, off by 0.25, " in str(error)
    assert "1 of 16 entries are wrong" in str(error)


@dataclasses.dataclass(frozen=True)
class Wide(Scaled):
    """y = w x + b, with one entry of dw off."""

    off: float = 0.0
    at: int = 217

    def backward(self, params, tape, dy, dstate=None, wrt=None):
        dx, grads, dstate = super().backward(params, tape, dy, dstate, wrt)
        return dx, grads | {"w": changed(grads["w"], (self.at, 0), self.off)}, dstate


@pytest.mark.host
@pytest.mark.parametrize("at", [0, 100, 217, 299])
def test_a_wrong_entry_that_is_not_drawn_is_found_too(at):
    for off in (-3.0, 1e-3):
        with pytest.raises(sc.GradientError, match=r"^scaled: params\['w'\] is wrong at") as caught:
            sc.check_gradients(Wide(off=off, at=at), 300, entries=2, lengths=False, mask=False)
        assert caught.value.index == (at, 0)
    sc.check_gradients(Wide(at=at), 300, entries=2, lengths=False, mask=False)


# --- the form of what is returned -------------------------------------------------------


def generator_of(seed=0):
    return np.random.default_rng(seed)


DRAWN = generator_of()

# What is wrong with what backward returns, and what is said of it.
FORMS: dict[str, tuple[Callable[[SimpleNamespace], Any], str]] = {
    "no dx": (lambda b: (None, b.grads, b.dstate), "dx is None, expected an array like x"),
    "the shape of dx": (
        lambda b: (b.dx[..., 0], b.grads, b.dstate),
        "dx has shape (1, 2), expected (1, 2, 3) like x",
    ),
    "the dtype of dx": (
        lambda b: (b.dx.astype("float32"), b.grads, b.dstate),
        "dx has dtype float32, expected float64 like x",
    ),
    "the shape of a gradient": (
        lambda b: with_grads(b, w=b.grads["w"].T),
        "grads['w'] has shape (2, 4), expected (4, 2) like w",
    ),
    "the dtype of a gradient": (
        lambda b: with_grads(b, u=b.grads["u"].astype("float32")),
        "grads['u'] has dtype float32, expected float64 like u",
    ),
    "a list as a gradient": (
        lambda b: with_grads(b, b=[0.0]),
        "grads['b'] is a list of 1, expected an array like b",
    ),
    "a gradient is missing": (
        lambda b: (b.dx, {"w": b.grads["w"]}, b.dstate),
        "grads has no 'u'; it has 'w'",
    ),
    "one too many": (
        lambda b: with_grads(b, z=b.grads["b"]),
        "grads has 'z', expected the parameters w, u, b",
    ),
    "no dict": (
        lambda b: (b.dx, None, b.dstate),
        "backward returned None as grads, expected a dict",
    ),
    "no dstate": (
        lambda b: (b.dx, b.grads, None),
        "dstate.h is None, expected an array like state.h",
    ),
    "the shape of dstate": (
        lambda b: (b.dx, b.grads, OwnState(b.dstate.h[:1])),
        "dstate.h has shape (1, 3), expected (4, 3) like state.h",
    ),
    "two values": (
        lambda b: (b.dx, b.grads),
        "backward returned a tuple of 2, expected dx, grads, dstate",
    ),
    "writes into dy": (
        lambda b: (in_place(b.dy), *right(b))[1:],
        "backward writes into dy, which is its caller's",
    ),
    "writes into a parameter": (
        lambda b: (in_place(b.params["u"]), *right(b))[1:],
        "backward writes into params['u'], which is its caller's",
    ),
    "writes into dstate": (
        lambda b: (None if b.dafter is None else in_place(b.dafter.h), *right(b))[1:],
        "backward writes into dstate.h, which is its caller's",
    ),
    "another gradient with wrt": (
        lambda b: with_grads(b, u=b.grads["u"] * (1 + (b.wrt is not None))),
        "params['u'] is another gradient with wrt=('u',), off by ",
    ),
    "no gradient with wrt": (
        lambda b: (b.dx if b.wrt is None else None, b.grads, b.dstate),
        "dx is None, expected an array like x",
    ),
}
# The same of forward.
FORWARD: dict[str, tuple[Callable[[SimpleNamespace], Any], str]] = {
    "two values": (
        lambda f: (f.y, f.state),
        "forward returned a tuple of 2, expected y, state, tape",
    ),
    "no array": (lambda f: ([f.y], f.state, f.tape), "forward returned a list of 1 as y, expected"),
    "without time": (
        lambda f: (f.y[-1], f.state, f.tape),
        "y has shape (4, 3), expected time first and the batch last, (1, ..., 3)",
    ),
    "batch first": (
        lambda f: (np.moveaxis(f.y, -1, 0), f.state, f.tape),
        "y has shape (3, 1, 4), expected time first and the batch last, (1, ..., 3)",
    ),
    "the dtype of y": (
        lambda f: (f.y.astype("float32"), f.state, f.tape),
        "y has dtype float32, expected float64 like what it was given",
    ),
    "other features": (
        lambda f: (f.y[:, :1], f.state, f.tape),
        "y has shape (1, 1, 3), expected 4 features, as the layer's n_out says",
    ),
    "no array as a state": (
        lambda f: (f.y, OwnState([1.0]), f.tape),
        "forward returned a list of 1 as state.h, expected an array or a tuple",
    ),
    "another state after": (
        lambda f: (f.y, OwnState(f.state.h if f.given is None else f.state.h[:1]), f.tape),
        "the state after forward has state.h (1, 3), expected state.h (4, 3) like the state before",
    ),
    "not finite": (lambda f: (f.y / 0.0 * 0.0, f.state, f.tape), "y of forward is not finite"),
    "writes into x": (
        lambda f: (in_place(f.x), *right_forward(f))[1:],
        "forward writes into x, which is its caller's",
    ),
    "writes into its state": (
        lambda f: (None if f.given is None else in_place(f.given.h), *right_forward(f))[1:],
        "forward writes into state.h, which is its caller's",
    ),
    "not the same twice": (
        lambda f: (f.y + 1e-9 * DRAWN.standard_normal(), f.state, f.tape),
        "forward gives another y the second time; with the same arguments it must give the same",
    ),
    "another state twice": (
        lambda f: (f.y, OwnState(f.state.h + 1e-9 * DRAWN.standard_normal()), f.tape),
        "forward gives another state.h the second time; with the same arguments it must give the",
    ),
    "not what predict gives": (
        lambda f: (1.1 * f.y, f.state, f.tape),
        "predict gives another y than forward, off by ",
    ),
    "not the state that predict gives": (
        lambda f: (f.y, OwnState(1.1 * f.state.h), f.tape),
        "predict gives another state.h than forward, off by ",
    ),
}


@pytest.mark.host
@pytest.mark.parametrize(("spoil", "text"), FORMS.values(), ids=FORMS)
def test_what_is_wrong_with_the_form_of_backward_is_said(spoil, text):
    with pytest.raises(sc.GradientError, match=f"^own: {re.escape(text)}"):
        sc.check_gradients(Own(spoil), N_IN, entries=1)


@pytest.mark.host
@pytest.mark.parametrize(("spoil", "text"), FORWARD.values(), ids=FORWARD)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
def test_what_is_wrong_with_the_form_of_forward_is_said(spoil, text):
    with pytest.raises(sc.GradientError, match=f"^own: {re.escape(text)}"):
        sc.check_gradients(Own(spoil_forward=spoil), N_IN, entries=1)


# --- corners ----------------------------------------------------------------------------

UNMASKED: dict[str, Any] = {"lengths": False, "mask": False}


@dataclasses.dataclass(frozen=True)
class Corner(Scaled):
    """y = w max(x, 0) + b, and where x > 0 more by the size of a jump."""

    slope: float = 1.0  # 1 is right
    jump: float = 0.0
    half: bool = False  # compute in float32

    def forward(self, params, x, state=None, lengths=None, mask=None, draw=None):
        kept = np.maximum(x, 0.0)
        y = params["w"] * kept + params["b"] + self.jump * (x > 0)
        return y.astype("float32").astype(float) if self.half else y, (), (kept, x)

    def backward(self, params, tape, dy, dstate=None, wrt=None):
        kept, x = tape
        dx, grads, _ = super().backward(params, (kept,), dy)
        return self.slope * dx * (x > 0), grads, ()


def at_corners(share):
    """Return x, of which a share is exactly 0."""
    rng = generator_of()
    x = rng.standard_normal((4, N_IN, M))
    return np.where(rng.random(x.shape) < share, 0.0, x)


@pytest.mark.host
def test_entries_at_a_corner_are_skipped_and_counted():
    x = at_corners(0.15)
    found = sc.check_gradients(Corner(), N_IN, x=x, entries=None, **UNMASKED)
    # T = 1 and 4, with a state and, looking at few, without.
    assert found.skipped >= np.sum(x[:1] == 0) + np.sum(x == 0) > 0
    assert found.errors["x"] < 1e-9
    # Near a corner too: what lies across it is seen at one of the sizes of steps.
    third = STEP / 3  # where only one of the two signs of a corner shows
    for near, skips in ((1e-5, False), (-1e-6, False), (third, False), (1e-7, True)):
        found = sc.check_gradients(Corner(), N_IN, x=np.where(x == 0, near, x), **UNMASKED)
        assert (found.skipped > 0) == skips


@pytest.mark.host
@pytest.mark.parametrize("jump", [0.0, 1e4], ids=["corners", "jumps"])
@pytest.mark.parametrize("slope", [0.0, 0.5, 1.001, 2.0])
def test_a_wrong_gradient_beside_corners_is_caught(slope, jump):
    sc.check_gradients(Corner(1.0, jump), N_IN, x=at_corners(0.15), entries=None, **UNMASKED)
    with pytest.raises(sc.GradientError, match=r"^scaled: x is wrong at") as caught:
        sc.check_gradients(Corner(slope, jump), N_IN, x=at_corners(0.15), entries=None, **UNMASKED)
    x = at_corners(0.15)[:1]
    assert caught.value.wrong == np.sum(x > 0)
    assert x[caught.value.index] > 0


@pytest.mark.host
def test_a_function_of_corners_is_refused():
    text = r"^scaled: \S+ cannot be compared: at \d+ of \d+ entries forward has a corner or a jump"
    with pytest.raises(sc.GradientError, match=text):
        sc.check_gradients(Corner(), N_IN, x=at_corners(0.5), entries=None, **UNMASKED)
    # As is one that rounds on the way.
    with pytest.raises(sc.GradientError, match=text):
        sc.check_gradients(Corner(half=True), N_IN, entries=None, **UNMASKED)


# --- layers that are right --------------------------------------------------------------

# Every layer, with the size of its vocabulary where x holds tokens.
LAYERS: dict[str, tuple[Any, int | None]] = {
    **{kind: (recurrent(kind, 3), None) for kind in KINDS},
    **{name: (layer, None) for name, layer in ENDING.items()},
    "stacked both ways": (sc.GRU(2, layers=2, bidirectional=True), None),
    "recompute": (sc.RNN(3, recompute=2), None),
    "dense": (sc.Dense(4), None),
    "dropout": (sc.Dropout(0.4), None),
    "embedding": (sc.Embedding(3), TOKENS),
    "a user's own": (Own(), None),
    "ends time": (sc.Sequential(Own(), Mean(), sc.Dropout(0.3), sc.Dense(2)), None),
    "model": (sc.Sequential(sc.Embedding(2), sc.LSTM(3), Scaled(), sc.Dense(2)), TOKENS),
    "sharded": (sc.Sharded(sc.Sequential(sc.Dropout(0.2), Own(), sc.GRU(2)), 2), None),
}


@pytest.mark.host
@pytest.mark.parametrize(("layer", "tokens"), LAYERS.values(), ids=LAYERS)
def test_every_layer_of_seqcore_passes(layer, tokens):
    x = None if tokens is None else generator_of().integers(tokens, size=(3, 4))
    found = sc.check_gradients(layer, tokens or N_IN, x=x, steps=(1, 3), entries=1)
    params = layer.init(tokens or N_IN, like=np.zeros(0), rng=generator_of())
    names = {f"params[{name!r}]" for name in params} | ({"x"} if tokens is None else set())
    assert names <= set(found.errors)
    assert all(name.startswith("state.") for name in set(found.errors) - names)
    assert max(found.errors.values()) < 1e-7
    assert min(found.scales.values()) > 1e-3  # a gradient of 0 would prove nothing
    assert found.skipped == 0


@pytest.mark.every_place
def test_it_runs_on_every_library(asarray, dtype, xp):
    like = asarray(np.zeros(1))
    layer, options = sc.Sequential(sc.RNN(3), sc.Last()), {"steps": (2,), "entries": 1}
    if dtype != xp.float64:
        text = f"check_gradients: like has dtype {like.dtype}, expected float64: "
        with pytest.raises(TypeError, match=f"^{re.escape(text)}"):
            sc.check_gradients(layer, N_IN, like=like)
        return
    found = sc.check_gradients(layer, N_IN, like=like, **options)
    expected = sc.check_gradients(layer, N_IN, **options)  # the same numbers on NumPy
    for name, scale in expected.scales.items():
        assert found.scales[name] == pytest.approx(scale, rel=1e-6)


# --- its arguments ----------------------------------------------------------------------


class Spy(Scaled):
    """A user's layer that records what it is called with."""

    seen: list[Any] = []  # noqa: RUF012 - a frozen dataclass has no other place for it

    def forward(self, params, x, state=None, lengths=None, mask=None, draw=None):
        Spy.seen.append((x.shape, lengths is not None, mask is not None, draw))
        if x.ndim == 2:
            return super().forward(params, x)
        steps = masks.steps("spy", x, lengths, mask)
        x = masks.blank(np, steps, x)
        y, state, tape = super().forward(params, x)
        return masks.blank(np, steps, y), state, (*tape, steps)

    def backward(self, params, tape, dy, dstate=None, wrt=None):
        *tape, steps = tape
        dy = masks.blank(np, steps, dy)
        return super().backward(params, tape, dy, dstate, wrt)


class Bare:
    """A user's layer that knows neither lengths nor masks, nor what is wanted."""

    name, n_out = "bare", None
    shapes, init = Scaled.shapes, Scaled.init

    def forward(self, params, x, state=None):
        return Scaled().forward(params, x)

    def predict(self, params, x, state=None):
        return Scaled().predict(params, x)

    def backward(self, params, tape, dy, dstate=None):
        return Scaled().backward(params, tape, dy)


def calls(layer, n_in=N_IN, **options):
    Spy.seen.clear()
    found = sc.check_gradients(layer, n_in, entries=1, **options)
    return found, set(Spy.seen)


@pytest.mark.host
def test_the_calls_are_those_that_are_asked_for():
    (found, seen), shapes = calls(Spy()), [(1, N_IN, 3), (4, N_IN, 3)]
    both = [(lengths, mask) for lengths in (False, True) for mask in (False, True)]
    assert seen == {(shape, *which, None) for shape in shapes for which in both}
    assert found.cases == (
        *("T = 1", "T = 1 with lengths", "T = 1 with a mask", "T = 1 with lengths and a mask"),
        *("T = 4", "T = 4 with lengths", "T = 4 with a mask", "T = 4 with lengths and a mask"),
        *(f"{case} from the layer's own initial state" for case in found.cases[:8]),
    )
    _, seen = calls(Spy(), m=5, steps=(2,), lengths=False, draw=7)
    assert seen == {((2, N_IN, 5), False, mask, 7) for mask in (False, True)}
    x = generator_of().standard_normal((6, N_IN, 2))
    _, seen = calls(Spy(), x=x, mask=False)
    assert seen == {((n, N_IN, 2), lengths, False, None) for n in (1, 6) for lengths in (0, 1)}
    # A matrix has no steps that could be left out.
    found, _ = calls(sc.Dense(2), x=x[0])
    assert found.cases == ("x without time", "x without time from the layer's own initial state")
    # What forward does not take it is not given.
    found, _ = calls(Bare())
    assert found.cases == (
        *("T = 1", "T = 4"),
        *("T = 1 from the layer's own initial state", "T = 4 from the layer's own initial state"),
    )


@pytest.mark.host
def test_a_layer_that_drops_gets_a_draw():
    assert calls(sc.Sequential(Spy(), sc.Dropout(0.5)))[1]  # it refuses to train without one
    for draw in (0, 5):
        found, _ = calls(sc.Dropout(0.5), draw=draw, steps=(3,))
        assert found.scales["x"] > 0


@pytest.mark.host
def test_the_same_seed_checks_the_same_numbers():
    one, two, other = (sc.check_gradients(sc.GRU(2), 3, rng=s, entries=2) for s in (1, 1, 2))
    assert one == two
    assert one.scales != other.scales
    assert sc.check_gradients(sc.GRU(2), 3, rng=generator_of(1), entries=2) == one


@pytest.mark.host
def test_parameters_may_be_given():
    params = {"w": np.full((N_IN, 1), 3.0), "b": np.zeros((N_IN, 1))}
    x = np.ones((1, N_IN, 1))
    found = sc.check_gradients(Scaled(), N_IN, x=x, params=params, **UNMASKED)
    # dx is w dy, and db is dy.
    assert found.scales["x"] == pytest.approx(3 * found.scales["params['b']"])
    with pytest.raises(
        ValueError, match=exactly("check_gradients: parameter 'b' is missing; got w")
    ):
        sc.check_gradients(Scaled(), N_IN, params={"w": params["w"]})


@pytest.mark.host
def test_wrong_arguments_are_named():
    x = np.zeros((2, N_IN, M))
    for given, kind, text in (
        ({"steps": 5}, TypeError, "steps is 5, expected a tuple of whole numbers"),
        ({"steps": "12"}, TypeError, "steps is '12', expected a tuple of whole numbers"),
        ({"steps": x}, TypeError, "steps is a ndarray, expected a tuple of whole numbers"),
        ({"steps": ()}, ValueError, "steps is empty, expected at least one number of steps"),
        ({"lengths": "no"}, TypeError, "lengths is 'no', expected True, False or None"),
        ({"mask": x > 0}, TypeError, "mask is a ndarray, expected True, False or None"),
        ({"mask": 1}, TypeError, "mask is 1, expected True, False or None"),
        ({"draw": 1.5}, TypeError, "draw is 1.5, expected a whole number, a 0-d array of"),
        ({"draw": True}, TypeError, "draw is True, expected a whole number"),
        ({"draw": np.zeros(2, int)}, TypeError, "draw is array([0, 0]), expected a whole number"),
        ({"m": 9, "x": x}, ValueError, "m is 9, expected 3, the batch of x, or None"),
        ({"steps": (1,), "x": x[0]}, ValueError, "steps is (1,), but x is a matrix without time"),
        ({"mask": True, "x": x[0]}, ValueError, "mask is True, but x is a matrix without time"),
        ({"x": x[0, 0]}, ValueError, "x has shape (3,), expected (T, n_in, m), (T, m) of tokens"),
        ({"x": x[:0]}, ValueError, "x has shape (0, 2, 3), expected (T, n_in, m)"),
        ({"x": np.full_like(x, np.nan)}, ValueError, "x has an entry that"),
        ({"tolerance": 1.0}, ValueError, "tolerance is 1.0, expected less than 1"),
        ({"m": 0}, ValueError, "m is 0, expected at least 1"),
        ({"entries": 0}, ValueError, "entries is 0, expected at least 1"),
        ({"tolerance": 0.0}, ValueError, "tolerance is 0.0, expected more than 0"),
        ({"steps": (0,)}, ValueError, "steps is 0, expected at least 1"),
        ({"steps": (3,), "x": x}, ValueError, "steps holds 3, expected at most T = 2 of x"),
        ({"x": x.astype("float32")}, TypeError, "x has dtype float32, expected float64: "),
        ({"like": np.zeros(1, "float32")}, TypeError, "like has dtype float32, expected float64: "),
        ({"like": np.zeros(1, int)}, TypeError, "like has dtype int64, expected a floating"),
        ({"x": [1.0]}, TypeError, "x is a list, expected an array"),
        ({"x": np.ma.masked_equal(x, 1.0)}, TypeError, "x is a masked array, whose mask"),
        ({"like": np.ma.zeros(1)}, TypeError, "like is a masked array, whose"),
    ):
        with pytest.raises(kind, match=f"^{re.escape(f'check_gradients: {text}')}"):
            sc.check_gradients(Scaled(), N_IN, **given)
    for given in ({"lengths": True}, {"mask": True}, {"draw": 0}):
        ((name, value),) = given.items()
        text = f"check_gradients: {name} is {value}, but the layer's forward takes no {name}"
        with pytest.raises(ValueError, match=exactly(text)):
            sc.check_gradients(Bare(), N_IN, **given)
    double = {name: np.ones((N_IN, 1)) for name in ("w", "b")}
    single = double | {"b": np.ones((N_IN, 1), "float32")}
    with pytest.raises(TypeError, match=r"^check_gradients: b has dtype float32, expected float64"):
        sc.check_gradients(Scaled(), N_IN, params=single)
    with pytest.raises(ValueError, match=r"^check_gradients: b has an entry that is not finite"):
        sc.check_gradients(Scaled(), N_IN, params=double | {"b": np.full((N_IN, 1), np.inf)})
    steps = (n for n in (1, 2))
    assert sc.check_gradients(Bare(), N_IN, steps=steps).cases[:2] == ("T = 1", "T = 2")
    for layer in (sc.LSTM, None, 5):
        with pytest.raises(TypeError, match=r"^check_gradients: .* was given, expected a layer$"):
            sc.check_gradients(layer, N_IN)


@pytest.mark.host
def test_an_error_of_the_layer_itself_says_in_which_call():
    def spoil(_):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine") as caught:
        sc.check_gradients(Own(spoil), N_IN)
    assert caught.value.__notes__ == ["in check_gradients, the call with T = 1"]


# --- its error and its result -----------------------------------------------------------


@pytest.mark.host
def test_the_error_is_an_assertion_and_may_be_pickled():
    with pytest.raises(AssertionError) as caught:
        sc.check_gradients(Own(lambda b: (-b.dx, b.grads, b.dstate)), N_IN)
    error = caught.value
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert type(again) is sc.GradientError
    assert str(again) == str(error)
    assert vars(again) == vars(error)
    assert again.gradient == "x"
    assert again.got == pytest.approx(-again.expected)


@pytest.mark.host
def test_the_result_is_frozen_and_may_be_pickled():
    found = sc.check_gradients(sc.Dense(2), N_IN)
    assert type(found) is GradientCheck
    assert pickle.loads(pickle.dumps(found)) == found  # noqa: S301 - our own
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(found, "entries", 3)  # noqa: B010 - mypy knows that it can't be
