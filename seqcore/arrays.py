"""The only door to array libraries.

Every other module receives a namespace `xp` from here and speaks to arrays through the
functions of the Python array API standard (https://data-apis.org/array-api/2024.12/).
What the standard lacks and recurrent networks need stands here once: a loop over time,
host copies, arrays placed "like" another, one-hot arrays, and a limit on BLAS threads.
"""

from __future__ import annotations

import ctypes
import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, TypeAlias, TypeVar, cast

import array_api_compat as compat
import numpy as np
from threadpoolctl import ThreadpoolController

# The standard has no static type for "an array of any conforming library" yet.
Array: TypeAlias = Any
Namespace: TypeAlias = Any
Params: TypeAlias = dict[str, Array]
# What there is at each time: an array `(T, ...)`, or a tuple of T arrays.
Series: TypeAlias = Any

Carry = TypeVar("Carry")
T = TypeVar("T")

_OF_NUMPY = (np.ndarray, np.generic)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of malloc.h

# About 1000 columns; at 1024 the rows of a block would lie 4 KiB apart, all of them in the
# same few lines of the cache.
_BLOCK_COLUMNS = 960
_BLOCK_STEPS = 128


def namespace(*arrays: Array) -> Namespace:
    """Return the array API namespace that all `arrays` belong to.

    Resolving costs about 10 microseconds, so a public function calls this once, before
    its time loop.

    Raises
    ------
    TypeError
        If something is no array, or the arrays belong to several libraries.
    """
    # NumPy's own namespace is one of the standard since 2.1. That of array-api-compat would
    # load all of NumPy, tests and Fortran wrappers included, which takes as long as seqcore.
    if arrays and all(isinstance(array, _OF_NUMPY) for array in arrays):
        return np
    return compat.array_namespace(*arrays)


def device(array: Array) -> Any:
    """Return the device that `array` lives on."""
    return compat.device(array)


def is_array(value: object) -> bool:
    """Tell whether `value` is an array of a library that the standard knows."""
    return compat.is_array_api_obj(value)


def is_floating(array: Array) -> bool:
    """Tell whether `array` holds real floating point numbers."""
    return bool(namespace(array).isdtype(array.dtype, "real floating"))


def is_integer(array: Array) -> bool:
    """Tell whether `array` holds integers (booleans are none)."""
    return bool(namespace(array).isdtype(array.dtype, "integral"))


def library(array: Array) -> str:
    """Return the name of the library that `array` belongs to, for messages."""
    module = type(array).__module__.partition(".")[0]
    return "jax" if module == "jaxlib" else module  # where JAX keeps its arrays


def like(values: Any, array: Array, *, dtype: Any = None) -> Array:
    """Copy host `values` to the library, device and (unless given) dtype of `array`."""
    if isinstance(values, np.ndarray):
        # PyTorch takes no negative strides, warns of read-only arrays, and casts no 0-d ones.
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


def to_host(array: Array) -> np.ndarray[Any, Any]:
    """Copy `array` to the host and return it as a NumPy array.

    Raises
    ------
    TypeError
        If it is traced by JAX and has no values yet.
    """
    if is_traced(array):
        raise TypeError(f"to_host: array is a traced array of {library(array)}, without values")
    if compat.is_cupy_array(array):
        return np.asarray(array.get())
    if compat.is_torch_array(array):
        return np.array(array.detach().cpu().numpy())
    if isinstance(array, np.ndarray | np.generic) or compat.is_jax_array(array):
        return np.array(array)
    if compat.is_array_api_strict_namespace(namespace(array)):
        # Its other devices refuse the host on purpose; its first one stands for the host.
        info = namespace(array).__array_namespace_info__()
        return np.array(compat.to_device(array, info.default_device()))
    return np.array(array)


def default_integers(xp: Namespace, array: Array) -> Array:
    """Return integers in the default integer dtype of their library and device."""
    return xp.astype(array, xp.arange(1, device=device(array)).dtype)


def contiguous(xp: Namespace, array: Array) -> Array:
    """Return `array` in row-major order: a copy, unless that is its order already.

    The standard has no word for memory order. Flattening a transposed view is what forces
    every library to write the elements out in the order of the axes.
    """
    return xp.reshape(xp.reshape(array, (-1,)), array.shape)


