"""Training steps, side by side: forward, back through time, gradients of all weights.

    python benchmarks/training.py [--quick] [--cells lstm] [--shapes 100/32/64/128]
                                  [--threads 1 2] [--sides seqcore torch]

For LSTM, GRU and RNN, on each shape T/m/n_x/n_a (time steps, batch, features, units) of the
grid, in float32, with one thread and with all cores:

    textbook         plain NumPy loops, written from the equations
    seqcore          our layer on NumPy
    seqcore-generic  the same without kernels for NumPy, the array API source alone
    seqcore-shards   the batch divided among threads (with several threads only)
    seqcore-jax      our layer on JAX, under jit
    torch            torch.nn.LSTM, GRU or RNN and autograd
    products         the floor: the matrix products of the step alone, in their fastest form

How sides are timed is in duel.py. Each is a process of its own, pinned to as many cores as
it has threads, compared with the textbook loops in float64 first; then they take turns.
Times are the shortest turn of each; a ratio is that of the shortest turns, and in brackets
the median of the ratios of each round.

Needs seqcore, threadpoolctl, matplotlib; torch and JAX unless --sides leaves them out.
About a quarter of an hour on 2 cores; `--quick` takes less than a minute.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness import duel, problem, report
from harness.duel import Side
from harness.problem import GRID, Shape

CELLS = ("lstm", "gru", "rnn")
QUICK = (Shape(100, 32, 64, 128),)

Row = dict[str, Any]


def sides(threads: int) -> list[Side]:
    """Return all sides, with so many threads on so many cores."""
    alike: dict[str, Any] = {"threads": threads, "cores": threads}
    told = {"threads": threads}
    listed = [
        Side("textbook", "sides.training:textbook", **alike),
        Side("seqcore", "sides.training:seqcore", **alike),
        Side("seqcore-generic", "sides.training:seqcore", **alike, env={"SEQCORE_KERNELS": "0"}),
        # Its threads are its own, each of which takes products with one thread.
        Side(
            "seqcore-shards", "sides.training:seqcore_shards", threads=1, cores=threads, task=told
        ),
        # XLA starts as many threads as it is given cores.
        Side("seqcore-jax", "sides.training:seqcore_jax", **alike, env={"JAX_PLATFORMS": "cpu"}),
        Side("torch", "sides.training:torch", **alike, task=told),
        Side("products", "sides.training:products", **alike),
    ]
    return [side for side in listed if threads > 1 or side.name != "seqcore-shards"]


def main() -> None:
    """Measure, print, write."""
    options = arguments()
    page = report.Report("training", "Training steps", options)
    page.say(
        "Milliseconds of a training step in float32 (forward, back through time, gradients of x "
        "and of all weights), the shortest of the turns. Shapes are T/m/n_x/n_a: time steps, "
        "batch, features, units. Ratios are those of the shortest turns, in brackets the "
        "median over the rounds. `products` takes the matrix products of the step and nothing "
        "else, each in the fastest form found."
    )
    measured: list[Row] = []
    wrong: list[str] = []
    for cell in options.cells:
        rows = list(measure(cell, options, page, wrong))
        for threads in options.threads:
            tables([row for row in rows if row["threads"] == threads], page)
        draw(rows, page)
        measured += rows
    if wrong:
        page.say("Not measured, since a side was wrong: " + "; ".join(wrong) + ".")
    page.save(measured)
    if wrong:
        raise SystemExit("a side was wrong, see above")


def arguments() -> Any:
    """Read the command line."""
    parser = report.step_parser(__doc__)
    parser.add_argument("--threads", nargs="+", type=int, help="1 and all cores, unless given")
    options = parser.parse_args()
    options.cells = options.cells or CELLS
    options.shapes = options.shapes or (QUICK if options.quick else GRID)
    options.threads = options.threads or sorted({1, duel.cores()})
    options.rounds = options.rounds or (2 if options.quick else 7)
    options.seconds = 0.05 if options.quick else 0.2
    options.trial = 0.005 if options.quick else 0.05
    return options


def measure(cell: str, options: Any, page: report.Report, wrong: list[str]) -> Iterator[Row]:
    """Measure one cell on all shapes, with each number of threads.

    Where a side is wrong no time is taken, which `wrong` tells; the others go on, as the
    whole run takes long.
    """
    for shape in options.shapes:
        arrays = problem.draw(cell, shape)
        expected = problem.reference(cell, arrays)
        for threads in options.threads:
            print(f"{cell} {shape}, threads: {threads}", flush=True)
            chosen = report.selected(sides(threads), options.sides)
            task = {"cell": cell, "trial": options.trial}
            with duel.workers(chosen, task, arrays) as running:
                page.see(running)
                try:
                    errors = duel.check(running, expected, tolerance=problem.TOLERANCE)
                except duel.WrongSideError as error:
                    wrong.append(f"{cell} {shape}, threads: {threads}: {error}")
                    print(wrong[-1], flush=True)
                    continue
                turns = duel.rounds(running, count=options.rounds, seconds=options.seconds)
                notes = {name: worker.hello["notes"] for name, worker in running.items()}
            yield {
                "cell": cell,
                "shape": str(shape),
                "threads": threads,
                "seconds": turns,
                "errors": errors,
                "forms": notes.get("products"),
            }


def tables(rows: Sequence[Row], page: report.Report) -> None:
    """Write the tables of one cell with one number of threads."""
    if not rows:
        return
    cell, threads = rows[0]["cell"].upper(), rows[0]["threads"]
    named = "one thread" if threads == 1 else f"{threads} threads"
    page.say(f"## {cell}, {named}")
    names = report.present([row["seconds"] for row in rows])
    page.say(table("ms per step", rows, names, milliseconds))
    for side, what, flip in (
        ("torch", "time of torch / time: above 1 is faster than torch", False),
        ("products", "time / time of products: how far above the floor", True),
        ("textbook", "time of textbook / time: above 1 is faster than textbook", False),
    ):
        if side in names:
            page.say(f"{what[0].upper()}{what[1:]}.")
            others = [name for name in names if name != side]
            page.say(table("shape", rows, others, versus(side, flip=flip)))
    if "products" in names:
        page.say("Fastest forms of the products.")
        page.say(forms(rows))


def table(head: str, rows: Sequence[Row], names: Sequence[str], cell: Any) -> str:
    """Return a table of shapes by sides."""
    lines = [[row["shape"], *(cell(row["seconds"], name) for name in names)] for row in rows]
    return report.table([head, *names], lines)


def milliseconds(turns: Mapping[str, Sequence[float]], name: str) -> str:
    """Return the shortest turn, and in brackets the median one."""
    if name not in turns:
        return ""
    return f"{1e3 * min(turns[name]):.3g} ({1e3 * statistics.median(turns[name]):.3g})"


def versus(side: str, *, flip: bool) -> Any:
    """Return what formats the ratio to a side: its time over another's, or flipped."""

    def cell(turns: Mapping[str, Sequence[float]], name: str) -> str:
        if name not in turns or side not in turns:
            return ""
        best, median = duel.ratio(turns, *((name, side) if flip else (side, name)))
        return f"{best:.2f} ({median:.2f})"

    return cell


