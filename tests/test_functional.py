"""The textbook door: its printed numbers, its caches, and its backward functions."""

import re
from functools import partial

import numpy as np
import pytest
from judging import exactly, leaves
from problems import N_A, N_X, N_Y, M, T, on

from seqcore import functional as F

NAMES = [
    "cross_entropy_loss_t",
    "initialize_adam",
    "lstm_backward",
    "lstm_cell_backward",
    "lstm_cell_forward",
    "lstm_forward",
    "rnn_backward",
    "rnn_cell_backward",
    "rnn_cell_forward",
    "rnn_forward",
    "sigmoid",
    "sigmoid_deriv",
    "softmax",
    "softmax_deriv",
    "softmax_output_backward",
    "tanh_deriv",
    "update_parameters_with_adam",
]


def rnn_parameters(rng):
    shapes = {"Wax": (N_A, N_X), "Waa": (N_A, N_A), "Wya": (N_Y, N_A)}
    shapes |= {"ba": (N_A, 1), "by": (N_Y, 1)}
    return {name: 0.6 * rng.standard_normal(shape) for name, shape in shapes.items()}


def lstm_parameters(rng):
    shapes = {f"W{gate}": (N_A, N_A + N_X) for gate in "fico"}
    shapes |= {f"b{gate}": (N_A, 1) for gate in "fico"} | {"Wy": (N_Y, N_A), "by": (N_Y, 1)}
    return {name: 0.6 * rng.standard_normal(shape) for name, shape in shapes.items()}


def one_hot(rng, n_steps=T):
    return np.moveaxis(np.eye(N_Y)[rng.integers(N_Y, size=(M, n_steps))], 2, 0)


def textbook_softmax(z):
    e = np.exp(z - z.max(axis=0))
    return e / e.sum(axis=0)


def textbook_rnn_cell(xt, a_prev, p):
    a = np.tanh(p["Wax"] @ xt + p["Waa"] @ a_prev + p["ba"])
    return a, textbook_softmax(p["Wya"] @ a + p["by"])


def textbook_lstm_cell(xt, a_prev, c_prev, p):
    concat = np.concatenate((a_prev, xt))
    f, i, o = (1 / (1 + np.exp(-(p[f"W{k}"] @ concat + p[f"b{k}"]))) for k in "fio")
    g = np.tanh(p["Wc"] @ concat + p["bc"])
    c = f * c_prev + i * g
    a = o * np.tanh(c)
    return a, c, textbook_softmax(p["Wy"] @ a + p["by"]), (f, i, g, o)


class Notebook:
    """The notebooks' forward and backward of a sequence in NumPy, without their mistakes."""

    def __init__(self, kind):
        self.kind, self.gates = kind, "fico"

    def forward(self, x, a0, p, c0=None):
        """Return the sequences by name, and the caches."""
        a_next, cells, n_steps = a0, [], x.shape[2]
        c_next = np.zeros(a0.shape) if c0 is None else c0
        kept = {"a": np.zeros((*a0.shape, n_steps)), "y": np.zeros((N_Y, x.shape[1], n_steps))}
        if self.kind == "lstm":
            kept["c"] = np.zeros((*a0.shape, n_steps))
        for t in range(n_steps):
            xt, a_prev, c_prev = x[:, :, t], a_next, c_next
            if self.kind == "rnn":
                a_next, y = textbook_rnn_cell(xt, a_prev, p)
                cells.append((a_next, a_prev, xt, p))
            else:
                a_next, c_next, y, (f, i, g, o) = textbook_lstm_cell(xt, a_prev, c_prev, p)
                cells.append((a_next, c_next, a_prev, c_prev, f, i, g, o, xt, p))
                kept["c"][:, :, t] = c_next
            kept["a"][:, :, t], kept["y"][:, :, t] = a_next, y
        return kept, (cells, x)

    def cell_backward(self, da, dc, cache):
        if self.kind == "rnn":
            a_next, a_prev, xt, p = cache
            dz = (1 - a_next**2) * da
            grads = {"dWax": dz @ xt.T, "dWaa": dz @ a_prev.T, "dba": dz.sum(1, keepdims=True)}
            return p["Wax"].T @ dz, p["Waa"].T @ dz, dc, grads
        _, c_next, a_prev, c_prev, f, i, g, o, xt, p = cache
        dc = dc + da * o * (1 - np.tanh(c_next) ** 2)
        dz = {"o": da * np.tanh(c_next) * o * (1 - o), "c": dc * i * (1 - g**2)}
        dz |= {"i": dc * g * i * (1 - i), "f": dc * c_prev * f * (1 - f)}
        concat = np.concatenate((a_prev, xt))
        grads = {f"dW{k}": dz[k] @ concat.T for k in self.gates}
        grads |= {f"db{k}": dz[k].sum(1, keepdims=True) for k in self.gates}
        back = sum(p[f"W{k}"].T @ dz[k] for k in self.gates)
        return back[N_A:], back[:N_A], dc * f, grads

    def backward(self, da, caches):
        n_a, m, n_steps = da.shape  # T_x comes from da
        dx = np.zeros((N_X, m, n_steps))
        da_prev, dc_prev = np.zeros((n_a, m)), np.zeros((n_a, m))
        total: dict[str, np.ndarray] = {}
        for t in reversed(range(n_steps)):
            found = self.cell_backward(da[:, :, t] + da_prev, dc_prev, caches[0][t])
            dx[:, :, t], da_prev, dc_prev, grads = found
            total = {name: total.get(name, 0.0) + value for name, value in grads.items()}
        ends = {"da0": da_prev} | ({"dc0": dc_prev} if self.kind == "lstm" else {})
        return {"dx": dx, **ends, **total}


def test_the_door_has_the_names_of_the_design():
    assert sorted(F.__all__) == NAMES
    assert all(callable(getattr(F, name)) for name in NAMES)


# --- published numbers ------------------------------------------------------------------


@pytest.fixture
def digits(place):
    """Decimals of a printed number of 8 that a dtype can show."""
    return 1e-8 if place.dtype == "float64" else 1e-6


def test_rnn_forward_reproduces_the_published_numbers(asarray, to_host, digits):
    draw = np.random.RandomState(17).randn  # what np.random.seed(17) gives
    x, a0 = asarray(draw(4, 8, 13)), asarray(draw(7, 8))
    shapes = {"Waa": (7, 7), "Wax": (7, 4), "Wya": (3, 7), "ba": (7, 1), "by": (3, 1)}
    parameters = {name: asarray(draw(*shape)) for name, shape in shapes.items()}
    a, y_pred, caches = F.rnn_forward(x, a0, parameters)
    assert a.shape == (7, 8, 13)
    assert y_pred.shape == (3, 8, 13)
    expected = [0.99999291, 0.99332189, 0.9921928, 0.99503445]
    np.testing.assert_allclose(to_host(a)[5, 2, 2:6], expected, rtol=0, atol=digits)
    expected = [0.19428, 0.14292, 0.24993, 0.00119]
    np.testing.assert_allclose(to_host(y_pred)[2, 1, 1:5], expected, rtol=0, atol=1e-5)
    assert len(caches[0]) == 13
    assert caches[1] is x


def test_lstm_forward_reproduces_the_published_numbers(asarray, to_host, digits):
    draw = np.random.RandomState(45).randn
    x, a0 = asarray(draw(4, 13, 16)), asarray(draw(3, 13))
    shapes = {f"{kind}{k}": (3, 7) if kind == "W" else (3, 1) for k in "fioc" for kind in "Wb"}
    shapes |= {"Wy": (2, 3), "by": (2, 1)}
    parameters = {name: asarray(draw(*shape)) for name, shape in shapes.items()}
    a, y, c, caches = F.lstm_forward(x, a0, parameters)
    assert a.shape == c.shape == (3, 13, 16)
    assert y.shape == (2, 13, 16)
    for got, expected in (
        (to_host(a)[2, 1, 4:6], [-0.01606022, 0.0243569]),
        (to_host(c)[2, 1, 4:6], [-0.02753855, 0.05668358]),
        (to_host(y)[1, 1, 4:6], [0.70444592, 0.70648935]),
    ):
        np.testing.assert_allclose(got, expected, rtol=0, atol=digits)
    assert len(caches[0]) == 16
    assert all(len(cache) == 10 for cache in caches[0])
    assert caches[1] is x


