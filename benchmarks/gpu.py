"""LSTMs on a GPU: training steps and inference, compared with cuDNN and the products alone.

    python benchmarks/gpu.py [--quick] [--budget 450] [--out FOLDER]

On a machine with one CUDA GPU, CuPy, PyTorch with cuDNN and, if installed, JAX with CUDA:

    seqcore-eager  a layer of seqcore on CuPy, one operation after another
    seqcore-jax    a layer of seqcore on JAX, under jit
    torch-cudnn    torch.nn.LSTM and autograd
    products       the matrix products of the step and nothing else, queued by CuPy

for n_a = 64 .. 1024, a batch m of 1 .. 256, T = 100 steps, n_x = n_a, one and two layers, in
float32, first with TF32 off for all sides, then on for all sides.

All sides are compared with the textbook loops in float64 on NumPy: at a small size over all T
steps, and at each size that is measured over its first 10 steps. Then they take turns. A time is
taken between two CUDA events around a step (for JAX by the wall clock, until the result is
ready). Tables have the median of all turns in microseconds per time step: the time of a whole
step divided by T. JAX compiles for each size, so it is measured last, as far as the time allows.

The whole run takes at most `--budget` seconds. What does not fit is left out and named.

To try the script without a GPU, `--library numpy` runs it on the CPU: NumPy in place of CuPy,
PyTorch on the CPU in place of cuDNN, the wall clock in place of events. Such a run is not a
result, and is not written into results/.

Needs seqcore, threadpoolctl, CuPy and PyTorch; JAX with CUDA and matplotlib are optional.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

from harness import gpu_page, options
from harness.gpu_cases import PRECISIONS, Budget, precision
from harness.gpu_run import CHECKED, TOLERANCES, Run
from harness.report import RESULTS, Report
from harness.side import Arrays, Side
from sides import textbook

N_A = (64, 128, 256, 512, 768, 1024)
BATCHES = (1, 16, 64, 256)
STEPS = 100
BUDGET = 450.0  # seconds
STAND_IN = "CPU stand-in, no GPU result"

FIRST = {
    "seqcore-eager": "sides.seqcore:step",
    "torch-cudnn": "sides.torch:step",
    "products": "sides.products_gpu:step",
}
LAST = {"seqcore-jax": "sides.jax:step"}  # compiles for minutes


def main() -> None:
    """Measure, print, write."""
    given = arguments()
    page = Report(given.name, given.title, given)
    page.say(introduction(given))
    run = Run(given, Budget(given.budget), page, reference)
    for builds in (FIRST, LAST):
        run.measure(partial(sides, builds))
    publish(run)
    if run.wrong:
        raise SystemExit("a side was wrong, see above")
    if not any("seqcore-eager" in row["seconds"] for row in run.rows.values()):
        raise SystemExit("seqcore was not measured, see above")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = options.parser(__doc__)
    parser.add_argument(
        "--library",
        choices=("cupy", "numpy"),
        default="cupy",
        help="numpy: try the script on the CPU, without a GPU",
    )
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds of the whole run")
    given = parser.parse_args()
    given.gpu = given.library == "cupy"
    given.name, given.title, given.steps = "gpu", "LSTMs on a GPU", STEPS
    if not given.gpu:
        if not given.quick:
            parser.error("--library numpy: is a trial, expected --quick beside it")
        given.name, given.title, given.steps = "gpu-stand-in", STAND_IN, 2 * CHECKED
        given.out = given.out or Path(tempfile.mkdtemp(prefix="gpu-stand-in-"))
        folder = given.out.resolve()
        if RESULTS in (folder, *folder.parents):
            parser.error("--out: a run on the CPU is not a result, expected another folder")
    given.n_a, given.batches = ((64, 128), (1, 16)) if given.quick else (N_A, BATCHES)
    return given


def introduction(given: argparse.Namespace) -> str:
    """Return the first paragraph of the page."""
    said = (
        f"Microseconds per time step of an LSTM in float32 with T = {given.steps} and n_x = n_a: "
        "the median time of a training step (forward, backward through time, gradients of x and "
        "of all weights) or of inference (forward), divided by T. TF32 is off for all sides or on "
        "for all sides, as each table says. A time is taken between two CUDA events, for JAX until "
        "the result is ready. `products` is the matrix products alone, queued one by one. All "
        f"sides were compared with float64: allowed {TOLERANCES[False]:.0e} of the largest value "
        f"with TF32 off, {TOLERANCES[True]:.0e} with TF32 on."
    )
    if given.gpu:
        return said
    return (
        f"**{STAND_IN}.** NumPy stands for CuPy, PyTorch on the CPU for cuDNN, the wall clock for "
        f"CUDA events, and TF32 does not exist here: on and off are the same. {said}"
    )


def sides(builds: dict[str, str], tf32: bool) -> list[Side]:
    """Return sides in one precision."""
    env = {
        "CUPY_TF32": str(int(tf32)),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # all sides share the memory of one GPU
    }
    task = {"tf32": tf32, "threads": 1}
    return [Side(name, build, env=env, task=task) for name, build in builds.items()]


def reference(arrays: Arrays, layers: int) -> Arrays:
    """Return y, dx and all gradients in float64."""
    return textbook.reference("lstm", arrays, layers)


def publish(run: Run) -> None:
    """Write tables, the picture, what was left out and why, and the facts."""
    page, given = run.page, run.given
    told = "" if given.gpu else f" ({STAND_IN})"
    facts = gpu_page.device(run.rows.values()) if given.gpu else {"device": STAND_IN}
    page.facts["device"] = facts
    page.say("; ".join(f"{name}: {value}" for name, value in facts.items()) + ".")
    for tf32 in PRECISIONS:
        for do in ("training", "inference"):
            own = {case: row for case, row in run.rows.items() if case[3:] == (tf32, do)}
            if any(row["seconds"] for row in own.values()):
                page.say(f"## {do.capitalize()}, float32, {precision(tf32)}{told}")
                page.say(gpu_page.case_table(own, given.steps))
    title = f"LSTM training step in float32, TF32 off{told}"
    gpu_page.draw(run.rows, given.steps, page, title)
    left = gpu_page.left_out(run.missing, run.late, given.budget)
    if left:
        page.say("\n\n".join(left))
    if run.wrong:
        page.say("Not measured, because a side was wrong: " + "; ".join(run.wrong) + ".")
    page.save([{**case._asdict(), **row} for case, row in run.rows.items()])


if __name__ == "__main__":
    main()
