"""Facts of the machine that a benchmark runs on; needs the standard library only."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """Return the model of the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def system() -> str:
    """Return the operating system, the architecture and the C library."""
    return f"{platform.system()} {platform.machine()}, {' '.join(platform.libc_ver())}"


def commit(folder: Path) -> str:
    """Return the commit of a checkout, followed by + if a file has changed since."""
    command = ["git", "-C", str(folder), "describe", "--always", "--exclude=*", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def load() -> float:
    """Return how many processes were ready to run, on average over the last minute."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else float("nan")


def stolen() -> float:
    """Return how many seconds of processor time the host has given to other machines."""
    try:
        first = Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0]
        return int(first.split()[8]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError):
        return 0.0


def gpu() -> dict[str, str]:
    """Return what nvidia-smi says of the GPU and its driver."""
    query = "name,driver_version,memory.total,clocks.max.sm,power.limit"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return {"nvidia-smi": "does not answer"}
    return {f"nvidia-smi ({query})": found.stdout.strip()}
