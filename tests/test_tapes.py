"""Tapes: who may use them, how often, and that only what is wanted is computed."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from judging import exactly, named, same_bits
from nestings import links
from problems import ENDING, KINDS, N_A, N_Y, TOKENS, WAYS, Mean, Problem, Scaled, recurrent

import seqcore as sc
from seqcore import sequence
from seqcore.cells import linear
from seqcore.layers.door import BuiltIn
from seqcore.sequence import stepwise

pytestmark = pytest.mark.usefixtures("unoptimized")

MODEL = sc.Sequential(
    sc.Embedding(3),
    sc.LSTM(N_A, layers=2),
    Scaled(),
    sc.Sequential(sc.Dropout(0.3), sc.GRU(3, bidirectional=True)),
    sc.Dense(N_Y),
)
# With the size of the vocabulary where x holds tokens.
LAYERS: dict[str, tuple[Any, int | None]] = {kind: (recurrent(kind), None) for kind in KINDS}
LAYERS |= {
    "stacked both ways": (sc.LSTM(N_A, **WAYS["stacked both ways"]), None),
    "recompute": (sc.GRU(N_A, layers=2, recompute=2), None),
    "dense": (sc.Dense(N_Y), None),
    "dropout": (sc.Dropout(0.4), None),
    "embedding": (sc.Embedding(N_Y), TOKENS),
    "model": (MODEL, TOKENS),
    "sharded": (sc.Sharded(MODEL, 2), TOKENS),
    **{name: (layer, None) for name, layer in ENDING.items()},
}
each_layer = pytest.mark.parametrize(("layer", "tokens"), LAYERS.values(), ids=LAYERS)


def drawn(rng: np.random.Generator, layer: Any, **options: Any) -> Problem:
    """Draw a problem, with a draw where the layer drops."""
    return Problem.of(rng, layer, draw=3 if layer.drops else None, **options)


def back(problem: Problem, tape: Any, wrt: Any = None) -> dict[str, Any]:
    """Return all that is not None of what backward returns, by name."""
    dx, grads, dstart = problem.layer.backward(
        problem.params, tape, problem.dy, problem.dstate, wrt
    )
    found = {"dx": dx, **grads, **named("dstart", dstart)}
    return {name: value for name, value in found.items() if value is not None}


@pytest.fixture
def placed(asarray, rng):
    """Draw a problem of a layer on the device."""
    return lambda layer, tokens=None: drawn(rng, layer, tokens=tokens).move(asarray)


@pytest.fixture(scope="session")
def on_host(to_host):
    """Copy named arrays to the host, without the empty states of layers that have none."""
    return lambda found: {
        name: to_host(value) for name, value in found.items() if not isinstance(value, tuple)
    }


# --- another layer ----------------------------------------------------------------------

OTHERS = {
    "the activation": (sc.RNN(N_A), sc.RNN(N_A, activation="relu")),
    "the reset gate": (  # whose names differ but for the layer's own
        sc.Sequential(sc.GRU(N_A, reset_after=False)),
        sc.Sequential(sc.Sharded(sc.GRU(N_A, reset_after=False), 1)),
    ),
    "units": (sc.LSTM(N_A), sc.LSTM(N_A + 1)),
    "recompute": (sc.LSTM(N_A, recompute=2), sc.LSTM(N_A, recompute=3)),
    "recompute or not": (sc.LSTM(N_A), sc.LSTM(N_A, recompute=True)),
    "the kind": (sc.LSTM(N_A), sc.RNN(N_A)),
    "features": (sc.Dense(N_Y), sc.Dense(N_Y + 1)),
    "the rate": (sc.Dropout(0.4), sc.Dropout(0.5)),
    "the seed": (sc.Dropout(0.4), sc.Dropout(0.4, seed=1)),
    "within a model": (sc.Sequential(sc.RNN(2)), sc.Sequential(sc.RNN(2, activation="relu"))),
    "a model and its layer": (sc.Sharded(sc.Dense(2), 2), sc.Dense(2)),
    "shards": (sc.Sharded(sc.Dense(2), 2), sc.Sharded(sc.Dense(2), 3)),
}


@pytest.mark.parametrize(("one", "other"), OTHERS.values(), ids=OTHERS)
def test_the_tape_of_another_layer_is_refused_by_name(one, other, placed):
    for made, asked in ((one, other), (other, one)):
        problem = placed(made)
        _, _, tape = problem.forward()
        text = f"{asked.name}: tape is that of {made!r}, expected that of this layer, {asked!r}"
        with pytest.raises(TypeError, match=exactly(text)):
            asked.backward(problem.params, tape, problem.dy)


# Every layer with every option, and in every container.
OWNERS: list[Any] = [
    *(recurrent(kind, **way) for kind in KINDS for way in WAYS.values()),
    *(recurrent(kind, recompute=2) for kind in KINDS),
    *(layer for pair in OTHERS.values() for layer in pair),
    *ENDING.values(),
    *(sc.Embedding(n) for n in (3, 4)),
    sc.Sequential(sc.Dropout(0.4)),
    sc.Sequential(sc.Dropout(0.4), sc.Dropout(0.0)),
    *(sc.Sequential(layer) for layer in (sc.RNN(N_A), sc.LSTM(N_A), Scaled(), Mean())),
    sc.Sequential(rnn_1=sc.RNN(N_A)),  # another label
    sc.Sequential(sc.Sequential(sc.RNN(N_A))),
    sc.Sequential(sc.RNN(N_A), Scaled()),
    sc.Sequential(Scaled(), sc.RNN(N_A)),
    *(sc.Sharded(layer, 2) for layer in (sc.RNN(N_A), sc.LSTM(N_A), Scaled(), Mean())),
    sc.Sharded(sc.RNN(N_A), 2, threads=1),
    sc.Sharded(sc.Sequential(sc.RNN(N_A)), 2),
    sc.Sequential(sc.Sharded(sc.RNN(N_A), 2)),
    sc.Sharded(sc.Sharded(sc.RNN(N_A), 2), 2),
]


def takes_tokens(layer: Any) -> bool:
    """Tell whether an Embedding is in front."""
    if isinstance(layer, sc.Sequential):
        return takes_tokens(layer.layers[0])
    if isinstance(layer, sc.Sharded):
        return takes_tokens(layer.layer)
    return isinstance(layer, sc.Embedding)


@pytest.mark.host
def test_no_layer_takes_the_tape_of_any_other(rng):
    owners = list({repr(layer): layer for layer in OWNERS}.values())
    assert len(owners) > 60
    problems = [drawn(rng, a, tokens=TOKENS if takes_tokens(a) else None) for a in owners]
    tapes = [problem.forward()[2] for problem in problems]
    for one, tape in zip(problems, tapes, strict=True):
        for other in problems:
            if other is one:
                other.backward(tape)
                continue
            text = f"{other.layer.name}: tape is that of {one.layer!r}, expected that of this lay"
            with pytest.raises(TypeError, match=f"^{re.escape(text)}"):
                other.layer.backward(other.params, tape, one.dy, one.dstate)
            # With the parameters of the tape these may be what is refused.
            with pytest.raises((TypeError, ValueError), match=f"^{other.layer.name}: "):
                other.layer.backward(one.params, tape, one.dy, one.dstate)


@pytest.mark.host
@given(pair=st.tuples(links(), links()), seed=st.integers(0, 2**32 - 1))
def test_no_nesting_takes_the_tape_of_another_or_of_other_parameters(pair, seed):
    rng = np.random.default_rng(seed)
    one, other = (drawn(rng, sc.Sequential(layer), n_steps=2, m=2) for layer in pair)
    tape = one.forward()[2]
    if repr(pair[0]) != repr(pair[1]):
        with pytest.raises(TypeError, match=r"^sequential: tape is that of Sequential\("):
            other.layer.backward(other.params, tape, one.dy, one.dstate)
    for name, value in one.params.items():
        text = f"sequential: the tape was made with another {name!r} than the one given; "
        with pytest.raises(ValueError, match=f"^{re.escape(text)}"):
            one.layer.backward(one.params | {name: value.copy()}, tape, one.dy, one.dstate)
    one.backward(tape)


def test_the_tapes_of_the_two_resets_are_told_apart(placed):
    # One more bias makes their parameters differ: both are refused for what they are.
    after, before = sc.GRU(N_A), sc.GRU(N_A, reset_after=False)
    problem, other = placed(after), placed(before)
    _, _, tape = problem.forward()
    _, _, other_tape = other.forward()
    text = f"gru: tape is that of {after!r}, expected that of this layer, {before!r}"
    with pytest.raises(TypeError, match=exactly(text)):
        before.backward(other.params, tape, problem.dy)
    text = f"gru: tape is that of {before!r}, expected that of this layer, {after!r}"
    with pytest.raises(TypeError, match=exactly(text)):
        after.backward(problem.params, other_tape, problem.dy)


def test_an_equal_layer_takes_the_tape(placed, on_host):
    problem = placed(sc.LSTM(N_A))
    _, _, tape = problem.forward()
    twin = problem.but(layer=sc.LSTM(N_A))
    same_bits(on_host(back(twin, tape)), on_host(back(problem, tape)))


@pytest.mark.host
def test_backward_cannot_be_told_how_its_tape_was_made():
    asked = set(inspect.signature(sequence.backward).parameters)
    asked |= set(inspect.signature(stepwise.backward).parameters)
    asked |= set(inspect.signature(BuiltIn.backward).parameters)
    assert not asked & {"reverse", "recompute", "cell", "mask", "lengths"}


@each_layer
def test_what_is_no_tape_is_refused(layer, tokens, placed):
    problem = placed(layer, tokens)
    _, _, tape = problem.forward()
    for wrong in (None, (), 5, "x", problem.x, tape.kept, tuple(tape)):
        kind = type(wrong).__name__
        text = f"{layer.name}: tape is a {kind}, expected that of this layer's forward"
        with pytest.raises(TypeError, match=exactly(text)):
            layer.backward(problem.params, wrong, problem.dy)


# --- other parameters -------------------------------------------------------------------


@each_layer
def test_other_parameters_are_refused_by_name(layer, tokens, placed, xp, on_host, library):
    problem = placed(layer, tokens)
    _, _, tape = problem.forward()
    for name, value in problem.params.items():
        text = f"{layer.name}: the tape was made with another {name!r} than the one given; "
        text += "backward takes the parameters of its forward"
        others = [value + 1.0, None, [0.5]]
        if library.name != "dask":  # which names arrays by their values
            others.append(xp.asarray(value, copy=True))
        for wrong in others:
            with pytest.raises(ValueError, match=exactly(text)):
                layer.backward(problem.params | {name: wrong}, tape, problem.dy)
    # The same arrays in another dict are the same parameters.
    turned = dict(reversed(problem.params.items()))
    other = problem.but(params=turned)
    same_bits(on_host(back(other, tape)), on_host(back(problem, tape)))


def viewed(problem: Problem) -> Problem:
    return problem.but(params={name: value[...] for name, value in problem.params.items()})


@pytest.mark.host
def test_a_view_on_the_same_memory_is_the_same_parameter(placed):
    problem = placed(sc.LSTM(N_A))
    _, _, tape = problem.forward()
    same_bits(back(viewed(problem), tape), back(problem, tape))
    # But not one that reads it in another order.
    W_h = problem.params["0.W_h"]
    with pytest.raises(ValueError, match=r"^lstm: the tape was made with another '0\.W_h' than"):
        back(problem.but(params=problem.params | {"0.W_h": W_h.mT}), tape)


@pytest.mark.only("torch")
def test_a_view_of_a_tensor_is_the_same_parameter(placed, on_host):
    problem = placed(sc.LSTM(N_A))
    _, _, tape = problem.forward()
    same_bits(on_host(back(viewed(problem), tape)), on_host(back(problem, tape)))


# --- copies, and more than once ---------------------------------------------------------

WAYS_TO_COPY = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda tape: pickle.loads(pickle.dumps(tape)),  # noqa: S301 - our own
}


@each_layer
@pytest.mark.parametrize("way", WAYS_TO_COPY)
def test_a_copy_of_a_tape_is_a_tape(layer, tokens, way, placed, on_host):
    problem = placed(layer, tokens)
    _, _, tape = problem.forward()
    copied = WAYS_TO_COPY[way](tape)
    expected = on_host(back(problem, tape))
    same_bits(on_host(back(problem, copied)), expected)
    # Its parameters may be copies, which cannot be detected; its layer is known.
    params = {name: copy.deepcopy(value) for name, value in problem.params.items()}
    same_bits(on_host(back(problem.but(params=params), copied)), expected)
    with pytest.raises(TypeError, match=rf"^dense: tape is that of {type(layer).__name__}"):
        sc.Dense(1).backward(sc.Dense(1).init(1, like=problem.dy, rng=0), copied, problem.dy)


@pytest.mark.parametrize("layer", [sc.LSTM(N_A), sc.Dense(N_Y), sc.Sequential(sc.GRU(2))])
def test_with_a_copied_tape_wrong_parameters_are_named_too(layer, placed, foreign, asarray):
    problem = placed(layer)
    tape = copy.deepcopy(problem.forward()[2])
    for name, value in problem.params.items():
        for wrong, kind, text in (
            (None, TypeError, "is a NoneType, expected an array"),
            (foreign, TypeError, "is an array of "),
            (asarray(np.zeros((1, *value.shape))), ValueError, "has shape "),
        ):
            own = name.removeprefix("gru.")  # a model's layer calls it so
            with pytest.raises(kind, match=rf"^\w+: ({name}|{own}) {text}"):
                layer.backward(problem.params | {name: wrong}, tape, problem.dy)


@each_layer
def test_a_tape_may_be_used_again(layer, tokens, placed, on_host):
    problem = placed(layer, tokens)
    _, _, tape = problem.forward()
    expected = on_host(back(problem, tape))
    back(problem.but(dy=2.0 * problem.dy), tape)
    back(problem, tape, ["x"])
    same_bits(on_host(back(problem, tape)), expected)


# --- wrt --------------------------------------------------------------------------------


@each_layer
def test_wrt_names_what_comes_back(layer, tokens, placed, on_host):
    problem = placed(layer, tokens)
    _, _, tape = problem.forward()
    names = list(problem.params)
    whole = on_host(back(problem, tape))
    for wrt in ([], ["x"], ["state"], *([name] for name in names), names, ["x", *names[:1]]):
        dx, grads, dstart = problem.layer.backward(
            problem.params, tape, problem.dy, problem.dstate, wrt
        )
        assert list(grads) == [name for name in names if name in wrt]
        assert (dx is not None) == ("x" in wrt and tokens is None)
        found = grads | ({} if dx is None else {"dx": dx})
        if "state" in wrt:
            found |= named("dstart", dstart)
        found = on_host(found)
        same_bits(found, {name: whole[name] for name in found})
    # Every name is all there is.
    same_bits(on_host(back(problem, tape, ["x", "state", *names])), whole)


def test_wrt_may_be_any_collection_in_any_order(placed, on_host):
    problem = placed(sc.GRU(N_A))
    _, _, tape = problem.forward()
    expected = on_host(back(problem, tape, ["0.b", "0.W_x"]))
    for wrt in (
        ("0.W_x", "0.b"),
        {"0.b", "0.W_x"},
        iter(["0.b", "0.W_x"]),
        ["0.b", "0.b", "0.W_x"],
        {"0.W_x": 1, "0.b": 2},
    ):
        same_bits(on_host(back(problem, tape, wrt)), expected)


@each_layer
def test_wrt_refuses_what_it_does_not_know(layer, tokens, placed):
    problem = placed(layer, tokens)
    _, _, tape = problem.forward()
    known = ", ".join(repr(name) for name in ("x", "state", *problem.params))
    for wrong in ("nonsense", "dx", "W_z", 5, None, ("x",), ["x"]):
        text = f"{layer.name}: wrt names {wrong!r}, expected some of {known}"
        with pytest.raises(ValueError, match=exactly(text)):
            layer.backward(problem.params, tape, problem.dy, wrt=["x", wrong])
    for wrong in ("x", 5, True):
        text = f"{layer.name}: wrt is {wrong!r}, expected a collection of names"
        with pytest.raises(TypeError, match=exactly(text)):
            layer.backward(problem.params, tape, problem.dy, wrt=wrong)


# --- what is not wanted is not computed -------------------------------------------------


@pytest.fixture
def entered(monkeypatch):
    """Note which layers are gone back over, and with what wanted."""
    seen: list[tuple[Any, frozenset[str]]] = []
    for kind in (sc.Embedding, sc.Dense, sc.Dropout, sc.LSTM, sc.GRU):
        run_back = kind.run_back

        def noted(self, params, kept, dy, dstate, wanted, run_back=run_back):
            seen.append((self, wanted))
            return run_back(self, params, kept, dy, dstate, wanted)

        monkeypatch.setattr(kind, "run_back", noted)
    return seen


@pytest.fixture
def taken(monkeypatch):
    """Count the products of the backward pass: over which passes, dW and dx."""
    seen = {"passes": 0, "dW": 0, "dx": 0}
    backward, outers, plan_backward = sequence.backward, linear.outers, linear.plan_backward

    class Counted:
        def __init__(self, W):
            self.W, self.shape = W, W.shape

        def __matmul__(self, dz):
            seen["dx"] += 1
            return self.W @ dz

    def passes(*given):
        seen["passes"] += 1
        return backward(*given)

    def dW(*given):
        seen["dW"] += 1
        return outers(*given)

    def dx(*given):
        found = plan_backward(*given)
        assert found.W_x_t is not None  # else it is part of the product for h
        return found._replace(W_x_t=Counted(found.W_x_t))

    monkeypatch.setattr(sequence, "backward", passes)
    monkeypatch.setattr(linear, "outers", dW)
    monkeypatch.setattr(linear, "plan_backward", dx)
    return seen


# More features than units, so that x has a product of its own on every library.
WIDE = 3 * N_A


@pytest.mark.parametrize(
    ("wrt", "passes", "dW", "dx"),
    [
        (None, 4, 4, 4),
        (["x"], 4, 0, 4),
        (["state"], 4, 0, 2),
        (["0.b"], 3, 1, 2),
        (["0.reverse.W_x", "1.b"], 3, 2, 2),
        (["1.W_h"], 1, 1, 0),
        (["1.b", "1.reverse.b"], 2, 2, 0),
        ([], 0, 0, 0),
    ],
)
def test_a_stack_computes_what_is_wanted(wrt, passes, dW, dx, asarray, rng, taken):
    layer = sc.LSTM(N_A, layers=2, bidirectional=True)
    problem = Problem.of(rng, layer, n_in=WIDE).move(asarray)
    _, _, tape = problem.forward()
    found = back(problem, tape, wrt)
    assert taken == {"passes": passes, "dW": dW, "dx": dx}
    # There is a gradient of the state where it led through every pass.
    assert any(name.startswith("dstart") for name in found) == (passes == 4)


FROZEN = sc.Sequential(
    sc.Embedding(3), sc.LSTM(N_A), sc.Sequential(sc.GRU(4), low=sc.Dense(2)), sc.Dense(N_Y)
)


@pytest.mark.parametrize("shards", [None, 1])
@pytest.mark.parametrize(
    ("wrt", "expected"),
    [
        (["dense.W"], [(sc.Dense(N_Y), {"W"})]),
        (["sequential.low.b"], [(sc.Dense(N_Y), {"x"}), (sc.Dense(2), {"b"})]),
        (
            ["dense.b", "sequential.gru.0.b"],
            [(sc.Dense(N_Y), {"b", "x"}), (sc.Dense(2), {"x"}), (sc.GRU(4), {"0.b"})],
        ),
        (
            ["lstm.0.W_h"],
            [
                (sc.Dense(N_Y), {"x"}),
                (sc.Dense(2), {"x"}),
                (sc.GRU(4), {"x"}),
                (sc.LSTM(N_A), {"0.W_h"}),
            ],
        ),
        ([], []),
    ],
    ids=["the last", "nested", "two", "lower", "nothing"],
)
def test_frozen_layers_below_are_not_entered(wrt, expected, shards, asarray, rng, entered):
    layer = FROZEN if shards is None else sc.Sharded(FROZEN, shards)
    problem = Problem.of(rng, layer, tokens=TOKENS).move(asarray)
    _, _, tape = problem.forward()
    dx, grads, dstart = layer.backward(problem.params, tape, problem.dy, problem.dstate, wrt)
    assert entered == expected
    assert dx is None
    assert list(grads) == [name for name in problem.params if name in wrt]
    # Nothing wanted leads through the others: there is no gradient of their states.
    led = [layer for layer, _ in expected]
    assert (dstart[1] is None) == (sc.LSTM(N_A) not in led)
    assert dstart[2] is None or (dstart[2][0] is None) == (sc.GRU(4) not in led)


@pytest.mark.host
def test_an_embedding_and_a_dense_compute_what_is_wanted(rng, monkeypatch):
    from seqcore.layers import dense, embedding

    def no(*_):
        raise AssertionError("a product that nobody wants")

    problems = [
        (Problem.of(rng, sc.Dense(N_Y)), dense),
        (Problem.of(rng, sc.Embedding(N_Y), tokens=TOKENS), embedding),
    ]
    for problem, module in problems:
        _, _, tape = problem.forward()
        with monkeypatch.context() as patch:
            patch.setattr(module, "outer", no)
            back(problem, tape, ["x"])
    problem, _ = problems[0]
    _, _, tape = problem.forward()
    monkeypatch.setattr(dense, "in_time", no)  # of dx only
    back(problem, tape, ["W", "b"])


# --- through JAX's transformations ------------------------------------------------------


@pytest.mark.only("jax")
@each_layer
def test_a_tape_goes_through_jit(layer, tokens, placed, close):
    import jax

    problem = placed(layer, tokens)
    expected = back(problem, problem.forward()[2])
    forward = jax.jit(problem.forward)
    backward = jax.jit(layer.backward, static_argnums=4)
    for _ in range(2):  # the second time nothing is traced
        _, _, tape = forward(problem.params, problem.x, problem.state)
        for wrt in (None, ("x", "state"), tuple(problem.params)[:1]):
            dx, grads, dstart = backward(problem.params, tape, problem.dy, problem.dstate, wrt)
            assert set(grads) == {n for n in problem.params if wrt is None or n in wrt}
            found = {} if dx is None else {"dx": dx}
            if wrt is None or "state" in wrt:
                found |= named("dstart", dstart)
            found = {k: v for k, v in (found | grads).items() if not isinstance(v, tuple)}
            close(found, {name: expected[name] for name in found})
    assert forward._cache_size() == 1
    assert backward._cache_size() == 3


@pytest.mark.only("jax")
def test_a_tape_from_jit_still_knows_its_layer(placed):
    import jax

    relu = sc.RNN(N_A, activation="relu")
    problem = placed(sc.RNN(N_A))
    tape = jax.jit(lambda params: problem.forward(params)[2])(problem.params)
    with pytest.raises(TypeError, match=r"^rnn: tape is that of RNN\(.*'tanh'\), expected that of"):
        relu.backward(problem.params, tape, problem.dy)
    with pytest.raises(TypeError, match=r"^rnn: tape is that of RNN"):
        jax.jit(relu.backward)(problem.params, tape, problem.dy)
