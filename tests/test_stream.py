"""Bound steps of a stream: one after another they are forward over time, and their errors."""

from __future__ import annotations

import re

import numpy as np
import pytest
from judging import exactly, named
from problems import KINDS, N_A, N_X, N_Y, TOKENS, M, Problem, T, on, recurrent, weights

import seqcore as sc
from seqcore.cells import RNNState

pytestmark = pytest.mark.usefixtures("unoptimized")

# layers, m; each a new program for JAX, so not all combinations run.
SIZES = {"one layer": (1, M), "one example": (1, 1), "three layers": (3, M)}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def walk(step, x, state=None):
    """Every y, and the last state, from one step after another."""
    ys = []
    for t in range(x.shape[0]):
        y, state = step(x[t, ...], state)
        ys.append(y)
    return ys, state


@pytest.fixture
def close_steps(assert_close, to_host):
    """Compare the y of each step and the last state with those of forward."""

    def check(ys, state, y, last):
        y = to_host(y)
        assert len(ys) == len(y)
        for t, got in enumerate(ys):
            assert_close(got, y[t], kind="bptt", name=f"y[{t}]")
        assert type(state) is type(last)
        for name, value in last._asdict().items():
            assert_close(getattr(state, name), to_host(value), kind="bptt", name=name)

    return check


# --- recurrent layers -------------------------------------------------------------------


@pytest.mark.parametrize(("layers", "m"), SIZES.values(), ids=SIZES)
def test_steps_one_after_another_are_forward(kind, layers, m, asarray, close_steps, rng):
    layer = recurrent(kind, layers=layers)
    problem = Problem.of(rng, layer, m=m).move(asarray)
    params, x = problem.params, problem.x
    step = layer.bind(params, m)
    for before in (problem.state, None):
        y, last, _ = layer.forward(params, x, before)
        close_steps(*walk(step, x, before), y, last)


