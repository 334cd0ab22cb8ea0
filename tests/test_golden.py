"""Golden values: what a seed gave once, it gives again.

Users expect a seed to give the same run in the next version. So a change to a value here is an
entry in CHANGELOG.md, and needs a reason.

What is made of integers (dropout masks, the order of files, tokens, windows) is compared to the
bit. Floats are not: LAPACK and BLAS add in an order that depends on the processor, and a digest
of bits, or of rounded values, would change with the last digit. Instead, three weighted sums of
a layer's parameters are compared, to 1e-9. Between processors, and between the kernels and the
generic code, they were seen to differ by up to 3e-14 after training.

The values were computed before the contracts of cells, layers and tapes were rewritten, except
the dropout masks, which changed then, and those of the LSTM with peepholes, which is newer.
"""

from __future__ import annotations

import hashlib
import json
import math

import numpy as np
import pytest
from problems import KINDS, each_kind, recurrent

import seqcore as sc
from seqcore.character.corpus import read_corpus
from seqcore.character.text import Streams, Vocabulary

CLOSE = 1e-9
# Three weighted sums of all parameters, by the name of what is made or trained.
MADE = {
    "embedding": [-106.595121006, 26.1560516499, 68.5872924797],
    "dense": [113.349706493, 46.5237756174, -26.1557381499],
    "rnn-tanh": [292.730681531, -61.9811931399, 280.753347191],
    "rnn-relu": [292.730681531, -61.9811931399, 280.753347191],
    "lstm": [796.030207528, -427.133524241, -427.602681379],
    "lstm-peephole": [-128.22544513, -490.978831519, 515.200125704],
    "gru-after": [-22.7572915622, -441.638040111, 390.60199636],
    "gru-before": [231.964725889, -63.8235920964, -225.3383089],
}
TRAINED = {
    "rnn-tanh": [406.627105673, -155.977686378, -254.159717639],
    "rnn-relu": [377.451504026, -252.708039196, -245.125567382],
    "lstm": [-375.164097664, -315.329753834, -410.478540081],
    "lstm-peephole": [-324.187786586, -64.9493904879, -317.18496795],
    "gru-after": [-4.24380164422, 443.130464531, -173.678811914],
    "gru-before": [20.2268492433, -133.4223487, -17.0888799012],
}


def weighted_sums(params):
    """Return three sums of all parameters, with whole weights from -50 to 50."""
    values = np.concatenate([params[name].ravel() for name in sorted(params)])
    at = np.arange(values.size)
    return [math.fsum(values * (at * factor % 101 - 50)) for factor in (37, 59, 83)]


def digest(data):
    return hashlib.sha256(data).hexdigest()[:16]


# --- initial values and training --------------------------------------------------------


LAYERS = {
    "embedding": sc.Embedding(5),
    "dense": sc.Dense(5),
    **{kind: recurrent(kind, 5, layers=2, bidirectional=True) for kind in KINDS},
}


@pytest.mark.host
@pytest.mark.parametrize("name", LAYERS)
def test_a_seed_draws_the_same_initial_values(name):
    n_in = 3 if name in KINDS else 9
    params = LAYERS[name].init(n_in, like=np.zeros(0), rng=7)
    assert weighted_sums(params) == pytest.approx(MADE[name], rel=CLOSE)


def trained(kind):
    """Return the parameters after 50 steps in float64, every third with lengths."""
    model = sc.Sequential(sc.Embedding(4), recurrent(kind, 8, layers=2), sc.Dense(11))
    rng = np.random.default_rng(7)
    params = model.init(11, like=np.zeros(0), rng=rng)
    opt = sc.adam(1e-2)
    opt_state, state = opt.init(params), None
    for step in range(50):
        tokens = rng.integers(11, size=(9, 6))
        lengths = np.asarray([9, 0, 3, 1, 9, 4]) if step % 3 == 0 else None
        counts = None if lengths is None else sc.sequence_mask(lengths, 9)
        y, state, tape = model.forward(params, tokens, state, lengths)
        _, dy = sc.cross_entropy(y, np.roll(tokens, -1, axis=0), counts)
        _, grads, _ = model.backward(params, tape, dy)
        grads, _ = sc.clip_by_global_norm(grads, 0.5)
        params, opt_state = opt.update(params, grads, opt_state)
    return params


