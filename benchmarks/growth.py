"""Growth: time and memory of a training step against T, m and n_a, and without end.

    python benchmarks/growth.py [--quick] [--rounds 3]

An LSTM in float32 on one thread and one core, seqcore alone:

    growth     a training step against the time steps T, plain and with `recompute=True`,
               against the batch m and against the units n_a, with the exponents fitted in the
               upper half of the points: least squares of the logarithms
    recompute  a step on a long sequence beside the plain one: their gradients, y, dx and
               states are the same to the bit, or the run ends
    truncated  truncated BPTT over a million steps, in windows of 100 drawn as they come

Each point is a process of its own, and all points of a table take turns (duel.py). Peaks are
the largest sum of all arrays and objects at one time, beyond the inputs, as memory.py counts
them; `process` is the largest resident memory of the whole process.

Needs seqcore, threadpoolctl, matplotlib; POSIX. Less than four minutes, `--quick` less than
one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
from harness import duel, problem, report
from harness.duel import Side
from harness.problem import Shape

PLAIN = Side("plain", "sides.memory:step", cores=1, task={"recompute": False})
RECOMPUTE = Side("recompute", "sides.memory:step", cores=1, task={"recompute": True})
# Lines of a picture: colour, marker.
LOOKS = {"plain": ("#D55E00", "o"), "recompute": ("#0072B2", "s")}
MEMORY = ("peak", "tape", "resident")  # of memory.step
WINDOW = 100

Row = dict[str, Any]


class Sweep(NamedTuple):
    """Steps of which one size grows."""

    axis: str  # of a Shape
    words: str
    shapes: Sequence[Shape]
    sides: Sequence[Side]

    @property
    def sizes(self) -> list[int]:
        """The size that grows, of each shape."""
        return [getattr(shape, self.axis) for shape in self.shapes]

    @property
    def upper(self) -> slice:
        """The points that exponents are fitted to."""
        return slice(len(self.shapes) // 2, None)


def sweeps(*, quick: bool) -> list[Sweep]:
    """Return what grows, and how far."""
    steps = (100, 300, 1000, 3000, 10_000, 30_000, 100_000)[: 4 if quick else 7]
    batches = (1, 2, 4, 8, 16, 32, 64, 128, 256)[: 5 if quick else 9]
    units = (16, 32, 64, 128, 256, 512, 1024)[: 4 if quick else 7]
    long = [Shape(T, 4, 8, 32) for T in steps]
    return [
        Sweep("T", "time steps", long, (PLAIN, RECOMPUTE)),
        Sweep("m", "batch", [Shape(100, m, 64, 128) for m in batches], (PLAIN,)),
        Sweep("n_a", "units", [Shape(50, 32, 64, n_a) for n_a in units], (PLAIN,)),
    ]


def main() -> None:
    """Measure, print, write."""
    options = report.parser(__doc__).parse_args()
    options.rounds = options.rounds or (2 if options.quick else 3)
    options.seconds = 0.05 if options.quick else 0.2
    page = report.Report("growth", "Growth", options)
    page.say(
        "A training step of an LSTM in float32 on one thread: forward, back through time, "
        "gradients of x and of all weights. Shapes are T/m/n_x/n_a: time steps, batch, features, "
        "units. Times are the shortest turn, in brackets the median. `peak` is the largest sum "
        "of all arrays and objects at one time, beyond the inputs; `tape` is what the forward "
        "keeps for the way back, without x; `process` is the largest resident memory of the "
        "whole process. MB are 10^6 bytes."
    )
    plan = sweeps(quick=options.quick)
    measured = []
    for sweep in plan:
        rows = measure(sweep, options, page)
        page.say(f"## Against {sweep.axis}: {sweep.words}")
        page.say(table(rows))
        measured.append(rows)
    exponents = [exponents_of(sweep, rows) for sweep, rows in zip(plan, measured, strict=True)]
    page.say("## Exponents")
    page.say(exponent_table(plan, exponents))
    draw(plan, measured, exponents, page)
    record = {
        "growth": {sweep.axis: rows for sweep, rows in zip(plan, measured, strict=True)},
        "exponents": {sweep.axis: found for sweep, found in zip(plan, exponents, strict=True)},
        "recompute": recompute(options, page),
        "truncated": truncated(options, page),
    }
    page.save(record)


def measure(sweep: Sweep, options: Any, page: report.Report) -> list[Row]:
    """Measure all points: the seconds of the turns and the bytes of each side.

    All points take turns with one another, so that what disturbs the machine meets them alike.
    """
    rows: list[Row] = []
    points: list[dict[str, duel.Worker]] = []
    with ExitStack() as stack:
        for shape in sweep.shapes:
            print(f"{shape}", flush=True)
            arrays = problem.draw("lstm", shape)
            running = stack.enter_context(duel.workers(sweep.sides, {}, arrays))
            page.see(running)
            points.append(running)
            bytes_ = {name: counts(worker.results()) for name, worker in running.items()}
            seconds: dict[str, list[float]] = {name: [] for name in running}
            rows.append({"shape": str(shape), "seconds": seconds, "bytes": bytes_})
        for _ in range(options.rounds):
            for row, running in zip(rows, points, strict=True):
                for name, turns in duel.rounds(running, count=1, seconds=options.seconds).items():
                    row["seconds"][name] += turns
    return rows


def counts(results: Mapping[str, Any]) -> dict[str, int]:
    """Return the numbers of bytes among the results of a side."""
    return {name: int(results[name]) for name in MEMORY}


def table(rows: Sequence[Row]) -> str:
    """Return the table of points."""
    head = ["shape", "side", "ms", "µs per time step", "peak, MB", "tape, MB", "process, MB"]
    lines = []
    for row in rows:
        for side, turns in row["seconds"].items():
            per_step = 1e6 * min(turns) / Shape.parse(row["shape"]).T
            own = [f"{row['bytes'][side][name] / 1e6:.4g}" for name in MEMORY]
            lines.append([row["shape"], side, milliseconds(turns), f"{per_step:.1f}", *own])
    return report.table(head, lines, words=2)


def milliseconds(turns: Sequence[float]) -> str:
    """Return the shortest turn, and in brackets the median one."""
    return f"{1e3 * min(turns):.4g} ({1e3 * statistics.median(turns):.4g})"


def values(row: Row, side: str) -> dict[str, float]:
    """Return what grows: seconds, and bytes of peak and tape."""
    own = row["bytes"][side]
    return {"time": min(row["seconds"][side]), "peak": own["peak"], "tape": own["tape"]}


def exponents_of(sweep: Sweep, rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Return the exponents of each side, fitted in the upper half of the points."""
    sizes = np.log(sweep.sizes[sweep.upper])
    found = {}
    for side in sweep.sides:
        points = [values(row, side.name) for row in rows[sweep.upper]]
        found[side.name] = {
            name: float(np.polyfit(sizes, np.log([at[name] for at in points]), 1)[0])
            for name in points[0]
        }
    return found


