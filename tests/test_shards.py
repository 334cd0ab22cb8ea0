"""A layer in shards of its batch: the layer itself, on threads, with the same bits each time."""

from __future__ import annotations

import dataclasses
import multiprocessing
import threading
from collections.abc import Callable

import numpy as np
import problems
import pytest
import threadpoolctl
from judging import exactly, leaves, mapped, same_bits
from problems import N_A, N_X, N_Y, TOKENS, Problem
from processes import output_of

import seqcore as sc
from seqcore import losses, optimizers, process
from seqcore.parallel import sharded as shards
from seqcore.training import Step, Window, fit

pytestmark = pytest.mark.usefixtures("unoptimized")

# Few steps, which shards do not cut; a batch that three shards do not share evenly.
T, M = 3, 7
LENGTHS = [min(length, T) for length in problems.LENGTHS] + [2]

LAYERS = {
    "lstm": (sc.LSTM(N_A, layers=2), None),
    "model": (
        sc.Sequential(sc.Embedding(N_X), sc.GRU(N_A), sc.Sequential(sc.Dense(N_Y))),
        TOKENS,
    ),
}


def draw(rng, layer, **options):
    return Problem.of(rng, layer, **{"n_steps": T, "m": M, **options})


@pytest.fixture(params=LAYERS)
def problem(request, rng):
    layer, tokens = LAYERS[request.param]
    return draw(rng, layer, tokens=tokens)


# --- the same as the layer --------------------------------------------------------------


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.host), 3, M + 2])
def test_a_sharded_layer_is_the_layer(count, problem, asarray, close):
    problem = problem.move(asarray)
    sharded = sc.Sharded(problem.layer, count, threads=2)
    close(problem.but(layer=sharded).results(), problem.results())


def test_lengths_are_shared_out_with_the_batch(problem, asarray, close):
    problem = problem.move(asarray)
    sharded = sc.Sharded(problem.layer, 3, threads=2)
    expected = problem.but(lengths=LENGTHS).results()
    for lengths in (LENGTHS, asarray(LENGTHS)):
        close(problem.but(layer=sharded, lengths=lengths).results(), expected)


@pytest.mark.host
@pytest.mark.parametrize("m", range(1, 9))
@pytest.mark.parametrize("count", range(1, 9))
def test_shards_are_as_even_as_can_be_and_hold_all_in_order(count, m):
    cuts = shards._cuts(m, count)
    assert len(cuts) == min(count, m)
    sizes = [cut.stop - cut.start for cut in cuts]
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1
    assert [j for cut in cuts for j in range(m)[cut]] == list(range(m))


def test_a_matrix_without_time_is_shared_out_too(asarray, assert_close, to_host, rng):
    layer = sc.Dense(N_Y)
    params = {k: asarray(v) for k, v in layer.init(N_X, like=np.zeros(0), rng=rng).items()}
    x = asarray(rng.standard_normal((N_X, M)))
    y, state, _ = sc.Sharded(layer, 3, threads=2).forward(params, x)
    assert_close(y, to_host(layer.forward(params, x)[0]), kind="cell")
    assert state == ()


def test_windows_of_a_sharded_layer_carry_their_state_on(problem, asarray, assert_close, to_host):
    problem = problem.move(asarray)
    expected = problem.layer.forward(problem.params, problem.x, problem.state)
    state, sharded = problem.state, sc.Sharded(problem.layer, 3, threads=2)
    for t in range(T):
        y, state, _ = sharded.forward(problem.params, problem.x[t : t + 1, ...], state)
        assert_close(y, to_host(expected[0])[t : t + 1], kind="bptt", name=f"y[{t}]")
    for got, wanted in zip(leaves(state), leaves(expected[1]), strict=True):
        assert_close(got, to_host(wanted), kind="bptt")


def test_arguments_of_a_sharded_layer_stay_as_they_are(problem, asarray, to_host):
    problem = problem.move(asarray)

    problem = problem.but(layer=sc.Sharded(problem.layer, 3, threads=2), lengths=asarray(LENGTHS))
    before = {name: to_host(value) for name, value in problem.arrays().items()}
    problem.results()
    same_bits({name: to_host(value) for name, value in problem.arrays().items()}, before)


