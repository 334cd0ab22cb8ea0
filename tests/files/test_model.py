"""Models as files: what was saved predicts the same bits, and nothing else is loaded."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from judging import exactly
from loading import Foreign
from problems import LENGTHS, N_X, M, Mean, Scaled, T, on

import seqcore as sc
from seqcore.files import sealed

OWN = [Scaled, Mean]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


@pytest.fixture
def model() -> sc.Layer:
    return sc.Sequential(
        sc.LSTM(4, peephole=True, bidirectional=True),
        sc.Dropout(0.25),
        Scaled(),
        sc.GRU(3, layers=2),
        out=sc.Sequential(sc.Dense(2), Mean()),
    )


@pytest.fixture
def params(model, rng):
    drawn = model.init(N_X, like=np.zeros(0), rng=0)
    return {name: rng.standard_normal(value.shape) for name, value in drawn.items()}


# --- round trips ------------------------------------------------------------------------


def test_a_model_that_was_loaded_predicts_the_same_bits(model, params, asarray, to_host, path, rng):
    params = on(asarray, params)
    x, lengths = asarray(rng.standard_normal((T, N_X, M))), asarray(LENGTHS)
    expected, _ = model.predict(params, x, lengths=lengths)
    sc.save_model(path, model, params)
    again, host = sc.load_model(path, layers=OWN)
    assert again == model
    assert list(host) == list(params)
    for name, value in host.items():
        assert type(value) is np.ndarray
        np.testing.assert_array_equal(value, to_host(params[name]), strict=True)
    again, placed = sc.load_model(str(path), layers={kind.__name__: kind for kind in OWN}, like=x)
    y, _ = again.predict(placed, x, lengths=lengths)
    assert y.dtype == expected.dtype
    np.testing.assert_array_equal(to_host(y), to_host(expected))


def test_like_gives_the_parameters_its_dtype(model, params, asarray, assert_close, path):
    single = {name: value.astype(np.float32) for name, value in params.items()}
    sc.save_model(path, model, single)
    _, loaded = sc.load_model(path, layers=OWN, like=asarray([0.0]))
    for name, value in loaded.items():
        assert_close(value, single[name].astype(np.float64), kind="cell", scale=0.0 * value.ndim)


@pytest.mark.host
def test_parameters_keep_their_order(model, params, path):
    backwards = dict(reversed(params.items()))
    sc.save_model(path, model, backwards)
    assert list(sc.load_model(path, layers=OWN)[1]) == list(backwards)


@pytest.mark.host
def test_the_file_is_plain_safetensors_with_the_names_of_the_parameters(model, params, path):
    sc.save_model(path, model, params)
    tensors = safetensors.numpy.load(path.read_bytes())
    assert tensors.keys() == params.keys()
    for name, value in tensors.items():
        np.testing.assert_array_equal(value, params[name], strict=True)


@pytest.mark.host
def test_a_model_without_parameters_is_a_file_too(path):
    sc.save_model(path, sc.Dropout(0.5), {})
    assert sc.load_model(path, like=np.zeros(1)) == (sc.Dropout(0.5), {})


@pytest.mark.host
def test_a_layer_of_ones_own_may_have_parameters_of_other_dtypes(path):
    @dataclasses.dataclass(frozen=True)
    class Table:
        name = "table"
        forward = Scaled.forward

        def shapes(self):
            return {"rows": ("n", 2), "on": ("n",)}

    params = {"rows": np.arange(6, dtype=np.int32).reshape(3, 2), "on": np.asarray([True] * 3)}
    sc.save_model(path, Table(), params)
    for like in (None, np.zeros(1, dtype=np.float32)):
        loaded = sc.load_model(path, layers=[Table], like=like)[1]
        for name, value in params.items():
            np.testing.assert_array_equal(loaded[name], value, strict=True)


LOADED = """
import sys
import numpy as np
import seqcore as sc
model, params = sc.load_model(sys.argv[1])
y, _ = model.predict(params, np.load(sys.argv[2]))
print(y.tobytes().hex())
"""


@pytest.mark.host
def test_another_process_predicts_the_same_bits(path, rng):
    model = sc.Sequential(sc.LSTM(4), sc.Dropout(0.25), sc.Dense(2))
    x = rng.standard_normal((T, N_X, M)).astype(np.float32)
    params = model.init(N_X, like=x, rng=0)
    sc.save_model(path, model, params)
    np.save(path.with_name("x.npy"), x)
    said = subprocess.run(
        [sys.executable, "-c", LOADED, path, path.with_name("x.npy")],
        env=os.environ | {"PYTHONPATH": str(Path(sc.__file__).parent.parent)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said == model.predict(params, x)[0].tobytes().hex() + "\n"


# --- what is not saved ------------------------------------------------------------------


@pytest.mark.host
@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (list, TypeError, "save_model: params is a list, expected a dict of arrays$"),
        (lambda _: None, TypeError, "save_model: params is a NoneType, expected a dict"),
        (lambda p: p | {1: p["scaled.w"]}, TypeError, "save_model: params has the key 1, expected"),
        (lambda p: {1: p["scaled.w"]}, TypeError, "save_model: params has the key 1, expected str"),
        (lambda _: {}, ValueError, "save_model: .*layers"),
        (
            lambda p: {k: v for k, v in p.items() if k != "scaled.w"},
            ValueError,
            "save_model: parameter 'scaled.w' is missing",
        ),
        (
            lambda p: p | {"more": p["scaled.w"]},
            ValueError,
            "save_model: unexpected parameter 'more'",
        ),
        (
            lambda p: p | {"lstm.0.W_h": p["lstm.0.W_h"][:3]},
            ValueError,
            r"lstm: 0.W_h has shape \(3, 4, 4\), expected \(4, n_a, n_a\)",
        ),
        (
            lambda p: p | {"lstm.0.reverse.W_x": np.ones((4, 4, 7))},
            ValueError,
            r"lstm: 0.reverse.W_x has shape \(4, 4, 7\), expected",
        ),
        (
            lambda p: p | {"scaled.b": np.ones((9, 1))},
            ValueError,
            r"save_model: scaled.b has shape \(9, 1\), expected \(n_in, 1\) = \(8, 1\)",
        ),
        (
            lambda p: p | {"gru.0.b": [1.0]},
            TypeError,
            "save_model: gru.0.b is a list, expected an array",
        ),
        (
            lambda p: p | {"gru.0.b": np.ones((3, 3, 1), dtype=np.int64)},
            TypeError,
            "save_model: gru.0.b has dtype int64, expected",
        ),
        (
            lambda p: p | {"gru.0.b": np.ones((3, 3, 1), dtype=np.float32)},
            TypeError,
            "save_model: gru.0.b has dtype float32, expected float64 like lstm.0.W_x",
        ),
        (
            lambda p: p | {"scaled.w": Foreign()},
            TypeError,
            "save_model: scaled.w is an array of elsewhere, expected numpy",
        ),
        (
            lambda p: {k: v.astype(np.float16) for k, v in p.items()},
            TypeError,
            "save_model: .* has dtype float16, expected float32 or float64",
        ),
        (
            lambda p: {k: v.astype(">f8") for k, v in p.items()},
            TypeError,
            "save_model: .* has dtype '>f8'",
        ),
    ],
    ids=range(16),
)
def test_parameters_that_are_not_the_models_are_refused_and_harm_no_file(
    change, error, says, model, params, path
):
    sc.save_model(path, model, params)
    old = path.read_bytes()
    with pytest.raises(error, match=f"^{says}"):
        sc.save_model(path, model, change(params))
    assert path.read_bytes() == old
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.host
@pytest.mark.parametrize("model", [None, "LSTM", sc.LSTM, {}, sc.adam(), Scaled().shapes])
def test_what_is_not_a_layer_is_refused(model, path):
    with pytest.raises(TypeError, match=r"^save_model: .* was given, expected a layer$"):
        sc.save_model(path, model, {})


@pytest.mark.host
def test_a_layer_that_would_not_come_back_is_refused_by_class_and_field(path):
    @dataclasses.dataclass(frozen=True)
    class Held(Scaled):
        table: Any = None

    params = {"held.w": np.ones((2, 1)), "held.b": np.ones((2, 1))}
    for table, error, says in [
        (np.ones(2), TypeError, "Held.table is a ndarray of numpy, expected None, True,"),
        (np.nan, ValueError, "Held.table is nan, expected a number"),
    ]:
        with pytest.raises(error, match=f"^save_model: {says}"):
            sc.save_model(path, sc.Sequential(held=Held(table)), params)
    assert list(path.parent.iterdir()) == []


@pytest.mark.host
def test_a_parameter_that_a_file_has_no_name_for_is_refused(path):
    @dataclasses.dataclass(frozen=True)
    class Named:
        label: str
        name = "named"
        n_out = None
        forward = Scaled.forward

        def names(self):
            return [self.label]

    for label, says in [
        ("__metadata__", "'__metadata__' is the name of a file's metadata"),
        ("\ud800", "the name '.ud800' is not Unicode text"),
    ]:
        with pytest.raises(ValueError, match=f"^save_model: {says}"):
            sc.save_model(path, Named(label), {label: np.ones(1)})
        sc.save_model(path, sc.Sequential(a=Named("é")), {"a.é": np.ones(1)})
        assert list(sc.load_model(path, layers=[Named])[1]) == ["a.é"]


# --- what is not loaded -----------------------------------------------------------------


@pytest.mark.host
def test_layers_of_ones_own_are_asked_for_by_name(model, params, path):
    sc.save_model(path, model, params)
    for given, missing in [
        (None, "Mean, Scaled: give their classes, {'Mean': ..., 'Scaled': ...}"),
        ([Mean], "Scaled: give their classes, {'Scaled': ...}"),
    ]:
        missing = missing.replace("{", "load_model(path, layers={") + ")"
        says = exactly(f"{path}: has layers that are not seqcore's, {missing}")
        with pytest.raises(ValueError, match=says):
            sc.load_model(path, layers=given)
    with pytest.raises(TypeError, match=r"^load_model: Mean is .*, expected a class of layers"):
        sc.load_model(path, layers={"Mean": Mean()})


def written(header: Any, tensors: Any) -> bytes:
    """A file that is whole, with any header."""
    text = header if isinstance(header, str) else json.dumps(header)
    metadata = {"seqcore_model": "1", "model": text, "sha256": sealed.digest(tensors, text)}
    return safetensors.numpy.save(tensors, metadata=metadata)


DENSE = {"layer": "Dense", "options": {"n_out": 2}}
TENSORS = {"W": np.ones((2, 3)), "b": np.ones((2, 1))}
HEADER = {"seqcore": "9.9.9", "model": DENSE, "parameters": ["W", "b"]}


@pytest.mark.host
@pytest.mark.parametrize(
    ("model", "says"),
    [
        (DENSE | {"layer": "Attention"}, "there is no layer Attention"),
        ({"layer": "Dense", "options": {"n_out": 2, "bias": False}}, "Dense has no option 'bias'"),
        (DENSE | {"frozen": True}, "the layer Dense has no 'frozen'"),
    ],
)
def test_a_model_of_a_later_version_says_of_which(model, says, path):
    path.write_bytes(written(HEADER | {"model": model}, TENSORS))
    text = (
        f"{path}: comes from a later version of seqcore, 9.9.9: in this version, "
        f"{sc.__version__}, {says}"
    )
    with pytest.raises(ValueError, match=exactly(text)):
        sc.load_model(path)


@pytest.mark.host
@pytest.mark.parametrize(
    "header",
    [
        *("", "[", "[" * 100_000, '{"a":' * 100_000, [], {}, None, 7, "x", '"x"', "1e999", "NaN"),
        json.dumps(HEADER)[:-1] + ', "seqcore": "0"}',
        json.dumps(HEADER).replace("2", "NaN"),
        json.dumps(HEADER).replace("2", "1e999"),
        json.dumps(HEADER).replace("2", "2" * 5000),
        *({k: v for k, v in HEADER.items() if k != key} for key in HEADER),
        *(
            HEADER | {"parameters": names}
            for names in (None, 7, "Wb", {"W": 1, "b": 2}, [], ["W"], ["W", "b", "b"], ["W", 1])
        ),
        *(HEADER | {"model": model} for model in (None, [], {}, 7, "Dense", [DENSE])),
        *(
            HEADER | {"model": {"layer": "Dense", "options": {"n_out": n}}}
            for n in (None, True, "2", 2.0, [2], {}, DENSE, 0, -1, 3, 10**9, 10**600)
        ),
        *(
            HEADER | {"model": {"layer": name, "options": options}}
            for name, options in [
                ("LSTM", {"n_a": 2}),
                ("LSTM", {"n_a": 2, "layers": 10**12, "bidirectional": True}),
                ("GRU", {"n_a": 10**12}),
                ("Embedding", {"n_out": 2}),
                ("Dropout", {"rate": 0.5}),
                (
                    "Sharded",
                    {
                        "layer": {"layer": "RNN", "options": {"n_a": 2, "layers": 10**12}},
                        "shards": 10**12,
                    },
                ),
                ("Sequential", {"layers": [DENSE] * 2, "labels": ["W", "b"]}),
            ]
        ),
        HEADER | {"model": {"layer": "os.system", "own": True, "options": {"command": "false"}}},
    ],
    ids=lambda header: (header if isinstance(header, str) else json.dumps(header))[:60],
)
def test_a_header_that_was_not_saved_is_noticed(header, path):
    path.write_bytes(written(HEADER, TENSORS))
    assert sc.load_model(path)[0] == sc.Dense(2)
    path.write_bytes(written(header, TENSORS))
    with pytest.raises(ValueError, match=r"model\.safetensors: ") as caught:
        sc.load_model(path)
    assert type(caught.value) is ValueError
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.host
@pytest.mark.parametrize("dtype", ["float16", "int64", "bool"])
def test_parameters_of_a_dtype_that_nothing_computes_in_are_refused(dtype, path):
    path.write_bytes(written(HEADER, {k: v.astype(dtype) for k, v in TENSORS.items()}))
    with pytest.raises(ValueError, match=f": the parameters are not those of the model: .*{dtype}"):
        sc.load_model(path)


@dataclasses.dataclass(frozen=True)
class Around:
    """A user's own layer of others, with parameters of its own."""

    inner: Any
    more: tuple[Any, ...] = ()
    name = "around"
    n_out = None
    forward = Scaled.forward

    def shapes(self):
        return {"gain": (1,)} | {f"in/{name}": s for name, s in self.inner.shapes().items()}


