"""The types of arrays: the standard has no static type for "an array of any library" yet."""

from __future__ import annotations

from typing import Any, TypeAlias

Array: TypeAlias = Any
Namespace: TypeAlias = Any
Params: TypeAlias = dict[str, Array]
# One entry for each time step: an array `(T, ...)`, or a tuple of T arrays.
Series: TypeAlias = Any
# The shape of a parameter, in sizes and letters: (4, "n_a", "n_x").
Shape: TypeAlias = tuple[int | str, ...]
Shapes: TypeAlias = dict[str, Shape]
