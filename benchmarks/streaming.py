"""One step at a time: an LSTM on a stream, with a batch of one and the state carried on.

    python benchmarks/streaming.py [--quick] [--units 32 128]

Microseconds per step in float32, with 16 features and one thread on one core:

    seqcore-bound      `bound = layer.bind(params)`: checked once, then `bound(x, state)`
    seqcore-forward    `layer.forward` on sequences of one step, with all checks at each step
    torch-cell         torch.nn.LSTMCell, in inference mode
    torch              torch.nn.LSTM on sequences of one step, in inference mode
    onnxruntime        an ONNX LSTM whose state goes in and out, by `session.run`
    onnxruntime-bound  the same with inputs and outputs bound to memory once

The first 50 outputs of each side are compared with the textbook loops in float64, then the
sides take turns. The same 50 inputs are repeated, and belong to the side's library before time
is taken.

Needs seqcore, threadpoolctl, matplotlib, torch, onnx, onnxruntime. Half a minute; `--quick`
some seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness import options, pictures, problem
from harness.check import check
from harness.problem import Shape
from harness.processes import workers
from harness.report import Report
from harness.side import Side
from harness.tables import shortest, table, versus
from harness.turns import rounds
from sides import textbook

STEPS, FEATURES, UNITS = 50, 16, (32, 128)
OTHERS = ("torch-cell", "torch", "onnxruntime")  # ratios compare with these
SIDES = (
    Side("seqcore-bound", "sides.seqcore:stream_bound", cores=1),
    Side("seqcore-forward", "sides.seqcore:stream_forward", cores=1),
    Side("torch-cell", "sides.torch:stream_cell", cores=1),
    Side("torch", "sides.torch:stream_layer", cores=1),
    Side("onnxruntime", "sides.onnxruntime:stream_run", cores=1),
    Side("onnxruntime-bound", "sides.onnxruntime:stream_bound", cores=1),
)

Row = dict[str, Any]


def main() -> None:
    """Measure, print, write."""
    parser = options.parser(__doc__)
    parser.add_argument("--units", nargs="+", type=int, default=UNITS, help="of the LSTM")
    given = parser.parse_args()
    given.rounds = given.rounds or (2 if given.quick else 15)
    given.seconds = 0.05 if given.quick else 0.1
    page = Report("streaming", "One step at a time", given)
    page.say(
        f"Microseconds of one step of an LSTM on a stream in float32: {FEATURES} features, a "
        "batch of one, one thread, the state carried on. Times are the shortest turn, in brackets "
        "the median; ratios are those of the shortest turns, in brackets the median over the "
        "rounds. Above 1 the side is faster."
    )
    rows = [measure(n_a, given, page) for n_a in given.units]
    page.say(page_table(rows))
    draw(rows, page)
    page.save(rows)


def measure(n_a: int, given: Any, page: Report) -> Row:
    """Measure all sides with the given number of units."""
    print(f"{n_a} units", flush=True)
    arrays = problem.draw("lstm", Shape(STEPS, 1, FEATURES, n_a))
    expected = {"y": textbook.reference("lstm", arrays)["y"]}
    with workers(SIDES, {}, arrays) as running:
        page.see(running)
        errors = check(running, expected, tolerance=problem.TOLERANCE)
        turns = rounds(running, count=given.rounds, seconds=given.seconds)
    return {"units": n_a, "seconds": turns, "errors": errors}


def page_table(rows: Sequence[Row]) -> str:
    """Return the table."""
    head = ["units", "side", "µs per step", *(f"{other} / side" for other in OTHERS), "error"]
    lines = []
    for row in rows:
        turns, errors = row["seconds"], row["errors"]
        for side, own in turns.items():
            ratios = [versus(turns, other, side) for other in OTHERS]
            time = shortest(own, 1e6, ".1f")
            lines.append([str(row["units"]), side, time, *ratios, f"{errors[side]:.0e}"])
    return table(head, lines, words=2)


def draw(rows: Sequence[Row], page: Report) -> None:
    """Draw how long a step takes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    timed = [row["seconds"] for row in rows]
    series = {
        side: [1e6 * min(turns[side]) if side in turns else None for turns in timed]
        for side in pictures.present(timed)
    }
    pictures.bars(axes, [f"{row['units']} units" for row in rows], series, base=1.0)
    axes.set_ylabel("µs per step")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_title("One step of an LSTM on a stream, one thread")
    pictures.legend(figure, axes, columns=3)  # one for each library
    page.picture(figure, "streaming", "Microseconds of one step on a stream")


if __name__ == "__main__":
    main()
