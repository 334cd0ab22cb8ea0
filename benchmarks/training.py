"""Training steps, side by side: forward, backward through time, gradients of all weights.

    python benchmarks/training.py [--quick] [--cells lstm] [--shapes 100/32/64/128]
                                  [--threads 1 2] [--sides seqcore torch]

For LSTM, GRU and RNN on a grid of shapes T/m/n_x/n_a (time steps, batch, features, units), in
float32, with one thread and with all cores:

    textbook         plain NumPy loops, written from the equations
    seqcore          a layer of seqcore on NumPy
    seqcore-generic  the same without the kernels for NumPy
    seqcore-shards   the batch divided among threads (only with several threads)
    seqcore-jax      a layer of seqcore on JAX, under jit
    torch            torch.nn.LSTM, GRU or RNN and autograd
    products         the floor: the matrix products of the step alone, in their fastest form

Every side is compared with the textbook loops in float64, then the sides take turns, each in a
process that is pinned to as many cores as it has threads. A time is the shortest turn; a ratio
is that of the shortest turns, and in brackets the median of the ratios of each round.

Needs seqcore, threadpoolctl, matplotlib, and torch and JAX unless --sides leaves them out.
About a quarter of an hour on 2 cores; `--quick` takes less than a minute.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness import machine, options, problem, step_page
from harness.check import WrongSideError, check
from harness.problem import GRID, Shape
from harness.processes import workers
from harness.report import Report
from harness.side import Side
from harness.step_page import Row
from harness.turns import rounds
from sides import textbook

QUICK = (Shape(100, 32, 64, 128),)


def sides(threads: int) -> list[Side]:
    """Return all sides, with the given number of threads on as many cores."""
    alike: dict[str, Any] = {"threads": threads, "cores": threads, "task": {"threads": threads}}
    generic, cpu = {"SEQCORE_KERNELS": "0"}, {"JAX_PLATFORMS": "cpu"}
    listed = [
        Side("textbook", "sides.textbook:step", **alike),
        Side("seqcore", "sides.seqcore:step", **alike),
        Side("seqcore-generic", "sides.seqcore:step", **alike, env=generic),
        # It starts its own threads, each of which takes products with one thread.
        Side("seqcore-shards", "sides.seqcore:shards", **{**alike, "threads": 1}),
        # XLA starts as many threads as it is given cores.
        Side("seqcore-jax", "sides.jax:step", **alike, env=cpu),
        Side("torch", "sides.torch:step", **alike),
        Side("products", "sides.products:step", **alike),
    ]
    return [side for side in listed if threads > 1 or side.name != "seqcore-shards"]


def main() -> None:
    """Measure, print, write."""
    parser = options.step_parser(__doc__, sides(2))
    parser.add_argument("--threads", nargs="+", type=int, help="one and all cores if not given")
    given = parser.parse_args()
    given.threads = given.threads or sorted({1, machine.cores()})
    given.rounds = given.rounds or (2 if given.quick else 7)
    given.seconds, given.trial = (0.05, 0.005) if given.quick else (0.2, 0.05)
    page = Report("training", "Training steps", given)
    page.say(
        "Milliseconds of a training step in float32 (forward, backward through time, gradients of "
        "x and of all weights), the shortest turn and in brackets the median. Shapes are "
        "T/m/n_x/n_a: time steps, batch, features, units. Ratios are those of the shortest turns, "
        "in brackets the median over the rounds. `products` takes the matrix products of the step "
        "and nothing else, each in the fastest form found."
    )
    measured: list[Row] = []
    wrong: list[str] = []
    for cell in given.cells or problem.GATES:
        rows = list(measure(cell, given, page, wrong))
        for threads in given.threads:
            step_page.tables([row for row in rows if row["threads"] == threads], page)
        step_page.draw(rows, page)
        measured += rows
    if wrong:
        page.say("Not measured, because a side was wrong: " + "; ".join(wrong) + ".")
    page.save(measured)
    if wrong:
        raise SystemExit("a side was wrong, see above")


def measure(cell: str, given: Any, page: Report, wrong: list[str]) -> Iterator[Row]:
    """Measure one cell on all shapes, with each number of threads.

    Where a side is wrong nothing is timed and `wrong` gets the reason; the others go on.
    """
    for shape in given.shapes or (QUICK if given.quick else GRID):
        arrays = problem.draw(cell, shape)
        expected = textbook.reference(cell, arrays)
        for threads in given.threads:
            print(f"{cell} {shape}, threads: {threads}", flush=True)
            task = {**problem.task(cell), "trial": given.trial}
            with workers(options.selected(sides(threads), given.sides), task, arrays) as running:
                page.see(running)
                try:
                    errors = check(running, expected, tolerance=problem.TOLERANCE)
                except WrongSideError as error:
                    wrong.append(f"{cell} {shape}, threads: {threads}: {error}")
                    print(wrong[-1], flush=True)
                    continue
                turns = rounds(running, count=given.rounds, seconds=given.seconds)
                products = running.get("products")
                forms = products.hello["notes"] if products else None
            row = {"cell": cell, "shape": str(shape), "threads": threads, "seconds": turns}
            yield {**row, "errors": errors, "forms": forms}


if __name__ == "__main__":
    main()
