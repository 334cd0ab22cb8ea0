"""CuPy on a GPU: a step never waits for the device, memory is freed, and all of it runs.

Tests marked only("cupy") need a GPU. They have not been run yet (2026-11-21). The others stand
in for them: on array-api-strict, whose arrays can refuse to be read, on a make-believe CuPy,
which takes the branches of array-api-compat that CuPy takes, and on every library.
"""

from __future__ import annotations

import gc
import re
import sys
import time
import tracemalloc
import weakref
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from judging import leaves
from problems import KINDS, N_A, N_X, N_Y, M, Problem, recurrent

import seqcore as sc
from seqcore import arrays, cli, losses, optimizers, training
from seqcore.character.run import load_run
from seqcore.training import Step, Window

T = 50  # more steps than a device may wait for unnoticed
LAYERS = {
    **{kind: recurrent(kind) for kind in KINDS},
    "stacked both ways": sc.LSTM(N_A, layers=2, bidirectional=True),
    "recompute": sc.LSTM(N_A, recompute=True),
}
each_layer = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)

# The special methods of array-api-strict's arrays that bring a value to the host.
READS = ("bool", "int", "float", "complex", "index", "array", "buffer", "dlpack")


class Training:
    """A problem of a layer, on the device, and a whole training step with the layer."""

    def __init__(self, rng, asarray, layer, n_steps=T, m=M, tokens=None):
        self.problem = Problem.of(rng, layer, n_steps=n_steps, m=m).move(asarray)
        first = [] if tokens is None else [sc.Embedding(N_X)]
        self.model = sc.Sequential(*first, sc.Dropout(0.3), layer, sc.Dense(N_Y))
        # A distribution over classes; classes as integers are read, to be checked.
        classes = rng.integers(N_Y, size=(n_steps, m))
        self.targets = asarray(np.moveaxis(np.eye(N_Y)[classes], -1, 1))
        given = self.problem.x
        if tokens is not None:
            given = asarray(rng.integers(tokens, size=(n_steps, m)))
            self.targets = asarray(classes)
        # No window goes on from the end of a sequence that was read in both directions.
        self.window = Window(given, self.targets, fresh=layer.bidirectional)
        self.step = Step(self.model, losses.cross_entropy, lambda _: optimizers.adam(), clip=1.0)
        n_in = N_X if tokens is None else tokens
        like = asarray(np.zeros(0))
        self.progress = self.step.start(self.model.init(n_in, like=like, rng=0))

    def train(self):
        """Take a step: forward, loss, backward, clipping, Adam."""
        self.progress, loss = self.step(self.progress, self.window, 0.5)
        return loss


@pytest.fixture
def reads(asarray, monkeypatch):
    """The name of each read of a value while the test runs; `reads.forbid()` forbids more."""
    kind = type(asarray(0.0))

    class Reads(list[str]):
        allowed = True

        def forbid(self):
            self.clear()
            self.allowed = False

    seen = Reads()

    def watched(name):
        plain = getattr(kind, name)

        def read(self, *given, **named):
            if not seen.allowed:
                raise AssertionError(f"the host read a value of the device, by {name}")
            seen.append(name)
            return plain(self, *given, **named)

        return read

    for name in [*[f"__{word}__" for word in READS], "to_device"]:
        monkeypatch.setattr(kind, name, watched(name))
    return seen


# --- nothing waits ----------------------------------------------------------------------


@pytest.mark.only("array_api_strict")
@each_layer
def test_the_host_reads_no_value_inside_a_sequence(layer, asarray, rng, reads):
    problem = Problem.of(rng, layer, n_steps=T).move(asarray)
    reads.forbid()
    problem.results()


@pytest.mark.only("array_api_strict")
def test_the_host_reads_no_value_for_the_last_step(asarray, rng, reads):
    layer = sc.Sequential(sc.LSTM(N_A), sc.Last())
    mask = rng.random((T, M)) < 0.5
    problem = Problem.of(rng, layer, n_steps=T, mask=mask).move(asarray)
    reads.forbid()
    problem.results()


@pytest.mark.only("array_api_strict")
@each_layer
def test_the_host_reads_no_value_inside_a_training_step(layer, asarray, rng, reads):
    training = Training(rng, asarray, layer)
    reads.forbid()
    training.train()
    training.train()  # with a state that is carried on


@pytest.mark.only("array_api_strict")
def test_the_guard_catches_whoever_reads(asarray, reads):
    reads.forbid()
    for read in (bool, int, float, arrays.to_host, np.asarray):
        with pytest.raises(AssertionError, match="the host read a value of the device, by "):
            read(asarray(1.0))


