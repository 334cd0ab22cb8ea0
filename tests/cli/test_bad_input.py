"""What can't be done is refused in one line, and nothing is touched."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import TINY, assert_refused, files

host = pytest.mark.host


def bad_files():
    Path("empty.txt").touch()
    Path("mark.txt").write_bytes(b"\xef\xbb\xbf")
    Path("binary.bin").write_bytes(b"ab\0cd" * 999)
    Path("latin.txt").write_bytes("café ".encode("latin-1") * 999)
    Path("short.txt").write_text("short")
    Path("one.txt").write_text("x")
    Path("nothing").mkdir()
    Path("taken").mkdir()
    Path("taken/precious.txt").write_text("precious")


@host
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.txt"], "nowhere.txt: no such file or folder"),
        (["in.txt", "nowhere.txt"], "nowhere.txt: no such file or folder"),
        (["empty.txt"], "empty.txt: the file is empty"),
        (["mark.txt"], "mark.txt: the file is empty"),
        (["binary.bin"], "binary.bin: binary, byte 2 is 0"),
        (["latin.txt"], "latin.txt: not UTF-8, byte 3 is 0xe9"),
        (["nothing"], "nothing: there is no UTF-8 text in this folder"),
        (["short.txt"], "the text has 4 characters to train on, expected at least 18 = batch 2"),
        (["one.txt"], "the text has 0 characters to train on"),
        (["in.txt", "--batch", "999999"], "expected at least 8999991 = batch 999999"),
        (["in.txt", "--seq-len", "999999"], "lower --batch or --seq-len"),
        (["in.txt", "--hidden", "1" + "0" * 12], "can't be made here"),
        (["in.txt", "--embed", "1" + "0" * 18], "can't be made here"),
        (["in.txt", "--backend", "foo"], "array library 'foo' is unknown, expected numpy or"),
        (["in.txt", "--device", "cuda:9"], "array library numpy has no device 'cuda:9' here"),
        (["in.txt", "--dtype", "int8"], "invalid choice: 'int8'"),
        (["in.txt", "--cell", "foo"], "invalid choice: 'foo'"),
        (["in.txt", "--out", "taken"], "taken: exists already"),
        (["in.txt", "--out", "short.txt"], "short.txt: exists already"),
        (["in.txt", "--out", "short.txt/below"], "short.txt/below: Not a directory"),
        (["--resume", "nowhere"], "nowhere: no such run folder"),
        (["--resume", "taken"], "taken: not a run folder, it has no checkpoint.safetensors"),
        (["--resume", "short.txt"], "short.txt: no such run folder"),
        *[
            (["in.txt", option, value], f"argument {option}: ")
            for option in ("--hidden", "--layers", "--embed", "--seq-len", "--batch", "--steps")
            for value in ("0", "-1", "1.5", "x")
        ],
        *[
            (["in.txt", option, value], f"argument {option}: ")
            for option in ("--lr", "--clip", "--seconds")
            for value in ("0", "-1", "nan", "inf", "x", "1e-999")
        ],
        (["in.txt", "--seed", "-1"], "argument --seed: -1 is less than 0"),
    ],
)
def test_what_cant_be_trained_is_refused_and_nothing_is_touched(seqcore_, arguments, message):
    bad_files()
    before, folders = files(), sorted(Path.cwd().rglob("*"))
    small = [] if "--resume" in arguments else [*TINY, "--steps", "2"]
    outcome = seqcore_("train", *small, *arguments)
    assert_refused(outcome, "train", message)
    assert outcome.out == ""
    assert (files(), sorted(Path.cwd().rglob("*"))) == (before, folders)


@pytest.mark.usefixtures("run")
@host
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample", "nowhere"], "nowhere: no such run folder"),
        (["sample", "taken"], "taken: not a run folder"),
        (["sample", "run", "--prompt", ""], "argument --prompt: is empty"),
        (["sample", "run", "--length", "0"], "argument --length: 0 is less than 1"),
        (["sample", "run", "--temperature", "-1"], "argument --temperature: -1 is not a number"),
        (["sample", "run", "--temperature", "nan"], "argument --temperature: nan is not a number"),
        (["sample", "run", "--seed", "-1"], "argument --seed: -1 is less than 0"),
        (["eval", "nowhere", "in.txt"], "nowhere: no such run folder"),
        (["eval", "run", "nowhere.txt"], "nowhere.txt: no such file or folder"),
        (["eval", "run", "nothing"], "nothing: can't be read (Is a directory)"),
        (["eval", "run", "empty.txt"], "empty.txt: the file is empty"),
        (["eval", "run", "mark.txt"], "mark.txt: the file is empty"),
        (["eval", "run", "binary.bin"], "binary.bin: binary"),
        (["eval", "run", "latin.txt"], "latin.txt: not UTF-8"),
        (["eval", "run"], "the following arguments are required: FILE"),
    ],
)
def test_what_cant_be_sampled_or_measured_is_refused(seqcore_, arguments, message):
    bad_files()
    before = files()
    assert_refused(seqcore_(*arguments), arguments[0], message)
    assert files() == before


@host
@pytest.mark.parametrize(
    "command",
    [["sample", "run"], ["eval", "run", "in.txt"], ["train", "--resume", "run", "--steps", "7"]],
)
@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("checkpoint.safetensors", lambda data: data[: len(data) // 2], "not a whole safetensors"),
        ("checkpoint.safetensors", lambda _: b"", "not a whole safetensors file"),
        ("checkpoint.safetensors", lambda data: data[:-9] + b"x" + data[-8:], "damaged"),
    ],
)
def test_a_damaged_run_is_refused_by_name_and_left_as_it_is(
    seqcore_, run, command, name, damage, message
):
    path = run / name
    path.write_bytes(damage(path.read_bytes()))
    before = files()
    outcome = seqcore_(*command)
    assert_refused(outcome, command[0], message)
    assert f"run/{name}: " in outcome.err
    assert outcome.err.count("\n") == 1
    assert files() == before


@host
@pytest.mark.parametrize(
    "damage", [lambda data: data[: data.rindex(b",")], lambda _: b"", lambda _: b"a,b\n1,2\n"]
)
def test_damaged_metrics_matter_to_who_goes_on_with_them_only(seqcore_, run, damage):
    path = run / "metrics.csv"
    path.write_bytes(damage(path.read_bytes()))
    before = files()
    assert seqcore_("sample", "run", "--length", 5).status == 0
    assert seqcore_("eval", "run", "in.txt").status == 0
    outcome = seqcore_("train", "--resume", "run", "--steps", 7)
    assert_refused(outcome, "train", "run/metrics.csv: damaged")
    assert files() == before
