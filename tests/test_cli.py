"""The command line, as its user meets it: what it prints, leaves behind and refuses."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import seqcore
from seqcore import cli, libraries, losses, training
from seqcore.character.run import load_run
from seqcore.character.text import Streams
from seqcore.files import atomic
from seqcore.layers import Sequential

host = pytest.mark.host
posix = pytest.mark.skipif(os.name != "posix", reason="signals and terminals of POSIX")

TINY = ["--hidden", "8", "--embed", "4", "--seq-len", "8", "--batch", "2"]
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "ran", "to", "me.\n", "é"]


class Outcome(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def place_to_work(tmp_path, monkeypatch, request):
    """Each test in a folder of its own with a text in it, and without slow pictures."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    Path("in.txt").write_text(" ".join(rng.choice(WORDS, 1_200)), encoding="utf-8")
    if "picture" not in request.node.name:
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)


@pytest.fixture
def seqcore_(capsys):
    """Call the command line as its script does."""

    def call(*arguments):
        capsys.readouterr()
        try:
            status = cli.main([str(argument) for argument in arguments])
        except SystemExit as end:  # argparse
            status = end.code
        return Outcome(status, *capsys.readouterr())

    return call


@pytest.fixture
def train(seqcore_):
    def call(*arguments, steps=6):
        return seqcore_("train", "in.txt", *TINY, "--steps", steps, *arguments)

    return call


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run folder to copy, not to change: 6 steps on in.txt beside it."""
    home = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(0)
    (home / "in.txt").write_text(" ".join(rng.choice(WORDS, 1_200)), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setitem(sys.modules, "matplotlib.figure", None)
        assert cli.main(["train", "in.txt", *TINY, "--steps", "6", "--out", "run"]) == 0
    return home / "run"


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


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


# --- a run ------------------------------------------------------------------------------


@host
def test_a_run_says_what_it_does_and_leaves_its_files(train):
    outcome = train()
    assert (outcome.status, outcome.err) == (0, "")
    assert sorted(path.name for path in Path("runs/1").iterdir()) == [
        "checkpoint.safetensors",
        "metrics.csv",
    ]
    for said in (
        r"^text    /.*/in\.txt: 1 file$",
        r"^        \d,\d{3} characters to train on, \d{3} held out; SHA-256 [0-9a-f]{12}$",
        r"^model   embedding 4, 1 x lstm 8, dense \d+: \d+ parameters$",
        r"^step    2 streams x 8 characters; Adam 0\.\d+, clip 1$",
        rf"^arrays  numpy {re.escape(np.__version__)} on cpu, float32$",
        r"^run     runs/1$",
        r"^ +seconds +steps +characters +training +held out   bits per character$",
        r"^ +0 +6 +96 +\d\.\d{3} +\d\.\d{3}$",
        r"^96 characters in \d+\.\d s, [\d,]+ a second$",
        r"^bits per character of the held-out text, \d+ characters:$",
        r"^  (seqcore|zlib|bz2|lzma) +\d+\.\d{3}$",
        r"^a sample:$",
        r"^saved in runs/1: checkpoint.safetensors, metrics.csv$",
        rf"^no loss curve without matplotlib: {re.escape(libraries.install_hint('plot'))}$",
        r"^  seqcore sample runs/1 --prompt 'def '$",
        r"^  seqcore eval runs/1 FILE$",
        r"^  seqcore train --resume runs/1$",
    ):
        assert re.search(said, outcome.out, re.MULTILINE), said
    table = re.findall(r"^  (seqcore|zlib|bz2|lzma) +([\d.]+)$", outcome.out, re.MULTILINE)
    assert {name for name, _ in table} == {"seqcore", "zlib", "bz2", "lzma"}
    assert [float(bits) for _, bits in table] == sorted(float(bits) for _, bits in table)
    # The figure is that of the last row, and that of the last row of metrics.csv.
    kept, _ = load_run("runs/1")
    assert dict(table)["seqcore"] == f"{kept.metrics[-1].held_out_bits:.3f}"
    assert train().out.count("runs/2") == 5


@host
def test_a_picture_is_drawn_and_named_where_it_can_be(train):
    outcome = train()
    assert "saved in runs/1: checkpoint.safetensors, metrics.csv, loss.png\n" in outcome.out
    assert "matplotlib" not in outcome.out
    assert Path("runs/1/loss.png").read_bytes().startswith(b"\x89PNG")


@host
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_the_same_seed_and_steps_give_the_same_bits_and_another_seed_others(train, cell):
    for out, seed in [("a", 7), ("b", 7), ("c", 8)]:
        train("--cell", cell, "--layers", 2, "--seed", seed, "--out", out)
    assert bits_of("a") == bits_of("b")
    assert bits_of("a") != bits_of("c")


@host
def test_options_are_what_the_run_is_set_to(train):
    options = ["--cell", "gru", "--layers", "2", "--lr", "0.01", "--schedule", "constant"]
    options += ["--clip", "0.5", "--dtype", "float64", "--seed", "3"]
    train(*options, "--out", "deep/er")
    kept, progress = load_run("deep/er")
    s = kept.settings
    assert (s.cell, s.layers, s.lr, s.schedule) == ("gru", 2, 0.01, "constant")
    assert (s.clip, s.dtype, s.seed, s.backend, s.device) == (0.5, "float64", 3, "numpy", None)
    assert (s.hidden, s.embed, s.seq_len, s.batch) == (8, 4, 8, 2)
    assert {str(p.dtype) for p in progress.params.values()} == {"float64"}
    assert progress.step == 6


@host
def test_the_learning_rate_rises_then_falls():
    settings = cli.Settings(lr=0.5)
    rates = [cli._rate(settings, done) for done in (0.0, 0.015, 0.03, 0.5, 1.0)]
    assert rates[0] == pytest.approx(0.5 * 0.05)
    assert rates[0] < rates[1] < rates[2] == pytest.approx(0.5, rel=0.01)
    assert rates[2] > rates[3] > rates[4] == pytest.approx(0.5 * 0.05)
    constant = cli.Settings(lr=0.5, schedule="constant")
    assert {cli._rate(constant, done) for done in (0.0, 0.3, 1.0)} == {0.5}


@host
def test_the_learning_rate_follows_the_schedule(train):
    for schedule in ("constant", "cosine"):
        train("--schedule", schedule, "--out", schedule)
    assert bits_of("constant") != bits_of("cosine")


@host
def test_seconds_end_a_run_too(seqcore_):
    begin = time.perf_counter()
    outcome = seqcore_("train", "in.txt", *TINY, "--seconds", "0.3")
    assert outcome.status == 0
    assert 0.3 < time.perf_counter() - begin < 20
    assert load_run("runs/1")[1].step > 0


@host
def test_without_limits_it_trains_for_ninety_seconds(seqcore_, monkeypatch):
    seen = {}

    def fit(*_, **limits):
        seen.update(limits)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "fit", fit)
    assert seqcore_("train", "in.txt", *TINY).status == 130
    assert (seen["steps"], seen["seconds"]) == (None, 90.0)


@host
def test_a_look_every_ten_seconds_prints_a_row_and_saves(train, monkeypatch):
    ticks = iter(range(0, 9_999, 4))
    monkeypatch.setitem(training.fit.__kwdefaults__, "clock", lambda: next(ticks))
    outcome = train(steps=8)
    rows = re.findall(r"^ +(\d+) +(\d+) +[\d,]+ +\d\.\d+ +\d\.\d+$", outcome.out, re.MULTILINE)
    assert rows == [("12", "3"), ("24", "6"), ("32", "8")]
    assert outcome.out.count("held out   bits per character") == 1
    assert [row.step for row in load_run("runs/1")[0].metrics] == [3, 6, 8]


@host
def test_a_folder_is_read_and_what_is_no_text_is_counted(seqcore_):
    Path("docs").mkdir()
    shutil.copy("in.txt", "docs/a.txt")
    Path("docs/b.txt").write_text("more\n" * 50)
    Path("docs/c.bin").write_bytes(b"\0")
    outcome = seqcore_("train", "docs", *TINY, "--steps", 2)
    assert "docs: 2 files (1 more are empty or no UTF-8 text)" in outcome.out


# --- resuming ---------------------------------------------------------------------------


def stop_before(monkeypatch, step):
    """Ctrl-C when the window of `step` is asked for."""
    plain = Streams.__call__

    def window(self, k):
        if k == step:
            raise KeyboardInterrupt
        return plain(self, k)

    monkeypatch.setattr(Streams, "__call__", window)


@host
@pytest.mark.parametrize("at", [0, 1, 5])
def test_ctrl_c_saves_and_what_it_says_goes_on_bit_for_bit(train, seqcore_, monkeypatch, at):
    train("--out", "whole run", steps=9)
    with monkeypatch.context() as patch:
        stop_before(patch, at)
        outcome = train("--out", "part one", steps=9)
    assert (outcome.status, outcome.err) == (130, "")
    assert outcome.out.endswith(
        "interrupted; all is saved. Go on with:\n  seqcore train --resume 'part one' --steps 9\n"
    )
    assert load_run("part one")[1].step == at
    outcome = seqcore_("train", "--resume", "part one", "--steps", "9")
    assert outcome.status == 0
    assert "bits per character of the held-out text" in outcome.out
    assert bits_of("part one") == bits_of("whole run")
    rows = [row.step for row in load_run("part one")[0].metrics]
    assert rows == ([at, 9] if at else [9])


@host
@pytest.mark.parametrize("where", ["_print_head", "_Watch"])
def test_ctrl_c_before_the_first_step_leaves_a_whole_run(train, seqcore_, monkeypatch, where):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cli, where, interrupt)
        outcome = train()
    assert outcome.status == 130
    assert outcome.out.endswith("seqcore train --resume runs/1 --steps 6\n")
    assert seqcore_("train", "--resume", "runs/1", "--steps", 6).status == 0
    train("--out", "whole")
    assert bits_of("runs/1") == bits_of("whole")


@host
@pytest.mark.parametrize("where", ["bits_per_character", "sample"])
def test_ctrl_c_while_the_result_is_measured_loses_nothing(train, monkeypatch, where):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    train("--out", "whole")
    monkeypatch.setattr(cli.characters, where, interrupt)
    outcome = train("--out", "again")
    assert outcome.status == 130
    # Its steps are done: there is nothing to resume.
    assert outcome.out.endswith(
        "interrupted; the training is complete, and saved. Next:\n"
        "  seqcore sample again --prompt 'def '\n  seqcore eval again FILE\n"
    )
    assert bits_of("again") == bits_of("whole")


@host
@pytest.mark.parametrize(
    ("spent", "rest"),
    [(0.25, "--seconds 90"), (29.0, "--seconds 61"), (89.5, "--seconds 1"), (90.0, None)],
)
def test_ctrl_c_in_a_timed_run_names_the_seconds_that_are_left(seqcore_, monkeypatch, spent, rest):
    def fit(_, progress, *__, **___):
        return training.Stopped("interrupted", progress, spent)

    monkeypatch.setattr(training, "fit", fit)
    for limits, more in [([], ""), (["--steps", 7, "--seconds", 90], " --steps 7")]:
        out = f"run{len(limits)}"
        outcome = seqcore_("train", "in.txt", *TINY, *limits, "--out", out)
        assert outcome.status == 130
        if rest is None:
            assert "the training is complete" in outcome.out
        else:
            assert outcome.out.endswith(f"seqcore train --resume {out}{more} {rest}\n")


@host
@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError(28, "No space left on device")])
@pytest.mark.parametrize("target", [1, 2])
@pytest.mark.parametrize("out", [None, "new/deep", "mine"])
def test_a_first_save_that_fails_leaves_no_folder_behind(train, monkeypatch, failure, target, out):
    Path("mine").mkdir()  # what was there stays
    before = sorted(Path.cwd().rglob("*"))
    plain, calls = atomic._write, []

    def write(*given):
        calls.append(given)
        if len(calls) == target:  # the checkpoint, or the metrics after it
            raise failure
        plain(*given)

    monkeypatch.setattr(atomic, "_write", write)
    outcome = train(*(["--out", out] if out else []))
    assert outcome.status == (130 if failure is KeyboardInterrupt else 2)
    assert sorted(Path.cwd().rglob("*")) == before


@host
def test_ctrl_c_while_saving_writes_no_row_twice(train, monkeypatch):
    plain, calls = cli.Run.save, []

    def save(self, progress):
        calls.append(progress.step)
        if len(calls) == 2:  # the first is that of a new run
            raise KeyboardInterrupt
        plain(self, progress)

    monkeypatch.setattr(cli.Run, "save", save)
    monkeypatch.setattr(cli, "_EVERY", 0.0)
    assert train().status == 130
    assert calls == [0, 1, 1]
    assert [row.step for row in load_run("runs/1")[0].metrics] == [1]


@host
def test_a_run_that_is_done_goes_on(seqcore_, run):
    before, progress = load_run(run)
    outcome = seqcore_("train", "in.txt", "--resume", "run", "--steps", 9, "--lr", 0.001)
    assert outcome.status == 0
    assert "run     run, from step 6\n" in outcome.out
    kept, after = load_run(run)
    assert (progress.step, after.step) == (6, 9)
    assert [row.step for row in kept.metrics] == [6, 9]
    assert kept.metrics[1].seconds >= before.metrics[0].seconds
    assert kept.settings.lr == 0.001


@pytest.mark.usefixtures("run")
@host
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hidden", "9"], "run: --hidden is 9, but this run has 8"),
        (["--seq-len", "9"], "run: --seq-len is 9, but this run has 8"),
        (["--cell", "gru"], "run: --cell is gru, but this run has lstm"),
        (["--dtype", "float64"], "run: --dtype is float64, but this run has float32"),
        (["--seed", "1"], "run: --seed is 1, but this run has 0"),
        (["--steps", "6"], "run: --steps is 6, and 6 steps are done already"),
        (["--steps", "5"], "run: --steps is 5, and 6 steps are done already"),
        (["--out", "elsewhere"], "--out was given beside --resume"),
        (["other.txt"], "run: the text is not the one that this run began with"),
        (["--backend", "foo"], "array library 'foo' is unknown"),
    ],
)
def test_what_a_resumed_run_cant_be_is_refused(seqcore_, arguments, message):
    Path("other.txt").write_text("quite another text\n" * 50)
    before = files()
    outcome = seqcore_("train", "in.txt", "--resume", "run", *arguments)
    if "other.txt" in arguments:
        outcome = seqcore_("train", *arguments, "--resume", "run")
    assert_refused(outcome, "train", message)
    assert files() == before


@host
def test_a_run_whose_text_is_gone_is_refused(seqcore_, train):
    train("--out", "run")
    Path("in.txt").rename("moved.txt")
    assert_refused(seqcore_("train", "--resume", "run"), "train", "in.txt: no such file or folder")
    # Under its new name it is the same text.
    assert seqcore_("train", "moved.txt", "--resume", "run", "--steps", 7).status == 0


@host
def test_a_run_on_all_of_a_folder_that_holds_it_can_be_resumed(seqcore_):
    assert seqcore_("train", ".", *TINY, "--steps", 2).status == 0
    assert seqcore_("train", "--resume", "runs/1", "--steps", 3).status == 0


# --- other libraries --------------------------------------------------------------------


@pytest.mark.long
def test_it_trains_on_each_device_and_goes_on_with_numpy(seqcore_, train, library, place):
    asked = ["--backend", library.name, "--device", place.device, "--dtype", place.dtype]
    outcome = train(*asked, "--out", "run", steps=3)
    assert (outcome.status, outcome.err) == (0, "")
    assert f"on {place.device}, {place.dtype}\n" in outcome.out
    assert load_run("run")[0].settings.device == place.device
    # Measuring and drawing need the file alone.
    assert seqcore_("eval", "run", "in.txt").status == 0
    assert len(seqcore_("sample", "run", "--length", 9, "--prompt", "a").out) == 11
    outcome = seqcore_("train", "--resume", "run", "--steps", 4, "--backend", "numpy")
    assert (outcome.status, outcome.err) == (0, "")
    assert f"on cpu, {place.dtype}\n" in outcome.out


def test_a_dtype_that_a_device_lacks_is_refused(train, library):
    for device, dtypes in library.contract.get("lacks", {}).items():
        asked = ["--backend", library.name, "--device", device, "--dtype", dtypes[0]]
        message = f"array library {library.name} has no dtype {dtypes[0]} on {device}, expected"
        assert_refused(train(*asked), "train", message)


def test_backends_lists_what_is_here(seqcore_, library):
    outcome = seqcore_("backends")
    assert (outcome.status, outcome.err) == (0, "")
    here, _, measured = outcome.out.partition("\n\n")
    head, *rows = here.splitlines()
    assert head.split() == ["library", "version", "devices"]
    listed = {row.split()[0]: row for row in rows}
    assert rows[0].startswith("numpy")
    assert f"numpy      {np.__version__:12} cpu (float32, float64)" == listed["numpy"]
    assert measured.startswith("Largest relative error of BPTT")
    assert [row.split()[0] for row in measured.splitlines()[3:]] == list(listed)
    for device in library.contract["devices"]:
        assert f"{device} (float32" in listed[library.name]


# --- sample, eval, version --------------------------------------------------------------


@host
def test_version_is_that_of_the_package(seqcore_):
    assert seqcore_("--version") == (0, f"seqcore {seqcore.__version__}\n", "")


@pytest.mark.usefixtures("run")
@host
def test_sample_goes_on_from_the_prompt(seqcore_):
    outcome = seqcore_("sample", "run", "--prompt", "the ", "--length", 30)
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.startswith("the ")
    assert len(outcome.out) == 4 + 30 + 1
    assert seqcore_("sample", "run", "--prompt", "the ", "--length", 30) == outcome
    other = seqcore_("sample", "run", "--prompt", "the ", "--length", 30, "--seed", 1)
    assert other.out != outcome.out
    cold = [
        seqcore_("sample", "run", "--temperature", 0, "--length", 30, "--seed", k) for k in (1, 2)
    ]
    assert cold[0] == cold[1]
    assert seqcore_("sample", "run", "--prompt", "\u4e00😀", "--length", 3).status == 0
    # The user's own line ends are shown; the default prompt is not the user's.
    own = seqcore_("sample", "run", "--prompt", "\n\nthe", "--length", 30)
    assert own.out.startswith("\n\nthe")
    plain = seqcore_("sample", "run", "--length", 30).out
    assert seqcore_("sample", "run", "--prompt", "\n", "--length", 30).out == "\n" + plain
    assert len(plain) == 30 + 1


@pytest.mark.usefixtures("run")
@host
def test_eval_sets_a_text_beside_the_compressors(seqcore_):
    Path("new.txt").write_text("the cat \u4e00\u4e01 sat\n" * 20, encoding="utf-8")
    outcome = seqcore_("eval", "run", "new.txt")
    assert (outcome.status, outcome.err) == (0, "")
    assert "bits per character of new.txt, 300 characters:" in outcome.out
    assert set(re.findall(r"^  (\w+) +\d+\.\d{3}$", outcome.out, re.MULTILINE)) == {
        "seqcore",
        "zlib",
        "bz2",
        "lzma",
    }
    assert "40 of its characters are outside the model's vocabulary of" in outcome.out


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
    defaults = [*dataclasses.asdict(cli.Settings()).values(), "90"]
    assert all(f"(default: {default}" in shown for default in defaults if default is not None)


# --- bad input --------------------------------------------------------------------------


def assert_refused(outcome, command, message):
    """One line, or argparse's usage and one line; never a traceback."""
    assert outcome.status == 2
    assert "Traceback" not in outcome.err
    *usage, line = outcome.err.splitlines()
    assert line.startswith(f"seqcore {command}: error: ")
    assert message in line
    assert not usage or usage[0].startswith("usage: seqcore")


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