@pytest.mark.only("array_api_strict")
@pytest.mark.parametrize("n_steps", [5, 50])
def test_tokens_classes_and_lengths_cost_two_reads_each_however_long(n_steps, asarray, rng, reads):
    # The smallest and the largest: are they in range?
    training = Training(rng, asarray, sc.LSTM(N_A), n_steps, tokens=4)
    reads.clear()
    training.train()
    assert reads == ["__int__"] * 4
    lengths = asarray(np.full(M, n_steps - 1))
    reads.clear()
    training.problem.but(lengths=lengths).forward()
    assert reads == ["__int__"] * 2


@pytest.fixture(scope="module")
def make_believe():
    """In place of CuPy, NumPy in arrays that refuse what CuPy's host waits for."""
    import make_believe_cupy

    with make_believe_cupy.installed() as cupy:
        yield lambda values: cupy.asarray(np.array(values))


@pytest.mark.host
@each_layer
def test_no_layer_waits_on_the_ways_of_cupy_and_numbers_are_numpys(layer, make_believe):
    from make_believe_cupy import nothing_waits

    numpys = Problem.of(np.random.default_rng(0), layer, n_steps=T)
    ours = numpys.move(make_believe)
    assert arrays.namespace(ours.x).__name__ == "array_api_compat.cupy"
    with nothing_waits():
        got = ours.results()
    pairs = zip(leaves(got), leaves(numpys.results()), strict=True)
    for one, other in pairs:
        assert arrays.library(one) == "cupy"
        np.testing.assert_allclose(one.get(), other, rtol=1e-9, atol=1e-12)


@pytest.mark.host
@pytest.mark.parametrize("part", ["forward", "loss", "backward", "clip", "adam"])
def test_no_part_of_a_training_step_waits_on_the_ways_of_cupy(part, make_believe):
    from make_believe_cupy import nothing_waits

    training = Training(np.random.default_rng(0), make_believe, sc.LSTM(N_A))
    model, params, adam = training.model, training.progress.params, optimizers.adam()
    _, _, tape = model.forward(params, training.problem.x, draw=0)
    dy = 0.01 * training.targets
    _, grads, _ = model.backward(params, tape, dy)
    parts = {
        "forward": lambda: model.forward(params, training.problem.x, draw=1),
        "loss": lambda: losses.cross_entropy(dy, training.targets),
        "backward": lambda: model.backward(params, tape, dy),
        "clip": lambda: optimizers.clip_by_global_norm(grads, 1.0),
        "adam": lambda: adam.update(params, grads, training.progress.opt_state),
    }
    with nothing_waits():
        parts[part]()


@pytest.mark.host
def test_the_command_line_trains_goes_on_samples_and_measures_on_the_ways_of_cupy(
    make_believe, tmp_path, monkeypatch, capsys
):
    assert make_believe(0.0).device.id == 0
    runs_through(tmp_path, monkeypatch, capsys, "cupy", "cuda:0", "float32")


@pytest.mark.host
def test_the_make_believe_cupy_catches_whoever_waits(make_believe):
    from make_believe_cupy import WaitsError, nothing_waits

    x = make_believe([1.0, 2.0])
    mask = x > 1.0
    reads = (lambda: float(x[0]), lambda: bool(mask[0]), lambda: x[mask], x.get, x[0].item)
    with nothing_waits():
        for read in reads:
            with pytest.raises(WaitsError, match="the host waits for the device"):
                read()
        with pytest.raises(TypeError, match="Implicit conversion"):
            np.asarray(x)
        with pytest.raises(TypeError, match="Unsupported type"):
            x + np.ones(2)
    assert float(x[mask][0]) == 2.0


# Keeps one thread of the device busy for this many nanoseconds. Not run yet (2026-11-21).
SPIN = r"""
extern "C" __global__ void spin(const unsigned long long ns) {
    unsigned long long start, now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(start));
    do {
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    } while (now - start < ns);
}
"""
SECONDS = 0.5
# The driver queues about a thousand launches, and the next one waits for that reason alone.
# A loop of a few steps runs the same code as one of many.
FEW = 4


