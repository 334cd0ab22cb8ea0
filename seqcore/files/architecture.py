"""The architecture of a model as data: which layers, with which options.

    {"layer": "LSTM", "options": {"n_a": 16, "layers": 1, ...}}
    {"layer": "Mine", "own": true, "options": {...}}               a class that is not seqcore's

A layer is a frozen dataclass, and its options are its fields: None, True, False, strings, numbers,
layers, and tuples of these, as lists. An infinite number is `{"float": "inf"}`, which JSON lacks.
A field that is left out has its default, so that files stay whole when a layer gets a new option.

Data names classes; it makes none, and it runs nothing but them.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping
from typing import Any

from seqcore import layers
from seqcore.files import remade
from seqcore.files.plain import DEPTH, kind_of, short
from seqcore.layers import Layer
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
    is_own = BUILT_IN.get(name) is not kind
    if is_own:
        remade.check_class(f"{place}{name}", kind)
        if own.setdefault(name, kind) is not kind:
            raise ValueError(f"two classes of layers are named {name}, expected different names")
    options = _options(layer, own, depth)
    remade.check_comes_back(f"{place}{name}", layer)
    return {"layer": name, **({"own": True} if is_own else {}), "options": options}


def _options(layer: Layer, own: dict[str, type[Any]], depth: int) -> dict[str, Any]:
    return {
        option: _option(f"{type(layer).__name__}.{option}", getattr(layer, option), own, depth + 1)
        for option in remade.fields(type(layer))
    }


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
    if not isinstance(data, dict) or not {"layer", "options"} <= set(data):
        raise ValueError(f"{short(data, 60)} is not a layer")
    name, options = data["layer"], data["options"]
    is_own = data.get("own", False)
    if not (isinstance(name, str) and isinstance(options, dict) and isinstance(is_own, bool)):
        raise ValueError(f"{short(data, 60)} is not a layer")
    for key in data:
        if key not in ("layer", "own", "options"):
            raise UnknownError(f"the layer {name:.60} has no {short(key, 60)}")
    if depth > DEPTH:
        raise ValueError(f"{name:.60}: layers are nested deeper than {DEPTH} levels")
    kind = (own if is_own else BUILT_IN).get(name)
    if kind is None:
        raise UnknownError(f"there is no layer {name:.60}")
    known = remade.fields(kind)
    for option in options:
        if option not in known:
            text = f"{name} has no option {short(option, 60)}"
            raise ValueError(text) if is_own else UnknownError(text)
    given = {option: _value(value, own, depth + 1) for option, value in options.items()}
    return remade.make(name, kind, given)


def own_names(data: Any) -> set[str]:
    """Return the names of the classes that are not seqcore's."""
    found = set()
    rest = [data]
    while rest:
        part = rest.pop()
        if isinstance(part, list):
            rest += part
        elif isinstance(part, dict):
            if part.get("own") is True and isinstance(part.get("layer"), str):
                found.add(part["layer"])
            rest += part.values()
    return found


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
            remade.check_class(name, kind)
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
