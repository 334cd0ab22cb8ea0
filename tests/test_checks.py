"""Errors name the place, what was expected and what came."""

from __future__ import annotations

import numpy as np
import pytest
from judging import exactly
from loading import Foreign

from seqcore import checks


def raises(kind: type[Exception], text: str):
    """Expect exactly this text."""
    return pytest.raises(kind, match=exactly(text))


# --- one library, one device ------------------------------------------------------------


def test_one_library_returns_the_namespace_of_what_was_given(xp, asarray):
    named = {"W": asarray([0.5]), "lengths": asarray([1])}
    assert checks.one_library("lstm", named) is xp


@pytest.mark.parametrize("value", [[1.0], 1.0, "x", None], ids=["list", "float", "str", "nothing"])
def test_one_library_names_what_is_no_array(value, asarray):
    with raises(TypeError, f"lstm: W is a {type(value).__name__}, expected an array"):
        checks.one_library("lstm", {"x": asarray([0.0]), "W": value})


def test_one_library_names_the_array_of_another(library, asarray):
    own = library.contract["namespace"].partition(".")[0]
    with raises(TypeError, f"lstm: W is an array of elsewhere, expected {own} like x"):
        checks.one_library("lstm", {"x": asarray([0.0]), "W": Foreign()})


def test_one_library_names_the_array_on_another_device():
    with raises(TypeError, "lstm: W is on device right, expected left like x"):
        checks.one_library("lstm", {"x": Foreign("left"), "W": Foreign("right")})


def test_one_library_refuses_every_other_real_device(library, xp, device, asarray):
    # Libraries with one device have nothing to refuse here; the made-up one above has.
    for other in library.devices.values():
        stray = xp.zeros((1,), dtype=xp.float32, device=other)
        if other == device:
            checks.one_library("lstm", {"x": asarray([0.0]), "W": stray})
        else:
            with raises(TypeError, f"lstm: W is on device {other}, expected {device} like x"):
                checks.one_library("lstm", {"x": asarray([0.0]), "W": stray})


def test_one_library_needs_an_array():
    with raises(ValueError, "adam: no arrays were given, expected at least one"):
        checks.one_library("adam", {})


# --- dtypes -----------------------------------------------------------------------------


def test_floats_of_one_dtype_pass(asarray):
    checks.floating("lstm", {"x": asarray([0.5]), "W": asarray([1.0])})


@pytest.mark.parametrize("values", [[1], [True]], ids=["integers", "booleans"])
def test_floating_names_what_is_no_float(values, asarray):
    stray = asarray(values)
    with raises(TypeError, f"lstm: W has dtype {stray.dtype}, expected a floating point dtype"):
        checks.floating("lstm", {"x": asarray([0.0]), "W": stray})


@pytest.mark.host
def test_floating_names_the_array_of_another_dtype():
    named = {"x": np.zeros(1, dtype=np.float32), "b": np.zeros(1)}
    with raises(TypeError, "lstm: b has dtype float64, expected float32 like x"):
        checks.floating("lstm", named)


@pytest.mark.parametrize("values", [[0.5], [True]], ids=["floats", "booleans"])
def test_integral_names_what_is_no_integer(values, asarray):
    checks.integral("embedding", "x", asarray([1]))
    stray = asarray(values)
    with raises(TypeError, f"embedding: x has dtype {stray.dtype}, expected an integer dtype"):
        checks.integral("embedding", "x", stray)


# --- shapes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "expected", "sizes", "text"),
    [
        (
            (4, 5, 6),
            (4, "n_a", "n_a"),
            {"n_a": 5},
            "W_h has shape (4, 5, 6), expected (4, n_a, n_a) = (4, 5, 5)",
        ),
        ((4, 5), (4, "n_a", "n_x"), {"n_a": 5}, "W_h has shape (4, 5), expected (4, n_a, n_x)"),
        ((2, 3), (3, 2), {}, "W_h has shape (2, 3), expected (3, 2)"),
        ((3,), ("m",), {"m": 2}, "W_h has shape (3,), expected (m,) = (2,)"),
        ((), ("m",), {}, "W_h has shape (), expected (m,)"),
        ((1,), (), {}, "W_h has shape (1,), expected ()"),
        ((5, 6), ("n_a", "n_a"), {}, "W_h has shape (5, 6), expected (n_a, n_a)"),
        (
            (0, 3, 2),
            ("T", "n_x", "m"),
            {"n_x": 3},
            "W_h has shape (0, 3, 2), expected (T, n_x, m) with T at least 1",
        ),
        (
            (4, 3, 0),
            ("T", "n_x", "m"),
            {},
            "W_h has shape (4, 3, 0), expected (T, n_x, m) with m at least 1",
        ),
    ],
    ids=[
        "a size",
        "the rank",
        "numbers",
        "one axis",
        "no axis",
        "an axis too many",
        "a new letter twice",
        "T = 0",
        "m = 0",
    ],
)
def test_shape_spells_what_was_expected(shape, expected, sizes, text, asarray):
    with raises(ValueError, f"lstm: {text}"):
        checks.shape("lstm", "W_h", asarray(np.zeros(shape)), expected, sizes)


