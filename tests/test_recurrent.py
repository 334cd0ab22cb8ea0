"""Stacked and bidirectional layers against single passes, and their errors word by word."""

import dataclasses
import re

import numpy as np
import pytest
from judging import exactly, named, same_bits
from problems import (
    CELLS,
    KINDS,
    LENGTHS,
    N_A,
    N_X,
    WAYS,
    M,
    OverTime,
    Problem,
    T,
    each_steps,
    recurrent,
)

import seqcore as sc
from seqcore import cells


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def cell(kind):
    return CELLS[kind]


@pytest.fixture(params=WAYS)
def layer(request, kind):
    return recurrent(kind, **WAYS[request.param])


def by_hand(cell, problem):
    """What a stack does, pass by pass: names and order of the state written out here."""
    layer, y, make = problem.layer, problem.x, type(problem.state)
    ways = [("", False), ("reverse.", True)][: 1 + layer.bidirectional]
    ends, kept = [], []
    for number in range(layer.layers):
        outs = []
        for infix, reverse in ways:
            own = {name: problem.params[f"{number}.{infix}{name}"] for name in cells.shapes(cell)}
            start = make(*[value[len(ends)] for value in problem.state])
            one = OverTime(cell, reverse=reverse)
            out, end, tape = one.forward(own, y, start, **problem.steps())
            outs.append(out)
            ends.append(end)
            kept.append((f"{number}.{infix}", own, tape, one))
        y = np.concatenate(outs, axis=1)
    expected = {"y": y}
    for i, name in enumerate(make._fields):
        expected[f"last.{name}"] = np.stack([end[i] for end in ends])

    dy, starts = problem.dy, {}
    for number in reversed(range(layer.layers)):
        dx = 0.0
        for way in range(len(ways)):
            k = number * len(ways) + way
            prefix, own, tape, one = kept[k]
            end = make(*[value[k] for value in problem.dstate])
            part = dy[:, way * N_A : (way + 1) * N_A]
            back, grads, starts[k] = one.backward(own, tape, part, end)
            dx = dx + back
            expected |= {prefix + name: value for name, value in grads.items()}
        dy = dx
    expected["dx"] = dy
    for i, name in enumerate(make._fields):
        expected[f"dstart.{name}"] = np.stack([starts[k][i] for k in range(len(starts))])
    return expected


@each_steps
def test_a_stack_is_its_passes_one_by_one(layer, cell, steps, asarray, close, rng):
    problem = Problem.of(rng, layer, **steps)
    close(problem.move(asarray).results(), by_hand(cell, problem))


def test_windows_with_the_state_carried_are_one(kind, asarray, assert_close, to_host, rng):
    problem = Problem.of(rng, recurrent(kind, layers=2)).move(asarray)
    y, last, _ = problem.layer.forward(problem.params, problem.x, problem.state)
    state = problem.state
    for t in range(0, T, 3):  # the last window is shorter
        window = slice(t, min(t + 3, T))
        part, state, _ = problem.layer.forward(problem.params, problem.x[window, ...], state)
        assert_close(part, to_host(y)[window], kind="bptt", name=f"y[{t}:]")
    for name in last._fields:
        assert_close(getattr(state, name), to_host(getattr(last, name)), kind="bptt", name=name)


@pytest.mark.host
@pytest.mark.parametrize("way", [{"layers": 2}, {"bidirectional": True}], ids=["stacked", "both"])
def test_backward_is_the_derivative_of_forward(kind, way, check_gradients, rng):
    layer = recurrent(kind, 3, **way)
    problem = Problem.of(rng, layer, n_steps=4, lengths=[4, 3, 0, 1, 2, 4])
    check_gradients(problem.loss, problem.at(), problem.gradients())


def test_no_state_and_no_dstate_are_zeros(layer, asarray, to_host, rng):
    problem = Problem.of(rng, layer).move(asarray)
    y, last, tape = layer.forward(problem.params, problem.x)
    dx, grads, dstart = layer.backward(problem.params, tape, problem.dy)
    zeros = problem.state._make([0.0 * value for value in problem.state])
    expected = problem.but(state=zeros, dstate=zeros).results()
    got = {"y": y, "dx": dx, **grads, **named("last", last), **named("dstart", dstart)}
    for name, wanted in expected.items():
        np.testing.assert_array_equal(to_host(got[name]), to_host(wanted), err_msg=name)


def test_parameters_are_named_by_layer_and_way(kind, cell, asarray):
    layer = recurrent(kind, layers=2, bidirectional=True)
    passes = [("0.", N_X), ("0.reverse.", N_X), ("1.", 2 * N_A), ("1.reverse.", 2 * N_A)]
    expected = {
        prefix + name: tuple({"n_a": N_A, "n_x": n_x}.get(size, size) for size in shape)
        for prefix, n_x in passes
        for name, shape in cells.shapes(cell).items()
    }
    params = layer.init(N_X, like=asarray(0.0), rng=3)
    assert {name: value.shape for name, value in params.items()} == expected
    assert layer.names() == list(expected)
    assert layer.n_out == 2 * N_A


