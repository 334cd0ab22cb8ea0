"""What the tests of the command line share: a tiny run, and what became of it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from seqcore.character.run import load_run

TINY = ["--hidden", "8", "--embed", "4", "--seq-len", "8", "--batch", "2"]
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "ran", "to", "me.\n", "é"]


class Outcome(NamedTuple):
    status: int
    out: str
    err: str


def write_text(folder):
    """A text of about 4,000 characters."""
    rng = np.random.default_rng(0)
    (Path(folder) / "in.txt").write_text(" ".join(rng.choice(WORDS, 1_200)), encoding="utf-8")


def bits_of(folder):
    """Everything that training carries on, byte for byte."""
    _, progress = load_run(folder)
    leaves = []

    def walk(tree):
        if isinstance(tree, dict):
            for name in sorted(tree):
                walk(tree[name])
        elif isinstance(tree, tuple):
            for item in tree:
                walk(item)
        elif tree is not None:
            leaves.append(np.asarray(tree).tobytes())

    walk(tuple(progress))
    return leaves


def files(folder="."):
    """All files below a folder with their bytes."""
    return {str(p): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def assert_refused(outcome, command, message):
    """One line, or argparse's usage and one line; never a traceback."""
    assert outcome.status == 2
    assert "Traceback" not in outcome.err
    *usage, line = outcome.err.splitlines()
    assert line.startswith(f"seqcore {command}: error: ")
    assert message in line
    assert not usage or usage[0].startswith("usage: seqcore")
