"""Draws: no two Dropouts share a mask, however a model is nested, sharded, batched or cut."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from problems import M

import seqcore as sc
from seqcore import random
from seqcore.random import Draw

pytestmark = pytest.mark.usefixtures("unoptimized")

# An example of one mask has 48 entries: no two are alike by chance.
T, N = 3, 16
DROPOUT = sc.Dropout(0.5, seed=7)  # all of one seed, so that only their places differ


@dataclass(frozen=True)
class Holder:
    """A user's layer that holds a Dropout and hands it the draw that it is given."""

    inner: Any = DROPOUT

    name = "holder"
    n_out = None
    keeps_time = True
    drops = True

    def shapes(self):
        return {}

    def init(self, n_in, *, like, rng):
        return {}

    def forward(self, params, x, state=None, lengths=None, mask=None, draw=None):
        return self.inner.forward(params, x, state, lengths, mask, draw=draw)

    def backward(self, params, tape, dy, dstate=None, wrt=None):
        return self.inner.backward(params, tape, dy, dstate, wrt)

    def predict(self, params, x, state=None, lengths=None, mask=None):
        return self.inner.predict(params, x, state, lengths, mask)

    def bind(self, params, m=1):
        return self.inner.bind(params, m)


def models(*leaves):
    """Models of nested Sequential and Sharded whose leaves are some of those given."""
    return st.recursive(
        st.sampled_from(leaves),
        lambda inner: (
            st.lists(inner, min_size=1, max_size=3).map(lambda some: sc.Sequential(*some))
            | st.builds(sc.Sharded, inner, st.integers(1, M + 1), threads=st.just(1))
        ),
        max_leaves=6,
    )


def whole(model):
    """Return a model without its shards."""
    if isinstance(model, sc.Sharded):
        return whole(model.layer)
    if isinstance(model, sc.Sequential):
        return sc.Sequential(*map(whole, model.layers))
    return model


def dropouts(model):
    """Count the Dropouts of a model."""
    if isinstance(model, sc.Sequential):
        return sum(map(dropouts, model.layers))
    inner = getattr(model, "layer", None) or getattr(model, "inner", None)
    return dropouts(inner) if inner is not None else int(isinstance(model, sc.Dropout))


def masks_of(model, x, draw, to_host):
    """Return each mask of a call of forward, as it was drawn: (T, n, examples)."""
    drawn = []
    plain = random.keep_mask

    def keep_mask(*given, **named):
        drawn.append(plain(*given, **named))
        return drawn[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random, "keep_mask", keep_mask)
        model.forward({}, x, draw=draw)
    return [to_host(mask) for mask in drawn]


@pytest.fixture(scope="session")
def ones(asarray):
    return lambda *shape: asarray(np.ones(shape))


# --- a mask of its own for each ---------------------------------------------------------


@given(
    model=models(DROPOUT, Holder(), Holder(sc.Sequential(DROPOUT, DROPOUT))),
    draws=st.lists(
        st.integers(-(2**33), 2**33), min_size=1, max_size=2, unique_by=lambda d: d % 2**32
    ),
)
def test_no_two_dropouts_and_no_two_examples_share_a_mask(model, draws, ones, to_host):
    masks = [mask for draw in draws for mask in masks_of(model, ones(T, N, M), draw, to_host)]
    columns = [mask[..., j].tobytes() for mask in masks for j in range(mask.shape[-1])]
    assert len(columns) == len(draws) * dropouts(model) * M
    assert len(set(columns)) == len(columns)


@pytest.mark.parametrize(
    "model",
    [
        sc.Sequential(DROPOUT, sc.Sequential(DROPOUT)),
        sc.Sequential(sc.Sequential(DROPOUT), sc.Sequential(DROPOUT)),
        sc.Sharded(sc.Sequential(sc.Sharded(DROPOUT, 2), DROPOUT), 2),
        sc.Sequential(Holder(), Holder(), sc.Sharded(Holder(), 3)),
    ],
    ids=["nested", "twins", "sharded", "a user's"],
)
def test_the_factors_of_a_model_are_those_of_different_masks(model, ones, to_host):
    # By what comes out: with one mask twice as much is kept as with two that are independent.
    x = ones(T, 64, 2 * M)
    y = to_host(model.forward({}, x, draw=3)[0])
    kept = 0.5 ** dropouts(model)
    sigma = math.sqrt(kept * (1 - kept) / y.size)
    assert abs(np.mean(y != 0) - kept) < 5 * sigma
    assert set(np.unique(y)) == {0.0, 1 / kept}


def test_places_of_a_tree_are_all_different():
    paths = [path for depth in range(5) for path in itertools.product(range(6), repeat=depth)]
    places = set()
    for path in paths:
        draw = Draw(1)
        for index in path:
            draw = draw.child(index)
        places.add(draw.place)
    assert len(places) == len(paths)
    assert all(0 <= place < 2**64 for place in places)