def test_init_draws_the_same_numbers_on_every_library(layer, asarray, assert_close):
    host = layer.init(N_X, like=np.zeros(0), rng=np.random.default_rng(3))
    for name, value in layer.init(N_X, like=asarray(0.0), rng=3).items():
        assert_close(value, host[name], kind="cell", name=name)


def test_arguments_stay_as_they_are(layer, asarray, to_host, rng):
    problem = Problem.of(rng, layer, lengths=LENGTHS).move(asarray)
    before = {name: to_host(value) for name, value in problem.arrays().items()}
    names = list(problem.params)
    problem.results()
    assert list(problem.params) == names
    same_bits({name: to_host(value) for name, value in problem.arrays().items()}, before)


def test_lengths_may_be_a_list(asarray, close, rng):
    layer = sc.GRU(N_A, bidirectional=True)
    problem = Problem.of(rng, layer, lengths=LENGTHS).move(asarray)
    close(problem.but(lengths=LENGTHS).results(), problem.results(), kind="cell")


def test_a_plain_tuple_is_a_state(asarray, assert_close, to_host, rng):
    problem = Problem.of(rng, sc.LSTM(N_A)).move(asarray)
    expected = to_host(problem.results()["y"])
    y, _, _ = problem.layer.forward(problem.params, problem.x, tuple(problem.state))
    assert_close(y, expected, kind="cell")


# --- errors -----------------------------------------------------------------------------


@pytest.fixture
def problem(asarray, rng):
    """A small LSTM call that is right, for a test to spoil."""
    return Problem.of(rng, sc.LSTM(N_A, layers=2)).move(asarray)


def forward(problem, lengths=None):
    return problem.layer.forward(problem.params, problem.x, problem.state, lengths)


SHAPE_ERRORS = {
    "0.W_h": ((4, 5, 6), "expected (4, n_a, n_a) = (4, 5, 5)"),
    "0.W_x": ((4, 6, 2), "expected (4, n_a, n_x)"),
    "0.b": ((4, 5), "expected (4, n_a, 1) = (4, 5, 1)"),
    "1.W_x": ((4, 5, 2), "expected (4, n_a, n_x) = (4, 5, 5)"),
    "1.b": ((1, 5, 1), "expected (4, n_a, 1) = (4, 5, 1)"),
    "x": ((2, 6), "expected time first, (T, n_x, m) = (T, 2, m)"),
    "x   ": ((2, 6, 7), "expected time first, (T, n_x, m) = (T, 2, m)"),
    "x ": ((0, 2, 6), "expected (T, n_x, m) with T at least 1"),
    "x  ": ((7, 2, 0), "expected (T, n_x, m) with m at least 1"),
    "state.h": ((1, 5, 6), "expected (layers, n_a, m) = (2, 5, 6)"),
    "state.c": ((2, 5, 1), "expected (layers, n_a, m) = (2, 5, 6)"),
    "state.c ": ((5, 6), "expected (layers, n_a, m) = (2, 5, 6)"),
}


@pytest.mark.parametrize(("name", "shape", "expected"), [(k, *v) for k, v in SHAPE_ERRORS.items()])
def test_a_wrong_shape_is_named(name, shape, expected, problem, asarray):
    name, wrong = name.strip(), asarray(np.zeros(shape))
    if name == "x":
        problem.x = wrong
    elif name.startswith("state."):
        problem.state = problem.state._replace(**{name[-1]: wrong})
    else:
        problem.params[name] = wrong
    text = f"lstm: {name} has shape {shape}, {expected}"
    with pytest.raises(ValueError, match=exactly(text)):
        forward(problem)


@pytest.mark.parametrize("n_x", [1, 3])
def test_features_that_do_not_fit_the_parameters_are_those_of_x(n_x, problem, asarray):
    problem.x = asarray(np.zeros((T, n_x, M)))
    text = f"lstm: x has shape (7, {n_x}, 6), expected time first, (T, n_x, m) = (T, 2, m)"
    with pytest.raises(ValueError, match=exactly(text)):
        forward(problem)


def test_wrong_dy_and_dstate_are_named(problem, asarray):
    _, _, tape = forward(problem)
    text = "lstm: dy has shape (7, 2, 6), expected (7, 5, 6)"
    with pytest.raises(ValueError, match=exactly(text)):
        problem.layer.backward(problem.params, tape, problem.x)
    wrong = problem.dstate._replace(h=asarray(np.zeros((3, N_A, M))))
    text = "lstm: dstate.h has shape (3, 5, 6), expected (layers, n_a, m) = (2, 5, 6)"
    with pytest.raises(ValueError, match=exactly(text)):
        problem.layer.backward(problem.params, tape, problem.dy, wrong)


