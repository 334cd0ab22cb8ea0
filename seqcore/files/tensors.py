"""Arrays of any library as tensors in a file, and back.

A tensor is a NumPy array in the layout and in one of the dtypes of `DTYPES`. Its values and its
dtype come back as they were. Whatever would not is refused, when it is saved.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from seqcore import arrays, checks
from seqcore.arrays import Array

Tensor: TypeAlias = np.ndarray[Any, Any]

# By the names that safetensors has for them.
DTYPES = {
    "BOOL": "bool",
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
}


def to_tensor(place: str, name: str, array: Array) -> Tensor:
    """Copy an array to the host, in the layout that safetensors needs.

    Parameters
    ----------
    place
        The public function, for errors.
    name
        The tensor's name in the file.
    array
        Of any library, on any device.

    Raises
    ------
    TypeError
        If it has a dtype that would not come back, or no values that can be copied.
    ValueError
        If a file can't hold the name.
    """
    checks.concrete(place, **{name: array})
    check_name(place, name)
    known = getattr(array.dtype, "name", str(array.dtype)).rpartition(".")[2].lower()
    if known not in DTYPES.values():
        raise TypeError(
            f"{place}: {name} has dtype {array.dtype}, expected one of {', '.join(DTYPES.values())}"
            ": save a copy in one of these"
        )
    if isinstance(array, np.ndarray | np.generic):
        array = array.astype(array.dtype.newbyteorder("="), copy=False)  # as the reader returns it
    checks.usable(place, name, array)
    try:
        tensor = arrays.to_host(array)
    except RecursionError:  # a RuntimeError that is the caller's
        raise
    except (NotImplementedError, RuntimeError, TypeError) as error:
        raise TypeError(
            f"{place}: {name} can't be copied to the host ({error}), expected an array of "
            f"{arrays.library(array)} with values in ordinary memory"
        ) from error
    return np.asarray(tensor, order="C")  # the writer corrupts any other order


def check_name(place: str, name: str) -> None:
    """Require a name that a tensor in a file can have.

    Raises
    ------
    ValueError
        If it is not text, as half of a surrogate pair, or is the name of the metadata.
    """
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{place}: the name {name!r} is not Unicode text") from error
    if name == "__metadata__":
        raise ValueError(f"{place}: {name!r} is the name of a file's metadata, expected another")


def placed(path: object, name: str, tensor: Tensor, like: Array | None) -> Array:
    """Copy a tensor to the library and device of `like`; floats get its dtype too.

    Integers and booleans keep their dtype where the device has it. None returns the tensor.

    Raises
    ------
    ValueError
        If a value is too large for the dtype; the error names the file at `path`.
    """
    if like is None:
        return tensor
    xp = arrays.namespace(like)
    if tensor.dtype == np.bool_:
        return arrays.like(tensor, like, dtype=xp.bool)
    if np.issubdtype(tensor.dtype, np.floating):
        with np.errstate(over="ignore"):
            after = tensor.astype(f"float{xp.finfo(like.dtype).bits}")
        _check_fits(path, name, tensor, np.isfinite(after) | ~np.isfinite(tensor), after.dtype)
        return arrays.like(tensor, like)
    there = xp.__array_namespace_info__().dtypes(device=arrays.device(like), kind="integral")
    if tensor.dtype.name in there:
        return arrays.like(tensor, like, dtype=there[tensor.dtype.name])
    dtype = np.dtype("int64" if "int64" in there else "int32")  # as `integers_like` takes
    limits = np.iinfo(dtype)
    fits = (tensor >= limits.min) & (tensor <= limits.max)
    _check_fits(path, name, tensor, fits, dtype)
    return arrays.integers_like(tensor, like)


def _check_fits(
    path: object, name: str, tensor: Tensor, fits: Tensor, dtype: np.dtype[Any]
) -> None:
    if not np.all(fits):
        raise ValueError(
            f"{path}: {name} holds {tensor[~fits].flat[0]!r:.40}, which {dtype} can't hold; load "
            "it without `like`, or beside an array of a larger dtype"
        )