@pytest.fixture
def assert_nothing_waits():
    """Call a function behind a kernel that spins: it must return while that still does."""
    import cupy

    spin = cupy.RawKernel(SPIN, "spin")

    def check(run):
        stream = cupy.cuda.get_current_stream()
        for _ in range(3):  # compiles, loads cuBLAS and fills the pools, which may wait
            run()
        spin((1,), (1,), (np.uint64(1),))
        stream.synchronize()
        begin = time.perf_counter()
        spin((1,), (1,), (np.uint64(SECONDS * 1e9),))
        behind = cupy.cuda.Event(block=False, disable_timing=True)
        behind.record(stream)
        kept = run()
        seconds, over = time.perf_counter() - begin, behind.done
        stream.synchronize()
        spun = time.perf_counter() - begin
        del kept
        assert spun >= SECONDS, "the kernel that was to keep the device busy did not"
        assert not over, f"the device was done when the host returned, after {seconds:.3f} s"
        assert seconds < 0.8 * SECONDS

    return check


@pytest.mark.only("cupy")
@each_layer
def test_no_layer_waits_for_the_device(layer, asarray, rng, assert_nothing_waits):
    problem = Problem.of(rng, layer, n_steps=FEW).move(asarray)
    assert_nothing_waits(problem.results)


@pytest.mark.only("cupy")
@pytest.mark.parametrize("part", ["forward", "backward"])
def test_neither_way_of_a_longer_sequence_waits(part, asarray, rng, assert_nothing_waits):
    problem = Problem.of(rng, sc.RNN(N_A), n_steps=T).move(asarray)
    _, _, tape = problem.forward()
    ways = {
        "forward": problem.forward,
        "backward": lambda: problem.backward(tape),
    }
    assert_nothing_waits(ways[part])


@pytest.mark.only("cupy")
@pytest.mark.parametrize("part", ["loss", "clip", "adam", "all"])
def test_no_part_of_a_training_step_waits_for_the_device(part, asarray, rng, assert_nothing_waits):
    training = Training(rng, asarray, sc.LSTM(N_A), n_steps=FEW)
    params = training.progress.params
    logits, _, tape = training.model.forward(params, training.problem.x, draw=0)
    _, dy = losses.cross_entropy(logits, training.targets)
    _, grads, _ = training.model.backward(params, tape, dy)
    adam = optimizers.adam()
    state = adam.init(params)
    parts = {
        "loss": lambda: losses.cross_entropy(logits, training.targets),
        "clip": lambda: optimizers.clip_by_global_norm(grads, 1.0),
        "adam": lambda: adam.update(params, grads, state),
        "all": training.train,
    }
    assert_nothing_waits(parts[part])


@pytest.mark.only("cupy")
def test_the_spinning_kernel_catches_whoever_waits(asarray, assert_nothing_waits):
    x = asarray(np.ones(3))
    assert_nothing_waits(lambda: x + x)
    with pytest.raises(AssertionError, match="the device was done when the host returned"):
        assert_nothing_waits(lambda: float(x[0]))


# --- memory -----------------------------------------------------------------------------


