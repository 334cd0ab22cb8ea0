"""How the time and memory of a training step grow with one of its sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np

from harness import problem
from harness.problem import Shape
from harness.processes import Worker, workers
from harness.report import Report
from harness.side import Side
from harness.tables import shortest, table
from harness.turns import rounds

MEMORY = ("peak", "tape", "resident")  # the numbers of bytes among the results of a side

Row = dict[str, Any]  # shape, seconds and bytes by side
Exponents = Mapping[str, Mapping[str, float]]


class Sweep(NamedTuple):
    """Training steps of which one size grows.

    Attributes
    ----------
    axis
        The size that grows, a field of `Shape`.
    words
        What it is called.
    shapes
        The steps.
    sides
        The sides that run each of them.
    """

    axis: str
    words: str
    shapes: Sequence[Shape]
    sides: Sequence[Side]

    @property
    def sizes(self) -> list[int]:
        """The size that grows, for each shape."""
        return [getattr(shape, self.axis) for shape in self.shapes]

    @property
    def upper(self) -> slice:
        """The points to which exponents are fitted."""
        return slice(len(self.shapes) // 2, None)


def measure(sweep: Sweep, count: int, seconds: float, page: Report) -> list[Row]:
    """Measure all points of a sweep, which take `count` turns with one another."""
    rows: list[Row] = []
    points: list[dict[str, Worker]] = []
    with ExitStack() as stack:
        for shape in sweep.shapes:
            print(f"{shape}", flush=True)
            arrays = problem.draw("lstm", shape)
            running = stack.enter_context(workers(sweep.sides, {}, arrays))
            page.see(running)
            points.append(running)
            sizes = {name: counts(worker.results()) for name, worker in running.items()}
            turns: dict[str, list[float]] = {name: [] for name in running}
            rows.append({"shape": str(shape), "seconds": turns, "bytes": sizes})
        for _ in range(count):
            for row, running in zip(rows, points, strict=True):
                for name, own in rounds(running, count=1, seconds=seconds).items():
                    row["seconds"][name] += own
    return rows


def counts(results: Mapping[str, Any]) -> dict[str, int]:
    """Return the numbers of bytes among the results of a side."""
    return {name: int(results[name]) for name in MEMORY}


def megabytes(sizes: Mapping[str, int]) -> list[str]:
    """Return numbers of bytes as cells of a table."""
    return [f"{sizes[name] / 1e6:.4g}" for name in MEMORY]


def exponents(sweep: Sweep, rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Return the exponents of each side: least squares of the logarithms of the upper half."""
    sizes = np.log(sweep.sizes[sweep.upper])
    found = {}
    for side in sweep.sides:
        points = [values(row, side.name) for row in rows[sweep.upper]]
        found[side.name] = {
            name: float(np.polyfit(sizes, np.log([at[name] for at in points]), 1)[0])
            for name in points[0]
        }
    return found


def values(row: Row, side: str) -> dict[str, float]:
    """Return what grows: seconds, and the bytes of peak and tape."""
    own = row["bytes"][side]
    return {"time": min(row["seconds"][side]), "peak": own["peak"], "tape": own["tape"]}


def point_table(rows: Sequence[Row]) -> str:
    """Return the table of the points of a sweep."""
    head = ["shape", "side", "ms", "µs per time step", "peak, MB", "tape, MB", "process, MB"]
    lines = []
    for row in rows:
        for side, turns in row["seconds"].items():
            per_step = f"{1e6 * min(turns) / Shape.parse(row['shape']).T:.1f}"
            times = [shortest(turns, form=".4g"), per_step]
            lines.append([row["shape"], side, *times, *megabytes(row["bytes"][side])])
    return table(head, lines, words=2)


def exponent_table(plan: Sequence[Sweep], fitted: Sequence[Exponents]) -> str:
    """Return the table of exponents."""
    lines = []
    for sweep, found in zip(plan, fitted, strict=True):
        fit = f"{sweep.sizes[sweep.upper][0]} to {sweep.sizes[-1]}"
        for side, own in found.items():
            lines.append([sweep.axis, side, fit, *(f"{value:.2f}" for value in own.values())])
    return table(["size", "side", "from", "time", "peak", "tape"], lines, words=3)