def test_shape_binds_new_letters_and_keeps_the_known(asarray):
    sizes = {"n_x": 3}
    checks.shape("lstm", "x", asarray(np.zeros((5, 3, 2))), ("T", "n_x", "m"), sizes)
    checks.shape("lstm", "W", asarray(np.zeros((4, 7, 7))), (4, "n_a", "n_a"), sizes)
    assert sizes == {"T": 5, "n_x": 3, "m": 2, "n_a": 7}


def test_shape_allows_empty_axes_that_are_given_as_numbers(asarray):
    checks.shape("loss", "targets", asarray(np.zeros((0, 2))), (0, 2), {})


def test_a_refused_shape_binds_nothing(asarray):
    sizes = {"m": 2}
    with pytest.raises(ValueError, match="shape"):
        checks.shape("lstm", "x", asarray(np.zeros((5, 3))), ("n_x", "m"), sizes)
    assert sizes == {"m": 2}


@pytest.mark.parametrize(
    ("shape", "axes", "sizes", "text"),
    [
        ((3, 2, 5), "Txm", {"x": 3}, "expected time first, (T, x, m) = (T, 3, m)"),
        ((3, 2), "Txm", {}, "expected time first, (T, x, m)"),
        ((2, 5), "xm", {"x": 3}, "expected (x, m) = (3, m)"),
        ((0, 3, 5), "Txm", {"x": 3}, "expected (T, x, m) with T at least 1"),
    ],
    ids=["the order", "the rank", "without time", "T = 0"],
)
def test_series_are_time_first(shape, axes, sizes, text):
    with raises(ValueError, f"lstm: x has shape {shape}, {text}"):
        checks.series("lstm", "x", shape, tuple(axes), sizes)


def test_a_series_binds_the_sizes_found():
    sizes = {"n_x": 3}
    checks.series("lstm", "x", (5, 3, 2), ("T", "n_x", "m"), sizes)
    assert sizes == {"T": 5, "n_x": 3, "m": 2}


# --- parameters -------------------------------------------------------------------------


def test_parameters_by_name_pass(asarray):
    params = {"W": asarray([0.0]), "b": asarray([0.0])}
    checks.parameters("dense", params, ["b", "W"])
    checks.parameters("dense", params, iter(["b", "W"]))
    checks.parameters("dense", params, ["W"], others=True)


@pytest.mark.parametrize(
    ("params", "kind", "text"),
    [
        ({"W": 0}, ValueError, "parameter 'b' is missing; got W"),
        ({}, ValueError, "parameter 'W' is missing; got no parameters"),
        (
            {"W": 0, "b": 0, "c": 0},
            ValueError,
            "unexpected parameter 'c'; expected W, b",
        ),
        ([0, 0], TypeError, "params is a list, expected a dict"),
        (None, TypeError, "params is a NoneType, expected a dict"),
    ],
    ids=["missing", "none", "unexpected", "list", "None"],
)
def test_parameters_name_what_is_missing_or_too_many(params, kind, text):
    with raises(kind, f"dense: {text}"):
        checks.parameters("dense", params, ["W", "b"])


# --- values -----------------------------------------------------------------------------


def test_indices_from_zero_to_below_n_pass(asarray):
    checks.indices("embedding", "x", asarray([[0, 4], [3, 1]]), 5, "token")


@pytest.mark.parametrize("bad", [-1, 5, 2**40])
def test_indices_name_the_one_out_of_range(bad, asarray):
    with raises(ValueError, f"embedding: x holds {bad}, expected 0 <= token < 5"):
        checks.indices("embedding", "x", asarray([[0, bad], [3, 1]]), 5, "token")


def test_indices_are_integers(asarray):
    stray = asarray([0.0])
    with raises(TypeError, f"embedding: x has dtype {stray.dtype}, expected an integer dtype"):
        checks.indices("embedding", "x", stray, 5, "token")


@pytest.mark.parametrize("value", [0.0, -1.5, float("nan"), float("-inf")])
def test_positive_names_what_is_not(value):
    checks.positive("adam", learning_rate=1e-300)
    with raises(ValueError, f"adam: eps is {value}, expected more than 0"):
        checks.positive("adam", learning_rate=1.0, eps=value)


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (0, ValueError, "n_a is 0, expected at least 1"),
        (-3, ValueError, "n_a is -3, expected at least 1"),
        (2.0, TypeError, "n_a is 2.0, expected a whole number"),
        (True, TypeError, "n_a is True, expected a whole number"),
        ("3", TypeError, "n_a is '3', expected a whole number"),
        (None, TypeError, "n_a is None, expected a whole number"),
    ],
)
def test_count_names_what_is_none(value, kind, text):
    checks.count("lstm", layers=1, n_a=np.int64(3))
    with raises(kind, f"lstm: {text}"):
        checks.count("lstm", layers=1, n_a=value)
