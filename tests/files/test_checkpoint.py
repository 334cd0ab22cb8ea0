"""Checkpoints: what goes in comes out, and no file is ever half written or harmed."""

from __future__ import annotations

import json
from collections import OrderedDict, namedtuple
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from judging import exactly, structure
from problems import KINDS, N_X, M, T, each_kind, recurrent

import seqcore as sc
from seqcore import arrays
from seqcore.cells import GRUState, LSTMState, RNNState
from seqcore.files import trees
from seqcore.files.sealed import digest
from seqcore.optimizers import AdamState

CONFIG = {
    "cell": "lstm",
    "hidden": 7,
    "lr": 1e-3,
    "vocabulary": "aä\n\u0000\U0001f600",
    "none": None,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


@pytest.fixture
def params(asarray, rng):
    return {
        "lstm.0.W_h": asarray(rng.standard_normal((4, 3, 3))),
        "dense.b": asarray(rng.standard_normal((5, 1))),
        "scale": asarray(0.3),
        "empty": asarray(np.zeros((0, 2))),
    }


@pytest.fixture
def assert_same(to_host):
    """Compare trees: types, names, order, and arrays bit for bit."""

    def check(actual, expected):
        if isinstance(expected, dict):
            assert type(actual) is dict
            assert list(actual) == list(expected)
            for name, value in expected.items():
                check(actual[name], value)
        elif isinstance(expected, tuple):
            assert type(actual) is type(expected)
            for pair in zip(actual, expected, strict=True):
                check(*pair)
        elif expected is None:
            assert actual is None
        else:
            actual, expected = to_host(actual), to_host(expected)
            assert actual.dtype == expected.dtype
            assert actual.shape == expected.shape
            assert actual.tobytes() == expected.tobytes()

    return check


# --- round trips ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "opt", [sc.adam(0.1), sc.sgd(0.1), sc.sgd(0.1, 0.9)], ids=["adam", "sgd", "momentum"]
)
def test_params_optimizer_state_and_config_come_back(opt, params, path, assert_same):
    del params["empty"]
    state = opt.init(params)
    params, state = opt.update(params, params, state)
    sc.save_checkpoint(path, params, opt_state=state, config=CONFIG)
    loaded = sc.load_checkpoint(path)
    assert_same(loaded.params, params)
    assert_same(loaded.opt_state, state)
    assert loaded.state is None
    assert loaded.config == CONFIG
    assert list(loaded.config) == list(CONFIG)


def test_states_of_any_nesting_come_back(params, asarray, path, assert_same, rng):
    h, c = (asarray(rng.standard_normal((2, 3, 4))) for _ in range(2))
    state = ((), LSTMState(h, c), (RNNState(c), (), (GRUState(h),)), None, {"a.b": h})
    sc.save_checkpoint(path, params, state=state)
    loaded = sc.load_checkpoint(path)
    assert_same(loaded.params, params)
    assert_same(loaded.state, state)
    assert (loaded.opt_state, loaded.config) == (None, {})


def test_the_state_of_a_model_goes_on_after_loading(asarray, to_host, path, rng):
    layers = [recurrent(kind, 4, layers=2) for kind in KINDS]
    model = sc.Sequential(sc.Embedding(3), *layers, sc.Dense(5))
    params = model.init(5, like=asarray([0.0]), rng=0)
    tokens = asarray(rng.integers(5, size=(6, 2)))
    _, state, _ = model.forward(params, tokens)
    sc.save_checkpoint(path, params, state=state)
    loaded = sc.load_checkpoint(path, like=asarray([0.0]))
    assert structure(loaded.state) == structure(state)
    expected, _, _ = model.forward(params, tokens, state)
    actual, _, _ = model.forward(loaded.params, tokens, loaded.state)
    np.testing.assert_array_equal(to_host(actual), to_host(expected))


@pytest.mark.host
@each_kind
def test_the_end_of_both_directions_is_still_refused_as_a_start_after_loading(kind, path, rng):
    layer = recurrent(kind, bidirectional=True)
    x = rng.standard_normal((T, N_X, M))
    params = layer.init(N_X, like=x, rng=0)
    _, state = layer.predict(params, x)
    sc.save_checkpoint(path, params, state=state)
    loaded = sc.load_checkpoint(path).state
    assert structure(loaded) == structure(state)
    with pytest.raises(ValueError, match="state is the end of a sequence that was read in both"):
        layer.predict(params, x, loaded)


