"""The command line of the benchmarks."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from harness.problem import GATES, Shape
from harness.side import Side


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of the options that every benchmark takes."""
    options = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument(
        "--quick", action="store_true", help="a short run, which shows that everything works"
    )
    options.add_argument("--rounds", type=int, help="turns of each side")
    options.add_argument("--out", type=Path, help="folder of the results")
    return options


def step_parser(description: str | None, sides: Iterable[Side]) -> argparse.ArgumentParser:
    """Return a parser that also takes the cells, shapes and sides of training steps."""
    options = parser(description)
    names = [side.name for side in sides]
    options.add_argument("--cells", nargs="+", choices=list(GATES), metavar="CELL")
    options.add_argument("--shapes", nargs="+", type=Shape.parse, metavar="T/m/n_x/n_a")
    options.add_argument("--sides", nargs="+", choices=names, metavar="SIDE", help="only these")
    return options


def selected(sides: Sequence[Side], names: Sequence[str] | None) -> list[Side]:
    """Return the sides with the given names, or all if no names are given."""
    return [side for side in sides if not names or side.name in names]
