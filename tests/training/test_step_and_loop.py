"""Training: the equations of a step, and what stops the loop with which progress."""

from __future__ import annotations

import itertools
import math
import weakref

import numpy as np
import pytest
import threadpoolctl
from judging import leaves

from seqcore import losses, optimizers
from seqcore.arrays import integers_like
from seqcore.character.model import character_model
from seqcore.files import load_checkpoint, save_checkpoint
from seqcore.training import NotFiniteError, OutOfMemoryError, Progress, Step, Stopped, Window, fit

TOKENS, T, M = 7, 5, 3
MODEL = character_model("lstm", embed=4, hidden=6, layers=1, tokens=TOKENS)


def make_step(model=MODEL, clip=0.1, rate=lambda done: 0.05 * (1.0 - 0.5 * done)):
    return Step(model, losses.cross_entropy, lambda done: optimizers.adam(rate(done)), clip)


def windows(like, fresh_every=3):
    """Windows that depend on the number of the step alone."""

    def window(k):
        tokens = np.random.default_rng(k).integers(0, TOKENS, (T + 1, M))
        x, targets = integers_like(tokens[:-1], like), integers_like(tokens[1:], like)
        return Window(x, targets, fresh=k % fresh_every == 0)

    return window


def assert_same_bits(one, other, to_host):
    assert len(leaves(one)) == len(leaves(other)) > 0
    for a, b in zip(leaves(one), leaves(other), strict=True):
        assert a.dtype == b.dtype
        assert to_host(a).tobytes() == to_host(b).tobytes()


@pytest.fixture
def start(asarray):
    return make_step().start(MODEL.init(TOKENS, like=asarray(np.zeros(0)), rng=3))


@pytest.fixture
def host_start():
    return make_step().start(MODEL.init(TOKENS, like=np.zeros(0), rng=3))


# --- one step, on every library ---------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("clip", [None, 0.1, 1e9])
def test_a_step_is_its_five_equations(start, asarray, to_host, clip):
    window = windows(asarray(np.zeros(0)))
    progress, expected = start, start
    for k in range(4):  # window 3 begins a new sequence
        done = k / 4
        progress, loss = make_step(clip=clip)(progress, window(k), done)
        _, params, opt_state, state = expected
        x, targets, fresh = window(k)
        y, state, tape = MODEL.forward(params, x, None if fresh else state)
        by_hand, dy = losses.cross_entropy(y, targets)
        _, grads, _ = MODEL.backward(params, tape, dy)
        if clip is not None:
            grads, _ = optimizers.clip_by_global_norm(grads, clip)
        optimizer = optimizers.adam(0.05 * (1.0 - 0.5 * done))
        params, opt_state = optimizer.update(params, grads, opt_state)
        expected = Progress(k + 1, params, opt_state, state)
        assert float(loss) == float(by_hand)
        assert progress.step == k + 1
        assert_same_bits(progress, expected, to_host)


def test_clipping_changes_a_step_only_where_the_gradient_is_large(start, asarray, to_host):
    window = windows(asarray(np.zeros(0)))(0)
    steps = {
        clip: Step(MODEL, losses.cross_entropy, lambda _: optimizers.sgd(1.0), clip)
        for clip in (None, 1e9, 0.01)
    }
    after = {clip: step(step.start(start.params), window, 0.0)[0] for clip, step in steps.items()}
    assert_same_bits(after[None].params, after[1e9].params, to_host)
    moved = [
        to_host(a) - to_host(b)
        for a, b in zip(leaves(after[0.01].params), leaves(start.params), strict=True)
    ]
    assert math.sqrt(sum(float(np.sum(d**2)) for d in moved)) == pytest.approx(0.01, rel=1e-3)


