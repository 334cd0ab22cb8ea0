"""The command line as a whole: help, and as a process."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import TINY, bits_of

import seqcore
from seqcore import cli
from seqcore.character.run import Settings, load_run

host = pytest.mark.host
posix = pytest.mark.skipif(os.name != "posix", reason="signals and terminals of POSIX")


@host
def test_version_is_that_of_the_distribution_and_tells_it_from_the_other_seqcore(seqcore_):
    status, out, err = seqcore_("--version")
    assert (status, err) == (0, "")
    first, clash = out.splitlines()
    assert first == f"seqcore-rnn {seqcore.__version__}"
    assert clash == (
        "The package `seqcore` on the package index is a different project with the same import "
        "name; the two cannot be installed together."
    )


@host
@pytest.mark.parametrize("command", [[], ["train"], ["sample"], ["eval"], ["backends"]])
def test_help_is_whole(seqcore_, command):
    outcome = seqcore_(*command, "--help")
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.startswith("usage: seqcore")
    for ugly in ("None", "[]", "SUPPRESS", "default: )", "%("):
        assert ugly not in outcome.out


@host
def test_help_names_each_option_of_the_main_job(seqcore_):
    shown = " ".join(seqcore_("train", "--help").out.split())
    options = (
        "cell hidden layers embed seq-len batch lr clip seconds steps backend device dtype seed "
        "out resume no-progress"
    )
    assert all(f" --{option} " in shown for option in options.split())
    defaults = [*dataclasses.asdict(Settings()).values(), "90"]
    assert all(f"(default: {default}" in shown for default in defaults if default is not None)


@host
def test_no_command_prints_the_help_of_them_all(seqcore_):
    outcome = seqcore_()
    assert outcome == seqcore_("--help")
    assert (outcome.status, outcome.err) == (0, "")
    for command in ("train", "sample", "eval", "backends"):
        assert f"\n    {command} " in outcome.out


@host
def test_an_unknown_command_is_refused_with_those_that_there_are(seqcore_):
    outcome = seqcore_("foo")
    assert outcome.status == 2
    assert "invalid choice: 'foo' (choose from" in outcome.err
    assert "backends" in outcome.err


# pytest itself may have been started where Ctrl-C is ignored, which a child inherits.
START = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from seqcore.cli import program; sys.exit(program())"
)


def start(*arguments, **options):
    command = [sys.executable, "-c", START, *map(str, arguments)]
    root = str(Path(seqcore.__file__).parent.parent)
    # tqdm draws ten times a second; a fast machine is done by then.
    env = os.environ | {"PYTHONPATH": root, "PYTHONIOENCODING": "utf-8", "TQDM_MININTERVAL": "0.01"}
    env.pop("PYTHONUNBUFFERED", None)  # without a buffer, there is nothing left to be flushed
    return subprocess.Popen(command, env=env, **options)


PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "encoding": "utf-8"}


@host
@pytest.mark.parametrize("module", ["seqcore", "seqcore.cli"])
def test_the_module_runs_as_a_program(module):
    root = str(Path(seqcore.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-m", module, "train", "in.txt", *TINY, "--steps", "3"],
        env=os.environ | {"PYTHONPATH": root},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\r" not in done.stdout  # a file gets no progress bar
    assert b"\x1b" not in done.stdout
    assert Path("runs/1/checkpoint.safetensors").is_file()


@host
@posix
def test_a_real_ctrl_c_saves_and_goes_on_bit_for_bit(train, seqcore_):
    child = start("train", "in.txt", *TINY, "--steps", 400, "--out", "part", **PIPES)
    said = ""
    while "run     part" not in said:
        line = child.stdout.readline()
        assert line, child.communicate()
        said += line
    time.sleep(0.05)  # some steps; it may come before the first
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=120)
    assert (child.returncode, err) == (130, "")
    assert "interrupted; all is saved. Go on with:\n  seqcore train --resume part" in out
    assert load_run("part")[1].step < 400
    assert seqcore_("train", "--resume", "part", "--steps", 400).status == 0
    train("--out", "whole", steps=400)
    assert bits_of("part") == bits_of("whole")


@pytest.mark.usefixtures("run")
@host
@posix
def test_a_reader_that_goes_away_ends_it_quietly():
    train = ["train", "in.txt", *TINY, "--steps", "3"]
    for arguments in (["sample", "run"], train, ["--version"], ["--help"], ["train", "--help"]):
        reader, writer = os.pipe()
        os.close(reader)
        child = start(*arguments, stdout=writer, stderr=subprocess.PIPE)
        os.close(writer)
        _, err = child.communicate(timeout=120)
        # argparse says nothing about a help that nobody reads.
        assert (child.returncode, err) == (0 if "--help" in arguments else 141, b"")


COMMANDS = {
    ("--version",): 0,
    (): 0,
    ("backends",): 0,
    ("train", "in.txt", *TINY, "--steps", "3", "--out", "new"): 0,
    ("sample", "run"): 0,
    ("eval", "run", "in.txt"): 0,
    ("sample", "none"): 2,
    ("foo",): 2,
}


def closed():
    with Path("closed.txt").open("w") as stream:
        return stream


def detached():
    stream = io.TextIOWrapper(io.BytesIO())
    stream.detach()
    return stream


def without_a_reader():
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w")
    stream.write("left in its buffer")
    return stream


@pytest.mark.usefixtures("run")
@host
@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: " ".join(words[:2]))
@pytest.mark.parametrize("names", [["stdout"], ["stderr"], ["stdout", "stderr"]], ids=" ".join)
@pytest.mark.parametrize("stream", [None, closed, detached])
def test_a_stream_that_is_closed_or_missing_gets_nothing(command, stream, names, monkeypatch):
    for name in names:
        monkeypatch.setattr(sys, name, stream and stream())
    given = [getattr(sys, name) for name in names]
    try:
        status = cli.main(command)
    except SystemExit as end:  # argparse
        status = end.code
    assert status == COMMANDS[command]
    assert [getattr(sys, name) for name in names] == given
    assert (command[0:1] == ("train",)) == Path("new").is_dir()


@host
@posix
def test_a_stream_whose_reader_went_away_before_ends_it_quietly(monkeypatch):
    for name in ("stdout", "stderr"):
        stream = without_a_reader()
        monkeypatch.setattr(sys, name, stream)
        assert cli.main(["--version"]) == (141 if name == "stdout" else 0)
        with contextlib.suppress(BrokenPipeError):
            stream.close()
        monkeypatch.undo()


@pytest.mark.usefixtures("run")
@host
@posix
@pytest.mark.parametrize("command", [("--version",), ("sample", "run"), ("sample", "none")])
@pytest.mark.parametrize("streams", [">&-", ">&- 2>&-", "2>/dev/full"])
def test_a_shell_may_close_the_streams(command, streams):
    shell = ["sh", "-c", f'exec "$0" "$@" {streams}', sys.executable, "-m", "seqcore", *command]
    root = str(Path(seqcore.__file__).parent.parent)
    done = subprocess.run(
        shell, env=os.environ | {"PYTHONPATH": root}, capture_output=True, timeout=120, check=False
    )
    assert done.returncode == COMMANDS[command]
    assert b"Traceback" not in done.stderr


@host
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the full disk of Linux")
def test_a_full_disk_is_named():
    with Path("/dev/full").open("w") as full:
        child = start("--version", stdout=full, stderr=subprocess.PIPE)
        _, err = child.communicate(timeout=120)
    assert child.returncode == 2
    assert err == b"seqcore --version: error: [Errno 28] No space left on device\n"


def on_a_terminal(*arguments, columns=100):
    """What a terminal is sent on standard error."""
    import pty
    import termios

    master, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (30, columns))
    child = start(*arguments, stdout=subprocess.DEVNULL, stderr=terminal)
    os.close(terminal)
    sent = b""
    while True:
        try:
            chunk = os.read(master, 4096)
        except OSError:  # Linux says so where the other end is closed
            break
        if not chunk:
            break
        sent += chunk
    os.close(master)
    assert child.wait(timeout=120) == 0
    return sent.decode()


@host
@posix
@pytest.mark.parametrize("limit", [["--steps", "150"], ["--seconds", "0.6"]])
def test_a_terminal_shows_a_bar_with_loss_speed_and_time_left(limit):
    sent = on_a_terminal("train", "in.txt", *TINY, *limit)
    shown = re.findall(
        r"\r\d\.\d\d bits/char, [\d,]+ char/s, +(\d+)% \d\d:\d\d<\d\d:\d\d \|[^|\r]*\|", sent
    )
    assert len(shown) >= 2, sent
    percents = [int(row) for row in shown]
    assert percents == sorted(percents)
    assert percents[0] < percents[-1] <= 100


@host
@posix
def test_a_narrow_terminal_shows_loss_and_speed():
    sent = on_a_terminal("train", "in.txt", *TINY, "--steps", "100", columns=40)
    assert re.search(r"\r\d\.\d\d bits/char, [\d,]+ char/s", sent), sent


@host
@posix
def test_no_progress_shows_no_bar_on_a_terminal():
    assert on_a_terminal("train", "in.txt", *TINY, "--steps", "60", "--no-progress") == ""
