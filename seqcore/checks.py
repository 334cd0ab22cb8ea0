"""Checks of arguments: each error names the place, what was given and what was expected.

Shapes and sizes raise ValueError; dtypes, libraries and devices raise TypeError. The loop
over time checks nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from seqcore import arrays
from seqcore.arrays import Array, Namespace

Sizes = dict[str, int]


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
    first_name, first = next(iter(named.items()))
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


def floating(place: str, named: Mapping[str, Array]) -> None:
    """Require that the `named` arrays are floating point, all of one dtype.

    Raises
    ------
    TypeError
        If one is not floating point, or two dtypes differ.
    """
    first_name, dtype = "", None
    for name, value in named.items():
        if value.dtype != dtype and not arrays.is_floating(value):
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


def shape(place: str, name: str, array: Array, expected: Sequence[int | str], sizes: Sizes) -> None:
    """Require a shape given in sizes and letters: `(4, "n_a", "n_x")`.

    A letter that `sizes` knows must have that size; a new one is bound to the size found,
    which must be at least 1.

    Raises
    ------
    ValueError
        If the rank or a size differs, or a new letter has size 0.
    """
    size(place, name, tuple(array.shape), expected, sizes)


def size(
    place: str, name: str, found: tuple[int, ...], expected: Sequence[int | str], sizes: Sizes
) -> None:
    """Check the shape `found` as `shape` does."""
    right = len(found) == len(expected)
    if right:
        bound = dict(sizes)  # a new letter may occur twice
        for n, wanted in zip(found, expected, strict=True):
            known = bound.setdefault(wanted, n) if isinstance(wanted, str) else wanted
            right = right and known == n
    if not right:
        raise ValueError(f"{place}: {name} has shape {found}, expected {_spell(expected, sizes)}")
    for n, wanted in zip(found, expected, strict=True):
        if isinstance(wanted, str):
            if n < 1:
                raise ValueError(
                    f"{place}: {name} has shape {found}, expected {_spell(expected, sizes)} "
                    f"with {wanted} at least 1"
                )
            sizes[wanted] = n


def _spell(expected: Sequence[int | str], sizes: Sizes) -> str:
    """Write `(4, n_a, n_x) = (4, 5, 3)`, the right side only if every letter is known."""

    def row(entries: Iterable[object]) -> str:
        words = [str(entry) for entry in entries]
        return f"({words[0]},)" if len(words) == 1 else f"({', '.join(words)})"

    values = [sizes.get(entry) if isinstance(entry, str) else entry for entry in expected]
    letters = row(expected)
    known = any(isinstance(entry, str) for entry in expected) and None not in values
    return f"{letters} = {row(values)}" if known else letters


def parameters(
    place: str,
    params: Mapping[str, Array],
    expected: Iterable[str],
    *,
    others: bool = False,
    argument: str = "params",
) -> None:
    """Require that `params` has the `expected` names, and no others unless `others`.

    Raises
    ------
    TypeError
        If `params` is not a mapping.
    ValueError
        If a name is missing or unexpected.
    """
    if not isinstance(params, Mapping):
        raise TypeError(f"{place}: {argument} is a {type(params).__name__}, expected a dict")
    expected = list(expected)
    for name in expected:
        if name not in params:
            came = ", ".join(params) or "no parameters"
            raise ValueError(f"{place}: parameter {name!r} is missing; got {came}")
    for name in params:
        if name not in expected and not others:
            raise ValueError(
                f"{place}: unexpected parameter {name!r}; expected {', '.join(expected)}"
            )


def series(
    place: str, name: str, found: tuple[int, ...], axes: Sequence[str], sizes: Sizes
) -> None:
    """Require the shape of a sequence that `axes` spell, time first, such as (T, n_x, m).

    Raises
    ------
    ValueError
        If the rank or a size differs, or a size is 0.
    """
    right = len(found) == len(axes) and all(
        n == sizes.get(letter, n) for n, letter in zip(found, axes, strict=True)
    )
    if not right:
        known = [str(sizes.get(letter, letter)) for letter in axes]
        letters, values = f"({', '.join(axes)})", f"({', '.join(known)})"
        first = "time first, " if axes[0] == "T" else ""
        also = f" = {values}" if values != letters else ""
        raise ValueError(f"{place}: {name} has shape {found}, expected {first}{letters}{also}")
    size(place, name, found, axes, sizes)


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


def number(place: str, name: str, value: object) -> float:
    """Return a real number as a Python float.

    A NumPy scalar would change the dtype of the arrays that it is combined with.

    Raises
    ------
    TypeError
        If it is not a number, or JAX traces it.
    """
    concrete(place, **{name: value})
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{place}: {name} is {value!r}, expected a number")
    return float(value)


def concrete(place: str, **values: object) -> None:
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


def positive(place: str, **numbers: float) -> None:
    """Require numbers greater than zero (NaN is not).

    Raises
    ------
    ValueError
        If one is not.
    TypeError
        If one is not a number, or JAX traces it.
    """
    for name, given in numbers.items():
        value = number(place, name, given)
        if not value > 0:
            raise ValueError(f"{place}: {name} is {given}, expected more than 0")


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
            raise TypeError(f"{place}: {name} is {value!r}, expected True or False")


def count(place: str, **numbers: int) -> None:
    """Require whole numbers of at least 1.

    Raises
    ------
    TypeError
        If one is not an integer.
    ValueError
        If one is less than 1.
    """
    concrete(place, **numbers)
    given: dict[str, object] = {**numbers}
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError(f"{place}: {name} is {value!r}, expected a whole number")
        if int(value) < 1:
            raise ValueError(f"{place}: {name} is {value}, expected at least 1")
