"""Placement of arrays: on the device of another array, or copied to the host."""

from __future__ import annotations

from typing import Any

import array_api_compat as compat
import numpy as np

from seqcore.arrays.namespaces import is_traced, library, namespace
from seqcore.arrays.types import Array, Namespace

_FEW = 32  # entries that Python compares faster than NumPy


def device(array: Array) -> Any:
    """Return the device that `array` lives on."""
    return compat.device(array)


def like(values: Any, array: Array, *, dtype: Any = None) -> Array:
    """Copy host `values` to the library, device and (unless given) dtype of `array`."""
    if isinstance(values, np.ndarray):
        # PyTorch refuses negative strides, warns about read-only arrays, and can't cast 0-d ones.
        values = np.array(values, order="C") if values.ndim else values.item()
    return namespace(array).asarray(
        values,
        dtype=array.dtype if dtype is None else dtype,
        device=device(array),
        copy=True,
    )


def integers_like(values: Any, array: Array) -> Array:
    """Copy host integers to the library and device of `array`, as int64 where it has them."""
    xp = namespace(array)
    # A device may have 32-bit numbers only; it says so in its default integer.
    where = device(array)
    available = xp.__array_namespace_info__().dtypes(device=where, kind="signed integer")
    return like(values, array, dtype=available.get("int64", available["int32"]))


def default_integers(xp: Namespace, array: Array) -> Array:
    """Return integers in the default integer dtype of their library and device."""
    return xp.astype(array, xp.arange(1, device=device(array)).dtype)


def to_host(array: Array) -> np.ndarray[Any, Any]:
    """Copy `array` to the host and return it as a NumPy array.

    Raises
    ------
    TypeError
        If JAX traces it: it has no values yet.
    """
    if is_traced(array):
        raise TypeError(f"to_host: array is a traced array of {library(array)}, without values")
    if compat.is_cupy_array(array):
        return np.asarray(array.get())
    if compat.is_torch_array(array):
        return np.array(array.detach().resolve_neg().cpu().numpy())
    if isinstance(array, np.ndarray | np.generic) or compat.is_jax_array(array):
        return np.array(array)
    if compat.is_array_api_strict_namespace(namespace(array)):
        # Its other devices refuse the host on purpose; its first one stands for the host.
        info = namespace(array).__array_namespace_info__()
        return np.array(compat.to_device(array, info.default_device()))
    return np.array(array)


def bounds(array: Array) -> tuple[int, int]:
    """Return the smallest and the largest entry of an array of integers."""
    if isinstance(array, np.ndarray) and array.size < _FEW:
        values = array.reshape(-1).tolist()
        return min(values), max(values)
    # Inside a trace, JAX also traces what is computed from an array that has values.
    if compat.is_jax_array(array):
        array = to_host(array)
    xp = namespace(array)
    array = default_integers(xp, array)  # PyTorch has no minimum of uint16
    return int(xp.min(array)), int(xp.max(array))


def is_another(one: Array, other: Array) -> bool:
    """Tell whether two arrays certainly differ: not the same object, and not the same memory."""
    if one is other or is_traced(one) or is_traced(other):
        return False
    if type(one) is not type(other) or one.shape != other.shape or one.dtype != other.dtype:
        return True
    if isinstance(one, np.ndarray):
        where = [(v.__array_interface__["data"], v.strides) for v in (one, other)]
    elif compat.is_dask_array(one):
        where = [v.name for v in (one, other)]
    elif compat.is_torch_array(one):
        try:
            where = [(v.data_ptr(), v.stride()) for v in (one, other)]
        except RuntimeError:  # torch.func wraps tensors in others without memory
            return False
    else:
        return True
    return bool(where[0] != where[1])
