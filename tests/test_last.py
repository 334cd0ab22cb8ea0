"""The last step that counts: `last`, its gradient, and the layer `Last` with its state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from judging import exactly, same_bits
from problems import ENDING, LENGTHS, MASK, N_A, N_X, N_Y, STEPS, M, Problem, T, on

import seqcore as sc
from seqcore.layers import LastState

pytestmark = pytest.mark.usefixtures("unoptimized")

each_form = pytest.mark.parametrize("form", ["list", "array"])


def counted(steps: dict[str, Any]) -> Any:
    """Return which steps count, (T, m)."""
    lengths, mask = steps.get("lengths", [T] * M), steps.get("mask", np.ones((T, M), dtype=bool))
    return (np.arange(T)[:, None] < np.asarray(lengths)) & mask


def at_the_end(counts: np.ndarray) -> np.ndarray:
    """Return True at each example's last step that counts, (T, m), one example after another."""
    hot = np.zeros_like(counts)
    for j in range(counts.shape[1]):
        for t in np.flatnonzero(counts[:, j])[-1:]:
            hot[t, j] = True
    return hot


def short(rng: np.random.Generator, *shape: int) -> Any:
    """Draw numbers that float32 holds exactly: nothing is rounded when they are picked."""
    return rng.standard_normal(shape).astype(np.float32).astype(np.float64)


@pytest.fixture(params=STEPS)
def steps(request):
    return STEPS[request.param]


@pytest.fixture
def placed(asarray):
    """Put lengths and masks on the device, lengths as a list or as an array."""

    def place(steps, form="array"):
        moved = {name: asarray(np.asarray(value)) for name, value in steps.items()}
        return moved | ({"lengths": LENGTHS} if form == "list" and "lengths" in steps else {})

    return place


# --- the function -----------------------------------------------------------------------


@each_form
def test_last_is_what_stands_at_the_last_step_that_counts(
    steps, form, placed, asarray, assert_close, rng
):
    y, hot = short(rng, T, N_A, M), at_the_end(counted(steps))
    expected = np.where(hot[:, None, :], y, 0.0).sum(axis=0)
    junk = np.where(hot[:, None, :], y, rng.choice([np.nan, np.inf, -np.inf], y.shape))
    for given in (y, junk):
        got = sc.last(asarray(given), **placed(steps, form))
        assert_close(got, expected, kind="cell", scale=0.0)


@each_form
def test_last_backward_stands_there_and_is_0_elsewhere(
    steps, form, placed, asarray, assert_close, rng
):
    d, hot = short(rng, N_A, M), at_the_end(counted(steps))
    d[0, 1], d[1, 2] = np.nan, np.inf  # stay where they are
    expected = np.where(hot[:, None, :], d, 0.0)
    got = sc.last_backward(asarray(d), T, **placed(steps, form))
    assert_close(got, expected, kind="cell", scale=0.0)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
def test_lengths_of_a_narrow_dtype_reach_a_late_step(dtype, xp, asarray, to_host, device):
    n_steps = 300
    y = np.arange(n_steps, dtype=float)[:, None, None] * np.ones((1, 1, 2))
    lengths = xp.asarray(np.asarray([255, 3]).tolist(), dtype=getattr(xp, dtype), device=device)
    np.testing.assert_array_equal(to_host(sc.last(asarray(y), lengths)), [[254, 2]])
    mask = asarray(np.arange(n_steps)[:, None] >= np.asarray([290, 300]))
    np.testing.assert_array_equal(to_host(sc.last(asarray(y), None, mask)), [[299, 0]])
    d = sc.last_backward(asarray(np.ones((1, 2))), np.uint8(255), lengths)
    assert d.shape == (255, 1, 2)
    np.testing.assert_array_equal(np.argmax(to_host(d), axis=0), [[254, 2]])


@pytest.mark.host
def test_last_does_not_keep_the_other_steps_in_memory():
    for steps in STEPS.values():
        assert sc.last(np.ones((T, N_A, M)), **steps).base is None


@pytest.mark.only("jax")
def test_last_goes_through_jit_with_lengths_that_are_traced(asarray, assert_close, rng):
    import jax

    y, d = short(rng, T, N_A, M), short(rng, N_A, M)
    lengths, mask = asarray(np.asarray(LENGTHS)), asarray(MASK)
    hot = at_the_end(counted(STEPS["ragged with gaps"]))[:, None, :]
    got = jax.jit(sc.last)(asarray(y), lengths, mask)
    assert_close(got, np.where(hot, y, 0.0).sum(axis=0), kind="cell", scale=0.0)
    back = jax.jit(sc.last_backward, static_argnums=1)(asarray(d), T, lengths, mask)
    assert_close(back, np.where(hot, d, 0.0), kind="cell", scale=0.0)


