"""A run on a GPU: every side in every case, as far as the budget of time reaches.

The sides keep their processes for the whole run, one for each precision, and build new work for
each case. First they are checked at a small size over all time steps, then at each size that is
measured over its first time steps.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np

from harness import problem
from harness.check import WrongSideError, largest_error
from harness.gpu_cases import PRECISIONS, Budget, Case, cases, precision
from harness.gpu_page import Row, in_words
from harness.problem import Shape
from harness.processes import Worker
from harness.report import Report
from harness.side import Arrays, Side

CHECKED = 10  # time steps that are compared with the reference; divides those that are timed
SMALL = Shape(100, 7, 5, 6)
ROUNDS, TURN = 3, 0.06  # turns of a side, seconds of a turn

# Largest difference from float64, divided by the largest value of the array. TF32 keeps 11 of
# the 24 bits of a factor, an error of 5e-4; a whole sequence has not been measured yet.
TOLERANCES = {False: problem.TOLERANCE, True: 2e-2}

Running = dict[tuple[str, bool], Worker]  # by name and precision


@dataclass
class Run:
    """One run.

    Parameters
    ----------
    given
        The options: `n_a`, `batches`, time `steps`, and whether a GPU is used (`gpu`).
    budget
        The time that is left.
    page
        Notes the versions.
    reference
        Takes the inputs and a number of layers, and returns the results in float64.
    """

    given: argparse.Namespace
    budget: Budget
    page: Report
    reference: Callable[[Arrays, int], Arrays]
    rows: dict[Case, Row] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)  # why a side is left out
    wrong: list[str] = field(default_factory=list)
    late: dict[str, list[Case]] = field(default_factory=dict)  # by side: no time was left

    def measure(self, sides: Callable[[bool], Sequence[Side]]) -> None:
        """Measure sides, given by precision, in all cases that the budget allows."""
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            running = self.start(stack, sides, folder)
            listed = cases(self.given.n_a, self.given.batches)
            for _, own in groupby(listed, key=lambda case: case.size):
                group = list(own)
                if running and self.budget.allows():
                    with self.budget.spent():
                        self.group(group, running, folder)
                else:
                    for name in sorted({name for name, _ in running}):
                        self.late.setdefault(name, []).extend(group)

    def start(
        self, stack: ExitStack, sides: Callable[[bool], Sequence[Side]], folder: Path
    ) -> Running:
        """Start a process for each side and precision, and check it at a small size."""
        arrays, path = problem.draw("lstm", SMALL, layers=2), folder / "small.npz"
        np.savez(path, allow_pickle=False, **arrays)
        expected = self.reference(arrays, 2)
        task = problem.task("lstm", layers=2, gpu=self.given.gpu)
        running: Running = {}
        for tf32 in PRECISIONS:
            for side in sides(tf32):
                if side.name in self.missing:  # in the other precision
                    continue
                print(f"starting {side.name}, {precision(tf32)}", flush=True)
                try:
                    worker = Worker(side, task, path)
                    stack.callback(worker.close)
                    if worker.missing is not None:
                        self.missing[side.name] = worker.missing
                        continue
                    self.page.see({side.name: worker})
                    results = worker.results()
                    error = largest_error(side.name, results, expected, TOLERANCES[tf32])
                except WrongSideError as why:
                    self.wrong.append(f"{SMALL} in 2 layers, {precision(tf32)}: {why}")
                except (RuntimeError, OSError) as why:
                    self.missing[side.name] = str(why)
                else:
                    running[side.name, tf32] = worker
                    if error is not None:
                        print(f"  correct at {SMALL} in 2 layers: {error:.1e}", flush=True)
        return running

    def group(self, group: Sequence[Case], running: Running, folder: Path) -> None:
        """Check and time the cases of one size, which share their inputs."""
        layers, n_a, m = group[0][:3]
        arrays = problem.draw("lstm", Shape(CHECKED, m, n_a, n_a), layers)
        path = folder / "inputs.npz"
        np.savez(path, allow_pickle=False, **arrays)
        expected = self.reference(arrays, layers)
        for case in group:
            row = self.rows.setdefault(case, {"seconds": {}, "errors": {}, "notes": {}})
            wanted = expected if case.do == "training" else {"y": expected["y"]}
            able: dict[str, Worker] = {}
            for name, tf32 in list(running):
                if tf32 is not case.tf32:
                    continue
                worker = running[name, tf32]
                if self.ready(name, worker, case, wanted, path, row):
                    able[name] = worker
                elif name in self.missing:
                    del running[name, tf32]
            row["seconds"] |= turns(able)
            print(f"{case}: {in_words(row, self.given.steps)}", flush=True)

    def ready(
        self, name: str, worker: Worker, case: Case, wanted: Arrays, path: Path, row: Row
    ) -> bool:
        """Check a side, make it ready to be timed, and tell whether it is."""

        def build(repeat: int) -> None:
            task = problem.task("lstm", layers=case.layers, do=case.do, gpu=self.given.gpu)
            worker.build({**task, "repeat": repeat}, path)

        try:
            build(1)
            results, tolerance = worker.results(), TOLERANCES[case.tf32]
            row["errors"][name] = largest_error(name, results, wanted, tolerance)
            build(self.given.steps // CHECKED)
            worker.times(2)  # compiles, and fills the memory pools
        except WrongSideError as why:
            self.wrong.append(f"{case}: {why}")
            return False
        except (RuntimeError, OSError) as why:  # the process has ended, perhaps out of memory
            self.missing[name] = f"from {case} on: {why}"
            return False
        row["notes"][name] = worker.hello["notes"]
        return True


def turns(able: Mapping[str, Worker]) -> dict[str, list[float]]:
    """Let the sides take turns; return the seconds of every step."""
    seconds: dict[str, list[float]] = {name: [] for name in able}
    counts = {
        name: min(20, max(2, math.ceil(TURN / worker.times(1)[0]))) for name, worker in able.items()
    }
    for _ in range(ROUNDS):
        for name, worker in able.items():
            seconds[name] += worker.times(counts[name])
    return seconds