# --- forward and caches -----------------------------------------------------------------


@pytest.mark.parametrize("n_steps", [1, T])
def test_rnn_forward_is_the_textbook_loop(n_steps, asarray, assert_close, rng):
    parameters = rnn_parameters(rng)
    x, a0 = rng.standard_normal((N_X, M, n_steps)), rng.standard_normal((N_A, M))
    given = on(asarray, parameters)
    a, y_pred, (cells, _) = F.rnn_forward(asarray(x), asarray(a0), given)
    wanted = [(a0, None)]
    for t in range(n_steps):
        wanted.append(textbook_rnn_cell(x[..., t], wanted[-1][0], parameters))
    assert_close(a, np.stack([w[0] for w in wanted[1:]], axis=2), kind="bptt", name="a")
    assert_close(y_pred, np.stack([w[1] for w in wanted[1:]], axis=2), kind="bptt", name="y")
    assert len(cells) == n_steps
    for t, (a_next, a_prev, xt, own) in enumerate(cells):
        assert_close(a_next, wanted[t + 1][0], kind="bptt", name="a_next")
        assert_close(a_prev, wanted[t][0], kind="bptt", name="a_prev")
        assert_close(xt, x[..., t], kind="cell", name="xt")
        assert own is given


@pytest.mark.parametrize("start", ["c0", "zeros"])
@pytest.mark.parametrize("n_steps", [1, T])
def test_lstm_forward_is_the_textbook_loop(n_steps, start, asarray, assert_close, rng):
    parameters = lstm_parameters(rng)
    x, a0 = rng.standard_normal((N_X, M, n_steps)), rng.standard_normal((N_A, M))
    c0 = rng.standard_normal((N_A, M)) if start == "c0" else np.zeros((N_A, M))
    given = on(asarray, parameters)
    options = {"c0": asarray(c0)} if start == "c0" else {}
    a, y, c, (cells, _) = F.lstm_forward(asarray(x), asarray(a0), given, **options)
    wanted: list[tuple[np.ndarray, ...]] = [(a0, c0)]
    for t in range(n_steps):
        wanted.append(textbook_lstm_cell(x[..., t], *wanted[-1][:2], parameters))
    for i, (name, got) in enumerate({"a": a, "c": c, "y": y}.items()):
        assert_close(got, np.stack([w[i] for w in wanted[1:]], axis=2), kind="bptt", name=name)
    assert len(cells) == n_steps
    names = ("a_next", "c_next", "a_prev", "c_prev", "ft", "it", "cct", "ot", "xt")
    for t, cache in enumerate(cells):
        after = wanted[t + 1]
        a, c, _, gates = after
        expected = (a, c, *wanted[t][:2], *gates, x[..., t])
        *arrays, own = cache
        for name, got, value in zip(names, arrays, expected, strict=True):
            assert_close(got, value, kind="bptt", name=name)
        assert own is given


def test_rnn_cell_forward_is_the_textbook_cell(asarray, assert_close, rng):
    parameters = rnn_parameters(rng)
    xt, a_prev = rng.standard_normal((N_X, M)), rng.standard_normal((N_A, M))
    given = (asarray(xt), asarray(a_prev), on(asarray, parameters))
    a_next, yt_pred, cache = F.rnn_cell_forward(*given)
    wanted_a, wanted_y = textbook_rnn_cell(xt, a_prev, parameters)
    assert_close(a_next, wanted_a, kind="cell", name="a_next")
    assert_close(yt_pred, wanted_y, kind="cell", name="yt_pred")
    assert cache[0] is a_next
    assert cache[1] is given[1]
    assert cache[2] is given[0]
    assert cache[3] is given[2]
    assert len(cache) == 4


def test_lstm_cell_forward_is_the_textbook_cell(asarray, assert_close, rng):
    parameters = lstm_parameters(rng)
    xt, a_prev = rng.standard_normal((N_X, M)), rng.standard_normal((N_A, M))
    c_prev = rng.standard_normal((N_A, M))
    given = (asarray(xt), asarray(a_prev), asarray(c_prev), on(asarray, parameters))
    a_next, c_next, yt_pred, cache = F.lstm_cell_forward(*given)
    wanted = textbook_lstm_cell(xt, a_prev, c_prev, parameters)
    for name, got, value in zip("acy", (a_next, c_next, yt_pred), wanted[:3], strict=True):
        assert_close(got, value, kind="cell", name=name)
    for name, got, value in zip("figo", cache[4:8], wanted[3], strict=True):
        assert_close(got, value, kind="cell", name=name)
    assert cache[0] is a_next
    assert cache[1] is c_next
    assert cache[2] is given[1]
    assert cache[3] is given[2]
    assert cache[8] is given[0]
    assert cache[9] is given[3]
    assert len(cache) == 10


def test_the_cell_state_is_not_the_hidden_state(asarray, to_host, rng):
    x, a0 = asarray(rng.standard_normal((N_X, M, T))), asarray(np.zeros((N_A, M)))
    a, _, c, _ = F.lstm_forward(x, a0, on(asarray, lstm_parameters(rng)))
    assert not np.any(to_host(a) == to_host(c))


# --- backward ---------------------------------------------------------------------------

RNN_GRADS = ["dWax", "dWaa", "dba"]
LSTM_GRADS = ["dWf", "dbf", "dWi", "dbi", "dWc", "dbc", "dWo", "dbo"]


def picked(at, names):
    return {name: at[name] for name in names}


@pytest.mark.host
@pytest.mark.parametrize("n_steps", [1, 4])
def test_rnn_backward_is_the_derivative(n_steps, check_gradients, rng):
    parameters = rnn_parameters(rng)
    x, a0 = rng.standard_normal((N_X, M, n_steps)), rng.standard_normal((N_A, M))
    da = rng.standard_normal((N_A, M, n_steps))

    def loss(at):
        return np.sum(da * F.rnn_forward(at["x"], at["a0"], parameters | at)[0])

    grads = F.rnn_backward(da, F.rnn_forward(x, a0, parameters)[2])
    assert list(grads) == ["dx", "da0", *RNN_GRADS]
    at = {"x": x, "a0": a0, **picked(parameters, ["Wax", "Waa", "ba"])}
    check_gradients(loss, at, {name: grads[f"d{name}"] for name in at})


@pytest.mark.host
def test_rnn_cell_backward_is_the_derivative(check_gradients, rng):
    parameters = rnn_parameters(rng)
    xt, a_prev = rng.standard_normal((N_X, M)), rng.standard_normal((N_A, M))
    da_next = rng.standard_normal((N_A, M))

    def loss(at):
        return np.sum(da_next * F.rnn_cell_forward(at["xt"], at["a_prev"], parameters | at)[0])

    grads = F.rnn_cell_backward(da_next, F.rnn_cell_forward(xt, a_prev, parameters)[2])
    assert list(grads) == ["dxt", "da_prev", *RNN_GRADS]
    at = {"xt": xt, "a_prev": a_prev, **picked(parameters, ["Wax", "Waa", "ba"])}
    check_gradients(loss, at, {name: grads[f"d{name}"] for name in at})


@pytest.mark.host
@pytest.mark.parametrize("gate", ["i", "u"])
@pytest.mark.parametrize("n_steps", [1, 4])
def test_lstm_backward_is_the_derivative(n_steps, gate, check_gradients, rng):
    # The update gate's parameters may be called Wu, bu; the gradients follow.
    parameters = {name.replace("i", gate): p for name, p in lstm_parameters(rng).items()}
    x, a0 = rng.standard_normal((N_X, M, n_steps)), rng.standard_normal((N_A, M))
    c0, da = rng.standard_normal((N_A, M)), rng.standard_normal((N_A, M, n_steps))

    def loss(at):
        a, *_ = F.lstm_forward(at["x"], at["a0"], parameters | at, c0=at["c0"])
        return np.sum(da * a)

    grads = F.lstm_backward(da, F.lstm_forward(x, a0, parameters, c0=c0)[3])
    gates = [name.replace("i", gate) for name in LSTM_GRADS]
    assert sorted(grads) == sorted(["dx", "da0", "dc0", *gates])
    at = {"x": x, "a0": a0, "c0": c0, **picked(parameters, [name[1:] for name in gates])}
    check_gradients(loss, at, {name: grads[f"d{name}"] for name in at})