def test_names_parameters_and_single_steps_are_those_of_the_layer(asarray, to_host, rng):
    layer = sc.Sequential(sc.GRU(N_A), sc.Dense(N_Y))
    sharded = sc.Sharded(layer, 3)
    assert (sharded.name, sharded.n_out) == (layer.name, N_Y)
    assert sharded.names() == layer.names()
    params, wanted = (one.init(N_X, like=asarray(0.0), rng=4) for one in (sharded, layer))
    assert list(params) == list(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(to_host(params[name]), to_host(value))
    x = asarray(rng.standard_normal((N_X, 2)))
    (y, state), (wanted, last) = (one.bind(params, 2)(x) for one in (sharded, layer))
    np.testing.assert_array_equal(to_host(y), to_host(wanted))
    np.testing.assert_array_equal(to_host(state[0].h), to_host(last[0].h))
    # In a model it stands where the layer stood.
    assert sc.Sequential(sc.Sharded(sc.GRU(N_A), 2), sc.GRU(N_A)).labels == ("gru", "gru_1")


@pytest.mark.host
@pytest.mark.parametrize(
    ("n_steps", "lengths"),
    [(1, None), (3, [3, 0, 2, 1, 3]), (3, None)],
    ids=["1", "ragged", "dropped"],
)
def test_backward_of_shards_is_the_derivative_of_forward(n_steps, lengths, check_gradients, rng):
    layer = sc.Sequential(sc.Dropout(0.3), sc.LSTM(3), sc.Dropout(0.4), sc.Dense(2))
    problem = Problem.of(rng, layer, n_steps=n_steps, m=5, lengths=lengths, draw=6)
    problem.params["dense.W"] += 2.0  # no gradient is small
    problem = problem.but(layer=sc.Sharded(layer, 2, threads=2))
    check_gradients(problem.loss, problem.at(), problem.gradients())


# --- dropout ----------------------------------------------------------------------------


def test_shards_drop_different_entries_and_backward_drops_the_same(asarray, to_host):
    layer = sc.Sharded(sc.Dropout(0.5, seed=1), 2, threads=2)
    x = asarray(np.ones((T, 8, 6)))
    masks = []
    for draw in range(3):
        y, _, tape = layer.forward({}, x, draw=draw)
        dx, grads, _ = layer.backward({}, tape, x)
        assert grads == {}
        y = to_host(y)
        np.testing.assert_array_equal(to_host(dx), y)
        assert set(np.unique(y)) == {0.0, 2.0}
        masks += [y[..., :3], y[..., 3:]]
        np.testing.assert_array_equal(to_host(layer.forward({}, x, draw=draw)[0]), y)
    # Neither the other shard nor another draw has the same.
    assert len({mask.tobytes() for mask in masks}) == 6
    np.testing.assert_array_equal(to_host(layer.predict({}, x)[0]), to_host(x))


def test_a_draw_may_be_the_count_of_an_optimizer(xp, asarray, to_host):
    layer = sc.Sharded(sc.Dropout(0.5, seed=1), 3, threads=2)
    x = asarray(np.ones((T, N_X, M)))
    expected = to_host(layer.forward({}, x, draw=4)[0])
    got = layer.forward({}, x, draw=xp.astype(asarray(4), xp.int32))[0]
    np.testing.assert_array_equal(to_host(got), expected)


# --- under jax.jit ----------------------------------------------------------------------


@pytest.mark.only("jax")
def test_shards_run_under_jit(asarray, close, rng):
    import jax

    problem = draw(rng, sc.GRU(N_A)).move(asarray)
    sharded = sc.Sharded(problem.layer, 2, threads=2)
    expected = problem.results()

    def run(params, x, state, dy, dstate):
        given = {"params": params, "x": x, "state": state, "dy": dy, "dstate": dstate}
        return problem.but(layer=sharded, **given).results()

    given = (problem.params, problem.x, problem.state, problem.dy, problem.dstate)
    close(jax.jit(run)(*given), expected)
    # What is traced may be the parameters alone, as under jax.grad.
    close(jax.jit(lambda params: run(params, *given[1:]))(problem.params), expected)


# --- threads ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Stub:
    """A layer that calls a function with its x, forward and back, and returns x."""

    call: Callable[..., object]

    name = "stub"
    n_out = None
    keeps_time = True

    def shapes(self):
        return {}

    def forward(self, params, x, state=None, lengths=None, mask=None, draw=None):
        self.call(x)
        return x, (), ()

    def backward(self, params, tape, dy, dstate=None, wrt=None):
        self.call(dy)
        return dy, {}, ()


def run_both(layer, x):
    layer.backward({}, layer.forward({}, x)[2], x)


@pytest.mark.host
def test_shards_run_at_the_same_time_on_threads_of_their_own():
    meet = threading.Barrier(3, timeout=30)
    seen = []

    def call(_):
        meet.wait()  # until all three are here
        seen.append(threading.get_ident())

    run_both(sc.Sharded(Stub(call), 3, threads=3), np.zeros((T, N_X, M)))
    assert len(seen) == 6
    assert len(set(seen[:3])) == len(set(seen[3:])) == 3
    assert threading.get_ident() not in seen


@pytest.mark.host
def test_one_thread_or_one_shard_is_that_of_the_caller():
    seen = set()
    x = np.zeros((T, N_X, M))
    for count, threads, batch in ((3, 1, x), (1, 3, x), (3, 3, x[..., :1])):
        run_both(
            sc.Sharded(Stub(lambda _: seen.add(threading.get_ident())), count, threads=threads),
            batch,
        )
    assert seen == {threading.get_ident()}


@pytest.mark.host
def test_no_more_threads_run_than_are_asked_for(monkeypatch):
    def threads_of(**options):
        seen, inside, lock = [0], [0], threading.Lock()
        full = threading.Event()

        def call(_):
            with lock:
                inside[0] += 1
                seen[0] = max(seen[0], inside[0])
            full.wait(0.05)  # long enough for the others to come in
            with lock:
                inside[0] -= 1

        run_both(sc.Sharded(Stub(call), 5, **options), np.zeros((T, N_X, M)))
        return seen[0]

    assert threads_of(threads=2) == 2
    monkeypatch.setattr(process.threads, "processors", lambda: 3)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert threads_of() == 3
    assert threads_of(threads=9) == 5
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert threads_of() == 2
    assert threads_of(threads=9) == 5  # a number that is given wins


def blas():
    found = threadpoolctl.threadpool_info()
    return {pool["num_threads"] for pool in found if pool["user_api"] == "blas"}


@pytest.fixture
def three_threads():
    """Three threads for every BLAS, whatever the environment says."""
    with threadpoolctl.threadpool_limits(3, user_api="blas"):
        if blas() != {3}:
            pytest.skip("no BLAS here whose threads can be set")
        yield


@pytest.mark.host
@pytest.mark.usefixtures("three_threads")
def test_blas_has_one_thread_inside_and_as_many_as_before_after_it():
    seen = []
    sharded = sc.Sharded(Stub(lambda _: seen.append(blas())), 3, threads=2)
    x = np.zeros((T, N_X, M))
    _, _, tape = sharded.forward({}, x)
    assert blas() == {3}
    sharded.backward({}, tape, x)
    assert blas() == {3}
    assert seen == [{1}] * 6
    with sc.blas_threads(2):
        sharded.forward({}, x)
        assert blas() == {2}


@pytest.mark.host
@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("layer", "shape"), [(sc.RNN(64), (8, 37, 32)), (sc.LSTM(301), (2, 37, 130))]
)
def test_a_number_of_shards_gives_the_same_bits_on_any_number_of_threads(layer, shape, dtype, rng):
    # Three BLAS threads may round otherwise than one: the shards have to be given one.
    x = rng.standard_normal(shape).astype(dtype)
    with sc.blas_threads(1):  # three of them may wait long for each other
        params = layer.init(37, like=x, rng=rng)
    results = []
    for threads in (1, 2, 5, 2):
        sharded = sc.Sharded(layer, 3, threads=threads)
        y, state, tape = sharded.forward(params, x)
        dx, grads, dstate = sharded.backward(params, tape, y)
        results.append([y, dx, *grads.values(), *leaves(state), *leaves(dstate)])
    for other in results[1:]:
        for one, twin in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(twin, one)


