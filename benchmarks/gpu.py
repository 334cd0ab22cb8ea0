"""LSTMs on a GPU: training steps and inference, beside cuDNN and the products alone.

    python benchmarks/gpu.py [--quick] [--budget 450] [--out FOLDER]

On a machine with one CUDA GPU, CuPy, PyTorch with cuDNN and, if there, JAX with CUDA:

    seqcore-eager  our layer on CuPy, each operation as it comes
    seqcore-jax    our layer on JAX, under jit
    torch-cudnn    torch.nn.LSTM and autograd
    products       the matrix products of the step and nothing else, queued by CuPy

for n_a = 64 .. 1024, a batch m of 1 .. 256, T = 100 steps, n_x = n_a, one and two layers, in
float32, with TF32 off on all sides, then on on all sides.

First all sides are compared with textbook loops in float64 on NumPy: at small sizes over all
T steps, and at each size that is measured over its first 10 steps. Then they take turns. A
time is that between two CUDA events around a step (JAX: the wall clock, until it is ready), a
number the median of all turns, in microseconds per time step: that of a whole step divided
by T. JAX compiles for each size, so it comes last, as far as the time reaches.

The whole run keeps to its budget of seconds: what does not fit is left out, and said.

Where there is no GPU, `--library numpy` lets a CPU stand in, to try the script out: NumPy in
place of CuPy, PyTorch on the CPU in place of cuDNN, the wall clock in place of events. That is
no result and never goes into results/.

Needs seqcore, threadpoolctl, CuPy and PyTorch; JAX with CUDA and matplotlib are optional.
"""

from __future__ import annotations

import math
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from harness import duel, problem, report
from harness.duel import Side
from harness.problem import Shape
from sides.textbook import Step

N_A = (64, 128, 256, 512, 768, 1024)
BATCHES = (1, 16, 64, 256)
STEPS, CHECKED = 100, 10  # CHECKED divides STEPS
SMALL = Shape(100, 7, 5, 6)
DOINGS = ("training", "inference")
BUDGET = 450.0  # seconds
RESERVE = 15.0  # of them, for pictures and pages

# Largest difference from float64, over the largest value of an array. TF32 keeps 11 of the 24
# bits of a factor: 5e-4 each, not measured yet in a whole sequence.
TOLERANCES = {False: problem.TOLERANCE, True: 2e-2}

PRECISIONS = (False, True)  # TF32

# JAX, which compiles for minutes, is measured after the others.
FIRST = ("seqcore-eager", "torch-cudnn", "products")
LAST = ("seqcore-jax",)
ORDER = ("seqcore-eager", "seqcore-jax", "torch-cudnn", "products")
STAND_IN = "CPU stand-in, no GPU result"
ROUNDS, TURN = 3, 0.06  # turns of a side, seconds of a turn

Arrays = problem.Arrays
Row = dict[str, Any]


class Case(NamedTuple):
    """What one line of a table is of."""

    layers: int
    n_a: int
    m: int
    tf32: bool
    do: str

    def __str__(self) -> str:
        """In words."""
        return f"{self.layers} x {self.n_a}, m {self.m}, {self.do}, TF32 {words(self.tf32)}"


class Budget:
    """The seconds that are left."""

    def __init__(self, seconds: float) -> None:
        """Start the clock."""
        self.until = time.perf_counter() + seconds - RESERVE
        self.longest = 0.0  # of the cases so far

    def allows(self) -> bool:
        """Tell whether there is time for one more case."""
        return self.until - time.perf_counter() > 1.5 * self.longest

    @contextmanager
    def spent(self) -> Iterator[None]:
        """Note how long a case takes."""
        began = time.perf_counter()
        yield
        self.longest = max(self.longest, time.perf_counter() - began)