def exponent_table(
    plan: Sequence[Sweep], exponents: Sequence[Mapping[str, Mapping[str, float]]]
) -> str:
    """Return the table of exponents."""
    lines = [
        [
            sweep.axis,
            side,
            f"{sweep.sizes[sweep.upper][0]} to {sweep.sizes[-1]}",
            *(f"{exponent:.2f}" for exponent in own.values()),
        ]
        for sweep, found in zip(plan, exponents, strict=True)
        for side, own in found.items()
    ]
    return report.table(["size", "side", "from", "time", "peak", "tape"], lines, words=3)


def recompute(options: Any, page: report.Report) -> Row:
    """Measure a long sequence with and without `recompute`, and compare all that they give."""
    shape = Shape(2000 if options.quick else 10_000, 32, 32, 64)
    print(f"{shape}, recompute", flush=True)
    with duel.workers(
        (PLAIN, RECOMPUTE), {"gradients": True}, problem.draw("lstm", shape)
    ) as running:
        results = {name: worker.results() for name, worker in running.items()}
        same_to_the_bit(results["recompute"], results["plain"])
        turns = duel.rounds(running, count=options.rounds + 2, seconds=options.seconds)
    own = {name: counts(result) for name, result in results.items()}
    best, median = duel.ratio(turns, "recompute", "plain")
    parts = [own["recompute"][name] / own["plain"][name] for name in MEMORY]
    lines = [
        [side, milliseconds(turns[side]), *(f"{own[side][name] / 1e6:.4g}" for name in MEMORY)]
        for side in turns
    ]
    lines.append(["ratio", f"{best:.2f} ({median:.2f})", *(f"{part:.4f}" for part in parts)])
    page.say(f"## Recompute, {shape}")
    page.say(report.table(["side", "ms", "peak, MB", "tape, MB", "process, MB"], lines))
    page.say(
        "y, dx, the gradients of all weights and of the first state are the same to the bit. The "
        "ratio of the times is that of the shortest turns, in brackets the median over the rounds."
    )
    return {"shape": str(shape), "seconds": turns, "bytes": own}


