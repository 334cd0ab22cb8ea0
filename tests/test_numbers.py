"""Sizes and rates: NumPy's numbers count as Python's, and infinity is no rate."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from judging import exactly
from problems import recurrent

import seqcore as sc
from seqcore import functional as F

pytestmark = pytest.mark.host

INTEGERS = (np.uint8, np.int16, np.uint32, np.int64, np.uint64)
SIZED = {
    "rnn": sc.RNN,
    "lstm": sc.LSTM,
    "lstm layers": lambda n: sc.LSTM(3, layers=n),
    "lstm recompute": lambda n: sc.LSTM(3, recompute=n),
    "lstm peephole": lambda n: sc.LSTM(n, peephole=True),
    "gru": sc.GRU,
    "gru reset before": lambda n: sc.GRU(n, reset_after=False),
    "dense": sc.Dense,
    "embedding": sc.Embedding,
    "dropout seed": lambda n: sc.Dropout(0.5, seed=n),
    "sharded": lambda n: sc.Sharded(sc.Dense(2), n),
    "sharded threads": lambda n: sc.Sharded(sc.Dense(2), 2, threads=n),
}


@pytest.mark.parametrize("make", SIZED.values(), ids=SIZED)
@pytest.mark.parametrize("kind", INTEGERS)
def test_a_size_has_no_width(make, kind):
    made, plain = make(kind(200)), make(200)
    assert made == plain
    assert repr(made) == repr(plain)
    for field in dataclasses.fields(made):
        assert type(getattr(made, field.name)) is type(getattr(plain, field.name))


@pytest.mark.parametrize("kind", ["rnn-tanh", "lstm", "lstm-peephole", "gru-after", "gru-before"])
def test_a_layer_of_a_narrow_size_is_the_same_layer(kind):
    like, n = np.zeros(0), np.uint8(200)
    wide, narrow = recurrent(kind, 200), recurrent(kind, n)
    expected = wide.init(200, like=like, rng=0)
    params = narrow.init(n, like=like, rng=0)
    for name, value in expected.items():
        np.testing.assert_array_equal(params[name], value)
    x = np.random.default_rng(0).standard_normal((2, 200, 3))
    y, _, tape = narrow.forward(params, x)
    np.testing.assert_array_equal(y, wide.predict(expected, x)[0])
    assert narrow.backward(params, tape, y)[0].shape == x.shape
    step, _ = narrow.bind(params, np.uint8(3))(x[0])
    np.testing.assert_allclose(step, y[0], atol=1e-12)


@pytest.mark.parametrize("make", [sc.Dense, sc.Embedding])
def test_features_have_no_width(make):
    layer, n = make(np.uint8(200)), np.uint8(200)
    for name, value in make(200).init(200, like=np.zeros(0), rng=0).items():
        np.testing.assert_array_equal(layer.init(n, like=np.zeros(0), rng=0)[name], value)


def test_numbers_of_functions_have_no_width():
    lengths = np.asarray([3, 1])
    np.testing.assert_array_equal(
        sc.sequence_mask(lengths, np.uint8(4)), sc.sequence_mask(lengths, 4)
    )
    logits, targets = np.zeros((2, 3, 2)), np.zeros((2, 2), dtype=int)
    narrow, _ = sc.cross_entropy(logits, targets, total=np.uint8(200))
    assert narrow == sc.cross_entropy(logits, targets, total=200)[0]
    p, g = {"w": np.ones(2)}, {"dw": np.ones(2)}
    v, s = F.initialize_adam(p)
    steps = [F.update_parameters_with_adam(p, g, v, s, t)[0]["w"] for t in (200, np.uint8(200))]
    np.testing.assert_array_equal(*steps)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda n: sc.adam(learning_rate=n), "adam: learning_rate is inf"),
        (lambda n: sc.adam(eps=n), "adam: eps is inf"),
        (lambda n: sc.adam(eps_root=n), "adam: eps_root is inf"),
        (lambda n: sc.adamw(weight_decay=n), "adamw: weight_decay is inf"),
        (sc.sgd, "sgd: learning_rate is inf"),
        (sc.constant, "constant: value is inf"),
        (lambda n: sc.cosine(n, 5), "cosine: value is inf"),
        (lambda n: sc.cosine(1.0, 5, final=n), "cosine: final is inf"),
        (lambda n: sc.warmup(5, n), "warmup: after is inf"),
        (
            lambda n: sc.cross_entropy(np.zeros((2, 1)), np.zeros(1, dtype=int), total=n),
            "cross_entropy: total is inf",
        ),
        (
            lambda n: sc.squared_error(np.zeros((2, 1)), np.zeros((2, 1)), total=n),
            "squared_error: total is inf",
        ),
    ],
)
@pytest.mark.parametrize("infinite", [math.inf, np.float32("inf"), 10**400])
def test_infinity_is_refused_by_name(make, text, infinite):
    with pytest.raises(ValueError, match=exactly(f"{text}, expected a finite number")):
        make(infinite)


def test_no_limit_is_a_limit():
    grads = {"w": np.asarray([3.0, 4.0])}
    clipped, norm = sc.clip_by_global_norm(grads, math.inf)
    np.testing.assert_array_equal(clipped["w"], grads["w"])
    assert norm == 5.0


def test_a_rate_of_half_precision_is_a_rate():
    assert sc.Dropout(np.float16(0.25)) == sc.Dropout(0.25)


@pytest.mark.parametrize(
    "call",
    [lambda n: sc.cosine(0.1, n), lambda n: sc.warmup(n, 0.1), sc.LSTM, sc.Dense],
)
def test_a_number_beyond_all_arrays_is_refused(call):
    with pytest.raises(ValueError, match=r"has \d+ bits, expected 63$"):
        call(10**30)


@pytest.mark.parametrize("loss", [sc.cross_entropy, sc.squared_error])
@pytest.mark.parametrize("total", [1e39, 1e-60])
def test_a_total_that_the_dtype_cannot_hold_is_refused(loss, total):
    y = np.ones((2, 3, 4), dtype=np.float32)
    name = loss.__name__
    text = f"{name}: total is {total}, which float32 cannot hold"
    with pytest.raises(ValueError, match=exactly(text)):
        loss(y, y / 3, total=total)
    loss(y.astype("float64"), y.astype("float64") / 3, total=total)


@pytest.mark.parametrize("axis", [True, 1.5, None, (0, 1), "0"])
@pytest.mark.parametrize("function", [sc.softmax, sc.log_softmax])
def test_an_axis_is_a_whole_number(function, axis):
    text = f"{function.__name__}: axis is {axis!r}, expected a whole number"
    with pytest.raises(TypeError, match=exactly(text)):
        function(np.ones((2, 3)), axis=axis)


@pytest.mark.parametrize(
    "length", [np.ma.masked_array(1, mask=True), np.asarray(1), 1.0, True, np.True_, "1", None]
)
def test_lengths_in_a_list_are_plain_whole_numbers(length):
    layer, like = sc.LSTM(2), np.zeros(0)
    params = layer.init(3, like=like, rng=0)
    with pytest.raises(TypeError, match=r"(?s)^lstm: lengths is \[.*\], expected whole numbers$"):
        layer.predict(params, np.ones((4, 3, 2)), lengths=[2, length])
    layer.predict(params, np.ones((4, 3, 2)), lengths=[2, np.uint8(1)])


def test_no_example_has_a_negative_length():
    text = "sequence_mask: lengths holds -3, expected 0 or more"
    with pytest.raises(ValueError, match=exactly(text)):
        sc.sequence_mask(np.asarray([-3, 99]), 2)
    assert sc.sequence_mask(np.asarray([0, 99]), 2).tolist() == [[False, True]] * 2


def test_gradients_without_entries_have_the_norm_of_the_others():
    empty, w = np.zeros((0, 3)), np.asarray([3.0, 4.0])
    assert sc.global_norm({"w": w, "none": empty}) == 5.0
    assert sc.global_norm({"none": empty}) == 0.0
    grads, norm = sc.clip_by_global_norm({"none": empty, "w": w}, 1.0)
    assert norm == 5.0
    assert grads["none"].shape == (0, 3)
    np.testing.assert_allclose(grads["w"], [0.6, 0.8])
