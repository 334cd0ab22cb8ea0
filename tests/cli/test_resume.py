"""Ctrl-C at any time, and `seqcore train --resume`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from command_line import TINY, assert_refused, bits_of, files

from seqcore import training
from seqcore.character import model
from seqcore.character.run import Run, load_run
from seqcore.character.text import Streams
from seqcore.cli import watch
from seqcore.files import atomic
from seqcore.training.runs import hold

host = pytest.mark.host


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
@pytest.mark.parametrize("where", ["report.print_head", "train.Watch"])
def test_ctrl_c_before_the_first_step_leaves_a_whole_run(train, seqcore_, monkeypatch, where):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"seqcore.cli.{where}", interrupt)
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
    monkeypatch.setattr(model, where, interrupt)
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
    plain, calls = Run.save, []

    def save(self, progress):
        calls.append(progress.step)
        if len(calls) == 2:  # the first is that of a new run
            raise KeyboardInterrupt
        plain(self, progress)

    monkeypatch.setattr(Run, "save", save)
    monkeypatch.setattr(watch, "EVERY", 0.0)
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
        (["--steps", "6"], "run: --steps is 6, but 6 steps are done already"),
        (["--steps", "5"], "run: --steps is 5, but 6 steps are done already"),
        (["--out", "elsewhere"], "--out can't be used with --resume"),
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


@pytest.mark.usefixtures("run")
@pytest.mark.skipif(os.name != "posix", reason="file locks are POSIX")
@host
def test_a_run_that_is_being_trained_is_not_resumed_beside_it(seqcore_):
    before = files()
    with hold(Path("run")):
        outcome = seqcore_("train", "--resume", "run", "--steps", 9)
        assert_refused(outcome, "train", "run: another process is training this run")
        assert files() == before
        # Reading it is allowed.
        assert seqcore_("sample", "run", "--length", 5).status == 0
    assert seqcore_("train", "--resume", "run", "--steps", 9).status == 0


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
