"""Which library an array belongs to, and what kind of array it is."""

from __future__ import annotations

import importlib

import array_api_compat as compat
import numpy as np

from seqcore.arrays.types import Array, Namespace

_OF_NUMPY = (np.ndarray, np.generic)


def namespace(*arrays: Array) -> Namespace:
    """Return the array API namespace that all `arrays` belong to.

    This takes about 10 microseconds, so a public function calls it once, before its loop over
    time.

    Raises
    ------
    TypeError
        If something is not an array, or the arrays belong to several libraries.
    """
    # NumPy's own namespace follows the standard since 2.1. That of array-api-compat would load
    # all of NumPy, tests and Fortran wrappers included, which takes as long as all of seqcore.
    if arrays and all(isinstance(array, _OF_NUMPY) for array in arrays):
        return np
    return compat.array_namespace(*arrays)


def import_library(module: str) -> Namespace:
    """Import the array library `module` and return its array API namespace."""
    library = importlib.import_module(module)
    return namespace(library.zeros(1)) if hasattr(library, "zeros") else library


def library(array: Array) -> str:
    """Return the name of the library that `array` belongs to, for messages."""
    module = type(array).__module__.partition(".")[0]
    return "jax" if module == "jaxlib" else module  # the package of JAX's arrays


def is_array(value: object) -> bool:
    """Tell whether `value` is an array of a library that follows the standard."""
    return compat.is_array_api_obj(value)


def is_floating(array: Array) -> bool:
    """Tell whether `array` holds real floating point numbers."""
    return bool(namespace(array).isdtype(array.dtype, "real floating"))


def is_single_or_double(array: Array) -> bool:
    """Tell whether `array` holds float32 or float64, the dtypes that everything computes in."""
    xp = namespace(array)
    known = (getattr(xp, name, None) for name in ("float32", "float64"))  # a library may lack one
    return any(dtype is not None and array.dtype == dtype for dtype in known)


def is_integer(array: Array) -> bool:
    """Tell whether `array` holds integers (booleans do not count)."""
    if isinstance(array, np.ndarray):  # a stream asks at every step
        return array.dtype.kind in "iu"
    return bool(namespace(array).isdtype(array.dtype, "integral"))


def is_bool(array: Array) -> bool:
    """Tell whether `array` holds booleans."""
    return bool(namespace(array).isdtype(array.dtype, "bool"))


def is_traced(value: object) -> bool:
    """Tell whether `value` is an array that JAX traces, which has no values yet."""
    if not compat.is_jax_array(value):
        return False
    tracer = importlib.import_module("jax").core.Tracer
    return isinstance(value, tracer)


def is_readable(array: Array) -> bool:
    """Tell whether the values of `array` can be read without computing anything.

    A traced JAX array has no values yet, those of a lazy Dask array would have to be computed,
    and PyTorch's "meta" device keeps none.
    """
    if isinstance(array, np.ndarray):
        return True
    if compat.is_torch_array(array):
        return not array.is_meta
    return not (compat.is_dask_array(array) or is_traced(array))
