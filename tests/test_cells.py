"""One step of each cell, against the equations of its source written out below."""

import numpy as np
import pytest
from problems import CELLS, N_A, N_X, M

from seqcore import cells, kernels
from seqcore.cells import GRUCell, GRUResetBeforeCell, LSTMCell, RNNCell, linear

SHAPES = {
    "rnn-tanh": {"W_x": (1, N_A, N_X), "W_h": (1, N_A, N_A), "b": (1, N_A, 1)},
    "lstm": {"W_x": (4, N_A, N_X), "W_h": (4, N_A, N_A), "b": (4, N_A, 1)},
    "gru-before": {"W_x": (3, N_A, N_X), "W_h": (3, N_A, N_A), "b": (3, N_A, 1)},
}
SHAPES["rnn-relu"] = SHAPES["rnn-tanh"]
SHAPES["lstm-peephole"] = SHAPES["lstm"] | {"p": (3, N_A, 1)}
SHAPES["gru-after"] = SHAPES["gru-before"] | {"b_h": (1, N_A, 1)}


@pytest.fixture(params=CELLS)
def kind(request):
    return request.param


@pytest.fixture
def cell(kind):
    return CELLS[kind]


def sigmoid(z):
    with np.errstate(over="ignore"):  # exp(1e30) is infinite, and 1 / (1 + inf) is right
        return 1 / (1 + np.exp(-z))


def textbook(kind, params, x, state):
    """The state after one step, gate by gate, as the papers print it."""
    h = state[0]
    W_x, W_h, b = params["W_x"], params["W_h"], params["b"]

    def gate(k, h=h):
        return W_x[k] @ x + b[k] + W_h[k] @ h

    if kind == "rnn-tanh":
        return (np.tanh(gate(0)),)
    if kind == "rnn-relu":
        return (np.maximum(gate(0), 0),)
    if kind.startswith("lstm"):
        p = params["p"] if kind == "lstm-peephole" else np.zeros((3, 1, 1))
        i, f, g = sigmoid(gate(0) + p[0] * state[1]), sigmoid(gate(1) + p[1] * state[1]), gate(3)
        c = f * state[1] + i * np.tanh(g)
        return sigmoid(gate(2) + p[2] * c) * np.tanh(c), c
    r, u = sigmoid(gate(0)), sigmoid(gate(1))
    if kind == "gru-after":
        n = np.tanh(W_x[2] @ x + b[2] + r * (W_h[2] @ h + params["b_h"][0]))
    else:
        n = np.tanh(gate(2, r * h))
    return (u * h + (1 - u) * n,)


def draw(rng, kind):
    """Parameters, x, the state before and dL/d(state after)."""
    params = {name: 0.6 * rng.standard_normal(shape) for name, shape in SHAPES[kind].items()}
    fields = CELLS[kind].state_type._fields
    state, dstate = ([rng.standard_normal((N_A, M)) for _ in fields] for _ in range(2))
    return params, rng.standard_normal((N_X, M)), state, dstate


def step(cell, xp, params, x, state):
    """Take one step from x."""
    inner = kernels.of(xp).inner
    plan = linear.plan_forward(xp, cell, linear.prepared(xp, cell, params), M)
    return cell.step(inner, plan.maps, plan.of_step(x), cell.state_type._make(state))


def back(cell, xp, params, x, state, dstate):
    """Take a step and return the sums of all gradients, dz, dx and dL/d(state before)."""
    inner = kernels.of(xp).inner
    _, saved = step(cell, xp, params, x, state)
    plan = linear.plan_backward(xp, cell, params, M)
    dz, dbefore, own = cell.step_vjp(inner, plan.maps, saved, cell.state_type._make(dstate))
    dz, joint = inner.reshape(dz, (-1, M)), plan.dx()
    dx = joint[0] if joint else plan.W_x_t @ dz[: plan.W_x_t.shape[1], ...]
    # Summed over time, here over one step.
    series = type(saved)._make([(value,) for value in saved])
    outers = linear.outers(inner, cell, dz, x[None, ...], series)
    return linear.grads(inner, cell, outers, own, N_X), dz, dx, dbefore


def test_parameters_have_the_documented_names_and_shapes(cell, kind, asarray, rng):
    like = asarray(0.0)
    drawn = linear.init(cell, N_X, N_A, like=like, rng=rng)
    assert {name: value.shape for name, value in drawn.items()} == SHAPES[kind]
    sizes = {"n_a": N_A, "n_x": N_X}
    assert {
        name: tuple(sizes.get(size, size) for size in shape)
        for name, shape in cells.shapes(cell).items()
    } == SHAPES[kind]
    for value in drawn.values():
        assert value.dtype == like.dtype


def test_forget_gate_starts_open_and_other_biases_at_zero(asarray, to_host, rng):
    b = to_host(linear.init(LSTMCell(), N_X, N_A, like=asarray(0.0), rng=rng)["b"])
    np.testing.assert_array_equal(b[:, :, 0], np.repeat([[0.0], [1.0], [0.0], [0.0]], N_A, axis=1))


