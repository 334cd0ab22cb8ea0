"""A layer made again from its fields, which are all that a file has of it.

(1) Its class is a frozen dataclass, made from its fields and from nothing else.
(2) The layer that the class makes of the fields is the layer: all fields and attributes are the
    same. What a `functools.cached_property` has kept does not count.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from seqcore import arrays
from seqcore.files.plain import DEPTH, short
from seqcore.layers import Layer, Sequential
from seqcore.layers.contract import check_layer

_MISSING = object()
_STARS = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def fields(kind: type[Any]) -> list[str]:
    """Return the fields of a layer that it is made from."""
    return [field.name for field in dataclasses.fields(kind) if field.init]


def make(name: str, kind: type[Any], options: Mapping[str, Any]) -> Layer:
    """Return a layer of a class, with these options.

    Raises
    ------
    ValueError
        If there is no such layer.
    """
    try:
        # Sequential's fields are not what it is called with.
        own_call = kind.__init__ is not Sequential.__init__
        layer: Layer = kind(**options) if own_call else kind(**_labelled(**options))
        check_layer(name, layer)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{name}({', '.join(options)}): {short(error)}") from error
    return layer


def _labelled(layers: Any, labels: Any) -> dict[str, Any]:
    """Return the layers of a Sequential by their names."""
    if not (isinstance(layers, tuple) and isinstance(labels, tuple) and len(layers) == len(labels)):
        raise ValueError("expected as many labels as layers")
    found = dict(zip(labels, layers, strict=True))
    if len(found) < len(labels):
        raise ValueError("two layers have one label")
    return found


def check_class(name: str, kind: type[Any]) -> None:
    """Require a class of layers that can be made from its fields (1).

    Raises
    ------
    TypeError
        If it is something else.
    """
    if not hasattr(kind, "forward"):
        raise TypeError(f"{name} has no method forward, expected a class of layers")
    params: Any = getattr(kind, "__dataclass_params__", None)
    if params is None or not params.frozen:
        raise TypeError(f"{name} is not a frozen dataclass, whose fields say how to make it again")
    if kind.__init__ is Sequential.__init__:
        return
    for option, parameter in inspect.signature(kind).parameters.items():
        if option not in fields(kind):
            called = str(parameter.replace(annotation=parameter.empty))
            called = called if parameter.kind in _STARS else option
            raise TypeError(f"{name} is made from {called!r}, which is not one of its fields")
    # A subclass inherits that its base class is a dataclass.
    maker = next(base for base in kind.__mro__ if "__init__" in vars(base))
    if "__dataclass_params__" not in vars(maker):
        raise TypeError(
            f"{name} is not a frozen dataclass: {maker.__name__} has an __init__ of its own, "
            "expected the decorator dataclass(frozen=True), and fields for what it keeps"
        )


def check_comes_back(place: str, layer: Layer) -> None:
    """Require that a layer's class makes the same layer of its fields (2).

    Raises
    ------
    TypeError
        If it does not; the error names the class and the field or attribute.
    """
    kind = type(layer)
    given = {option: getattr(layer, option) for option in fields(kind)}
    try:
        again = make(kind.__name__, kind, given)
    except ValueError as error:
        raise TypeError(
            f"{place} does not come back from its fields, which are all that is saved: {error}"
        ) from error
    if type(again) is not kind:
        raise TypeError(f"{place} comes back as a {type(again).__name__}, expected the same class")
    before, after = state(layer), state(again)
    for name in before | after:
        one, other = before.get(name, _MISSING), after.get(name, _MISSING)
        if not _same(one, other):
            is_, comes = (
                "missing" if value is _MISSING else short(value, 60) for value in (one, other)
            )
            raise TypeError(
                f"{place}.{name} is {is_} and comes back as {comes}, expected a class that keeps "
                "its fields as they were given and nothing besides: only fields of a frozen "
                "dataclass are saved"
            )


def state(layer: Any) -> dict[str, Any]:
    """Return all that a layer holds: its fields, its slots and its attributes."""
    kind = type(layer)
    names = dict.fromkeys(field.name for field in dataclasses.fields(kind))
    for base in kind.__mro__:
        slots = vars(base).get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            hidden = slot.startswith("__") and not slot.endswith("__")
            names[f"_{base.__name__.lstrip('_')}{slot}" if hidden else slot] = None
    found = {name: getattr(layer, name, _MISSING) for name in names if name != "__dict__"}
    found |= {
        name: value
        for name, value in getattr(layer, "__dict__", {}).items()
        if not isinstance(inspect.getattr_static(kind, name, None), cached_property)
    }
    return {name: value for name, value in found.items() if value is not _MISSING}


def held(layer: Any) -> Iterator[Any]:
    """Yield the layers that a layer holds, at any depth: in its fields, attributes and tuples."""
    seen: set[int] = set()
    rest = [layer]
    while rest:
        part = rest.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, tuple | list):
            rest += part
        elif hasattr(part, "forward") and not isinstance(part, type):
            if part is not layer:
                yield part
            if dataclasses.is_dataclass(part):
                rest += state(part).values()


def _same(one: Any, other: Any, depth: int = 0) -> bool:
    """Tell whether two values are the same in type and in every bit."""
    if one is other:
        return True
    if type(one) is not type(other) or depth > DEPTH:
        return False
    if arrays.is_array(one):
        left, right = arrays.to_host(one), arrays.to_host(other)
        alike = (left.dtype, left.shape) == (right.dtype, right.shape)
        return alike and np.asarray(left).tobytes() == np.asarray(right).tobytes()
    if isinstance(one, float | complex):
        return repr(one) == repr(other)  # -0.0 is equal to 0.0, and NaN to nothing
    if isinstance(one, tuple | list):
        pairs = zip(one, other, strict=False)
        return len(one) == len(other) and all(_same(*pair, depth + 1) for pair in pairs)
    if isinstance(one, dict):
        return list(one) == list(other) and _same([*one.values()], [*other.values()], depth + 1)
    if dataclasses.is_dataclass(one):
        return _same(state(one), state(other), depth + 1)
    kind: Any = type(one)
    if kind.__eq__ is object.__eq__ and kind.__new__ is object.__new__ and hasattr(one, "__dict__"):
        return _same(vars(one), vars(other), depth + 1)  # an object of a class of Python's
    try:
        return bool(one == other)
    except (TypeError, ValueError):  # it can't be told
        return False
