"""Limits of BLAS: nested, overlapping, left in any order, in threads and in forked processes."""

from __future__ import annotations

import gc
import os
import random
import shutil
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import threadpoolctl
from judging import exactly
from processes import output_of

import seqcore as sc
from seqcore import process
from seqcore.process import blas as ours

pytestmark = pytest.mark.host

ORIGINAL = 8


class Shared:
    """A BLAS whose number of threads is one for all threads, as threadpoolctl controls it."""

    user_api = "blas"

    def __init__(self, name, original=ORIGINAL):
        self.filepath, self.original = name, original
        self.set_num_threads(original)

    def set_num_threads(self, number):
        self.number = number

    def get_num_threads(self):
        return self.number

    def info(self):
        return {"filepath": self.filepath, "num_threads": self.get_num_threads()}


class Own(Shared):
    """A BLAS that has a number for each thread."""

    def __init__(self, name, original=ORIGINAL):
        self._here = threading.local()
        super().__init__(name, original)

    @property
    def number(self):
        return getattr(self._here, "number", self.original)

    @number.setter
    def number(self, number):
        self._here.number = number


class Passing(Shared):
    """A BLAS that passes its number on to another one, as FlexiBLAS does."""

    def __init__(self, name, to):
        self.to = to
        super().__init__(name)

    def set_num_threads(self, number):
        self.number = number
        self.to.set_num_threads(number)


class Capped(Shared):
    """A BLAS that takes no more than so many threads."""

    def set_num_threads(self, number):
        self.number = min(number, 16)


class OwnCapped(Own):
    """A BLAS that has a number for each thread, and takes no more than it had before."""

    def set_num_threads(self, number):
        self.number = min(number, ORIGINAL)


@pytest.fixture
def loaded(monkeypatch):
    """The libraries that are loaded, for a test to fill; and a register that knows none yet."""
    found, looks = [], []

    def controller():
        looks.append(1)
        return SimpleNamespace(select=lambda **_: SimpleNamespace(lib_controllers=list(found)))

    monkeypatch.setattr(ours, "_controller", controller)
    monkeypatch.setattr(ours, "_register", ours._Register())
    monkeypatch.setattr(os, "register_at_fork", lambda **_: None)  # it can't be undone
    return SimpleNamespace(add=found.append, looks=looks)


@pytest.fixture
def shared(loaded):
    blas = Shared("libshared.so")
    loaded.add(blas)
    return blas


# --- what a limit is --------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, np.int64(2), np.uint8(200), np.asarray([3])[0]])
def test_a_limit_is_a_whole_number_of_any_kind(limit, shared):
    with sc.blas_threads(limit):
        assert shared.number == limit
        assert type(shared.number) is int
    assert shared.number == ORIGINAL


@pytest.mark.parametrize(
    "limit", [True, False, np.True_, 1.0, np.float32(2), "1", None, np.asarray(1), [1]]
)
def test_what_is_no_whole_number_is_refused_before_the_block(limit):
    text = f"blas_threads: limit is {limit!r}, expected a whole number"
    with pytest.raises(TypeError, match=exactly(text)):
        sc.blas_threads(limit)


@pytest.mark.parametrize("limit", [0, -1, np.int8(-3)])
def test_a_limit_is_at_least_one(limit):
    text = f"blas_threads: limit is {limit}, expected at least 1"
    with pytest.raises(ValueError, match=exactly(text)):
        sc.blas_threads(limit)


@pytest.mark.parametrize("limit", [2**31, 2**32, 10**30])
def test_a_limit_beyond_an_int_of_c_is_the_largest_one(limit, shared):
    with sc.blas_threads(limit):
        assert shared.number == 2**31 - 1
    assert shared.number == ORIGINAL


def test_it_decorates_functions(shared):
    @sc.blas_threads(3)
    def inside(depth):
        return shared.number if depth == 0 else inside(depth - 1)

    assert inside(0) == inside(2) == 3
    assert shared.number == ORIGINAL


class Called:
    async def __call__(self):
        pass


async def waits():
    pass


def yields():
    yield


async def waits_and_yields():
    yield


@pytest.mark.parametrize(
    "function",
    [waits, yields, waits_and_yields, partial(waits), staticmethod(yields), Called()],
    ids=["async", "generator", "async generator", "partial", "static", "object"],
)
def test_a_function_that_runs_after_its_call_is_refused_as_a_decorated_one(function):
    text = r"blas_threads\(1\): .* is a generator or a coroutine, which runs after the block of"
    with pytest.raises(TypeError, match=text):
        sc.blas_threads(1)(function)


