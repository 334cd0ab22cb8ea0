"""Laws that hold for every shape, cell, option and value; hypothesis looks for exceptions.

How many examples each law gets is set in selection.py.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import array_api_compat as compat
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import assume, example, given
from judging import leaves, mapped, named, same_bits, structure
from nestings import nested
from problems import KINDS, Problem, Scaled, recurrent

import seqcore as sc
from seqcore import random
from seqcore.optimizers import AdamState, SGDState

pytestmark = pytest.mark.usefixtures("unoptimized")

HUGE = 1e30  # its square is beyond float32
TINY = 1e-40  # below the smallest normal float32

size = st.integers(1, 5)
seeds = st.integers(0, 2**32 - 1)
kinds = st.sampled_from(list(KINDS))
ANY = ("moderate", "zero", "tiny", "huge", "mixed")


def fill(rng, shape, values):
    """Numbers of a kind; each is a float32 too, so that rounding adds nothing."""
    drawn = rng.standard_normal(shape)
    if values == "zero":
        drawn = np.zeros(shape)
    elif values == "tiny":
        drawn *= TINY
    elif values == "huge":
        drawn = np.clip(drawn, -1.0, 1.0) * HUGE
    elif values == "mixed":
        extremes = [0.0, -0.0, HUGE, -HUGE, TINY, -TINY, 1.0, 50.0]
        drawn = np.where(rng.random(shape) < 0.3, rng.choice(extremes, shape), drawn)
    return drawn.astype(np.float32).astype(np.float64)


class Case(NamedTuple):
    """A recurrent layer, sizes, which steps count and what all numbers follow from."""

    layer: Any
    n_steps: int
    n_x: int
    m: int
    lengths: list[int] | None
    values: str
    seed: int
    gaps: bool = False

    def problem(self):
        """All numbers of one call, on the host."""

        def numbers(rng, what, shape):
            return fill(rng, shape, self.values if what in ("x", "state") else "moderate")

        sizes = {"n_in": self.n_x, "n_steps": self.n_steps, "m": self.m}
        rng = np.random.default_rng(self.seed)
        mask = rng.random((self.n_steps, self.m)) < 0.6 if self.gaps else None
        which = {"lengths": self.lengths, "mask": mask}
        return Problem.of(rng, self.layer, **sizes, **which, numbers=numbers)

    def counts(self, problem):
        """Which steps count, (T, m)."""
        lengths = [self.n_steps] * self.m if self.lengths is None else self.lengths
        counts = np.arange(self.n_steps)[:, None] < np.asarray(lengths)
        return counts if problem.mask is None else counts & problem.mask


@st.composite
def cases(draw, values=ANY, ways=(False, True), ragged=(False, True)):
    layer = recurrent(
        draw(kinds),
        draw(size),
        layers=draw(st.integers(1, 2)),
        bidirectional=draw(st.sampled_from(ways)),
    )
    end = draw(st.sampled_from(["time goes on", "time goes on", "last", "model"]))
    if end == "last":
        layer = sc.Last()
    elif end == "model":
        layer = sc.Sequential(layer, sc.Last(), sc.Dense(draw(size)))
    n_steps, m = draw(size), draw(size)
    lengths = None
    if draw(st.sampled_from(ragged)):
        lengths = draw(st.lists(st.integers(0, n_steps), min_size=m, max_size=m))
    n_x, kind, seed = draw(size), draw(st.sampled_from(values)), draw(seeds)
    return Case(layer, n_steps, n_x, m, lengths, kind, seed, draw(st.booleans()))


@pytest.fixture(scope="session")
def on_host(to_host):
    """Copy named arrays to the host."""
    return lambda arrays: {name: to_host(value) for name, value in arrays.items()}


# --- layers in time -----------------------------------------------------------------------


@given(case=cases(ways=(False,)), data=st.data())
def test_a_sequence_may_be_cut_anywhere(case, data, asarray, on_host, close, xp):
    # Forward with the state carried on, and back with its gradient: lengths then count on.
    cut = data.draw(st.integers(1, case.n_steps), label="cut")
    host = case.problem()
    parts, given = [slice(0, cut), slice(cut, None)], host.lengths
    expected = on_host(host.move(asarray).results())

    whole, state, tapes, ys = host.move(asarray), host.move(asarray).state, [], []
    windows = [part for part in parts if host.x[part].shape[0]]
    for part in windows:
        x = asarray(host.x[part])
        lengths = None
        if given is not None:
            lengths = asarray(np.clip(given - part.start, 0, x.shape[0]))
        mask = None if host.mask is None else asarray(host.mask[part])
        y, state, tape = whole.but(lengths=lengths, mask=mask).forward(x=x, state=state)
        ys.append(y)
        tapes.append(tape)
    # y of the last window is that of the whole where time ends.
    keeps_time = host.layer.keeps_time
    got = {"y": xp.concat(ys) if keeps_time else ys[-1], **named("last", state)}

    dstate, dxs, total = whole.dstate, [], None
    for part, tape in reversed(list(zip(windows, tapes, strict=True))):
        ours = host.dy[part] if keeps_time else host.dy * (part is windows[-1])
        back = whole.but(dy=asarray(ours), dstate=dstate)
        dx, grads, dstate = back.backward(tape)
        dxs.insert(0, dx)
        total = grads if total is None else {k: total[k] + grads[k] for k in total}
    close(got | {"dx": xp.concat(dxs), **total, **named("dstart", dstate)}, expected)


@given(case=cases(), data=st.data())
def test_an_example_does_not_see_the_others(case, data, asarray, on_host, close):
    # Nor its own padding: alone it has only the steps that are its own.
    j = data.draw(st.integers(0, case.m - 1), label="j")
    host = case.problem()
    expected = on_host(host.move(asarray).results())
    steps = case.n_steps if case.lengths is None else case.lengths[j]
    alone = host.batch([j]).but(lengths=None)
    names = [name for name in expected if name not in host.params]  # those add up examples
    column = {name: expected[name][..., [j]] for name in names}
    kept = max(steps, 1)  # no sequence is empty
    keeps_time = case.layer.keeps_time
    for name in ("y", "dx") if keeps_time else ("dx",):
        assert not np.any(column[name][steps:])
        column[name] = column[name][:kept]
    if steps == 0:
        alone = alone.but(lengths=np.asarray([0]))
        same = {"last": alone.state} | ({"dstart": alone.dstate} if keeps_time else {})
        for prefix, tree in same.items():
            for name, value in named(prefix, tree).items():
                np.testing.assert_array_equal(column[name], value.astype(expected["y"].dtype))
    mask = None if alone.mask is None else alone.mask[:kept]
    dy = alone.dy[:kept] if keeps_time else alone.dy
    alone = alone.but(x=alone.x[:kept], dy=dy, mask=mask)
    got = alone.move(asarray).results()
    close({name: got[name] for name in names}, column, scales=expected)


@given(case=cases(ragged=(True,)), junk=st.sampled_from([math.nan, math.inf, -HUGE]))
def test_padding_never_matters(case, junk, asarray, on_host):
    host = case.problem()
    padding = ~case.counts(host)[:, None, :]
    dy = np.where(padding, junk, host.dy) if case.layer.keeps_time else host.dy
    dirty = host.but(x=np.where(padding, junk, host.x), dy=dy)
    expected = on_host(host.move(asarray).results())
    same_bits(on_host(dirty.move(asarray).results()), expected)
    for name in ("y", "dx") if case.layer.keeps_time else ("dx",):
        assert not np.any(np.where(padding, expected[name], 0.0))


def passes(layer, kept):
    """Return the tapes of all passes over time, from what a layer kept."""
    if isinstance(layer, sc.Sequential):
        return [one for pair in zip(layer.layers, kept, strict=True) for one in passes(*pair)]
    return kept if isinstance(layer, sc.layers.Recurrent) else ()


@pytest.mark.host
@given(case=cases(values=("moderate",)), data=st.data())
def test_backward_is_the_derivative_in_any_direction(case, data):
    problem = case.problem()
    rng = np.random.default_rng(data.draw(seeds, label="direction"))
    at = problem.at()
    along = {name: rng.standard_normal(value.shape) for name, value in at.items()}
    length = math.sqrt(sum(np.sum(d * d) for d in along.values()))

    def move(step):
        moved = {name: value + step / length * along[name] for name, value in at.items()}
        out, tape = problem.outputs(moved)
        loss = sum(np.sum(out[name] * d) for name, d in problem.cotangents().items())
        # h after each step, of relu.
        tapes = passes(case.layer, tape.kept)
        signs = [np.stack(block[-1]) > 0 for one in tapes for block in one.saved]
        return loss, signs

    step = 1e-3  # of the fourth order: truncation and rounding are both about 1e-12
    ends = {k: move(k * step) for k in (-2, -1, 1, 2)}
    if "relu" in repr(problem.layer):
        # Across a corner there is no derivative to compare with.
        corners = [
            np.array_equal(a, b)
            for signs in (ends[k][1] for k in (-1, 1, 2))
            for a, b in zip(signs, ends[-2][1], strict=True)
        ]
        assume(all(corners))
    numeric = 8 * (ends[1][0] - ends[-1][0]) - (ends[2][0] - ends[-2][0])
    numeric /= 12 * step
    grads = problem.gradients()
    parts = [np.sum(grads[name] * along[name]) / length for name in at]
    scale = sum(np.sum(np.abs(grads[name] * along[name])) for name in at) / length
    assert abs(sum(parts) - numeric) <= 1e-6 * scale + 1e-9


@given(case=cases(), a=st.floats(-4, 4, width=16), b=st.floats(-4, 4, width=16))
def test_backward_is_linear(case, a, b, asarray, on_host, close):
    host = case.problem()
    other = case._replace(seed=case.seed + 1).problem()
    placed = host.move(asarray)
    _, _, tape = placed.forward()

    def back(dy, dstate):
        back = placed.but(dy=asarray(dy), dstate=mapped(asarray, dstate))
        return back.gradients(tape)

    one = on_host(back(host.dy, host.dstate))
    two = on_host(back(other.dy, other.dstate))
    sums = iter(
        [a * d + b * e for d, e in zip(leaves(host.dstate), leaves(other.dstate), strict=True)]
    )
    both = back(a * host.dy + b * other.dy, mapped(lambda _: next(sums), host.dstate))
    expected = {k: a * one[k].astype(float) + b * two[k].astype(float) for k in one}
    scales = {k: abs(a) * np.abs(one[k]).max() + abs(b) * np.abs(two[k]).max() for k in one}
    close(both, expected, scales=scales)


@given(case=cases(), data=st.data())
def test_the_order_of_a_batch_does_not_matter(case, data, asarray, on_host, close):
    order = data.draw(st.permutations(range(case.m)), label="order")
    host = case.problem()
    expected = on_host(host.move(asarray).results())
    scales = dict(expected)
    for name in expected.keys() - host.params.keys():
        expected[name] = expected[name][..., order]
    # What examples add to the gradient of a parameter may cancel.
    ones = [host.batch([j]).results() for j in range(case.m)]
    scales |= {name: sum(np.abs(one[name]) for one in ones) for name in host.params}
    close(host.batch(order).move(asarray).results(), expected, scales=scales)


@given(case=cases())
# A state that stays, and the gate of a huge one: both once gave NaN.
@example(case=Case(sc.RNN(1), 1, 1, 1, [0], "huge", 0))
@example(case=Case(sc.LSTM(1, layers=2), 2, 1, 1, None, "huge", 0))
@example(case=Case(sc.GRU(1, layers=2), 2, 1, 1, None, "huge", 0))
def test_what_is_finite_stays_finite(case, asarray, on_host):
    # Warnings are errors, so nothing may overflow on the way either.
    for name, value in on_host(case.problem().move(asarray).results()).items():
        assert np.all(np.isfinite(value)), name


@given(case=cases())
def test_kind_stays_and_arguments_too(case, asarray, xp, device, dtype, on_host):
    placed = case.problem().move(asarray)
    before = on_host(placed.arrays())
    for name, value in placed.results().items():
        assert sc.arrays.namespace(value) is xp, name
        assert compat.device(value) == device, name
        assert value.dtype == dtype, name
    same_bits(on_host(placed.arrays()), before)


# --- losses and clipping ------------------------------------------------------------------


@given(
    shape=st.tuples(size, size, size),
    values=st.sampled_from(ANY),
    kind=st.sampled_from(["classes", "distribution"]),
    masked=st.booleans(),
    shift=st.floats(-100, 100, width=16),
    seed=seeds,
)
def test_cross_entropy_ranks_and_does_not_weigh(
    shape, values, kind, masked, shift, seed, asarray, to_host, assert_close
):
    rng = np.random.default_rng(seed)
    n_steps, n_y, m = shape
    logits = fill(rng, shape, values)
    if kind == "classes":
        targets = asarray(rng.integers(n_y, size=(n_steps, m)))
    else:
        drawn = rng.random(shape) + 0.01
        targets = asarray(drawn / drawn.sum(axis=1, keepdims=True))
    mask = asarray(rng.random((n_steps, m)) < 0.7) if masked else None
    loss, dlogits = sc.cross_entropy(asarray(logits), targets, mask)
    loss, dlogits = to_host(loss), to_host(dlogits)
    assert np.isfinite(loss)
    assert loss >= 0
    assert np.all(np.abs(dlogits) <= 1)
    eps = float(np.finfo(dlogits.dtype).eps)
    assert np.all(np.abs(dlogits.sum(axis=1)) <= 8 * n_y * eps)
    # Adding to all logits of a step changes nothing, as far as adding does not round.
    again, dagain = sc.cross_entropy(asarray(logits + shift), targets, mask)
    rounded = float(np.max(np.abs(logits), initial=abs(shift)))
    if rounded < 1e3:
        assert_close(again, loss, kind="bptt", scale=1.0 + rounded)
        assert_close(dagain, dlogits, kind="bptt", scale=1.0 + rounded)


@given(
    sizes=st.lists(size, min_size=1, max_size=4),
    values=st.sampled_from(ANY),
    max_norm=st.floats(2**-10, 2**10, width=16),
    seed=seeds,
)
def test_clipping_keeps_the_direction(sizes, values, max_norm, seed, asarray, on_host, to_host):
    rng = np.random.default_rng(seed)
    host = {str(k): fill(rng, (n, 2), values) for k, n in enumerate(sizes)}
    placed = {name: asarray(g) for name, g in host.items()}
    clipped, norm = sc.clip_by_global_norm(placed, max_norm)
    given = {name: g.astype(float) for name, g in on_host(placed).items()}
    clipped = on_host(clipped)
    eps = float(np.finfo(to_host(norm).dtype).eps)
    exact = math.hypot(*np.concatenate([g.ravel() for g in given.values()]))
    smallest = float(np.finfo(to_host(norm).dtype).smallest_normal)
    assert abs(float(norm) - exact) <= 32 * eps * exact + smallest
    after = math.hypot(*np.concatenate([g.astype(float).ravel() for g in clipped.values()]))
    assert after <= max_norm * (1 + 32 * eps)
    scale = min(1.0, max_norm / exact) if exact > 0 else 1.0
    for name, g in clipped.items():
        np.testing.assert_allclose(
            g.astype(float), scale * given[name], rtol=64 * eps, atol=smallest
        )


# --- checkpoints and masks ----------------------------------------------------------------


@given(case=cases(), momentum=st.booleans(), count=st.integers(0, 2**31 - 1))
def test_a_checkpoint_is_what_was_saved(case, momentum, count, asarray, on_host, to_host):
    problem = case.problem().move(asarray)
    rng = np.random.default_rng(case.seed)
    moments = [
        {name: asarray(fill(rng, tuple(p.shape), "mixed")) for name, p in problem.params.items()}
        for _ in range(2)
    ]
    number = asarray(np.asarray(count))
    counts = {name: asarray(np.asarray(k)) for k, name in enumerate(problem.params)}
    opt_state = SGDState(number, moments[0]) if momentum else AdamState(number, counts, *moments)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        sc.save_checkpoint(
            path, problem.params, opt_state=opt_state, state=(problem.state, ()), config={"k": 1}
        )
        for like in (None, problem.x):
            loaded = sc.load_checkpoint(path, like=like)
            assert loaded.config == {"k": 1}
            assert type(loaded.opt_state) is type(opt_state)
            assert structure(loaded.state[0]) == structure(problem.state)
            assert loaded.state[1] == ()
            assert int(loaded.opt_state.count) == count
            pairs = [(loaded.params, problem.params)]
            pairs += list(zip(loaded.opt_state[1:], opt_state[1:], strict=True))
            pairs.append((named("state", loaded.state[0]), named("state", problem.state)))
            for got, saved in pairs:
                assert got.keys() == saved.keys()
                for name, value in on_host(saved).items():
                    again = to_host(got[name])
                    assert again.dtype == value.dtype, name
                    assert again.tobytes() == value.tobytes(), name  # -0.0 too


@given(
    shape=st.tuples(size, size, size),
    rate=st.floats(0.0, 0.99),
    seed=st.integers(0, 2**64 - 1),
    draw=st.integers(0, 2**32 - 1),
)
def test_dropout_is_one_mask_a_draw(shape, rate, seed, draw, asarray, to_host):
    layer = sc.Dropout(rate, seed=seed)
    x = asarray(np.ones(shape))
    y = to_host(layer.forward({}, x, draw=draw)[0])
    again, _, tape = layer.forward({}, x, draw=draw)
    np.testing.assert_array_equal(to_host(again), y)
    np.testing.assert_array_equal(to_host(layer.backward({}, tape, x)[0]), y)
    keep = random.keep_mask(shape, rate, seed=seed, draw=random.Draw(draw), like=np.zeros(0))
    np.testing.assert_array_equal(y != 0, keep)
    kept = 1 - round(rate * 2**16) / 2**16
    np.testing.assert_allclose(y[keep], 1 / kept, rtol=1e-6)


@dataclasses.dataclass(frozen=True)
class OwnDrop(Scaled):
    """A user's layer that drops, by the number that its container gives it."""

    drops = True

    def forward(self, params, x, state=None, lengths=None, mask=None, draw=None):
        y, _, _ = sc.Dropout(0.5).forward({}, x, draw=draw)
        return super().forward(params, y)