@contextmanager
def no_collector():
    """Memory must be freed at once, not when Python looks for cycles."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def test_nothing_of_a_step_outlives_it_but_what_it_returns(asarray, rng, monkeypatch):
    training = Training(rng, asarray, sc.LSTM(N_A), n_steps=6)
    kept, plain = [], sc.Sequential.backward

    def backward(self, params, tape, dy, dstate=None, wrt=None):
        dx, grads, dbefore = plain(self, params, tape, dy, dstate, wrt)
        kept.extend(weakref.ref(array) for array in (dy, *grads.values(), *leaves(tape)))
        return dx, grads, dbefore

    monkeypatch.setattr(sc.Sequential, "backward", backward)
    training.train()  # the first one fills caches
    kept.clear()
    with no_collector():
        training.train()
        # The input is ours, and the last h on the tape is the state that is carried on.
        ours = {id(leaf) for leaf in leaves((training.window[:2], training.progress))}
        alive = [ref() for ref in kept]
        assert len(alive) > 20
        assert [a.shape for a in alive if a is not None and id(a) not in ours] == []


@pytest.mark.host
def test_memory_stays_as_it_is_from_step_to_step():
    training = Training(np.random.default_rng(0), np.array, sc.LSTM(64), m=16)
    training.train()
    only_arrays = tracemalloc.DomainFilter(inclusive=True, domain=np.lib.tracemalloc_domain)

    def used():
        snapshot = tracemalloc.take_snapshot().filter_traces([only_arrays])
        return sum(trace.size for trace in snapshot.traces)

    with no_collector():
        tracemalloc.start()
        try:
            for _ in range(3):
                training.train()
            before = used()
            for _ in range(5):
                training.train()
            grown = used() - before
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert most > 10 * before  # a step does take memory
    assert abs(grown) < 0.01 * most


@pytest.mark.only("cupy")
def test_memory_goes_back_to_the_pool_after_each_step(asarray, rng):
    import cupy

    training = Training(rng, asarray, sc.LSTM(64), m=16)
    pool = cupy.get_default_memory_pool()
    used, reserved = [], []
    with no_collector():
        for _ in range(3):
            training.train()
        for _ in range(5):
            training.train()
            used.append(pool.used_bytes())
            reserved.append(pool.total_bytes())
    assert len(set(used)) == 1
    assert len(set(reserved)) == 1


@pytest.mark.only("cupy")
def test_a_device_without_memory_says_how_much_was_asked_for_and_stays_usable(asarray, rng):
    import cupy

    large = Training(rng, asarray, sc.LSTM(64), n_steps=64, m=256)
    small = Training(rng, asarray, sc.LSTM(64), n_steps=4, m=2)
    small.train()
    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    used, limit = pool.used_bytes(), pool.get_limit()
    pool.set_limit(size=pool.total_bytes() + 2**23)
    try:
        with pytest.raises(training.OutOfMemoryError, match=r"[\d,]+ bytes") as caught:
            training.fit(large.step, large.progress, lambda _: large.window, steps=3)
        assert caught.value.progress is large.progress
        assert pool.used_bytes() == used
        assert np.isfinite(float(small.train()))
    finally:
        pool.set_limit(size=limit)
    assert training.fit(large.step, large.progress, lambda _: large.window, steps=1).why == "steps"


# --- from start to end ------------------------------------------------------------------


@pytest.mark.long
def test_the_command_line_trains_goes_on_samples_and_measures(
    library, place, tmp_path, monkeypatch, capsys
):
    runs_through(tmp_path, monkeypatch, capsys, library.name, place.device, place.dtype)


def runs_through(tmp_path, monkeypatch, capsys, backend, device, dtype):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    Path("in.txt").write_text("the cat sat on a mat. " * 100, encoding="utf-8")
    size = ["--hidden", "8", "--embed", "4", "--seq-len", "8", "--batch", "2"]
    asked = ["--backend", backend, "--device", device, "--dtype", dtype]

    def call(*arguments):
        assert cli.main(list(arguments)) == 0
        return capsys.readouterr().out

    constant = ["--schedule", "constant", *size, *asked]
    for run, steps in (("parted", "3"), ("whole", "5")):
        out = call("train", "in.txt", *constant, "--out", run, "--steps", steps)
        assert f"on {device}, {dtype}\n" in out
    assert f"on {device}, {dtype}\n" in call("train", "--resume", "parted", "--steps", "5")
    parted, whole = (load_run(run)[1] for run in ("parted", "whole"))
    assert parted.step == whole.step == 5
    for name, value in whole.params.items():
        np.testing.assert_allclose(parted.params[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    assert len(call("sample", "parted", "--length", "9", "--prompt", "t")) == 11
    assert re.search(r"^  seqcore +\d+\.\d{3}$", call("eval", "parted", "in.txt"), re.MULTILINE)


@pytest.mark.only("cupy")
def test_arrays_on_two_gpus_are_refused_by_name(asarray, rng):
    import cupy

    # On one GPU array-api-strict's devices stand in: test_two_devices_are_refused.
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("there is one GPU here")
    problem = Problem.of(rng, sc.LSTM(N_A), n_steps=4).move(asarray)
    with cupy.cuda.Device(1):
        stray = cupy.asarray(cupy.asnumpy(problem.params["0.b"]))
    problem.params["0.b"] = stray
    expected = "lstm: 0.b is on device <CUDA Device 1>, expected <CUDA Device 0> like x"
    with pytest.raises(TypeError, match=re.escape(expected)):
        problem.forward()


@pytest.mark.only("cupy")
def test_tf32_is_on_in_its_variant_and_in_no_other(library, rng):
    import cupy

    if int(cupy.cuda.Device().compute_capability) < 80:
        pytest.skip("TF32 begins with compute capability 8.0")
    # Large enough for the tensor cores: those of the suite's other tests may be too small.
    a, b = rng.standard_normal((2, 512, 512))
    product = cupy.asnumpy(cupy.asarray(a, dtype="float32") @ cupy.asarray(b, dtype="float32"))
    error = np.abs(product - a @ b).max() / np.abs(a @ b).max()
    # Of factors of 24 bits about 1e-7 is left, of factors of 11 bits about 1e-4.
    assert (error > 1e-5) == (library.variant == "tf32"), error