@host
def test_no_command_is_an_error_of_usage(seqcore_):
    outcome = seqcore_()
    assert outcome.status == 2
    assert "required: COMMAND" in outcome.err


CUPY = "Out of memory allocating 8,000,000,000 bytes (allocated so far: 512 bytes)."


@host
@pytest.mark.parametrize("at", [1, 4])
@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 7.45 GiB for an array"),
        type("OutOfMemoryError", (MemoryError,), {"__module__": "cupy.cuda.memory"})(CUPY),
        RuntimeError("cudaErrorMemoryAllocation: out of memory"),
        MemoryError(),
    ],
)
def test_too_little_memory_is_one_line_and_keeps_what_was_good(
    train, seqcore_, monkeypatch, error, at
):
    plain, calls = Sequential.backward, []

    def backward(*given):
        calls.append(given)
        if len(calls) == at:
            raise error
        return plain(*given)

    train("--out", "good", steps=9)
    with monkeypatch.context() as patch:
        patch.setattr(Sequential, "backward", backward)
        outcome = train("--out", "bad", steps=9)
    words = f": {error}".removesuffix(".").removesuffix(": ")
    assert_refused(outcome, "train", f"out of memory{words}; lower --batch, ")
    assert "--batch, --seq-len, --hidden or --layers in a new run. What was good" in outcome.err
    assert f"What was good after step {at - 1} is in bad" in outcome.err
    assert outcome.err.count("\n") == 1
    # The process is of use after it, and so is the run.
    assert load_run("bad")[1].step == at - 1
    assert seqcore_("sample", "bad", "--length", 5).status == 0
    assert seqcore_("train", "--resume", "bad", "--steps", 9).status == 0
    assert bits_of("bad") == bits_of("good")