@dataclass
class Run:
    """One run of this script: what is asked for, and what is found."""

    options: Any
    budget: Budget
    page: report.Report
    rows: dict[Case, Row] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)  # why a side is left out
    wrong: list[str] = field(default_factory=list)
    late: dict[str, list[Case]] = field(default_factory=dict)  # by side, no time was left

    def measure(self, names: Sequence[str]) -> None:
        """Measure some sides in all cases, as far as the budget reaches."""
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            running = self.start(stack, names, folder)
            listed = cases(self.options)
            for _, own in groupby(listed, key=lambda case: case[:3]):
                group = list(own)
                if running and self.budget.allows():
                    with self.budget.spent():
                        self.group(group, running, folder)
                else:
                    for name in sorted({name for name, _ in running}):
                        self.late.setdefault(name, []).extend(group)

    def start(
        self, stack: ExitStack, names: Sequence[str], folder: Path
    ) -> dict[tuple[str, bool], duel.Worker]:
        """Start the processes, one for each side and precision, and check them at small sizes."""
        arrays, path = draw(SMALL, 2), folder / "small.npz"
        np.savez(path, **arrays)
        expected = reference(arrays, 2)
        task = {"library": self.options.library, "layers": 2, "do": "training", "repeat": 1}
        running: dict[tuple[str, bool], duel.Worker] = {}
        for tf32 in PRECISIONS:
            for side in sides(names, tf32=tf32):
                if side.name in self.missing:  # with the other precision
                    continue
                print(f"starting {side.name}, TF32 {words(tf32)}", flush=True)
                try:
                    worker = duel.Worker(side, task, path)
                    stack.callback(worker.close)
                    if worker.missing is not None:
                        self.missing[side.name] = worker.missing
                        continue
                    self.page.see({side.name: worker})
                    error = duel.largest_error(
                        side.name, worker.results(), expected, TOLERANCES[tf32]
                    )
                except duel.WrongSideError as error:
                    self.wrong.append(f"{SMALL} in 2 layers, TF32 {words(tf32)}: {error}")
                except (RuntimeError, OSError) as error:
                    self.missing[side.name] = str(error)
                else:
                    running[side.name, tf32] = worker
                    if error is not None:
                        print(f"  right at {SMALL} in 2 layers: {error:.1e}", flush=True)
        return running

    def group(
        self, group: Sequence[Case], running: dict[tuple[str, bool], duel.Worker], folder: Path
    ) -> None:
        """Check and time the cases of one size, which share their inputs."""
        layers, n_a, m = group[0][:3]
        arrays, path = draw(Shape(CHECKED, m, n_a, n_a), layers), folder / "inputs.npz"
        np.savez(path, **arrays)
        expected = reference(arrays, layers)
        for case in group:
            row = self.rows.setdefault(case, {"seconds": {}, "errors": {}, "notes": {}})
            wanted = expected if case.do == "training" else {"y": expected["y"]}
            able: dict[str, duel.Worker] = {}
            for key in [key for key in running if key[1] is case.tf32]:
                name = key[0]
                if self.works(name, running[key], case, wanted, path, row):
                    able[name] = running[key]
                elif name in self.missing:
                    del running[key]
            row["seconds"] |= self.turns(able)
            print(f"{case}: {line(row, self.options.steps)}", flush=True)

    def works(
        self, name: str, worker: duel.Worker, case: Case, wanted: Arrays, path: Path, row: Row
    ) -> bool:
        """Check a side, and make it ready to be timed."""
        task = {"library": self.options.library, "layers": case.layers, "do": case.do}
        try:
            worker.build({**task, "repeat": 1}, path)
            row["errors"][name] = duel.largest_error(
                name, worker.results(), wanted, TOLERANCES[case.tf32]
            )
            worker.build({**task, "repeat": self.options.steps // CHECKED}, path)
            worker.times(2)  # compiles, and fills the pools
        except duel.WrongSideError as error:
            self.wrong.append(f"{case}: {error}")
            return False
        except (RuntimeError, OSError) as error:  # its process ended, out of memory perhaps
            self.missing[name] = f"from {case} on: {error}"
            return False
        row["notes"][name] = worker.hello["notes"]
        return True

    def turns(self, able: Mapping[str, duel.Worker]) -> dict[str, list[float]]:
        """Let the sides take turns; return the seconds of every step."""
        turns: dict[str, list[float]] = {name: [] for name in able}
        counts = {
            name: min(20, max(2, math.ceil(TURN / worker.times(1)[0])))
            for name, worker in able.items()
        }
        for _ in range(ROUNDS):
            for name, worker in able.items():
                turns[name] += worker.times(counts[name])
        return turns


def main() -> None:
    """Measure, print, write."""
    options = arguments()
    run = Run(options, Budget(options.budget), report.Report(options.name, options.title, options))
    run.page.say(introduction(options))
    for names in (FIRST, LAST):
        run.measure(names)
    publish(run)
    if run.wrong:
        raise SystemExit("a side was wrong, see above")
    if not any("seqcore-eager" in row["seconds"] for row in run.rows.values()):
        raise SystemExit("seqcore was not measured, see above")


def arguments() -> Any:
    """Read the command line."""
    parser = report.parser(__doc__)
    parser.add_argument(
        "--library",
        choices=("cupy", "numpy"),
        default="cupy",
        help="numpy: a CPU stands in for the GPU, to try the script out",
    )
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds of the whole run")
    options = parser.parse_args()
    options.name, options.title = "gpu", "LSTMs on a GPU"
    options.steps = STEPS
    if options.library == "numpy":
        if not options.quick:
            parser.error("--library numpy: is a trial, expected --quick beside it")
        options.name, options.title = "gpu-stand-in", STAND_IN
        options.steps = 2 * CHECKED
        options.out = options.out or Path(tempfile.mkdtemp(prefix="gpu-stand-in-"))
        folder = options.out.resolve()
        if report.HERE / "results" in (folder, *folder.parents):
            parser.error("--out: where a CPU stands in there are no results, name another folder")
    options.n_a, options.batches = ((64, 128), (1, 16)) if options.quick else (N_A, BATCHES)
    return options


def introduction(options: Any) -> str:
    """Return what the page says first."""
    said = (
        f"Microseconds per time step of an LSTM in float32 with T = {options.steps} and n_x = n_a: "
        "the median time of a training step (forward, back through time, gradients of x and of "
        "all weights) or of inference (forward), divided by T. TF32 is off on all sides, or on on "
        "all, as each table says. A time is that between two CUDA events, of JAX that until it is "
        "ready. `products` is the matrix products alone, queued one by one. "
        f"Before, all were compared with float64: allowed {TOLERANCES[False]:.0e} of the largest "
        f"value with TF32 off, {TOLERANCES[True]:.0e} with it on."
    )
    if options.library == "numpy":
        return (
            f"**{STAND_IN}.** NumPy stands for CuPy, PyTorch on the CPU for cuDNN, the wall clock "
            f"for CUDA's events, and TF32 does not exist here: on and off are the same. {said}"
        )
    return said


def sides(names: Sequence[str], *, tf32: bool) -> list[Side]:
    """Return the sides of those names, with what is common to a process."""
    env = {
        "CUPY_TF32": str(int(tf32)),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # all sides share the memory of one GPU
    }
    return [
        Side(name, f"sides.gpu:{name.replace('-', '_')}", env=env, task={"tf32": tf32})
        for name in names
    ]


def cases(options: Any) -> list[Case]:
    """Return all cases, one layer before two, those of one size together."""
    return [
        Case(layers, n_a, m, tf32, do)
        for layers in (1, 2)
        for n_a in options.n_a
        for m in options.batches
        for tf32 in PRECISIONS
        for do in DOINGS
    ]


def draw(shape: Shape, layers: int) -> Arrays:
    """Draw x, dy and the parameters of all layers, the same ones for every side."""
    arrays = problem.draw("lstm", shape)
    above = problem.draw("lstm", shape._replace(n_x=shape.n_a), seed=1)
    for name in ("W_x", "W_h", "b") if layers == 2 else ():
        arrays[f"1.{name}"] = above[f"0.{name}"]
    return arrays


def reference(arrays: Arrays, layers: int) -> Arrays:
    """Return y, dx and all gradients from the textbook loops in float64."""
    double = {name: array.astype(np.float64) for name, array in arrays.items()}
    first = Step("lstm", double)
    if layers == 1:
        return first.results(first.run())
    a, caches = first.forward(first.x, first.parameters)
    above = {f"0.{name}": double[f"1.{name}"] for name in ("W_x", "W_h", "b")}
    second = Step("lstm", {**above, "x": a, "dy": double["dy"]})
    found = second.results(second.run())
    back = first.backward(found["dx"], first.x, caches, first.parameters)
    below = first.results({"y": a, **back})
    upper = {f"1.{name}": found[f"0.{name}"] for name in ("W_x", "W_h", "b")}
    return {**below, "y": found["y"], **upper}


# --- what is written --------------------------------------------------------------------


def publish(run: Run) -> None:
    """Write tables, pictures, what was left out and why, and the facts."""
    page, rows = run.page, run.rows
    page.facts["device"] = device(run)
    page.say(facts(page.facts["device"]))
    for tf32 in PRECISIONS:
        for do in DOINGS:
            own = {c: row for c, row in rows.items() if (c.tf32, c.do) == (tf32, do)}
            if any(row["seconds"] for row in own.values()):
                tables(run, own, f"{do.capitalize()}, float32, TF32 {words(tf32)}")
    picture(run)
    left = [f"{name} is left out: {why}." for name, why in run.missing.items()]
    for name, late in run.late.items():
        sizes = dict.fromkeys(f"{case.layers} x {case.n_a}, m {case.m}" for case in late)
        said = f"{name} is left out, as the {run.options.budget:.0f} s were used up, at"
        left.append(f"{said} {'; '.join(sizes)}.")
    if left:
        page.say("\n\n".join(left))
    if run.wrong:
        page.say("Not measured, since a side was wrong: " + "; ".join(run.wrong) + ".")
    page.save([{**case._asdict(), **row} for case, row in rows.items()])


def tables(run: Run, rows: Mapping[Case, Row], title: str) -> None:
    """Write times and ratios of one precision and doing."""
    told = f" ({STAND_IN})" if run.options.library == "numpy" else ""
    run.page.say(f"## {title}{told}")
    names = [name for name in ORDER if any(name in row["seconds"] for row in rows.values())]
    head = ["layers x n_a", "batch m", *(f"{name}, us" for name in names)]
    below = [name for name in ("torch-cudnn", "products") if name in names]
    head += [f"{name} / {other}" for other in below for name in names if name not in below]
    lines = []
    for case, row in rows.items():
        if not row["seconds"]:
            continue
        times = {name: microseconds(row, name, run.options.steps) for name in names}
        cells = [number(times[name]) for name in names]
        for other in below:
            cells += [
                number(ratio(times[name], times[other])) for name in names if name not in below
            ]
        lines.append([f"{case.layers} x {case.n_a}", str(case.m), *cells])
    run.page.say(report.table(head, lines))


def microseconds(row: Row, name: str, n_steps: int) -> float | None:
    """Return the median time of a step of time, None where the side has none."""
    seconds = row["seconds"].get(name)
    return 1e6 * statistics.median(seconds) / n_steps if seconds else None


def ratio(above: float | None, below: float | None) -> float | None:
    """Return a ratio of times, None where one is missing."""
    return above / below if above and below else None


def number(value: float | None) -> str:
    """Return a number as tables have it."""
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def line(row: Row, n_steps: int) -> str:
    """Return what is printed of a case while the run goes on."""
    found = {name: microseconds(row, name, n_steps) for name in row["seconds"]}
    return ", ".join(f"{name} {number(value)} us" for name, value in found.items()) or "nothing"


def picture(run: Run) -> None:
    """Draw the time of a training step with TF32 off beside cuDNN's, size by size."""
    rows = {c: row for c, row in run.rows.items() if not c.tf32 and c.do == "training"}
    rows = {c: row for c, row in rows.items() if "torch-cudnn" in row["seconds"]}
    names = report.present([row["seconds"] for row in rows.values()])
    if len(names) < 2:
        return
    try:
        from matplotlib.figure import Figure
    except ImportError:
        run.page.say("No picture was drawn: matplotlib is not here.")
        return

    layers = sorted({case.layers for case in rows})
    figure = Figure(figsize=(14, 0.8 + 3.4 * len(layers)), layout="constrained")
    panels = figure.subplots(len(layers), squeeze=False)[:, 0]
    for axes, count in zip(panels, layers, strict=True):
        own = {c: row for c, row in rows.items() if c.layers == count}
        series = {
            name: [microseconds(row, name, run.options.steps) for row in own.values()]
            for name in names
        }
        least = min(value for values in series.values() for value in values if value)
        base = 10.0 ** math.floor(math.log10(least))
        report.bars(axes, [f"{c.n_a}\nm {c.m}" for c in own], series, base=base)
        axes.set_title(f"{count} layer{'s' if count > 1 else ''}", loc="left")
        axes.set_ylabel("us per time step")
    panels[-1].set_xlabel("units and batch")
    report.legend(figure, panels[-1])
    told = f": {STAND_IN}" if run.options.library == "numpy" else ""
    figure.suptitle(f"LSTM training step in float32, TF32 off{told}")
    run.page.picture(figure, run.options.name, "LSTM training step, microseconds per time step")


def device(run: Run) -> dict[str, Any]:
    """Return the facts of the device, of the driver and of CUDA."""
    found: dict[str, Any] = {}
    if run.options.library == "numpy":
        return {"device": STAND_IN}
    for row in run.rows.values():
        for notes in row["notes"].values():
            found |= notes
    query = "name,driver_version,memory.total,clocks.max.sm,power.limit"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
        found[f"nvidia-smi ({query})"] = said.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        found["nvidia-smi"] = "does not answer"
    return found


def facts(found: Mapping[str, Any]) -> str:
    """Return the facts of the device in words."""
    return "; ".join(f"{name}: {value}" for name, value in found.items()) + "."


def words(tf32: bool) -> str:
    """Return on or off."""
    return "on" if tf32 else "off"


if __name__ == "__main__":
    main()