@pytest.mark.host
@pytest.mark.parametrize("n_x", [1, N_A // 2, N_A // 2 + 1, 3 * N_A])
def test_steps_take_any_number_of_features(kind, n_x, rng):
    layer = recurrent(kind, layers=2)
    params = weights(rng, layer, n_x)
    x = rng.standard_normal((T, n_x, M))
    y, last, _ = layer.forward(params, x)
    ys, state = walk(layer.bind(params, M), x)
    np.testing.assert_allclose(np.stack(ys), y, rtol=0, atol=1e-14)
    for got, wanted in zip(state, last, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-14)


def test_a_state_goes_from_forward_into_steps_and_back(kind, asarray, close_steps, rng):
    layer = recurrent(kind, layers=2)
    params = on(asarray, weights(rng, layer))
    x = asarray(rng.standard_normal((T, N_X, M)))
    step = layer.bind(params, M)
    y, last, _ = layer.forward(params, x)
    _, state, _ = layer.forward(params, x[:1, ...])
    ys, state = walk(step, x[1:3, ...], state)
    close_steps(ys, state, y[1:3, ...], layer.forward(params, x[:3, ...])[1])
    rest, state, _ = layer.forward(params, x[3:, ...], state)
    close_steps([rest[t, ...] for t in range(T - 3)], state, y[3:, ...], last)


def test_a_batch_of_one_is_what_is_bound_unless_told_otherwise(asarray, close_steps, rng):
    layer = sc.LSTM(N_A)
    params = on(asarray, weights(rng, layer))
    x = asarray(rng.standard_normal((T, N_X, 1)))
    y, last, _ = layer.forward(params, x)
    close_steps(*walk(layer.bind(params), x), y, last)


@pytest.mark.parametrize(("layers", "m"), [(1, M), (1, 1), (2, M)])
def test_a_step_changes_nothing_that_it_is_given(kind, layers, m, asarray, to_host, rng):
    layer = recurrent(kind, layers=layers)
    problem = Problem.of(rng, layer, m=m).move(asarray)
    params, state, x = problem.params, problem.state, problem.x[0, ...]
    step = layer.bind(params, m)
    given = [x, *params.values(), *state]
    before = [to_host(value) for value in given]
    first, after = step(x, state)
    from_zero, end = step(x)
    kept = [to_host(value) for value in (first, *after, from_zero, *end)]
    # Again from both: neither the bound zeros nor what came out before has changed.
    step(x, after)
    again, _ = step(x, state)
    zero_again, _ = step(x)
    for old, new in zip(before, given, strict=True):
        np.testing.assert_array_equal(to_host(new), old)
    for old, new in zip(kept, (first, *after, from_zero, *end), strict=True):
        np.testing.assert_array_equal(to_host(new), old)
    np.testing.assert_array_equal(to_host(again), kept[0])
    np.testing.assert_array_equal(to_host(zero_again), to_host(from_zero))


def test_a_plain_tuple_is_a_state_of_a_step(asarray, assert_close, to_host, rng):
    layer = sc.LSTM(N_A)
    for m in (1, M):
        problem = Problem.of(rng, layer, m=m).move(asarray)
        state, x = problem.state, problem.x[0, ...]
        step = layer.bind(problem.params, m)
        y, after = step(x, tuple(state))
        assert type(after) is type(state)
        assert_close(y, to_host(step(x, state)[0]), kind="cell")


# --- the other layers -------------------------------------------------------------------


def test_a_step_of_dense_is_its_forward(asarray, assert_close, to_host, rng):
    layer = sc.Dense(N_Y)
    params = on(asarray, weights(rng, layer))
    x = asarray(rng.standard_normal((T, N_X, M)))
    y, state, _ = layer.forward(params, x)
    step = layer.bind(params, M)
    for t, got in enumerate(to_host(y)):
        one, after = step(x[t, ...], state)
        assert after == ()
        assert_close(one, got, kind="cell")


@pytest.mark.parametrize("name", ["int64", "int32", "uint8"])
def test_a_step_of_an_embedding_is_its_forward(name, xp, asarray, assert_close, to_host, rng):
    layer = sc.Embedding(N_Y)
    params = on(asarray, weights(rng, layer, TOKENS))
    tokens = xp.astype(asarray(rng.integers(TOKENS, size=(T, M))), getattr(xp, name))
    y, state, _ = layer.forward(params, tokens)
    step = layer.bind(params, M)
    for t, got in enumerate(to_host(y)):
        one, after = step(tokens[t, ...], state)
        assert after == ()
        assert_close(one, got, kind="cell", scale=1.0)


def test_a_step_of_dropout_drops_nothing(asarray, to_host, rng):
    x = asarray(rng.standard_normal((N_X, M)))
    y, after = sc.Dropout(0.5, seed=1).bind({}, M)(x)
    assert after == ()
    np.testing.assert_array_equal(to_host(y), to_host(x))


def model():
    inner = sc.Sequential(sc.Dropout(0.4), sc.LSTM(N_A, layers=2), sc.Dense(N_Y))
    return sc.Sequential(sc.Embedding(N_X), inner, sc.GRU(2), sc.Dense(TOKENS))


def test_steps_of_a_model_are_its_forward(asarray, assert_close, to_host, rng):
    layer = model()
    params = on(asarray, weights(rng, layer, TOKENS))
    tokens = asarray(rng.integers(TOKENS, size=(T, M)))
    y, last = layer.predict(params, tokens)
    step = layer.bind(params, M)
    _, state = layer.predict(params, tokens[:2, ...])
    for before, first in ((None, 0), (state, 2)):  # from the start, and from forward's state
        ys, end = walk(step, tokens[first:, ...], before)
        for t, got in enumerate(ys):
            assert_close(got, to_host(y)[first + t], kind="bptt", name=f"y[{first + t}]")
        assert end[0] == end[3] == end[1][0] == end[1][2] == ()
        for name in ("h", "c"):
            wanted = to_host(getattr(last[1][1], name))
            assert_close(getattr(end[1][1], name), wanted, kind="bptt", name=name)
        assert_close(end[2].h, to_host(last[2].h), kind="bptt", name="gru.h")
    # And from a step into forward.
    _, state = walk(step, tokens[:3, ...])
    rest, _ = layer.predict(params, tokens[3:, ...], state)
    assert_close(rest, to_host(y)[3:], kind="bptt", name="y[3:]")


def test_each_step_of_a_model_that_ends_time_is_its_forward_so_far(asarray, close, rng):
    layer = sc.Sequential(sc.LSTM(N_A), sc.Last(), sc.Dense(N_Y))
    problem = Problem.of(rng, layer, n_steps=3).move(asarray)
    step, state = layer.bind(problem.params, M), problem.state
    for t in range(3):
        x = problem.x[: t + 1, ...]
        y, last, _ = layer.forward(problem.params, x, problem.state)
        got, state = step(problem.x[t, ...], state)
        close({"y": got, **named("state", state)}, {"y": y, **named("state", last)})


def test_a_step_of_last_is_x(asarray, to_host, rng):
    x = asarray(rng.standard_normal((N_X, M)))
    y, state = sc.Last().bind({}, M)(x)
    np.testing.assert_array_equal(to_host(y), to_host(x))
    np.testing.assert_array_equal(to_host(state.y), to_host(x))
    for shape in ((N_X, 1), (M,), (1, N_X, M)):
        text = f"last: x has shape {shape}, expected (n, {M})"
        with pytest.raises(ValueError, match=exactly(text)):
            sc.Last().bind({}, M)(asarray(np.zeros(shape)))
    narrow = asarray(np.zeros((1, M)))
    for state, kind, text in (
        ((narrow,), ValueError, "state.y has shape (1, 6), expected (n, m) = (2, 6)"),
        (5, TypeError, "state is a int, expected a tuple (y,)"),
        (RNNState(x), TypeError, "state is a RNNState, which another layer returned, expected Las"),
    ):
        with pytest.raises(kind, match=f"^{re.escape(f'last: {text}')}"):
            sc.Last().bind({}, M)(x, state)


def test_a_bound_layer_is_hashable_as_functions_are(asarray, rng):
    # What traces a function keeps it by its hash.
    layer = sc.Dense(N_Y)
    params = on(asarray, weights(rng, layer))
    bound, other = layer.bind(params, M), layer.bind(params, M)
    assert {bound: 1, other: 2}[bound] == 1


# --- under jax.jit ----------------------------------------------------------------------


@pytest.mark.only("jax")
def test_a_step_runs_under_jit_bound_outside_and_inside(asarray, assert_close, to_host, rng):
    import jax

    layer = model()
    params = on(asarray, weights(rng, layer, TOKENS))
    tokens = asarray(rng.integers(TOKENS, size=(T, M)))
    y, state = layer.predict(params, tokens)
    outside = jax.jit(layer.bind(params, M))
    inside = jax.jit(lambda params, *given: layer.bind(params, M)(*given))
    _, before = outside(tokens[0, ...], None)
    for step in (outside, lambda *given: inside(params, *given)):
        one, after = step(tokens[1, ...], before)
        assert_close(one, to_host(y)[1], kind="bptt")
        assert jax.tree.structure(after) == jax.tree.structure(state)
    ys, _ = walk(outside, tokens)
    assert outside._cache_size() == 2  # without a state, and with one
    for t, got in enumerate(ys):
        assert_close(got, to_host(y)[t], kind="bptt", name=f"y[{t}]")


# --- errors -----------------------------------------------------------------------------

LAYERS = {
    "rnn": sc.RNN(N_A),
    "lstm": sc.LSTM(N_A, layers=2),
    "gru": sc.GRU(N_A),
    "dense": sc.Dense(N_Y),
    "embedding": sc.Embedding(N_Y),
}


@pytest.fixture(params=LAYERS)
def layer(request):
    return LAYERS[request.param]


@pytest.fixture
def params(layer, asarray, rng):
    return on(asarray, weights(rng, layer))


def test_a_wrong_shape_of_x_is_named_by_the_step(layer, params, asarray):
    right = (M,) if layer.name == "embedding" else (N_X, M)
    step = layer.bind(params, M)
    for wrong in ((*right[:-1], M - 1), (1, *right), (), (*right[:-1], 1), (0,)):
        text = f"{layer.name}: x has shape {wrong}, expected {right}"
        values = np.zeros(wrong, dtype=int if layer.name == "embedding" else float)
        with pytest.raises(ValueError, match=exactly(text)):
            step(asarray(values))


def test_parameters_that_are_missing_unexpected_or_wrong_are_named(layer, params, foreign):
    first, last = layer.names()[0], layer.names()[-1]
    rest = {name: value for name, value in params.items() if name != last}
    got = ", ".join(rest) or "no parameters"
    text = f"{layer.name}: parameter {last!r} is missing; got {got}"
    with pytest.raises(ValueError, match=exactly(text)):
        layer.bind(rest, M)
    text = f"{layer.name}: unexpected parameter 'z'; expected {', '.join(params)}"
    with pytest.raises(ValueError, match=exactly(text)):
        layer.bind(params | {"z": params[first]}, M)
    wrong = params[first][..., None]
    start = re.escape(f"{layer.name}: {first} has shape {tuple(wrong.shape)}, expected (")
    with pytest.raises(ValueError, match=f"^{start}"):
        layer.bind(params | {first: wrong}, M)
    with pytest.raises(
        TypeError, match=exactly(f"{layer.name}: params is a list, expected a dict")
    ):
        layer.bind(list(params.values()), M)
    if len(params) > 1:
        start = re.escape(f"{layer.name}: {last} is an array of ")
        with pytest.raises(TypeError, match=rf"^{start}\w+, expected \w+ like {re.escape(first)}$"):
            layer.bind(params | {last: foreign}, M)


def test_layers_that_do_not_fit_on_one_another_are_named(asarray, rng):
    layer = sc.LSTM(N_A, layers=2)
    params = on(asarray, weights(rng, layer))
    params["1.W_x"] = asarray(np.zeros((4, N_A, N_X)))
    text = "lstm: 1.W_x has shape (4, 5, 2), expected (4, n_a, n_x) = (4, 5, 5)"
    with pytest.raises(ValueError, match=exactly(text)):
        layer.bind(params, M)


@pytest.mark.parametrize(
    ("m", "kind", "text"),
    [
        (0, ValueError, "m is 0, expected at least 1"),
        (-2, ValueError, "m is -2, expected at least 1"),
        (1.0, TypeError, "m is 1.0, expected a whole number"),
        (True, TypeError, "m is True, expected a whole number"),
    ],
)
def test_a_batch_of_less_than_one_is_refused(m, kind, text, layer, params):
    with pytest.raises(kind, match=exactly(f"{layer.name}: {text}")):
        layer.bind(params, m)


@pytest.mark.parametrize("make", [sc.RNN, sc.LSTM, sc.GRU])
def test_layers_in_both_directions_take_no_single_steps(make, asarray, rng):
    layer = make(N_A, bidirectional=True)
    params = on(asarray, weights(rng, layer))
    text = f"{layer.name}: bidirectional layers cannot take one step at a time"
    bound = layer.bind(params)
    x = asarray(rng.standard_normal((T, N_X, M)))
    with pytest.raises(ValueError, match=exactly(text)):
        bound(x[0, ...])
    # In a model the error says where.
    whole = sc.Sequential(both=layer)
    bound = whole.bind({f"both.{name}": value for name, value in params.items()})
    with pytest.raises(ValueError, match=exactly(f"{text}\nin the layer 'both' of a Sequential")):
        bound(x[0, ...])
    # A whole sequence has both.
    y, _ = bound.predict(x)
    assert tuple(y.shape) == (T, 2 * N_A, M)


def test_an_error_of_a_model_says_in_which_layer(asarray, rng):
    layer = model()
    params = on(asarray, weights(rng, layer, TOKENS))
    name = "sequential.dense.b"
    lines = [
        "dense: b has shape (2, 1), expected (3, 1)",
        "in the layer 'dense' of a Sequential",
        "in the layer 'sequential' of a Sequential",
    ]
    with pytest.raises(ValueError, match=exactly("\n".join(lines))):
        layer.bind(params | {name: params[name][:2, :]}, M)
    del params[name]
    text = f"^sequential: parameter '{name}' is missing; got "
    with pytest.raises(ValueError, match=text):
        layer.bind(params, M)


def test_dropout_refuses_parameters_when_it_is_bound(asarray):
    with pytest.raises(ValueError, match=r"^dropout: unexpected parameter 'W'; expected $"):
        sc.Dropout(0.5).bind({"W": asarray([0.0])})