def test_a_decorated_function_keeps_its_name_and_arguments(shared):
    @sc.blas_threads(1)
    def inside(a, *, b=2):
        """Text."""
        return a, b, shared.number

    assert inside(1) == (1, 2, 1)
    assert inside(1, b=3) == (1, 3, 1)
    assert (inside.__name__, inside.__doc__) == ("inside", "Text.")


# --- the law of blocks ------------------------------------------------------------------


class Caller:
    """A thread that does what it is told, one thing after another."""

    def __init__(self):
        self._pool = ThreadPoolExecutor(1)

    def __call__(self, function, *arguments):
        return self._pool.submit(function, *arguments).result(20)

    def close(self):
        self._pool.shutdown()


def enter(block):
    block.__enter__()


def leave(block):
    block.__exit__(None, None, None)


@pytest.mark.parametrize("seed", range(20))
def test_the_last_limit_holds_and_the_first_state_comes_back(seed, loaded):
    # Against a model: a list of open blocks. Threads, limits, objects that are entered again,
    # the order of leaving and the moment at which a library is loaded are drawn.
    draw = random.Random(seed)
    libraries = [Shared("a"), Own("b")]
    known = list(libraries)
    for blas in libraries:
        loaded.add(blas)
    callers = [Caller() for _ in range(8)]
    again = [sc.blas_threads(n) for n in (1, 2)]  # any thread may enter them at any time
    opened: list[tuple[Caller, int, object]] = []
    try:
        for number in range(120):
            if opened and (draw.random() < 0.5 or number > 100):
                caller, limit, block = opened[draw.randrange(len(opened))]
                # Of an object that a thread has entered twice, it leaves the last block.
                caller, limit, block = next(
                    o for o in reversed(opened) if o[0] is caller and o[2] is block
                )
                last = len(opened) - 1 - opened[::-1].index((caller, limit, block))
                del opened[last]
                caller(leave, block)
            elif number <= 100:
                caller, limit = draw.choice(callers), draw.choice([1, 1, 2, 3, ORIGINAL])
                kept = {1: again[0], 2: again[1]}.get(limit)
                block = kept if kept and draw.random() < 0.5 else sc.blas_threads(limit)
                known = list(libraries)  # from now on
                opened.append((caller, limit, block))
                caller(enter, block)
            if draw.random() < 0.05:
                kind = draw.choice([Shared, Own])
                libraries.append(kind(f"later{number}", draw.choice([1, 4])))
                loaded.add(libraries[-1])
            for blas in libraries:
                for caller in callers if isinstance(blas, Own) else callers[:1]:
                    mine = [o for o in opened if o[0] is caller or not isinstance(blas, Own)]
                    expected = mine[-1][1] if mine and blas in known else blas.original
                    found = caller(blas.get_num_threads)
                    # A library that was found in the middle of a thread's blocks has a number
                    # for each thread: those that were inside already are limited as they enter
                    # or leave another block.
                    late = blas.filepath.startswith("later") and isinstance(blas, Own) and opened
                    assert found == expected or (late and found == blas.original), blas.filepath
        while opened:
            caller, limit, block = opened.pop()
            caller(leave, block)
        for blas in libraries:
            assert {caller(blas.get_num_threads) for caller in callers} == {blas.original}
    finally:
        for caller in callers:
            caller.close()


def test_threads_that_come_and_go_as_they_like_leave_no_limit(loaded):
    libraries = [Shared("a"), Own("b"), Shared("c", 1)]
    for blas in libraries:
        loaded.add(blas)
    same, barrier, wrong = sc.blas_threads(1), threading.Barrier(8), []

    def run(seed):
        draw = random.Random(seed)
        barrier.wait(20)
        for _ in range(60):
            limit = draw.choice([1, 2, 3])
            with same if draw.random() < 0.5 else sc.blas_threads(limit):
                time.sleep(draw.choice([0, 0, 1e-4]))
        if libraries[1].get_num_threads() != ORIGINAL:
            wrong.append(seed)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert [blas.get_num_threads() for blas in libraries] == [ORIGINAL, ORIGINAL, 1]


