"""What kind of array an argument is: its library, device and dtype, and what it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seqcore import arrays
from seqcore.arrays import Array, Namespace


def one_library(place: str, named: Mapping[str, Array]) -> Namespace:
    """Return the namespace shared by the `named` arrays.

    Raises
    ------
    TypeError
        If an argument is not an array, or two are of different libraries or devices.
    ValueError
        If no arrays are given.
    """
    if not named:
        raise ValueError(f"{place}: no arrays were given, expected at least one")
    kind: type[Any] | None = None
    for name, value in named.items():
        # The check takes microseconds; most arguments have the type of the one before.
        if type(value) is not kind and not arrays.is_array(value):
            raise TypeError(f"{place}: {name} is a {type(value).__name__}, expected an array")
        kind = type(value)
        usable(place, name, value)
    first_name, first = next(iter(named.items()))
    _refuse(place, first_name, arrays.halved(first))
    xp = arrays.namespace(first)
    where, placed_name = None, first_name
    for name, value in named.items():
        if type(value) is not type(first) and arrays.namespace(value) is not xp:
            raise TypeError(
                f"{place}: {name} is an array of {arrays.library(value)}, expected "
                f"{arrays.library(first)} like {first_name}"
            )
        device = arrays.device(value)  # None while JAX traces: it will be that of the others
        if where is None:
            where, placed_name = device, name
        elif device is not None and device != where:
            raise TypeError(
                f"{place}: {name} is on device {device}, expected {where} like {placed_name}"
            )
    return xp


def usable(place: str, name: str, array: Array) -> None:
    """Require an array whose meaning counts and that its library can compute with.

    Raises
    ------
    TypeError
        For a subclass with a meaning of its own, such as a masked array, and for a byte order or
        a layout that the library has no functions for.
    ValueError
        If the array has lost its memory, or has sizes that are not known yet.
    """
    _refuse(place, name, arrays.refusal(array))


def _refuse(place: str, name: str, refused: arrays.Refusal | None) -> None:
    if refused is not None:
        raise refused.error(f"{place}: {name} {refused.why}")


def floating(place: str, named: Mapping[str, Array]) -> None:
    """Require that the `named` arrays are float32, or float64, all of them.

    Half precision is refused: Adam's eps and small gradients would round to 0, and sums over
    many steps would lose most of their digits. So is more than double precision, which no
    linear algebra and no file takes.

    Raises
    ------
    TypeError
        If one is not of these dtypes, or two dtypes differ.
    """
    first_name, dtype = "", None
    for name, value in named.items():
        if value.dtype != dtype and not arrays.is_single_or_double(value):
            if arrays.is_floating(value):
                raise TypeError(
                    f"{place}: {name} has dtype {value.dtype}, expected float32 or float64: "
                    "nothing is computed in other precisions"
                )
            raise TypeError(
                f"{place}: {name} has dtype {value.dtype}, expected a floating point dtype"
            )
        if dtype is None:
            first_name, dtype = name, value.dtype
        elif value.dtype != dtype:
            raise TypeError(
                f"{place}: {name} has dtype {value.dtype}, expected {dtype} like {first_name}"
            )


def floats(place: str, named: Mapping[str, Array]) -> Namespace:
    """Require what `one_library` and `floating` require, and return the namespace.

    Raises
    ------
    TypeError
        If an argument is not an array of floats, or two differ in dtype, library or device.
    ValueError
        If no arrays are given.
    """
    xp = one_library(place, named)
    floating(place, named)
    return xp


def integral(place: str, name: str, array: Array) -> None:
    """Require that `array` holds integers.

    Raises
    ------
    TypeError
        If it does not.
    """
    if not arrays.is_integer(array):
        raise TypeError(f"{place}: {name} has dtype {array.dtype}, expected an integer dtype")


def indices(place: str, name: str, array: Array, n: int, meaning: str) -> None:
    """Require integers in `0 <= index < n`; this reads the values once.

    Values that do not exist yet, because JAX traces them or Dask is lazy, are not checked.

    Raises
    ------
    TypeError
        If `array` does not hold integers.
    ValueError
        If a value is out of range.
    """
    integral(place, name, array)
    if not arrays.is_readable(array):
        return
    for bound in arrays.bounds(array):
        in_range(place, name, bound, n, meaning)


def in_range(place: str, name: str, index: int, n: int, meaning: str) -> None:
    """Require `0 <= index < n`.

    Raises
    ------
    ValueError
        If it is not.
    """
    if not 0 <= index < n:
        raise ValueError(f"{place}: {name} holds {index}, expected 0 <= {meaning} < {n}")


def concrete(place: str, /, **values: object) -> None:
    """Require values that can be read, not arrays that JAX traces.

    Raises
    ------
    TypeError
        If JAX traces one.
    """
    for name, value in values.items():
        if arrays.is_traced(value):
            raise TypeError(
                f"{place}: {name} is a traced array of {arrays.library(value)}, expected a value: "
                "leave it out of what is traced"
            )
