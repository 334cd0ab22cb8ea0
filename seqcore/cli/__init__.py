"""The command line: train, sample, eval, backends.

The exit status is 0 if all went well, 2 if something that was asked for is not possible (one line
on standard error says what), 130 after Ctrl-C, and 141 if the reader of the output has gone.

`program` is what the script calls. `main` may also be called inside another program: it leaves
the settings of the process as they were.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import numpy as np

import seqcore
from seqcore import libraries
from seqcore.arrays.available import LibraryError
from seqcore.character.corpus import TextError
from seqcore.cli import backends, evaluate, sample, train
from seqcore.training.runs import RunError

_COMMANDS = (train, sample, evaluate, backends)  # in the order of the help
_CLASH = (
    "The package `seqcore` on the package index is a different project with the same import name; "
    "the two cannot be installed together."
)


def program() -> int:
    """Run the command line as a program that ends with it, and return its exit status."""
    try:
        return main()
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:  # Python flushes again at its end, which must not fail then
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    with _lines_that_can_be_shown(), _variables_as_before():
        return _main(argv)


@contextmanager
def _lines_that_can_be_shown() -> Iterator[None]:
    """Change how the streams write, and change it back."""
    streams = [s for s in (sys.stdout, sys.stderr) if hasattr(s, "reconfigure")]
    before = [{"errors": s.errors, "line_buffering": s.line_buffering} for s in streams]
    for stream in streams:
        # A terminal that can't show some character of a text shows a question mark instead.
        # Line by line, so that a log can be followed during training.
        stream.reconfigure(errors="replace", line_buffering=True)
    try:
        yield
    finally:
        for stream, settings in zip(streams, before, strict=True):
            with suppress(OSError, ValueError):  # its reader has gone, or it is closed
                stream.reconfigure(**settings)


@contextmanager
def _variables_as_before() -> Iterator[None]:
    """Remove in the end what array libraries have needed in the environment."""
    names = {name for library in libraries.known().values() for name in library.env()}
    missing = names - os.environ.keys()
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)


def _main(argv: Sequence[str] | None) -> int:
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        if arguments.version:
            print(f"{libraries.DISTRIBUTION} {seqcore.__version__}\n{_CLASH}")
            return 0
        if arguments.command is None:
            parser.print_help()
            return 0
        # Numbers that are too large get an error of their own; NumPy's warnings say less.
        with np.errstate(all="ignore"):
            status: int = arguments.run(arguments)
    except BrokenPipeError:  # as in `seqcore train | head`
        return 141  # as a shell has it: 128 + SIGPIPE
    except (TextError, LibraryError, RunError, OSError, MemoryError) as error:
        print(f"seqcore {arguments.command}: error: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nseqcore {arguments.command}: interrupted", file=sys.stderr)
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="seqcore",
        description="Train, sample and measure recurrent networks on any array library.",
    )
    # Not argparse's own action, which would join the two lines.
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for command in _COMMANDS:
        command.add_to(commands)
    return parser


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, MemoryError):
        return f"out of memory: {error}".removesuffix(": ")
    return " ".join(str(error).splitlines())
