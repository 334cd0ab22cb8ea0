"""`seqcore backends`: list the array libraries, which are usable here, and their errors."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from seqcore import libraries
from seqcore.arrays import available

if TYPE_CHECKING:
    from seqcore.cli.arguments import Commands


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "backends",
        help="list the array libraries that are usable here",
        description="List the array libraries: the devices of those that are usable here, and "
        "their measured errors.",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the libraries and the errors measured for each."""
    print(f"{'library':10} {'version':12} devices")
    for library in libraries.known().values():
        usable = available.look(library, own_process=arguments.own_process)
        where = usable.problem or "; ".join(
            f"{name} ({', '.join(library.dtypes_on(name))})" for name in usable.devices
        )
        print(f"{library.name:10} {usable.version or '-':12} {where}")
    print("\nLargest relative error of BPTT, measured against NumPy in float64:\n")
    print(f"{'library':10} {'version':12} {'date':10} errors")
    for name in libraries.known():
        seen = libraries.measured(name)
        if seen is None:
            print(f"{name:10} {'-':12} {'-':10} not measured")
            continue
        errors = ", ".join(f"{error:.1e} in {dtype}" for dtype, error in seen.bptt.items())
        print(f"{name:10} {seen.version:12} {seen.date:10} {errors}")
    return 0
