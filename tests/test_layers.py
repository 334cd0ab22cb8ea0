"""Embedding, Dense and Sequential, and a whole model by central differences."""

import dataclasses
import re

import numpy as np
import pytest
from judging import exactly
from problems import LENGTHS, N_A, TOKENS, M, Problem, T, on

import seqcore as sc

N_IN, N_OUT = TOKENS, 4
PADDING = np.arange(T)[:, None] >= np.asarray(LENGTHS)  # (T, m)


@pytest.fixture
def tokens(rng):
    """Tokens with repeats, and one of the vocabulary (8) that never comes."""
    drawn = rng.integers(N_IN - 1, size=(T, M))
    drawn[0, :2] = drawn[3, 0]
    return drawn


# --- Embedding --------------------------------------------------------------------------


@pytest.fixture
def embedding(rng):
    return sc.Embedding(N_OUT), {"W": rng.standard_normal((N_IN, N_OUT))}


def test_embedding_looks_up_rows(embedding, tokens, asarray, assert_close):
    layer, params = embedding
    y, state, _ = layer.forward(on(asarray, params), asarray(tokens))
    expected = np.stack([params["W"][row].T for row in tokens])
    assert_close(y, expected, kind="cell")
    assert state == ()


def test_embedding_takes_every_integer_dtype(embedding, tokens, xp, asarray, assert_close):
    layer, params = embedding
    for dtype in (xp.int32, xp.uint8):
        y, _, _ = layer.forward(on(asarray, params), xp.astype(asarray(tokens), dtype))
        assert_close(y, np.moveaxis(params["W"][tokens], 2, 1), kind="cell")


@pytest.mark.host
def test_embedding_backward_is_the_derivative(embedding, tokens, check_gradients, rng):
    layer, params = embedding
    dy = rng.standard_normal((T, N_OUT, M))
    _, _, tape = layer.forward(params, tokens)
    dx, grads, dstate = layer.backward(params, tape, dy)
    check_gradients(lambda at: np.sum(dy * layer.forward(at, tokens)[0]), params, grads)
    assert dx is None
    assert dstate == ()
    assert not np.any(grads["W"][N_IN - 1])  # the token that never comes


def test_embedding_adds_up_repeated_tokens(embedding, asarray, assert_close, tokens, rng):
    layer, params = embedding
    dy = rng.standard_normal((T, N_OUT, M))
    expected = np.zeros((N_IN, N_OUT))
    np.add.at(expected, tokens, np.moveaxis(dy, 1, 2))
    params = on(asarray, params)
    _, _, tape = layer.forward(params, asarray(tokens))
    _, grads, _ = layer.backward(params, tape, asarray(dy))
    assert_close(grads["W"], expected, kind="bptt")


@pytest.mark.parametrize(
    ("token", "text"),
    [
        (N_IN, "embedding: x holds 9, expected 0 <= token < 9"),
        (-1, "embedding: x holds -1, expected 0 <= token < 9"),
    ],
)
def test_tokens_outside_the_vocabulary_are_refused(token, text, embedding, tokens, asarray):
    layer, params = embedding
    tokens[2, 3] = token
    with pytest.raises(ValueError, match=exactly(text)):
        layer.forward(on(asarray, params), asarray(tokens))


@pytest.mark.parametrize("junk", [-1, 10**6])
def test_tokens_in_padding_may_be_anything(junk, embedding, tokens, asarray, assert_close):
    layer, params = embedding
    dirty = np.where(PADDING, junk, tokens)
    y, _, _ = layer.forward(on(asarray, params), asarray(dirty), None, LENGTHS)
    expected = np.moveaxis(params["W"][np.where(PADDING, 0, tokens)], 2, 1)
    assert_close(y, np.where(PADDING[:, None, :], 0.0, expected), kind="cell")


def test_padding_adds_nothing_to_an_embeddings_gradient(embedding, tokens, asarray, assert_close):
    layer, params = embedding
    weights = on(asarray, params)
    _, _, tape = layer.forward(weights, asarray(tokens), None, LENGTHS)
    _, grads, _ = layer.backward(weights, tape, asarray(np.ones((T, N_OUT, M))))
    expected = np.zeros_like(params["W"])
    np.add.at(expected, tokens[~PADDING], 1.0)
    assert_close(grads["W"], expected, kind="cell")