@pytest.mark.host
@pytest.mark.parametrize("gate", ["i", "u"])
def test_lstm_cell_backward_is_the_derivative(gate, check_gradients, rng):
    parameters = {name.replace("i", gate): p for name, p in lstm_parameters(rng).items()}
    xt = rng.standard_normal((N_X, M))
    a_prev, c_prev, da_next, dc_next = rng.standard_normal((4, N_A, M))

    def loss(at):
        a, c, _, _ = F.lstm_cell_forward(at["xt"], at["a_prev"], at["c_prev"], parameters | at)
        return np.sum(da_next * a) + np.sum(dc_next * c)

    cache = F.lstm_cell_forward(xt, a_prev, c_prev, parameters)[3]
    grads = F.lstm_cell_backward(da_next, dc_next, cache)
    gates = [name.replace("i", gate) for name in LSTM_GRADS]
    assert sorted(grads) == sorted(["dxt", "da_prev", "dc_prev", *gates])
    at = {"xt": xt, "a_prev": a_prev, "c_prev": c_prev}
    at |= picked(parameters, [name[1:] for name in gates])
    check_gradients(loss, at, {name: grads[f"d{name}"] for name in at})


def cross_entropy(y, y_pred):
    """The summed loss, step by step, as the notebooks add it up."""
    return sum(np.sum(F.cross_entropy_loss_t(y[..., t], y_pred[..., t])) for t in range(y.shape[2]))


@pytest.mark.host
@pytest.mark.parametrize("n_steps", [1, 4])
def test_rnn_gradients_from_the_loss_are_its_derivative(n_steps, check_gradients, rng):
    parameters, y = rnn_parameters(rng), one_hot(rng, n_steps)
    x, a0 = rng.standard_normal((N_X, M, n_steps)), rng.standard_normal((N_A, M))

    def loss(at):
        return cross_entropy(y, F.rnn_forward(at["x"], at["a0"], picked(at, parameters))[1])

    a, y_pred, caches = F.rnn_forward(x, a0, parameters)
    grads = F.softmax_output_backward(y, y_pred, a, parameters)
    assert list(grads) == ["da", "dWya", "dby"]
    grads |= F.rnn_backward(grads["da"], caches)
    at = {"x": x, "a0": a0, **parameters}
    check_gradients(loss, at, {name: grads[f"d{name}"] for name in at})


@pytest.mark.host
@pytest.mark.parametrize("n_steps", [1, 4])
def test_lstm_gradients_from_the_loss_are_its_derivative(n_steps, check_gradients, rng):
    parameters, y = lstm_parameters(rng), one_hot(rng, n_steps)
    x, a0 = rng.standard_normal((N_X, M, n_steps)), rng.standard_normal((N_A, M))
    c0 = rng.standard_normal((N_A, M))

    def loss(at):
        forward = F.lstm_forward(at["x"], at["a0"], picked(at, parameters), c0=at["c0"])
        return cross_entropy(y, forward[1])

    a, y_pred, _, caches = F.lstm_forward(x, a0, parameters, c0=c0)
    grads = F.softmax_output_backward(y, y_pred, a, parameters)
    assert list(grads) == ["da", "dWy", "dby"]
    grads |= F.lstm_backward(grads["da"], caches)
    at = {"x": x, "a0": a0, "c0": c0, **parameters}
    check_gradients(loss, at, {name: grads[f"d{name}"] for name in at})


@pytest.mark.host
@pytest.mark.parametrize("kind", ["rnn", "lstm"])
def test_cell_gradients_from_the_loss_are_its_derivative(kind, check_gradients, rng):
    parameters = rnn_parameters(rng) if kind == "rnn" else lstm_parameters(rng)
    y = one_hot(rng, 1)
    at = {"xt": rng.standard_normal((N_X, M)), "a_prev": rng.standard_normal((N_A, M))}
    if kind == "lstm":
        at["c_prev"] = rng.standard_normal((N_A, M))
    states = list(at)
    forward = F.rnn_cell_forward if kind == "rnn" else F.lstm_cell_forward

    def loss(at):
        *_, yt_pred, _ = forward(*(at[name] for name in states), picked(at, parameters))
        return np.sum(F.cross_entropy_loss_t(y[..., 0], yt_pred))

    a_next, *_, yt_pred, cache = forward(*at.values(), parameters)
    grads = F.softmax_output_backward(y, yt_pred[..., None], a_next[..., None], parameters)
    da_next = grads["da"][..., 0]
    if kind == "rnn":
        grads |= F.rnn_cell_backward(da_next, cache)
    else:
        grads |= F.lstm_cell_backward(da_next, np.zeros_like(da_next), cache)
    at |= parameters
    check_gradients(loss, at, {name: grads[f"d{name}"] for name in at})


def test_rnn_backward_is_its_cells_chained(xp, asarray, assert_close, to_host, rng):
    x, a0 = asarray(rng.standard_normal((N_X, M, T))), asarray(rng.standard_normal((N_A, M)))
    da = asarray(rng.standard_normal((N_A, M, T)))
    *_, caches = F.rnn_forward(x, a0, on(asarray, rnn_parameters(rng)))
    whole = F.rnn_backward(da, caches)
    da_prev, dxs, total = xp.zeros_like(a0), [], {}
    for t in reversed(range(T)):
        grads = F.rnn_cell_backward(da[..., t] + da_prev, caches[0][t])
        dxs.insert(0, grads.pop("dxt"))
        da_prev = grads.pop("da_prev")
        total = {name: total.get(name, 0.0) + value for name, value in grads.items()}
    chained = {"dx": xp.stack(dxs, axis=-1), "da0": da_prev, **total}
    assert chained.keys() == whole.keys()
    for name, value in chained.items():
        assert_close(whole[name], to_host(value), kind="bptt", name=name)


def test_lstm_backward_is_its_cells_chained(xp, asarray, assert_close, to_host, rng):
    x, a0 = asarray(rng.standard_normal((N_X, M, T))), asarray(rng.standard_normal((N_A, M)))
    c0, da = asarray(rng.standard_normal((N_A, M))), asarray(rng.standard_normal((N_A, M, T)))
    *_, caches = F.lstm_forward(x, a0, on(asarray, lstm_parameters(rng)), c0=c0)
    whole = F.lstm_backward(da, caches)
    da_prev, dc_prev, dxs, total = xp.zeros_like(a0), xp.zeros_like(c0), [], {}
    for t in reversed(range(T)):
        grads = F.lstm_cell_backward(da[..., t] + da_prev, dc_prev, caches[0][t])
        dxs.insert(0, grads.pop("dxt"))
        da_prev, dc_prev = grads.pop("da_prev"), grads.pop("dc_prev")
        total = {name: total.get(name, 0.0) + value for name, value in grads.items()}
    chained = {"dx": xp.stack(dxs, axis=-1), "da0": da_prev, "dc0": dc_prev, **total}
    assert chained.keys() == whole.keys()
    for name, value in chained.items():
        assert_close(whole[name], to_host(value), kind="bptt", name=name)


# --- a da of fewer steps than x ---------------------------------------------------------


def draw_sequence(kind, n_steps, rng):
    """Draw x, a0, parameters and options of a forward, in NumPy."""
    x, a0 = rng.standard_normal((N_X, M, n_steps)), rng.standard_normal((N_A, M))
    if kind == "rnn":
        return x, a0, rnn_parameters(rng), {}
    return x, a0, lstm_parameters(rng), {"c0": rng.standard_normal((N_A, M))}


@pytest.mark.parametrize("n_steps", [1, 4])
@pytest.mark.parametrize("kind", ["rnn", "lstm"])
def test_backward_takes_the_first_steps_as_the_notebooks_do(
    kind, n_steps, asarray, assert_close, rng
):
    x, a0, parameters, options = draw_sequence(kind, T, rng)
    da = rng.standard_normal((N_A, M, n_steps))
    notebook = Notebook(kind)
    wanted = notebook.backward(da, notebook.forward(x, a0, parameters, **options)[1])
    given = {name: asarray(value) for name, value in options.items()}
    forward = getattr(F, f"{kind}_forward")
    *_, caches = forward(asarray(x), asarray(a0), on(asarray, parameters), **given)
    got = getattr(F, f"{kind}_backward")(asarray(da), caches)
    assert sorted(got) == sorted(wanted)
    assert got["dx"].shape == (N_X, M, n_steps)
    for name, value in wanted.items():
        assert_close(got[name], value, kind="bptt", name=name)


