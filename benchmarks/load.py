"""Training steps while other processes keep every core busy.

    python benchmarks/load.py [--quick] [--cells lstm] [--shapes 100/32/64/128]
                              [--sides seqcore torch]

The training step of training.py, as its users run it, without pinning:

    seqcore         our layer on NumPy, with one BLAS thread
    seqcore-shards  the batch divided among as many threads as there are cores
    torch           torch.nn, with the threads it takes by itself
    torch-1         torch.nn with one thread

First the machine is as quiet as it is, then one plain Python loop per core spins, started
and ended by this script; the sides take turns both times, in the same processes. A thread
that spins for another that does not run waits until the system takes its core away, step
after step: that is what several threads for small products cost on a shared machine. A turn
ends after the step in which its time is up.

Times are medians: under load the shortest turn is the lucky one.

Needs seqcore, threadpoolctl, matplotlib, torch. Minutes, `--quick` some seconds.
"""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from harness import duel, problem, report
from harness.duel import Side
from harness.problem import Shape

SHAPES = (Shape(100, 32, 64, 128), Shape(50, 64, 128, 256), Shape(100, 64, 256, 512))

# Ends by itself should its parent be gone.
SPIN = """
import os, sys
while os.getppid() == int(sys.argv[1]):
    for _ in range(10**6):
        pass
"""


def sides() -> list[Side]:
    """Return all sides, none of them pinned."""
    return [
        Side("seqcore", "sides.training:seqcore"),
        Side("seqcore-shards", "sides.training:seqcore_shards", task={"threads": duel.cores()}),
        Side("torch", "sides.training:torch", threads=None),
        Side("torch-1", "sides.training:torch", task={"threads": 1}),
    ]


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep so many cores busy with one process each."""
    command = [sys.executable, "-c", SPIN, str(os.getpid())]
    spinning: list[subprocess.Popen[bytes]] = []
    try:
        spinning += (subprocess.Popen(command) for _ in range(count))
        yield
    finally:
        for process in spinning:
            process.kill()
        for process in spinning:
            process.wait()


def main() -> None:
    """Measure, print, write."""
    options = report.step_parser(__doc__).parse_args()
    shapes = options.shapes or (SHAPES[:1] if options.quick else SHAPES)
    options.rounds = options.rounds or (2 if options.quick else 7)
    options.seconds = 0.2 if options.quick else 1.0
    page = report.Report("load", "Training steps under load", options)
    page.say(
        "Milliseconds of a training step in float32, medians of the turns: on the machine as it "
        f"was, and while {duel.cores()} other processes kept its {duel.cores()} cores busy. "
        "Shapes are T/m/n_x/n_a: time steps, batch, features, units."
    )
    rows: list[dict[str, Any]] = []
    for cell in options.cells or ("lstm",):
        own = [measure(cell, shape, options, page) for shape in shapes]
        page.say(f"## {cell.upper()}")
        page.say(table(own))
        draw(own, page)
        rows += own
    page.save(rows)


def measure(cell: str, shape: Shape, options: Any, page: report.Report) -> dict[str, Any]:
    """Measure one cell on one shape, quiet and then under load."""
    print(f"{cell} {shape}", flush=True)
    arrays = problem.draw(cell, shape)
    expected = problem.reference(cell, arrays)
    chosen = report.selected(sides(), options.sides)
    with duel.workers(chosen, {"cell": cell}, arrays) as running:
        page.see(running)
        errors = duel.check(running, expected, tolerance=problem.TOLERANCE)
        quiet = duel.rounds(running, count=options.rounds, seconds=options.seconds)
        with busy(duel.cores()):
            loaded = duel.rounds(running, count=options.rounds, seconds=options.seconds)
    return {
        "cell": cell,
        "shape": str(shape),
        "seconds": {"quiet": quiet, "loaded": loaded},
        "errors": errors,
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of one cell."""
    lines = []
    for row in rows:
        quiet, loaded = row["seconds"]["quiet"], row["seconds"]["loaded"]
        for side in loaded:
            still, under = statistics.median(quiet[side]), statistics.median(loaded[side])
            beside = f"{duel.ratio(loaded, 'torch', side)[1]:.2f}" if "torch" in loaded else ""
            lines.append(
                [
                    row["shape"],
                    side,
                    f"{1e3 * still:.3g}",
                    f"{1e3 * under:.3g}",
                    f"{under / still:.2f}",
                    beside,
                ]
            )
    head = ["shape", "side", "quiet, ms", "under load, ms", "slower by", "torch / side, under load"]
    return report.table(head, lines, words=2)


def draw(rows: Sequence[Mapping[str, Any]], page: report.Report) -> None:
    """Draw how long a step takes, quiet and under load."""
    from matplotlib.figure import Figure

    cell = rows[0]["cell"]
    names = report.present([row["seconds"]["loaded"] for row in rows])
    figure = Figure(figsize=(8, 6.4), layout="constrained")
    panels = figure.subplots(2)
    least = min(median(row, "quiet", name) or math.inf for row in rows for name in names)
    base = 10.0 ** math.floor(math.log10(least))
    for axes, state, title in zip(
        panels, ("quiet", "loaded"), ("quiet", "every core busy"), strict=True
    ):
        series = {name: [median(row, state, name) for row in rows] for name in names}
        report.bars(axes, [row["shape"] for row in rows], series, base=base)
        axes.set_title(title, loc="left")
        axes.set_ylabel("ms per step, median")
        axes.yaxis.set_major_formatter("{x:g}")
    # The same scale, so that the two can be compared by eye.
    top = max(axes.get_ylim()[1] for axes in panels)
    for axes in panels:
        axes.set_ylim(base, top)
    panels[-1].set_xlabel("time steps / batch / features / units")
    report.legend(figure, panels[-1])
    figure.suptitle(f"{cell.upper()}: a training step in float32, beside busy processes")
    page.picture(figure, f"load-{cell}", f"{cell.upper()} training step under load")


def median(row: Mapping[str, Any], state: str, name: str) -> float | None:
    """Return the median milliseconds of a side, None where it was left out."""
    turns = row["seconds"][state].get(name)
    return 1e3 * statistics.median(turns) if turns else None


if __name__ == "__main__":
    main()
