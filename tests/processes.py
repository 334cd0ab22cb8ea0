"""A Python process of its own, for what a process does only once or for good."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

import seqcore as sc


def output_of(code: str, *arguments: object, without: Iterable[str] = (), **env: str) -> str:
    """Run code in a process, with warnings as errors; return what it printed.

    Its environment is that of the tests, with `env`, but not the variables `without`.
    """
    own = os.environ | {"PYTHONPATH": str(Path(sc.__file__).parent.parent)}
    own = {name: value for name, value in own.items() if name not in set(without)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *map(str, arguments)],
        env=own | env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
