"""A layer over shards of its batch, each on a thread of its own.

    (1) split    x = [x_1 ... x_k]                       along the batch, as even as can be
    (2) forward  y = [f(x_1) ... f(x_k)]                 each shard on a thread
    (3) backward dx = [dx_1 ... dx_k],  dW = dW_1 + ... + dW_k     in the order of the shards

The steps of a recurrent layer follow one another, so that only the batch can be shared out.
Each shard has its own matrix products with one BLAS thread: where BLAS shares out every
small product instead, its threads wait for each other at each step, which costs most where
other work keeps the cores busy. It pays from about 256 units on; below, Python's own share of
a step, which threads cannot divide, is too large.

The sums (3) are always taken in the same order, so that a number of shards gives the same
bits on any number of threads. Another number of shards gives other roundings.
"""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

from seqcore import arrays, checks
from seqcore.arrays import Array, Params
from seqcore.cells import State
from seqcore.layers import Layer
from seqcore.recurrent import Stream

if TYPE_CHECKING:
    import numpy as np

R = TypeVar("R")


@dataclass(frozen=True)
class Sharded:
    """A layer or a model, computed in shards of the batch on several threads.

    Parameters
    ----------
    layer
        Best the whole model: what is outside of it runs on one thread.
    shards
        How many; a batch of fewer examples has as many shards as examples.
    threads
        How many at a time; None for as many as there are processors.

    Notes
    -----
    Parameters and names are those of the layer. Dropout draws other masks than it does
    without shards. On NumPy and CuPy the shards have threads; elsewhere, where a library has
    threads of its own and settings that belong to one of them, they follow one another.

    Examples
    --------
    >>> import numpy as np, seqcore as sc
    >>> model = sc.Sharded(sc.Sequential(sc.LSTM(4), sc.Dense(2)), shards=2)
    >>> x = np.ones((5, 3, 6), dtype=np.float32)           # T, n_x, m
    >>> params = model.init(3, like=x, rng=0)
    >>> y, state, tape = model.forward(params, x)
    >>> y.shape
    (5, 2, 6)
    >>> dx, grads, dstate = model.backward(params, tape, np.ones_like(y))
    >>> dx.shape
    (5, 3, 6)
    """

    layer: Layer
    shards: int
    threads: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        """Refuse what is no layer, and numbers below 1."""
        if isinstance(self.layer, type) or not hasattr(self.layer, "forward"):
            raise TypeError(f"sharded: {self.layer!r} was given, expected a layer")
        checks.count("sharded", shards=self.shards)
        if self.threads is not None:
            checks.count("sharded", threads=self.threads)

    @property
    def name(self) -> str:
        """The name of the layer."""
        return self.layer.name

    @property
    def n_out(self) -> int | None:
        """Features out."""
        return self.layer.n_out

    def names(self) -> list[str]:
        """The names of its parameters."""
        return self.layer.names()

    def init(self, n_in: int, *, like: Array, rng: np.random.Generator | int) -> Params:
        """Draw the parameters of the layer."""
        return self.layer.init(n_in, like=like, rng=rng)

    def bind(self, params: Params, m: int = 1) -> Stream:
        """Return the step of the layer itself: a single step is too short for shards."""
        return self.layer.bind(params, m)

    def forward(
        self,
        params: Params,
        x: Array,
        state: State = None,
        lengths: Any = None,
        *,
        draw: Any = None,
    ) -> tuple[Array, State, tuple[Any, ...]]:
        """Run the layer over each shard; arguments and results are those of the layer."""
        xp = checks.one_library("sharded", {"x": x})
        if x.ndim < 2:
            raise ValueError(f"sharded: x has shape {tuple(x.shape)}, expected a batch behind time")
        lengths = checks.lengths("sharded", x, lengths)
        cuts = _cuts(x.shape[-1], self.shards)
        # Counted in the default integers: those of the draw may be too narrow.
        wide = arrays.default_integers(xp, draw) if arrays.is_array(draw) else draw

        def forward(number: int) -> tuple[Array, State, Any]:
            cut = cuts[number]
            mask = None if wide is None else wide * self.shards + number
            ragged = None if lengths is None else lengths[cut]
            return self.layer.forward(
                params, x[..., cut], _at("state", state, cut, x.shape[-1]), ragged, draw=mask
            )

        results = self._map(forward, len(cuts), x)
        ys, states, tapes = zip(*results, strict=True)
        return xp.concat(ys, axis=-1), _together(xp, states), tapes

    def backward(
        self, params: Params, tape: tuple[Any, ...], dy: Array, dstate: State = None
    ) -> tuple[Array | None, Params, State]:
        """Go back over each shard, and sum the gradients of the parameters."""
        xp = checks.one_library("sharded", {"dy": dy})
        cuts = _cuts(dy.shape[-1], self.shards)
        checks.tape("sharded", tape, tuple, len(cuts))

        def backward(number: int) -> tuple[Array | None, Params, State]:
            cut = cuts[number]
            return self.layer.backward(
                params, tape[number], dy[..., cut], _at("dstate", dstate, cut, dy.shape[-1])
            )

        results = self._map(backward, len(cuts), dy)
        dxs, grads, dstates = zip(*results, strict=True)
        total = dict(grads[0])
        for part in grads[1:]:
            total = {name: value + part[name] for name, value in total.items()}
        dx = None if dxs[0] is None else xp.concat(dxs, axis=-1)
        return dx, total, _together(xp, dstates)

    def _map(self, function: Callable[[int], R], count: int, x: Array) -> list[R]:
        """Return what the function gives for each shard, in their order."""
        # A trace of JAX and settings such as PyTorch's no_grad belong to one thread.
        if arrays.library(x) not in ("numpy", "cupy"):
            return [function(number) for number in range(count)]
        threads = min(self.threads or _processors(), count)
        with arrays.blas_threads(1):
            if threads == 1 or _worker.busy:  # threads that waited for their own kind would hang
                return [function(number) for number in range(count)]
            # The caller's settings, such as np.errstate, hold in each thread.
            settings = [contextvars.copy_context() for _ in range(count)]
            pool = _pool(threads, os.getpid())
            return list(
                pool.map(lambda number: settings[number].run(function, number), range(count))
            )


