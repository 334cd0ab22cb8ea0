"""The command line: train, sample, eval, backends.

The exit status is 0 if all went well, 2 if something that was asked for is not possible (one line
on standard error says what), 130 after Ctrl-C, and 141 if the reader of the output has gone.

`program` is what the script calls; it sets what array libraries need in the environment. `main` may
also be called inside another program: it leaves the settings of the process as they were, and takes
array libraries as that program has set them. A standard stream that is closed gets nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

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
        return _run(None, own_process=True)
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                if stream is not None:
                    stream.flush()
            except ValueError:  # it is closed
                pass
            except OSError:  # Python flushes again at its end, which must not fail then
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    return _run(argv, own_process=False)


def _run(argv: Sequence[str] | None, *, own_process: bool) -> int:
    with _streams_that_can_be_written(), _lines_that_can_be_shown():
        return _main(argv, own_process=own_process)


@contextmanager
def _streams_that_can_be_written() -> Iterator[None]:
    """Put streams without a reader in the place of those that are closed or missing."""
    with ExitStack() as stack:
        for stream, redirect in ((sys.stdout, redirect_stdout), (sys.stderr, redirect_stderr)):
            if not _is_open(stream):
                nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
                stack.enter_context(redirect(nowhere))
        yield


def _is_open(stream: object) -> bool:
    try:
        return stream is not None and not getattr(stream, "closed", False)
    except ValueError:  # as of a stream whose buffer was detached
        return False


@contextmanager
def _lines_that_can_be_shown() -> Iterator[None]:
    """Change how the streams write, and change it back."""
    streams = [s for s in (sys.stdout, sys.stderr) if hasattr(s, "reconfigure")]
    before = [{"errors": s.errors, "line_buffering": s.line_buffering} for s in streams]
    # A terminal that can't show some character of a text shows a question mark instead.
    # Line by line, so that a log can be followed during training.
    ours = [{"errors": "replace", "line_buffering": True} for _ in streams]
    try:
        _reconfigure(streams, ours)
        yield
    finally:
        _reconfigure(streams, before)


def _reconfigure(streams: Sequence[Any], settings: Sequence[dict[str, Any]]) -> None:
    for stream, own in zip(streams, settings, strict=True):
        with suppress(OSError, ValueError):  # its reader has gone, or it is closed
            stream.reconfigure(**own)


def _main(argv: Sequence[str] | None, *, own_process: bool) -> int:
    parser = _parser()
    arguments = parser.parse_args(argv, argparse.Namespace(own_process=own_process))
    status = 0
    try:
        if arguments.version:
            print(f"{libraries.DISTRIBUTION} {seqcore.__version__}\n{_CLASH}")
        elif arguments.command is None:
            parser.print_help()
        else:
            # Numbers that are too large get an error of their own; NumPy's warnings say less.
            with np.errstate(all="ignore"):
                status = arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # as in `seqcore train | head`
        return 141  # as a shell has it: 128 + SIGPIPE
    except (TextError, LibraryError, RunError, OSError, MemoryError) as error:
        _tell(f"seqcore {arguments.command or '--version'}: error: {_one_line(error)}")
        return 2
    except KeyboardInterrupt:
        _tell(f"\nseqcore {arguments.command or '--version'}: interrupted")
        return 130
    return status


def _tell(line: str) -> None:
    with suppress(OSError):  # nobody reads standard error, or the disk is full
        print(line, file=sys.stderr)


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
