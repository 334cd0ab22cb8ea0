"""Threefry against its published vectors, and dropout: masks, gradients, errors."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from judging import exactly
from problems import Scaled

import seqcore as sc
from seqcore import random
from seqcore.random import Draw

HOST = np.zeros(0)  # stands for NumPy in float64
SHAPES = [(1,), (1, 1, 1), (3,), (5, 7), (2, 3, 5), (4, 8, 16), (64, 33)]
SEEDS = [0, 1, 2**31, 2**32, 2**32 + 1, 2**63, 2**64 - 1]


def signed(words):
    return np.asarray(words, dtype=np.uint32).view(np.int32)


def int32(values, xp, device):
    return xp.asarray(np.asarray(values, dtype=np.int32), dtype=xp.int32, device=device)


# --- the generator ----------------------------------------------------------------------

# Random123, kat_vectors, threefry2x32 with 20 rounds: counter, key, result. Source: D. E.
# Shaw Research; the same are in the tests of JAX.
ONES = 0xFFFFFFFF
KNOWN = [
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((ONES, ONES), (ONES, ONES), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_threefry_gives_the_published_words(counter, key, expected, xp, device, to_host):
    # Several at once, so that the place in the array does not matter.
    x0, x1 = (int32(signed([word, 5, word]), xp, device) for word in counter)
    got = random.threefry(key, x0, x1)
    for words, wanted in zip(got, expected, strict=True):
        assert words.dtype == xp.int32
        words = to_host(words).view(np.uint32)
        assert words[0] == words[2] == wanted
        assert words[1] != wanted


def test_threefry_leaves_its_counters_alone(xp, device, to_host):
    x0, x1 = int32([1, -2, 3], xp, device), int32([4, 5, -6], xp, device)
    random.threefry((7, 8), x0, x1)
    np.testing.assert_array_equal(to_host(x0), [1, -2, 3])
    np.testing.assert_array_equal(to_host(x1), [4, 5, -6])


@pytest.mark.host
def test_threefry_is_a_permutation_under_each_key():
    # A cipher: 2^16 counters give 2^16 different blocks.
    n = 2**16
    counter = np.arange(n, dtype=np.int32)
    for key in ((0, 0), (1, 0), (ONES, 3)):
        x0, x1 = random.threefry(key, counter, np.zeros(n, dtype=np.int32))
        blocks = x0.view(np.uint32).astype(np.uint64) << 32 | x1.view(np.uint32)
        assert np.unique(blocks).size == n


@pytest.mark.host
def test_each_bit_of_threefry_is_as_often_set_as_not():
    n = 2**16
    counter = np.arange(n, dtype=np.int32)
    for words in random.threefry((1, 2), counter, np.full(n, 3, dtype=np.int32)):
        bits = np.unpackbits(words.view(np.uint8).reshape(n, 4), axis=1)
        assert np.all(np.abs(bits.mean(axis=0) - 0.5) < 5 * 0.5 / math.sqrt(n))


# --- masks ------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "seed"), list(zip(SHAPES, SEEDS, strict=True)))
def test_masks_are_the_same_everywhere(shape, seed, asarray, assert_close):
    expected = random.keep_mask(shape, 0.3, seed=seed, draw=Draw(4), like=HOST)
    got = random.keep_mask(shape, 0.3, seed=seed, draw=Draw(4), like=asarray(0.0))
    assert_close(got, expected, kind="cell")


@pytest.mark.host
def test_masks_stay_as_they_were():
    # What an older version dropped, a newer one that resumes must drop too.
    draw = Draw(2, place=5 * 2**40 + 9, first=4)
    mask = random.keep_mask((5, 7), 0.5, seed=2**40 + 3, draw=draw, like=HOST)
    key = random.threefry((3 ^ 9, 2**8 ^ 5 * 2**8), int32([2], np, "cpu"), int32([0], np, "cpu"))
    for j in range(7):  # an example
        for i in range(5):  # an entry: four of them share a block
            x0, x1 = (
                int(word[0]) % 2**32
                for word in random.threefry(
                    key, int32([i // 4], np, "cpu"), int32([4 + j], np, "cpu")
                )
            )
            quarter = (x0 % 2**16, x0 // 2**16, x1 % 2**16, x1 // 2**16)[i % 4]
            assert mask[i, j] == (quarter >= 2**15)
    assert np.packbits(mask).tobytes().hex() == "2add4974a0"


DRAWS = [0, 1, -1, 77, 2**31 - 1, 2**31, -(2**31), 2**32 - 1, 2**32 + 5, 2**40 + 9]


@pytest.mark.parametrize("draw", DRAWS)
def test_a_draw_is_a_number_or_an_array_of_it(draw, xp, device, asarray, to_host):
    like = asarray(0.0)
    expected = random.keep_mask((5, 7), 0.5, seed=3, draw=Draw(draw % 2**32), like=HOST)
    given = [draw, asarray(np.asarray(draw))]
    given += [
        xp.asarray(draw, dtype=getattr(xp, dtype), device=device)
        for dtype in ("int32", "uint32", "uint64", "int16", "uint8")
        if np.iinfo(dtype).min <= draw <= np.iinfo(dtype).max
    ]
    for one in given:
        drawn = Draw.of("test", one, like)
        got = random.keep_mask((5, 7), 0.5, seed=3, draw=drawn, like=like)
        np.testing.assert_array_equal(to_host(got), expected, err_msg=repr(one))


@pytest.mark.host
def test_other_draws_and_seeds_give_other_masks():
    masks = {
        random.keep_mask((40,), 0.5, seed=seed, draw=Draw(draw), like=HOST).tobytes()
        for seed in SEEDS
        for draw in range(20)
    }
    assert len(masks) == 20 * len(SEEDS)


@pytest.mark.host
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9, 2**-10, 1 - 2**-10])
def test_a_mask_keeps_its_part(rate):
    shape = (1000, 1000)  # entries, examples
    n = math.prod(shape)
    mask = random.keep_mask(shape, rate, seed=1, draw=Draw(2), like=HOST)
    sigma = math.sqrt(rate * (1 - rate) / n)
    assert abs(mask.mean() - (1 - rate)) < 5 * sigma + 2**-17
    # Neighbours are apart: in a block of four entries, in the next block, in the next example,
    # in the next draw, at the next place.
    others = [
        random.keep_mask(shape, rate, seed=1, draw=draw, like=HOST)
        for draw in (Draw(3), Draw(2).child(0), Draw(2, place=1))
    ]
    centred = mask - mask.mean()
    for twin in (*[np.roll(mask, k, axis=0) for k in (1, 2, 4)], np.roll(mask, 1, axis=1), *others):
        covariance = np.mean(centred * (twin - twin.mean()))
        assert abs(covariance) < 5 * rate * (1 - rate) / math.sqrt(n)


@pytest.mark.host
def test_the_smallest_and_the_largest_rates():
    n = 2**20
    for rate, dropped in ((0.0, 0.0), (2**-18, 0.0), (2**-16, 2**-16), (1 - 2**-16, 1 - 2**-16)):
        mask = random.keep_mask((2**10, 2**10), rate, seed=1, draw=Draw(0), like=HOST)
        assert np.mean(~mask) == pytest.approx(dropped, abs=5 * 2**-8 / math.sqrt(n))


# --- the layer --------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.25, 0.5, 0.7])
def test_what_is_kept_is_scaled(rate, asarray, assert_close, rng):
    x = rng.standard_normal((5, 3, 7))
    keep = random.keep_mask(x.shape, rate, seed=11, draw=Draw(2), like=HOST)
    y, state, _ = sc.Dropout(rate, seed=11).forward({}, asarray(x), draw=2)
    rounded = round(rate * 2**16) / 2**16
    assert_close(y, keep * x / (1 - rounded), kind="cell")
    assert state == ()


def test_backward_drops_the_same(asarray, assert_close, rng):
    layer = sc.Dropout(0.4, seed=1)
    x, dy = rng.standard_normal((2, 5, 3, 7))
    keep = random.keep_mask(x.shape, 0.4, seed=1, draw=Draw(9), like=HOST)
    _, _, tape = layer.forward({}, asarray(x), draw=9)
    dx, grads, dstate = layer.backward({}, tape, asarray(dy))
    assert_close(dx, keep * dy / (1 - round(0.4 * 2**16) / 2**16), kind="cell")
    assert grads == {}
    assert dstate == ()


@pytest.mark.host
def test_dropout_backward_is_the_derivative(check_gradients, rng):
    model = sc.Sequential(sc.Dense(4), sc.Dropout(0.4), sc.Dense(3))
    params = {
        name: rng.standard_normal(value.shape)
        for name, value in model.init(5, like=HOST, rng=0).items()
    }
    x, dy = rng.standard_normal((2, 5, 6)), rng.standard_normal((2, 3, 6))
    dx, grads, _ = model.backward(params, model.forward(params, x, draw=1)[2], dy)

    def loss(at):
        own = {name: at[name] for name in params}
        return np.sum(dy * model.forward(own, at["x"], draw=1)[0])

    check_gradients(loss, {"x": x, **params}, {"x": dx, **grads})


@pytest.mark.parametrize("draw", [None, 3])
def test_without_a_rate_nothing_happens(draw, asarray, to_host, rng):
    layer = sc.Dropout(0.0)
    x, dy = rng.standard_normal((2, 5, 3, 7))
    y, _, tape = layer.forward({}, asarray(x), draw=draw)
    np.testing.assert_array_equal(to_host(y), to_host(asarray(x)))
    dx, _, _ = layer.backward({}, tape, asarray(dy))
    np.testing.assert_array_equal(to_host(dx), to_host(asarray(dy)))


def test_each_dropout_of_a_model_has_its_own_masks(asarray, to_host):
    model = sc.Sequential(sc.Dropout(0.5), sc.Dropout(0.5), sc.Dropout(0.5, seed=77))
    assert [layer.seed for layer in model.layers] == [0, 0, 77]
    x = asarray(np.ones((4, 5, 7)))
    _, _, tape = model.forward({}, x, draw=0)
    factors = [to_host(factor) for factor, _ in tape.kept]
    for one in range(3):
        for other in range(one):
            assert np.any(factors[one] != factors[other])


def test_a_model_drops_what_its_layers_drop(asarray, assert_close, to_host):
    x = asarray(np.ones((4, 5, 7)))
    model = sc.Sequential(sc.Dropout(0.5), sc.Dropout(0.2, seed=8))
    y, _, _ = model.forward({}, x, draw=6)
    first = sc.Dropout(0.5).forward({}, x, draw=Draw(6).child(0))[0]
    second = sc.Dropout(0.2, seed=8).forward({}, first, draw=Draw(6).child(1))[0]
    assert_close(y, to_host(second), kind="cell", scale=0.0)
    assert_close(model.predict({}, x)[0], to_host(x), kind="cell", scale=0.0)


def test_a_model_leaves_the_seeds_of_its_layers_alone():
    layers = sc.Dropout(0.1), sc.GRU(3), sc.Dropout(0.2, seed=5)
    assert sc.Sequential(*layers).layers == layers


# --- errors -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: sc.Dropout(1.0), "dropout: rate is 1.0, expected 0 <= rate < 1"),
        (lambda: sc.Dropout(-0.1), "dropout: rate is -0.1, expected 0 <= rate < 1"),
        (lambda: sc.Dropout(math.nan), "dropout: rate is nan, expected 0 <= rate < 1"),
        (lambda: sc.Dropout(0.1, seed=-1), "dropout: seed is -1, expected 0 <= seed < 2^64"),
        (
            lambda: sc.Dropout(0.1, seed=2**64),
            f"dropout: seed is {2**64}, expected 0 <= seed < 2^64",
        ),
    ],
)
def test_rates_and_seeds_out_of_range_are_refused(make, text):
    with pytest.raises(ValueError, match=exactly(text)):
        make()


def test_a_rate_that_rounds_to_one_is_refused():
    # Masks have 16 bits an element; 1 / (1 - rate) would be infinite.
    with pytest.raises(ValueError, match=r"^dropout: rate is 0\.99999999, which rounds to 1"):
        sc.Dropout(0.99999999)


@pytest.mark.parametrize("seed", [1.5, "7", True])
def test_a_seed_that_is_no_whole_number_is_refused(seed):
    text = f"dropout: seed is {seed!r}, expected a whole number"
    with pytest.raises(TypeError, match=exactly(text)):
        sc.Dropout(0.5, seed=seed)


def test_draws_that_are_no_integer_are_refused(asarray, foreign):
    x, layer = asarray(np.ones((2, 3, 5))), sc.Dropout(0.5)
    wrong = asarray(0.0)
    for draw, kind, text in (
        (wrong, TypeError, f"draw has dtype {wrong.dtype}, expected an integer dtype"),
        (asarray(np.asarray([1])), ValueError, "draw has shape (1,), expected ()"),
        *[
            (draw, TypeError, f"draw is {draw!r}, expected a whole number or a 0-d array")
            for draw in (1.0, "1", True, [1])
        ],
    ):
        with pytest.raises(kind, match=f"^{re.escape(f'dropout: {text}')}"):
            layer.forward({}, x, draw=draw)
    with pytest.raises(TypeError, match=r"^dropout: draw is an array of \w+, expected \w+ like x$"):
        layer.forward({}, x, draw=foreign)


def test_wrong_arguments_are_named(asarray):
    layer, x = sc.Dropout(0.5), asarray(np.ones((2, 3, 5)))
    _, _, tape = layer.forward({}, x, draw=0)
    integers = asarray(np.ones((2, 3, 5), dtype=int))
    for call, kind, text in (
        (lambda: layer.forward({"W": x}, x), ValueError, "unexpected parameter 'W'; expected "),
        (lambda: layer.forward({}, integers, draw=0), TypeError, "x has dtype "),
        (lambda: layer.forward({}, x, (x,)), ValueError, "state was given, expected None"),
        (
            lambda: layer.backward({}, tape, x[:1, ...]),
            ValueError,
            "dy has shape (1, 3, 5), expected (2, 3, 5)",
        ),
        (lambda: layer.backward({}, tape, integers), TypeError, "dy has dtype "),
    ):
        with pytest.raises(kind, match=f"^{re.escape(f'dropout: {text}')}"):
            call()


@pytest.mark.parametrize("shape", [(), (4,), (3,), (3, 5), (4, 3), (1, 3, 1)])
def test_a_step_has_the_batch_that_its_layer_was_bound_for(shape, asarray):
    x = asarray(np.ones(shape))
    for model in (sc.Dropout(0.5), sc.Sequential(sc.Dropout(0.5)), sc.Sharded(sc.Dropout(0.5), 2)):
        bound = model.bind({}, 4)
        assert bound(asarray(np.ones((3, 4))))[0].shape == (3, 4)
        with pytest.raises(ValueError, match=r"^dropout: x has shape .*, expected \(n, 4\)"):
            bound(x)


def test_a_sequence_without_a_batch_is_refused(asarray):
    for model in (
        sc.Dropout(0.0),
        sc.Sequential(sc.Dropout(0.0)),
        sc.Sequential(sc.Sequential(Scaled())),
    ):
        params = model.init(3, like=asarray(np.zeros(1)), rng=0)
        for run in (model.forward, model.predict, model.bind(params).predict):
            given = (params,) if run in (model.forward, model.predict) else ()
            with pytest.raises(ValueError, match=r"^\w+: x has shape \(\), expected a batch in"):
                run(*given, asarray(np.ones(())))