@pytest.mark.host
def test_numbers_for_other_layers_are_different_at_each_place_in_each_shard_and_draw():
    like = np.zeros(0)
    draws = [
        Draw(number).child(index).shifted(first)
        for number in range(8)
        for index in range(8)
        for first in range(8)
    ]
    numbers = {draw.plain(like) for draw in draws}
    assert len(numbers) == len(draws)
    for draw in draws[::37]:
        array = draw._replace(number=np.asarray(draw.number))
        assert int(array.plain(like)) == draw.plain(like)


# --- the same mask everywhere -----------------------------------------------------------


@given(model=models(DROPOUT), count=st.integers(1, M + 1), draw=st.integers(0, 2**32 - 1))
def test_shards_have_the_masks_of_the_model(model, count, draw, ones, to_host):
    x = ones(T, N, M)
    expected = to_host(whole(model).forward({}, x, draw=draw)[0])
    for sharded in (model, sc.Sharded(model, count), sc.Sharded(sc.Sharded(model, 2), count)):
        y, _, tape = sharded.forward({}, x, draw=draw)
        np.testing.assert_array_equal(to_host(y), expected)
        np.testing.assert_array_equal(to_host(sharded.backward({}, tape, x)[0]), expected)


@given(
    model=models(DROPOUT),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    times=st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
def test_a_mask_does_not_depend_on_the_rest_of_the_batch_or_on_time(
    model, sizes, times, ones, to_host
):
    (few, many), (short, long) = sorted(sizes), sorted(times)
    y = to_host(model.forward({}, ones(long, N, many), draw=5)[0])
    part = to_host(model.forward({}, ones(short, N, few), draw=5)[0])
    np.testing.assert_array_equal(part, y[:short, :, :few])


def test_lengths_and_masks_leave_the_masks_of_dropout_as_they_are(ones, asarray, to_host, rng):
    model = sc.Sequential(DROPOUT, sc.Sharded(sc.Sequential(DROPOUT), 2))
    x = ones(T, N, M)
    whole = to_host(model.forward({}, x, draw=5)[0])
    steps = rng.random((T, M)) < 0.6
    y = to_host(model.forward({}, x, mask=asarray(steps), draw=5)[0])
    np.testing.assert_array_equal(y, np.where(steps[:, None, :], whole, 0.0))


MODEL = sc.Sequential(DROPOUT, sc.Sharded(sc.Sequential(DROPOUT, Holder()), 2), Holder())
INTEGERS = [f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)]
NUMBERS = [0, 3, -1, 127, 255, 2**31 - 1, 2**31, -(2**31), 2**32 + 7]


def integers_of(xp, device, number):
    """The number as 0-d arrays of each integer dtype that holds it."""
    for name in INTEGERS:
        bounds = np.iinfo(name)
        if bounds.min <= number <= bounds.max and hasattr(xp, name):
            yield xp.asarray(number, dtype=getattr(xp, name), device=device)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_draw_is_a_number_or_an_array_of_any_integers(number, xp, device, ones, to_host):
    x = ones(T, N, M)
    expected = to_host(MODEL.forward({}, x, draw=number)[0])
    count = 0
    for draw in integers_of(xp, device, number):
        np.testing.assert_array_equal(to_host(MODEL.forward({}, x, draw=draw)[0]), expected)
        count += 1
    assert count


@pytest.mark.only("jax")
@pytest.mark.parametrize("number", [-1, 2**31])
def test_a_traced_draw_is_the_number(number, xp, device, ones, to_host):
    import jax

    x, model = ones(T, N, 2), sc.Sequential(DROPOUT, Holder())  # compiled for each dtype
    expected = to_host(model.forward({}, x, draw=number)[0])
    run = jax.jit(lambda x, draw: model.forward({}, x, draw=draw)[0])
    for draw in integers_of(xp, device, number):
        np.testing.assert_array_equal(to_host(run(x, draw)), expected)


# --- forward asks for a draw, predict drops nothing -------------------------------------


@given(model=models(DROPOUT, Holder(), sc.Dropout(0.0)))
def test_forward_of_what_drops_needs_a_draw(model, ones, to_host):
    x = ones(T, N, M)
    drops = bool(masks_of(model, x, 1, to_host))
    for one in (sc.Sequential(model), sc.Sharded(model, 2)):
        assert one.drops is drops
        if not drops:
            np.testing.assert_array_equal(to_host(one.forward({}, x)[0]), to_host(x))
            continue
        text = (
            f"{one.name}: draw is None, expected a number: `forward` is for training, and this "
            "layer has dropout; `predict` drops nothing"
        )
        for asked in ({}, {"draw": None}):
            with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
                one.forward({}, x, **asked)


@given(model=models(DROPOUT, Holder()))
def test_predict_and_bind_drop_nothing(model, ones, to_host):
    x = ones(T, N, M)
    bound = model.bind({}, M)
    for y in (model.predict({}, x)[0], bound.predict(x)[0]):
        np.testing.assert_array_equal(to_host(y), to_host(x))
    np.testing.assert_array_equal(to_host(bound(x[0, ...])[0]), to_host(x)[0])


