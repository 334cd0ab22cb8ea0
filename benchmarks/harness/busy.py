"""Processes that keep cores busy."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Ends by itself when its parent is gone.
SPIN = """
import os, sys
while os.getppid() == int(sys.argv[1]):
    for _ in range(10**6):
        pass
"""


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep `count` cores busy with one process each."""
    command = [sys.executable, "-c", SPIN, str(os.getpid())]
    spinning: list[subprocess.Popen[bytes]] = []
    try:
        spinning += (subprocess.Popen(command) for _ in range(count))
        yield
    finally:
        for process in spinning:
            process.kill()
        for process in spinning:
            process.wait()
