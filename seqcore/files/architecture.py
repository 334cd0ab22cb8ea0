"""The architecture of a model as data: which layers, with which options.

    {"layer": "LSTM", "options": {"n_a": 16, "layers": 1, ...}}
    {"layer": "Mine", "own": true, "options": {...}}               a class that is not seqcore's

A layer is a frozen dataclass, and its options are its fields: None, True, False, strings, numbers,
layers, and tuples of these, as lists. An infinite number is `{"float": "inf"}`, which JSON lacks.
A field that is left out has its default, so that files stay whole when a layer gets a new option.

Data names classes; it makes none, and it runs nothing but them.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from seqcore import layers
from seqcore.files.plain import DEPTH, kind_of
from seqcore.layers import Layer, Sequential
from seqcore.layers.contract import check_layer
from seqcore.layers.door import BuiltIn
from seqcore.parallel import Sharded

BITS = 2048  # of a whole number; Python writes and reads longer ones only where it may

Classes = Mapping[str, type[Any]]


class UnknownError(ValueError):
    """Data names a layer of seqcore, or an option of one, that this version does not have."""


def _built_in() -> dict[str, type[Any]]:
    public = [getattr(layers, name) for name in layers.__all__]
    classes = [kind for kind in (*public, Sharded) if isinstance(kind, type)]
    return {
        kind.__name__: kind
        for kind in classes
        if issubclass(kind, BuiltIn) and not inspect.isabstract(kind)
    }


BUILT_IN: Classes = _built_in()

# --- a model as data --------------------------------------------------------------------


def to_data(model: Layer) -> dict[str, Any]:
    """Return a model as data.

    Raises
    ------
    TypeError
        If it would not come back: a layer is not a frozen dataclass, or an option is not data.
    ValueError
        If an option is NaN, which is equal to nothing, or two classes have the same name.
    """
    return _layer("", model, {}, 0)


def _layer(place: str, layer: Layer, own: dict[str, type[Any]], depth: int) -> dict[str, Any]:
    kind = type(layer)
    name = kind.__name__
    if depth > DEPTH:
        raise TypeError(f"{name}: layers are nested deeper than {DEPTH} levels")
    if BUILT_IN.get(name) is kind:
        return {"layer": name, "options": _options(layer, own, depth)}
    _check_class(f"{place}{name}", kind)
    if own.setdefault(name, kind) is not kind:
        raise ValueError(f"two classes of layers are named {name}, expected different names")
    options = _options(layer, own, depth)
    _check_comes_back(f"{place}{name}", layer, options)
    return {"layer": name, "own": True, "options": options}


def _options(layer: Layer, own: dict[str, type[Any]], depth: int) -> dict[str, Any]:
    return {
        option: _option(f"{type(layer).__name__}.{option}", getattr(layer, option), own, depth + 1)
        for option in _fields(type(layer))
    }


def _check_comes_back(place: str, layer: Layer, options: dict[str, Any]) -> None:
    """Require that a layer's class makes the same layer of its fields."""
    kind = type(layer)
    given = {option: getattr(layer, option) for option in options}
    try:
        again = _options(_make(kind.__name__, kind, given), {}, 0)
    except ValueError as error:
        raise TypeError(
            f"{place} does not come back from its fields, which are all that is saved: {error}"
        ) from error
    for option, value in options.items():
        if json.dumps(again[option]) != json.dumps(value):
            raise TypeError(
                f"{place}.{option} is {value!r:.60} and comes back as {again[option]!r:.60}, "
                "expected a class that keeps its fields as they were given"
            )


def _option(name: str, value: Any, own: dict[str, type[Any]], depth: int) -> Any:
    kind = type(value)
    if kind in (type(None), bool, str):
        return value
    if kind is int:
        if value.bit_length() > BITS:
            raise ValueError(f"{name} has {value.bit_length()} bits, expected at most {BITS}")
        return value
    if kind is float:
        if math.isnan(value):
            raise ValueError(f"{name} is nan, expected a number")
        return {"float": str(value)} if math.isinf(value) else value
    if kind is tuple:
        if depth > DEPTH:
            raise TypeError(f"{name} is nested deeper than {DEPTH} levels")
        return [_option(f"{name}.{k}", item, own, depth + 1) for k, item in enumerate(value)]
    if hasattr(value, "forward") and not isinstance(value, type):
        return _layer(f"{name}: ", value, own, depth)
    raise TypeError(
        f"{name} is {kind_of(value)}, expected None, True, False, a string or number of Python, a "
        "layer, or a tuple of these"
    )


# --- and back ---------------------------------------------------------------------------