@pytest.mark.host
@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("kind", ["rnn", "lstm"])
def test_backward_of_the_first_steps_is_the_derivative(kind, n_steps, check_gradients, rng):
    x, a0, parameters, options = draw_sequence(kind, T, rng)
    da = rng.standard_normal((N_A, M, n_steps))
    forward = getattr(F, f"{kind}_forward")

    def loss(at):
        given = {name: at[name] for name in options}
        whole = np.concatenate((at["x"], x[..., n_steps:]), axis=2)
        a = forward(whole, at["a0"], parameters | at, **given)[0]
        return np.sum(da * a[..., :n_steps])

    grads = getattr(F, f"{kind}_backward")(da, forward(x, a0, parameters, **options)[-1])
    own = {name: p for name, p in parameters.items() if f"d{name}" in grads}
    at = {"x": x[..., :n_steps], "a0": a0, **options, **own}
    assert sorted(f"d{name}" for name in at) == sorted(grads)
    check_gradients(loss, at, grads={name: grads[f"d{name}"] for name in at})


@pytest.mark.host
@pytest.mark.parametrize("kind", ["rnn", "lstm"])
def test_a_loss_of_the_first_steps_trains_by_the_whole_door(kind, check_gradients, rng):
    x, a0, parameters, options = draw_sequence(kind, T, rng)
    y, n_steps = one_hot(rng, 3), 3
    forward = getattr(F, f"{kind}_forward")

    def loss(at):
        return cross_entropy(y, forward(x, a0, at, **options)[1][..., :n_steps])

    a, y_pred, *_, caches = forward(x, a0, parameters, **options)
    first = (y, y_pred[..., :n_steps], a[..., :n_steps])
    grads = F.softmax_output_backward(*first, parameters)
    grads |= getattr(F, f"{kind}_backward")(grads["da"], caches)
    check_gradients(loss, parameters, {name: grads[f"d{name}"] for name in parameters})


@pytest.mark.parametrize("kind", ["rnn", "lstm"])
def test_a_da_of_more_steps_than_the_caches_or_of_none_is_refused(kind, rnn, lstm, asarray):
    *_, caches = getattr(F, f"{kind}_forward")(**(rnn if kind == "rnn" else lstm))
    backward = getattr(F, f"{kind}_backward")
    for n_steps in (0, T + 1):
        text = (
            f"{kind}_backward: da has shape (5, 6, {n_steps}), expected (n_a, m, T_x) with T_x "
            "from 1 to 7, the steps of the caches"
        )
        with pytest.raises(ValueError, match=exactly(text)):
            backward(asarray(np.zeros((N_A, M, n_steps))), caches)
    for shape in ((4, M, 3), (N_A, 1, 3), (N_A, M)):
        text = f"{kind}_backward: da has shape {shape}, expected (n_a, m, T_x) = (5, 6, "
        with pytest.raises(ValueError, match=rf"^{re.escape(text)}[37]\)$"):
            backward(asarray(np.zeros(shape)), caches)


# --- what caches share ------------------------------------------------------------------


def writable(array):
    """Tell whether a test may write into an array of its library."""
    if isinstance(array, np.ndarray):
        return array.flags.writeable
    return type(array).__module__.partition(".")[0] in ("torch", "array_api_strict")


def places_of(kept, given, caches):
    """Return every array around a forward by name: given, returned and in the caches."""
    found = {f"returned {name}": array for name, array in kept.items()} | given
    for t, cache in enumerate(caches[0]):
        found |= {f"cache {t}, entry {i}": array for i, array in enumerate(cache[:-1])}
    return found


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("kind", ["rnn", "lstm"])
def test_a_write_before_backward_does_what_it_does_in_the_notebooks(
    kind, n_steps, asarray, assert_close, to_host, rng
):
    x, a0, parameters, options = draw_sequence(kind, n_steps, rng)
    da, notebook = rng.standard_normal((N_A, M, n_steps)), Notebook(kind)
    names = {"rnn": "ay", "lstm": "ayc"}[kind]
    forward, backward = getattr(F, f"{kind}_forward"), getattr(F, f"{kind}_backward")

    def both():
        """Both forwards, each with every array around it by name."""
        theirs = {name: np.array(v) for name, v in {"x": x, "a0": a0, **options}.items()}
        p = {name: np.array(value) for name, value in parameters.items()}
        kept, caches = notebook.forward(theirs["x"], theirs["a0"], p, theirs.get("c0"))
        first = (p, caches, places_of(kept, theirs | p, caches))
        ours = on(asarray, theirs)
        p = on(asarray, p)
        more = {name: ours[name] for name in options}
        *sequences, caches = forward(ours["x"], ours["a0"], p, **more)
        kept = dict(zip(names, sequences, strict=True))
        return first, (p, caches, places_of(kept, ours | p, caches))

    def compare(first, second, what):
        wanted, got = notebook.backward(da, first[1]), backward(asarray(da), second[1])
        for name, value in wanted.items():
            assert_close(got[name], value, kind="bptt", name=f"{name} after {what}")
        return {name: to_host(value) for name, value in got.items()}

    first, second = both()
    clean, changed = compare(first, second, "nothing"), set()
    may_write = {where: writable(array) for where, array in second[2].items()}
    for where in [where for where, may in may_write.items() if may]:
        first, second = both()
        for _, _, arrays in (first, second):
            arrays[where][...] = 0.3
        after = compare(first, second, f"a write into {where}")
        if any(not np.array_equal(after[name], clean[name]) for name in clean):
            changed.add(where)
    assert not any(where.startswith("returned") for where in changed)
    if may_write["x"]:  # the others do count, as documented
        assert {"x", "a0", *options} <= changed
    # Another array under the same name: the dict is the caller's.
    for name in parameters if any(may_write.values()) else list(parameters)[:1]:
        first, second = both()
        first[0][name] = first[0][name] * 2.0
        second[0][name] = second[0][name] * 2.0
        compare(first, second, f"a new {name}")


@pytest.mark.host
def test_results_share_their_memory_with_nothing_but_the_caches(rng):
    x, a0, p, _ = draw_sequence("rnn", 3, rng)
    _, _, q, _ = draw_sequence("lstm", 3, rng)
    y, n = one_hot(rng, 3), rng.standard_normal((N_A, M))
    c0 = rng.standard_normal((N_A, M))
    a, y_pred, caches = F.rnn_forward(x, a0, p)
    *_, long = F.lstm_forward(x, a0, q, c0=c0)
    p_grads = {f"d{name}": np.array(value) for name, value in p.items()}
    v, s = F.initialize_adam(p)
    calls = {  # a call, its arguments, and which of its results hold or are arguments
        "softmax": ([n], ()),
        "sigmoid": ([n], ()),
        "softmax_deriv": ([n], ()),
        "sigmoid_deriv": ([n], ()),
        "tanh_deriv": ([n], ()),
        "cross_entropy_loss_t": ([y[..., 0], y_pred[..., 0]], ()),
        "rnn_cell_forward": ([x[..., 0], a0, p], (2,)),
        "rnn_forward": ([x, a0, p], (2,)),
        "rnn_cell_backward": ([n, caches[0][0]], ()),
        "rnn_backward": ([a, caches], ()),
        "lstm_cell_forward": ([x[..., 0], a0, n, q], (3,)),
        "lstm_forward": ([x, a0, q], (3,)),
        "lstm_cell_backward": ([n, c0, long[0][0]], ()),
        "lstm_backward": ([a, long], ()),
        "softmax_output_backward": ([y, y_pred, a, p], ()),
        "initialize_adam": ([p], ()),
        "update_parameters_with_adam": ([p, p_grads, v, s, 1], ()),
    }
    assert sorted(calls) == NAMES
    for name, (arguments, apart) in calls.items():
        given = leaves(arguments)
        before = [np.array(array) for array in given]
        results = getattr(F, name)(*arguments)
        results = results if isinstance(results, tuple) else (results,)
        own = leaves([result for i, result in enumerate(results) if i not in apart])
        assert own
        for i, result in enumerate(own):
            for other in given + own[:i]:
                assert not np.shares_memory(result, other), name
        if name.endswith("_forward") and "cell" not in name:
            for result in own:
                assert not any(np.shares_memory(result, other) for other in leaves(results[-1]))
        for result in own:
            result[...] = 7.0
        for array, old in zip(given, before, strict=True):
            np.testing.assert_array_equal(array, old, err_msg=name)


