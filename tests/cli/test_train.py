"""`seqcore train`: what a run prints, what it writes, and its settings."""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import TINY, assert_refused, bits_of

from seqcore import libraries, training
from seqcore.character.run import Settings, load_run
from seqcore.cli.train import _rate
from seqcore.training.runs import RunError, hold

host = pytest.mark.host


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
    settings = Settings(lr=0.5)
    rates = [_rate(settings, done) for done in (0.0, 0.015, 0.03, 0.5, 1.0)]
    assert rates[0] == pytest.approx(0.5 * 0.05)
    assert rates[0] < rates[1] < rates[2] == pytest.approx(0.5, rel=0.01)
    assert rates[2] > rates[3] > rates[4] == pytest.approx(0.5 * 0.05)
    constant = Settings(lr=0.5, schedule="constant")
    assert {_rate(constant, done) for done in (0.0, 0.3, 1.0)} == {0.5}


@host
def test_the_learning_rate_follows_the_schedule(train):
    for schedule in ("constant", "cosine"):
        train("--schedule", schedule, "--out", schedule)
    assert bits_of("constant") != bits_of("cosine")


@host
@pytest.mark.skipif(os.name != "posix", reason="file locks are POSIX")
def test_the_folder_is_held_while_the_run_is_trained_and_free_after_it(train, monkeypatch):
    held, plain = [], training.fit

    def fit(*given, **limits):
        with pytest.raises(RunError, match="another process is training this run"):
            held.append(hold(Path("mine")).__enter__())
        return plain(*given, **limits)

    monkeypatch.setattr(training, "fit", fit)
    assert train("--out", "mine").status == 0
    assert held == []
    with hold(Path("mine")):
        pass


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
    assert "docs: 2 files (1 more skipped: empty or not UTF-8)" in outcome.out


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