def droppers(layer):
    """Return how many layers of a model drop."""
    if isinstance(layer, sc.Sequential):
        return sum(map(droppers, layer.layers))
    return droppers(layer.layer) if isinstance(layer, sc.Sharded) else int(layer.drops)


@pytest.mark.host
@given(
    layer=nested(
        st.one_of(
            # The seeds are equal: only its place tells a Dropout from another.
            st.builds(sc.Dropout, st.just(0.5), seed=st.integers(0, 1)),
            st.builds(OwnDrop),
            st.builds(sc.RNN, st.just(16), layers=st.integers(1, 2)),
        ),
        leaves=8,
    ),
    draws=st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=2, unique=True),
)
def test_no_example_of_any_dropout_has_a_mask_that_another_one_has(layer, draws):
    seen, keep_mask = [], random.keep_mask

    def noted(shape, *given, **options):
        mask = keep_mask(shape, *given, **options)
        seen.extend(column.tobytes() for column in mask.reshape(-1, shape[-1]).T)
        return mask

    x = np.ones((4, 16, 5))  # 64 bits an example
    params = layer.init(16, like=x, rng=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random, "keep_mask", noted)
        for draw in draws:
            layer.forward(params, x, draw=draw)
    assert len(seen) == len(draws) * droppers(layer) * 5
    assert len(set(seen)) == len(seen)


@pytest.mark.host
@given(
    rate=st.floats(0.0, 0.99),
    seeds=st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=2, unique=True),
    draws=st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=2, unique=True),
)
def test_masks_keep_their_part_and_are_independent(rate, seeds, draws):
    n = 20_000
    masks = [
        random.keep_mask((n,), rate, seed=seed, draw=random.Draw(draw), like=np.zeros(0))
        for seed in seeds
        for draw in draws
    ]
    kept = 1 - round(rate * 2**16) / 2**16
    sigma = math.sqrt(kept * (1 - kept) / n)
    for number, mask in enumerate(masks):
        assert abs(mask.mean() - kept) <= 6 * sigma
        for other in masks[:number]:
            both = np.mean((mask - kept) * (other - kept))
            assert abs(both) <= 6 * sigma * math.sqrt(kept * (1 - kept)) + 6e-4 * (kept > 0.99)