@host
@pytest.mark.parametrize("where", ["bits_per_character", "sample"])
def test_too_little_memory_to_measure_the_result_keeps_the_training(train, monkeypatch, where):
    def full(*_, **__):
        raise MemoryError(CUPY)

    with monkeypatch.context() as patch:
        patch.setattr(cli.characters, where, full)
        outcome = train()
    assert_refused(outcome, "train", "out of memory: Out of memory allocating 8,000,000,000 bytes")
    assert "What was good after step 6 is in runs/1" in outcome.err
    assert load_run("runs/1")[1].step == 6


@host
def test_a_model_too_large_for_memory_is_one_line_and_leaves_no_folder(train, monkeypatch):
    def full(*_, **__):
        raise MemoryError(CUPY)

    monkeypatch.setattr(Sequential, "init", full)
    outcome = train()
    assert_refused(outcome, "train", f"a model of this size can't be made here ({CUPY}); lower ")
    assert not Path("runs").exists()


@host
@pytest.mark.parametrize("command", ["sample", "eval"])
@pytest.mark.usefixtures("run")
def test_too_little_memory_for_the_rest_is_one_line_too(seqcore_, monkeypatch, command):
    def full(*_, **__):
        raise MemoryError(CUPY)

    monkeypatch.setattr(Sequential, "forward", full)
    outcome = seqcore_(command, "run", *(["in.txt"] if command == "eval" else []))
    assert_refused(outcome, command, f"out of memory: {CUPY}")