def test_cells_forward_one_by_one_are_the_sequence(asarray, assert_close, to_host, rng):
    x, a = asarray(rng.standard_normal((N_X, M, T))), asarray(rng.standard_normal((N_A, M)))
    c, parameters = asarray(np.zeros((N_A, M))), on(asarray, lstm_parameters(rng))
    whole_a, whole_y, whole_c = map(to_host, F.lstm_forward(x, a, parameters)[:3])
    for t in range(T):
        a, c, y, _ = F.lstm_cell_forward(x[..., t], a, c, parameters)
        assert_close(a, whole_a[..., t], kind="bptt", name="a")
        assert_close(c, whole_c[..., t], kind="bptt", name="c")
        assert_close(y, whole_y[..., t], kind="bptt", name="y")


@pytest.mark.parametrize("kind", ["rnn", "lstm"])
def test_gradients_are_the_same_on_every_library(kind, asarray, assert_close, rng):
    parameters = rnn_parameters(rng) if kind == "rnn" else lstm_parameters(rng)
    x, a0 = rng.standard_normal((N_X, M, T)), rng.standard_normal((N_A, M))

    def run(x, a0, y, parameters):
        if kind == "rnn":
            a, y_pred, caches = F.rnn_forward(x, a0, parameters)
        else:
            a, y_pred, _, caches = F.lstm_forward(x, a0, parameters)
        grads = F.softmax_output_backward(y, y_pred, a, parameters)
        backward = F.rnn_backward if kind == "rnn" else F.lstm_backward
        return grads | backward(grads["da"], caches)

    y = one_hot(rng)
    got = run(asarray(x), asarray(a0), asarray(y), on(asarray, parameters))
    for name, wanted in run(x, a0, y, parameters).items():
        assert_close(got[name], wanted, kind="bptt", name=name)


@pytest.mark.parametrize("kind", ["rnn", "lstm"])
def test_arguments_stay_as_they_are(kind, asarray, to_host, rng):
    parameters = on(asarray, rnn_parameters(rng) if kind == "rnn" else lstm_parameters(rng))
    x, a0 = asarray(rng.standard_normal((N_X, M, T))), asarray(rng.standard_normal((N_A, M)))
    y, da = asarray(one_hot(rng)), asarray(rng.standard_normal((N_A, M, T)))
    forward, backward = getattr(F, f"{kind}_forward"), getattr(F, f"{kind}_backward")
    a, y_pred, *_, caches = forward(x, a0, parameters)
    kept = [x, a0, y, da, a, y_pred, *parameters.values()]
    kept += [value for cache in caches[0] for value in cache[:-1]]
    before, names = [to_host(value) for value in kept], list(parameters)
    for _ in range(2):  # caches may be used twice
        backward(da, caches)
        F.softmax_output_backward(y, y_pred, a, parameters)
    assert list(parameters) == names
    for old, new in zip(before, kept, strict=True):
        np.testing.assert_array_equal(to_host(new), old)


@pytest.mark.host
def test_read_only_arrays_are_enough(rng):
    def frozen(value):
        value.flags.writeable = False
        return value

    x, a0 = frozen(rng.standard_normal((N_X, M, T))), frozen(rng.standard_normal((N_A, M)))
    da = frozen(rng.standard_normal((N_A, M, T)))
    parameters = {name: frozen(p) for name, p in lstm_parameters(rng).items()}
    F.lstm_backward(da, F.lstm_forward(x, a0, parameters)[3])
    parameters = {name: frozen(p) for name, p in rnn_parameters(rng).items()}
    grads = F.rnn_backward(da, F.rnn_forward(x, a0, parameters)[2])
    v, s = F.initialize_adam(parameters)
    for moments in (v, s):
        for value in moments.values():
            frozen(value)
    F.update_parameters_with_adam(parameters, grads, v, s, 1)


# --- activations and the loss -----------------------------------------------------------


@pytest.mark.parametrize("shape", [(N_Y, M), (N_Y, M, T)])
def test_softmax_is_over_axis_0(shape, asarray, assert_close, rng):
    x = rng.standard_normal(shape)
    assert_close(F.softmax(asarray(x)), textbook_softmax(x), kind="cell")


def test_softmax_and_sigmoid_take_extreme_values(asarray, assert_close):
    x = np.asarray([[1e30, -1e30, 0.0], [0.0, 1e30, 0.0]])
    assert_close(F.softmax(asarray(x)), np.asarray([[1, 0, 0.5], [0, 1, 0.5]]), kind="cell")
    assert_close(F.sigmoid(asarray(x)), np.asarray([[1, 0, 0.5], [0.5, 1, 0.5]]), kind="cell")


@pytest.mark.host
@pytest.mark.parametrize(
    ("function", "derivative"),
    [(F.sigmoid, F.sigmoid_deriv), (np.tanh, F.tanh_deriv)],
    ids=["sigmoid", "tanh"],
)
def test_derivatives_take_the_activated_value(function, derivative, check_gradients, rng):
    x, d = rng.standard_normal((2, N_A, M))
    grads = {"x": d * derivative(function(x))}
    check_gradients(lambda at: np.sum(d * function(at["x"])), {"x": x}, grads)


@pytest.mark.host
def test_softmax_deriv_is_the_jacobian(rng):
    x, step = rng.standard_normal((N_Y, M)), 1e-5
    jacobian = F.softmax_deriv(F.softmax(x))
    assert jacobian.shape == (N_Y, N_Y, M)
    for j in range(N_Y):
        move = step * np.eye(N_Y)[:, [j]]
        numeric = (F.softmax(x + move) - F.softmax(x - move)) / (2 * step)
        np.testing.assert_allclose(jacobian[:, j], numeric, rtol=0, atol=1e-9)


def test_softmax_deriv_refuses_more_than_one_step(asarray):
    text = "softmax_deriv: s has shape (3, 6, 7), expected (n, m)"
    with pytest.raises(ValueError, match=exactly(text)):
        F.softmax_deriv(asarray(np.zeros((N_Y, M, T))))


def test_derivatives_are_the_same_on_every_library(asarray, assert_close, rng):
    s = textbook_softmax(rng.standard_normal((N_Y, M)))
    for function in (F.softmax_deriv, F.sigmoid_deriv, F.tanh_deriv):
        assert_close(function(asarray(s)), function(s), kind="cell", name=function.__name__)


def test_cross_entropy_is_that_of_each_example(asarray, assert_close, rng):
    y, p = one_hot(rng)[..., 0], textbook_softmax(rng.standard_normal((N_Y, M)))
    got = F.cross_entropy_loss_t(asarray(y), asarray(p))
    assert_close(got, -np.log(np.sum(y * p, axis=0)), kind="cell")


def test_cross_entropy_of_the_impossible_is_finite(place, asarray, to_host):
    y, p = np.asarray([[1.0, 0.0], [0.0, 1.0]]), np.asarray([[0.0, 0.0], [1.0, 1.0]])
    got = to_host(F.cross_entropy_loss_t(asarray(y), asarray(p)))
    np.testing.assert_allclose(got, [-np.log(np.finfo(place.dtype).smallest_normal), 0], rtol=1e-6)


def test_extreme_inputs_give_finite_results(asarray, to_host, rng):
    x = asarray(np.where(rng.standard_normal((N_X, M, T)) > 0, 1e30, -1e30))
    a0, da = asarray(np.zeros((N_A, M))), asarray(np.ones((N_A, M, T)))
    parameters = on(asarray, lstm_parameters(rng))
    parameters["by"] = 1e30 * parameters["by"]
    a, y, c, caches = F.lstm_forward(x, a0, parameters)
    results = {"a": a, "y": y, "c": c, **F.lstm_backward(da, caches)}
    for name, value in results.items():
        assert np.all(np.isfinite(to_host(value))), name
    for cache in caches[0]:
        for gate in (cache[4], cache[5], cache[7]):
            assert np.all(np.isin(to_host(gate), [0.0, 1.0]))