def test_a_step_modifies_nothing_that_it_was_given(start, asarray, to_host):
    window = windows(asarray(np.zeros(0)))
    step = make_step()
    progress, _ = step(start, window(0), 0.0)  # now with a state and moments
    given = window(1)
    before = [to_host(leaf) for leaf in leaves((*progress, *given[:2]))]
    names = dict(progress.params)
    step(progress, given, 0.5)
    assert progress.params.keys() == names.keys()
    assert all(progress.params[name] is names[name] for name in names)
    for leaf, copy in zip(leaves((*progress, *given[:2])), before, strict=True):
        np.testing.assert_array_equal(to_host(leaf), copy)


@pytest.mark.long
def test_training_lowers_the_loss(start, asarray):
    window = windows(asarray(np.zeros(0)))(0)  # one window again and again
    seen = []
    fit(
        make_step(clip=1.0),
        start,
        lambda _: window,
        steps=40,
        after_step=lambda _, loss, __: seen.append(loss),
    )
    assert seen[0] == pytest.approx(math.log(TOKENS), rel=0.2)
    assert seen[-1] < 0.5 * seen[0]


@pytest.mark.long
@pytest.mark.parametrize("parted_at", [2, 3])  # 3 begins a new sequence
def test_training_in_two_parts_is_training_in_one_go(start, asarray, to_host, tmp_path, parted_at):
    like = asarray(np.zeros(0))
    whole = fit(make_step(), start, windows(like), steps=6).progress
    # As Ctrl-C parts it: the schedule knows all 6 steps, the loop ends before.
    part, _ = interrupted(start, windows(like), before=parted_at)
    path = tmp_path / "part.safetensors"
    save_checkpoint(path, part.params, opt_state=part.opt_state, state=part.state)
    read = load_checkpoint(path, like=like)
    again = Progress(part.step, read.params, read.opt_state, read.state)
    assert_same_bits(fit(make_step(), again, windows(like), steps=6).progress, whole, to_host)


def interrupted(start, window, *, before):
    """Train up to Ctrl-C in the window of step `before`."""

    def stopping(k):
        if k == before:
            raise KeyboardInterrupt
        return window(k)

    stopped = fit(make_step(), start, stopping, steps=6)
    assert stopped.why == "interrupted"
    return stopped.progress, stopped


# --- what stops the loop ----------------------------------------------------------------


class Counting:
    """A stand-in for a step: it counts, and records its arguments."""

    def __init__(self, losses=()):
        self.losses, self.done = itertools.chain(losses, itertools.repeat(1.0)), []

    def __call__(self, progress, window, done):
        self.done.append(done)
        return progress._replace(step=progress.step + 1), np.asarray(next(self.losses))


def ticking(*readings):
    """A clock that shows each reading once, then the last for ever."""
    ticks = itertools.chain(readings, itertools.repeat(readings[-1]))
    return lambda: next(ticks)


NOTHING = Progress(0, {}, None, None)


def no_window(_):
    return None


@pytest.mark.host
@pytest.mark.parametrize(("begin", "steps"), [(0, 1), (0, 5), (3, 5)])
def test_steps_stop_it_and_those_done_before_count(begin, steps):
    step, asked = Counting(), []
    stopped = fit(step, NOTHING._replace(step=begin), asked.append, steps=steps)
    assert (stopped.why, stopped.progress.step) == ("steps", steps)
    assert asked == list(range(begin, steps))
    assert step.done == [k / steps for k in range(begin, steps)]


@pytest.mark.host
def test_no_step_is_left_to_do_where_all_are_done():
    stopped = fit(Counting(), NOTHING._replace(step=9), no_window, steps=9)
    assert stopped == Stopped("steps", NOTHING._replace(step=9), 0.0)


@pytest.mark.host
def test_seconds_stop_it_at_the_first_step_that_reaches_them():
    step = Counting()
    stopped = fit(step, NOTHING, no_window, seconds=10.0, clock=ticking(100, 104, 108, 113, 117))
    assert stopped == Stopped("seconds", NOTHING._replace(step=3), 13)
    assert step.done == [0.0, 0.4, 0.8]


