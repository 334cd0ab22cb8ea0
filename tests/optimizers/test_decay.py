"""AdamW: which parameters decay."""

from __future__ import annotations

import re

import numpy as np
import pytest
from judging import exactly
from problems import on

import seqcore as sc


def drawn(asarray, rng):
    shapes = {"lstm.0.W_h": (2, 3, 4), "b": (5, 1), "scale": ()}
    return on(asarray, {name: rng.standard_normal(shape) for name, shape in shapes.items()})


DECAYS = {
    "a list": ["b"],
    "a tuple": ("b", "b"),
    "a set": {"b"},
    "an iterator": iter(["b"]),
    "a function": lambda name: name == "b",
}


@pytest.mark.parametrize("decay", DECAYS.values(), ids=DECAYS)
def test_adamw_decays_the_parameters_that_are_named(decay, asarray, to_host, rng):
    params, grads = drawn(asarray, rng), drawn(asarray, rng)
    if not hasattr(decay, "__len__") and not callable(decay):
        decay = iter(["b"])  # that of DECAYS is read once only
    some, everything = sc.adamw(0.1, weight_decay=0.5, decay=decay), sc.adamw(0.1, weight_decay=0.5)
    state = some.init(params)
    after, _ = some.update(params, grads, state)
    decayed, _ = everything.update(params, grads, state)
    plain, _ = sc.adam(0.1).update(params, grads, state)
    for name, value in after.items():
        np.testing.assert_array_equal(
            to_host(value), to_host((decayed if name == "b" else plain)[name])
        )
        assert np.all(to_host(decayed[name]) != to_host(plain[name]))


@pytest.mark.parametrize("decay", [(), [], lambda _: False])
def test_adamw_may_decay_nothing(decay, asarray, to_host, rng):
    params, grads = drawn(asarray, rng), drawn(asarray, rng)
    opt = sc.adamw(0.1, weight_decay=0.5, decay=decay)
    after, _ = opt.update(params, grads, opt.init(params))
    plain, _ = sc.adam(0.1).update(params, grads, opt.init(params))
    for name, value in after.items():
        np.testing.assert_array_equal(to_host(value), to_host(plain[name]))


def test_a_parameter_without_a_gradient_does_not_decay(asarray, rng):
    params = drawn(asarray, rng)
    opt = sc.adamw(0.1, weight_decay=0.5, decay=["b", "scale"])
    after, _ = opt.update(params, {"b": params["b"]}, opt.init(params))
    assert after["scale"] is params["scale"]


def test_a_name_in_decay_that_is_no_parameter_is_refused(asarray, rng):
    params = drawn(asarray, rng)
    text = "adamw: decay names 'B', which is no parameter, expected some of lstm.0.W_h, b, scale"
    for weight_decay in (0.0, 0.1):
        opt = sc.adamw(weight_decay=weight_decay, decay=["b", "B"])
        with pytest.raises(ValueError, match=exactly(text)):
            opt.init(params)
        with pytest.raises(ValueError, match=exactly(text)):
            opt.update(params, params, sc.adam().init(params))


@pytest.mark.host
@pytest.mark.parametrize(
    ("decay", "text"),
    [
        ("b", "adamw: decay is 'b', expected names of parameters in a list"),
        (b"b", "adamw: decay is b'b', expected names"),
        ({"b": False}, "adamw: decay is {'b': False}, expected names"),
        (True, "adamw: decay is True, expected names"),
        (3, "adamw: decay is 3, expected names"),
        (["b", 1], "adamw: decay holds 1, expected names of parameters"),
        ([None], "adamw: decay holds None, expected names of parameters"),
        (np.ones(2), "adamw: decay holds np.float64(1.0), expected names of parameters"),
    ],
    ids=str,
)
def test_what_does_not_say_which_parameters_decay_is_refused(decay, text):
    with pytest.raises(TypeError, match=f"^{re.escape(text)}"):
        sc.adamw(decay=decay)


@pytest.mark.host
def test_a_function_that_does_not_say_whether_a_parameter_decays_is_refused():
    def forgetful(name):
        return True if name == "W" else None

    opt = sc.adamw(decay=forgetful)
    text = "adamw: decay('b') is None, expected True or False"
    with pytest.raises(TypeError, match=exactly(text)):
        opt.init({"W": np.ones(1), "b": np.ones(1)})


@pytest.mark.host
def test_the_order_of_the_names_that_decay_does_not_matter():
    one, other = (sc.adamw(decay=names) for names in (["a", "b"], {"b", "a"}))
    assert one == other
    assert hash(one) == hash(other)
    assert one != sc.adamw()