# --- Adam -------------------------------------------------------------------------------


def test_adam_starts_from_zeros(asarray, assert_close, rng):
    parameters = rnn_parameters(rng)
    v, s = F.initialize_adam(on(asarray, parameters))
    for moments in (v, s):
        assert list(moments) == [f"d{name}" for name in parameters]
        for name, p in parameters.items():
            assert_close(moments[f"d{name}"], np.zeros_like(p), kind="cell", name=name)


@pytest.mark.parametrize("epsilon_root", [0.0, 1e-3])
def test_adam_is_the_papers_algorithm(epsilon_root, asarray, assert_close, to_host, rng):
    parameters = {"W1": rng.standard_normal((N_A, N_X)), "anything": rng.standard_normal((N_Y, 1))}
    rate, beta1, beta2, epsilon = 0.03, 0.8, 0.95, 1e-2
    moving = on(asarray, parameters)
    v, s = F.initialize_adam(moving)
    m1 = {name: np.zeros_like(p) for name, p in parameters.items()}
    m2 = {name: np.zeros_like(p) for name, p in parameters.items()}
    for t in range(1, 6):
        grads = {name: rng.standard_normal(p.shape) for name, p in parameters.items()}
        given = {f"d{name}": asarray(g) for name, g in grads.items()}
        before = [to_host(a) for d in (moving, given, v, s) for a in d.values()]
        after = F.update_parameters_with_adam(
            moving, given, v, s, t, rate, beta1, beta2, epsilon, epsilon_root=epsilon_root
        )
        kept = [a for d in (moving, given, v, s) for a in d.values()]
        for old, new in zip(before, kept, strict=True):
            np.testing.assert_array_equal(to_host(new), old)
        moving, v, s = after
        for name, g in grads.items():
            m1[name] = beta1 * m1[name] + (1 - beta1) * g
            m2[name] = beta2 * m2[name] + (1 - beta2) * g**2
            m1_hat, m2_hat = m1[name] / (1 - beta1**t), m2[name] / (1 - beta2**t)
            root = np.sqrt(m2_hat + epsilon_root) + epsilon
            parameters[name] = parameters[name] - rate * m1_hat / root
            assert_close(moving[name], parameters[name], kind="bptt", name=name)
            assert_close(v[f"d{name}"], m1[name], kind="bptt", name=f"v {name}")
            assert_close(s[f"d{name}"], m2[name], kind="bptt", name=f"s {name}")


def test_adam_has_the_notebooks_defaults(asarray, assert_close):
    p = {"w": asarray(np.asarray([[2.0]]))}
    g = {"dw": asarray(np.asarray([[3.0]]))}
    after, v, s = F.update_parameters_with_adam(p, g, *F.initialize_adam(p), 1)
    assert_close(after["w"], np.asarray([[2.0 - 0.01 * 3.0 / (3.0 + 1e-8)]]), kind="cell")
    assert_close(v["dw"], np.asarray([[0.1 * 3.0]]), kind="cell")
    assert_close(s["dw"], np.asarray([[0.001 * 9.0]]), kind="bptt")


def test_adam_leaves_what_has_no_gradient(asarray, assert_close, rng):
    parameters = on(asarray, rnn_parameters(rng))
    # dx and da0 belong to no parameter; Wya and by have no gradient.
    grads = {f"d{name}": parameters[name] for name in ("Wax", "Waa", "ba")}
    grads |= {"dx": asarray(np.ones((N_X, M, T))), "da0": asarray(np.ones((N_A, M)))}
    before = F.initialize_adam(parameters)
    after, v, s = F.update_parameters_with_adam(parameters, grads, *before, 1)
    assert list(after) == list(parameters)
    assert list(v) == list(s) == [f"d{name}" for name in parameters]
    assert after["Wya"] is parameters["Wya"]
    assert after["by"] is parameters["by"]
    for name in ("dWya", "dby"):
        assert (v[name] is before[0][name], s[name] is before[1][name]) == (True, True)
    assert after["Wax"] is not parameters["Wax"]
    assert_close(v["dWya"], np.zeros((N_Y, N_A)), kind="cell")
    after, _, _ = F.update_parameters_with_adam(parameters, {}, v, s, 2)
    assert all(after[name] is p for name, p in parameters.items())


def test_t_holds_for_all_that_have_a_gradient_and_a_late_one_has_its_own(asarray, assert_close):
    ones = {"head": asarray(np.ones((2, 1))), "late": asarray(np.ones((2, 1)))}
    grads = {f"d{name}": value for name, value in ones.items()}
    parameters, (v, s) = dict(ones), F.initialize_adam(ones)
    for t in range(1, 4):
        parameters, v, s = F.update_parameters_with_adam(
            parameters, {"dhead": grads["dhead"]}, v, s, t, 0.125
        )
    own, _, _ = F.update_parameters_with_adam(
        parameters, {"dlate": grads["dlate"]}, v, s, 1, 0.125, epsilon=1e-30
    )
    assert_close(own["late"], np.full((2, 1), 0.875), kind="bptt")
    assert own["head"] is parameters["head"]
    # With the t of the others its step is longer: (1 - 0.9) / (1 - 0.9^4) over a root.
    shared, _, _ = F.update_parameters_with_adam(parameters, grads, v, s, 4, 0.125, epsilon=1e-30)
    step = (0.1 / (1 - 0.9**4)) / np.sqrt(0.001 / (1 - 0.999**4))
    assert_close(shared["late"], np.full((2, 1), 1 - 0.125 * step), kind="bptt")


def test_adam_names_what_is_wrong(asarray, rng):
    parameters = on(asarray, rnn_parameters(rng))
    grads = {f"d{name}": p for name, p in parameters.items()}
    v, s = F.initialize_adam(parameters)
    place = "update_parameters_with_adam"
    for t, kind, text in (
        (0, ValueError, f"{place}: t is 0, expected at least 1"),
        (-3, ValueError, f"{place}: t is -3, expected at least 1"),
        (1.5, TypeError, f"{place}: t is 1.5, expected a whole number"),
    ):
        with pytest.raises(kind, match=exactly(text)):
            F.update_parameters_with_adam(parameters, grads, v, s, t)
    less = {name: value for name, value in s.items() if name != "dby"}
    with pytest.raises(ValueError, match=exactly(f"{place}: s has no 'dby'; see initialize_adam")):
        F.update_parameters_with_adam(parameters, grads, v, less, 1)
    text = f"{place}: dWax has shape (5, 5), expected (5, 2)"
    with pytest.raises(ValueError, match=exactly(text)):
        F.update_parameters_with_adam(parameters, grads | {"dWax": grads["dWaa"]}, v, s, 1)
    # NumPy would broadcast a moment of the wrong shape, and the parameter with it.
    text = f"{place}: v['dby'] has shape (3, 2), expected (3, 1)"
    with pytest.raises(ValueError, match=exactly(text)):
        F.update_parameters_with_adam(
            parameters, grads, v | {"dby": asarray(np.zeros((3, 2)))}, s, 1
        )
    for wrong in ({"parameters": None}, {"grads": None}, {"v": [v]}, {"s": None}):
        given = {"parameters": parameters, "grads": grads, "v": v, "s": s, "t": 1} | wrong
        (name, value), *_ = wrong.items()
        text = f"{place}: {name} is a {type(value).__name__}, expected a dict"
        with pytest.raises(TypeError, match=exactly(text)):
            F.update_parameters_with_adam(**given)
    with pytest.raises(ValueError, match=r"beta1 is 1\.5|b1 is 1\.5"):
        F.update_parameters_with_adam(parameters, grads, v, s, 1, beta1=1.5)
    with pytest.raises(ValueError, match="eps and eps_root are both 0"):
        F.update_parameters_with_adam(parameters, grads, v, s, 1, epsilon=0.0)


