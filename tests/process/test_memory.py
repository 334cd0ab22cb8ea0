"""What malloc is told: by a training on NumPy only, once, and not where someone objects."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from judging import exactly

import seqcore as sc
from seqcore import functional, kernels, process
from seqcore.process import memory

pytestmark = pytest.mark.host

LIMITS = sorted(memory._LIMITS)
# malloc.h: M_MMAP_THRESHOLD is -3, M_TRIM_THRESHOLD is -1, M_ARENA_MAX is -8.
KEEP, SHARE = [(-3, 2**25), (-1, 2**29)], [(-8, 1)]


class LibC:
    """A C library that records its calls."""

    def __init__(self, calls, *, is_glibc=True):
        self.mallopt = lambda *given: calls.append(given)
        if is_glibc:
            self.gnu_get_libc_version = lambda: b"2.36"


def forget():
    process.keep_freed_memory.cache_clear()
    process.share_memory_among_threads.cache_clear()
    kernels.of.cache_clear()


@pytest.fixture
def calls(monkeypatch):
    """What malloc is told, in a process where nothing was said yet."""
    for name in ("SEQCORE_MALLOC", "SEQCORE_KERNELS", *LIMITS):
        monkeypatch.delenv(name, raising=False)
    told = []
    load = memory.ctypes.CDLL
    monkeypatch.setattr(
        memory.ctypes,
        "CDLL",
        lambda name, *more, **options: load(name, *more, **options) if name else LibC(told),
    )
    forget()
    yield told
    forget()


MODEL = sc.Sequential(sc.LSTM(4), sc.Dense(2))
X = np.ones((3, 2, 5))


def train(model=MODEL, x=X):
    params = model.init(x.shape[1], like=x, rng=0)
    y, _, tape = model.forward(params, x)
    model.backward(params, tape, y)


def predict(model=MODEL, x=X):
    model.predict(model.init(x.shape[1], like=x, rng=0), x)


def textbook(backward):
    rng = np.random.default_rng(0)
    shapes = {"Wax": (4, 2), "Waa": (4, 4), "ba": (4, 1), "Wya": (3, 4), "by": (3, 1)}
    parameters = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    a, _, caches = functional.rnn_forward(np.ones((2, 5, 3)), np.zeros((4, 5)), parameters)
    if backward:
        functional.rnn_backward(a, caches)


def test_a_training_step_on_numpy_tells_it_once(calls):
    for _ in range(3):
        train()
    assert calls == KEEP


@pytest.mark.parametrize("layer", [sc.Dense(3), sc.GRU(3), sc.Sharded(sc.Dense(3), 2, threads=1)])
def test_every_layer_trains(layer, calls):
    train(layer)
    assert calls == KEEP


def test_the_textbook_door_trains_by_its_backward(calls):
    textbook(backward=False)
    assert calls == []
    textbook(backward=True)
    assert calls == KEEP


def test_without_a_training_step_malloc_is_left_alone(calls):
    predict()
    bound = MODEL.bind(MODEL.init(2, like=X, rng=0))
    bound(np.ones((2, 1)))
    MODEL.forward(MODEL.init(2, like=X, rng=0), X)
    assert calls == []


def test_threads_of_shards_share_their_memory(calls):
    predict(sc.Sharded(MODEL, 2, threads=2))
    assert calls == []
    train(sc.Sharded(MODEL, 2, threads=2))
    assert calls == SHARE + KEEP


@pytest.mark.parametrize("value", ["0", " 0 "])
def test_one_switch_stops_all_of_it(value, calls, monkeypatch):
    monkeypatch.setenv("SEQCORE_MALLOC", value)
    train()
    train(sc.Sharded(MODEL, 2, threads=2))
    assert calls == []


@pytest.mark.parametrize("value", ["", " ", "1"])
def test_the_switch_may_be_on(value, calls, monkeypatch):
    monkeypatch.setenv("SEQCORE_MALLOC", value)
    train()
    assert calls == KEEP


@pytest.mark.parametrize("value", ["no", "2", "00", "true", "-1"])
def test_other_values_of_the_switch_are_refused(value, calls, monkeypatch):
    monkeypatch.setenv("SEQCORE_MALLOC", value)
    text = f"SEQCORE_MALLOC: {value!r} is unknown, expected 0 or 1"
    for call in (train, lambda: train(sc.Sharded(MODEL, 2, threads=2))):
        for _ in range(2):
            with pytest.raises(ValueError, match=exactly(text)):
                call()
    predict(sc.Sharded(MODEL, 2, threads=2))  # has nothing to do with it
    assert calls == []


@pytest.mark.parametrize("name", LIMITS)
def test_whoever_sets_a_limit_in_the_environment_keeps_it(name, calls, monkeypatch):
    monkeypatch.setenv(name, "1000000")
    train(sc.Sharded(MODEL, 2, threads=2))
    assert calls == []


@pytest.mark.parametrize("error", [OSError, TypeError, None])
def test_another_c_library_is_left_alone(error, calls, monkeypatch):
    load_any = memory.ctypes.CDLL

    def load(name, *more, **options):
        if name is not None:  # not the C library
            return load_any(name, *more, **options)
        if error is not None:
            raise error  # no such library; Windows takes no None
        return LibC(calls, is_glibc=False)

    monkeypatch.setattr(memory.ctypes, "CDLL", load)
    train(sc.Sharded(MODEL, 2, threads=2))
    assert calls == []


# --- what it is good for ----------------------------------------------------------------

PROGRAM = """
    import resource
    import numpy as np, seqcore as sc

    x = np.random.default_rng(0).standard_normal((60, 30, 64)).astype(np.float32)
    layer = sc.LSTM(100)
    params = layer.init(30, like=x, rng=0)

    def faults():
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    for _ in range(8):
        before = faults()
        y, _, tape = layer.forward(params, x)
        layer.backward(params, tape, y)
        del y, tape
        after = faults()
        print(after - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_a_further_training_step_takes_no_new_pages():
    env = {name: value for name, value in os.environ.items() if name not in LIMITS}
    env |= {"PYTHONPATH": str(Path(sc.__file__).parent.parent), "SEQCORE_MALLOC": "1"}
    steps = [
        [
            int(line)
            for line in subprocess.run(
                [sys.executable, "-c", textwrap.dedent(PROGRAM)],
                env=env | more,
                capture_output=True,
                text=True,
                check=True,
            ).stdout.split()
        ]
        # The others keep less: they show that there are pages to be kept.
        for more in ({}, {"MALLOC_TRIM_THRESHOLD_": str(2**17)}, {"SEQCORE_MALLOC": "0"})
    ]
    kept, returned, switched_off = (faults[3:] for faults in steps)
    assert max(kept) < 100 < 1000 < min(returned)
    assert min(switched_off) > 1000
