"""The configuration in a checkpoint: it comes back equal to what was saved, or is refused."""

from __future__ import annotations

import enum
import json
import math
import sys
from collections import OrderedDict, defaultdict, namedtuple
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judging import exactly

import seqcore as sc
from seqcore.files import plain

pytestmark = pytest.mark.host


class Mode(enum.StrEnum):
    FAST = "fast"


class Level(enum.IntEnum):
    LOW = 1


class Word(str):
    __slots__ = ()


Point = namedtuple("Point", "x y")

text = st.text() | st.sampled_from(["1", "true", "null", "NaN", "\ud800", "\0", "__metadata__"])
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text
values = st.recursive(
    scalars, lambda inside: st.lists(inside) | st.dictionaries(text, inside), max_leaves=20
)


def typed(value):
    """Return a value with the types in it: 1, 1.0 and True are equal."""
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [typed(item) for item in value]
    return type(value), repr(value)


@given(config=st.dictionaries(text, values))
def test_a_configuration_comes_back_as_it_was(config):
    again = plain.read_json(json.dumps(plain.plain("config", config)))
    assert again == config
    assert typed(again) == typed(config)
    assert list(again) == list(config)


def test_what_a_diverged_run_writes_down_comes_back(tmp_path):
    path = tmp_path / "c.safetensors"
    sc.save_checkpoint(path, {}, config={"losses": [math.inf, -math.inf, math.nan]})
    first, second, third = sc.load_checkpoint(path).config["losses"]
    assert (first, second) == (math.inf, -math.inf)
    assert math.isnan(third)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((1, (2, [])), [1, [2, []]]),
        (OrderedDict(b=1, a=(2,)), {"b": 1, "a": [2]}),
        (defaultdict(list, a=1), {"a": 1}),
        (MappingProxyType({"a": 1}), {"a": 1}),
        (np.float64(0.1), 0.1),
        (np.str_("a"), "a"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_other_sequences_and_mappings_come_back_as_python_has_them(value, expected, tmp_path):
    path = tmp_path / "c.safetensors"
    for config in ({"a": value}, {"a": [{"b": value}]}):
        sc.save_checkpoint(path, {}, config=config)
    assert typed(sc.load_checkpoint(path).config) == typed({"a": [{"b": expected}]})


@pytest.mark.parametrize("key", [1, 1.5, True, None, ("a",), b"a", Mode.FAST, Word("a")])
def test_a_key_that_would_come_back_as_another_is_refused_by_its_place(key, tmp_path):
    path = tmp_path / "c.safetensors"
    for config, place in [
        ({key: 1}, "config"),
        ({"a": {key: 1}}, "config.a"),
        ({"a": [{}, {"b": OrderedDict([("c", 1), (key, 2)])}]}, "config.a.1.b"),
    ]:
        says = f"save_checkpoint: {place} has the key {key!r}, expected strings as keys"
        with pytest.raises(TypeError, match=exactly(says)):
            sc.save_checkpoint(path, {}, config=config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "value",
    [
        *(Mode.FAST, Level.LOW, Word("a"), Point(1, 2), {1, 2}, b"a", 1j, object(), len, range(3)),
        *(np.float32(1), np.int64(1), np.bool_(True), np.zeros(2), np.zeros(()), sc.LSTM(2)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_would_come_back_as_another_is_refused_by_its_place(value, tmp_path):
    path = tmp_path / "c.safetensors"
    for config, place in [
        ({"a": value}, "config.a"),
        ({"a": [1, {"b": (2, value)}]}, "config.a.1.b.1"),
    ]:
        with pytest.raises(TypeError) as caught:
            sc.save_checkpoint(path, {}, config=config)
        said = str(caught.value)
        assert said.startswith(f"save_checkpoint: {place} is a {type(value).__name__}")
        assert "expected None, True, False, a string or number of Python, or a list" in said
    assert list(tmp_path.iterdir()) == []


def nested(levels):
    value = 0
    for _ in range(levels):
        value = [value]
    return value


def test_what_is_nested_too_deep_to_come_back_is_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    sc.save_checkpoint(path, {}, config={"a": nested(plain.DEPTH - 1)})
    assert sc.load_checkpoint(path).config == {"a": nested(plain.DEPTH - 1)}
    itself = {}
    itself["itself"] = itself
    for config in ({"a": nested(plain.DEPTH)}, {"a": nested(10_000)}, itself):
        with pytest.raises(
            TypeError, match=r"^save_checkpoint: config\.\w+.* is nested deeper than"
        ):
            sc.save_checkpoint(path, {}, config=config)


def test_a_number_too_long_to_come_back_is_refused(tmp_path):
    digits = sys.get_int_max_str_digits()
    with pytest.raises(TypeError, match=r"^save_checkpoint: config is not JSON .Exceeds the limit"):
        sc.save_checkpoint(tmp_path / "c", {}, config={"a": 10**digits})


def test_json_that_says_a_thing_twice_or_nothing_finite_is_refused():
    assert plain.read_json('{"a": [1e3, -0.0], "b": {"a": 1}}') == {"a": [1e3, 0], "b": {"a": 1}}
    with pytest.raises(ValueError, match="a name stands twice"):
        plain.read_json('{"b": [{"a": 1, "a": 1}]}')
    for text in ("NaN", "Infinity", "-Infinity", "1e999", "-1e999"):
        plain.read_json(f"[{text}]")
        with pytest.raises(ValueError, match=f"^{text} is not a finite number$"):
            plain.read_json(f"[{text}]", finite=True)