def same_to_the_bit(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Compare arrays by their bits, but for the numbers of bytes."""
    for name in expected.keys() - set(MEMORY):
        a, b = found[name], expected[name]
        if a.shape != b.shape or a.dtype != b.dtype or a.tobytes() != b.tobytes():
            raise duel.WrongSideError(f"recompute: {name} differs from that of plain")


def truncated(options: Any, page: report.Report) -> Row:
    """Run truncated BPTT, and look at its memory on the way."""
    steps = 50_000 if options.quick else 1_000_000
    looks = [steps // 10, steps // 2, steps]
    print(f"truncated BPTT, {steps} steps", flush=True)
    task = {"steps": steps, "window": WINDOW, "looks": looks}
    before = {"before": np.zeros((3, 1, 1), np.float32)}
    with duel.workers(
        [Side("truncated", "sides.memory:truncated", cores=1)], task, before
    ) as running:
        start = time.perf_counter()
        results = running["truncated"].results()
        seconds = time.perf_counter() - start
    seen = {name: array.tolist() for name, array in results.items()}
    page.say(f"## Truncated BPTT over {steps:,} steps")
    lines = [
        [f"{at:,}", f"{loss:.4f}", f"{now / 1e6:.2f}", f"{largest / 1e6:.2f}"]
        for at, loss, now, largest in zip(
            looks, seen["loss"], seen["resident"], seen["largest"], strict=True
        )
    ]
    page.say(report.table(["steps", "loss", "resident, MB", "largest so far, MB"], lines))
    more = (seen["largest"][-1] - seen["largest"][0]) / 1e6
    page.say(
        f"Windows of {WINDOW} steps, an LSTM of 16 units, a batch of one, a step of Adam after "
        f"each window: {seconds:.1f} s. From the first look to the last the largest resident "
        f"memory of the process grew by {more:.2f} MB. The loss is the mean since the look before."
    )
    return {"steps": steps, "window": WINDOW, "looks": looks, "seconds": seconds, **seen}


def short(size: int) -> str:
    """Return a size as axes have it: thousands with a k."""
    return str(size) if size % 1000 else f"{size // 1000}k"


def draw(
    plan: Sequence[Sweep],
    measured: Sequence[Sequence[Row]],
    exponents: Sequence[Mapping[str, Mapping[str, float]]],
    page: report.Report,
) -> None:
    """Draw time and memory against each size."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(12, 7), layout="constrained")
    panels = figure.subplots(2, len(plan), sharex="col")
    for number, (sweep, rows, found) in enumerate(zip(plan, measured, exponents, strict=True)):
        top, bottom = panels[:, number]
        for side, own in found.items():
            colour, marker = LOOKS[side]
            for name, axes, unit, line in (
                ("time", top, 1e3, "-"),
                ("peak", bottom, 1e-6, "-"),
                ("tape", bottom, 1e-6, ":"),
            ):
                axes.plot(
                    sweep.sizes,
                    [unit * values(row, side)[name] for row in rows],
                    line,
                    color=colour,
                    marker=marker,
                    markersize=4,
                    label=f"{side}, {name}: exponent {own[name]:.2f}",
                )
        fixed = Shape.parse(rows[0]["shape"])._asdict()
        others = ", ".join(f"{n} = {size}" for n, size in fixed.items() if n != sweep.axis)
        top.set_title(f"against {sweep.axis}, with {others}", fontsize=10)
        bottom.set_xlabel(f"{sweep.axis}: {sweep.words}")
        for axes in (top, bottom):
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xticks(sweep.sizes, map(short, sweep.sizes))
            axes.set_xticks([], minor=True)
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("")
            axes.grid(alpha=0.3)
            legend = axes.legend(fontsize=8, frameon=False, loc="upper left")
            low, high = axes.get_ylim()  # with room for the legend
            axes.set_ylim(low, high * (high / low) ** (0.07 * len(legend.get_texts())))
            for edge in ("top", "right"):
                axes.spines[edge].set_visible(False)
    panels[0, 0].set_ylabel("ms per training step")
    panels[1, 0].set_ylabel("MB")
    figure.suptitle("A training step of an LSTM in float32, one thread")
    page.picture(figure, "growth", "Time and memory against T, m and n_a")


if __name__ == "__main__":
    main()