NESTED = """
    import faulthandler
    import numpy as np, seqcore as sc
    faulthandler.dump_traceback_later(20, exit=True)
    inner = sc.Sharded(sc.LSTM(5), 2, threads=2)
    outer = sc.Sharded(sc.Sequential(inner, sc.Dense(4)), 2, threads=2)
    x = np.random.default_rng(0).standard_normal((3, 2, 7))
    params = outer.init(2, like=x, rng=0)
    y = outer.forward(params, x)[0]
    plain = sc.Sequential(sc.LSTM(5), sc.Dense(4)).forward(params, x)[0]
    print(np.max(np.abs(y - plain)) < 1e-12)
"""


@pytest.mark.host
def test_shards_within_shards_do_not_wait_for_each_other():
    assert output_of(NESTED) == "True"


FORKED = """
    import multiprocessing, sys, warnings
    import numpy as np, seqcore as sc

    # From 3.12 on Python warns of any fork beside threads. These only wait for work.
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    model = sc.Sharded(sc.LSTM(64), 3, threads=2)
    x = np.random.default_rng(0).standard_normal((8, 20, 30))
    params = model.init(20, like=x, rng=0)

    def run(into):
        y, _, tape = model.forward(params, x)
        dx, grads, _ = model.backward(params, tape, y)
        into.put([y, dx, *grads.values()])

    if __name__ == "__main__":
        context = multiprocessing.get_context("fork")
        results = context.Queue()
        run(results)  # so that there are threads to be lost
        mine = results.get()
        child = context.Process(target=run, args=(results,), daemon=True)
        child.start()
        theirs = results.get(timeout=30)
        child.join(30)
        print(child.exitcode, all(map(np.array_equal, mine, theirs)))
"""


