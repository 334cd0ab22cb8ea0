"""Optimizers, schedules and errors go to worker processes and come back as they were."""

from __future__ import annotations

import ast
import copy
import dataclasses
import importlib
import inspect
import itertools
import math
import multiprocessing
import pickle
import traceback
import typing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import seqcore as sc
from seqcore import optimizers
from seqcore.training import Progress

pytestmark = pytest.mark.host

# --- optimizers and schedules -----------------------------------------------------------

SCHEDULES = {
    "number": np.float32(0.25),
    "constant": sc.constant(np.float32(0.25)),
    "cosine": sc.cosine(np.float32(0.25), np.int64(9), final=np.float64(0.125)),
    "warmup": sc.warmup(np.int8(3), np.float32(0.25)),
    "warmup, then cosine": sc.warmup(3, sc.cosine(0.5, 9)),
}
MAKERS = {
    "sgd": sc.sgd,
    "momentum": lambda rate: sc.sgd(rate, np.float32(0.5), nesterov=True),
    "adam": lambda rate: sc.adam(rate, eps_root=np.float64(1e-9)),
    "adamw": lambda rate: sc.adamw(rate, weight_decay=0.5, decay={"a", "b"}),
}
PAIRS = list(itertools.product(MAKERS, SCHEDULES))
OPTIMIZERS = {f"{maker}, {rate}": MAKERS[maker](SCHEDULES[rate]) for maker, rate in PAIRS}
COPIES = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),  # noqa: S301 (made here)
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "repr": lambda value: eval(repr(value), vars(optimizers)),  # noqa: S307 (made here)
}


@pytest.fixture(scope="module")
def worker():
    """A process that was started anew, as they are on Windows and macOS."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield pool


def assert_is_again(again, value):
    assert type(again) is type(value)
    assert again == value
    assert hash(again) == hash(value)
    assert repr(again) == repr(value)


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("value", [*OPTIMIZERS.values(), *SCHEDULES.values()], ids=repr)
def test_an_optimizer_comes_back_as_it_was(way, value):
    if isinstance(value, np.generic):
        value = sc.constant(value)
    assert_is_again(COPIES[way](value), value)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_works_in_another_process(name, worker):
    opt = OPTIMIZERS[name]
    params = {"a": np.ones(2), "b": np.full(3, -1.0)}
    after, state = opt.update(params, params, opt.init(params))
    theirs, again = worker.submit(opt.update, params, params, opt.init(params)).result()
    assert type(again) is type(state)
    for one, other in ((after, theirs), *zip(state, again, strict=True)):
        np.testing.assert_equal(other, one)
    assert_is_again(worker.submit(copy.copy, opt).result(), opt)


@pytest.mark.parametrize("value", [*OPTIMIZERS.values(), *SCHEDULES.values()], ids=repr)
def test_the_numbers_of_an_optimizer_are_pythons_own(value):
    def numbers(value):
        for part in vars(value).values():
            yield from numbers(part) if hasattr(part, "__dict__") else [part]

    if not isinstance(value, np.generic):
        assert {type(number) for number in numbers(value)} <= {int, float, bool, tuple, type(None)}


def test_a_schedule_is_compared_by_its_numbers_and_can_be_read():
    assert sc.cosine(0.5, 9) == sc.cosine(0.5, 9, final=0.0) != sc.cosine(0.5, 8)
    assert sc.warmup(3, 0.5) == sc.warmup(3, sc.constant(0.5)) != sc.warmup(3, 0.25)
    assert len({sc.constant(0.5), sc.constant(0.5), sc.constant(0.25)}) == 2
    text = "Warmup(steps=3, after=Cosine(value=0.5, steps=9, final=0.0))"
    assert repr(sc.warmup(3, sc.cosine(0.5, 9))) == text
    for name in ("value", "steps", "final"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(sc.cosine(0.5, 9), name, 1)


# --- errors -----------------------------------------------------------------------------

ROOT = Path(sc.__file__).parent


def exceptions():
    """Return every exception class of the package, by the names of its module and itself."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        dotted = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
        try:
            # A module without classes is not imported: some do their work then.
            module = importlib.import_module(dotted.removesuffix(".__init__")) if names else None
        except ModuleNotFoundError:
            assert dotted.startswith("seqcore.kernels.")  # of another array library
            continue
        for name in names:
            kind = getattr(module, name, None)
            if inspect.isclass(kind) and issubclass(kind, BaseException):
                found[f"{module.__name__}.{name}"] = kind
    return found


# What the arguments of an exception may be, by their types.
ARGUMENTS = {
    str: "a word",
    int: 3,
    float: math.inf,
    tuple[int, ...]: (1, 2),
    Path: Path("run"),
    Progress: Progress(3, {"w": np.ones(2)}, None, (np.ones((1, 2)),)),
}
EXCEPTIONS = exceptions()


def example(kind):
    """Make an exception with all its arguments."""
    if kind.__init__ in (BaseException.__init__, *(base.__init__ for base in builtin_bases(kind))):
        return kind("a word")
    hints = typing.get_type_hints(kind.__init__)
    hints.pop("return", None)
    # Of `int | None` the first.
    return kind(
        **{
            name: ARGUMENTS[hint if hint in ARGUMENTS else typing.get_args(hint)[0]]
            for name, hint in hints.items()
        }
    )


def builtin_bases(kind):
    return [base for base in kind.__mro__ if base.__module__ == "builtins" and base is not object]


def test_the_exceptions_of_the_package_are_found():
    assert len(EXCEPTIONS) >= 5
    assert "seqcore.training.loop.NotFiniteError" in EXCEPTIONS


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_an_error_comes_back_with_its_message_and_all_that_it_says(name, worker):
    error = example(EXCEPTIONS[name])
    error.add_note("a note")
    for again in (
        *(COPIES[way](error) for way in ("pickle", "copy", "deepcopy")),
        worker.submit(copy.copy, error).result(),
    ):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert again.args == error.args
        np.testing.assert_equal(vars(again), vars(error))
        assert "a note" in "".join(traceback.format_exception(again))


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_an_error_that_a_worker_raises_arrives(name, worker):
    error = example(EXCEPTIONS[name])
    with pytest.raises(EXCEPTIONS[name]) as raised:
        worker.submit(raise_again, error).result()
    assert str(raised.value) == str(error)
    assert vars(raised.value).keys() >= vars(error).keys()


def raise_again(error):
    raise error


# --- layers, states and tapes ---------------------------------------------------------


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_tape_goes_through_every_protocol(protocol):
    layer, x = sc.Sequential(sc.LSTM(3), sc.Last(), sc.Dense(2)), np.ones((4, 2, 5))
    params = layer.init(2, like=x, rng=0)
    y, state, tape = layer.forward(params, x)
    again = pickle.loads(pickle.dumps((layer, state, tape), protocol))  # noqa: S301 (made here)
    assert again[0] == layer
    expected = layer.backward(params, tape, y)[1]
    for name, value in again[0].backward(params, again[2], y)[1].items():
        np.testing.assert_array_equal(value, expected[name])
