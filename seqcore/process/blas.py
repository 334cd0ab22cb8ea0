"""Threads of BLAS: limits for the whole process, in blocks that may overlap.

    (1) enter   the block goes to the end of the list of open blocks of all threads
    (2) leave   it goes out of the list, wherever it stands in it
    (3) both    each BLAS takes the limit of the last block in the list; once the list is empty,
                the number of threads that it had before the first

Some BLAS, such as MKL, have a number for each thread. There the list of (3) is that of the
blocks that this thread has entered.

The loaded libraries are looked for at (1): one that was loaded since, with an import or not, is
limited from then on, and its own number comes back.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable
from functools import cache, wraps
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from numbers import Integral
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_log = logging.getLogger(__name__)
_LARGEST = 2**31 - 1  # an int of C
_SETS = "KMP_DUPLICATE_LIB_OK"  # the variable that threadpoolctl sets as it is imported


def blas_threads(limit: int) -> Limit:
    """Limit the threads of every loaded BLAS to `limit` inside the block.

    The matrix products of a recurrent step are small. Two BLAS threads gain little on a quiet
    machine, and on a busy one they can be a hundred times slower, because at every step each
    spins until the other is done.

    Parameters
    ----------
    limit
        Threads of each BLAS, at least 1. A number given here wins over OMP_NUM_THREADS and the
        like, below and above it.

    Returns
    -------
    Limit
        A context manager, and a decorator of functions that are no generators or coroutines
        (TypeError). It may be entered more than once, and by several threads.

    Raises
    ------
    ValueError
        If limit is less than 1.
    TypeError
        If limit is not a whole number.

    Notes
    -----
    The limit holds for the whole process. Blocks may be nested, and those of several threads
    may overlap: the limit that was set last holds, and once it ends, the last one of those that
    are still open. When the last block ends, each BLAS has the number of threads again that it
    had before the first. A BLAS that is loaded inside a block is limited from the next block
    on. A process that is forked inside a block keeps the limits of the thread that forked it.
    An exception that a handler of signals raises, as that of Ctrl-C, can come just before the
    block is left; then the limit ends with the object, so make a new one for each block.

    A BLAS that has a number of threads for each thread of the process, as MKL has, is limited
    in the thread that enters the block. Each block looks for libraries that were loaded since,
    which takes up to a millisecond: put it around a loop rather than into it.

    Examples
    --------
    >>> import numpy as np, seqcore as sc
    >>> with sc.blas_threads(1):
    ...     float((np.ones((2, 3)) @ np.ones((3, 2))).sum())
    12.0
    """
    given: object = limit
    if isinstance(given, bool) or not isinstance(given, Integral):
        raise TypeError(f"blas_threads: limit is {given!r}, expected a whole number")
    if limit < 1:
        raise ValueError(f"blas_threads: limit is {limit}, expected at least 1")
    return Limit(min(int(limit), _LARGEST))


def one_blas_thread() -> Limit:
    """Return what `blas_threads(1)` does, for blocks that are entered at every step.

    It logs nothing, and looks for libraries only where a module was imported since.
    """
    return Limit(1, often=True)


@cache
def openblas_architectures() -> frozenset[str]:
    """Return the processors that the loaded OpenBLAS libraries chose their kernels for."""
    found = _controller().select(internal_api="openblas").info()
    return frozenset(str(entry.get("architecture")) for entry in found)


class Limit:
    """Blocks with one limit; `blas_threads` makes it, and holds what keeps them open."""

    def __init__(self, limit: int, *, often: bool = False) -> None:
        self._limit, self._often = limit, often
        self._entered: list[_Block] = []

    def __repr__(self) -> str:
        return f"blas_threads({self._limit})"

    def __enter__(self) -> None:
        block = _Block(self._limit, threading.get_ident())
        try:
            self._entered.append(block)
            _register.enter(block, look=not self._often)
            if not self._often:
                _log.debug("BLAS is limited to %d threads", self._limit)
        except BaseException:  # Ctrl-C above all: such a block is never left
            self._leave(block)
            raise

    def __exit__(self, *_: object) -> None:
        block = None
        try:
            block = self._last()
            self._leave(block)
        except BaseException:  # Ctrl-C: once more, as nobody else leaves it
            self._leave(block or self._last())
            raise
        if not self._often:
            _log.debug("the limit of BLAS to %d threads has ended", self._limit)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return the function with a block of its own around each call."""
        inner = getattr(function, "__func__", function)  # of a staticmethod
        for part in (inner, getattr(type(inner), "__call__", inner)):  # noqa: B004 (not a test)
            if iscoroutinefunction(part) or isgeneratorfunction(part) or isasyncgenfunction(part):
                raise TypeError(
                    f"{self}: {inner!r} is a generator or a coroutine, which runs after the block "
                    "of a decorator has ended; open the block inside it"
                )

        @wraps(function)
        def limited(*args: P.args, **kwargs: P.kwargs) -> R:
            with Limit(self._limit, often=self._often):
                return function(*args, **kwargs)

        return limited

    def _last(self) -> _Block:
        """Return the block to leave next."""
        here, entered = threading.get_ident(), list(self._entered)
        # A generator may be closed by another thread than the one that entered its block.
        return ([block for block in entered if block.thread == here] or entered)[-1]

    def _leave(self, block: _Block) -> None:
        _register.leave(block)
        if block in self._entered:
            self._entered.remove(block)