def test_embedding_refuses_what_is_no_token(embedding, tokens, asarray, foreign):
    layer, params = embedding
    params = on(asarray, params)
    x = asarray(tokens.astype(float))
    with pytest.raises(
        TypeError, match=exactly(f"embedding: x has dtype {x.dtype}, expected an integer dtype")
    ):
        layer.forward(params, x)
    for wrong, text in (
        (tokens[0], "has shape (6,), expected time first, (T, m)"),
        (tokens[:0], "has shape (0, 6), expected (T, m) with T at least 1"),
        (tokens[:, :0], "has shape (7, 0), expected (T, m) with m at least 1"),
    ):
        with pytest.raises(ValueError, match=exactly(f"embedding: x {text}")):
            layer.forward(params, asarray(wrong))
    with pytest.raises(TypeError, match=r"^embedding: W is an array of \w+, expected \w+ like x$"):
        layer.forward({"W": foreign}, asarray(tokens))
    with pytest.raises(
        ValueError, match=exactly("embedding: W has shape (9, 3), expected (n_in, 4)")
    ):
        layer.forward({"W": params["W"][:, :3]}, asarray(tokens))


# --- Dense ------------------------------------------------------------------------------


@pytest.fixture(params=[(T, N_IN, M), (N_IN, M)], ids=["with time", "without"])
def dense(request, rng):
    """The layer, its parameters, x and dy."""
    params = {"W": rng.standard_normal((N_OUT, N_IN)), "b": rng.standard_normal((N_OUT, 1))}
    dy = rng.standard_normal((*request.param[:-2], N_OUT, M))
    return sc.Dense(N_OUT), params, rng.standard_normal(request.param), dy


def test_dense_is_a_product_and_a_sum(dense, asarray, assert_close):
    layer, params, x, dy = dense
    weights = on(asarray, params)
    y, state, tape = layer.forward(weights, asarray(x))
    assert_close(y, np.einsum("yn,...nm->...ym", params["W"], x) + params["b"], kind="cell")
    assert state == ()
    dx, grads, dstate = layer.backward(weights, tape, asarray(dy))
    assert_close(dx, np.einsum("yn,...ym->...nm", params["W"], dy), kind="cell", name="dx")
    dW = np.einsum("tym,tnm->yn", dy.reshape(-1, N_OUT, M), x.reshape(-1, N_IN, M))
    assert_close(grads["W"], dW, kind="bptt", name="dW")
    db = np.sum(dy.reshape(-1, N_OUT, M), axis=(0, 2))[:, None]
    assert_close(grads["b"], db, kind="bptt", name="db")
    assert dstate == ()


@pytest.mark.host
def test_dense_backward_is_the_derivative(dense, check_gradients):
    layer, params, x, dy = dense
    _, _, tape = layer.forward(params, x)
    dx, grads, _ = layer.backward(params, tape, dy)

    def loss(at):
        y, _, _ = layer.forward({"W": at["W"], "b": at["b"]}, at["x"])
        return np.sum(dy * y)

    check_gradients(loss, {"x": x, **params}, {"x": dx, **grads})


def test_dense_names_what_is_wrong(dense, asarray, foreign):
    layer, params, x, dy = dense
    params, x = on(asarray, params), asarray(x)
    axes = r"((time first, )?\(T, n_in, m\)|\(n_in, m\))"
    _, _, tape = layer.forward(params, x)
    for changed, given, text in (
        ({"W": params["W"][:3, :]}, x, "dense: W has shape (3, 9), expected (4, n_in)"),
        ({"b": params["b"][:, 0]}, x, "dense: b has shape (4,), expected (4, 1)"),
        ({"W": params["W"][:, :8]}, x, None),
        ({}, x[..., :8, :], None),
        ({}, x[..., 0], None),
        ({}, x[..., :0], None),
        ({"c": params["b"]}, x, "dense: unexpected parameter 'c'; expected W, b"),
    ):
        # Without a text: that x does not fit is said with both shapes.
        match = exactly(text) if text else rf"^dense: x has shape \(.*\), expected {axes}"
        with pytest.raises(ValueError, match=match):
            layer.forward(params | changed, given)
    for call in (
        lambda own: layer.forward(own, x),
        lambda own: layer.backward(own, tape, asarray(dy)),
    ):
        with pytest.raises(ValueError, match=exactly("dense: parameter 'W' is missing; got b")):
            call({"b": params["b"]})
    with pytest.raises(TypeError, match=r"^dense: b is an array of \w+, expected \w+ like x$"):
        layer.forward(params | {"b": foreign}, x)
    with pytest.raises(ValueError, match=r"^dense: dy has shape .*, expected \((7, )?4, 6\)$"):
        layer.backward(params, tape, x)