@dataclasses.dataclass(frozen=True)
class Making(Around):
    """It makes the layer that it holds."""

    inner: Any = dataclasses.field(init=False, default=None)

    def __post_init__(self):
        object.__setattr__(self, "inner", sc.Dense(2))


INSIDE = {
    "itself": sc.Dense(2),
    "a field": Around(sc.Dense(2)),
    "a tuple": Around(Scaled(), (1, (sc.GRU(1),))),
    "a model": Around(sc.Sequential(Scaled(), a=sc.Sharded(sc.Dense(2), 2))),
    "another's": Around(Around(sc.Dense(2))),
    "made": Making(),
}


@pytest.mark.host
@pytest.mark.parametrize("dtype", ["float16", "int64", "bool"])
@pytest.mark.parametrize("what", INSIDE)
def test_layers_of_seqcore_have_floats_of_one_dtype_wherever_they_are(what, dtype, path):
    layer = INSIDE[what]
    own = [Around, Making, Scaled]
    for model, more in [
        (layer, {}),
        (sc.Sequential(sc.Dense(3), a=layer), {"dense.W": (3, 4), "dense.b": (3, 1)}),
    ]:
        prefix = "a." if more else ""
        sizes = {"n_in": 3, "n_x": 3, "n_a": 1}
        shapes = more | {
            prefix + name: tuple(sizes.get(n, n) for n in shape)
            for name, shape in layer.shapes().items()
        }
        params = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
        sc.save_model(path, model, params)
        sc.load_model(path, layers=own)
        header = safetensors.safe_open(path, framework="numpy").metadata()["model"]
        double = [{name: params[name].astype(np.float64)} for name in params if len(params) > 1]
        whole = {name: value.astype(dtype) for name, value in params.items()}
        for odd in [whole, *double, *({name: whole[name]} for name in whole)]:
            with pytest.raises(TypeError, match=r"^save_model: .* has dtype "):
                sc.save_model(path, model, params | odd)
            path.write_bytes(written(header, params | odd))
            with pytest.raises(ValueError, match=r"are not those of the model: .* has dtype "):
                sc.load_model(path, layers=own)


@pytest.mark.host
def test_what_a_header_says_besides_is_ignored(path):
    path.write_bytes(written(HEADER | {"description": "mine"}, TENSORS))
    assert sc.load_model(path)[0] == sc.Dense(2)
