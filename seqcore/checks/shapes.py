"""Shapes of arrays, spelled in sizes and letters, and the names of parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from seqcore.arrays import Array

Sizes = dict[str, int]


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
    known: dict[str, None] = {}  # in their order; never more than `params` has
    for name in expected:
        if name not in params:
            came = ", ".join(map(str, params)) or "no parameters"
            raise ValueError(f"{place}: parameter {name!r} is missing; got {came}")
        known[name] = None
    for name in params:
        if name not in known and not others:
            raise ValueError(f"{place}: unexpected parameter {name!r}; expected {', '.join(known)}")
