"""Initial values: what they are, and that every library gets the same."""

from __future__ import annotations

import math

import numpy as np
import pytest

from seqcore import random
from seqcore.cells import LSTMCell, linear

HOST = np.zeros(0)  # stands for NumPy in float64


def generator() -> np.random.Generator:
    return np.random.default_rng(12)


DRAWS = {
    "glorot_uniform": lambda rng, like: random.glorot_uniform(rng, (3, 7, 5), 5, 7, like),
    "orthogonal": lambda rng, like: random.orthogonal(rng, 3, 5, like),
    "normal": lambda rng, like: random.normal(rng, (4, 3), 0.3, like),
    "W_x": lambda rng, like: linear.init(LSTMCell(), 3, 5, like=like, rng=rng)["W_x"],
    "W_h": lambda rng, like: linear.init(LSTMCell(), 3, 5, like=like, rng=rng)["W_h"],
}
each_draw = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)


@each_draw
def test_one_seed_gives_the_same_numbers_everywhere(draw, asarray, assert_close):
    # float32 gets the rounded float64, so dtypes agree too; nothing may differ by a bit.
    expected = draw(generator(), HOST)
    assert expected.dtype == np.float64
    placed = draw(generator(), asarray([0.0]))
    rounded = expected.astype(str(placed.dtype).rpartition(".")[2])
    assert_close(placed, rounded, kind="cell", scale=0.0)


@each_draw
def test_draws_go_on_where_the_last_one_stopped(draw):
    rng = generator()
    first, second = draw(rng, HOST), draw(rng, HOST)
    assert not np.any(first == second)


def test_orthogonal_matrices_are_orthogonal(asarray, to_host, judge):
    q = to_host(random.orthogonal(generator(), 3, 7, asarray([0.0]))).astype(np.float64)
    assert q.shape == (3, 7, 7)
    eye = np.broadcast_to(np.eye(7), q.shape)
    np.testing.assert_allclose(q @ q.transpose(0, 2, 1), eye, rtol=0, atol=judge.tolerance("cell"))
    assert np.all(np.abs(q[0] - q[1]) > 0)  # each gate has its own


@pytest.mark.host
def test_orthogonal_matrices_prefer_no_direction():
    # Without the signs of r, LAPACK's q would have a diagonal below zero on average.
    n, draws = 3, 2000
    q = random.orthogonal(generator(), draws, n, HOST)
    five_sigma = 5 / math.sqrt(n * draws)  # an entry has variance 1 / n
    assert np.all(np.abs(q.mean(axis=0)) < five_sigma)
    assert abs(np.linalg.det(q).mean()) < 5 / math.sqrt(draws)  # reflections as often


@pytest.mark.host
@pytest.mark.parametrize(("fan_in", "fan_out"), [(40, 60), (3, 200)])
def test_glorot_has_its_bounds_and_variance(fan_in, fan_out):
    w = random.glorot_uniform(generator(), (100, 150), fan_in, fan_out, HOST)
    limit = math.sqrt(6 / (fan_in + fan_out))
    assert np.abs(w).max() <= limit
    assert np.abs(w).max() > 0.999 * limit
    assert w.var() == pytest.approx(2 / (fan_in + fan_out), rel=0.03)
    assert abs(w.mean()) < 5 * limit / math.sqrt(3 * w.size)


@pytest.mark.host
def test_normal_has_its_scale():
    w = random.normal(generator(), (100, 150), 0.3, HOST)
    assert w.std() == pytest.approx(0.3, rel=0.03)
    assert abs(w.mean()) < 5 * 0.3 / math.sqrt(w.size)


def test_recurrent_parameters_have_the_cells_shapes_and_biases(asarray, assert_close):
    params = linear.init(LSTMCell(), 3, 5, like=asarray([0.0]), rng=generator())
    assert list(params) == ["W_x", "W_h", "b"]
    assert tuple(params["W_x"].shape) == (4, 5, 3)
    assert tuple(params["W_h"].shape) == (4, 5, 5)
    gates = np.asarray([0.0, 1.0, 0.0, 0.0])[:, None, None]  # i, f, o, c
    assert_close(params["b"], np.broadcast_to(gates, (4, 5, 1)), kind="cell", scale=0.0)


@pytest.mark.host
def test_recurrent_weights_are_glorot_by_gate_and_orthogonal():
    n_x, n_a = 30, 50
    params = linear.init(LSTMCell(), n_x, n_a, like=HOST, rng=generator())
    limit = math.sqrt(6 / (n_x + n_a))
    assert 0.99 * limit < np.abs(params["W_x"]).max() <= limit
    product = params["W_h"] @ params["W_h"].transpose(0, 2, 1)
    np.testing.assert_allclose(product, np.broadcast_to(np.eye(n_a), product.shape), atol=1e-13)


@pytest.mark.host
def test_a_generator_is_used_and_a_seed_makes_one():
    rng = generator()
    assert random.generator(rng) is rng
    expected = np.random.default_rng(5).random(3)
    np.testing.assert_array_equal(random.generator(5).random(3), expected)
    assert np.any(random.generator(None).random(3) != random.generator(None).random(3))
