"""Turns: the sides are timed one after another, A B C, A B C, ...

A turn repeats the step of a side for a given time and gives seconds per step. Whatever
disturbs the machine disturbs all sides alike, so turns of the same round can be compared.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from harness.processes import Worker

Turns = Mapping[str, Sequence[float]]


def rounds(running: Mapping[str, Worker], *, count: int, seconds: float) -> dict[str, list[float]]:
    """Let the sides take turns, and return the seconds per step of every turn.

    Parameters
    ----------
    running
        The workers, by the name of their side.
    count
        Number of turns of each side.
    seconds
        Length of a turn. A step that takes longer runs once.
    """
    turns: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(count):
        for name, worker in running.items():
            turns[name].append(worker.turn(seconds))
    return turns


def ratio(turns: Turns, above: str, below: str) -> tuple[float, float]:
    """Return the time of one side divided by the time of another.

    Returns
    -------
    of_minima, median
        The ratio of the shortest turns, and the median of the ratios of each round. On a
        machine that nothing disturbs the two agree.
    """
    pairs = zip(turns[above], turns[below], strict=True)
    return min(turns[above]) / min(turns[below]), statistics.median(a / b for a, b in pairs)