@pytest.mark.host
@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this platform"
)
def test_a_forked_process_runs_shards_on_threads_of_its_own():
    assert output_of(FORKED) == "0 True"


ENDING = """
    import atexit
    import numpy as np, seqcore as sc

    model = sc.Sharded(sc.LSTM(4), 3, threads=2)
    x = np.random.default_rng(0).standard_normal((3, 2, 7))
    params = model.init(2, like=x, rng=0)

    def run():
        y, _, tape = model.forward(params, x)
        dx, grads, _ = model.backward(params, tape, y)
        return [y, dx, *grads.values(), model.predict(params, x)[0]]

    def late():
        after = run()
        print(len(after), BEFORE and all(map(np.array_equal, after, before)))

    before = run() if BEFORE else None
    atexit.register(late)
"""


@pytest.mark.host
@pytest.mark.parametrize("before", [True, False])  # whether there are threads already
def test_an_exit_handler_runs_shards_one_after_another(before):
    assert output_of(ENDING.replace("BEFORE", str(before))) == f"6 {before}"


# --- training ---------------------------------------------------------------------------


def test_a_sharded_model_trains_as_the_model_does(asarray, assert_close, to_host):
    def window(k):
        tokens = np.random.default_rng(k).integers(TOKENS, size=(T + 1, 6))
        return Window(asarray(tokens[:-1]), asarray(tokens[1:]), fresh=k == 0)

    model = sc.Sequential(sc.Embedding(N_X), sc.GRU(N_A), sc.Dense(TOKENS))
    params = model.init(TOKENS, like=asarray(0.0), rng=5)
    ends = []
    for layer in (model, sc.Sharded(model, 2, threads=2)):
        # No Adam: it would blow up the roundings of gradients that are nearly 0.
        step = Step(layer, losses.cross_entropy, lambda _: optimizers.sgd(0.5), clip=1.0)
        stopped = fit(step, step.start(params), window, steps=2)
        assert stopped.why == "steps"
        ends.append(stopped.progress)
    for name, value in ends[0].params.items():
        assert_close(ends[1].params[name], to_host(value), kind="train", name=name)
        assert np.any(to_host(value) != to_host(params[name])), name
    assert_close(ends[1].state[1].h, to_host(ends[0].state[1].h), kind="train")