def test_layers_without_a_state_refuse_one(dense, asarray):
    layer, params, x, _ = dense
    text = "dense: state was given, expected None: this layer has no state"
    with pytest.raises(ValueError, match=exactly(text)):
        layer.forward(on(asarray, params), asarray(x), (asarray(x),))
    with pytest.raises(ValueError, match=exactly(text)):
        layer.forward(on(asarray, params), asarray(x), 5)
    # Its own () is no such state.
    layer.forward(on(asarray, params), asarray(x), ())


# --- Sequential -------------------------------------------------------------------------


def model(recurrent=None):
    return sc.Sequential(sc.Embedding(3), recurrent or sc.LSTM(N_A), sc.Dense(N_IN))


def test_sequential_names_layers_after_their_kind(asarray):
    layer = sc.Sequential(sc.Embedding(3), sc.LSTM(5), sc.LSTM(4), sc.Dense(6), head=sc.Dense(2))
    params = layer.init(N_IN, like=asarray(0.0), rng=0)
    assert {name: value.shape for name, value in params.items()} == {
        "embedding.W": (N_IN, 3),
        "lstm.0.W_x": (4, 5, 3),
        "lstm.0.W_h": (4, 5, 5),
        "lstm.0.b": (4, 5, 1),
        "lstm_1.0.W_x": (4, 4, 5),
        "lstm_1.0.W_h": (4, 4, 4),
        "lstm_1.0.b": (4, 4, 1),
        "dense.W": (6, 4),
        "dense.b": (6, 1),
        "head.W": (2, 6),
        "head.b": (2, 1),
    }
    assert list(params) == layer.names()
    assert layer.n_out == 2


def test_sequential_counts_three_of_a_kind():
    assert sc.Sequential(sc.GRU(2), sc.GRU(2), sc.GRU(2)).labels == ("gru", "gru_1", "gru_2")


def test_sequential_refuses_two_of_a_name_and_none():
    with pytest.raises(ValueError, match=exactly("sequential: two layers are named 'lstm_1'")):
        sc.Sequential(sc.LSTM(2), sc.LSTM(2), lstm_1=sc.LSTM(2))
    text = "sequential: no layers were given, expected at least one"
    with pytest.raises(ValueError, match=exactly(text)):
        sc.Sequential()


def test_sequential_is_its_layers_one_after_another(tokens, asarray, assert_close, to_host, rng):
    layer = sc.Sequential(
        sc.Embedding(3), sc.GRU(N_A, bidirectional=True), sc.Dense(N_OUT), top=sc.RNN(2)
    )
    params = on(asarray, layer.init(N_IN, like=np.zeros(0), rng=rng))
    dy = asarray(rng.standard_normal((T, 2, M)))
    y, state, tape = layer.forward(params, asarray(tokens), None, LENGTHS)
    dx, grads, dstate = layer.backward(params, tape, dy)

    x, ends, tapes = asarray(tokens), [], []
    for label, part in zip(layer.labels, layer.layers, strict=True):
        own = {name: params[f"{label}.{name}"] for name in part.names()}
        x, end, one = part.forward(own, x, None, LENGTHS)
        ends.append(end)
        tapes.append((own, one))
    assert_close(y, to_host(x), kind="cell", name="y")
    assert [type(end) for end in state] == [type(end) for end in ends]
    assert_close(state[1].h, to_host(ends[1].h), kind="cell", name="state")
    expected = {}
    for label, part, (own, one) in reversed(
        list(zip(layer.labels, layer.layers, tapes, strict=True))
    ):
        dy, drawn, start = part.backward(own, one, dy)
        expected |= {f"{label}.{name}": value for name, value in drawn.items()}
        if label == "gru":
            assert_close(dstate[1].h, to_host(start.h), kind="cell", name="dstate")
    assert dx is dy is None
    assert list(grads) == list(params)
    for name, value in expected.items():
        assert_close(grads[name], to_host(value), kind="cell", name=name)