def test_a_library_that_passes_its_number_on_leaves_none_behind(loaded):
    behind = Shared("libopenblas.so")
    for blas in (Passing("libflexiblas.so", behind), behind):
        loaded.add(blas)
    with sc.blas_threads(1), sc.blas_threads(2):
        assert behind.number == 2
    assert behind.number == ORIGINAL


def test_a_library_that_takes_fewer_threads_is_still_that_of_all_threads(loaded):
    blas = Capped("libcapped.so")
    loaded.add(blas)
    first, second = sc.blas_threads(1000), sc.blas_threads(1)
    other = Caller()
    enter(first)
    assert blas.number == 16
    other(enter, second)
    leave(first)
    assert blas.number == 1
    other(leave, second)
    other.close()
    assert blas.number == ORIGINAL


def test_a_limit_without_effect_tells_nothing_about_other_threads(loaded):
    blas = OwnCapped("libcapped.so")
    loaded.add(blas)
    with sc.blas_threads(1000):  # whether it is that of all threads can't be seen yet
        assert blas.number == ORIGINAL
    first, second, other = sc.blas_threads(1), sc.blas_threads(2), Caller()
    enter(first)
    other(enter, second)
    leave(first)
    assert (blas.number, other(blas.get_num_threads)) == (ORIGINAL, 2)
    other(leave, second)
    assert other(blas.get_num_threads) == ORIGINAL
    other.close()


def test_a_library_without_a_number_is_left_alone(loaded):
    blas = Shared("libodd.so", None)
    loaded.add(blas)
    with sc.blas_threads(1):
        assert blas.number is None
    assert blas.number is None


# --- blocks that end otherwise ----------------------------------------------------------


def test_an_exception_ends_its_block(shared):
    with pytest.raises(KeyError), sc.blas_threads(1):
        raise KeyError
    assert shared.number == ORIGINAL


def suspended(limit):
    """A generator that stands in a block until it is closed."""
    with sc.blas_threads(limit):
        yield


def test_a_generator_that_is_left_open_keeps_its_limit_until_it_is_closed(shared):
    first, second = suspended(1), suspended(2)
    next(first)
    next(second)
    first.close()
    assert shared.number == 2
    del second  # whoever drops a generator closes it
    gc.collect()
    assert shared.number == ORIGINAL


def test_another_thread_may_close_a_generator(shared):
    opened, other = suspended(1), Caller()
    next(opened)
    other(opened.close)
    other.close()
    assert shared.number == ORIGINAL


def test_the_garbage_collector_may_end_a_block_while_another_one_begins_or_ends(shared, loaded):
    second = Shared("libsecond.so")
    loaded.add(second)
    for moment in range(4):  # the first and the last number that is set, twice
        left = suspended(3)
        next(left)
        calls = [0]
        plain = Shared.set_num_threads

        def set_num_threads(number, moment=moment, left=left, calls=calls, plain=plain):
            if calls[0] == moment:
                left.close()
            calls[0] += 1
            plain(shared, number)

        shared.set_num_threads = set_num_threads
        with sc.blas_threads(1):
            pass
        with sc.blas_threads(2):
            pass
        del shared.set_num_threads
        left.close()
        assert (shared.number, second.number) == (ORIGINAL, ORIGINAL), moment


@pytest.mark.parametrize("moment", [0, 1])
def test_ctrl_c_while_a_limit_is_set_or_undone_leaves_none(moment, shared):
    calls = [0]

    def set_num_threads(number):
        calls[0] += 1
        if calls[0] == moment + 1:
            raise KeyboardInterrupt
        Shared.set_num_threads(shared, number)

    shared.set_num_threads = set_num_threads
    with pytest.raises(KeyboardInterrupt), sc.blas_threads(1):
        pass
    assert shared.number == ORIGINAL
    with sc.blas_threads(2):
        assert shared.number == 2
    assert shared.number == ORIGINAL


class Interrupt(BaseException):
    """As a handler of a signal raises it, anywhere."""


def interrupted(work, moment):
    """Do the work, and raise an interrupt at a moment; tell whether there was such a moment.

    The moments are the beginnings and ends of all functions: there Python looks at signals. Not
    after a lock is taken by `with`, which no code could give back.
    """
    left = [moment]

    def at_each_call(_, event, what):
        left[0] -= event != "c_call" and getattr(what, "__name__", "") != "__enter__"
        if left[0] == 0:
            raise Interrupt

    gc.disable()  # what it would finish belongs to others
    sys.setprofile(at_each_call)
    try:
        work()
    except Interrupt:
        return True
    finally:
        sys.setprofile(None)
        gc.enable()
    return False