def test_training_resumes_bit_for_bit(params, asarray, to_host, path):
    del params["empty"]
    opt = sc.adam(sc.warmup(3, 0.1))
    params, state = opt.update(params, params, opt.init(params))
    sc.save_checkpoint(path, params, opt_state=state)
    loaded = sc.load_checkpoint(path, like=asarray([0.0]))
    expected, _ = opt.update(params, params, state)
    actual, later = opt.update(loaded.params, loaded.params, loaded.opt_state)
    for name in expected:
        np.testing.assert_array_equal(to_host(actual[name]), to_host(expected[name]))
    assert int(later.count) == 2


# The state of Adam in files from before there were counts of each parameter.
BEFORE_COUNTS = namedtuple("AdamState", "count mu nu")  # type: ignore[name-match]


@pytest.mark.parametrize("placed", [False, True], ids=["host", "like"])
def test_an_old_file_gives_each_parameter_the_count_of_all_but_none_to_a_frozen_one(
    placed, asarray, assert_close, to_host, path, monkeypatch
):
    like = asarray(0.0) if placed else np.zeros(())
    # Moments that vanish in one square, and a gradient of one entry, are not those of a frozen one.
    size = {"trained": [1.0, 2.0], "one entry": [0.0, 1e-3], "tiny": [1e-30, 0.0]}
    saved = {name: np.asarray(value, np.float32) for name, value in size.items()}
    saved |= {"frozen": np.zeros(2, np.float32), "empty": np.zeros((0, 3), np.float32)}
    nus = {name: value * value for name, value in saved.items()}
    assert not nus["tiny"].any()
    with monkeypatch.context() as patch:
        patch.setitem(trees.STATES, "AdamState", BEFORE_COUNTS)
        old = BEFORE_COUNTS(np.asarray(1000), saved, nus)
        sc.save_checkpoint(path, saved, opt_state={"nested": (old,)})
    loaded = sc.load_checkpoint(path, like=like if placed else None)
    (state,) = loaded.opt_state["nested"]
    assert type(state) is AdamState
    expected = {"trained": 1000, "one entry": 1000, "tiny": 1000, "frozen": 0, "empty": 0}
    assert list(state.counts) == list(state.mu)
    for name, count in expected.items():
        got = state.counts[name]
        assert got.dtype == state.count.dtype
        if placed:
            assert_close(got, np.int64(count), kind="cell", name=name)
        assert int(to_host(got)) == count

    # The frozen parameter is thawed: its first step is the learning rate.
    opt = sc.adam(0.125, eps=1e-30)
    ones = {name: arrays.like(np.ones(2), like) for name in ("trained", "frozen")}
    params = {name: loaded.params[name] for name in ones}
    if not placed:
        ones = {name: value.astype(np.float32) for name, value in ones.items()}
    after, later = opt.update(params, ones, state)
    np.testing.assert_allclose(to_host(after["frozen"]), [-0.125] * 2, rtol=1e-5)
    assert [int(to_host(later.counts[name])) for name in ones] == [1001, 1]


def test_without_like_arrays_come_back_on_the_host(params, path):
    sc.save_checkpoint(path, params)
    for value in sc.load_checkpoint(path).params.values():
        assert type(value) is np.ndarray


def test_like_places_arrays_on_its_device_and_in_its_dtype(xp, asarray, assert_close, path, rng):
    # Saved in float32, which every device has.
    host = rng.standard_normal((2, 3)).astype(np.float32)
    w = xp.asarray(host, dtype=xp.float32)
    opt = sc.adam()
    sc.save_checkpoint(path, {"w": w}, opt_state=opt.init({"w": w}))
    loaded = sc.load_checkpoint(path, like=asarray([0.0]))
    assert_close(loaded.params["w"], host.astype(np.float64), kind="cell", scale=0.0)
    assert_close(loaded.opt_state.mu["w"], np.zeros((2, 3)), kind="cell", scale=0.0)
    assert_close(loaded.opt_state.count, np.int64(0), kind="cell")


@pytest.mark.host
def test_nan_infinity_and_minus_zero_come_back_as_bits(path, assert_same):
    params = {"w": np.asarray([np.nan, -np.nan, np.inf, -np.inf, -0.0, 5e-324])}
    sc.save_checkpoint(path, params)
    assert_same(sc.load_checkpoint(path).params, params)


@pytest.mark.host
def test_the_file_is_plain_safetensors_with_dotted_names(path):
    opt = sc.adam()
    params = {"lstm.0.W_h": np.arange(6.0).reshape(2, 3)}
    sc.save_checkpoint(str(path), OrderedDict(params), opt_state=opt.init(params))
    tensors = safetensors.numpy.load(path.read_bytes())
    assert set(tensors) == {
        "params.lstm.0.W_h",
        "opt_state.count",
        "opt_state.counts.lstm.0.W_h",
        "opt_state.mu.lstm.0.W_h",
        "opt_state.nu.lstm.0.W_h",
    }
    np.testing.assert_array_equal(tensors["params.lstm.0.W_h"], params["lstm.0.W_h"])


