"""A new cell is one file of equations, and a layer of five lines: the laws hold for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from judging import frozen, named, same_bits
from problems import LENGTHS, MASK, N_A, N_X, N_Y, M, Problem, T, each_steps
from trial_cells import MGU, MGUState

import seqcore as sc
from seqcore import masks

pytestmark = pytest.mark.usefixtures("unoptimized")

WAYS: dict[str, dict[str, Any]] = {
    "one": {},
    "stacked": {"layers": 2},
    "both ways": {"bidirectional": True},
}
each_way = pytest.mark.parametrize("way", WAYS)


def written_out(problem, prefix, start, *, reverse=False):
    """Run the equations of the paper over a problem, one example after the other."""
    W_x, W_h, b = (problem.params[prefix + name] for name in ("W_x", "W_h", "b"))
    counts = masks.steps("test", problem.x, problem.lengths, problem.mask)
    y, last = np.zeros((T, N_A, M)), np.array(start)
    for j in range(M):
        for t in range(T)[:: -1 if reverse else 1]:
            if counts is not None and not counts[t, j]:
                continue
            x, h = problem.x[t, :, j], last[:, j].copy()
            f = 1 / (1 + np.exp(-(W_x[0] @ x + b[0, :, 0] + W_h[0] @ h)))
            n = np.tanh(W_x[1] @ x + b[1, :, 0] + W_h[1] @ (f * h))
            y[t, :, j] = last[:, j] = (1 - f) * h + f * n
    return y, last


@each_steps
@each_way
def test_forward_is_the_equations_written_out(way, steps, asarray, close, rng):
    problem = Problem.of(rng, MGU(N_A, **WAYS[way]), **steps)
    expected, x = [], problem
    for number in range(problem.layer.layers):
        outs = [
            written_out(x, prefix, problem.state.h[len(expected) + k], reverse=bool(k))
            for k, prefix in enumerate(
                (f"{number}.", f"{number}.reverse.")[: 1 + problem.layer.bidirectional]
            )
        ]
        x = problem.but(x=np.concatenate([y for y, _ in outs], axis=1))
        expected += [last for _, last in outs]
    placed = problem.move(asarray)
    y, last, _ = placed.forward()
    close({"y": y, "h": last.h}, {"y": x.x, "h": np.stack(expected)})
    y, last = placed.layer.predict(
        placed.params, placed.x, placed.state, placed.lengths, placed.mask
    )
    close({"y": y, "h": last.h}, {"y": x.x, "h": np.stack(expected)})


@pytest.mark.host
@each_way
@pytest.mark.parametrize(
    ("n_steps", "steps"),
    [
        (1, {}),
        (4, {}),
        (4, {"lengths": [min(4, length) for length in LENGTHS]}),
        (4, {"mask": MASK[:4]}),
    ],
    ids=["1", "4", "ragged", "gaps"],
)
def test_backward_is_the_derivative_of_forward(n_steps, steps, way, check_gradients, rng):
    problem = Problem.of(rng, MGU(3, **WAYS[way]), n_steps=n_steps, **steps)
    check_gradients(problem.loss, problem.at(), problem.gradients())


@each_steps
@each_way
def test_results_are_the_same_on_every_library(way, steps, asarray, close, rng):
    problem = Problem.of(rng, MGU(N_A, **WAYS[way]), **steps)
    close(problem.move(asarray).results(), problem.results())


@pytest.mark.host
@each_way
@pytest.mark.parametrize("recompute", [True, 1, 3])
def test_recomputing_gives_the_same_bits(recompute, way, rng):
    problem = Problem.of(rng, MGU(N_A, **WAYS[way]), lengths=LENGTHS)
    saving = problem.but(layer=MGU(N_A, recompute=recompute, **WAYS[way]))
    same_bits(saving.results(), problem.results())


def test_recomputed_results_are_the_same_on_every_library(asarray, close, rng):
    problem = Problem.of(rng, MGU(N_A), mask=MASK)
    saving = problem.but(layer=MGU(N_A, recompute=3))
    close(saving.move(asarray).results(), problem.results())


def test_what_is_masked_touches_nothing(asarray, to_host, rng):
    problem = Problem.of(rng, MGU(N_A), lengths=LENGTHS, mask=MASK)
    counts = masks.steps("test", problem.x, problem.lengths, problem.mask)[:, None, :]
    dirty = problem.but(
        x=np.where(counts, problem.x, np.nan), dy=np.where(counts, problem.dy, np.nan)
    )
    got, expected = (
        {name: to_host(value) for name, value in one.move(asarray).results().items()}
        for one in (dirty, problem)
    )
    same_bits(got, expected)


@pytest.mark.parametrize("way", ["one", "stacked"])
def test_a_stream_step_by_step_is_the_sequence(way, asarray, close, rng, xp):
    problem = Problem.of(rng, MGU(N_A, **WAYS[way])).move(asarray)
    y, last, _ = problem.forward()
    bound, state, ys = problem.layer.bind(problem.params, M), problem.state, []
    for t in range(T):
        out, state = bound(problem.x[t, ...], state)
        ys.append(out)
    assert type(state) is MGUState
    expected = {"y": y, **named("last", last)}
    close({"y": xp.stack(ys), **named("last", state)}, expected)
    y, state = bound.predict(problem.x, problem.state)
    close({"y": y, **named("last", state)}, expected)


@pytest.mark.parametrize(
    "wrt", [["x"], ["0.W_h"], ["1.W_x", "0.b"], ["state"], ["x", "1.W_h"]], ids=str
)
def test_what_is_wanted_is_what_comes_without_asking(wrt, asarray, close, rng):
    problem = Problem.of(rng, MGU(N_A, layers=2), mask=MASK).move(asarray)
    _, _, tape = problem.forward()
    everything = problem.gradients(tape)
    dx, grads, dstart = problem.layer.backward(
        problem.params, tape, problem.dy, problem.dstate, wrt
    )
    got = dict(grads) | ({} if dx is None else {"x": dx})
    if "state" in wrt:
        got |= named("start", dstart)
    assert got.keys() == {name if name != "state" else "start.h" for name in wrt}
    close(got, {name: everything[name] for name in got})


def test_it_stands_in_models_and_shards(asarray, close, rng):
    model = sc.Sequential(MGU(N_A), sc.Dropout(0.3), MGU(3, bidirectional=True), sc.Dense(N_Y))
    assert model.labels == ("mgu", "dropout", "mgu_1", "dense")
    assert model.shapes()["mgu.0.W_h"] == (2, N_A, N_A)
    problem = Problem.of(rng, model, mask=MASK, draw=1).move(asarray)
    close(problem.but(layer=sc.Sharded(model, 2)).results(), problem.results())


@pytest.mark.host
def test_a_tape_of_its_twin_is_refused(rng):
    problem = Problem.of(rng, MGU(N_A)).move(frozen)
    _, _, tape = problem.forward()
    other = sc.RNN(N_A)
    with pytest.raises(TypeError, match=r"^rnn: tape is that of MGU\("):
        other.backward(other.init(N_X, like=problem.x, rng=0), tape, problem.dy)