@pytest.mark.parametrize("block", [lambda: sc.blas_threads(1), process.one_blas_thread])
def test_an_interrupt_at_any_moment_of_a_block_leaves_no_limit(block, shared, caplog):
    caplog.set_level("DEBUG", "seqcore")

    def work():
        with block():
            pass

    work()
    moment = 1
    while interrupted(work, moment):
        assert shared.number == ORIGINAL, moment
        with sc.blas_threads(2), sc.blas_threads(3):
            assert shared.number == 3, moment
        assert shared.number == ORIGINAL, moment
        moment += 1
    assert moment > 40


def blocks_until_a_signal(seconds):
    signal.setitimer(signal.ITIMER_REAL, seconds)
    while True:
        with process.one_blas_thread():
            pass


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_signal_at_any_moment_leaves_no_limit(shared):
    def handler(*_):
        raise Interrupt

    before = signal.signal(signal.SIGALRM, handler)
    draw = random.Random(0)
    try:
        for number in range(300):
            with pytest.raises(Interrupt):
                blocks_until_a_signal(draw.uniform(1e-4, 1e-3))
            assert shared.number == ORIGINAL, number
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("words", ["BLAS is limited", "the limit of BLAS"])
def test_a_log_that_raises_leaves_no_limit(words, shared, caplog):
    caplog.set_level("DEBUG", "seqcore")

    def refuse(record):
        if record.getMessage().startswith(words):
            raise KeyError
        return True

    ours._log.addFilter(refuse)
    block = sc.blas_threads(1)
    try:
        with pytest.raises(KeyError), block:
            pass
    finally:
        ours._log.removeFilter(refuse)
    assert shared.number == ORIGINAL


def test_a_block_ends_with_its_object_at_the_latest(shared):
    block = sc.blas_threads(1)
    enter(block)
    assert shared.number == 1
    del block
    assert shared.number == ORIGINAL


# --- which libraries --------------------------------------------------------------------


def test_libraries_are_looked_for_at_each_block_and_rarely_by_shards(loaded, shared, monkeypatch):
    for _ in range(3):
        with process.one_blas_thread():
            assert shared.number == 1
    assert len(loaded.looks) == 1
    monkeypatch.setitem(sys.modules, "a_library_with_its_own_blas", ModuleType("later"))
    later = Shared("liblater.so", 4)
    loaded.add(later)
    for _ in range(3):
        with process.one_blas_thread():
            assert later.number == 1
        assert later.number == 4
    assert len(loaded.looks) == 2
    unseen = Shared("libunseen.so", 4)  # by ctypes: no module comes with it
    loaded.add(unseen)
    with sc.blas_threads(1):
        assert unseen.number == 1
    assert unseen.number == 4


def test_what_is_loaded_inside_a_block_is_limited_by_the_next_one(shared, loaded):
    with sc.blas_threads(2):
        later = Shared("liblater.so", 4)
        loaded.add(later)
        assert later.number == 4
        with sc.blas_threads(1):
            assert (shared.number, later.number) == (1, 1)
        assert (shared.number, later.number) == (2, 2)
    assert (shared.number, later.number) == (ORIGINAL, 4)


@pytest.fixture
def three_threads():
    """Three threads for every BLAS, whatever the environment says."""
    with threadpoolctl.threadpool_limits(3, user_api="blas"):
        if set(numbers()) != {3}:
            pytest.skip("no BLAS here whose threads can be set")
        yield


def numbers():
    found = threadpoolctl.threadpool_info()
    return [pool["num_threads"] for pool in found if pool["user_api"] == "blas"]


@pytest.mark.usefixtures("three_threads")
def test_blas_itself_is_limited_inside_and_as_before_after_it():
    with sc.blas_threads(2):
        assert set(numbers()) == {2}
        with sc.blas_threads(1):
            assert set(numbers()) == {1}
        assert set(numbers()) == {2}
    assert set(numbers()) == {3}


