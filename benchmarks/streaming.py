"""One step at a time: an LSTM on a stream, a batch of one, the state carried on.

    python benchmarks/streaming.py [--quick] [--units 32 128]

Microseconds a step in float32, with 16 features and one thread on one core:

    seqcore-bound      `step = layer.bind(params)`: checked once, then `y, state = step(x, state)`
    seqcore-forward    `layer.forward` on sequences of one step, with all its checks at each
    torch-cell         torch.nn.LSTMCell, in inference mode
    torch              torch.nn.LSTM on sequences of one step, in inference mode
    onnxruntime        an ONNX LSTM, its state going in and out, by `session.run`
    onnxruntime-bound  the same, with inputs and outputs bound to memory once

How sides are timed is in duel.py: the outputs of the first 50 steps of each are compared with
the textbook loops in float64, then they take turns. Their x go round, and are of the
library's own kind before time is taken.

Needs seqcore, threadpoolctl, matplotlib, torch, onnx, onnxruntime. Half a minute, `--quick`
some seconds.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from harness import duel, problem, report
from harness.duel import Side
from harness.problem import Shape
from sides import streams

STEPS, FEATURES, UNITS = 50, 16, (32, 128)
OTHERS = ("torch-cell", "torch", "onnxruntime")  # beside which ratios are given

Row = dict[str, Any]


def main() -> None:
    """Measure, print, write."""
    parser = report.parser(__doc__)
    parser.add_argument("--units", nargs="+", type=int, default=UNITS, help="of the LSTM")
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 15)
    options.seconds = 0.05 if options.quick else 0.1
    page = report.Report("streaming", "One step at a time", options)
    page.say(
        f"Microseconds of one step of an LSTM on a stream in float32: {FEATURES} features, a "
        "batch of one, one thread, the state carried on. Times are the shortest turn of each, in "
        "brackets the median one; ratios are those of the shortest turns, in brackets the median "
        "over the rounds, and above 1 the side is the faster one."
    )
    rows = [measure(n_a, options, page) for n_a in options.units]
    page.say(table(rows))
    draw(rows, page)
    page.save(rows)


def measure(n_a: int, options: Any, page: report.Report) -> Row:
    """Measure all sides with so many units."""
    print(f"{n_a} units", flush=True)
    arrays = problem.draw("lstm", Shape(STEPS, 1, FEATURES, n_a))
    expected = {"y": problem.reference("lstm", arrays)["y"]}
    sides = [
        Side(name, "sides.streams:build", cores=1, task={"side": name}) for name in streams.BUILDERS
    ]
    with duel.workers(sides, {}, arrays) as running:
        page.see(running)
        errors = duel.check(running, expected, tolerance=problem.TOLERANCE)
        turns = duel.rounds(running, count=options.rounds, seconds=options.seconds)
    return {"units": n_a, "seconds": turns, "errors": errors}


def table(rows: Sequence[Row]) -> str:
    """Return the table."""
    head = ["units", "side", "µs per step", *(f"{other} / side" for other in OTHERS), "error"]
    lines = []
    for row in rows:
        turns = row["seconds"]
        lines += [
            [
                str(row["units"]),
                side,
                f"{1e6 * min(own):.1f} ({1e6 * statistics.median(own):.1f})",
                *(versus(turns, other, side) for other in OTHERS),
                f"{row['errors'][side]:.0e}",
            ]
            for side, own in turns.items()
        ]
    return report.table(head, lines, words=2)


def versus(turns: Mapping[str, Sequence[float]], other: str, side: str) -> str:
    """Return the time of another side over that of this one, as text."""
    if other not in turns or other == side:
        return ""
    best, median = duel.ratio(turns, other, side)
    return f"{best:.2f} ({median:.2f})"


def draw(rows: Sequence[Row], page: report.Report) -> None:
    """Draw how long a step takes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    series = {
        side: [1e6 * min(row["seconds"][side]) if side in row["seconds"] else None for row in rows]
        for side in streams.BUILDERS
        if any(side in row["seconds"] for row in rows)
    }
    report.bars(axes, [f"{row['units']} units" for row in rows], series, base=1.0)
    axes.set_ylabel("µs per step")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_title("One step of an LSTM on a stream, one thread")
    report.legend(figure, axes, columns=3)  # one for each library
    page.picture(figure, "streaming", "Microseconds of one step on a stream")


if __name__ == "__main__":
    main()