def forms(rows: Sequence[Row]) -> str:
    """Return which form of each product won on each shape."""
    lines = [
        [row["shape"], "; ".join(f"{product}: {at['won']}" for product, at in row["forms"].items())]
        for row in rows
    ]
    return report.table(["shape", "forms"], lines, words=2)


def draw(rows: Sequence[Row], page: report.Report) -> None:
    """Draw how fast the sides are beside torch: a panel for each number of threads."""
    measured = report.present([row["seconds"] for row in rows])
    if "torch" not in measured or len(measured) == 1:
        return
    from matplotlib.figure import Figure

    cell = rows[0]["cell"]
    counts = sorted({row["threads"] for row in rows})
    figure = Figure(figsize=(11, 0.8 + 3.4 * len(counts)), layout="constrained")
    panels = figure.subplots(len(counts), squeeze=False)[:, 0]
    for axes, threads in zip(panels, counts, strict=True):
        own = [row for row in rows if row["threads"] == threads]
        report.bars(axes, [row["shape"] for row in own], speeds(own), base=1.0)
        axes.set_title("one thread" if threads == 1 else f"{threads} threads", loc="left")
        axes.set_ylabel("times as fast as torch")
        axes.set_yticks(*ticks(axes.get_ylim()))
        axes.minorticks_off()
    panels[-1].set_xlabel("time steps / batch / features / units")
    report.legend(figure, panels[-1])
    figure.suptitle(f"{cell.upper()}: a training step in float32, beside torch.nn")
    page.picture(figure, f"training-{cell}", f"{cell.upper()} training step, beside torch")


def speeds(rows: Sequence[Row]) -> dict[str, list[float | None]]:
    """Return how many times as fast as torch each side is, shape by shape."""
    return {
        name: [
            duel.ratio(row["seconds"], "torch", name)[0] if name in row["seconds"] else None
            for row in rows
        ]
        for name in report.present([row["seconds"] for row in rows])
        if name != "torch"
    }


def ticks(limits: tuple[float, float]) -> tuple[list[float], list[str]]:
    """Return powers of two within the limits of an axis, with their names."""
    found = [2.0**n for n in range(-12, 13) if limits[0] <= 2.0**n <= limits[1]]
    return found, [f"{value:g}" if value >= 1 else f"1/{1 / value:g}" for value in found]


if __name__ == "__main__":
    main()