def test_step_is_the_textbook_equation(cell, kind, xp, asarray, assert_close, rng):
    params, x, state, _ = draw(rng, kind)
    after, _ = step(
        cell, xp, {k: asarray(v) for k, v in params.items()}, asarray(x), map(asarray, state)
    )
    expected = textbook(kind, params, x, state)
    for name, got, wanted in zip(after._fields, after, expected, strict=True):
        assert_close(got, wanted, kind="cell", name=name)


@pytest.mark.host
def test_step_vjp_is_the_derivative_of_the_textbook_equation(cell, kind, check_gradients, rng):
    params, x, state, dstate = draw(rng, kind)
    before = {f"before.{i}": value for i, value in enumerate(state)}

    def loss(at):
        after = textbook(kind, at, at["x"], [at[name] for name in before])
        return sum(np.sum(d * value) for d, value in zip(dstate, after, strict=True))

    grads, _, dx, dbefore = back(cell, np, params, x, state, dstate)
    grads |= {"x": dx, **dict(zip(before, dbefore, strict=True))}
    check_gradients(loss, {"x": x, **params, **before}, grads)


def test_step_vjp_is_the_same_on_every_library(cell, kind, xp, asarray, assert_close, rng):
    params, x, state, dstate = draw(rng, kind)
    grads, dz, dx, dbefore = back(cell, np, params, x, state, dstate)
    got_grads, got_dz, got_dx, got = back(
        cell,
        xp,
        {k: asarray(v) for k, v in params.items()},
        asarray(x),
        map(asarray, state),
        map(asarray, dstate),
    )
    assert_close(got_dz, dz, kind="bptt", name="dz")
    assert_close(got_dx, dx, kind="bptt", name="dx")
    assert got_grads.keys() == params.keys()
    for name, wanted in grads.items():
        assert_close(got_grads[name], wanted, kind="bptt", name=name)
    for name, value, wanted in zip(got._fields, got, dbefore, strict=True):
        assert_close(value, wanted, kind="bptt", name=name)


@pytest.mark.parametrize("where", ["x", "h", "b"])
def test_extreme_preactivations_saturate(
    cell, kind, where, xp, asarray, assert_close, to_host, rng
):
    params, x, state, dstate = draw(rng, kind)
    signs = np.where(np.arange(M) % 2, -1e30, 1e30)
    # One large entry an example, so that two of them do not cancel to a small sum.
    if where == "x":
        x[0] = signs
    elif where == "h":
        state[0][0] = signs
    else:
        params["b"] *= 1e30
    on_device = {name: asarray(value) for name, value in params.items()}
    args = (on_device, asarray(x))
    after, _ = step(cell, xp, *args, map(asarray, state))
    # The float32 entries are what the textbook is asked about.
    seen = {name: to_host(value).astype(float) for name, value in on_device.items()}
    x, *state = (to_host(asarray(value)).astype(float) for value in (x, *state))
    for name, got, wanted in zip(after._fields, after, textbook(kind, seen, x, state), strict=True):
        assert_close(got, wanted, kind="cell", name=name)

    _, dz, _, dbefore = back(cell, xp, *args, map(asarray, state), map(asarray, dstate))
    dz = to_host(dz)
    assert np.all(np.isfinite(dz))
    assert all(np.all(np.isfinite(to_host(value))) for value in dbefore)
    # In the form with the reset gate in between, a closed one leaves the candidate small.
    if kind != "rnn-relu" and not (kind.startswith("gru") and where == "h"):
        np.testing.assert_array_equal(dz, np.zeros_like(dz))


def test_extreme_cell_state_is_kept(xp, asarray, assert_close, to_host, rng):
    params, x, (h, _), dstate = draw(rng, "lstm")
    params["b"][:] = np.asarray([-1e30, 1e30, 1e30, 0.0])[:, None, None]  # i, f, o, c
    c = rng.choice([-1e30, 1e30], size=(N_A, M))
    args = ({k: asarray(v) for k, v in params.items()}, asarray(x), [asarray(h), asarray(c)])
    after, _ = step(LSTMCell(), xp, *args)
    assert_close(after.c, c, kind="cell", name="c")
    assert_close(after.h, np.sign(c), kind="cell", name="h")
    _, dz, _, dbefore = back(LSTMCell(), xp, *args, map(asarray, dstate))
    assert_close(dbefore.c, dstate[1], kind="cell", name="dc")
    np.testing.assert_array_equal(to_host(dz)[:3], 0.0)


def test_unknown_activation_is_refused():
    with pytest.raises(ValueError, match=r"^rnn: activation is 'selu', expected 'tanh' or 'relu'$"):
        RNNCell("selu")


def test_cells_are_values():
    assert len({GRUCell(), GRUCell(), GRUResetBeforeCell()}) == 2
    assert len({LSTMCell(), LSTMCell(), RNNCell(), RNNCell("relu")}) == 3