def one_hot(xp: Namespace, indices: Array, n: int, dtype: Any, axis: int) -> Array:
    """Return `indices` as a one-hot array with a new axis of size `n` at `axis`."""
    # Counted in the default integers: the indices may be too narrow to count to n.
    classes = xp.arange(n, device=device(indices))
    indices = xp.expand_dims(xp.astype(indices, classes.dtype), axis=axis)
    shape = [1] * indices.ndim
    shape[axis] = n
    return xp.astype(indices == xp.reshape(classes, tuple(shape)), dtype)


def is_readable(array: Array) -> bool:
    """Tell whether looking at the values of `array` is possible and does no work.

    A traced JAX array has no values yet, and those of a lazy Dask array would have to be
    computed.
    """
    if compat.is_dask_array(array):
        return False
    return not is_traced(array)


def bounds(array: Array) -> tuple[int, int]:
    """Return the smallest and the largest entry of an array of integers."""
    # Where JAX traces, it traces what is made of an array with values too.
    if compat.is_jax_array(array):
        array = to_host(array)
    xp = namespace(array)
    array = default_integers(xp, array)  # PyTorch finds no smallest uint16
    return int(xp.min(array)), int(xp.max(array))


def is_traced(value: object) -> bool:
    """Tell whether `value` is an array that JAX traces, which has no values yet."""
    return compat.is_jax_array(value) and bool(_kernels("jax").is_traced(value))


@cache
def _kernels(name: str) -> Any:
    """Import `kernels/name.py`, which imports its array library."""
    return importlib.import_module(f"seqcore.kernels.{name}")


@cache
def kernel(xp: Namespace, name: str, generic: T) -> T:
    """Return the faster way of the library `xp` for a hot spot, or else the `generic` one.

    With the environment variable SEQCORE_KERNELS set to 0 it is always the generic one.
    """
    if not compat.is_numpy_namespace(xp):
        return generic
    _keep_freed_memory()
    if os.environ.get("SEQCORE_KERNELS") == "0":
        return generic
    return cast("T", getattr(_kernels("numpy"), name, generic))


def inner(xp: Namespace) -> Namespace:
    """Return the namespace for the inside of a loop, where everything is an array of `xp`."""
    return kernel(xp, "inner", xp)


def _keep_freed_memory() -> None:
    """Let the C library keep memory that is freed for the next step, if it is glibc.

    What a step frees, the next one takes again. Handed back to the system in between, each
    page of 4 KiB costs a fault of about a microsecond, together a third of a training step.
    By itself glibc comes to keep 64 MiB, in a process that has freed one array of 32 MiB;
    here it is to keep up to 512 MiB. Whoever has set a limit in the environment keeps it.

    Source: mallopt(3), M_TRIM_THRESHOLD and M_MMAP_THRESHOLD.
    """
    _tell_malloc({_M_MMAP_THRESHOLD: 2**25, _M_TRIM_THRESHOLD: 2**29})  # the first: its most


def share_memory_among_threads() -> None:
    """Let threads that start from now on take memory from one place, if it is glibc's.

    By itself glibc gives each thread places of its own, of 64 MiB, and hands each back to the
    system as soon as it is free, which costs two threads a tenth of their time.

    Source: mallopt(3), M_ARENA_MAX.
    """
    _tell_malloc({_M_ARENA_MAX: 1})


def _tell_malloc(options: dict[int, int]) -> None:
    if {"MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES"} & os.environ.keys():
        return
    with suppress(OSError, AttributeError, TypeError):  # no such library, no such function
        libc = ctypes.CDLL(None)
        if hasattr(libc, "gnu_get_libc_version"):
            for option, value in options.items():
                libc.mallopt(option, value)


