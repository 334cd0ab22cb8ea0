"""Arrays that no computation here could honour, and what to give instead.

A subclass of a library's array means something that the functions of the standard don't know:
masked entries, units, names. They would drop it without a word. The same goes for a byte order
or a memory layout that the library can't compute in. Each is refused by name where it comes in.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Any, NamedTuple

import array_api_compat as compat
import numpy as np

from seqcore.arrays.namespaces import is_traced
from seqcore.arrays.types import Array

# Subclasses that mean nothing more: where the numbers lie, and what trains.
_PLAIN = (np.ndarray, np.memmap)
_PLAIN_OF_TORCH = ("Tensor", "Parameter", "Buffer")


class Refusal(NamedTuple):
    """Why an array can't be taken: follows its name in a message."""

    error: type[TypeError | ValueError]
    why: str


def refusal(array: Array) -> Refusal | None:
    """Return why `array` can't be taken and what to give instead, or None if it can."""
    kind: Any = type(array)
    if kind is np.ndarray:
        return None if array.dtype.isnative else _foreign(array)
    why = _of_kind(kind)
    if why is not None:
        return Refusal(TypeError, why)
    if isinstance(array, np.ndarray | np.generic):
        return None if array.dtype.isnative else _foreign(array)
    if compat.is_torch_array(array):
        return _of_torch(array)
    if compat.is_jax_array(array):
        return _of_jax(array)
    if compat.is_dask_array(array):
        chunk = _of_kind(array._meta.__class__)  # noqa: SLF001 (Dask has no other name for it)
        if chunk is not None:
            return Refusal(TypeError, f"has chunks each of which {chunk}")
    shape = tuple(array.shape)
    if any(n is None or n != n for n in shape):
        return Refusal(
            ValueError,
            f"has shape {shape}, which is not known before it is computed; compute its sizes "
            "first, in Dask with compute_chunk_sizes()",
        )
    return None


def halved(array: Array) -> Refusal | None:
    """Return why nothing can be computed from `array` at the moment, or None if it can be.

    Inside torch.autocast PyTorch takes products in half precision, of whatever arrays.
    """
    if type(array) is np.ndarray or not compat.is_torch_array(array):
        return None
    torch, device = sys.modules["torch"], array.device.type
    if not torch.is_autocast_enabled(device):
        return None
    return Refusal(
        TypeError,
        f"would be computed with in {torch.get_autocast_dtype(device)}, as torch.autocast says "
        "here; call this outside, or inside torch.autocast(..., enabled=False)",
    )


def judged_by_kind(array: Array) -> bool:
    """Tell whether `refusal` asks for type and dtype only, not for what one array has."""
    return isinstance(array, np.ndarray)


@lru_cache(maxsize=256)
def _of_kind(kind: Any) -> str | None:
    """Return why arrays of a type can't be taken, or None if they can."""
    if issubclass(kind, np.ma.MaskedArray):
        return (
            "is a masked array, whose mask would be lost; give its values as filled() returns "
            "them, and which steps count as mask= where that is taken"
        )
    if issubclass(kind, np.ndarray):
        if kind in _PLAIN:
            return None
        return _subclass(kind, "numpy.ndarray", "numpy.asarray(...) of it")
    for base in kind.__mro__[1:]:
        name = f"{base.__module__}.{base.__qualname__}"
        if name == "torch.Tensor":
            own = kind.__module__.startswith(("torch._subclasses", "torch._functorch"))
            if own or (_root(kind) == "torch" and kind.__name__ in _PLAIN_OF_TORCH):
                return None
            return _subclass(kind, name, "a plain tensor")
        if base.__name__ in ("ndarray", "Array") and _root(base) in ("cupy", "dask"):
            return None if _root(kind) == _root(base) else _subclass(kind, name, "a plain array")
    return None


def _subclass(kind: type, base: str, instead: str) -> str:
    whole = f"{kind.__module__}.{kind.__qualname__}"
    return f"is a {whole}, a subclass of {base} whose meaning would be lost; give {instead}"


def _root(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def _foreign(array: Array) -> Refusal:
    native = array.dtype.newbyteorder("=")
    return Refusal(
        TypeError,
        f"has dtype {array.dtype.str!r}, of a byte order that is not this machine's; give "
        f"it as astype({native.name!r})",
    )


def _of_jax(array: Array) -> Refusal | None:
    if not isinstance(array.dtype, np.dtype):
        return Refusal(TypeError, f"has dtype {array.dtype}, expected numbers")
    if not is_traced(array) and array.is_deleted():
        return Refusal(
            ValueError,
            "was deleted, as JAX deletes what is donated to a function; give a copy that is kept",
        )
    return None


def _of_torch(array: Array) -> Refusal | None:
    if array.is_nested:
        return Refusal(
            TypeError, "is a nested tensor; give a padded one, and the lengths as lengths="
        )
    if array.is_sparse or str(array.layout) != "torch.strided":
        return Refusal(TypeError, f"has the layout {array.layout}; give a dense tensor, to_dense()")
    if array.is_quantized:
        return Refusal(TypeError, f"has dtype {array.dtype}; give floats, as dequantize() does")
    if any(getattr(array, "names", ())):  # PyTorch 2.12 and older
        return Refusal(TypeError, "has named axes; give it without, as rename(None) does")
    return None