@pytest.mark.parametrize("kind", [sc.RNN, sc.LSTM, sc.GRU])
def test_sequential_carries_its_state_over_windows(
    kind, tokens, asarray, assert_close, to_host, rng
):
    layer = model(kind(N_A, layers=2))
    params = on(asarray, layer.init(N_IN, like=np.zeros(0), rng=rng))
    whole, last, _ = layer.forward(params, asarray(tokens))
    state = None
    for window in (slice(2), slice(2, 6), slice(6, T)):
        y, state, _ = layer.forward(params, asarray(tokens[window]), state)
        assert_close(y, to_host(whole)[window], kind="bptt", name=str(window))
    assert len(state) == 3
    assert state[0] == state[2] == ()
    for got, wanted in zip(state[1], last[1], strict=True):
        assert_close(got, to_host(wanted), kind="bptt")


def test_sequential_hands_dstate_to_its_layers(tokens, asarray, assert_close, to_host, rng):
    layer = sc.Sequential(sc.Embedding(3), sc.LSTM(N_A), sc.Dense(N_OUT), sc.GRU(2))
    params = on(asarray, layer.init(N_IN, like=np.zeros(0), rng=rng))
    dy = asarray(rng.standard_normal((T, 2, M)))
    _, _, tape = layer.forward(params, asarray(tokens))
    _, whole, _ = layer.backward(params, tape, dy)
    # Over two windows, with the gradient handed through the cut.
    _, state, first = layer.forward(params, asarray(tokens[:4]))
    _, _, second = layer.forward(params, asarray(tokens[4:]), state)
    _, late, dstate = layer.backward(params, second, dy[4:, ...])
    _, early, _ = layer.backward(params, first, dy[:4, ...], dstate)
    for name, value in whole.items():
        assert_close(early[name] + late[name], to_host(value), kind="bptt", name=name)


@pytest.mark.host
@pytest.mark.parametrize("lengths", [None, [4, 0, 2, 1, 4, 3]], ids=["full", "ragged"])
def test_a_whole_model_backward_is_the_derivative(lengths, tokens, check_gradients, rng):
    tokens = tokens[:4]
    layer = model()
    drawn = layer.init(N_IN, like=np.zeros(0), rng=rng)
    params = {name: 0.5 * rng.standard_normal(value.shape) for name, value in drawn.items()}
    x, targets = np.where(tokens < 8, tokens, 0), rng.integers(N_IN, size=(4, M))
    mask = None if lengths is None else sc.sequence_mask(np.asarray(lengths), 4)
    if lengths is not None:
        x, targets = np.where(mask, x, -1), np.where(mask, targets, -1)

    def loss(at):
        logits, _, tape = layer.forward(at, x, None, lengths)
        value, dlogits = sc.cross_entropy(logits, targets, mask)
        return value, dlogits, tape

    _, dlogits, tape = loss(params)
    _, grads, _ = layer.backward(params, tape, dlogits)
    check_gradients(lambda at: loss(at)[0], params, grads)


def test_a_whole_model_is_the_same_on_every_library(tokens, asarray, assert_close, rng):
    layer = model(sc.GRU(N_A, layers=2))
    params = layer.init(N_IN, like=np.zeros(0), rng=rng)
    targets = rng.integers(N_IN, size=(T, M))

    def run(params, x, targets):
        logits, _, tape = layer.forward(params, x)
        loss, dlogits = sc.cross_entropy(logits, targets)
        _, grads, _ = layer.backward(params, tape, dlogits)
        return {"loss": loss, "logits": logits, **grads}

    got = run(on(asarray, params), asarray(tokens), asarray(targets))
    for name, wanted in run(params, tokens, targets).items():
        assert_close(got[name], wanted, kind="bptt", name=name)


