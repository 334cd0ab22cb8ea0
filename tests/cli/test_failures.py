"""Memory, disk and numbers that fail: one line, and what was good is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import assert_refused, bits_of, files

from seqcore import losses, training
from seqcore.character import model
from seqcore.character.run import load_run
from seqcore.layers import Sequential
from seqcore.layers.door import BoundLayer

host = pytest.mark.host


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

    def backward(*given, **options):
        calls.append(given)
        if len(calls) == at:
            raise error
        return plain(*given, **options)

    train("--out", "good", steps=9)
    with monkeypatch.context() as patch:
        patch.setattr(Sequential, "backward", backward)
        outcome = train("--out", "bad", steps=9)
    words = f": {error}".removesuffix(".").removesuffix(": ")
    assert_refused(outcome, "train", f"out of memory{words}; lower --batch, ")
    assert "--batch, --seq-len, --hidden or --layers in a new run. The last good" in outcome.err
    assert f"The last good state, after step {at - 1}, is in bad" in outcome.err
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
        patch.setattr(model, where, full)
        outcome = train()
    assert_refused(outcome, "train", "out of memory: Out of memory allocating 8,000,000,000 bytes")
    assert "The last good state, after step 6, is in runs/1" in outcome.err
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

    monkeypatch.setattr(BoundLayer, "predict", full)
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
    assert "The last good state, after step 3, is in bad" in outcome.err
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
    # Either a loss is not finite or, if all are, the logits of the sample: near 1e308 a sum
    # depends on its order.
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
    monkeypatch.setattr(model, "sample", sample)
    outcome = train(steps=8)
    assert_refused(outcome, "train", "logits are not finite, expected numbers; try a smaller --lr")
    assert "The last good state, after step 6, is in runs/1" in outcome.err
    assert outcome.err.count("\n") == 1
    assert load_run("runs/1")[1].step == 6  # the last but one that was measured