@pytest.mark.host
@pytest.mark.parametrize(
    ("steps", "why", "done"), [(2, "steps", [0, 0.5]), (50, "seconds", [0, 0.02, 0.04])]
)
def test_of_steps_and_seconds_the_first_stops_it_and_steps_measure(steps, why, done):
    step = Counting()
    clock = ticking(0, 4, 8, 12)
    stopped = fit(step, NOTHING, no_window, steps=steps, seconds=10.0, clock=clock)
    assert stopped.why == why
    assert step.done == done


@pytest.mark.host
def test_seconds_count_from_now_and_not_from_the_first_step():
    step = Counting()
    fit(step, NOTHING._replace(step=50), no_window, seconds=10.0, clock=ticking(0, 4, 8, 12))
    assert step.done == [0.0, 0.4, 0.8]


@pytest.mark.host
@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({}, "neither steps nor seconds"),
        ({"steps": 0}, "steps"),
        ({"steps": -1}, "steps"),
        ({"seconds": 0.0}, "seconds"),
        ({"seconds": -1.0}, "seconds"),
        ({"seconds": math.nan}, "seconds"),
    ],
)
def test_a_limit_must_be_given_and_more_than_0(limits, message):
    with pytest.raises(ValueError, match=f"fit: .*{message}"):
        fit(Counting(), NOTHING, no_window, **limits)


@pytest.mark.host
@pytest.mark.parametrize(
    ("where", "whole"),
    [("window", 0), ("window", 1), ("window", 3), ("after_step", 1), ("after_step", 3)],
)
def test_ctrl_c_returns_the_last_whole_step(host_start, where, whole):
    window, reached = windows(np.zeros(0)), []

    def interrupt(place, step):
        if place == where and step == whole:
            raise KeyboardInterrupt

    def watched(k):
        interrupt("window", k)
        return window(k)

    def after_step(progress, *_):
        reached.append(progress)
        interrupt("after_step", progress.step)

    stopped = fit(make_step(), host_start, watched, steps=9, after_step=after_step)
    assert stopped.why == "interrupted"
    assert stopped.progress is (reached[-1] if reached else host_start)
    assert stopped.progress.step == whole


@pytest.mark.host
@pytest.mark.parametrize("where", ["window", "after_step"])
def test_any_other_error_goes_up_as_it_is(where):
    def fail(*_):
        raise OSError(where)

    with pytest.raises(OSError, match=where):
        fit(Counting(), NOTHING, **{"window": no_window, "steps": 3, where: fail})


@pytest.mark.host
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("good", "kept"), [(0, 0), (1, 0), (4, 3)])
def test_a_loss_that_is_not_finite_gives_back_what_last_had_a_finite_one(bad, good, kept):
    # Losses 0 .. good-1 are finite: the step before the bad one spoiled the parameters.
    step = Counting([*[1.0] * good, bad])
    with pytest.raises(NotFiniteError, match=rf"loss is {bad} at step {good + 1}, ") as caught:
        fit(step, NOTHING, no_window, steps=9)
    assert caught.value.progress.step == kept


@pytest.mark.host
def test_the_parameters_kept_are_not_those_that_the_last_update_spoiled(host_start):
    class Spoiling:
        def update(self, params, grads, state):
            return {name: p * math.nan for name, p in params.items()}, state

    def optimizer(done):
        return Spoiling() if done >= 0.5 else optimizers.adam()

    step = Step(MODEL, losses.cross_entropy, optimizer)
    window = windows(np.zeros(0))
    with pytest.raises(NotFiniteError, match="at step 6, ") as caught:
        fit(step, host_start, window, steps=8)  # the update of step 5 spoils them
    kept = caught.value.progress
    assert kept.step == 4
    logits, _, _ = MODEL.forward(kept.params, window(9).x, kept.state)
    assert np.isfinite(logits).all()


# --- memory -----------------------------------------------------------------------------


class CupysOutOfMemoryError(MemoryError):
    """As in cupy.cuda.memory: what it is made from, and what it then says."""

    def __init__(self, size, total):
        super().__init__(
            f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes)."
        )


