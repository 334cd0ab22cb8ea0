"""Sizes, rates and flags: plain Python numbers."""

from __future__ import annotations

import dataclasses
import math
from numbers import Integral, Real
from typing import Any

from seqcore.checks.kinds import concrete


def number(place: str, name: str, value: object) -> float:
    """Return a real number, which is not infinite, as a Python float.

    A NumPy scalar would change the dtype of the arrays that it is combined with. NaN is left to
    the range that the caller requires.

    Raises
    ------
    TypeError
        If it is not a number, or JAX traces it.
    ValueError
        If it is infinite.
    """
    found = _real(place, name, value)
    _finite(place, name, found)
    return found


def above_zero(place: str, name: str, given: object, *, infinite: bool = False) -> float:
    """Return a number greater than zero, which is finite unless `infinite`, as a Python float.

    Raises
    ------
    ValueError
        If it is not.
    TypeError
        If it is not a number, or JAX traces it.
    """
    value = _real(place, name, given)
    if not value > 0:
        raise ValueError(f"{place}: {name} is {given}, expected more than 0")
    if not infinite:
        _finite(place, name, value)
    return value


def positive(place: str, *, infinite: bool = False, **numbers: float) -> None:
    """Require numbers greater than zero, as `above_zero` does.

    Raises
    ------
    ValueError, TypeError
        As there.
    """
    for name, given in numbers.items():
        above_zero(place, name, given, infinite=infinite)


def _real(place: str, name: str, value: object) -> float:
    concrete(place, **{name: value})
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{place}: {name} is {value!r:.60}, expected a number")
    try:
        return float(value)
    except OverflowError:  # a whole number beyond all floats
        return math.inf


def _finite(place: str, name: str, value: float) -> None:
    if math.isinf(value):
        raise ValueError(f"{place}: {name} is {value}, expected a finite number")


def flag(place: str, **flags: bool) -> None:
    """Require True or False.

    Raises
    ------
    TypeError
        If one is something else.
    """
    given: dict[str, object] = {**flags}
    for name, value in given.items():
        if not isinstance(value, bool):
            raise TypeError(f"{place}: {name} is {value!r:.60}, expected True or False")


def is_whole(value: object) -> bool:
    """Tell whether `value` is a whole number, of Python or NumPy; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def whole(place: str, name: str, value: Any) -> int:
    """Return a whole number of at least 1 as a Python int.

    Raises
    ------
    TypeError
        If it is not an integer.
    ValueError
        If it is less than 1, or more than arrays can hold.
    """
    concrete(place, **{name: value})
    if not is_whole(value):
        raise TypeError(f"{place}: {name} is {value!r:.60}, expected a whole number")
    found = int(value)
    if found < 1:
        raise ValueError(f"{place}: {name} is {value}, expected at least 1")
    if found >= 2**63:  # no array holds it
        raise ValueError(f"{place}: {name} has {found.bit_length()} bits, expected 63")
    return found


def count(place: str, **numbers: int) -> None:
    """Require whole numbers of at least 1, as `whole` does.

    Raises
    ------
    TypeError, ValueError
        As there.
    """
    for name, value in numbers.items():
        whole(place, name, value)


def plain(settings: Any) -> None:
    """Make the numbers of a frozen dataclass Python's own.

    NumPy's have a width: 4 * np.uint8(200) is 32.
    """
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, bool):
            continue
        if isinstance(value, Integral):
            object.__setattr__(settings, field.name, int(value))
        elif isinstance(value, Real):
            object.__setattr__(settings, field.name, float(value))