# --- training as the notebooks do it ----------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("kind", ["rnn", "lstm"])
def test_a_notebook_loop_lowers_the_loss(kind, asarray, to_host, rng):
    parameters = on(asarray, rnn_parameters(rng) if kind == "rnn" else lstm_parameters(rng))
    # The class to name is which third of its range the input was in one step ago.
    signal = rng.uniform(0, N_Y, size=(M, T))
    classes = np.roll(np.floor(signal).astype(int), 1, axis=1)
    y = asarray(np.moveaxis(np.eye(N_Y)[classes], 2, 0))
    x = asarray(np.stack([signal - N_Y / 2, np.ones_like(signal)]))
    a0 = asarray(np.zeros((N_A, M)))
    v, s = F.initialize_adam(parameters)
    losses = []
    for t in range(1, 41):
        if kind == "rnn":
            a, y_pred, caches = F.rnn_forward(x, a0, parameters)
        else:
            a, y_pred, _, caches = F.lstm_forward(x, a0, parameters)
        losses.append(
            sum(
                float(np.sum(to_host(F.cross_entropy_loss_t(y[..., k], y_pred[..., k]))))
                for k in range(T)
            )
        )
        gradients = F.softmax_output_backward(y, y_pred, a, parameters)
        backward = F.rnn_backward if kind == "rnn" else F.lstm_backward
        gradients |= backward(gradients["da"], caches)
        parameters, v, s = F.update_parameters_with_adam(
            parameters, gradients, v, s, t, learning_rate=0.05
        )
    assert losses[-1] < 0.5 * losses[0]


# --- errors -----------------------------------------------------------------------------


@pytest.fixture
def rnn(asarray, rng):
    """x, a0 and parameters that are right, for a test to spoil."""
    x, a0 = rng.standard_normal((N_X, M, T)), rng.standard_normal((N_A, M))
    return {"x": asarray(x), "a0": asarray(a0), "parameters": on(asarray, rnn_parameters(rng))}


@pytest.fixture
def lstm(asarray, rng):
    x, a0 = rng.standard_normal((N_X, M, T)), rng.standard_normal((N_A, M))
    return {"x": asarray(x), "a0": asarray(a0), "parameters": on(asarray, lstm_parameters(rng))}


def test_a_missing_parameter_is_named(rnn, lstm):
    del rnn["parameters"]["ba"]
    text = "rnn_forward: parameter 'ba' is missing; got Wax, Waa, Wya, by"
    with pytest.raises(ValueError, match=exactly(text)):
        F.rnn_forward(**rnn)
    text = "rnn_cell_forward: parameter 'ba' is missing; got Wax, Waa, Wya, by"
    with pytest.raises(ValueError, match=exactly(text)):
        F.rnn_cell_forward(rnn["x"][..., 0], rnn["a0"], rnn["parameters"])
    del lstm["parameters"]["Wi"]
    text = "lstm_forward: parameter 'Wi' is missing; got Wf, Wc, Wo, bf, bi, bc, bo, Wy, by"
    with pytest.raises(ValueError, match=exactly(text)):
        F.lstm_forward(**lstm)


@pytest.mark.parametrize(
    ("added", "given"),
    [
        (["Wu"], "Wi and bi and Wu"),
        (["bu"], "Wi and bi and bu"),
        (["Wu", "bu"], "Wi and bi and Wu and bu"),
    ],
)
def test_the_input_gate_under_both_of_its_names_is_refused(added, given, lstm):
    x, a0, parameters = lstm.values()
    _, _, _, cache = F.lstm_cell_forward(x[..., 0], a0, a0, parameters)
    _, _, _, caches = F.lstm_forward(**lstm)
    parameters |= {name: parameters[name.replace("u", "i")] for name in added}
    for call, place in (
        (partial(F.lstm_cell_forward, x[..., 0], a0, a0, parameters), "lstm_cell_forward"),
        (partial(F.lstm_forward, **lstm), "lstm_forward"),
        (partial(F.lstm_cell_backward, a0, a0, cache), "lstm_cell_backward"),
        (partial(F.lstm_backward, a0[..., None], caches), "lstm_backward"),
    ):
        text = f"parameters have {given}, which are names of the same, expected one of them"
        with pytest.raises(ValueError, match=exactly(f"{place}: {text}")):
            call()


def test_the_output_layer_under_both_of_its_names_is_refused(rnn):
    a, y_pred, _ = F.rnn_forward(**rnn)
    parameters = rnn["parameters"] | {"Wy": rnn["parameters"]["Wya"]}
    F.rnn_forward(rnn["x"], rnn["a0"], parameters)  # it knows no Wy
    text = "parameters have Wya and Wy, which are names of the same, expected one of them"
    with pytest.raises(ValueError, match=exactly(f"softmax_output_backward: {text}")):
        F.softmax_output_backward(y_pred, y_pred, a, parameters)


def test_parameters_that_nobody_reads_are_no_error(rnn, asarray):
    rnn["parameters"]["notes"] = asarray(np.zeros(1))
    F.rnn_forward(**rnn)


WRONG_RNN = [
    ("x", (M, T), "x has shape (6, 7), expected (n_x, m, T_x)"),
    ("x", (N_X, M, 0), "x has shape (2, 6, 0), expected (n_x, m, T_x) with T_x at least 1"),
    ("x", (N_X, 0, T), "x has shape (2, 0, 7), expected (n_x, m, T_x) with m at least 1"),
    ("a0", (N_A, 1), "a0 has shape (5, 1), expected (n_a, m)"),
    ("Wax", (N_X, N_A), "Wax has shape (2, 5), expected (n_a, n_x) = (5, 2)"),
    ("Waa", (N_A, 4), "Waa has shape (5, 4), expected (n_a, n_a) = (5, 5)"),
    ("Wya", (N_Y, 4), "Wya has shape (3, 4), expected (n_y, n_a)"),
    ("ba", (N_A,), "ba has shape (5,), expected (n_a, 1) = (5, 1)"),
    ("by", (4, 1), "by has shape (4, 1), expected (n_y, 1) = (3, 1)"),
]
WRONG_LSTM = [
    ("c0", (N_A, 1), "c0 has shape (5, 1), expected (n_a, m) = (5, 6)"),
    ("Wf", (N_A, N_A), "Wf has shape (5, 5), expected (n_a, n_a + n_x) = (5, 7)"),
    ("Wi", (7, N_A), "Wi has shape (7, 5), expected (n_a, n_a + n_x) = (5, 7)"),
    ("bo", (1, N_A), "bo has shape (1, 5), expected (n_a, 1) = (5, 1)"),
    ("Wy", (N_Y, 7), "Wy has shape (3, 7), expected (n_y, n_a)"),
    ("by", (N_Y,), "by has shape (3,), expected (n_y, 1) = (3, 1)"),
]


@pytest.mark.parametrize(
    ("kind", "name", "shape", "text"),
    [("rnn", *case) for case in WRONG_RNN] + [("lstm", *case) for case in WRONG_LSTM],
)
def test_a_wrong_shape_is_named(kind, name, shape, text, rnn, lstm, asarray):
    given = rnn if kind == "rnn" else lstm
    (given if name in ("x", "a0", "c0") else given["parameters"])[name] = asarray(np.zeros(shape))
    with pytest.raises(ValueError, match=exactly(f"{kind}_forward: {text}")):
        getattr(F, f"{kind}_forward")(**given)


def test_wrong_gradients_are_named(rnn, lstm, asarray):
    *_, caches = F.rnn_forward(**rnn)
    wrong = asarray(np.zeros((N_A, M, 3)))
    text = "rnn_cell_backward: da_next has shape (5, 6, 3), expected (n_a, m) = (5, 6)"
    with pytest.raises(ValueError, match=exactly(text)):
        F.rnn_cell_backward(wrong, caches[0][0])
    *_, caches = F.lstm_forward(**lstm)
    right = asarray(np.zeros((N_A, M)))
    text = "lstm_cell_backward: dc_next has shape (5, 6, 3), expected (n_a, m) = (5, 6)"
    with pytest.raises(ValueError, match=exactly(text)):
        F.lstm_cell_backward(right, wrong, caches[0][0])
    y = asarray(np.zeros((4, M, T)))
    a = asarray(np.zeros((N_A, M, T)))
    text = "softmax_output_backward: y has shape (4, 6, 7), expected (n_y, m, T_x)"
    with pytest.raises(ValueError, match=rf"^{re.escape(text)}"):
        F.softmax_output_backward(y, y, a, rnn["parameters"])


