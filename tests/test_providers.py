"""Providers of kernels: each is used where it supports the job, and the generic code elsewhere.

The provider here takes an RNN with loops in plain NumPy, so that each of its numbers has a
second source, and counts how often it is called.
"""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from judging import exactly, frozen
from problems import CELLS, MASK, N_A, N_X, M, Problem, T, each_kind, each_steps, recurrent

import seqcore as sc
from seqcore import kernels
from seqcore.kernels import Gates, Job, Provider, Weights

pytestmark = pytest.mark.host

WAYS: dict[str, dict[str, Any]] = {
    "onward": {},
    "both ways": {"bidirectional": True},
    "stacked both ways": {"layers": 2, "bidirectional": True},
}


class ByHand(NamedTuple):
    """A tanh RNN over a sequence, one step after the other, with its BPTT."""

    calls: Counter[str]
    wanted: list[frozenset[str]]
    job: Job

    def prepare(self, params, weights):
        assert list(params) == ["W_x", "W_h", "b"]
        assert weights.b_h == weights.own == ()
        self.calls["prepare"] += 1
        return weights.W[0, :, :-1], weights.W[0, :, -1:], weights.W_h[0]

    def _times(self):
        return range(self.job.n_steps)[:: -1 if self.job.reverse else 1]

    def _run(self, ready, x, mask, state):
        W_x, b, W_h = ready
        assert x.shape == (self.job.n_steps, self.job.n_x, self.job.m)
        assert (mask is not None) is self.job.masked
        (h,) = state
        befores, afters, y = (np.zeros((self.job.n_steps, *h.shape), h.dtype) for _ in range(3))
        for t in self._times():
            after = np.tanh(W_x @ x[t] + b + W_h @ h)
            befores[t], afters[t] = h, after
            steps = True if mask is None else mask[t]
            y[t] = np.where(steps, after, 0)
            h = np.where(steps, after, h)
        return y, (h,), (befores, afters)

    def predict(self, ready, x, mask, state):
        self.calls["predict"] += 1
        return self._run(ready, x, mask, state)[:2]

    def forward(self, ready, x, mask, state):
        self.calls["forward"] += 1
        return self._run(ready, x, mask, state)

    def backward(self, ready, x, mask, saved, dy, dstate, wanted):
        self.calls["backward"] += 1
        self.wanted.append(wanted)
        (W_x, _, W_h), (befores, afters), (dh,) = ready, saved, dstate
        dx, dW_x, dW_h, db = np.zeros_like(x), 0, 0, 0
        for t in reversed(self._times()):
            steps = True if mask is None else mask[t]
            dz = np.where(steps, (dh + dy[t]) * (1 - afters[t] ** 2), 0)
            dx[t] = W_x.T @ dz
            dW_x = dW_x + dz @ x[t].T
            dW_h = dW_h + dz @ befores[t].T
            db = db + dz.sum(axis=1, keepdims=True)
            dh = np.where(steps, W_h.T @ dz, dh)
        grads = {"W_x": dW_x[None], "W_h": dW_h[None], "b": db[None]}
        return (
            dx if "x" in wanted else None,
            {name: value for name, value in grads.items() if name in wanted},
            (dh,),
        )


class Counting(Provider):
    """A provider that counts its calls at one level and declines at the others."""

    def __init__(self, height, *, name="counting", supports=lambda _: True):
        self.height, self.name, self.supports = height, name, supports
        self.calls: Counter[str] = Counter()
        self.asked: list[Any] = []
        self.wanted: list[frozenset[str]] = []

    def gates(self, cell, options):
        self.asked.append((cell, options))
        if self.height != "gates" or not self.supports(cell):
            return None
        generic = next(
            one.elementwise for one in CELLS.values() if (one.name, one.options) == (cell, options)
        )

        def forward(*given):
            self.calls["gates"] += 1
            return generic.forward(*given)

        def backward(*given):
            self.calls["gates back"] += 1
            return generic.backward(*given)

        return Gates(forward, backward)

    def stream(self, cell, options, weights, m):
        self.asked.append((cell, options, weights, m))
        if self.height != "stream" or cell != "rnn" or not self.supports(m):
            return None
        activation = {"tanh": np.tanh, "relu": lambda z: np.maximum(z, 0)}[
            dict(options)["activation"]
        ]
        W_x, b, W_h = weights.W[0, :, :-1], weights.W[0, :, -1:], weights.W_h[0]

        def step(x, h):
            self.calls["stream"] += 1
            return (activation(W_x @ x + b + W_h @ np.reshape(h, (-1, m))).reshape(h.shape),)

        return step

    def recurrence(self, job):
        self.asked.append(job)
        if self.height != "recurrence" or job.cell != "rnn" or job.recompute:
            return None
        if job.options != (("activation", "tanh"),) or not self.supports(job):
            return None
        return ByHand(self.calls, self.wanted, job)


