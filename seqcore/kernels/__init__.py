"""Kernels: optional faster code for one array library, from providers that register here.

`of(xp)` returns the kernels for a namespace. Providers are asked in the order in which they
were registered, and the first that does not decline is taken. The environment variable
SEQCORE_KERNELS names the providers to use, separated by commas; 0 stands for none. It is
read when a namespace is first used.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import array_api_compat as compat

from seqcore.arrays import Array, Namespace
from seqcore.kernels.contract import (
    Columns,
    Gates,
    Job,
    Joined,
    LoopStep,
    Options,
    Parts,
    Provider,
    Recurrence,
    Stacked,
    StreamStep,
    Weights,
)

__all__ = [
    "Columns",
    "Gates",
    "Job",
    "Kernels",
    "Options",
    "Provider",
    "Recurrence",
    "StreamStep",
    "Weights",
    "of",
    "register",
]

# About 1000 columns; with 1024 the rows of a block would lie 4 KiB apart, and all of them would
# fall into the same few lines of the cache.
_BLOCK_COLUMNS = 960
_BLOCK_STEPS = 128

R = TypeVar("R")

_log = logging.getLogger(__name__)


class Kernels:
    """What the providers of a namespace offer, and the generic code where all decline.

    Parameters
    ----------
    xp
        The namespace.
    providers
        By name, in the order in which they are asked.
    """

    def __init__(self, xp: Namespace, providers: list[tuple[str, Provider]]) -> None:
        self.names = [name for name, _ in providers]
        self.providers = [provider for _, provider in providers]
        self.inner: Namespace = self._first(lambda p: p.inner(), xp)
        self.loops = any(type(p).scan is not Provider.scan for p in self.providers)

    def _first(self, ask: Callable[[Provider], R | None], generic: R) -> R:
        for provider in self.providers:
            answer = ask(provider)
            if answer is not None:
                return answer
        return generic

    def scan(
        self, step: LoopStep, init: Any, xs: tuple[Any, ...], *, reverse: bool
    ) -> tuple[Any, tuple[Array, ...]] | None:
        """Run a loop over time; None where a loop in Python is best."""
        return self._first(lambda p: p.scan(step, init, xs, reverse=reverse), None)

    def block_steps(self, n_steps: int, m: int) -> int:
        """Return how many steps share one product for W_x x and one for the gradients.

        Enough columns for a product to be efficient, few enough for them to stay in the cache.
        """
        generic = max(1, min(_BLOCK_STEPS, _BLOCK_COLUMNS // m))
        return self._first(lambda p: p.block_steps(n_steps, m), generic)

    def columns(self, n_steps: int) -> Columns:
        """Return an object that gathers the outputs of a loop."""
        found = self._first(lambda p: p.columns(n_steps), None)
        return Stacked(self.inner, n_steps) if found is None else found

    def parts(self, n_steps: int) -> Parts:
        """Return an object that gathers parts of a sequence."""
        found = self._first(lambda p: p.parts(n_steps), None)
        return Joined(self.inner) if found is None else found

    def rows(self, W: Array, m: int) -> Array:
        """Return `W (rows, k)` unchanged, or in the blocks that multiply `(k, m)` fastest."""
        return self._first(lambda p: p.rows(W, m), W)

    def joins(self, gates: int, n_a: int, n_x: int, m: int) -> bool:
        """Tell whether x is best multiplied at each step, in one product with h."""
        return self._first(lambda p: p.joins(gates, n_a, n_x, m), False)

    def gates(self, cell: str, options: Options, generic: Gates) -> Gates:
        """Return the gates of a cell."""
        return self._first(lambda p: p.gates(cell, options), generic)

    def stream(self, cell: str, options: Options, weights: Weights, m: int) -> StreamStep | None:
        """Return one step of a stream; None where the cell's own step is best."""
        return self._first(lambda p: p.stream(cell, options, weights, m), None)

    def recurrence(self, job: Job) -> Recurrence | None:
        """Return a whole recurrence; None where the loop over time is best."""
        return self._first(lambda p: p.recurrence(job), None)

    def note_training(self) -> None:
        """Tell all providers that a backward pass begins."""
        for provider in self.providers:
            provider.note_training()


class _Entry:
    """A provider that is registered, and loaded when it is first asked for."""

    def __init__(
        self, name: str, matches: Callable[[Namespace], bool], load: Callable[[], Provider]
    ) -> None:
        self.name, self.matches = name, matches
        self.provider = cache(load)


def _numpy() -> Provider:
    from seqcore.kernels.numpy import NumPyKernels

    return NumPyKernels()


def _jax() -> Provider:
    from seqcore.kernels.jax import JAXKernels

    return JAXKernels()


_registered = [
    _Entry("numpy", compat.is_numpy_namespace, _numpy),
    _Entry("jax", compat.is_jax_namespace, _jax),
]


def register(
    name: str,
    matches: Callable[[Namespace], bool],
    load: Callable[[], Provider],
    *,
    first: bool = True,
) -> None:
    """Add a provider.

    Parameters
    ----------
    name
        The name by which SEQCORE_KERNELS selects it.
    matches
        Tells whether the provider is for a namespace.
    load
        Returns the provider; called once, when such a namespace is first met, so that it may
        import what it needs.
    first
        Ask it before those that are registered already, rather than after them.
    """
    _registered.insert(0 if first else len(_registered), _Entry(name, matches, load))
    of.cache_clear()


@cache
def of(xp: Namespace) -> Kernels:
    """Return the kernels for a namespace.

    Raises
    ------
    ValueError
        If SEQCORE_KERNELS names a provider that is not registered.
    """
    found = [(entry.name, entry.provider()) for entry in _registered if entry.matches(xp)]
    chosen = [name.strip() for name in os.environ.get("SEQCORE_KERNELS", "").split(",")]
    if chosen != [""]:
        known = ["0", *(entry.name for entry in _registered)]
        for name in chosen:
            if name not in known:
                raise ValueError(
                    f"SEQCORE_KERNELS: {name!r} is unknown, expected {' or '.join(known)}"
                )
        found = [(name, provider) for name, provider in found if name in chosen]
    names = ", ".join(name for name, _ in found) or "none"
    _log.debug("kernels for %s: %s", getattr(xp, "__name__", xp), names)
    return Kernels(xp, found)