class _Worker(threading.local):
    """Whether this thread is one of a pool."""

    busy = False


_worker = _Worker()


def _start() -> None:
    _worker.busy = True


def _cuts(m: int, shards: int) -> list[slice]:
    """Return the shards of a batch of m, whose sizes differ by 1 at most."""
    shards = max(1, min(shards, m))  # of an empty batch the layer will complain
    ends = [m * number // shards for number in range(shards + 1)]
    return [slice(*pair) for pair in pairwise(ends)]


def _processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Return threads that stay; a forked process has none, so it gets its own."""
    arrays.share_memory_among_threads()
    return ThreadPoolExecutor(threads, f"seqcore-{process}", initializer=_start)


def _at(what: str, state: State, cut: slice, m: int) -> State:
    """Return a shard of every array of a state, whose last axis is the batch."""
    if state is None:
        return None
    if isinstance(state, tuple):
        parts = [_at(what, part, cut, m) for part in state]
        return type(state)._make(parts) if hasattr(state, "_make") else tuple(parts)
    if state.shape[-1] != m:  # a cut would hide it
        raise ValueError(
            f"sharded: {what} has an array of shape {tuple(state.shape)}, expected a batch of {m}"
        )
    return state[..., cut]


def _together(xp: Any, states: Sequence[State]) -> State:
    """Return the state of all shards."""
    first = states[0]
    if first is None:
        return None
    if isinstance(first, tuple):
        parts = [_together(xp, part) for part in zip(*states, strict=True)]
        return type(first)._make(parts) if hasattr(first, "_make") else tuple(parts)
    return xp.concat(states, axis=-1)