# --- errors -----------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [sc.LSTM, 3, None, "lstm"])
def test_what_is_not_a_layer_is_refused(wrong):
    with pytest.raises(TypeError, match=exactly(f"sharded: {wrong!r} was given, expected a layer")):
        sc.Sharded(wrong, 2)


@pytest.mark.parametrize(
    ("count", "threads", "kind", "text"),
    [
        (0, None, ValueError, "shards is 0, expected at least 1"),
        (-1, None, ValueError, "shards is -1, expected at least 1"),
        (2.0, None, TypeError, "shards is 2.0, expected a whole number"),
        (2, 0, ValueError, "threads is 0, expected at least 1"),
        (2, True, TypeError, "threads is True, expected a whole number"),
    ],
)
def test_numbers_below_one_are_refused(count, threads, kind, text):
    with pytest.raises(kind, match=exactly(f"sharded: {text}")):
        sc.Sharded(sc.LSTM(N_A), count, threads=threads)


def test_sharded_layers_are_frozen_values():
    one, twin = (sc.Sharded(sc.LSTM(N_A), 2) for _ in range(2))
    assert one == twin != sc.Sharded(sc.LSTM(N_A), 3)
    assert hash(one) == hash(twin)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(one, "shards", 3)  # noqa: B010 (mypy knows better)


@pytest.fixture
def spoilt(asarray, rng):
    """A small call that is right, for a test to spoil."""
    return draw(rng, sc.LSTM(N_A)).move(asarray)


@pytest.fixture
def sharded(spoilt):
    return sc.Sharded(spoilt.layer, 3, threads=2)


def test_an_x_without_a_batch_is_refused(spoilt, sharded, asarray):
    text = "lstm: x has shape (7,), expected time first, (T, n_x, m) = (T, 2, m)"
    with pytest.raises(ValueError, match=exactly(text)):
        sharded.forward(spoilt.params, asarray(np.zeros(M)))
    with pytest.raises(TypeError, match=exactly("lstm: x is a list, expected an array")):
        sharded.forward(spoilt.params, [[0.0]])
    # Where the layer takes what it is given, shards still need a batch to cut.
    text = "sharded: x has shape (7,), expected a batch after other axes"
    with pytest.raises(ValueError, match=exactly(text)):
        sc.Sharded(Stub(len), 3).forward({}, asarray(np.zeros(M)))


def test_a_batch_of_nothing_is_refused_by_its_shape(spoilt, sharded):
    _, _, tape = sharded.forward(spoilt.params, spoilt.x)
    with pytest.raises(ValueError, match=r"^\w+: x has shape \(3, 2, 0\), expected "):
        sharded.forward(spoilt.params, spoilt.x[..., :0])
    with pytest.raises((ValueError, TypeError), match=r"^\w+: (dy|tape) "):
        sharded.backward(spoilt.params, tape, spoilt.dy[..., :0])


@pytest.mark.parametrize("m", [M - 1, M + 1, 2 * M])
def test_a_state_of_another_batch_is_refused(m, spoilt, sharded, asarray, rng):
    wrong = mapped(lambda _: asarray(rng.standard_normal((1, N_A, m))), spoilt.state)
    with pytest.raises(ValueError, match=r"^lstm: state\.h has shape "):
        sharded.forward(spoilt.params, spoilt.x, wrong)
    _, _, tape = sharded.forward(spoilt.params, spoilt.x)
    with pytest.raises(ValueError, match=r"^lstm: dstate\.h has shape "):
        sharded.backward(spoilt.params, tape, spoilt.dy, wrong)
    # Where the layer would not see it, as a cut of it has the batch of the shard.
    other = sc.Sharded(Stub(lambda _: None), 3)
    with pytest.raises(ValueError, match=r"^sharded: state\.h has shape "):
        other.forward({}, spoilt.x, wrong)
    _, _, tape = other.forward({}, spoilt.x)
    with pytest.raises(ValueError, match=r"^sharded: dstate\.h has shape "):
        other.backward({}, tape, spoilt.x, wrong)