@pytest.mark.only("torch")
def test_autograd_of_last_is_last_backward(steps, placed, asarray, assert_close, to_host, rng):
    y = asarray(rng.standard_normal((T, N_A, M))).requires_grad_(True)
    d = asarray(rng.standard_normal((N_A, M)))
    (sc.last(y, **placed(steps)) * d).sum().backward()
    expected = to_host(sc.last_backward(d, T, **placed(steps)))
    assert_close(y.grad, expected, kind="cell", scale=0.0)


def test_wrong_arguments_of_last_are_named(asarray, foreign):
    y, d = asarray(np.zeros((T, N_A, M))), asarray(np.zeros((N_A, M)))
    integers = asarray(np.zeros((T, N_A, M), dtype=int))
    for call, kind, text in (
        (lambda: sc.last([1.0]), TypeError, "last: y is a list, expected an array"),
        (lambda: sc.last(integers), TypeError, "last: y has dtype "),
        (lambda: sc.last(d), ValueError, "last: y has shape (5, 6), expected time first, (T, n, m"),
        (
            lambda: sc.last(y[:0, ...]),
            ValueError,
            "last: y has shape (0, 5, 6), expected (T, n, m) with T at least 1",
        ),
        (
            lambda: sc.last(y, [1] * T),
            ValueError,
            "last: y has shape (7, 5, 6), expected time first, (T, n, m) with m = 7, the number",
        ),
        (
            lambda: sc.last(y, [T + 1] * M),
            ValueError,
            "last: lengths holds 8, expected 0 <= length < 8",
        ),
        (lambda: sc.last(y, "nonsense"), TypeError, "last: lengths is 'nonsense', expected whole"),
        (lambda: sc.last(y, foreign), TypeError, "last: lengths is an array of "),
        (lambda: sc.last(y, None, "nonsense"), TypeError, "last: mask is a str, expected an array"),
        (lambda: sc.last(y, None, y), TypeError, "last: mask has dtype "),
        (
            lambda: sc.last_backward(y, T),
            ValueError,
            "last_backward: dlast has shape (7, 5, 6), expected (n, m)",
        ),
        (lambda: sc.last_backward(d, 0), ValueError, "last_backward: n_steps is 0, expected at"),
        (lambda: sc.last_backward(d, 2.0), TypeError, "last_backward: n_steps is 2.0, expected a"),
        (
            lambda: sc.last_backward(d, 2, [3] * M),
            ValueError,
            "last_backward: lengths holds 3, expected 0 <= length < 3",
        ),
        (
            lambda: sc.last_backward(d, 2, [1] * N_A),
            ValueError,
            "last_backward: lengths has shape (5,), expected (m,) = (6,)",
        ),
        (
            lambda: sc.last_backward(d, 2, None, asarray(MASK)),
            ValueError,
            "last_backward: mask has shape (7, 6), expected time first, (T, m) = (2, 6)",
        ),
    ):
        with pytest.raises(kind, match=f"^{exactly(text)[1:-1]}"):
            call()


# --- the layer --------------------------------------------------------------------------


def test_the_layer_is_last_of_what_is_below(steps, asarray, close, rng, placed):
    below = sc.LSTM(N_A, layers=2)
    layer = sc.Sequential(below, sc.Last())
    params = on(asarray, layer.init(N_X, like=np.zeros(0), rng=rng))
    x, dy = asarray(rng.standard_normal((T, N_X, M))), asarray(rng.standard_normal((N_A, M)))
    own = {name.removeprefix("lstm."): value for name, value in params.items()}
    which = placed(steps)
    y, _, tape = below.forward(own, x, **which)
    dx, grads, _ = below.backward(own, tape, sc.last_backward(dy, T, **which))
    expected = {"y": sc.last(y, **which), "dx": dx}
    expected |= {f"lstm.{name}": value for name, value in grads.items()}
    got, state, tape = layer.forward(params, x, **which)
    dx, grads, dstate = layer.backward(params, tape, dy)
    close({"y": got, "dx": dx, **grads}, expected)
    assert type(state[1]) is type(dstate[1]) is LastState


def test_an_example_without_a_step_has_the_state(asarray, to_host, rng):
    layer, x = sc.Last(), asarray(rng.standard_normal((T, N_X, M)))
    before = asarray(rng.standard_normal((N_X, M)))
    none = np.asarray(LENGTHS) == 0
    assert none.any()
    for state, expected in ((None, 0.0), (LastState(before), to_host(before)[:, none])):
        y, after, tape = layer.forward({}, x, state, LENGTHS)
        np.testing.assert_array_equal(to_host(y)[:, none], expected + np.zeros((N_X, none.sum())))
        same_bits({"y": to_host(after.y)}, {"y": to_host(y)})
        d, dend = asarray(rng.standard_normal((2, N_X, M)))[0, ...], before
        dx, _, dstate = layer.backward({}, tape, d, LastState(dend))
        both = to_host(d) + to_host(dend)
        np.testing.assert_array_equal(to_host(dstate.y), np.where(none, both, 0.0))
        assert not np.any(to_host(dx)[..., none])


