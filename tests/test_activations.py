"""Activations against float64, in their tails, and their derivatives."""

from __future__ import annotations

import numpy as np
import pytest
from judging import exactly

from seqcore import activations

ELEMENTWISE = {
    "sigmoid": (activations.sigmoid, lambda x: 1 / (1 + np.exp(-x))),
    "tanh": (activations.tanh, np.tanh),
    "relu": (activations.relu, lambda x: np.maximum(x, 0)),
}
each_activation = pytest.mark.parametrize(
    ("function", "reference"), ELEMENTWISE.values(), ids=ELEMENTWISE
)


def softmax(x, axis=-2):
    return np.exp(x) / np.exp(x).sum(axis=axis, keepdims=True)


def log_softmax(x, axis=-2):
    return x - np.logaddexp.reduce(x, axis=axis, keepdims=True)


def draw(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Draw numbers that float32 holds without rounding, so that both dtypes see the same."""
    return (2 * rng.standard_normal(shape)).astype(np.float32).astype(np.float64)


@each_activation
def test_an_activation_is_its_formula(function, reference, asarray, assert_close, rng):
    x = draw(rng, 4, 3, 2)
    assert_close(function(asarray(x)), reference(x), kind="cell")


def test_sigmoid_is_accurate_relative_to_itself_in_both_tails(asarray, to_host, judge):
    x = np.asarray([-80.0, -30.0, -10.0, -1e-3, 0.0, 1e-3, 10.0, 30.0, 80.0])
    x = x.astype(np.float32).astype(np.float64)
    s = to_host(activations.sigmoid(asarray(x))).astype(np.float64)
    np.testing.assert_allclose(s, 1 / (1 + np.exp(-x)), rtol=judge.tolerance("cell"))


@pytest.mark.parametrize("size", ["1e30", "largest", "inf"])
def test_elementwise_extremes_saturate_without_a_warning(size, place, asarray, assert_close):
    largest = float(np.finfo(place.dtype).max)
    x = {"1e30": 1e30, "largest": largest, "inf": np.inf}[size] * np.asarray([-1.0, 1.0])
    s, t, r = (f(asarray(x)) for f, _ in ELEMENTWISE.values())
    assert_close(s, [0.0, 1.0], kind="cell", scale=0.0)
    assert_close(t, [-1.0, 1.0], kind="cell", scale=0.0)
    assert_close(r, [0.0, x[1]], kind="cell")
    assert_close(activations.sigmoid_deriv(s), [0.0, 0.0], kind="cell", scale=0.0)
    assert_close(activations.tanh_deriv(t), [0.0, 0.0], kind="cell", scale=0.0)
    assert_close(activations.relu_deriv(r), [0.0, 1.0], kind="cell", scale=0.0)


@each_activation
def test_nan_stays_nan(function, reference, asarray, assert_close):
    del reference
    x = asarray([np.nan, 0.0])
    assert_close(function(x), [np.nan, float(function(x[1:])[0])], kind="cell")


@pytest.mark.parametrize("function", [activations.softmax, activations.log_softmax])
def test_nan_spoils_its_own_column_only(function, asarray, to_host):
    p = to_host(function(asarray([[np.nan, 1.0], [0.0, 1.0]])))
    np.testing.assert_array_equal(np.isnan(p), [[True, False], [True, False]])


# --- softmax ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((4, 3), None), ((5, 4, 3), None), ((4, 3), 0), ((4, 3), 1), ((5, 4, 3), -1), ((4,), 0)],
)
def test_softmax_and_its_log_are_their_formulas_over_any_axis(
    shape, axis, asarray, assert_close, rng
):
    x = draw(rng, *shape)
    options = {} if axis is None else {"axis": axis}
    assert_close(activations.softmax(asarray(x), **options), softmax(x, **options), kind="cell")
    assert_close(
        activations.log_softmax(asarray(x), **options), log_softmax(x, **options), kind="cell"
    )


def test_softmax_sums_to_one(asarray, to_host, judge, rng):
    p = to_host(activations.softmax(asarray(10 * draw(rng, 5, 7, 3)))).astype(np.float64)
    np.testing.assert_allclose(p.sum(axis=1), np.ones((5, 3)), rtol=judge.tolerance("cell"))
    assert np.all(p >= 0)


def test_softmax_does_not_see_a_common_shift(asarray, assert_close, rng):
    # Shifts by powers of two of multiples of 1/8 are exact in both dtypes.
    x = rng.integers(-40, 40, size=(5, 3)) / 8
    assert_close(activations.softmax(asarray(x + 1024.0)), softmax(x), kind="cell")
    assert_close(activations.log_softmax(asarray(x - 1024.0)), log_softmax(x), kind="cell")


def test_log_softmax_keeps_what_softmax_rounds_to_zero(asarray, assert_close):
    x = np.asarray([[0.0], [-200.0], [-1000.0]])
    assert_close(activations.log_softmax(asarray(x)), x, kind="cell")
    assert_close(activations.softmax(asarray(x)), np.exp(x), kind="cell")


@pytest.mark.parametrize("size", [1e30, 1e38])
def test_softmax_of_extremes_is_right_without_a_warning(size, asarray, assert_close):
    x = size * np.asarray([[1.0, -1.0, 1.0], [-1.0, -1.0, 1.0], [0.0, -1.0, -1.0]])
    p = np.asarray([[1.0, 1 / 3, 0.5], [0.0, 1 / 3, 0.5], [0.0, 1 / 3, 0.0]])
    assert_close(activations.softmax(asarray(x)), p, kind="cell")
    log_p = size * np.asarray([[0.0, 0.0, 0.0], [-2.0, 0.0, 0.0], [-1.0, 0.0, -2.0]])
    assert_close(activations.log_softmax(asarray(x)), log_p, kind="cell")
    # log 3 and log 2 vanish beside 1e30, not where the column is large as a whole.
    even = activations.log_softmax(asarray(x))[:, 1:2]
    assert_close(even, np.full((3, 1), -np.log(3)), kind="cell")


def test_softmax_of_minus_infinity_is_zero(asarray, assert_close):
    x = asarray([[-np.inf], [0.0], [0.0]])
    assert_close(activations.softmax(x), [[0.0], [0.5], [0.5]], kind="cell")
    assert_close(activations.log_softmax(x), [[-np.inf], [-np.log(2)], [-np.log(2)]], kind="cell")


# --- derivatives ------------------------------------------------------------------------


def central(function, x, h=1e-5):
    """Return the derivative in float64; its error is near 1e-10."""
    return (function(x + h) - function(x - h)) / (2 * h)


DERIVATIVES = {
    "sigmoid": activations.sigmoid_deriv,
    "tanh": activations.tanh_deriv,
    "relu": activations.relu_deriv,
}


@pytest.mark.parametrize("name", DERIVATIVES)
def test_a_derivative_of_the_activated_value_agrees_with_central_differences(
    name, asarray, to_host, judge, rng
):
    function, reference = ELEMENTWISE[name]
    x = draw(rng, 4, 3)
    x = x[np.abs(x) > 1e-3]  # relu has a corner at 0
    slope = DERIVATIVES[name](function(asarray(x)))
    np.testing.assert_allclose(
        to_host(slope), central(reference, x), rtol=0, atol=max(1e-9, judge.tolerance("cell"))
    )


def test_relu_has_slope_zero_at_its_corner(asarray, assert_close):
    r = activations.relu(asarray([-0.0, 0.0]))
    assert_close(activations.relu_deriv(r), [0.0, 0.0], kind="cell", scale=0.0)


def test_softmax_deriv_is_the_jacobian_over_axis_0(asarray, assert_close, to_host, rng):
    x = draw(rng, 4, 3)
    jacobian = activations.softmax_deriv(activations.softmax(asarray(x), axis=0))
    s = softmax(x, axis=0)
    expected = np.einsum("ik,ij->ijk", s, np.eye(4)) - np.einsum("ik,jk->ijk", s, s)
    assert_close(jacobian, expected, kind="cell")
    for j in range(4):
        h = 1e-5 * np.eye(4)[:, j : j + 1]
        slope = (softmax(x + h, axis=0) - softmax(x - h, axis=0)) / 2e-5
        np.testing.assert_allclose(to_host(jacobian)[:, j, :], slope, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "relu", "softmax", "log_softmax"])
def test_what_holds_no_floats_is_named(name, asarray):
    with pytest.raises(TypeError, match=f"^{name}: x has dtype .*, expected a floating point dt"):
        getattr(activations, name)(asarray(np.ones((2, 3), dtype=int)))
    with pytest.raises(TypeError, match=f"^{name}: x is a list, expected an array$"):
        getattr(activations, name)([[1.0]])


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize(("shape", "axis"), [((3,), -2), ((0, 3), 0), ((2, 3), 2)])
def test_softmax_names_an_axis_without_entries(name, shape, axis, asarray):
    text = f"{name}: x has shape {shape}, expected axis {axis} with at least one entry"
    with pytest.raises(ValueError, match=exactly(text)):
        getattr(activations, name)(asarray(np.zeros(shape)), axis=axis)