class _Block:
    """An open block; two are never equal."""

    __slots__ = ("__weakref__", "limit", "thread")

    def __init__(self, limit: int, thread: int) -> None:
        self.limit, self.thread = limit, thread


class _First(threading.local):
    """The number of threads of a BLAS before the first block of this thread, while one is open."""

    number: int | None = None


class _Blas:
    """A loaded BLAS."""

    def __init__(self, controller: Any) -> None:
        self._controller = controller
        # Whether its number is one for all threads; None until a number is set.
        self._shared: bool | None = None
        self._first: int | None = None  # before the first block of all threads
        self._own_first = _First()

    def note(self, blocks: list[_Block]) -> None:
        """Note the number of threads before the first block."""
        if blocks and self._first is None:
            self._first = self._number()
        if blocks and self._own_first.number is None:
            self._own_first.number = self._number()

    def settle(self, blocks: list[_Block]) -> None:
        """Take the number of (3)."""
        here = threading.get_ident()
        own = [block for block in blocks if block.thread == here]
        while True:
            count = own if self._shared is False else blocks
            first = self._own_first.number if self._shared is False else self._first
            number, before = count[-1].limit if count else first, self._number()
            if before is None or number is None or number == before:
                break
            self._set(number)
            if self._shared is not None or self._number() == before:  # no effect tells nothing
                break
            self._shared = self._is_seen_elsewhere()
        if not own:
            self._own_first.number = None
        if not blocks:
            self._first = None

    def _number(self) -> int | None:
        number: int | None = self._controller.get_num_threads()
        return number

    def _set(self, number: int) -> None:
        # From 3.8 on, threadpoolctl does nothing, in silence, where another thread was the last
        # to set the number of an OpenBLAS. Here one lock keeps threads from mixing theirs.
        free = getattr(self._controller, "clear_controlling_thread", None)
        if free is not None:
            free(force=True)
        self._controller.set_num_threads(number)
        if free is not None:
            free(force=True)

    def _is_seen_elsewhere(self) -> bool:
        """Tell whether another thread has the number that this one has just set."""
        seen: list[int | None] = []
        thread = threading.Thread(target=lambda: seen.append(self._number()))
        try:
            thread.start()
        except RuntimeError:  # as while Python ends
            return True
        thread.join()
        return seen == [self._number()]


class _Register:
    """The open blocks of all threads, and every BLAS that was found.

    Python may raise an exception, such as that of Ctrl-C, before the first line of `__exit__`. So
    a block is open as long as its `Limit` holds it: one that is lost ends.
    """

    def __init__(self) -> None:
        # Entered again by its own thread where the garbage collector closes a generator that
        # stands in a block.
        self._lock = threading.RLock()
        self._blocks: list[weakref.ref[_Block]] = []
        self._found: dict[str, _Blas] = {}
        self._modules = 0  # imported when libraries were looked for last; 0 for never
        self._settling = threading.Lock()
        self._again = False

    def enter(self, block: _Block, *, look: bool) -> None:
        """Do (1) and (3); `look` for libraries even if no module was imported."""
        with self._lock:
            self._blocks.append(weakref.ref(block, self._drop))
            found = self._look() if look or len(sys.modules) != self._modules else []
            self._settle()
        for about in found:
            _log.debug("found a BLAS with %(num_threads)s threads: %(filepath)s", about)

    def leave(self, block: _Block) -> None:
        """Do (2) and (3)."""
        self._drop(weakref.ref(block))  # equal to the one in the list

    def _drop(self, ref: weakref.ref[_Block]) -> None:
        with self._lock:
            if ref in self._blocks:  # a process that was forked has dropped those of others
                self._blocks.remove(ref)
            self._settle()

    def _open(self) -> list[_Block]:
        return [block for ref in list(self._blocks) if (block := ref()) is not None]

    def _look(self) -> list[dict[str, Any]]:
        """Find what was loaded since the last look, and return what is known about it."""
        if not self._modules and hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=self._lock.acquire,
                after_in_parent=self._lock.release,
                after_in_child=self._forked,
            )
        self._modules = len(sys.modules)
        new = [
            controller
            for controller in _controller().select(user_api="blas").lib_controllers
            if controller.filepath not in self._found
        ]
        self._found |= {controller.filepath: _Blas(controller) for controller in new}
        return [controller.info() for controller in new]

    def _settle(self) -> None:
        self._again = True
        if self._settling.locked():  # by this thread, further down: it looks at the list again
            return
        with self._settling:
            while self._again:
                self._again = False
                blocks, found = self._open(), list(self._found.values())
                for blas in found:  # before any is set: one BLAS may pass its number to another
                    blas.note(blocks)
                for blas in found:
                    blas.settle(blocks)

    def _forked(self) -> None:
        """Drop the blocks of threads that are not in the new process."""
        here = threading.get_ident()
        for block in self._open():
            if block.thread != here:
                self._blocks.remove(weakref.ref(block))
        self._lock.release()
        with self._lock:
            self._settle()


def _controller() -> Any:
    """Return a new controller of all libraries that are loaded now."""
    before = os.environ.get(_SETS)
    from threadpoolctl import ThreadpoolController

    if before is None:
        os.environ.pop(_SETS, None)
    return ThreadpoolController()


_register = _Register()