def test_integers_are_refused(rnn, lstm, asarray):
    integers = asarray(np.ones((N_X, M, T), dtype=int))
    text = f"x has dtype {integers.dtype}, expected a floating point dtype"
    with pytest.raises(TypeError, match=exactly(f"rnn_forward: {text}")):
        F.rnn_forward(**rnn | {"x": integers})
    with pytest.raises(TypeError, match=exactly(f"lstm_forward: {text}")):
        F.lstm_forward(**lstm | {"x": integers})
    y = asarray(np.ones((N_Y, M), dtype=int))
    p = asarray(np.ones((N_Y, M)))
    for name, call in {
        "softmax: x": partial(F.softmax, y),
        "sigmoid: x": partial(F.sigmoid, y),
        "softmax_deriv: s": partial(F.softmax_deriv, y),
        "sigmoid_deriv: s": partial(F.sigmoid_deriv, y),
        "tanh_deriv: t": partial(F.tanh_deriv, y),
        "cross_entropy_loss_t: y_t": partial(F.cross_entropy_loss_t, y, p),
    }.items():
        text = f"{name} has dtype {y.dtype}, expected a floating point dtype"
        with pytest.raises(TypeError, match=exactly(text)):
            call()


@pytest.mark.parametrize("name", ["a0", "c0", "Wo", "by"])
def test_two_libraries_are_refused(name, lstm, foreign):
    (lstm if name in ("a0", "c0") else lstm["parameters"])[name] = foreign
    text = rf"^lstm_forward: {name} is an array of \w+, expected \w+ like x$"
    with pytest.raises(TypeError, match=text):
        F.lstm_forward(**lstm)


def test_two_devices_are_refused(rnn, library, device, xp):
    for other in library.devices.values():  # NumPy has one, so nothing to refuse
        if other == device:
            continue
        rnn["a0"] = xp.zeros((N_A, M), dtype=xp.float32, device=other)
        text = f"rnn_forward: a0 is on device {other}, expected {device} like x"
        with pytest.raises(TypeError, match=exactly(text)):
            F.rnn_forward(**rnn)


def test_two_dtypes_are_refused(rnn, xp, library, place, device):
    missing = library.contract.get("lacks", {}).get(place.device, [])
    for other in {"float32", "float64"} - {place.dtype, *missing}:
        rnn["a0"] = xp.zeros((N_A, M), dtype=getattr(xp, other), device=device)
        found, wanted = rnn["a0"].dtype, rnn["x"].dtype
        text = f"rnn_forward: a0 has dtype {found}, expected {wanted} like x"
        with pytest.raises(TypeError, match=exactly(text)):
            F.rnn_forward(**rnn)


def test_lists_are_refused(rnn):
    rnn["a0"] = [[0.0]]
    with pytest.raises(TypeError, match=exactly("rnn_forward: a0 is a list, expected an array")):
        F.rnn_forward(**rnn)


@pytest.mark.parametrize("name", ["rnn_backward", "lstm_backward"])
def test_caches_of_no_step_are_refused(name, asarray):
    x = asarray(np.zeros((N_X, M, 0)))
    with pytest.raises(
        ValueError, match=exactly(f"{name}: caches hold no step, expected at least one")
    ):
        getattr(F, name)(asarray(np.zeros((N_A, M, 0))), ([], x))


def test_an_array_that_is_missing_is_named(asarray, rng):
    rnn, lstm = on(asarray, rnn_parameters(rng)), on(asarray, lstm_parameters(rng))
    x, a0 = asarray(np.zeros((N_X, M, T))), asarray(np.zeros((N_A, M)))
    _, _, cache = F.rnn_cell_forward(x[..., 0], a0, rnn)
    _, _, _, lstm_cache = F.lstm_cell_forward(x[..., 0], a0, a0, lstm)
    a, y_pred, _ = F.rnn_forward(x, a0, rnn)
    for call, text in (
        (partial(F.rnn_forward, None, a0, rnn), "rnn_forward: x is a NoneType"),
        (partial(F.rnn_forward, x, None, rnn), "rnn_forward: a0 is a NoneType"),
        (partial(F.rnn_forward, x, a0, rnn | {"ba": None}), "rnn_forward: ba is a NoneType"),
        (partial(F.lstm_forward, x, None, lstm), "lstm_forward: a0 is a NoneType"),
        (
            partial(F.lstm_cell_forward, x[..., 0], a0, None, lstm),
            "lstm_cell_forward: c_prev is a NoneType",
        ),
        (partial(F.rnn_cell_backward, None, cache), "rnn_cell_backward: da_next is a NoneType"),
        (
            partial(F.lstm_cell_backward, a0, None, lstm_cache),
            "lstm_cell_backward: dc_next is a NoneType",
        ),
        (
            partial(F.softmax_output_backward, y_pred, y_pred, None, rnn),
            "softmax_output_backward: a is a NoneType",
        ),
    ):
        with pytest.raises(TypeError, match=exactly(f"{text}, expected an array")):
            call()
    for door in (F.rnn_forward, F.lstm_forward):
        text = f"{door.__name__}: parameters is a NoneType, expected a dict"
        with pytest.raises(TypeError, match=exactly(text)):
            door(x, a0, None)
    text = "softmax_output_backward: by has shape (7, 1), expected (n_y, 1) = (3, 1)"
    with pytest.raises(ValueError, match=exactly(text)):
        F.softmax_output_backward(y_pred, y_pred, a, rnn | {"by": asarray(np.zeros((7, 1)))})


def test_caches_of_another_forward_are_refused(asarray, rng):
    rnn, lstm = on(asarray, rnn_parameters(rng)), on(asarray, lstm_parameters(rng))
    x, a0 = asarray(np.zeros((N_X, M, T))), asarray(np.zeros((N_A, M)))
    a, _, rnn_caches = F.rnn_forward(x, a0, rnn)
    _, _, _, lstm_caches = F.lstm_forward(x, a0, lstm)
    for door, caches, size, came in (
        (F.rnn_backward, lstm_caches, 4, "10 entries"),
        (F.lstm_backward, rnn_caches, 10, "4 entries"),
    ):
        text = f"the cache of a cell is {came}, expected the tuple of {size} that its forward gave"
        with pytest.raises(TypeError, match=exactly(f"{door.__name__}: {text}")):
            door(a, caches)
        text = "caches is a NoneType, expected (list of cell caches, x)"
        with pytest.raises(TypeError, match=exactly(f"{door.__name__}: {text}")):
            door(a, None)
    with pytest.raises(TypeError, match=r"^rnn_cell_backward: the cache of a cell is NoneType, "):
        F.rnn_cell_backward(a0, None)


@pytest.mark.parametrize("kind", ["rnn", "lstm"])
@pytest.mark.parametrize("entry", ["a_next", "a_prev", "xt"])
def test_caches_of_two_forwards_are_refused_by_the_one_that_differs(kind, entry, rnn, lstm):
    given, place = (rnn, "rnn_backward") if kind == "rnn" else (lstm, "lstm_backward")
    _, *_, (cells, x) = getattr(F, f"{kind}_forward")(**given)
    da = given["x"][:1, ...] + given["a0"][..., None]
    smaller = {"x": given["x"][:, : M - 1, :], "a0": given["a0"][:, : M - 1]}
    _, *_, (others, _) = getattr(F, f"{kind}_forward")(**given | smaller)
    at = {"a_next": 0, "a_prev": 1 if kind == "rnn" else 2, "xt": 2 if kind == "rnn" else 8}[entry]
    whole = entry == "a_next"  # all of a cell, or one of its arrays
    odd = others[3] if whole else (*cells[3][:at], others[3][at], *cells[3][at + 1 :])
    n = N_X if entry == "xt" else N_A
    text = f"has shape ({n}, {M - 1}), expected ({n}, {M}) as the caches of one forward have"
    with pytest.raises(ValueError, match=exactly(f"{place}: caches[0][3][{at}] {text}")):
        getattr(F, place)(da, ([*cells[:3], odd, *cells[4:]], x))
    if not whole:
        gradients = (given["a0"],) * (1 if kind == "rnn" else 2)
        place = f"{kind}_cell_backward"
        with pytest.raises(ValueError, match=exactly(f"{place}: cache[{at}] {text}")):
            getattr(F, place)(*gradients, odd)
