"""Cold starts: an import, and a prediction of a saved model, each in a fresh process.

    python benchmarks/cold_start.py [--quick] [--rounds 10]

Each program is timed from the outside, from the start of `python -c ...` to its end, together
with its largest resident memory:

    imports      bare Python, NumPy, seqcore, onnxruntime, torch
    predictions  the same model, an LSTM of 128 units on 16 features with a Dense layer, read
                 from disk and run on 20 steps: seqcore from a checkpoint (safetensors),
                 onnxruntime from an ONNX file, torch from a state dict

The programs are written as a user writes them, see sides/programs.py, and take turns. The first
round is not counted. Every prediction is compared with the textbook loops in float64. Each
library chooses its own number of threads.

The installed size is that of a distribution and of everything that it requires, without extras
and without compiled caches, which not all installers write.

Needs seqcore, threadpoolctl, matplotlib with packaging; torch, onnx and onnxruntime if they are
to be compared; POSIX. A minute; `--quick` some seconds.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from harness import fresh, installed, options, pictures, problem
from harness.check import largest_error
from harness.fresh import Ran, fastest, megabytes
from harness.report import Report
from harness.side import Array
from harness.tables import table
from sides.programs import IMPORTS, PREDICTIONS, save_models

import seqcore as sc

Runs = Mapping[str, Sequence[Ran]]


def main() -> None:
    """Measure, print, write."""
    given = options.parser(__doc__).parse_args()
    page = Report("cold_start", "Cold starts", given)
    page.say(
        "Processes from their start to their end, seen from the outside: seconds, the shortest "
        "and in brackets the median, and the median of the largest resident memory, in MB of 10^6 "
        "bytes. `beyond` is the difference from bare Python, `times` the ratio to seqcore."
    )
    names = ("numpy", "safetensors", "torch", "onnx", "onnxruntime")
    page.facts["versions"] |= installed.versions(names)
    there = {"python", *page.facts["versions"]}
    count = given.rounds or (2 if given.quick else 10)
    measured: dict[str, dict[str, list[Ran]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        expected = save_models(folder, there)
        for what, programs in (("imports", IMPORTS), ("predictions", PREDICTIONS)):
            print(what, flush=True)
            own = {side: code for side, code in programs.items() if side in there}
            measured[what] = fresh.rounds(own, folder, count, Path(sc.__file__).parents[1])
    errors = check(measured["predictions"], expected)
    bare = measured["imports"]["python"]
    page.say("## Imports")
    page.say(run_table(measured["imports"], bare))
    page.say("## To the first prediction of a saved model")
    page.say(run_table(measured["predictions"], bare))
    worst = ", ".join(f"{side} {error:.0e}" for side, error in errors.items())
    page.say(f"Largest errors of the predictions, relative to the loops in float64: {worst}.")
    page.say("## Installed size")
    compared = ("numpy", "seqcore", "torch", "onnxruntime")
    sizes = {side: installed.sizes(side) for side in compared if side in there}
    page.say(installed.size_table(sizes))
    draw(measured, sizes, page)
    page.say("## Programs")
    for side in measured["predictions"]:
        page.say(f"{side}:\n\n```python\n{PREDICTIONS[side].strip()}\n```")
    record = {
        what: {side: [ran._asdict() for ran in runs] for side, runs in sides.items()}
        for what, sides in measured.items()
    }
    page.save({**record, "errors": errors, "installed": sizes})


def check(runs: Runs, expected: Array) -> dict[str, float | None]:
    """Compare all predictions with the reference; return the error of each side."""
    errors = {}
    for side, own in runs.items():
        for ran in own:
            found = {"y": np.asarray([float(value) for value in ran.printed.split()])}
            errors[side] = largest_error(side, found, {"y": expected}, problem.TOLERANCE)
    return errors


def run_table(runs: Runs, bare: Sequence[Ran]) -> str:
    """Return the table of imports or of predictions."""
    base = runs["seqcore"]
    lines = [
        [
            side,
            f"{fastest(own):.3f} ({statistics.median(ran.seconds for ran in own):.3f})",
            f"{fastest(own) - fastest(bare):.3f}",
            f"{fastest(own) / fastest(base):.2f}",
            f"{megabytes(own):.1f}",
            f"{megabytes(own) - megabytes(bare):.1f}",
            f"{megabytes(own) / megabytes(base):.2f}",
        ]
        for side, own in runs.items()
    ]
    return table(["side", "s", "beyond", "times", "MB", "beyond", "times"], lines)


def draw(measured: Mapping[str, Runs], sizes: installed.Sizes, page: Report) -> None:
    """Draw times, memory and sizes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(5, 5, 3))
    names = list(measured["predictions"])
    for axes, value, base, unit in (
        (left, fastest, 0.01, "seconds"),
        (middle, megabytes, 1.0, "MB resident"),
    ):
        series = {name: [value(own[name]) for own in measured.values()] for name in names}
        pictures.bars(axes, ["import", "first prediction"], series, base=base)
        for name, label, line in (("python", "bare Python", ":"), ("numpy", "import numpy", "--")):
            at = value(measured["imports"][name])
            axes.axhline(at, color=pictures.COLOURS[name], linestyle=line, label=label)
        axes.set_ylabel(unit)
    totals = {name: [sum(sizes[name].values()) / 1e6] for name in names}
    pictures.bars(right, ["installed"], totals, base=1.0)
    right.axhline(sum(sizes["numpy"].values()) / 1e6, color="black", linestyle="--")
    right.set_ylabel("MB on disk")
    for axes in (left, middle, right):
        axes.yaxis.set_major_formatter("{x:g}")
    pictures.legend(figure, left)
    figure.suptitle("Cold starts: whole processes, and what is installed")
    page.picture(figure, "cold_start", "Time, memory and size of cold starts")


if __name__ == "__main__":
    main()