@pytest.fixture(autouse=True)
def _registry(monkeypatch):
    """A registry of its own for each test."""
    monkeypatch.delenv("SEQCORE_KERNELS", raising=False)
    monkeypatch.setattr(kernels, "_registered", list(kernels._registered))
    kernels.of.cache_clear()
    yield
    kernels.of.cache_clear()


def register(provider, **options):
    """Register a provider for NumPy; return it."""
    kernels.register(provider.name, lambda xp: xp.__name__ == "numpy", lambda: provider, **options)
    return provider


def without(monkeypatch, function):
    """Call a function with the generic code alone."""
    with monkeypatch.context() as patch:
        patch.setenv("SEQCORE_KERNELS", "0")
        kernels.of.cache_clear()
        found = function()
    kernels.of.cache_clear()
    return found


def assert_close(got, expected):
    """Compare arrays by name, up to roundings."""
    assert got.keys() == expected.keys()
    for name, wanted in expected.items():
        assert (got[name].shape, got[name].dtype) == (wanted.shape, wanted.dtype), name
        scale = np.max(np.abs(wanted))
        assert scale > 0, f"{name}: zeros prove nothing"
        np.testing.assert_allclose(got[name], wanted, rtol=0, atol=1e-13 * scale, err_msg=name)


def readonly(problem):
    """Return a problem with read-only arrays."""
    return problem.move(frozen)


# --- a whole recurrence -----------------------------------------------------------------


@each_steps
@pytest.mark.parametrize("way", WAYS)
def test_a_whole_recurrence_is_used_and_gives_the_generic_numbers(way, steps, rng, monkeypatch):
    layer = recurrent("rnn-tanh", **WAYS[way])
    problem = readonly(Problem.of(rng, layer, **steps))
    expected = without(monkeypatch, problem.results)
    provider = register(Counting("recurrence"))
    passes = layer.layers * (1 + layer.bidirectional)
    assert_close(problem.results(), expected)
    assert provider.calls == dict.fromkeys(("forward", "backward"), passes) | {
        "prepare": 2 * passes
    }
    provider.calls.clear()
    given = (problem.x, problem.state, problem.lengths, problem.mask)
    bound = None if layer.bidirectional else layer.bind(problem.params, M)
    for predict in (
        lambda: layer.predict(problem.params, *given),
        lambda: layer.predict(problem.params, *given) if bound is None else bound.predict(*given),
    ):
        y, last = predict()
        assert_close({"y": y, "h": last.h}, {"y": expected["y"], "h": expected["last.h"]})
    # No tape is kept: neither a forward pass with one, nor a backward pass.
    assert provider.calls["predict"] == 2 * passes
    assert not provider.calls.keys() & {"forward", "backward"}


def test_a_state_of_zero_begins_a_whole_recurrence(rng, monkeypatch):
    problem = Problem.of(rng, sc.RNN(N_A))
    run = lambda: {"y": problem.layer.forward(problem.params, problem.x)[0]}  # noqa: E731
    expected = without(monkeypatch, run)
    provider = register(Counting("recurrence"))
    assert_close(run(), expected)
    assert provider.calls["forward"] == 1


def test_a_job_says_all_about_a_sequence(rng):
    provider = register(Counting("none"))
    layer = sc.RNN(N_A, activation="relu", layers=2, bidirectional=True, recompute=3)
    problem = Problem.of(rng, layer, mask=MASK).move(
        lambda v: v.astype(np.float32 if v.dtype == np.float64 else v.dtype)
    )

    def jobs():
        found = [one for one in provider.asked if isinstance(one, Job)]
        provider.asked.clear()
        return found

    jobs()
    problem.forward()
    expected = [
        Job(
            cell="rnn",
            options=(("activation", "relu"),),
            n_steps=T,
            n_x=n_x,
            n_a=N_A,
            m=M,
            dtype=np.dtype(np.float32),
            reverse=reverse,
            masked=True,
            recompute=3,
        )
        for n_x in (N_X, 2 * N_A)
        for reverse in (False, True)
    ]
    assert jobs() == expected
    layer.predict(problem.params, problem.x)
    plain = {**vars(expected[0]), "masked": False, "recompute": False}
    assert jobs()[0] == Job(**plain)