@pytest.mark.host
@each_kind
def test_a_seed_trains_the_same_parameters(kind):
    assert weighted_sums(trained(kind)) == pytest.approx(TRAINED[kind], rel=CLOSE)


# --- dropout masks ----------------------------------------------------------------------


def dropped(model, shape, draw, asarray, to_host):
    """Return the digest of which entries a model of Dropouts keeps."""
    y, _, _ = model.forward({}, asarray(np.ones(shape)), draw=draw)
    return digest(np.packbits(to_host(y) != 0).tobytes())


MASKS = {  # by rate, seed and draw
    (0.5, 0, 0): "0f99936a6353d32e",
    (0.5, 0, 1): "5285d73f61afa3e1",
    (0.5, 1, 0): "ffaa98964c4c4838",
    (0.1, 2**64 - 1, -1): "196690b7137adcc5",
    (0.9, 12345, 2**31): "f8bf22afd4416426",
    (0.25, 7, 200): "ba13c654fea68aa7",
}
PLACES = {  # by the numbers of the children that lead to the Dropout
    (0,): "4e0a2a1314d182db",
    (1,): "6e69353bb98e2b8b",
    (0, 0): "1fa82752501b61ed",
    (0, 1): "9ba031f5cc0d1614",
    (1, 0): "d8b01d233fcf3389",
    (2, 1, 3): "effef70cb78ae7e9",
}


def test_a_seed_and_a_draw_drop_the_same_entries(asarray, to_host):
    seen = {
        (rate, seed, draw): dropped(sc.Dropout(rate, seed=seed), (7, 5, 11), draw, asarray, to_host)
        for rate, seed, draw in MASKS
    }
    assert seen == MASKS


def test_a_place_in_a_model_drops_the_same_entries(asarray, to_host):
    seen = {}
    for place in PLACES:
        # Only the last child drops; the others hold its place.
        inner = sc.Sequential(*[sc.Dropout(0.0)] * place[-1], sc.Dropout(0.3, seed=9))
        model = inner
        for number in reversed(place[:-1]):
            model = sc.Sequential(*[sc.Dropout(0.0)] * number, model)
        seen[place] = dropped(model, (7, 5, 11), 3, asarray, to_host)
    assert seen == PLACES


# --- text -------------------------------------------------------------------------------


@pytest.mark.host
def test_the_files_of_a_corpus_keep_their_order(tmp_path):
    for number in range(24):
        file = tmp_path / ("a", "b/c")[number % 2] / f"{number}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{number}", encoding="utf-8")
    corpus = read_corpus([tmp_path])
    order = [11, 6, 2, 18, 7, 12, 20, 5, 13, 1, 10, 0, 9, 3, 15, 16, 22, 19, 14, 21, 4, 8, 17]
    assert corpus.train.split("\n") == [str(number) for number in order]
    assert corpus.held_out == "23"
    assert corpus.sha256.startswith("443a094741d33bad")


@pytest.mark.host
def test_a_text_has_the_same_vocabulary_and_tokens():
    text = "".join(chr(97 + k * k % 23) for k in range(20_000)) + "ßé\n"
    vocabulary = Vocabulary.of(text)
    assert vocabulary.characters == "\nabcdegijmnqs"
    assert digest(vocabulary.encode(text + "ﬀ").astype("<i8").tobytes()) == "a40f78c7808aeae1"


@pytest.mark.host
def test_a_text_is_cut_into_the_same_windows():
    streams = Streams(np.arange(101), batch=3, seq_len=4, like=np.zeros(0))
    assert streams.windows == 8
    second = streams(1)
    assert second.x.tolist() == [[4, 37, 70], [5, 38, 71], [6, 39, 72], [7, 40, 73]]
    windows = [streams(step) for step in range(17)]  # twice through the text
    listed = [[w.x.tolist(), w.targets.tolist(), w.fresh] for w in windows]
    assert digest(json.dumps(listed).encode()) == "90cfc4429ed0db8a"
