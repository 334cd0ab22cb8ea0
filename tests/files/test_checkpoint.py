"""Checkpoints: what goes in comes out, and no file is ever half written or harmed."""

from __future__ import annotations

import json
from collections import OrderedDict
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from judging import structure
from problems import KINDS, N_X, M, T, each_kind, recurrent

import seqcore as sc
from seqcore.cells import GRUState, LSTMState, RNNState
from seqcore.files import checkpoint

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
@pytest.mark.parametrize(
    "dtype",
    [
        *("float16", "float32", "float64", "bool"),
        *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    ],
)
def test_dtypes_are_kept(dtype, path, assert_same):
    params = {"w": np.asarray([[0, 1, 2], [3, 0, 1]]).astype(dtype)}
    sc.save_checkpoint(path, params)
    assert_same(sc.load_checkpoint(path).params, params)


def readonly(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


LAYOUTS = {
    "transposed": np.arange(6.0).reshape(2, 3).T,
    "permuted": np.arange(24.0).reshape(2, 3, 4).transpose(1, 2, 0),
    "Fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "strided": np.arange(12.0).reshape(3, 4)[::2, ::-1],
    "broadcast": np.broadcast_to(np.arange(3.0), (2, 3)),
    "read-only": readonly(np.arange(3.0)),
    "0-d": np.asarray(2.5),
    "scalar": np.float64(2.5),
    "one column": np.arange(3.0)[:, None],
    "empty": np.zeros((0, 3)),
    "big-endian": np.arange(3.0).astype(">f8"),
    "big-endian 0-d integer": np.asarray(7, dtype=">i4"),
}


@pytest.mark.host
@pytest.mark.parametrize("values", LAYOUTS.values(), ids=LAYOUTS)
def test_any_layout_in_memory_is_saved_right(values, path):
    sc.save_checkpoint(path, {"w": values})
    loaded = sc.load_checkpoint(path).params["w"]
    assert loaded.dtype == values.dtype.newbyteorder("=")
    np.testing.assert_array_equal(loaded, values, strict=False)
    assert loaded.shape == values.shape


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
        "opt_state.mu.lstm.0.W_h",
        "opt_state.nu.lstm.0.W_h",
    }
    np.testing.assert_array_equal(tensors["params.lstm.0.W_h"], params["lstm.0.W_h"])


# --- what can't be saved ----------------------------------------------------------------