def test_integers_are_refused(problem, xp, asarray):
    integers = asarray(np.ones((T, N_X, M), dtype=int))
    text = f"lstm: x has dtype {integers.dtype}, expected a floating point dtype"
    with pytest.raises(TypeError, match=exactly(text)):
        problem.layer.forward(problem.params, integers)
    whole = xp.astype(problem.params["1.b"], integers.dtype)
    text = f"lstm: 1.b has dtype {integers.dtype}, expected a floating point dtype"
    with pytest.raises(TypeError, match=exactly(text)):
        problem.layer.forward(problem.params | {"1.b": whole}, problem.x)


def test_two_dtypes_are_refused(problem, library, place, xp, device):
    missing = library.contract.get("lacks", {}).get(place.device, [])
    others = {"float32", "float64"} - {place.dtype, *missing}
    for other in others:  # one at most, none on a device without float64
        wrong = getattr(xp, other)
        problem.params["0.b"] = xp.zeros((4, N_A, 1), dtype=wrong, device=device)
        found = problem.params["0.b"].dtype
        text = f"lstm: 0.b has dtype {found}, expected {problem.x.dtype} like x"
        with pytest.raises(TypeError, match=exactly(text)):
            forward(problem)


@pytest.mark.parametrize("name", ["x", "1.W_h", "state.c", "lengths", "dy", "dstate.h"])
def test_two_libraries_are_refused(name, problem, foreign):
    lengths, dy, dstate = None, problem.dy, problem.dstate
    _, _, tape = forward(problem)
    if name == "x":
        problem.x = foreign
        name = "0.W_x"  # x sets the library, the parameters are beside it
    elif name == "1.W_h":
        problem.params[name] = foreign
    elif name == "state.c":
        problem.state = problem.state._replace(c=foreign)
    elif name == "lengths":
        lengths = foreign
    elif name == "dy":
        dy = foreign
    else:
        dstate = dstate._replace(h=foreign)

    def call():
        if name.startswith("d"):
            return problem.layer.backward(problem.params, tape, dy, dstate)
        return forward(problem, lengths)

    with pytest.raises(TypeError, match=rf"^lstm: {re.escape(name)} is an array of \w+, expected "):
        call()


def test_two_devices_are_refused(problem, library, device, xp):
    for other in library.devices.values():  # NumPy has one, so nothing to refuse
        if other == device:
            continue
        problem.params["0.b"] = xp.zeros((4, N_A, 1), dtype=xp.float32, device=other)
        text = f"lstm: 0.b is on device {other}, expected {device} like x"
        with pytest.raises(TypeError, match=exactly(text)):
            forward(problem)


@pytest.mark.parametrize("value", [[[0.5]], 1.0, "abc"], ids=["list", "float", "str"])
def test_what_is_no_array_is_refused(value, problem):
    text = f"lstm: x is a {type(value).__name__}, expected an array"
    with pytest.raises(TypeError, match=exactly(text)):
        problem.layer.forward(problem.params, value)


def test_a_missing_parameter_is_named(problem):
    _, _, tape = forward(problem)
    del problem.params["1.W_h"]
    text = "lstm: parameter '1.W_h' is missing; got 0.W_x, 0.W_h, 0.b, 1.W_x, 1.b"
    with pytest.raises(ValueError, match=exactly(text)):
        forward(problem)
    with pytest.raises(ValueError, match=exactly(text)):
        problem.layer.backward(problem.params, tape, problem.dy)


def test_an_unexpected_parameter_is_named(problem):
    _, _, tape = forward(problem)
    problem.params["2.b"] = problem.params["1.b"]
    text = "lstm: unexpected parameter '2.b'; expected 0.W_x, 0.W_h, 0.b, 1.W_x, 1.W_h, 1.b"
    with pytest.raises(ValueError, match=exactly(text)):
        forward(problem)
    with pytest.raises(ValueError, match=exactly(text)):
        problem.layer.backward(problem.params, tape, problem.dy)


def test_parameters_that_are_no_dict_are_refused(problem):
    with pytest.raises(TypeError, match=exactly("lstm: params is a list, expected a dict")):
        problem.layer.forward(list(problem.params.values()), problem.x)