def test_sequentials_nest(tokens, asarray, assert_close, to_host):
    inner = sc.Sequential(sc.LSTM(N_A), sc.Dense(N_OUT))
    layer = sc.Sequential(sc.Embedding(3), inner)
    params = layer.init(N_IN, like=asarray(0.0), rng=1)
    assert "sequential.lstm.0.W_h" in params
    y, state, tape = layer.forward(params, asarray(tokens))
    flat = sc.Sequential(sc.Embedding(3), sc.LSTM(N_A), sc.Dense(N_OUT))
    renamed = {name.removeprefix("sequential."): value for name, value in params.items()}
    wanted, _, _ = flat.forward(renamed, asarray(tokens))
    assert_close(y, to_host(wanted), kind="cell")
    _, grads, dstate = layer.backward(params, tape, y)
    assert list(grads) == list(params)
    # What forward and backward return is what they take.
    layer.forward(params, asarray(tokens), state)
    layer.backward(params, tape, y, dstate)


def test_sequential_names_what_is_wrong(tokens, asarray):
    layer = model()
    params = layer.init(N_IN, like=asarray(0.0), rng=0)
    x = asarray(tokens)
    y, state, tape = layer.forward(params, x)
    without = {name: value for name, value in params.items() if name != "lstm.0.b"}
    text = (
        "sequential: parameter 'lstm.0.b' is missing; got "
        "embedding.W, lstm.0.W_x, lstm.0.W_h, dense.W, dense.b"
    )
    for call in (lambda: layer.forward(without, x), lambda: layer.backward(without, tape, y)):
        with pytest.raises(ValueError, match=exactly(text)):
            call()
    with pytest.raises(ValueError, match=r"^sequential: unexpected parameter 'W'; expected "):
        layer.forward(params | {"W": y}, x)
    each = "expected a tuple with one entry for each of the layers embedding, lstm, dense"
    for wrong, kind, what in (
        (state[1], ValueError, "a tuple of 2"),
        (list(state), TypeError, "a list"),
    ):
        with pytest.raises(kind, match=exactly(f"sequential: state is {what}, {each}")):
            layer.forward(params, x, wrong)
        with pytest.raises(kind, match=exactly(f"sequential: dstate is {what}, {each}")):
            layer.backward(params, tape, y, wrong)
    with pytest.raises(TypeError, match=r"^sequential: tape is a NoneType, expected that of this"):
        layer.backward(params, None, y)


def test_sequential_notes_which_layer_an_error_is_from(asarray):
    layer = sc.Sequential(sc.LSTM(4), sc.LSTM(3))
    params = layer.init(2, like=asarray(0.0), rng=0)
    params["lstm_1.0.b"] = params["lstm.0.b"]
    with pytest.raises(ValueError, match=r"^lstm: 0\.b has shape") as caught:
        layer.forward(params, asarray(np.zeros((T, 2, M))))
    assert caught.value.__notes__ == ["in the layer 'lstm_1' of a Sequential"]


class Wide(sc.Dense):
    """A layer of a user's own, with an underscore in its name."""

    name = "wide_dense"


@pytest.mark.host
def test_sequential_numbers_twins_whatever_their_name():
    assert sc.Sequential(Wide(2), Wide(2)).labels == ("wide_dense", "wide_dense_1")


@pytest.mark.host
@pytest.mark.parametrize("wrong", [[sc.Dense(2)], sc.Dense, 3], ids=["list", "class", "number"])
def test_sequential_refuses_what_is_no_layer(wrong):
    with pytest.raises(TypeError, match=r"^sequential: .* was given, expected a layer$"):
        sc.Sequential(sc.Dense(1), wrong)


def test_backward_needs_the_parameters_and_the_tape_of_its_forward(asarray, foreign):
    x = asarray(np.zeros((T, 2, M)))
    for layer in (sc.LSTM(4), sc.Dense(4)):
        params = layer.init(2, like=x, rng=0)
        y, _, tape = layer.forward(params, x)
        other, text = layer.init(5, like=x, rng=0), "the tape was made with another '.*W.*' than "
        with pytest.raises(ValueError, match=rf"^{layer.name}: {text}"):
            layer.backward(other, tape, y)
        with pytest.raises(TypeError, match=rf"^{layer.name}: tape is a NoneType, expected that "):
            layer.backward(params, None, y)
        with pytest.raises(TypeError, match=rf"^{layer.name}: dy is a NoneType, expected an arr"):
            layer.backward(params, tape, None)
        (name, *_) = params
        for wrong in (foreign, None):
            with pytest.raises(ValueError, match=rf"^{layer.name}: {text}"):
                layer.backward(params | {name: wrong}, tape, y)


