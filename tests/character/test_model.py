"""The character model: bits per character is an ideal code's length; sampling."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from seqcore import losses
from seqcore.character.model import CELLS, bits_per_character, character_model, sample
from seqcore.character.text import Vocabulary

VOCABULARY = Vocabulary("\nabcdé")
SIZE, ESCAPE = VOCABULARY.size, VOCABULARY.escape
CODE_POINT = math.log2(0x110000)
SHORT = "abca😀bcd\nedaaéb" * 5  # with escapes: 😀 and e


def make(cell="lstm", like=None, rng=5, scale=3.0):
    """A model whose parameters are large enough that its predictions differ."""
    like = np.zeros(0) if like is None else like
    model = character_model(cell, embed=4, hidden=6, layers=1, tokens=SIZE)
    params = model.init(SIZE, like=like, rng=rng)
    return model, {name: scale * p for name, p in params.items()}


def log_softmax(z):
    z = z - z.max()
    return z - math.log(np.exp(z).sum())


def plainly(model, params, plain):
    """Bits per character, one character after another, in float64."""
    tokens = [
        VOCABULARY.characters.index(c) if c in VOCABULARY.characters else ESCAPE for c in plain
    ]
    bits, state = math.log2(SIZE), None  # the first has nothing before it
    for token, after in itertools.pairwise(tokens):
        logits, state, _ = model.forward(params, np.asarray([[token]]), state)
        bits -= log_softmax(logits[0, :, 0])[after] / math.log(2)
    bits += sum(CODE_POINT for token in tokens if token == ESCAPE)
    return bits / len(plain)


# --- bits per character -----------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("seq_len", [1, 7, 128])
def test_bits_per_character_is_the_length_of_an_ideal_code(asarray, judge, seq_len):
    model, params = make(like=asarray(np.zeros(0)))
    same, doubles = make()
    bits = bits_per_character(model, params, VOCABULARY, SHORT, seq_len=seq_len)
    assert bits == pytest.approx(plainly(same, doubles, SHORT), rel=judge.tolerance("bptt"))


@pytest.mark.host
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("length", [2, 3, 128, 129, 130, 257])
def test_no_character_is_lost_where_windows_end(cell, length):
    model, params = make(cell)
    plain = (SHORT * 4)[:length]
    bits = bits_per_character(model, params, VOCABULARY, plain)
    assert bits == pytest.approx(plainly(model, params, plain), rel=1e-12)


@pytest.mark.host
@pytest.mark.parametrize(("plain", "extra"), [("a", 0.0), ("é", 0.0), ("😀", CODE_POINT)])
def test_a_single_character_costs_what_the_vocabulary_says(plain, extra):
    model, params = make()
    bits = bits_per_character(model, params, VOCABULARY, plain)
    assert bits == pytest.approx(math.log2(SIZE) + extra, rel=1e-15)


@pytest.mark.host
def test_no_text_has_no_bits_per_character():
    model, params = make()
    with pytest.raises(ValueError, match="text is empty"):
        bits_per_character(model, params, VOCABULARY, "")


def test_a_model_that_knows_nothing_costs_the_logarithm_of_the_vocabulary(asarray, judge):
    model, params = make(like=asarray(np.zeros(0)), scale=0.0)
    bits = bits_per_character(model, params, VOCABULARY, "abcd" * 50)
    assert bits == pytest.approx(math.log2(SIZE), rel=judge.tolerance("cell"))
    # Doubles know the logarithm to the last digits, however many streams there are.
    model, params = make(scale=0.0)
    for length in (2, 1_000, 5_001):
        bits = bits_per_character(model, params, VOCABULARY, ("abcd" * 1_300)[:length])
        assert bits == pytest.approx(math.log2(SIZE), rel=1e-14)


@pytest.mark.host
@pytest.mark.parametrize("length", [1_999, 2_001, 2_002, 6_500, 70_000])
def test_a_long_text_in_many_streams_costs_about_what_it_costs_in_one(length):
    model, params = make("gru", scale=1.0)
    rng = np.random.default_rng(2)
    plain = "".join(rng.choice(list("abcd\né😀"), length, p=[0.3, 0.3, 0.1, 0.1, 0.1, 0.09, 0.01]))
    at_once = VOCABULARY.encode(plain)
    logits, _, _ = model.forward(params, at_once[:-1, None])
    loss, _ = losses.cross_entropy(logits, at_once[1:, None])
    bits = float(loss) * (length - 1) / math.log(2) + math.log2(SIZE)
    bits += int((at_once == ESCAPE).sum()) * CODE_POINT
    # A stream begins with no state: that costs, or saves, a little once in 1,000 characters.
    assert bits_per_character(model, params, VOCABULARY, plain) == pytest.approx(
        bits / length, rel=1e-3
    )


@pytest.mark.host
def test_each_character_is_predicted_once_however_many_streams():
    # Without memory, all that counts is which character follows which.
    model, params = make("rnn")
    params = params | {"rnn.0.W_h": 0.0 * params["rnn.0.W_h"]}
    rng = np.random.default_rng(3)
    for length in (2_001, 3_003, 9_999):
        plain = "".join(rng.choice(list("abcd"), length))
        pairs = Counter(itertools.pairwise(plain))
        logits, _, _ = model.forward(params, np.arange(SIZE)[None, :])  # each once, as a batch
        nats = -sum(
            n * log_softmax(logits[0, :, VOCABULARY.encode(a)[0]])[VOCABULARY.encode(b)[0]]
            for (a, b), n in pairs.items()
        )
        bits = (nats / math.log(2) + math.log2(SIZE)) / length
        assert bits_per_character(model, params, VOCABULARY, plain) == pytest.approx(
            bits, rel=1e-12
        )


# --- sampling ---------------------------------------------------------------------------


def draw(model, params, seed=0, **options):
    return sample(model, params, VOCABULARY, np.random.default_rng(seed), **options)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_sample_has_its_length_and_is_the_same_for_the_same_seed(asarray, temperature):
    model, params = make(like=asarray(np.zeros(0)))
    options = {"length": 25, "temperature": temperature, "prompt": "ab"}
    drawn = draw(model, params, **options)
    assert len(drawn) == 25
    assert set(drawn) <= set(VOCABULARY.characters)
    assert draw(model, params, **options) == drawn
    assert (draw(model, params, seed=1, **options) == drawn) is (temperature == 0)


@pytest.mark.host
@pytest.mark.parametrize("prompt", ["\n", "abc", "😀b"])
def test_temperature_0_takes_the_likeliest(prompt):
    model, params = make(rng=27)
    expected = prompt
    for _ in range(12):
        logits, _, _ = model.forward(params, VOCABULARY.encode(expected)[:, None])
        expected += VOCABULARY.characters[int(logits[-1, :ESCAPE, 0].argmax())]
    drawn = draw(model, params, length=12, prompt=prompt, temperature=0)
    assert prompt + drawn == expected
    assert len(set(drawn)) > 1  # else an argmax of nothing would do
    # What is merely cold takes the same.
    for cold in (1e-6, 1e-300, 5e-324):
        assert draw(model, params, length=12, prompt=prompt, temperature=cold) == drawn


@pytest.mark.host
@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0, 1e300])
def test_the_escape_is_never_drawn(temperature):
    model, params = make()
    bias = params["dense.b"].copy()
    bias[ESCAPE] = 100.0  # the model says nothing else
    drawn = draw(model, params | {"dense.b": bias}, length=50, temperature=temperature)
    assert "\N{REPLACEMENT CHARACTER}" not in drawn
    assert len(drawn) == 50


@pytest.mark.host
@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_characters_are_drawn_as_often_as_the_model_says(temperature):
    model, params = make(scale=0.0)  # without memory: the bias is all
    bias = np.asarray([[0.0], [1.0], [-1.0], [0.5], [2.0], [-0.5], [3.0]])
    n = 2_000
    drawn = draw(model, params | {"dense.b": bias}, length=n, temperature=temperature)
    p = np.exp(bias[:ESCAPE, 0] / temperature)
    p /= p.sum()
    counts = Counter(drawn)
    for character, likely in zip(VOCABULARY.characters, p, strict=True):
        error = math.sqrt(likely * (1 - likely) / n)
        assert counts[character] / n == pytest.approx(likely, abs=4 * error)


@pytest.mark.host
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"prompt": ""}, "prompt is empty"),
    ],
)
def test_what_cant_be_sampled_is_refused(options, message):
    model, params = make()
    with pytest.raises(ValueError, match=message):
        draw(model, params, **{"length": 3, **options})


@pytest.mark.host
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_model_that_is_not_finite_is_not_sampled(bad, temperature):
    model, params = make()
    bias = params["dense.b"].copy()
    bias[1] = bad
    with pytest.raises(ValueError, match="logits are not finite"):
        draw(model, params | {"dense.b": bias}, length=3, temperature=temperature)


@pytest.mark.host
def test_an_unknown_cell_is_refused_by_name():
    with pytest.raises(ValueError, match=r"cell is 'foo', expected one of rnn, lstm, gru"):
        character_model("foo", embed=2, hidden=2, layers=1, tokens=3)
    assert set(CELLS) == {"rnn", "lstm", "gru"}
