"""Training steps while other processes keep every core busy.

    python benchmarks/load.py [--quick] [--cells lstm] [--shapes 100/32/64/128]
                              [--sides seqcore torch]

The training step of training.py as users run it, not pinned to cores:

    seqcore         a layer of seqcore on NumPy, with one BLAS thread
    seqcore-shards  the batch divided among as many threads as there are cores
    torch           torch.nn, with the threads that it takes by default
    torch-1         torch.nn with one thread

The sides take turns twice, in the same processes: first on the machine as it is, then while
this script runs one busy Python loop for each core. Threads that share a small product wait for
each other; when one of them gets no core, the others wait until the system gives it one, at
every step. So several threads can be slower than one on a shared machine.

A turn ends after the step in which its time is up. Times are medians, because under load the
shortest turn is a lucky one.

Needs seqcore, threadpoolctl, matplotlib, torch. Some minutes; `--quick` some seconds.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from harness import machine, options, pictures, problem
from harness.busy import busy
from harness.check import check
from harness.problem import Shape
from harness.processes import workers
from harness.report import Report
from harness.side import Side
from harness.tables import table
from harness.turns import ratio, rounds
from sides import textbook

SHAPES = (Shape(100, 32, 64, 128), Shape(50, 64, 128, 256), Shape(100, 64, 256, 512))


def sides() -> list[Side]:
    """Return all sides, none of them pinned."""
    return [
        Side("seqcore", "sides.seqcore:step"),
        Side("seqcore-shards", "sides.seqcore:shards", task={"threads": machine.cores()}),
        Side("torch", "sides.torch:step", threads=None),
        Side("torch-1", "sides.torch:step", task={"threads": 1}),
    ]


def main() -> None:
    """Measure, print, write."""
    given = options.step_parser(__doc__, sides()).parse_args()
    shapes = given.shapes or (SHAPES[:1] if given.quick else SHAPES)
    given.rounds = given.rounds or (2 if given.quick else 7)
    given.seconds = 0.2 if given.quick else 1.0
    page = Report("load", "Training steps under load", given)
    cores = machine.cores()
    page.say(
        "Milliseconds of a training step in float32, medians of the turns: on the machine as it "
        f"was, and while {cores} other processes kept its {cores} cores busy. "
        "Shapes are T/m/n_x/n_a: time steps, batch, features, units."
    )
    rows: list[dict[str, Any]] = []
    for cell in given.cells or ("lstm",):
        own = [measure(cell, shape, given, page) for shape in shapes]
        page.say(f"## {cell.upper()}")
        page.say(page_table(own))
        draw(own, page)
        rows += own
    page.save(rows)


def measure(cell: str, shape: Shape, given: Any, page: Report) -> dict[str, Any]:
    """Measure one cell on one shape, first without load and then under load."""
    print(f"{cell} {shape}", flush=True)
    arrays = problem.draw(cell, shape)
    chosen = options.selected(sides(), given.sides)
    with workers(chosen, problem.task(cell), arrays) as running:
        page.see(running)
        errors = check(running, textbook.reference(cell, arrays), tolerance=problem.TOLERANCE)
        quiet = rounds(running, count=given.rounds, seconds=given.seconds)
        with busy(machine.cores()):
            loaded = rounds(running, count=given.rounds, seconds=given.seconds)
    seconds = {"quiet": quiet, "loaded": loaded}
    return {"cell": cell, "shape": str(shape), "seconds": seconds, "errors": errors}


def page_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of one cell."""
    lines = []
    for row in rows:
        quiet, loaded = row["seconds"]["quiet"], row["seconds"]["loaded"]
        for side in loaded:
            still, under = statistics.median(quiet[side]), statistics.median(loaded[side])
            beside = f"{ratio(loaded, 'torch', side)[1]:.2f}" if "torch" in loaded else ""
            own = [f"{1e3 * still:.3g}", f"{1e3 * under:.3g}", f"{under / still:.2f}", beside]
            lines.append([row["shape"], side, *own])
    head = ["shape", "side", "quiet, ms", "under load, ms", "slower by", "torch / side, under load"]
    return table(head, lines, words=2)


def draw(rows: Sequence[Mapping[str, Any]], page: Report) -> None:
    """Draw how long a step takes, without load and under load."""
    from matplotlib.figure import Figure

    cell = rows[0]["cell"]
    figure = Figure(figsize=(8, 6.4), layout="constrained")
    panels = figure.subplots(2)
    states = {"quiet": "quiet", "loaded": "every core busy"}
    series = {state: medians([row["seconds"][state] for row in rows]) for state in states}
    base = pictures.base_below(values for own in series.values() for values in own.values())
    for axes, (state, title) in zip(panels, states.items(), strict=True):
        pictures.bars(axes, [row["shape"] for row in rows], series[state], base=base)
        axes.set_title(title, loc="left")
        axes.set_ylabel("ms per step, median")
        axes.yaxis.set_major_formatter("{x:g}")
    # The same scale in both panels.
    top = max(axes.get_ylim()[1] for axes in panels)
    for axes in panels:
        axes.set_ylim(base, top)
    panels[-1].set_xlabel("time steps / batch / features / units")
    pictures.legend(figure, panels[-1])
    figure.suptitle(f"{cell.upper()}: a training step in float32, beside busy processes")
    page.picture(figure, f"load-{cell}", f"{cell.upper()} training step under load")


def medians(timed: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, list[float | None]]:
    """Return the median milliseconds of each side, None where it was left out."""
    return {
        name: [1e3 * statistics.median(turns[name]) if name in turns else None for turns in timed]
        for name in pictures.present(timed)
    }


if __name__ == "__main__":
    main()
