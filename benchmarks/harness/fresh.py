"""Programs that run in fresh processes, timed from the outside."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from harness.processes import on_path


class Ran(NamedTuple):
    """What a process took, and what it printed."""

    seconds: float
    memory: int  # bytes, the largest resident
    printed: str


def rounds(
    programs: Mapping[str, str], folder: Path, count: int, path: Path
) -> dict[str, list[Ran]]:
    """Let programs take turns in fresh processes.

    Parameters
    ----------
    programs
        Their code, by side.
    folder
        Where they run.
    count
        Runs of each program. One more comes first and is not counted: it brings the files into
        the memory of the system and writes the caches of Python.
    path
        A folder that they import from.
    """
    runs: dict[str, list[Ran]] = {side: [] for side in programs}
    for _ in range(1 + count):
        for side, code in programs.items():
            runs[side].append(run(code, folder, path))
    return {side: own[1:] for side, own in runs.items()}


def run(code: str, folder: Path, path: Path) -> Ran:
    """Run one program in a fresh process."""
    spawn = [sys.executable, "-I", "-S", str(Path(__file__).with_name("spawn.py"))]
    env = os.environ | {"PYTHONPATH": on_path(path)}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed library has its caches
    command = [*spawn, sys.executable, "-c", code]
    out = subprocess.run(
        command, cwd=folder, env=env, stdout=subprocess.PIPE, text=True, check=True
    )
    *printed, last = out.stdout.splitlines()
    seconds, memory, status = last.split()
    if status != "0":
        raise RuntimeError(f"a program ended with {status}; its error stands above:\n{code}")
    return Ran(float(seconds), int(memory), "\n".join(printed))


def fastest(runs: Sequence[Ran]) -> float:
    """Return the shortest time in seconds."""
    return min(ran.seconds for ran in runs)


def megabytes(runs: Sequence[Ran]) -> float:
    """Return the median of the largest resident memory in MB of 10^6 bytes."""
    return statistics.median(ran.memory for ran in runs) / 1e6