NO_MEMORY = {
    "NumPy": MemoryError("Unable to allocate 7.45 GiB for an array with shape (1000000000,)"),
    "CuPy": CupysOutOfMemoryError(8_000_000_000, 512),
    "Python": MemoryError(),
    "CUDA": RuntimeError("cudaErrorMemoryAllocation: out of memory"),
    "cuBLAS": RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"),
    "PyTorch on CUDA": RuntimeError("CUDA out of memory. Tried to allocate 7.45 GiB."),
    "PyTorch": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate "
        "memory: you tried to allocate 8000000000 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "XLA": RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8000000000 bytes."),
}


@pytest.mark.host
@pytest.mark.parametrize("library", NO_MEMORY)
@pytest.mark.parametrize("where", ["window", "after_step"])
def test_where_memory_runs_out_the_last_whole_step_is_kept_and_the_amount_said(library, where):
    error = NO_MEMORY[library]

    def window(k):
        if where == "window" and k == 3:
            raise error

    def after_step(progress, *_):
        if where == "after_step" and progress.step == 3:
            raise error

    with pytest.raises(OutOfMemoryError) as caught:
        fit(Counting(), NOTHING, window, steps=9, after_step=after_step)
    assert caught.value.progress.step == 3
    assert caught.value.words == str(error).removesuffix(".")
    said = caught.value.words or "out of memory"
    advice = "use a smaller batch, shorter windows or fewer hidden units"
    assert str(caught.value) == f"{said}; {advice}"
    assert caught.value.__cause__ is error


@pytest.mark.host
def test_another_error_of_a_run_is_not_taken_for_one_of_memory():
    def fail(_):
        raise RuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access") as caught:
        fit(Counting(), NOTHING, fail, steps=3)
    assert not isinstance(caught.value, MemoryError)


@pytest.mark.host
def test_who_keeps_the_error_does_not_keep_the_arrays_of_the_step(host_start):
    held = []

    def loss(y, _):
        dlogits = np.zeros_like(y)
        held.append(weakref.ref(dlogits))
        raise NO_MEMORY["CuPy"]

    step = Step(MODEL, loss, lambda _: optimizers.adam())
    with pytest.raises(OutOfMemoryError) as caught:
        fit(step, host_start, windows(np.zeros(0)), steps=3)
    assert held[0]() is None
    assert caught.value.progress is host_start
    # And one goes on from it, with less.
    assert fit(make_step(), caught.value.progress, windows(np.zeros(0)), steps=2).why == "steps"


@pytest.mark.host
def test_after_step_hears_the_progress_the_loss_and_the_time():
    heard = []
    fit(
        Counting([0.5, 0.25]),
        NOTHING,
        no_window,
        steps=2,
        after_step=lambda *given: heard.append(given),
        clock=ticking(10, 11, 13),
    )
    assert heard == [
        (NOTHING._replace(step=1), 0.5, 1),
        (NOTHING._replace(step=2), 0.25, 3),
    ]


@pytest.mark.host
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_the_same_seed_gives_the_same_bits(cell, to_host):
    model = character_model(cell, embed=4, hidden=6, layers=2, tokens=TOKENS)

    def trained(seed):
        step = make_step(model)
        params = model.init(TOKENS, like=np.zeros(0, dtype=np.float32), rng=seed)
        return fit(step, step.start(params), windows(np.zeros(0)), steps=5).progress.params

    assert_same_bits(trained(1), trained(1), to_host)
    assert any((a != b).any() for a, b in zip(leaves(trained(1)), leaves(trained(2)), strict=True))


@pytest.mark.host
def test_blas_has_one_thread_while_it_trains_and_its_old_number_after():
    def threads():
        pools = threadpoolctl.threadpool_info()
        return [pool["num_threads"] for pool in pools if pool["user_api"] == "blas"]

    seen = []

    def window(_):
        seen.append(threads())

    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        before = threads()
        if 2 not in before:
            pytest.skip("no BLAS here that has two threads")
        fit(Counting(), NOTHING, window, steps=2)
        assert threads() == before
    assert seen == [[1] * len(before)] * 2
