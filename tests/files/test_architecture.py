"""A model as data: every layer comes back equal, and the rest is refused by name."""

from __future__ import annotations

import copy
import dataclasses
import enum
import functools
import inspect
import json
import types
import typing
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judging import exactly, same_bits
from problems import KINDS, WAYS, Mean, Scaled, each_kind, each_way, recurrent

import seqcore as sc
from seqcore import layers
from seqcore.files import architecture, plain
from seqcore.layers.door import BuiltIn

pytestmark = pytest.mark.host


def through(model: Any, *own: type[Any]) -> Any:
    """Return a model that went through JSON."""
    text = json.dumps(architecture.to_data(model), allow_nan=False)
    named = {kind.__name__: kind for kind in own}
    return architecture.from_data(plain.read_json(text, finite=True), named)


def assert_same(again: Any, model: Any) -> None:
    """Compare layers; 1, 1.0 and True are equal, but not written alike."""
    assert again == model
    assert repr(again) == repr(model)


# --- built-in layers --------------------------------------------------------------------


def public() -> dict[str, type[Any]]:
    """Return every class of a built-in layer that has a public name."""
    found = {}
    for module in (sc, layers):
        for name in module.__all__:
            kind = getattr(module, name)
            if isinstance(kind, type) and issubclass(kind, BuiltIn):
                found[kind.__name__] = kind
    return {name: kind for name, kind in found.items() if not inspect.isabstract(kind)}


def some(hint: Any) -> list[Any]:
    """Return values of an option that differ from each other, by its type."""
    if typing.get_origin(hint) is typing.Literal:
        return list(typing.get_args(hint))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [value for one in typing.get_args(hint) for value in some(one)]
    known: dict[Any, list[Any]] = {
        bool: [False, True],
        int: [2, 3],
        float: [0.1, 0.25, 0.0],
        type(None): [None],
        sc.Layer: [sc.Dense(3), sc.Sequential(sc.GRU(2))],
    }
    assert hint in known, f"say in `some` which values an option of the type {hint} has"
    return known[hint]


def examples(kind: type[Any]) -> Iterator[Any]:
    """Yield layers of a class in which each option has each of its values once."""
    if kind is sc.Sequential:
        yield sc.Sequential(sc.Dense(2), sc.Dense(3))
        yield sc.Sequential(sc.Dense(2), self=sc.Dense(3), layers=sc.Dropout(0.5), labels=sc.RNN(1))
        return
    hints = typing.get_type_hints(kind)
    options = {field.name: some(hints[field.name]) for field in dataclasses.fields(kind)}
    first = {name: values[0] for name, values in options.items()}
    if not options:
        yield kind()
    for name, values in options.items():
        for value in values:
            yield kind(**(first | {name: value}))


@pytest.mark.parametrize("name", public())
def test_every_option_of_every_public_layer_comes_back(name, tmp_path):
    count = 0
    for layer in examples(public()[name]):
        for model in (layer, sc.Sequential(layer)):
            params = model.init(3, like=np.zeros(0), rng=0)
            sc.save_model(tmp_path / "model", model, params)
            again, loaded = sc.load_model(tmp_path / "model")
            assert_same(again, model)
            same_bits(loaded, params)
        count += 1
    assert count


@each_kind
@each_way
def test_every_kind_of_recurrent_layer_comes_back(kind, way):
    for recompute in (False, True, 1, 7):
        model = recurrent(kind, **WAYS[way], recompute=recompute)
        assert_same(through(model), model)


leaves = st.one_of(
    st.builds(sc.Dense, st.integers(1, 9)),
    st.builds(sc.Dropout, st.floats(0, 0.99), seed=st.integers(0, 2**64 - 1)),
    st.builds(recurrent, st.sampled_from(list(KINDS)), st.integers(1, 10**12)),
    st.builds(Scaled),
)
labels = st.text(min_size=1).filter(lambda label: "." not in label)
models = st.recursive(
    leaves,
    lambda inside: st.one_of(
        st.builds(sc.Sharded, inside, st.integers(1, 4), threads=st.none() | st.integers(1, 4)),
        st.lists(inside, min_size=1, max_size=3).map(lambda all_: sc.Sequential(*all_)),
        st.dictionaries(labels, inside, min_size=1, max_size=3).map(
            lambda named: sc.Sequential(**named)
        ),
    ),
    max_leaves=6,
)


@given(model=models)
def test_models_of_any_nesting_come_back(model):
    assert_same(through(model, Scaled), model)


def test_an_option_that_is_left_out_has_its_default():
    data = {"layer": "LSTM", "options": {"n_a": 5}}
    assert_same(architecture.from_data(data, {}), sc.LSTM(5))