@pytest.mark.usefixtures("run")
@host
def test_a_disk_that_is_full_is_one_line_and_keeps_what_was_saved(seqcore_, monkeypatch):
    before = files()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    outcome = seqcore_("train", "in.txt", "--resume", "run", "--steps", 8)
    assert_refused(outcome, "train", "run/checkpoint.safetensors: No space left on device")
    assert files() == before


# --- numbers that are not finite --------------------------------------------------------


@host
def test_a_loss_that_is_nan_ends_the_run_and_keeps_what_was_good(train, seqcore_, monkeypatch):
    plain, calls = losses.cross_entropy, []

    def spoiled(*given):
        calls.append(given)
        loss, dy = plain(*given)
        return (loss * float("nan") if len(calls) == 5 else loss), dy

    train("--out", "good", steps=9)
    with monkeypatch.context() as patch:
        patch.setattr(losses, "cross_entropy", spoiled)
        outcome = train("--out", "bad", steps=9)
    assert_refused(outcome, "train", "the loss is nan at step 5, expected a finite number; try")
    assert outcome.err.count("\n") == 1
    assert "What was good after step 3 is in bad" in outcome.err
    assert load_run("bad")[1].step == 3
    assert seqcore_("sample", "bad", "--length", 5).status == 0
    assert seqcore_("train", "--resume", "bad", "--steps", 9).status == 0
    assert bits_of("bad") == bits_of("good")