# --- what can't be saved ----------------------------------------------------------------


@pytest.mark.host
@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"config": {"a": np.zeros(2)}}, TypeError, "^save_checkpoint: config.a is a ndarray of"),
        ({"config": [("a", 1)]}, TypeError, "^save_checkpoint: config is a list, expected a dict$"),
        (
            {"state": ([1.0],)},
            TypeError,
            "^save_checkpoint: state.0 is a list, expected an array, a plain tuple or dict",
        ),
        (
            {"opt_state": {"mu": {"w": 1.0}}},
            TypeError,
            "^save_checkpoint: opt_state.mu.w is a float, expected an array, a plain tuple or dict",
        ),
        (
            {"params": [np.zeros(2)]},
            TypeError,
            "^save_checkpoint: params is a list, expected a dict of arrays$",
        ),
        (
            {"params": None},
            TypeError,
            "^save_checkpoint: params is a NoneType, expected a dict of arrays$",
        ),
        (
            {"params": {"a.b": np.zeros(2), "a": {"b": np.ones(2)}}},
            ValueError,
            "^save_checkpoint: two arrays are named params.a.b$",
        ),
        (
            {"params": {"w": "x"}},
            TypeError,
            "^save_checkpoint: params.w is a str, expected an array, a plain tuple or dict",
        ),
    ],
)
def test_what_cannot_be_saved_is_named_and_harms_no_file(arguments, kind, text, path):
    sc.save_checkpoint(path, {"w": np.zeros(3)})
    old = path.read_bytes()
    with pytest.raises(kind, match=text):
        sc.save_checkpoint(path, **({"params": {"w": np.ones(3)}} | arguments))
    assert path.read_bytes() == old
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.host
def test_a_missing_folder_is_not_made(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        sc.save_checkpoint(tmp_path / "nowhere" / "model.safetensors", {"w": np.ones(2)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.host
def test_a_path_without_a_folder_is_beside_us(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sc.save_checkpoint("model.safetensors", {"w": np.ones(2)})
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    np.testing.assert_array_equal(sc.load_checkpoint("model.safetensors").params["w"], np.ones(2))


# --- damaged files: test_sealed.py has what all kinds of files share ------------------------


def sealed(header, tensors=None):
    """A file that is whole, with any header."""
    tensors = {"params.w": np.ones(2)} if tensors is None else tensors
    text = header if isinstance(header, str) else json.dumps(header)
    metadata = {
        "seqcore": "1",
        "checkpoint": text,
        "sha256": digest(tensors, text),
    }
    return safetensors.numpy.save(tensors, metadata=metadata)


TREES = {
    "params": {"kind": "dict", "items": {"w": "params.w"}},
    "opt_state": None,
    "state": None,
}


@pytest.mark.host
@pytest.mark.parametrize(
    "header",
    [
        *("", "[", "[" * 100_000, [], {}, None, 7, "x"),
        *({"trees": TREES}, {"config": {}}, {"config": [], "trees": TREES}),
        {"config": None, "trees": TREES},
        *({"config": {}, "trees": trees} for trees in ([], None, {}, 7, "params")),
        {"config": {}, "trees": {"params": TREES["params"]}},
        {"config": {}, "trees": TREES | {"more": None}},
        *(
            {"config": {}, "trees": TREES | {"params": params}}
            for params in (
                *(None, [], "params.w", ["params.w"], 7, {}, {"kind": "dict"}),
                *({"kind": "dict", "items": items} for items in (None, {}, [], "w", {"w": 7})),
                {"kind": "dict", "items": {"w": "params.v"}},
                {"kind": "dict", "items": {"v": "params.w"}},
                {"kind": "dict", "items": {"w": "params.w", "v": "params.w"}},
                *({"kind": kind, "items": {"w": "params.w"}} for kind in ("list", None, [], 7)),
            )
        ),
        *(
            {"config": {}, "trees": TREES | {"opt_state": state}}
            for state in (
                *(7, "params.w", [[7]], {"kind": "AdamState", "items": {}}),
                {"kind": "SGDState", "items": {"count": None, "trace": None, "more": None}},
            )
        ),
    ],
    ids=lambda header: repr(header)[:60],
)
def test_a_header_that_was_not_saved_is_noticed(header, path):
    path.write_bytes(sealed({"config": {}, "trees": TREES}))
    assert list(sc.load_checkpoint(path).params) == ["w"]
    path.write_bytes(sealed(header))
    with pytest.raises(
        ValueError, match=exactly(f"{path}: damaged, its header does not fit its tensors")
    ):
        sc.load_checkpoint(path)