def test_what_numpy_counted_comes_back_as_what_python_counts():
    assert_same(through(sc.LSTM(np.uint8(200), layers=np.int64(2))), sc.LSTM(200, layers=2))
    assert_same(through(sc.Dropout(np.float32(0.5), seed=np.uint64(3))), sc.Dropout(0.5, seed=3))


@pytest.mark.parametrize("depth", [1, 40, 49, 50, 51, 10_000])
def test_nesting_is_refused_where_it_is_saved_and_where_it_is_read(depth):
    model, data = sc.Dense(1), {"layer": "Dense", "options": {"n_out": 1}}
    for _ in range(depth):
        model = sc.Sequential(a=model)
        data = {"layer": "Sequential", "options": {"layers": [data], "labels": ["a"]}}
    if depth <= plain.DEPTH // 2:
        assert architecture.to_data(model) == data
        assert architecture.to_data(architecture.from_data(data, {})) == data
        return
    with pytest.raises(TypeError, match="nested deeper than 100 levels"):
        architecture.to_data(model)
    with pytest.raises(ValueError, match="nested deeper than 100 levels"):
        architecture.from_data(data, {})


def test_layers_within_layers_are_counted_too():
    model, data = sc.Dense(1), {"layer": "Dense", "options": {"n_out": 1}}
    for _ in range(plain.DEPTH):
        model = sc.Sharded(model, 2)
        options = {"layer": data, "shards": 2, "threads": None}
        data = {"layer": "Sharded", "options": options}
    assert architecture.to_data(architecture.from_data(data, {})) == data
    with pytest.raises(TypeError, match="nested deeper than 100 levels"):
        architecture.to_data(sc.Sharded(model, 2))
    with pytest.raises(ValueError, match="nested deeper than 100 levels"):
        architecture.from_data({"layer": "Sharded", "options": options | {"layer": data}}, {})


# --- layers of a user's own -------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Own(Scaled):
    """A layer with options of every kind."""

    number: float = 1.5
    word: str | None = "a"
    whole: int = 3
    flag: bool = True
    sizes: tuple[Any, ...] = ()
    inner: Any = None

    def shapes(self):
        return {}


class LSTM(sc.LSTM):
    """A user's own class of the name of one of seqcore's."""


class Stack(sc.Sequential):
    """A subclass that is called as Sequential is."""


OWN = [
    Own(),
    Own(number=1, flag=False, word=None, whole=-(2**2000), sizes=((), (1, (True, 1.0, "x", None)))),
    Own(number=-0.0, word="\ud800\0é"),
    Own(number=np.nextafter(0.1, 1).item()),
    Own(number=float("inf"), sizes=(float("-inf"), 5e-324, 1.7976931348623157e308)),
    Own(inner=sc.LSTM(2), sizes=(Own(inner=Mean()), sc.Sequential(Scaled(), mine=Own(whole=4)))),
    LSTM(4, peephole=True),
    sc.Sequential(LSTM(4), sc.LSTM(4)),
    Stack(sc.Dense(1), LSTM(2), b=sc.Dense(2)),
    sc.Sharded(Own(), 2),
]


@pytest.mark.parametrize("model", OWN, ids=lambda model: repr(model)[:50])
def test_a_layer_of_ones_own_comes_back(model):
    again = through(model, Own, Mean, Scaled, LSTM, Stack)
    assert_same(again, model)
    assert type(again) is type(model)


def test_a_class_of_ones_own_is_not_mixed_up_with_one_of_seqcore():
    model = through(sc.Sequential(LSTM(4), sc.LSTM(4)), LSTM)
    assert [type(layer) for layer in model.layers] == [LSTM, sc.LSTM]
    other = through(sc.Sequential(sc.LSTM(4)), LSTM)
    assert type(other.layers[0]) is sc.LSTM


class Mode(enum.StrEnum):
    FAST = "fast"