def from_data(data: Any, own: Classes, depth: int = 0) -> Layer:
    """Return the model that data describes.

    Parameters
    ----------
    data
        What `to_data` returned.
    own
        Classes of layers that are not seqcore's, by name.
    depth
        How deep it is nested already.

    Raises
    ------
    UnknownError
        If it has a layer of seqcore, or an option of one, that this version does not know.
    ValueError
        If it is not data of a model.
    """
    if not isinstance(data, dict) or not {"layer", "options"} <= set(data) <= {
        *("layer", "own", "options")
    }:
        raise ValueError(f"{data!r:.60} is not a layer")
    name, options = data["layer"], data["options"]
    is_own = data.get("own", False)
    if not (isinstance(name, str) and isinstance(options, dict) and isinstance(is_own, bool)):
        raise ValueError(f"{data!r:.60} is not a layer")
    if depth > DEPTH:
        raise ValueError(f"{name:.60}: layers are nested deeper than {DEPTH} levels")
    kind = (own if is_own else BUILT_IN).get(name)
    if kind is None:
        raise UnknownError(f"there is no layer {name:.60}")
    for option in options:
        if option not in _fields(kind):
            text = f"{name} has no option {option!r:.60}"
            raise ValueError(text) if is_own else UnknownError(text)
    given = {option: _value(value, own, depth + 1) for option, value in options.items()}
    return _make(name, kind, given)


def own_names(data: Any, depth: int = 0) -> Iterator[str]:
    """Yield the names of the classes that are not seqcore's."""
    if isinstance(data, list):
        inside: Iterable[Any] = data
    elif isinstance(data, dict):
        if data.get("own") is True and isinstance(data.get("layer"), str):
            yield data["layer"]
        inside = data.values()
    else:
        return
    if depth <= 2 * DEPTH:  # beyond it the data is refused
        for part in inside:
            yield from own_names(part, depth + 1)


def classes(place: str, given: Any) -> dict[str, type[Any]]:
    """Return classes of layers by name, from a mapping or a collection of classes.

    Raises
    ------
    TypeError
        If something is not a class of layers.
    ValueError
        If two classes have the same name.
    """
    if given is None:
        return {}
    if isinstance(given, Mapping):
        named = list(given.items())
    elif isinstance(given, Iterable) and not isinstance(given, str | bytes):
        named = [(getattr(kind, "__name__", "layers"), kind) for kind in given]
    else:
        raise TypeError(f"{place}: layers is {given!r:.60}, expected a dict of classes by name")
    for name, kind in named:
        if not isinstance(name, str):
            raise TypeError(f"{place}: layers has the key {name!r}, expected the name of a class")
        if not isinstance(kind, type):
            raise TypeError(f"{place}: {name} is {kind!r:.60}, expected a class of layers")
        try:
            _check_class(name, kind)
        except TypeError as error:
            raise TypeError(f"{place}: {error}") from error
    found = dict(named)
    if len(found) < len(named):
        raise ValueError(f"{place}: layers has two classes of one name, expected a dict of them")
    return found


def _value(value: Any, own: Classes, depth: int) -> Any:
    if isinstance(value, list):
        if depth > DEPTH:
            raise ValueError(f"options are nested deeper than {DEPTH} levels")
        return tuple(_value(item, own, depth + 1) for item in value)
    if not isinstance(value, dict):
        return value
    if set(value) == {"float"} and value["float"] in ("inf", "-inf"):
        return float(value["float"])
    return from_data(value, own, depth)


def _make(name: str, kind: type[Any], options: dict[str, Any]) -> Layer:
    try:
        # Sequential's fields are not what it is called with.
        own_call = kind.__init__ is not Sequential.__init__
        layer: Layer = kind(**options) if own_call else kind(**_labelled(**options))
        check_layer(name, layer)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{name}({', '.join(options)}): {error}") from error
    return layer


def _labelled(layers: Any, labels: Any) -> dict[str, Any]:
    """Return the layers of a Sequential by their names."""
    if not (isinstance(layers, tuple) and isinstance(labels, tuple) and len(layers) == len(labels)):
        raise ValueError("expected as many labels as layers")
    found = dict(zip(labels, layers, strict=True))
    if len(found) < len(labels):
        raise ValueError("two layers have one label")
    return found


def _fields(kind: type[Any]) -> list[str]:
    """Return the fields of a layer that it is made from."""
    return [field.name for field in dataclasses.fields(kind) if field.init]


def _check_class(name: str, kind: type[Any]) -> None:
    """Require a class of layers that can be made from its fields."""
    if not hasattr(kind, "forward"):
        raise TypeError(f"{name} has no method forward, expected a class of layers")
    params: Any = getattr(kind, "__dataclass_params__", None)
    if params is None or not params.frozen:
        raise TypeError(f"{name} is not a frozen dataclass, whose fields say how to make it again")
    for option, parameter in inspect.signature(kind).parameters.items():
        named = parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if named and option not in _fields(kind):
            raise TypeError(f"{name} is made from {option!r}, which is not one of its fields")