@each_kind
def test_kernels_get_the_name_and_the_options_of_the_cell_and_its_weights(kind, rng):
    seen = []

    class Seeing(Provider):
        name = "seeing"

        def recurrence(self, job):
            return Seen(job)

        def stream(self, cell, options, weights, m):
            seen.append((cell, options, weights, m))

    class Seen(ByHand):
        def __new__(cls, job):
            return super().__new__(cls, Counter(), [], job)

        def prepare(self, params, weights):
            seen.append((self.job.cell, self.job.options, weights, self.job.m))
            assert list(params) == list(sc.layers.recurrent.cells.shapes(CELLS[kind]))
            raise StopIteration

    layer, cell = recurrent(kind), CELLS[kind]
    problem = readonly(Problem.of(rng, layer))
    register(Seeing())
    with pytest.raises(StopIteration):
        problem.forward()
    layer.bind(problem.params, M)
    own = {name.removeprefix("0."): value for name, value in problem.params.items()}
    half = np.asarray([0.5 if gate.sigmoid else 1.0 for gate in cell.gates])[:, None, None]
    by_name = dict(zip([gate.name for gate in cell.gates], half, strict=True))
    assert len(seen) == 2
    for name, options, weights, m in seen:
        assert (name, options, m) == (cell.name, cell.options, M)
        assert isinstance(weights, Weights)
        expected = np.concatenate([own["W_x"], own["b"]], axis=2) * half
        np.testing.assert_array_equal(weights.W, expected)
        np.testing.assert_array_equal(weights.W_h, own["W_h"] * half)
        assert len(weights.b_h) == ("b_h" in own)
        for value in weights.b_h:
            np.testing.assert_array_equal(value, own["b_h"])
        assert len(weights.own) == len(cell.own)
        for value, (parameter, rows) in zip(weights.own, cell.own.items(), strict=True):
            halves = np.stack([by_name[row] for row in rows])
            np.testing.assert_array_equal(value, own[parameter] * halves)


# What a provider may decline, and a layer that asks for it.
DECLINED = {
    "another cell": (lambda _: True, sc.GRU(N_A)),
    "another activation": (lambda _: True, sc.RNN(N_A, activation="relu")),
    "recompute": (lambda _: True, sc.RNN(N_A, recompute=2)),
    "masks": (lambda job: not job.masked, sc.RNN(N_A)),
    "reverse": (lambda job: not job.reverse, sc.RNN(N_A, bidirectional=True)),
    "the dtype": (lambda job: job.dtype == np.float32, sc.RNN(N_A)),
    "long sequences": (lambda job: job.n_steps < T, sc.RNN(N_A)),
}


@pytest.mark.parametrize("what", DECLINED)
def test_what_a_provider_declines_the_generic_source_does(what, rng, monkeypatch):
    supports, layer = DECLINED[what]
    problem = readonly(Problem.of(rng, layer, mask=MASK))
    expected = without(monkeypatch, problem.results)
    provider = register(Counting("recurrence", supports=supports))
    assert_close(problem.results(), expected)
    assert provider.calls["forward"] == provider.calls["backward"] == (what == "reverse")


@pytest.mark.parametrize(
    ("wrt", "wanted"),
    [
        (None, [{"x", "W_x", "W_h", "b"}] * 2),
        (["x"], [{"x"}] * 2),
        (["0.W_h"], [{"x"}, {"W_h"}]),
        (["1.W_x", "1.b", "0.b"], [{"x", "W_x", "b"}, {"b"}]),
        (["1.b", "x"], [{"x", "b"}, {"x"}]),
    ],
    ids=["all", "x", "lower", "both", "upper and x"],  # a set prints in no fixed order
)
def test_what_is_wanted_reaches_the_provider(wrt, wanted, rng, monkeypatch):
    layer = sc.RNN(N_A, layers=2)
    problem = readonly(Problem.of(rng, layer))
    expected = without(monkeypatch, problem.gradients)
    provider = register(Counting("recurrence"))
    _, _, tape = problem.forward()
    dx, grads, _ = layer.backward(problem.params, tape, problem.dy, problem.dstate, wrt)
    assert provider.wanted == wanted
    names = problem.params if wrt is None else [name for name in wrt if name != "x"]
    assert (dx is not None) is (wrt is None or "x" in wrt)
    got = grads if dx is None else grads | {"x": dx}
    assert grads.keys() == set(names)
    assert_close(got, {name: expected[name] for name in got})