@pytest.mark.parametrize("layer", [sc.LSTM(4), sc.Dense(4), sc.Sequential(sc.Dense(4))])
@pytest.mark.parametrize("wrong", [None, [[0.5]], 1.0], ids=["None", "list", "float"])
def test_a_parameter_that_is_no_array_is_named(layer, wrong, asarray):
    x = asarray(np.zeros((T, 2, M)))
    params = layer.init(2, like=x, rng=0)
    for name in params:
        text = f"{layer.name}: {name} is a {type(wrong).__name__}, expected an array"
        for call in (layer.forward, layer.predict):
            with pytest.raises(TypeError, match=exactly(text)):
                call(params | {name: wrong}, x)
        with pytest.raises(TypeError, match=exactly(text)):
            layer.bind(params | {name: wrong})


def test_init_needs_no_more_than_a_seed(asarray, assert_close):
    layer = model()
    host = layer.init(N_IN, like=np.zeros(0), rng=np.random.default_rng(5))
    for name, value in layer.init(N_IN, like=asarray(0.0), rng=5).items():
        assert_close(value, host[name], kind="cell", name=name)


@pytest.mark.parametrize("make", [sc.Embedding, sc.Dense, lambda n: sc.Sequential(sc.Dense(n))])
def test_layers_are_frozen_values(make):
    assert make(3) == make(3) != make(4)
    assert hash(make(3)) == hash(make(3))
    field = dataclasses.fields(make(3))[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(make(3), field, 5)


@pytest.mark.parametrize("make", [sc.Embedding, sc.Dense])
def test_sizes_below_one_are_refused(make, asarray):
    with pytest.raises(ValueError, match=r"^\w+: n_out is 0, expected at least 1$"):
        make(0)
    with pytest.raises(ValueError, match=r"^\w+: n_in is 0, expected at least 1$"):
        make(3).init(0, like=asarray(0.0), rng=0)


@pytest.mark.parametrize(
    "layer", [sc.Embedding(3), sc.Dense(3), sc.Dropout(0.5), sc.GRU(3), model()]
)
def test_parameters_are_drawn_like_floats_only(layer, asarray):
    integers = asarray(np.zeros(1, dtype=int))
    text = rf"^\w+: like has dtype {integers.dtype}, expected a floating point dtype$"
    with pytest.raises(TypeError, match=text):
        layer.init(N_IN, like=integers, rng=0)
    with pytest.raises(TypeError, match=r"^\w+: like is a float, expected an array$"):
        layer.init(N_IN, like=1.0, rng=0)


# --- every argument is used or refused ----------------------------------------------------

EVERY = {
    "rnn": (sc.RNN(N_A), None),
    "lstm": (sc.LSTM(N_A, layers=2), None),
    "peephole": (sc.LSTM(N_A, peephole=True), None),
    "gru": (sc.GRU(N_A, bidirectional=True), None),
    "dense": (sc.Dense(N_OUT), None),
    "dropout": (sc.Dropout(0.5), None),
    "embedding": (sc.Embedding(N_OUT), TOKENS),
    "sequential": (model(sc.GRU(N_A)), TOKENS),
    "nested": (sc.Sequential(sc.Dense(3), sc.Sequential(sc.LSTM(N_A), sc.Dropout(0.5))), None),
    "sharded": (sc.Sharded(sc.Sequential(sc.LSTM(N_A), sc.Dense(N_OUT)), 2), None),
}
NONSENSE = {"a string": "nonsense", "a number": 3.5, "an object": object(), "a dict": {"a": 1}}
ARGUMENTS = ("params", "x", "state", "lengths", "mask", "draw", "tape", "dy", "dstate", "wrt", "m")
each_of_every = pytest.mark.parametrize(("layer", "tokens"), EVERY.values(), ids=EVERY)


@each_of_every
@pytest.mark.parametrize("argument", [*ARGUMENTS, "n_in", "like", "rng"])
@pytest.mark.parametrize("wrong", NONSENSE.values(), ids=NONSENSE)
def test_every_argument_is_used_or_refused(layer, tokens, argument, wrong, asarray, rng):
    problem = Problem.of(rng, layer, tokens=tokens, draw=0 if layer.drops else None).move(asarray)
    params, x = problem.params, problem.x
    y, _, tape = problem.forward()
    changed = {argument: wrong}
    calls = []
    if argument in ("params", "x", "state", "lengths", "mask", "draw"):
        own = {"params": params, "x": x, "draw": problem.draw} | changed
        calls.append(lambda: layer.forward(**own))
        if argument != "draw":
            calls.append(lambda: layer.predict(**{k: v for k, v in own.items() if k != "draw"}))
        if argument in ("x", "state", "lengths", "mask") and layer.name != "gru":
            bound = layer.bind(params, M)
            calls.append(lambda: bound.predict(**{"x": x} | changed))
    if argument in ("params", "tape", "dy", "dstate", "wrt"):
        back = {"params": params, "tape": tape, "dy": y} | changed
        calls.append(lambda: layer.backward(**back))
    if argument in ("params", "m"):
        calls.append(lambda: layer.bind(**{"params": params} | changed))
    if argument in ("n_in", "like", "rng"):
        calls.append(lambda: layer.init(**{"n_in": N_IN, "like": asarray(0.0), "rng": 0} | changed))
    assert calls
    for call in calls:
        with pytest.raises((TypeError, ValueError)) as caught:
            call()
        if argument != "rng":  # that is NumPy's to refuse
            said = str(caught.value)
            assert re.match(rf"^\w+: .*\b{argument}\b", said) or argument == "params", said


@pytest.mark.parametrize(
    "layer",
    [
        sc.RNN(N_A),
        sc.LSTM(N_A),
        sc.GRU(N_A),
        sc.Dense(N_OUT),
        sc.Sequential(sc.LSTM(N_A), sc.Dense(2)),
        sc.Sequential(sc.Sequential(sc.Dense(2))),
        sc.Sequential(sc.Dropout(0.5), sc.LSTM(N_A)),
        sc.Sharded(sc.GRU(N_A), 2),
    ],
)
def test_the_order_of_axes_is_blamed_first(layer, asarray):
    # Nothing else is right either, which only follows from it.
    params = layer.init(N_IN, like=asarray(0.0), rng=0)
    drop = {"draw": "nonsense"} if layer.drops else {}
    for shape in ((N_IN, M, T), (M, T, N_IN), (M, N_IN + 1, T)):
        x, state = asarray(np.zeros(shape)), asarray(np.zeros((1, N_A, M)))
        start = rf"^\w+: x has shape {re.escape(str(shape))}, expected time first, "
        text = start + r"\(T, (n_x|n_in), m\) = \(T, 9, m\)"
        mask = asarray(np.ones((T, M), dtype=bool))
        with pytest.raises(ValueError, match=text):
            layer.forward(params, x, (state,), LENGTHS, mask, **drop)
        with pytest.raises(ValueError, match=text):
            layer.predict(params, x, (state,), LENGTHS, mask)
        with pytest.raises(ValueError, match=text):
            layer.bind(params).predict(x, (state,), LENGTHS, mask)


def test_a_token_out_of_range_is_refused_or_where_it_cannot_be_read_nan(library, asarray, to_host):
    readable = library.name not in ("jax", "dask")
    layer = sc.Embedding(2)
    params = layer.init(3, like=asarray([0.0]), rng=0)
    predict = layer.predict
    if library.name == "jax":
        import jax

        predict = jax.jit(layer.predict)
    for wrong in (99, 3, -1, -7):
        tokens = asarray(np.asarray([[0, wrong], [2, 1]]))
        if readable:
            with pytest.raises(
                ValueError, match=f"^embedding: x holds {wrong}, expected 0 <= token"
            ):
                predict(params, tokens)
            continue
        y, _ = predict(params, tokens)
        expected = np.zeros((2, 2, 2), dtype=bool)
        expected[0, :, 1] = True
        np.testing.assert_array_equal(np.isnan(to_host(y)), expected)