@pytest.mark.usefixtures("three_threads")
def test_overlapping_blocks_of_two_threads_leave_blas_as_it_was():
    first, second, other = sc.blas_threads(1), sc.blas_threads(2), Caller()
    enter(first)
    other(enter, second)  # nobody waits for anybody
    assert set(numbers()) == {2}
    leave(first)
    assert set(numbers()) == {2}
    other(leave, second)
    other.close()
    assert set(numbers()) == {3}


# --- in a process of its own ------------------------------------------------------------


LOADED_LATER = """
    import ctypes, os, sys
    from contextlib import ExitStack
    import numpy as np, seqcore as sc
    from threadpoolctl import threadpool_info

    def later():
        return [p["num_threads"] for p in threadpool_info() if "copy-of" in p["filepath"]]

    library, inside = sys.argv[1], sys.argv[2] == "inside"
    with sc.blas_threads(1):
        pass
    with ExitStack() as stack:
        if inside:
            stack.enter_context(sc.blas_threads(1))
        before = len(sys.modules)
        ctypes.CDLL(library)
        assert len(sys.modules) == before
        print(*later())
        with sc.blas_threads(1):
            print(*later())
    print(*later())
"""


@pytest.mark.parametrize("where", ["outside", "inside"])
def test_a_blas_that_is_loaded_without_an_import_is_found(where, tmp_path):
    found = [
        Path(p["filepath"]) for p in threadpoolctl.threadpool_info() if p["user_api"] == "blas"
    ]
    wheels = [path for path in found if path.parent.name == "numpy.libs"]
    if not wheels:
        pytest.skip("NumPy's BLAS does not lie beside it, to be copied")
    folder = shutil.copytree(wheels[0].parent, tmp_path / "copy-of-numpy.libs")
    said = output_of(LOADED_LATER, folder / wheels[0].name, where, OPENBLAS_NUM_THREADS="2").split()
    assert said == ["2", "1", "2"]


FORKED = """
    import faulthandler, os, sys, threading, warnings
    import numpy as np, seqcore as sc
    from threadpoolctl import threadpool_info

    # From 3.12 on Python warns of any fork beside threads.
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    faulthandler.dump_traceback_later(100, exit=True)

    def number():
        (pool,) = [p for p in threadpool_info() if p["user_api"] == "blas"]
        return pool["num_threads"]

    def child(body):
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            try:
                body()
                sys.stdout.flush()
            finally:
                os._exit(0)
        assert os.waitpid(pid, 0) == (pid, 0)

    def block():
        print(number(), end=" ")
        with sc.blas_threads(1):
            np.ones((300, 300)) @ np.ones((300, 300))
            print(number(), end=" ")
        print(number(), end=" ")

    stop, inside = threading.Event(), threading.Event()
    def other(limit):
        with sc.blas_threads(limit):
            inside.set()
            stop.wait(60)
    thread = threading.Thread(target=other, args=(1,))
    thread.start()
    inside.wait(60)
    child(block)  # the block of the other thread is not in the child
    with sc.blas_threads(3):
        child(block)  # that of this thread is
    stop.set()
    thread.join()
    child(block)
    print("|", end=" ")

    # A thread holds the lock nearly all the time.
    stop = threading.Event()
    def hammer():
        while not stop.is_set():
            with sc.blas_threads(1):
                pass
    thread = threading.Thread(target=hammer)
    thread.start()
    for _ in range(20):
        child(lambda: sc.blas_threads(1).__enter__())
    stop.set()
    thread.join()
    print(number())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_forked_process_has_the_blocks_of_its_own_thread_and_never_waits(three_threads):
    del three_threads  # there is a BLAS whose threads can be set
    said = output_of(FORKED, OPENBLAS_NUM_THREADS="2", OMP_NUM_THREADS="2").split()
    assert said == ["2", "1", "2", "3", "1", "3", "2", "1", "2", "|", "2"]


FIRST_USE = """
    import os, sys
    import seqcore as sc
    assert "threadpoolctl" not in sys.modules
    with sc.blas_threads(1):
        pass
    assert "threadpoolctl" in sys.modules
    print(os.environ.get("KMP_DUPLICATE_LIB_OK"))
"""


@pytest.mark.parametrize("before", [None, "FALSE"])
def test_the_first_block_sets_no_variable_of_the_environment(before, monkeypatch):
    monkeypatch.delenv("KMP_DUPLICATE_LIB_OK", raising=False)
    env = {} if before is None else {"KMP_DUPLICATE_LIB_OK": before}
    assert output_of(FIRST_USE, **env) == str(before)