def test_what_is_bound_predicts_as_its_model_does(asarray, close, rng):
    # Parameters of several layers: a bound model checks the first only.
    model = sc.Sequential(sc.Dense(3), DROPOUT, sc.Sequential(sc.GRU(4), DROPOUT), sc.Dense(2))
    x = asarray(rng.standard_normal((T, N, M)))
    params = model.init(N, like=x, rng=0)
    for one in (model, sc.Sharded(model, 2)):
        y, _ = one.bind(params, M).predict(x)
        close({"y": y}, {"y": model.predict(params, x)[0]})


# --- what is not a draw -----------------------------------------------------------------

LAYERS = {
    "dropout": DROPOUT,
    "no rate": sc.Dropout(0.0),
    "dense": sc.Dense(2),
    "rnn": sc.RNN(2),
    "lstm": sc.LSTM(2),
    "gru": sc.GRU(2, layers=2),
    "embedding": sc.Embedding(2),
    "sequential": sc.Sequential(sc.Dense(2), sc.Dense(2)),
    "sharded": sc.Sharded(sc.Dense(2), 2),
}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_draws_that_are_not_integers_are_refused_by_every_layer(layer, asarray, foreign, rng):
    tokens = isinstance(layer, sc.Embedding)
    x = asarray(rng.integers(4, size=(T, M)) if tokens else np.ones((T, 4, M)))
    params = layer.init(4, like=asarray(0.0), rng=0)
    wrong, flag = asarray(0.0), asarray(np.asarray(True))
    for draw, kind, text in (
        *[
            (d, TypeError, f"is {d!r}, expected a whole number")
            for d in (1.0, "1", True, [1], (1,))
        ],
        *[(d, TypeError, f"has dtype {d.dtype}, expected an integer dtype") for d in (wrong, flag)],
        (asarray(np.asarray([1])), ValueError, "has shape (1,), expected ()"),
        (foreign, TypeError, "is an array of "),
    ):
        with pytest.raises(kind, match=f"^{re.escape(f'{layer.name}: draw {text}')}"):
            layer.forward(params, x, draw=draw)


# --- statistics -------------------------------------------------------------------------


@pytest.mark.host
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_masks_of_a_model_keep_their_part_and_are_independent(rate):
    dropout = sc.Dropout(rate)
    model = sc.Sharded(sc.Sequential(dropout, sc.Sequential(dropout, dropout)), 3, threads=1)
    shape = (8, 50, 250)
    masks = []
    for draw in range(3):
        parts = masks_of(model, np.ones(shape), draw, np.asarray)
        masks += [np.concatenate(parts[place::3], axis=-1) for place in range(3)]
    n, kept = math.prod(shape), 1 - round(rate * 2**16) / 2**16
    variance = kept * (1 - kept)
    for number, mask in enumerate(masks):
        assert mask.shape == shape
        assert abs(mask.mean() - kept) < 5 * math.sqrt(variance / n)
        by_example = mask.reshape(-1, shape[-1]).mean(axis=0)
        assert np.all(abs(by_example - kept) < 5.5 * math.sqrt(variance * shape[-1] / n))
        centred = mask - kept
        neighbours = [np.roll(mask, 1, axis=axis) for axis in range(3)]
        for other in (*masks[:number], *neighbours):
            assert abs(np.mean(centred * (other - kept))) < 5 * variance / math.sqrt(n)


@pytest.mark.parametrize("kind", [np.int8, np.uint32, np.int64])
def test_a_numpy_integer_is_a_draw_beside_any_library(kind, asarray, to_host):
    x = asarray(np.ones((3, 4, 5)))
    whole, _, _ = sc.Dropout(0.5).forward({}, x, draw=7)
    scalar, _, _ = sc.Dropout(0.5).forward({}, x, draw=kind(7))
    np.testing.assert_array_equal(to_host(scalar), to_host(whole))


class Asked:
    """A user's layer that notes what it is asked for."""

    name, n_out, keeps_time = "asked", None, True

    def __init__(self):
        self.draws, self.wanted = [], []

    def shapes(self):
        return {}

    def init(self, n_in, *, like, rng):
        return {}

    def forward(self, params, x, state=None, lengths=None, mask=None, draw=None):
        self.draws.append(draw)
        return x, (), ()

    def backward(self, params, tape, dy, dstate=None, wrt=None):
        self.wanted.append(wrt)
        return dy, {}, ()


@pytest.mark.host
def test_a_users_layer_gets_numbers_from_0_and_no_name_but_its_own(rng):
    asked = Asked()
    model = sc.Sequential(asked, sc.Dense(2))
    x = rng.standard_normal((3, 2, 4))
    params = model.init(2, like=x, rng=0)
    for draw in range(20):
        y, _, tape = model.forward(params, x, draw=draw)
        model.forward(params, x, draw=np.asarray(draw))
    assert all(0 <= int(draw) < 2**31 for draw in asked.draws)
    assert len({int(draw) for draw in asked.draws}) == 20
    model.backward(params, tape, y, wrt=["x", "state"])
    model.backward(params, tape, y, wrt=["x"])
    assert asked.wanted == [None, None]  # of this layer that is all there is