def test_a_state_of_another_kind_is_refused(problem, asarray, rng):
    state = problem.state
    text = "lstm: state is a {}, expected a tuple (h, c)"
    for wrong in (state.h, list(state), (state.h,), (*state, state.h), dict(state._asdict())):
        kind = type(wrong).__name__
        came = f"{kind} of {len(wrong)}" if isinstance(wrong, tuple) else kind
        with pytest.raises(TypeError, match=exactly(text.format(came))):
            problem.layer.forward(problem.params, problem.x, wrong)
    gru = Problem.of(rng, sc.GRU(N_A)).move(asarray)
    text = "gru: state is a LSTMState of 2, expected a tuple (h,)"
    with pytest.raises(TypeError, match=exactly(text)):
        gru.layer.forward(gru.params, gru.x, state)


def test_the_state_of_another_layer_is_refused(asarray, rng):
    """Its arrays may fit, but they mean something else."""
    problem = Problem.of(rng, sc.RNN(N_A)).move(asarray)
    layer, params, x = problem.layer, problem.params, problem.x
    other = cells.GRUState(*problem.state)
    text = "rnn: {} is a GRUState, which another layer returned, expected RNNState or a plain tuple"
    for call in (
        lambda: layer.forward(params, x, other),
        lambda: layer.predict(params, x, other),
        lambda: layer.bind(params, M)(x[0, ...], other),
        lambda: layer.bind(params, M).predict(x, other),
    ):
        with pytest.raises(TypeError, match=exactly(text.format("state"))):
            call()
    _, _, tape = layer.forward(params, x)
    with pytest.raises(TypeError, match=exactly(text.format("dstate"))):
        layer.backward(params, tape, problem.dy, other)


@pytest.mark.parametrize(
    ("lengths", "kind", "as_list", "as_array"),
    [
        ([7, 0, 3, 1, 7], ValueError, "has shape (5,), expected (m,) = (6,)", None),
        ([7, 0, 3, 8, 7, 4], ValueError, "holds 8, expected 0 <= length < 8", None),
        ([7, 0, 3, -1, 7, 4], ValueError, "holds -1, expected 0 <= length < 8", None),
        (
            [7, 0.5, 3, 1, 7, 4],
            TypeError,
            "is [7, 0.5, 3, 1, 7, 4], expected whole numbers",
            "has dtype {dtype}, expected an integer dtype",
        ),
    ],
    ids=["five", "long", "negative", "floats"],
)
def test_wrong_lengths_are_named(lengths, kind, as_list, as_array, problem, asarray):
    with pytest.raises(kind, match=exactly(f"lstm: lengths {as_list}")):
        forward(problem, lengths)
    lengths = asarray(lengths)
    text = (as_array or as_list).format(dtype=lengths.dtype)
    with pytest.raises(kind, match=exactly(f"lstm: lengths {text}")):
        forward(problem, lengths)


def test_lengths_of_another_rank_are_refused(problem, asarray):
    for wrong in (np.asarray(3), np.asarray([LENGTHS])):
        text = f"lstm: lengths has shape {wrong.shape}, expected (m,) = (6,)"
        with pytest.raises(ValueError, match=exactly(text)):
            forward(problem, asarray(wrong))
        with pytest.raises(TypeError, match=r"^lstm: lengths is .*, expected whole numbers$"):
            forward(problem, wrong.tolist())


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: sc.LSTM(0), ValueError, "lstm: n_a is 0, expected at least 1"),
        (lambda: sc.GRU(5, layers=-1), ValueError, "gru: layers is -1, expected at least 1"),
        (lambda: sc.RNN(2.5), TypeError, "rnn: n_a is 2.5, expected a whole number"),
        (lambda: sc.RNN(True), TypeError, "rnn: n_a is True, expected a whole number"),
        (
            lambda: sc.RNN(5, activation="selu"),
            ValueError,
            "rnn: activation is 'selu', expected 'tanh' or 'relu'",
        ),
        (
            lambda: sc.LSTM(5).init(0, like=np.zeros(0), rng=0),
            ValueError,
            "lstm: n_in is 0, expected at least 1",
        ),
    ],
)
def test_wrong_options_are_named(call, kind, text):
    with pytest.raises(kind, match=exactly(text)):
        call()


def test_layers_are_frozen_values(layer, kind):
    twin = recurrent(kind, layers=layer.layers, bidirectional=layer.bidirectional)
    assert layer == twin
    assert hash(layer) == hash(twin)
    assert layer != recurrent(kind, N_A + 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        layer.n_a = 7


@pytest.mark.host
@pytest.mark.parametrize("wrong", ["no", 2, None, 1.0])
@pytest.mark.parametrize(
    ("make", "name"),
    [(sc.RNN, "bidirectional"), (sc.LSTM, "peephole"), (sc.GRU, "reset_after")],
)
def test_an_option_that_is_not_true_or_false_is_named(make, name, wrong):
    text = f"{make(1).name}: {name} is {wrong!r}, expected True or False"
    with pytest.raises(TypeError, match=exactly(text)):
        make(N_A, **{name: wrong})
