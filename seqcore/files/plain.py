"""Plain data: what JSON returns as it was.

None, True, False, strings, whole numbers, floats, lists, and dicts with strings as keys. JSON also
takes other values, and returns them as something else: the key 1 as "1", an Enum as its value.
"""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np

DEPTH = 100  # JSON's reader and writer need some of the stack for each level
MARKS = 250  # levels of JSON, which has up to two for each of ours

# By their kind, and not by isinstance. A float64 and a str_ of NumPy are a float and a str too.
_SCALARS = (type(None), bool, int, float, str, np.float64, np.str_)

# What opens and closes, and strings, in which nothing does.
_MARKS = re.compile(r'[][{}]|"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_STEPS = {"[": 1, "{": 1, "]": -1, "}": -1}
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 300


def plain(name: str, value: Any, depth: int = 0) -> Any:
    """Return what JSON holds of a value; tuples as lists and mappings as dicts.

    Parameters
    ----------
    name
        The name of the value, for errors.
    value
        Any value.
    depth
        How deep it is nested already.

    Raises
    ------
    TypeError
        If a part of it is something that would come back as something else.
    """
    if depth > DEPTH:
        raise TypeError(f"{name:.60}... is nested deeper than {DEPTH} levels")
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind in (list, tuple):
        return [plain(f"{name}.{k}", item, depth + 1) for k, item in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if type(key) not in (str, np.str_):
                raise TypeError(f"{name} has the key {key!r}, expected strings as keys")
        return {key: plain(f"{name}.{key}", item, depth + 1) for key, item in value.items()}
    raise TypeError(
        f"{name} is {kind_of(value)}, expected None, True, False, a string or number of Python, or "
        "a list, tuple or dict of these"
    )


def kind_of(value: object) -> str:
    """Return what a value is, for errors: "a float", "a float32 of numpy"."""
    kind = type(value)
    where = "" if kind.__module__ in ("builtins", "__main__") else f" of {kind.__module__}"
    return f"a {kind.__name__}{where}"


def short(value: object, most: int = 300) -> str:
    """Return what a value is or an error says, for errors, in so many characters at most."""
    if isinstance(value, Exception):
        return cut(str(value), most)
    try:
        return cut(_REPR.repr(value), most)
    except ValueError:  # a number of thousands of digits
        return kind_of(value)


def cut(text: str, most: int = 300) -> str:
    """Return the beginning of a text."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def read_json(text: str | bytes, *, finite: bool = False) -> Any:
    """Return what JSON says, if it says it once.

    Parameters
    ----------
    text
        JSON.
    finite
        Refuse numbers that are not finite, which JSON has no word for.

    Raises
    ------
    ValueError
        If it is not JSON, names something twice, or is nested too deep.
    RecursionError
        If the caller has left too little of the stack.
    """
    check_depth(text)
    numbers: dict[str, Any] = {"parse_float": _finite, "parse_constant": _finite} if finite else {}
    return json.loads(text, object_pairs_hook=_once, **numbers)


def check_depth(text: str | bytes) -> None:
    """Require JSON that is nested as deep as what is saved, at most.

    So a RecursionError says what was left of the stack, and nothing about the JSON.

    Raises
    ------
    ValueError
        If it is nested deeper.
    """
    text = text if isinstance(text, str) else text.decode(errors="replace")
    if text.count("[") + text.count("{") <= MARKS:
        return
    depth = 0
    for mark in _MARKS.finditer(text):
        depth += _STEPS.get(mark[0], 0)
        if depth > MARKS:
            raise ValueError(f"the JSON is nested deeper than {MARKS} levels")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in an object")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text:.60} is not a finite number")
    return value
