"""The cases that are measured on a GPU, and the time that is left for them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

RESERVE = 15.0  # seconds of the budget, for pictures and pages
PRECISIONS = (False, True)  # TF32 off, on


class Case(NamedTuple):
    """One line of a table."""

    layers: int
    n_a: int
    m: int
    tf32: bool
    do: str  # "training" or "inference"

    def __str__(self) -> str:
        """Return the case in words."""
        return f"{self.size}, {self.do}, {precision(self.tf32)}"

    @property
    def size(self) -> str:
        """The size in words."""
        return f"{self.layers} x {self.n_a}, m {self.m}"


def cases(n_a: Sequence[int], batches: Sequence[int]) -> list[Case]:
    """Return all cases, one layer before two, those of one size together."""
    return [
        Case(layers, units, m, tf32, do)
        for layers in (1, 2)
        for units in n_a
        for m in batches
        for tf32 in PRECISIONS
        for do in ("training", "inference")
    ]


def precision(tf32: bool) -> str:
    """Return the precision of products in words."""
    return f"TF32 {'on' if tf32 else 'off'}"


class Budget:
    """The seconds that are left."""

    def __init__(self, seconds: float) -> None:
        """Start the clock."""
        self.until = time.perf_counter() + seconds - RESERVE
        self.longest = 0.0  # of the groups of cases so far

    def allows(self) -> bool:
        """Tell whether there is time for one more group of cases."""
        return self.until - time.perf_counter() > 1.5 * self.longest

    @contextmanager
    def spent(self) -> Iterator[None]:
        """Note how long a group of cases takes."""
        began = time.perf_counter()
        yield
        self.longest = max(self.longest, time.perf_counter() - began)
