"""A layer over shards of its batch, each on a thread of its own.

    (1) split    x = [x_1 ... x_k]                       along the batch, as evenly as possible
    (2) forward  y = [f(x_1) ... f(x_k)]                 each shard on a thread
    (3) backward dx = [dx_1 ... dx_k],  dW = dW_1 + ... + dW_k     in the order of the shards

The steps of a recurrent layer follow one another, so only the batch can be divided. Each shard
takes its own matrix products with one BLAS thread. If BLAS divides every small product
instead, its threads wait for each other at each step, which costs most on a busy machine.
Shards pay from about 256 units on; below, too much of a step is Python's own time, which
threads cannot divide.

The sums (3) are always taken in the same order, so that results do not depend on the number of
threads, to the bit. A different number of shards rounds differently.
"""

from __future__ import annotations

import contextvars
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

from seqcore import arrays, checks, process
from seqcore.arrays import Array, Params, Shapes
from seqcore.layers import Layer, State, children
from seqcore.layers.contract import X, check_layer, names_of
from seqcore.layers.door import BuiltIn
from seqcore.layers.hooks import Step, Wanted
from seqcore.random import Draw

if TYPE_CHECKING:
    import numpy as np

R = TypeVar("R")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sharded(BuiltIn):
    """A layer or a model, computed in shards of the batch on several threads.

    Parameters
    ----------
    layer
        Preferably the whole model: what is outside of it runs on one thread.
    shards
        How many; a batch of fewer examples has one shard for each example.
    threads
        How many; None for one for each processor, but at most as many as OMP_NUM_THREADS says
        where it is set.

    Notes
    -----
    Parameters and names are those of the layer, and so are the masks of its Dropouts. But a layer
    of a user's own gets another draw in each shard, for itself and the Dropouts in it. On NumPy
    and CuPy the shards run on threads. Other libraries have threads of their own, and settings
    that hold for one thread only, so there the shards run one after another.

    While shards run, BLAS has one thread, as in `blas_threads(1)`. Training on several threads
    tells glibc's malloc to share memory among threads; SEQCORE_MALLOC=0 in the environment stops
    this.

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
        """Refuse what is not a layer, and numbers below 1."""
        check_layer("sharded", self.layer)
        checks.count("sharded", shards=self.shards)
        if self.threads is not None:
            checks.count("sharded", threads=self.threads)
        checks.plain(self)

    @property
    def name(self) -> str:
        """The name of the layer."""
        return self.layer.name

    @property
    def n_out(self) -> int | None:
        """Number of output features."""
        return self.layer.n_out

    @property
    def keeps_time(self) -> bool:
        """Whether y has the time axis of x."""
        return children.keeps_time(self.layer)

    @property
    def drops(self) -> bool:
        """Whether `forward` needs a draw."""
        return getattr(self.layer, "drops", False)

    @property
    def ndim(self) -> int:
        """Axes of x where it has a time axis; a user's layer may take tokens."""
        return self.layer.ndim if isinstance(self.layer, BuiltIn) else 2

    @property
    def all_built_in(self) -> bool:
        """Whether no user's layer is in it."""
        return children.all_built_in(self.layer)

    def features(self, n_in: int | None) -> int | None:
        """Return the features of y for those of x; None where they are not known."""
        return children.features(self.layer, n_in)

    def reads_windows(self) -> bool:
        """Tell whether a sequence can be read in windows, with the state carried on."""
        return isinstance(self.layer, BuiltIn) and self.layer.reads_windows()

    def window(self, x: Array) -> int:
        """Return how many steps `predict` takes at a time of a long sequence."""
        return self.layer.window(x) if isinstance(self.layer, BuiltIn) else super().window(x)

    def shapes(self) -> Shapes:
        """The shapes of the layer's parameters."""
        return self.layer.shapes()

    def names(self) -> list[str]:
        """The names of the layer's parameters."""
        return names_of(self.layer)

    def init(self, n_in: int, *, like: Array, rng: np.random.Generator | int) -> Params:
        """Draw the parameters of the layer."""
        return self.layer.init(n_in, like=like, rng=rng)

    # --- checks: those of the layer -----------------------------------------------------

    def checked_params(self, params: Params) -> Mapping[str, Array]:
        """Return the parameters that built-in layers check."""
        return self.layer.checked_params(params) if isinstance(self.layer, BuiltIn) else {}

    def check_kinds(self, params: Mapping[str, Array], x: Array) -> None:
        """Require what the layer requires, of a user's layer floats of one dtype."""
        if isinstance(self.layer, BuiltIn):
            self.layer.check_kinds(params, x)
        else:
            checks.floating(self.name, params)

    def check_shapes(self, params: Params, n_in: int | None) -> int | None:
        """Require what the layer requires."""
        return self.layer.check_shapes(params, n_in) if isinstance(self.layer, BuiltIn) else None

    def check_x(self, shape: tuple[int, ...], n_in: int | None) -> None:
        """Require what the layer requires, and a batch."""
        if isinstance(self.layer, BuiltIn):
            self.layer.check_x(shape, n_in)
        if len(shape) < 2:
            raise ValueError(f"sharded: x has shape {shape}, expected a batch after other axes")

    def y_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of y from that of x."""
        return self.layer.y_shape(shape) if isinstance(self.layer, BuiltIn) else shape

    def check_state(self, what: str, state: State, like: Array, m: int) -> None:
        """Require what the layer requires, and a batch of m in every array."""
        children.check_state(self.layer, what, state, like, m)
        children.check_batch("sharded", what, state, m)

    # --- over time ----------------------------------------------------------------------

    def run(
        self, params: Params, x: Array, state: State, steps: Array | None, draw: Draw | None
    ) -> tuple[Array, State, tuple[Any, ...]]:
        """Run the layer over each shard; keep what each keeps."""
        cuts = _cuts(x.shape[-1], self.shards)

        def forward(number: int) -> tuple[Array, State, Any]:
            cut = cuts[number]
            drawn = None if draw is None else draw.shifted(cut.start)
            return children.run(
                self.layer, params, x[..., cut], _at(state, cut), _at(steps, cut), drawn
            )

        ys, states, kept = zip(*self._map(forward, cuts, x), strict=True)
        self._check_parts("the state after", states, cuts)
        xp = arrays.namespace(x)
        return xp.concat(ys, axis=-1), _together(xp, states), kept

    def infer(
        self, params: Params, x: Array, state: State, steps: Array | None
    ) -> tuple[Array, State]:
        """Run the layer over each shard, and keep nothing."""
        cuts = _cuts(x.shape[-1], self.shards)

        def predict(number: int) -> tuple[Array, State]:
            cut = cuts[number]
            return children.infer(self.layer, params, x[..., cut], _at(state, cut), _at(steps, cut))

        ys, states = zip(*self._map(predict, cuts, x, training=False), strict=True)
        self._check_parts("the state after", states, cuts)
        xp = arrays.namespace(x)
        return xp.concat(ys, axis=-1), _together(xp, states)

    def run_back(
        self,
        params: Params,
        kept: tuple[Any, ...],
        dy: Array,
        dstate: State,
        wanted: Wanted,
    ) -> tuple[Array | None, Params, State]:
        """Go back over each shard, and sum the gradients of the parameters."""
        cuts = _cuts(dy.shape[-1], self.shards)

        def backward(number: int) -> tuple[Array | None, Params, State]:
            cut = cuts[number]
            return children.run_back(
                self.layer, params, kept[number], dy[..., cut], _at(dstate, cut), wanted
            )

        dxs, grads, dstates = zip(*self._map(backward, cuts, dy), strict=True)
        self._check_parts("dL/d(state before)", dstates, cuts)
        total = dict(grads[0])
        for part in grads[1:]:
            total = {name: value + part[name] for name, value in total.items()}
        xp = arrays.namespace(dy)
        dx = xp.concat(dxs, axis=-1) if X in wanted and dxs[0] is not None else None
        return dx, total, _together(xp, dstates)

    def example(self, params: Params, kept: tuple[Any, ...]) -> Array | None:
        """Return an array of the library, device and dtype of y, if one is known."""
        return children.example(self.layer, params, kept[0])

    def _check_parts(self, what: str, states: Sequence[State], cuts: list[slice]) -> None:
        """Require that the states of shards can be put together, where they are a user's."""
        if not self.all_built_in:
            for state, cut in zip(states, cuts, strict=True):
                children.check_batch("sharded", what, state, cut.stop - cut.start)

    def step(self, params: Params, m: int) -> Step:
        """Return the step of the layer itself: a single step is too short for shards."""
        return children.step(self.layer, params, m)

    def _map(
        self, function: Callable[[int], R], cuts: list[slice], x: Array, *, training: bool = True
    ) -> list[R]:
        """Return the function's results for the shards, in their order."""
        count = len(cuts)
        # A trace of JAX and settings such as PyTorch's no_grad belong to one thread.
        if arrays.library(x) not in ("numpy", "cupy"):
            return [function(number) for number in range(count)]
        threads = min(self.threads or process.default_threads(), count)
        with process.one_blas_thread():
            if threads == 1 or _worker.busy:  # a pool that waits for itself would hang
                return [function(number) for number in range(count)]
            if training and arrays.library(x) == "numpy":
                process.share_memory_among_threads()
            # The caller's settings, such as np.errstate, hold in each thread.
            settings = [contextvars.copy_context() for _ in range(count)]

            def work(number: int) -> R:
                with process.one_blas_thread():  # some BLAS have a number for each thread
                    return settings[number].run(function, number)

            try:
                results = _pool(threads, os.getpid(), training).map(work, range(count))
            except RuntimeError:  # no thread starts, as in an exit handler while Python ends
                return [function(number) for number in range(count)]
            return list(results)


