"""What is logged, at which level, and that nothing is logged at every step."""

from __future__ import annotations

import itertools
import logging

import numpy as np
import pytest

import seqcore as sc
from seqcore import kernels, losses, optimizers, process, training
from seqcore.process import blas, memory

pytestmark = pytest.mark.host

X = np.random.default_rng(0).standard_normal((3, 2, 5))
WINDOW = training.Window(X, np.zeros((3, 4, 5)), fresh=True)


def said(caplog):
    return [(record.name, record.levelname, record.getMessage()) for record in caplog.records]


def fit(model=None, window=lambda _: WINDOW, **options):
    model = sc.Dense(4) if model is None else model
    step = training.Step(model, losses.squared_error, lambda _: optimizers.sgd(0.1))
    start = step.start(model.init(2, like=X, rng=0))
    return training.fit(step, start, window, clock=itertools.count().__next__, **options)


def ends_with(error):
    def window(k):
        if k == 2:
            raise error
        return WINDOW

    return window


NAN = training.Window(X * np.nan, WINDOW.targets, fresh=True)


@pytest.mark.parametrize(
    ("options", "error", "begins", "ends"),
    [
        ({"steps": 3}, None, "steps=3, seconds=None", "step 3 and 3.000 seconds: steps"),
        ({"seconds": 2.5}, None, "steps=None, seconds=2.5", "step 3 and 3.000 seconds: seconds"),
        (
            {"steps": 9, "window": ends_with(KeyboardInterrupt())},
            None,
            "steps=9, seconds=None",
            "step 2 and 3.000 seconds: interrupted",
        ),
        (
            {"steps": 9, "window": ends_with(MemoryError("no more"))},
            training.OutOfMemoryError,
            "steps=9, seconds=None",
            "step 2: MemoryError: no more",
        ),
        (
            {"steps": 9, "window": ends_with(KeyError("k"))},
            KeyError,
            "steps=9, seconds=None",
            "step 2: KeyError: 'k'",
        ),
        (
            {"steps": 9, "window": lambda _: NAN},
            training.NotFiniteError,
            "steps=9, seconds=None",
            "step 0: NotFiniteError: the loss is nan at step 1, expected a finite number",
        ),
    ],
    ids=["steps", "seconds", "ctrl-c", "memory", "error", "nan"],
)
def test_fit_says_when_it_begins_and_why_it_ends(options, error, begins, ends, caplog):
    caplog.set_level(logging.INFO, "seqcore")
    if error is None:
        fit(**options)
    else:
        with pytest.raises(error):
            fit(**options)
    assert said(caplog) == [
        ("seqcore.training.loop", "INFO", f"fit begins at step 0: {begins}"),
        ("seqcore.training.loop", "INFO", f"fit ends after {ends}"),
    ]


def test_kernels_of_a_library_are_named_once(caplog, monkeypatch):
    caplog.set_level(logging.DEBUG, "seqcore")
    for value, names in ((None, "numpy"), ("0", "none")):
        if value is None:
            monkeypatch.delenv("SEQCORE_KERNELS", raising=False)
        else:
            monkeypatch.setenv("SEQCORE_KERNELS", value)
        kernels.of.cache_clear()
        for _ in range(2):
            kernels.of(np)
        assert said(caplog) == [("seqcore.kernels", "DEBUG", f"kernels for numpy: {names}")]
        caplog.clear()
    kernels.of.cache_clear()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("SEQCORE_MALLOC", "malloc is left as it is: SEQCORE_MALLOC is set"),
        ("GLIBC_TUNABLES", "malloc is left as it is: GLIBC_TUNABLES is set"),
        (None, "mallopt(M_ARENA_MAX, 1); SEQCORE_MALLOC=0 stops this"),
    ],
)
def test_what_malloc_is_told_is_logged(name, message, caplog, monkeypatch):
    class LibC:
        gnu_get_libc_version = mallopt = staticmethod(lambda *_: None)

    caplog.set_level(logging.DEBUG, "seqcore")
    for known in ("SEQCORE_MALLOC", *memory._LIMITS):
        monkeypatch.delenv(known, raising=False)
    if name is not None:
        monkeypatch.setenv(name, "0")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: LibC)
    process.share_memory_among_threads.cache_clear()
    process.share_memory_among_threads()
    process.share_memory_among_threads.cache_clear()
    assert said(caplog) == [("seqcore.process.memory", "DEBUG", message)]


def test_limits_of_blas_are_logged(caplog, monkeypatch):
    monkeypatch.setattr(blas, "_register", blas._Register())
    monkeypatch.setattr(blas.os, "register_at_fork", lambda **_: None, raising=False)
    caplog.set_level(logging.DEBUG, "seqcore")
    with sc.blas_threads(1):
        found = [message for _, _, message in said(caplog)]
        assert found.pop() == "BLAS is limited to 1 threads"
        assert all(message.startswith("found a BLAS with ") for message in found)
        caplog.clear()
    assert said(caplog) == [
        ("seqcore.process.blas", "DEBUG", "the limit of BLAS to 1 threads has ended")
    ]


def test_no_step_of_a_training_logs_anything(caplog):
    model = sc.Sharded(sc.Sequential(sc.LSTM(3), sc.Dense(4)), 2, threads=2)
    params = model.init(2, like=X, rng=0)
    fit(model, steps=1)  # what is said once
    model.predict(params, X)
    caplog.set_level(logging.DEBUG)
    few, many = (len(fit_records(caplog, model, steps)) for steps in (1, 9))
    assert few == many
    caplog.clear()
    for _ in range(3):  # nor one of a loop of the user's own
        y, _, tape = model.forward(params, X)
        model.backward(params, tape, y)
        model.predict(params, X)
        model.layer.bind(params)(X[0, :, :1])
    assert said(caplog) == []


def fit_records(caplog, model, steps):
    caplog.clear()
    fit(model, steps=steps)
    return list(caplog.records)


def test_nothing_is_written_without_a_handler(capfd):
    fit(sc.Sequential(sc.LSTM(3), sc.Dense(4)), steps=3)
    with pytest.raises(training.NotFiniteError):
        fit(window=lambda _: NAN, steps=1)
    assert capfd.readouterr() == ("", "")