def test_wrong_arguments_of_the_layer_are_named(asarray):
    layer, x = sc.Last(), asarray(np.zeros((T, N_X, M)))
    y, _, tape = layer.forward({}, x)
    integers = asarray(np.zeros((T, N_X, M), dtype=int))
    narrow, few = asarray(np.zeros((1, M))), asarray(np.zeros((N_X, 1)))
    model = ENDING["lstm, last, dense"]
    params = on(asarray, model.init(N_X, like=np.zeros(0), rng=0))
    _, after, of_model = model.forward(params, x)
    for call, kind, text in (
        (lambda: layer.forward({"W": x}, x), ValueError, "last: unexpected parameter 'W'; exp"),
        (lambda: layer.forward({}, integers), TypeError, "last: x has dtype "),
        (lambda: layer.forward({}, y), ValueError, "last: x has shape (2, 6), expected time first"),
        (lambda: layer.forward({}, x, 5), TypeError, "last: state is a int, expected a tuple (y,)"),
        (lambda: layer.forward({}, x, ()), TypeError, "last: state is a tuple of 0, expected a tu"),
        (
            lambda: layer.forward({}, x, (integers[0, ...],)),
            TypeError,
            "last: state.y has dtype ",
        ),
        # Either would be broadcast without a word.
        (
            lambda: layer.forward({}, x, (few,)),
            ValueError,
            "last: state.y has shape (2, 1), expected (n, m)",
        ),
        (
            lambda: layer.forward({}, x, (narrow,)),
            ValueError,
            "last: state.y has shape (1, 6), expected (n, m) = (2, 6)",
        ),
        (
            lambda: layer.predict({}, x, (narrow,)),
            ValueError,
            "last: state.y has shape (1, 6), expected (n, m) = (2, 6)",
        ),
        (
            lambda: layer.backward({}, tape, y, (narrow,)),
            ValueError,
            "last: dstate.y has shape (1, 6), expected (n, m) = (2, 6)",
        ),
        (
            lambda: model.forward(params, x, (after[0], (narrow,), ())),
            ValueError,
            "last: state.y has shape (1, 6), expected (n, m) = (5, 6)\nin the layer 'last' of a",
        ),
        (
            lambda: model.backward(params, of_model, asarray(np.zeros((N_Y, M))), (after[0], 5)),
            ValueError,
            "sequential: dstate is a tuple of 2, expected a tuple with one entry for each of",
        ),
        (lambda: layer.backward({}, tape, x), ValueError, "last: dy has shape (7, 2, 6), expected"),
    ):
        with pytest.raises(kind) as caught:
            call()
        told = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
        assert told.startswith(text), told
    # Behind it there is no time any more.
    behind = sc.Sequential(sc.Last(), sc.LSTM(N_A))
    params = on(asarray, behind.init(N_X, like=np.zeros(0), rng=0))
    with pytest.raises(ValueError, match=r"^lstm: x has shape \(2, 6\), expected time first, "):
        behind.forward(params, x)


def test_a_plain_tuple_is_a_state_of_last(asarray, close, rng):
    problem = Problem.of(rng, sc.Last(), lengths=LENGTHS).move(asarray)
    plain = problem.but(state=tuple(problem.state), dstate=tuple(problem.dstate))
    _, state, tape = plain.forward()
    _, _, dstate = plain.backward(tape)
    close({"y": plain.forward()[0]}, {"y": problem.forward()[0]})
    assert type(state) is type(dstate) is LastState


# --- what it is for ---------------------------------------------------------------------


@pytest.mark.host
def test_a_classifier_of_ragged_sequences_learns_from_last_and_not_from_the_padding():
    # The class is which of two features came first, and where padding begins says nothing of it.
    rng = np.random.default_rng(0)
    lengths, classes = rng.integers(2, 9, size=96), rng.integers(2, size=96)
    x = 0.1 * rng.standard_normal((8, 2, 96))
    x[0, classes, np.arange(96)] += 1.0

    def accuracy(model, chosen):
        params = model.init(2, like=x, rng=0)
        opt = sc.adam(learning_rate=0.03)
        opt_state = opt.init(params)
        for _ in range(60):
            y, _, tape = model.forward(params, x, lengths=lengths)
            _, dlogits = sc.cross_entropy(chosen(y), classes)
            dy = dlogits
            if y.ndim == 3:  # as one writes it by hand
                dy = np.concatenate((np.zeros_like(y[1:]), dlogits[None]))
            _, grads, _ = model.backward(params, tape, dy)
            params, opt_state = opt.update(params, grads, opt_state)
        y, _ = model.predict(params, x, lengths=lengths)
        return np.mean(np.argmax(chosen(y), axis=0) == classes)

    assert accuracy(sc.Sequential(sc.LSTM(8), sc.Last(), sc.Dense(2)), lambda y: y) == 1.0
    wrong = accuracy(sc.Sequential(sc.LSTM(8), sc.Dense(2)), lambda y: y[-1])
    assert wrong < 0.7  # those that fill all 8 steps, and a guess