def block_steps(xp: Namespace, n_steps: int, m: int) -> int:
    """Return how many time steps have their input and weight products taken at once.

    Enough columns for a product to be efficient, few enough for them to stay in the cache.
    A loop that JAX traces is compiled once for each block, so there all steps are one.
    """
    if compat.is_jax_namespace(xp):
        return n_steps
    return max(1, min(_BLOCK_STEPS, _BLOCK_COLUMNS // m))


def scan(
    step: Callable[[Carry, tuple[Any, ...]], tuple[Carry, tuple[Array, ...]]],
    init: Carry,
    xs: tuple[Series | None, ...],
    *,
    reverse: bool = False,
    columns: int = 0,
) -> tuple[Carry, tuple[Series, ...]]:
    """Carry a state through time and keep what each step puts out.

    Parameters
    ----------
    step
        `step(carry, x) -> (carry, out)`, where `x` is the tuple of the `xs` at one time
        (None stays None) and `out` is a tuple of arrays.
    init
        The carry before the first step.
    xs
        Series with one T >= 1, or None.
    reverse
        Run from the last time to the first. What is kept stays in time order.
    columns
        So many of the outputs, the first ones, come back as one array `(..., T, m)` each, with
        time before the last axis.

    Returns
    -------
    carry, outs
        The carry after the last step, and a series of each output.
    """
    xp = namespace(*[x[0] if isinstance(x, tuple) else x for x in xs if x is not None][:1])
    if compat.is_jax_namespace(xp):
        stacked = tuple([xp.stack(x) if isinstance(x, tuple) else x for x in xs])
        scanned = _kernels("jax").scan(step, init, stacked, reverse=reverse)
        if scanned is not None:
            carry, outs = scanned
            first = [joined(xp, [out], axis=-2) for out in outs[:columns]]
            return carry, (*first, *outs[columns:])
    xp = inner(xp)
    n_steps = next(len(x) if isinstance(x, tuple) else x.shape[0] for x in xs if x is not None)
    rows = [(None,) * n_steps if x is None else unstacked(xp, x) for x in xs]
    times = list(enumerate(zip(*rows, strict=True)))
    gather = kernel(xp, "Columns", _Columns)
    gathered = [gather(xp, n_steps) for _ in range(columns)]
    carry = init
    kept: list[tuple[Array, ...]] = []
    for t, at in reversed(times) if reverse else times:
        carry, out = step(carry, at)
        for i in range(columns):
            gathered[i](t, out[i])
        kept.append(out[columns:] if columns else out)
    if reverse:
        kept.reverse()
    return carry, (*[put.array() for put in gathered], *zip(*kept, strict=True))


class _Columns:
    """What is put out at each time, as one array `(..., T, m)`."""

    def __init__(self, xp: Namespace, n_steps: int) -> None:
        self._xp = xp
        self._arrays: list[Array] = [None] * n_steps

    def __call__(self, t: int, array: Array) -> None:
        self._arrays[t] = array

    def array(self) -> Array:
        return self._xp.stack(self._arrays, axis=-2)


def unstacked(xp: Namespace, series: Series) -> tuple[Array, ...]:
    """Return the entry of a series at each time."""
    return series if isinstance(series, tuple) else cast("tuple[Array, ...]", xp.unstack(series))


def joined(xp: Namespace, parts: Sequence[Series], axis: int) -> Array:
    """Return series that follow one another as one array with time at `axis`."""
    if isinstance(parts[0], tuple):
        return xp.stack([array for part in parts for array in part], axis=axis)
    moved = [xp.moveaxis(part, 0, axis) for part in parts]
    return moved[0] if len(moved) == 1 else xp.concat(moved, axis=axis)


@cache
def _blas() -> ThreadpoolController:
    # Looking for the loaded BLAS libraries takes milliseconds, so it is done once.
    return ThreadpoolController().select(user_api="blas")


@contextmanager
def blas_threads(limit: int) -> Iterator[None]:
    """Limit the threads of every loaded BLAS to `limit` inside the block.

    The products of a recurrent step are small. Two BLAS threads gain little on a quiet
    machine and lose a hundredfold on a busy one, where each waits in a spin for the other
    at every step.

    Parameters
    ----------
    limit
        Threads of each BLAS, at least 1. It holds for the whole process. Of several Python
        threads in such a block, the first one's limit counts, until it leaves its block.

    Raises
    ------
    ValueError
        If limit is less than 1.

    Examples
    --------
    >>> import numpy as np, seqcore as sc
    >>> with sc.blas_threads(1):
    ...     float((np.ones((2, 3)) @ np.ones((3, 2))).sum())
    12.0
    """
    if limit < 1:
        raise ValueError(f"blas_threads: limit is {limit}, expected at least 1")
    with _blas().limit(limits=limit):
        yield


def import_library(module: str) -> Namespace:
    """Import the array library `module` and return its array API namespace."""
    library = importlib.import_module(module)
    return namespace(library.zeros(1)) if hasattr(library, "zeros") else library