@pytest.mark.host
@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"config": {"a": np.zeros(2)}}, TypeError, "^save_checkpoint: config is not JSON"),
        ({"config": {"a": {1, 2}}}, TypeError, "^save_checkpoint: config is not JSON"),
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
        (
            {"params": {"w": np.zeros(2, dtype=complex)}},
            TypeError,
            "^save_checkpoint: params.w has dtype complex128, expected floats or integers",
        ),
        (
            {"params": {"w": np.asarray(["a"])}},
            TypeError,
            "^save_checkpoint: params.w has dtype <U1, expected floats or integers",
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
def test_a_config_that_contains_itself_is_refused(path):
    config = {}
    config["itself"] = config
    with pytest.raises(TypeError, match=r"^save_checkpoint: config is not JSON"):
        sc.save_checkpoint(path, {}, config=config)


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


# --- damaged files ----------------------------------------------------------------------


@pytest.fixture
def whole(path: Path) -> bytes:
    """A checkpoint's bytes; the file at `path` is there to be damaged."""
    params = {"lstm.0.W_h": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.ones(5)}
    opt = sc.sgd(0.1, 0.9)
    state = opt.init({"b": params["b"]})
    sc.save_checkpoint(path, params, opt_state=state, state=(), config=CONFIG)
    return path.read_bytes()


def assert_damaged(path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.safetensors: ") as caught:
        sc.load_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.host
def test_a_cut_file_is_noticed_wherever_it_was_cut(whole, path):
    sizes = {0, 1, 7, 8, 9, *range(10, len(whole), 29), len(whole) - 1}
    for size in sorted(sizes):
        path.write_bytes(whole[:size])
        assert_damaged(path)


@pytest.mark.host
@pytest.mark.parametrize("extra", [b"\0", b"x" * 8])
def test_a_file_with_something_after_it_is_noticed(extra, whole, path):
    path.write_bytes(whole + extra)
    assert_damaged(path)


@pytest.mark.host
def test_a_flipped_bit_is_noticed_wherever_it_is(whole, path):
    header = int.from_bytes(whole[:8], "little")
    places = {*range(8), *range(8, 8 + header, 5), *range(8 + header, len(whole))}
    for number, place in enumerate(sorted(places)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << number % 8
        path.write_bytes(damaged)
        assert_damaged(path)


@pytest.mark.host
def test_changed_metadata_is_noticed(whole, path):
    damaged = whole.replace(b'\\"hidden\\": 7', b'\\"hidden\\": 8')
    assert damaged != whole
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="damaged, its SHA-256 is not the one that was saved"):
        sc.load_checkpoint(path)


@pytest.mark.host
@pytest.mark.parametrize(
    "content",
    [
        safetensors.numpy.save({"w": np.ones(2)}),
        safetensors.numpy.save({"w": np.ones(2)}, metadata={"format": "pt"}),
        safetensors.numpy.save({"w": np.ones(2)}, metadata={"seqcore": "0"}),
        safetensors.numpy.save({"w": np.ones(2)}, metadata={"seqcore": "1"}),
    ],
    ids=["no metadata", "another's", "another version", "no checkpoint"],
)
def test_a_foreign_safetensors_file_is_refused(content, path):
    path.write_bytes(content)
    assert_damaged(path)
    with pytest.raises(ValueError, match="not a checkpoint of this version of seqcore"):
        sc.load_checkpoint(path)


def sealed(header, tensors=None):
    """A file that is whole, with any header."""
    tensors = {"params.w": np.ones(2)} if tensors is None else tensors
    text = header if isinstance(header, str) else json.dumps(header)
    metadata = {
        "seqcore": "1",
        "checkpoint": text,
        "sha256": checkpoint._digest(tensors, text),
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
    assert_damaged(path)


@pytest.mark.host
def test_a_foreign_file_with_a_dtype_that_numpy_lacks_is_refused(path):
    header = {"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}
    for metadata in ({}, {"__metadata__": {"seqcore": "1", "checkpoint": "{}"}}):
        head = json.dumps(header | metadata).encode()
        path.write_bytes(len(head).to_bytes(8, "little") + head + bytes(4))
        assert_damaged(path)


@pytest.mark.host
def test_a_foreign_dtype_without_a_buffer_is_refused_too(path, monkeypatch):
    # bfloat16 is known to NumPy as soon as JAX is imported; datetime64 has no buffer either.
    class File:
        def get_tensor(self, _):
            return np.zeros(2, dtype="M8[s]")

        def metadata(self):
            return {"seqcore": "1", "checkpoint": "{}", "sha256": "0"}

        def keys(self):
            return ["a"]

    path.touch()
    monkeypatch.setattr(checkpoint, "safe_open", lambda *_, **__: nullcontext(File()))
    assert_damaged(path)


@pytest.mark.host
@pytest.mark.parametrize("content", [b"hello, world", bytes(64), b"{}", b"\xff" * 64])
def test_a_file_of_another_kind_is_refused(content, path):
    path.write_bytes(content)
    assert_damaged(path)


@pytest.mark.host
def test_a_missing_file_is_named(path):
    with pytest.raises(FileNotFoundError, match=r"model.safetensors: no such checkpoint$"):
        sc.load_checkpoint(path)
    with pytest.raises(FileNotFoundError, match=r"no such checkpoint$"):
        sc.load_checkpoint(path.parent)  # a folder is not a checkpoint


@pytest.mark.host
def test_reading_keeps_no_hold_on_the_file(path):
    sc.save_checkpoint(path, {"w": np.arange(3.0)})
    loaded = sc.load_checkpoint(path)
    sc.save_checkpoint(path, {"w": np.zeros(3)})
    np.testing.assert_array_equal(loaded.params["w"], np.arange(3.0))
    loaded.params["w"][0] = 5.0  # and what came from it may be written to
    assert checkpoint.load_checkpoint(path).params["w"][0] == 0.0


def test_integers_and_booleans_keep_their_dtype_beside_any_library(tmp_path, asarray, xp):
    like = asarray(np.zeros(1))
    path = tmp_path / "c.safetensors"
    state = tuple(asarray(v) for v in (np.asarray([True, False]), np.asarray([3, 4])))
    state = (*state, xp.astype(state[1], xp.int32))
    sc.save_checkpoint(path, {"w": like}, state=state)
    back = sc.load_checkpoint(path, like=like).state
    assert [value.dtype for value in back] == [value.dtype for value in state]
