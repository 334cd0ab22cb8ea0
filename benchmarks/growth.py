"""Growth: time and memory of a training step against T, m and n_a, and over a million steps.

    python benchmarks/growth.py [--quick] [--rounds 3]

An LSTM of seqcore in float32 on one thread and one core:

    growth     a training step against the time steps T, plain and with `recompute=True`,
               against the batch m and against the units n_a, with exponents fitted to the
               upper half of the points
    recompute  a step on a long sequence compared with the plain one: y, dx, gradients and
               states must be the same to the bit
    truncated  truncated BPTT over a million steps, in windows of 100 drawn one by one

Each point is a process of its own, and all points of a table take turns. A peak is the largest
sum of all arrays and objects at one time, beyond the inputs; `process` is the largest resident
memory of the whole process.

Needs seqcore, threadpoolctl, matplotlib; POSIX. Less than four minutes; `--quick` less than one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from harness import options, problem, sweep, sweep_picture
from harness.check import WrongSideError
from harness.problem import Shape
from harness.processes import workers
from harness.report import Report
from harness.side import Side
from harness.sweep import MEMORY, Row, Sweep
from harness.tables import shortest, table, versus
from harness.turns import rounds

STEP = "sides.seqcore_memory:step"
PLAIN = Side("plain", STEP, cores=1, task={"recompute": False})
RECOMPUTE = Side("recompute", STEP, cores=1, task={"recompute": True})
TRUNCATED = Side("truncated", "sides.seqcore_memory:truncated", cores=1)
WINDOW = 100


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
    given = options.parser(__doc__).parse_args()
    given.rounds = given.rounds or (2 if given.quick else 3)
    given.seconds = 0.05 if given.quick else 0.2
    page = Report("growth", "Growth", given)
    page.say(
        "A training step of an LSTM in float32 on one thread: forward, backward through time, "
        "gradients of x and of all weights. Shapes are T/m/n_x/n_a: time steps, batch, features, "
        "units. Times are the shortest turn, in brackets the median. `peak` is the largest sum of "
        "all arrays and objects at one time, beyond the inputs; `tape` is what the forward pass "
        "keeps for the backward pass, without x and the parameters; `process` is the largest "
        "resident memory of the whole process. MB are 10^6 bytes."
    )
    plan = sweeps(quick=given.quick)
    measured = []
    for one in plan:
        rows = sweep.measure(one, given.rounds, given.seconds, page)
        page.say(f"## Against {one.axis}: {one.words}")
        page.say(sweep.point_table(rows))
        measured.append(rows)
    fitted = [sweep.exponents(one, rows) for one, rows in zip(plan, measured, strict=True)]
    page.say("## Exponents")
    page.say(sweep.exponent_table(plan, fitted))
    sweep_picture.draw(plan, measured, fitted, page)
    record = {
        "growth": {one.axis: rows for one, rows in zip(plan, measured, strict=True)},
        "exponents": {one.axis: found for one, found in zip(plan, fitted, strict=True)},
        "recompute": recompute(given, page),
        "truncated": truncated(given, page),
    }
    page.save(record)


def recompute(given: Any, page: Report) -> Row:
    """Measure a long sequence with and without `recompute`, and compare the results."""
    shape = Shape(2000 if given.quick else 10_000, 32, 32, 64)
    print(f"{shape}, recompute", flush=True)
    arrays = problem.draw("lstm", shape)
    with workers((PLAIN, RECOMPUTE), {"gradients": True}, arrays) as running:
        results = {name: worker.results() for name, worker in running.items()}
        same_to_the_bit(results["recompute"], results["plain"])
        turns = rounds(running, count=given.rounds + 2, seconds=given.seconds)
    sizes = {name: sweep.counts(result) for name, result in results.items()}
    lines = [
        [side, shortest(own, form=".4g"), *sweep.megabytes(sizes[side])]
        for side, own in turns.items()
    ]
    parts = [f"{sizes['recompute'][name] / sizes['plain'][name]:.4f}" for name in MEMORY]
    lines.append(["ratio", versus(turns, "recompute", "plain"), *parts])
    page.say(f"## Recompute, {shape}")
    page.say(table(["side", "ms", "peak, MB", "tape, MB", "process, MB"], lines))
    page.say(
        "y, dx, the gradients of all weights and of the first state are the same to the bit. The "
        "ratio of the times is that of the shortest turns, in brackets the median over the rounds."
    )
    return {"shape": str(shape), "seconds": turns, "bytes": sizes}


def same_to_the_bit(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Compare the bits of all results but the numbers of bytes."""
    for name in expected.keys() - set(MEMORY):
        a, b = found[name], expected[name]
        if a.shape != b.shape or a.dtype != b.dtype or a.tobytes() != b.tobytes():
            raise WrongSideError(f"recompute: {name} differs from plain")


def truncated(given: Any, page: Report) -> Row:
    """Run truncated BPTT, and look at its memory on the way."""
    steps = 50_000 if given.quick else 1_000_000
    looks = [steps // 10, steps // 2, steps]
    print(f"truncated BPTT, {steps} steps", flush=True)
    task = {"steps": steps, "window": WINDOW, "looks": looks}
    with workers([TRUNCATED], task, {"before": np.zeros((3, 1, 1), np.float32)}) as running:
        start = time.perf_counter()
        results = running["truncated"].results()
        seconds = time.perf_counter() - start
    seen = {name: array.tolist() for name, array in results.items()}
    page.say(f"## Truncated BPTT over {steps:,} steps")
    columns = (looks, seen["loss"], seen["resident"], seen["largest"])
    lines = [
        [f"{at:,}", f"{loss:.4f}", f"{now / 1e6:.2f}", f"{largest / 1e6:.2f}"]
        for at, loss, now, largest in zip(*columns, strict=True)
    ]
    page.say(table(["steps", "loss", "resident, MB", "largest so far, MB"], lines))
    more = (seen["largest"][-1] - seen["largest"][0]) / 1e6
    page.say(
        f"Windows of {WINDOW} steps, an LSTM of 16 units, a batch of one, a step of Adam after "
        f"each window: {seconds:.1f} s. From the first look to the last the largest resident "
        f"memory of the process grew by {more:.2f} MB. The loss is the mean since the look before."
    )
    return {"steps": steps, "window": WINDOW, "looks": looks, "seconds": seconds, **seen}


if __name__ == "__main__":
    main()