def test_a_tape_is_taken_back_by_whoever_made_it(rng, monkeypatch):
    problem = readonly(Problem.of(rng, sc.RNN(N_A)))
    _, _, plain = problem.forward()
    expected = problem.gradients(plain)
    provider = register(Counting("recurrence"))
    _, _, tape = problem.forward()
    # Made without it, and taken back while it is there.
    assert_close(problem.gradients(plain), expected)
    assert provider.calls["backward"] == 0
    # Made by it, and taken back when it is gone.
    got = without(monkeypatch, lambda: problem.gradients(tape))
    assert_close(got, expected)
    assert provider.calls["backward"] == 1


def test_the_textbook_door_goes_step_by_step(rng):
    provider = register(Counting("recurrence"))
    x = rng.standard_normal((N_X, M, T))
    shapes = {"Wax": (N_A, N_X), "Waa": (N_A, N_A), "Wya": (2, N_A), "ba": (N_A, 1), "by": (2, 1)}
    parameters = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    a, _, caches = sc.functional.rnn_forward(x, np.zeros((N_A, M)), parameters)
    sc.functional.rnn_backward(a, caches)
    assert provider.asked  # for gates
    assert not any(isinstance(one, Job) for one in provider.asked)
    assert not provider.calls


# --- the gates of a step ----------------------------------------------------------------


@each_kind
def test_the_gates_of_a_provider_are_those_of_each_step(kind, rng, monkeypatch):
    layer, cell = recurrent(kind), CELLS[kind]
    problem = readonly(Problem.of(rng, layer))
    expected = without(monkeypatch, problem.results)
    provider = register(Counting("gates"))
    assert_close(problem.results(), expected)
    assert provider.calls == {"gates": T, "gates back": T}
    gates = [one for one in provider.asked if isinstance(one, tuple)]
    assert set(gates) == {(cell.name, cell.options)}
    layer.predict(problem.params, problem.x)
    bound = layer.bind(problem.params, M)
    bound.predict(problem.x)
    bound(problem.x[0])
    assert provider.calls == {"gates": 3 * T + 1, "gates back": T}


# --- a step of a stream -----------------------------------------------------------------


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("m", [1, M])
def test_a_step_of_a_stream_is_used_and_gives_the_generic_numbers(m, activation, rng, monkeypatch):
    layer = sc.RNN(N_A, activation=activation)
    problem = readonly(Problem.of(rng, layer, m=m))

    def run():
        bound, state, out = layer.bind(problem.params, m), problem.state, {}
        out["start"] = bound(problem.x[0])[0]
        for t in range(T):
            out[f"y[{t}]"], state = bound(problem.x[t], state)
        assert type(state) is type(problem.state)
        return out | {"h": state.h}

    expected = without(monkeypatch, run)
    provider = register(Counting("stream"))
    assert_close(run(), expected)
    # Without a state the generic step begins, as it always did: its bits stay.
    assert provider.calls == {"stream": T}


def test_a_step_that_is_declined_is_the_generic_one(rng):
    provider = register(Counting("stream", supports=lambda m: m == 1))
    for layer, m, times in (
        (sc.RNN(N_A), 1, 1),
        (sc.RNN(N_A), 2, 0),
        (sc.RNN(N_A, layers=2), 1, 0),
        (sc.GRU(N_A), 1, 0),
    ):
        provider.calls.clear()
        params = layer.init(N_X, like=np.zeros(0), rng=0)
        x = rng.standard_normal((N_X, m))
        _, state = layer.predict(params, x[None])
        y, _ = layer.bind(params, m)(x, state)
        assert provider.calls["stream"] == times
        wanted = layer.predict(params, x[None], state)[0][0]
        np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-14)


# --- the registry -----------------------------------------------------------------------


def names_of_providers():
    return kernels.of(np).names


