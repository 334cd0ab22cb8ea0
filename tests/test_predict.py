"""Predicting: what forward gives, without a tape; in windows, bound, and from which states."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from judging import named, same_bits
from problems import (
    ENDING,
    KINDS,
    N_A,
    N_X,
    N_Y,
    TOKENS,
    WAYS,
    M,
    Mean,
    Problem,
    Scaled,
    T,
    each_kind,
    each_steps,
    each_way,
    on,
    recurrent,
)

import seqcore as sc
from seqcore import checks, sequence
from seqcore.layers import hooks

pytestmark = pytest.mark.usefixtures("unoptimized")

MODEL = sc.Sequential(
    sc.Embedding(3),
    sc.LSTM(N_A, layers=2),
    sc.Sequential(sc.Dropout(0.0), Scaled(), sc.GRU(4, reset_after=False)),
    sc.Dense(N_Y),
)
# With the size of the vocabulary where x holds tokens; none of them drops.
LAYERS: dict[str, tuple[Any, int | None]] = {
    "recompute": (sc.LSTM(N_A, layers=2, recompute=2), None),
    "dense": (sc.Dense(N_Y), None),
    "embedding": (sc.Embedding(N_Y), TOKENS),
    "model": (MODEL, TOKENS),
    "both ways": (sc.Sequential(sc.GRU(N_A, bidirectional=True), sc.Dense(N_Y)), None),
    "sharded": (sc.Sharded(MODEL, 2), TOKENS),
    "ends time": (sc.Sequential(sc.RNN(N_A), Mean(), sc.Dense(N_Y)), None),
    **{name: (layer, None) for name, layer in ENDING.items()},
}
each_layer = pytest.mark.parametrize(("layer", "tokens"), LAYERS.values(), ids=LAYERS)


def predicted(problem: Problem, predict: Any = None) -> dict[str, Any]:
    """Return y and the last state that a layer predicts, by name."""
    if predict is None:
        y, last = problem.layer.predict(
            problem.params, problem.x, problem.state, problem.lengths, problem.mask
        )
    else:
        y, last = predict(problem.x, problem.state, problem.lengths, problem.mask)
    return {"y": y, **arrays_of(last)}


def ahead(problem: Problem) -> dict[str, Any]:
    """Return y and the last state of forward, by name."""
    y, last, _ = problem.forward()
    return {"y": y, **arrays_of(last)}


def arrays_of(last: Any) -> dict[str, Any]:
    return {k: v for k, v in named("last", last).items() if not isinstance(v, tuple)}


# --- what forward gives -----------------------------------------------------------------


@each_kind
@each_way
@each_steps
def test_predict_is_forward(kind, way, steps, asarray, close, rng, library):
    problem = Problem.of(rng, recurrent(kind, **WAYS[way]), **steps).move(asarray)
    if library.name == "numpy":
        same_bits(predicted(problem), ahead(problem))
    else:
        close(predicted(problem), ahead(problem))


@each_layer
@each_steps
def test_every_layer_predicts_what_forward_gives(
    layer, tokens, steps, asarray, close, rng, library
):
    problem = Problem.of(rng, layer, tokens=tokens, **steps).move(asarray)
    if library.name == "numpy":
        same_bits(predicted(problem), ahead(problem))
    else:
        close(predicted(problem), ahead(problem))


def test_without_a_state_it_begins_at_zero(asarray, close, rng):
    problem = Problem.of(rng, MODEL, tokens=TOKENS).move(asarray)
    y, last, _ = MODEL.forward(problem.params, problem.x)
    got, end = MODEL.predict(problem.params, problem.x)
    close({"y": got, **arrays_of(end)}, {"y": y, **arrays_of(last)})


def test_predict_drops_nothing(asarray, close, rng):
    def model(rate):
        inner = sc.Sequential(sc.Dropout(rate), sc.LSTM(N_A), sc.Dropout(rate))
        return sc.Sharded(sc.Sequential(sc.Dropout(rate), inner, sc.Dense(N_Y)), 2)

    problem = Problem.of(rng, model(0.0)).move(asarray)
    close(predicted(problem.but(layer=model(0.9))), ahead(problem))
    x = problem.x
    assert sc.Dropout(0.5).predict({}, x)[0] is x


@pytest.mark.host
def test_a_dense_without_time_predicts_what_forward_gives(rng):
    layer = sc.Dense(N_Y)
    params, x = layer.init(N_X, like=np.zeros(0), rng=rng), rng.standard_normal((N_X, M))
    same_bits({"y": layer.predict(params, x)[0]}, {"y": layer.forward(params, x)[0]})


# --- memory -----------------------------------------------------------------------------


def peak(layer: Any, n_steps: int, tokens: int | None) -> tuple[int, int]:
    """Return the bytes that predict takes at most, and those of y."""
    params = layer.init(tokens or N_X, like=np.zeros(0), rng=0)
    x = np.zeros((n_steps, M), int) if tokens else np.zeros((n_steps, N_X, M))
    layer.predict(params, x[:2])  # what is made once
    tracemalloc.start()
    try:
        y, _ = layer.predict(params, x)
        return tracemalloc.get_traced_memory()[1], y.nbytes
    finally:
        tracemalloc.stop()


@pytest.mark.host
@pytest.mark.parametrize(
    ("layer", "tokens"),
    [
        (sc.LSTM(32), None),
        (sc.LSTM(32, layers=3), None),
        (sc.Sequential(sc.Embedding(8), sc.LSTM(32), sc.Dense(24)), TOKENS),
        (sc.Sequential(sc.LSTM(32, layers=3), sc.Dense(2)), None),
        (sc.Sequential(sc.LSTM(32), sc.Last(), sc.Dense(2)), None),
        (sc.Sequential(sc.Sequential(sc.Embedding(8), sc.GRU(32), sc.Last())), TOKENS),
    ],
    ids=["lstm", "stack", "model", "small y", "last", "last nested"],
)
def test_memory_does_not_grow_with_t_but_for_y(layer, tokens, library):
    short, of_short = peak(layer, 3000, tokens)
    long, of_long = peak(layer, 12000, tokens)
    # The standard can't join parts without a second copy of them; NumPy's kernels can.
    copies = 2 if library.variant == "generic" else 1
    assert long - copies * of_long <= short - copies * of_short + 200_000


# --- in windows -------------------------------------------------------------------------


@pytest.fixture
def windows_of_3(monkeypatch):
    """T = 7 in windows of 3, 3 and 1 steps."""
    monkeypatch.setattr(hooks, "WINDOW", 3)


OWN = sc.Sequential(
    sc.Embedding(3),
    sc.Sequential(sc.LSTM(N_A, layers=2), sc.Dropout(0.5)),
    sc.Sharded(sc.GRU(4), 2),
    sc.Dense(N_Y),
)


LAST = sc.Sequential(
    sc.Embedding(3),
    sc.Sharded(sc.Sequential(sc.LSTM(N_A, layers=2), sc.Dropout(0.5), sc.Last()), 2),
    sc.Dense(N_Y),
)


@each_steps
@pytest.mark.parametrize("layer", [OWN, MODEL, LAST], ids=["own", "with a user's own", "last"])
def test_windows_are_the_whole(layer, steps, asarray, close, rng, monkeypatch):
    problem = Problem.of(rng, layer, tokens=TOKENS, draw=0, **steps).move(asarray)
    whole = predicted(problem)
    monkeypatch.setattr(hooks, "WINDOW", 3)
    close(predicted(problem), whole)


@pytest.mark.host
@pytest.mark.parametrize(
    ("way", "m", "expected"),
    [
        ("stacked", 1, [1024, 1024, 152]),  # of blocks of 128 steps
        ("stacked", 20, [1056, 1056, 88]),  # of blocks of 48
        ("both ways", 1, [2200]),
        ("stacked both ways", 1, [2200]),
    ],
)
def test_a_long_sequence_is_forward_to_the_bit(way, m, expected, rng, monkeypatch):
    layer, predict, seen = recurrent("lstm", **WAYS[way]), sequence.predict, []

    def noted(ready, x, *given, **options):
        if ready.params["W_x"].shape[2] == N_X:  # of the first layer
            seen.append(len(x))
        return predict(ready, x, *given, **options)

    problem = Problem.of(rng, layer, n_steps=2200, m=m)
    monkeypatch.setattr(sequence, "predict", noted)
    same_bits(predicted(problem), ahead(problem))
    assert seen == expected * (1 + layer.bidirectional)


@pytest.mark.host
@pytest.mark.parametrize("layer", [OWN, LAST], ids=["own", "last"])
def test_a_long_sequence_is_read_in_windows_and_is_the_whole(layer, rng, monkeypatch):
    # Some examples end within the first window, some begin after it.
    mask = np.arange(2100)[:, None] < np.asarray([2100, 2100, 10, 1100, 0, 2000])
    mask &= np.arange(2100)[:, None] >= np.asarray([0, 1500, 0, 1050, 0, 0])
    problem = Problem.of(rng, layer, tokens=TOKENS, n_steps=2100, mask=mask, draw=0)
    seen = []
    infer = sc.Embedding.infer

    def noted(self, params, x, state, steps):
        seen.append(len(x))
        return infer(self, params, x, state, steps)

    monkeypatch.setattr(sc.Embedding, "infer", noted)
    got = predicted(problem)
    assert seen == [1024, 1024, 52]
    monkeypatch.setattr(hooks, "WINDOW", 2100)
    for name, wanted in predicted(problem).items():
        np.testing.assert_allclose(got[name], wanted, rtol=0, atol=1e-13, err_msg=name)


@pytest.mark.usefixtures("windows_of_3")
@pytest.mark.parametrize(
    "layer",
    [
        sc.Sequential(sc.Dense(3), sc.GRU(N_A, bidirectional=True)),
        sc.Sequential(sc.Sequential(sc.LSTM(N_A, layers=2, bidirectional=True)), sc.Dense(2)),
        sc.Sequential(sc.Sharded(sc.GRU(N_A, bidirectional=True), 2)),
        sc.Sequential(sc.RNN(N_A), Mean(), sc.Dense(N_Y)),
        sc.Sequential(sc.Sequential(sc.RNN(N_A), Mean()), sc.Dense(N_Y)),
    ],
    ids=["both ways", "nested", "sharded", "ends time", "ends time nested"],
)
def test_what_needs_its_whole_sequence_gets_it(layer, asarray, close, rng):
    problem = Problem.of(rng, layer).move(asarray)
    close(predicted(problem), ahead(problem))


# --- bound ------------------------------------------------------------------------------

UNBOUND = ("both ways", "ends time", "both ways, last")
BOUND = {name: LAYERS[name] for name in LAYERS if name not in UNBOUND}
BOUND |= {kind: (recurrent(kind, layers=2), None) for kind in KINDS}
each_bound = pytest.mark.parametrize(("layer", "tokens"), BOUND.values(), ids=BOUND)


@each_bound
@each_steps
def test_a_bound_layer_predicts_the_same(layer, tokens, steps, asarray, to_host, rng):
    problem = Problem.of(rng, layer, tokens=tokens, **steps).move(asarray)
    bound = layer.bind(problem.params)  # for steps of one example; a sequence may have more
    got, expected = predicted(problem, bound.predict), predicted(problem)
    same_bits(
        {name: to_host(value) for name, value in got.items()},
        {name: to_host(value) for name, value in expected.items()},
    )


@each_bound
def test_a_bound_layer_goes_step_by_step(layer, tokens, asarray, close, rng, xp):
    problem = Problem.of(rng, layer, tokens=tokens).move(asarray)
    bound, state, ys = layer.bind(problem.params, M), problem.state, []
    for t in range(T):
        y, state = bound(problem.x[t, ...], state)
        ys.append(y)
    # Where time ends, each step has y of the sequence so far.
    y = xp.stack(ys) if layer.keeps_time else y
    close({"y": y, **arrays_of(state)}, predicted(problem))


@pytest.mark.parametrize(
    ("layer", "tokens"),
    [(OWN, TOKENS), (sc.Sharded(OWN, 2), TOKENS), *(BOUND[kind] for kind in KINDS)],
    ids=["model", "sharded", *KINDS],
)
def test_a_bound_layer_does_not_check_its_parameters_again(
    layer, tokens, asarray, rng, monkeypatch
):
    draw = 0 if layer.drops else None
    problem = Problem.of(rng, layer, tokens=tokens, draw=draw).move(asarray)
    bound, seen = layer.bind(problem.params), []
    own = {id(value) for value in problem.params.values()}
    for name in ("shape", "parameters", "floating", "one_library"):
        check = getattr(checks, name)

        def noted(*given, check=check, **options):
            flat = [v for g in given for v in (g.values() if isinstance(g, dict) else [g])]
            seen.extend(v for v in flat if id(v) in own)
            return check(*given, **options)

        monkeypatch.setattr(checks, name, noted)
    predicted(problem)
    assert {id(value) for value in seen} == own
    seen.clear()
    predicted(problem, bound.predict)
    assert len({id(value) for value in seen}) == 1  # to compare x with


@each_bound
def test_a_bound_layer_names_a_wrong_x(layer, tokens, asarray, rng):
    problem = Problem.of(rng, layer, tokens=tokens).move(asarray)
    bound = layer.bind(problem.params)
    with pytest.raises(ValueError, match=r"x has shape \(2, 3, 4, 5\), expected time first, \(T, "):
        bound.predict(asarray(np.zeros((2, 3, 4, 5), dtype=int if tokens else float)))
    with pytest.raises(TypeError, match=r"x is a list, expected an array"):
        bound.predict([1.0])


# --- a state at the end of both directions ----------------------------------------------

ENDS = {
    "by itself": lambda layer: (layer, lambda state: state),
    "in a model": lambda layer: (sc.Sequential(sc.Dense(2), layer), lambda s: s[1]),
    "nested": lambda layer: (sc.Sequential(sc.Sequential(layer)), lambda s: s[0][0]),
    "sharded": lambda layer: (sc.Sharded(layer, 2), lambda s: s),
    "sharded in a model": lambda layer: (
        sc.Sequential(sc.Sharded(sc.Sequential(layer), 3), sc.Dense(2)),
        lambda s: s[0][0],
    ),
}


def rebuilt(state: Any, end: Any, new: Any) -> Any:
    """Return the state with one of its parts replaced."""
    if state is end:
        return new
    if isinstance(state, tuple) and not hasattr(state, "_fields"):
        return tuple(rebuilt(part, end, new) for part in state)
    return state


@each_kind
@pytest.mark.parametrize("where", ENDS)
def test_the_end_of_both_directions_is_refused_as_a_state(kind, where, asarray, close, rng):
    own = recurrent(kind, bidirectional=True, layers=2)
    layer, part = ENDS[where](own)
    params = on(asarray, layer.init(N_X, like=np.zeros(0), rng=rng))
    x = asarray(rng.standard_normal((T, N_X, M)))
    y, state, tape = layer.forward(params, x)
    _, seen = layer.predict(params, x)
    state_type = own.cell().state_type
    text = (
        f"{own.name}: state is the end of a sequence that was read in both directions, which "
        "cannot be continued from: give the whole sequence at once, or tuple(state) to start from "
        "it all the same"
    )
    for ended in (state, seen):
        for run in (layer.forward, layer.predict):
            with pytest.raises(ValueError, match=r"^\w+: state is the end") as caught:
                run(params, x, ended)
            assert str(caught.value) == text
    # What the text advises works, and so does a new named tuple.
    end = part(state)
    assert isinstance(end, state_type)
    expected = None
    for made in (state_type(*end), tuple(end)):
        start = rebuilt(state, end, made)
        got, _ = layer.predict(params, x, start)
        again, _, _ = layer.forward(params, x, start)
        close({"y": again}, {"y": got})
        expected = got if expected is None else expected
        close({"y": got}, {"y": expected})
    # And as dL/d(state) it is what backward takes.
    layer.backward(params, tape, y, state)


def test_a_layer_in_one_direction_goes_on_from_its_state(asarray, rng):
    layer = sc.LSTM(N_A, layers=2)
    params = on(asarray, layer.init(N_X, like=np.zeros(0), rng=rng))
    x = asarray(rng.standard_normal((T, N_X, M)))
    _, state = layer.predict(params, x)
    layer.predict(params, x, state)
    assert type(state) is layer.cell().state_type


@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: sc.Sharded(model, 2)])
def test_a_matrix_without_time_is_not_read_in_windows(wrap, asarray, close, rng, monkeypatch):
    monkeypatch.setattr(hooks, "WINDOW", 2)
    model = wrap(sc.Sequential(sc.Dense(N_A), sc.Dropout(0.0), sc.Dense(3)))
    params = on(asarray, model.init(N_X, like=np.zeros(0), rng=0))
    x = asarray(rng.standard_normal((N_X, M)))
    y, _, _ = model.forward(params, x)
    close({"y": model.predict(params, x)[0]}, {"y": y})
    close({"y": model.bind(params).predict(x)[0]}, {"y": y})