@host
@pytest.mark.parametrize("steps", [1, 12])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_learning_rate_beyond_measure_ends_in_one_line_and_a_run_that_loads(
    train, seqcore_, steps, dtype
):
    outcome = train("--lr", "1e300", "--clip", "1e30", "--dtype", dtype, steps=steps)
    # A loss, or where it just holds the sample after it: sums near 1e308 hang on their order.
    what = "expected numbers" if "logits are not finite" in outcome.err else "a finite number"
    assert_refused(outcome, "train", f"{what}; try a smaller --lr or --clip")
    assert outcome.err.count("\n") == 1
    _, progress = load_run("runs/1")
    assert all(np.isfinite(p).all() for p in progress.params.values())
    assert seqcore_("eval", "runs/1", "in.txt").status == 0


@host
def test_a_model_that_is_not_finite_is_not_sampled(seqcore_, run):
    kept, progress = load_run(run)
    kept.save(progress._replace(params={n: p * np.nan for n, p in progress.params.items()}))
    assert_refused(seqcore_("sample", "run"), "sample", "run: the model's logits are not finite")
    outcome = seqcore_("eval", "run", "in.txt")
    assert_refused(outcome, "eval", "run: the bits per character of in.txt are nan, expected a")
    assert outcome.out == ""


@host
def test_a_last_sample_that_is_not_finite_goes_back_to_what_was_good(train, monkeypatch):
    def sample(*_, **__):
        raise ValueError("the model's logits are not finite, expected numbers")

    ticks = iter(range(0, 9_999, 4))
    monkeypatch.setitem(training.fit.__kwdefaults__, "clock", lambda: next(ticks))
    monkeypatch.setattr(cli.characters, "sample", sample)
    outcome = train(steps=8)
    assert_refused(outcome, "train", "logits are not finite, expected numbers; try a smaller --lr")
    assert "What was good after step 6 is in runs/1" in outcome.err
    assert outcome.err.count("\n") == 1
    assert load_run("runs/1")[1].step == 6  # the last but one that was measured


# --- as a process -----------------------------------------------------------------------

# pytest itself may have been started where Ctrl-C is ignored, which a child inherits.
START = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from seqcore.cli import main; sys.exit(main())"
)


def start(*arguments, **options):
    command = [sys.executable, "-c", START, *map(str, arguments)]
    root = str(Path(seqcore.__file__).parent.parent)
    # tqdm draws ten times a second; a fast machine is done by then.
    env = os.environ | {"PYTHONPATH": root, "PYTHONIOENCODING": "utf-8", "TQDM_MININTERVAL": "0.01"}
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
    assert b"\r" not in done.stdout  # nobody watches a bar in a file
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
    for arguments in (["sample", "run"], ["train", "in.txt", *TINY, "--steps", "3"]):
        reader, writer = os.pipe()
        os.close(reader)
        child = start(*arguments, stdout=writer, stderr=subprocess.PIPE)
        os.close(writer)
        _, err = child.communicate(timeout=120)
        assert (child.returncode, err) == (141, b"")


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