def test_providers_are_asked_in_order_and_the_first_that_does_not_decline_is_taken(rng):
    last = register(Counting("recurrence", name="last"), first=False)
    second = register(Counting("recurrence", name="second", supports=lambda job: job.masked))
    first = register(Counting("gates", name="first", supports=lambda cell: cell == "gru"))
    assert names_of_providers() == ["first", "second", "numpy", "last"]
    problem = Problem.of(rng, sc.RNN(N_A))
    last.calls.clear()
    last.asked.clear()
    problem.forward()
    assert (first.calls.total(), second.calls["forward"], last.calls["forward"]) == (0, 0, 1)
    problem.but(mask=MASK).forward()
    assert (first.calls.total(), second.calls["forward"], last.calls["forward"]) == (0, 1, 1)
    # What is found stops the search.
    assert len([one for one in last.asked if isinstance(one, Job)]) == 1


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("", ["counting", "numpy"]),
        ("0", []),
        ("counting", ["counting"]),
        ("numpy", ["numpy"]),
        ("numpy,counting", ["counting", "numpy"]),
        (" numpy , jax", ["numpy"]),
    ],
)
def test_the_environment_names_the_providers(value, names, rng, monkeypatch):
    monkeypatch.setenv("SEQCORE_KERNELS", value)
    provider = register(Counting("recurrence"))
    assert names_of_providers() == names
    problem = Problem.of(rng, sc.RNN(N_A))
    provider.calls.clear()
    problem.forward()
    assert provider.calls["forward"] == ("counting" in names)
    assert (kernels.of(np).inner is np) is ("numpy" not in names)


def test_a_provider_is_loaded_once_when_its_namespace_is_met(rng):
    loaded = []

    def load():
        loaded.append(1)
        return Counting("none")

    kernels.register("one", lambda xp: xp.__name__ == "elsewhere", load)
    Problem.of(rng, sc.RNN(N_A)).results()
    assert not loaded
    kernels.register("two", lambda xp: xp.__name__ == "numpy", load)
    Problem.of(rng, sc.RNN(N_A)).results()
    # One more is no reason to load the others again.
    kernels.register("three", lambda xp: xp.__name__ == "elsewhere", load)
    Problem.of(rng, sc.RNN(N_A)).results()
    assert loaded == [1]


@pytest.mark.parametrize("value", ["nunpy", "1", "numpy,none"])
def test_a_provider_that_nobody_registered_is_named(value, monkeypatch):
    monkeypatch.setenv("SEQCORE_KERNELS", value)
    wrong = value.rpartition(",")[2]
    text = f"SEQCORE_KERNELS: {wrong!r} is unknown, expected 0 or numpy or jax"
    with pytest.raises(ValueError, match=exactly(text)):
        kernels.of(np)


def test_models_and_shards_use_what_is_registered(rng, monkeypatch):
    model = sc.Sharded(sc.Sequential(sc.RNN(N_A), sc.Dense(3), sc.RNN(2)), 2, threads=2)
    problem = Problem.of(rng, model, mask=MASK)
    expected = without(monkeypatch, problem.results)
    provider = register(Counting("recurrence"))
    assert_close(problem.results(), expected)
    assert provider.calls["forward"] == provider.calls["backward"] == 4


# --- the house --------------------------------------------------------------------------

PACKAGE = Path(sc.__file__).parent
MODULES = [
    path
    for room in ("sequence", "cells", "layers")
    for path in sorted((PACKAGE / room).glob("*.py"))
]


def computed(tree):
    """Walk over what is computed: neither what is there for types only, nor docstrings."""
    todo = [tree]
    while todo:
        node = todo.pop()
        yield node
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns"):
                continue
            parts = value if isinstance(value, list) else [value]
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                parts = node.orelse if name == "orelse" else []
            for part in parts:
                text = isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant)
                if isinstance(part, ast.AST) and not text:
                    todo.append(part)


def words(node):
    """Return every name in a node itself."""
    fields = (value for _, value in ast.iter_fields(node))
    return [value.lower() for value in fields if isinstance(value, str)]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_no_cell_no_sequence_and_no_layer_names_numpy(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [word for node in computed(tree) for word in words(node)]
    assert found
    assert not [word for word in found if word == "np" or "numpy" in word]


def test_no_provider_imports_a_cell():
    for path in (PACKAGE / "kernels").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert not [
            word for node in ast.walk(tree) for word in words(node) if "seqcore.cells" in word
        ], path