class _Worker(threading.local):
    """Whether this thread is one of a pool."""

    busy = False


_worker = _Worker()


def _start() -> None:
    _worker.busy = True


def _cuts(m: int, shards: int) -> list[slice]:
    """Return the shards of a batch of m, whose sizes differ by 1 at most."""
    shards = max(1, min(shards, m))  # the layer refuses an empty batch
    ends = [m * number // shards for number in range(shards + 1)]
    return [slice(*pair) for pair in pairwise(ends)]


@cache
def _pool(threads: int, pid: int, training: bool) -> ThreadPoolExecutor:
    """Return threads that stay; a forked process has none, so it gets its own.

    Those that train have their memory as it is set before they start, those that predict do
    without.
    """
    _log.debug("%d threads for shards; training: %s", threads, training)
    return ThreadPoolExecutor(threads, f"seqcore-{pid}", initializer=_start)


def _at(tree: Any, cut: slice) -> Any:
    """Return a shard of every array of a tree, whose last axis is the batch."""
    if tree is None:
        return None
    if isinstance(tree, tuple):
        parts = [_at(part, cut) for part in tree]
        return type(tree)._make(parts) if hasattr(tree, "_make") else tuple(parts)
    return tree[..., cut]


def _together(xp: Any, states: Sequence[State]) -> State:
    """Return the state of all shards."""
    first = states[0]
    if first is None:
        return None
    if isinstance(first, tuple):
        parts = [_together(xp, part) for part in zip(*states, strict=True)]
        return type(first)._make(parts) if hasattr(first, "_make") else tuple(parts)
    return xp.concat(states, axis=-1)