@pytest.mark.parametrize("m", [M - 1, M + 1, 2 * M])
def test_a_dy_of_another_batch_is_refused(m, spoilt, sharded, asarray, rng):
    _, _, tape = sharded.forward(spoilt.params, spoilt.x)
    with pytest.raises(ValueError, match=r"^\w+: dy has shape "):
        sharded.backward(spoilt.params, tape, asarray(rng.standard_normal((T, N_A, m))))


def test_a_tape_of_another_kind_is_refused(spoilt, sharded):
    _, _, plain = spoilt.layer.forward(spoilt.params, spoilt.x)
    _, _, pair = sc.Sharded(spoilt.layer, 2).forward(spoilt.params, spoilt.x)
    for tape, made in ((plain, spoilt.layer), (pair, sc.Sharded(spoilt.layer, 2))):
        text = f"lstm: tape is that of {made!r}, expected that of this layer, {sharded!r}"
        with pytest.raises(TypeError, match=exactly(text)):
            sharded.backward(spoilt.params, tape, spoilt.dy)
    for tape in (list(plain), None):
        text = f"lstm: tape is a {type(tape).__name__}, expected that of this layer's forward"
        with pytest.raises(TypeError, match=exactly(text)):
            sharded.backward(spoilt.params, tape, spoilt.dy)


def test_wrong_lengths_are_named(spoilt, sharded):
    for wrong, kind, text in (
        (LENGTHS[:-1], ValueError, "has shape (6,), expected (m,) = (7,)"),
        ([*LENGTHS[:-1], 4], ValueError, "holds 4, expected 0 <= length < 4"),
        ([*LENGTHS[:-1], 0.5], TypeError, "is [3, 0, 3, 1, 3, 3, 0.5], expected whole numbers"),
    ):
        with pytest.raises(kind, match=exactly(f"lstm: lengths {text}")):
            sharded.forward(spoilt.params, spoilt.x, None, wrong)


def test_an_error_inside_a_shard_comes_out_as_it_is(spoilt, sharded):
    _, _, tape = sharded.forward(spoilt.params, spoilt.x)
    del spoilt.params["0.b"]
    text = "lstm: parameter '0.b' is missing; got 0.W_x, 0.W_h"
    with pytest.raises(ValueError, match=exactly(text)):
        sharded.forward(spoilt.params, spoilt.x)
    with pytest.raises(ValueError, match=exactly(text)):
        sharded.backward(spoilt.params, tape, spoilt.dy)
    model = sc.Sharded(sc.Sequential(spoilt.layer), 3, threads=2)
    params = {f"lstm.{name}": value for name, value in spoilt.params.items()}
    params["lstm.0.b"] = params["lstm.0.W_x"]
    text = (
        "lstm: 0.b has shape (4, 5, 2), expected (4, n_a, 1) = (4, 5, 1)\n"
        "in the layer 'lstm' of a Sequential"
    )
    with pytest.raises(ValueError, match=exactly(text)):
        model.forward(params, spoilt.x)


@pytest.mark.host
@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("error", [KeyError("second"), KeyboardInterrupt(), ZeroDivisionError()])
def test_any_error_of_any_shard_is_raised_and_leaves_blas_as_it_was(error):
    def call(x):
        if x[0, 0, 0] == 1:
            raise error

    x = np.zeros((T, N_X, M))
    x[0, 0, 3] = 1.0  # the first of the second shard
    with pytest.raises(type(error)) as caught:
        sc.Sharded(Stub(call), 2, threads=2).forward({}, x)
    assert caught.value is error
    assert blas() == {3}


@pytest.mark.host
def test_shards_handle_overflow_as_the_caller_does():
    layer = sc.Dense(N_Y)
    x = np.full((T, N_X, M), 1e30, dtype=np.float32)
    params = {name: value + 1e20 for name, value in layer.init(N_X, like=x, rng=0).items()}
    sharded = sc.Sharded(layer, 2, threads=2)
    with np.errstate(over="ignore"):
        assert np.all(np.isinf(sharded.forward(params, x)[0]))
    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        sharded.forward(params, x)