@pytest.mark.parametrize(
    ("option", "value", "kind"),
    [
        ("number", np.float64(0.5), "float64 of numpy"),
        ("number", np.float32(0.5), "float32 of numpy"),
        ("whole", np.int64(5), "int64 of numpy"),
        ("flag", np.bool_(True), "bool of numpy"),
        ("inner", np.zeros(2), "ndarray of numpy"),
        ("inner", len, "builtin_function_or_method"),
        ("inner", lambda x: x, "function"),
        ("inner", functools.partial(len), "partial of functools"),
        ("inner", object(), "object"),
        ("inner", sc.LSTM, "ABCMeta of abc"),
        ("inner", sc.adam(), "Adam of seqcore.optimizers.adam"),
        ("inner", 1j, "complex"),
        ("inner", b"a", "bytes"),
        ("sizes", [1, 2], "list"),
        ("sizes", {"a": 1}, "dict"),
        ("sizes", frozenset({1}), "frozenset"),
        ("word", Mode.FAST, f"Mode of {__name__}"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_an_option_that_is_not_data_is_refused_by_class_and_field(option, value, kind):
    for model, place in [
        (Own(**{option: value}), f"Own.{option}"),
        (sc.Sequential(sc.Dense(2), Own(sizes=(1, (value,)))), "Own.sizes.1.0"),
        (Own(inner=sc.Sharded(Own(**{option: value}), 2)), f"Own.{option}"),
    ]:
        says = (
            f"{place} is a {kind}, expected None, True, False, a string or number of Python, a "
            "layer, or a tuple of these"
        )
        with pytest.raises(TypeError, match=exactly(says)):
            architecture.to_data(model)


def test_numbers_that_would_not_come_back_are_refused():
    for place, model in [("number", Own(number=np.nan)), ("sizes.0", Own(sizes=(np.nan,)))]:
        with pytest.raises((TypeError, ValueError), match=rf"^Own\.{place} is nan, expected"):
            architecture.to_data(model)
    with pytest.raises(ValueError, match=r"^Own\.whole has 3322 bits, expected at most 2048$"):
        architecture.to_data(Own(whole=10**1000))


class Plain(Scaled):
    """Inherits the fields of a dataclass: there are none."""

    def __init__(self, scale: float = 1.0) -> None:
        object.__setattr__(self, "scale", scale)


class NoDataclass:
    name = "none"
    forward = Scaled.forward


@dataclasses.dataclass
class Changing:
    rate: float = 0.5
    name = "changing"
    forward = Scaled.forward


@dataclasses.dataclass(frozen=True)
class From(Scaled):
    seed: dataclasses.InitVar[int] = 0
    word: str = "a"


@dataclasses.dataclass(frozen=True)
class Complement(Scaled):
    rate: float = 0.25

    def __post_init__(self):
        object.__setattr__(self, "rate", 1 - self.rate)


@dataclasses.dataclass(frozen=True)
class Picky(Scaled):
    word: str = "a"

    def __post_init__(self):
        if self.word == "b":
            raise ValueError("it is b")


def picky(word):
    layer = Picky()
    object.__setattr__(layer, "word", word)
    return layer


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (NoDataclass(), "NoDataclass is not a frozen dataclass"),
        (Changing(), "Changing is not a frozen dataclass"),
        (Plain(2.0), "Plain is made from 'scale', which is not one of its fields"),
        (From(3), "From is made from 'seed', which is not one of its fields"),
        (Complement(0.25), "Complement.rate is 0.75 and comes back as 0.25"),
        (picky("b"), "Picky does not come back from its fields, .*: Picky.word.: it is b"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_a_layer_that_would_come_back_as_another_is_refused_by_its_class(model, says):
    for whole, place in [
        (model, ""),
        (sc.Sequential(sc.Dense(1), model), r"Sequential\.layers\.1: "),
        (Own(inner=(model,)), r"Own\.inner\.0: "),
    ]:
        with pytest.raises(TypeError, match=f"^{place}{says}"):
            architecture.to_data(whole)


def test_a_field_that_a_class_computes_is_computed_again():
    @dataclasses.dataclass(frozen=True, eq=False)
    class Computing(Scaled):
        rate: float = 0.25
        rest: float = dataclasses.field(init=False)

        def __post_init__(self):
            object.__setattr__(self, "rest", 1 - self.rate)

    again = through(Computing(0.1), Computing)
    assert (again.rate, again.rest) == (0.1, 0.9)


def test_two_classes_of_one_name_are_refused():
    def make():
        @dataclasses.dataclass(frozen=True)
        class Twin(Scaled):
            pass

        return Twin()

    with pytest.raises(ValueError, match=r"^two classes of layers are named Twin"):
        architecture.to_data(sc.Sequential(make(), make()))


# --- the classes that a user gives ------------------------------------------------------


def test_classes_are_given_by_name_or_by_themselves():
    expected = {"Own": Own, "Mean": Mean}
    for layers_ in (expected, [Own, Mean], (Own, Mean), {Own, Mean}, iter([Own, Mean])):
        assert architecture.classes("load_model", layers_) == expected
    assert architecture.classes("load_model", {"Old": Own}) == {"Old": Own}
    assert architecture.classes("load_model", None) == {}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (Own, "layers is <class '.*Own'>, expected a dict of classes by name"),
        (Own(), "layers is Own.*, expected a dict of classes by name"),
        ("Own", "layers is 'Own', expected a dict of classes by name"),
        (7, "layers is 7, expected a dict of classes by name"),
        ([Own()], "layers is Own.*, expected a class of layers"),
        ({"Own": Own()}, "Own is Own.*, expected a class of layers"),
        ({"Own": "Own"}, "Own is 'Own', expected a class of layers"),
        ({"Own": Scaled().forward}, "Own is .*, expected a class of layers"),
        ({1: Own}, "layers has the key 1, expected the name of a class"),
        ({"X": int}, "X has no method forward, expected a class of layers"),
        ([dict], "dict has no method forward, expected a class of layers"),
        ([Changing], "Changing is not a frozen dataclass"),
        ([From], "From is made from 'seed', which is not one of its fields"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_not_a_class_of_layers_is_refused(given, says):
    with pytest.raises(TypeError, match=f"^load_model: {says}"):
        architecture.classes("load_model", given)


def test_two_given_classes_of_one_name_are_refused():
    other = type("Own", (Own,), {})
    with pytest.raises(ValueError, match=r"^load_model: layers has two classes of one name"):
        architecture.classes("load_model", [Own, other])


# --- data of somebody else --------------------------------------------------------------

MODEL = sc.Sharded(
    sc.Sequential(sc.Embedding(3), sc.LSTM(4, recompute=7), sc.Dropout(0.5), mine=Own(sizes=(1,))),
    shards=2,
)
ODD: list[Any] = [
    *(None, True, False, 0, -1, 3, 10**9, 10**300, 0.5, -1e308, "", "x", "LSTM", "Own", [], {}),
    *([None], ["a"], [["a"]], {"float": "inf"}, {"float": "x"}, {"float": 1.0}, {"a": 1}),
    *({"layer": "LSTM"}, {"layer": "LSTM", "options": {}}, {"layer": [], "options": {}}),
    {"layer": "LSTM", "options": {"n_a": 2}},
    {"layer": "Dense", "options": {"n_out": 2}, "more": 1},
    {"layer": "Dense", "options": {"n_out": 2, "self": 1}},
    {"layer": "Own", "own": True, "options": {}},
    {"layer": "Own", "own": 1, "options": {}},
    {"layer": "os.system", "own": True, "options": {"command": "true"}},
]


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each part of data."""
    yield path
    if isinstance(data, dict | list):
        for key, part in data.items() if isinstance(data, dict) else enumerate(data):
            yield from places(part, (*path, key))


def changed(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    data = copy.deepcopy(data)
    part = data
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return data


def test_data_that_was_not_saved_is_refused_or_is_that_of_the_model_that_it_makes():
    data = architecture.to_data(MODEL)
    made = 0
    for path in places(data):
        for value in ODD:
            other = changed(data, path, value)
            try:
                model = architecture.from_data(other, {"Own": Own})
            except ValueError:
                continue
            made += 1
            again = architecture.to_data(model)
            for place in places(other):
                part, same = other, again
                for key in place:
                    part, same = part[key], same[key]
                if not isinstance(part, dict | list):
                    assert (type(same), same) == (type(part), part)
    assert made > 20


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"layers": [], "labels": []}, "no layers were given"),
        ({"layers": [1], "labels": ["a"]}, "expected a layer"),
        ({"layers": 1, "labels": 1}, "as many labels as layers"),
        (
            {"layers": [{"layer": "Dense", "options": {"n_out": 1}}], "labels": "a"},
            "as many labels",
        ),
        ({"labels": ["a"]}, "missing"),
        (
            {"layers": [{"layer": "Dense", "options": {"n_out": 1}}], "labels": ["a", "b"]},
            "as many labels as layers",
        ),
        ({"layers": [{"layer": "Dense", "options": {"n_out": 1}}], "labels": [1]}, "strings"),
        ({"layers": [{"layer": "Dense", "options": {"n_out": 1}}], "labels": ["a.b"]}, "dots"),
        (
            {"layers": [{"layer": "Dense", "options": {"n_out": 1}}] * 2, "labels": ["a", "a"]},
            "one label",
        ),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_sequential_is_made_of_as_many_labels_as_layers(options, says):
    with pytest.raises(ValueError, match=f"^Sequential.*: .*{says}"):
        architecture.from_data({"layer": "Sequential", "options": options}, {})


def test_what_this_version_does_not_know_is_said_to_be_unknown():
    for data, says in [
        ({"layer": "Attention", "options": {}}, "there is no layer Attention"),
        ({"layer": "LSTM", "options": {"n_a": 2, "zoneout": 1}}, "LSTM has no option 'zoneout'"),
        ({"layer": "BuiltIn", "options": {}}, "there is no layer BuiltIn"),
        ({"layer": "Recurrent", "options": {"n_a": 2}}, "there is no layer Recurrent"),
    ]:
        with pytest.raises(architecture.UnknownError, match=exactly(says)):
            architecture.from_data(data, {"Attention": Own})
    with pytest.raises(ValueError, match=r"^Own has no option 'zoneout'$") as caught:
        architecture.from_data(
            {"layer": "Own", "own": True, "options": {"zoneout": 1}}, {"Own": Own}
        )
    assert type(caught.value) is ValueError
