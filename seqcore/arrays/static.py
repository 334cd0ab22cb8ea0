"""Values that travel with arrays but are not arrays, such as the layer that made a tape.

JAX takes nested tuples and dicts apart and accepts only arrays as leaves. A value that is
wrapped here travels as part of the structure instead, as in equinox and flax.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Static(Generic[T]):
    """A value that belongs to the structure of a tape, not to its arrays.

    Parameters
    ----------
    value
        Any value. Two of these are equal if their values are.
    """

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value
        if "jax" in sys.modules:
            register_with_jax()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Static) and bool(self.value == other.value)

    def __hash__(self) -> int:
        try:
            return hash(self.value)
        except TypeError:  # a user's layer may hold a list
            return hash(type(self.value))

    def __reduce__(self) -> tuple[type[Static[T]], tuple[T]]:
        return Static, (self.value,)

    def __repr__(self) -> str:
        return f"Static({self.value!r})"


class Witness:
    """Arrays remembered for their identity, and forgotten where identity means nothing.

    JAX's transformations, copies and pickles make new arrays, so a Witness that goes through
    one of them remembers nothing.

    Parameters
    ----------
    seen
        What to remember; None for nothing.
    """

    __slots__ = ("seen",)

    def __init__(self, seen: Any = None) -> None:
        self.seen = seen
        if "jax" in sys.modules:
            register_with_jax()

    def __reduce__(self) -> tuple[type[Witness], tuple[()]]:
        return Witness, ()

    def __repr__(self) -> str:
        return "Witness()"


@cache
def register_with_jax() -> None:
    """Tell JAX that `Static` and `Witness` hold no arrays."""
    tree_util = import_module("jax").tree_util
    tree_util.register_pytree_node(Static, lambda static: ((), static), lambda static, _: static)
    tree_util.register_pytree_node(Witness, lambda _: ((), None), lambda _, __: Witness())
