"""NumPy: products in the shapes that its BLAS multiplies fastest, and gates in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

from seqcore import process
from seqcore.kernels.contract import Gates, Options, Provider, StreamStep, Weights

NDArray: TypeAlias = np.ndarray[Any, Any]

# Where OpenBLAS has kernels for small matrices, they take products of at most this many
# multiplications and copy neither factor. Fewer rows than 24, or than columns, do not pay.
_SMALL = 100**3
_ROWS = 24
# https://github.com/OpenMathLib/OpenBLAS, interface/gemm.c: those for AVX-512
_AVX512 = frozenset({"SkylakeX", "Cooperlake", "SapphireRapids"})


class NumPyKernels(Provider):
    """Faster code for NumPy than the generic code."""

    def inner(self) -> ModuleType:
        """Return NumPy without wrappers, which take a microsecond to check their arguments."""
        return inner

    def columns(self, n_steps: int) -> Columns:
        """Return an object that copies each output while it is in the cache."""
        return Columns(n_steps)

    def parts(self, n_steps: int) -> Parts:
        """Return an object that copies each part into the whole."""
        return Parts(n_steps)

    def rows(self, W: NDArray, m: int) -> NDArray:
        """Cut `W (rows, k)` so that each block times `(k, m)` is a small product."""
        rows, k = W.shape
        height = _height(rows, k, m)
        return W if height in (0, rows) else W.reshape(rows // height, height, k)

    def joins(self, gates: int, n_a: int, n_x: int, m: int) -> bool:
        """Join x to h where the product is still small, with not many more columns."""
        return 2 * n_x <= n_a and _height(gates * n_a, n_x + 1 + n_a, m) > 0

    def gates(self, cell: str, options: Options) -> Gates | None:
        """Return the gates of the LSTM, computed in place."""
        return Gates(lstm_gates, lstm_gates_vjp) if cell == "lstm" else None

    def stream(self, cell: str, options: Options, weights: Weights, m: int) -> StreamStep | None:
        """Return a step of the LSTM for a batch of 1."""
        return lstm_stream(weights.W, weights.W_h) if cell == "lstm" and m == 1 else None

    def note_training(self) -> None:
        """Keep the memory of this step for the next one."""
        process.keep_freed_memory()


def _height(rows: int, k: int, m: int) -> int:
    """Return the rows of the blocks in which `(rows, k)` times `(k, m)` is small, or 0."""
    if rows * k * m <= _SMALL:
        return rows
    if _AVX512 & process.openblas_architectures():
        for height in range(_SMALL // (k * m), max(_ROWS, m) - 1, -1):
            if rows % height == 0:
                return height
    return 0


class Columns:
    """Gathers the outputs of a loop as `(..., T, m)`, each copied while it is in the cache."""

    def __init__(self, n_steps: int) -> None:
        self._n_steps = n_steps
        self._array: NDArray | None = None

    def put(self, t: int, array: NDArray) -> None:
        """Take the output at time t."""
        if self._array is None:
            shape = (*array.shape[:-1], self._n_steps, array.shape[-1])
            self._array = np.empty(shape, dtype=array.dtype)
        self._array[..., t, :] = array

    def array(self) -> NDArray | None:
        """Return all outputs."""
        return self._array


class Parts:
    """Gathers parts of a sequence as `(T, ...)`: nothing is kept twice."""

    def __init__(self, n_steps: int) -> None:
        self._n_steps = n_steps
        self._array: NDArray | None = None

    def put(self, first: int, part: NDArray | tuple[NDArray, ...]) -> None:
        """Take the part that begins at step `first`."""
        if self._array is None:
            self._array = np.empty((self._n_steps, *part[0].shape), dtype=part[0].dtype)
        if isinstance(part, tuple):
            for t, array in enumerate(part, start=first):
                self._array[t] = array
        else:
            self._array[first : first + len(part)] = part

    def array(self) -> NDArray | None:
        """Return the whole."""
        return self._array


def lstm_gates(
    _: object, z: NDArray, c: NDArray
) -> tuple[NDArray, NDArray, NDArray, NDArray, NDArray]:
    """Do what `cells.lstm.lstm_gates` does, and write the activated gates over z."""
    half, _ = _scalars(c.dtype)
    np.tanh(z, z)
    ifo = z[:3]
    ifo *= half
    ifo += half
    g = z[3]
    c = z[1] * c
    c += z[0] * g
    tanh_c = np.tanh(c)
    return z[2] * tanh_c, c, ifo, g, tanh_c


def lstm_gates_vjp(
    _: object, saved: tuple[NDArray, ...], dh: NDArray, dc: NDArray
) -> tuple[NDArray, NDArray]:
    """Do what `cells.lstm.lstm_gates_vjp` does, with each gate's slope in the memory of its dz."""
    _, c, ifo, g, tanh_c = saved
    _, one = _scalars(c.dtype)
    i, f, o = ifo[0], ifo[1], ifo[2]
    d = tanh_c * tanh_c
    np.subtract(one, d, d)
    d *= o
    d *= dh
    d += dc
    dz = np.empty((4, *c.shape), dtype=c.dtype)
    slope, di, df, do, dg = dz[:3], dz[0], dz[1], dz[2], dz[3]
    np.multiply(ifo, ifo, slope)
    np.subtract(ifo, slope, slope)
    np.multiply(g, g, dg)
    np.subtract(one, dg, dg)
    di *= g
    di *= d
    df *= c
    df *= d
    do *= tanh_c
    do *= dh
    dg *= i
    dg *= d
    d *= f
    return dz, d


def lstm_stream(
    W: NDArray, W_h: NDArray
) -> Callable[[NDArray, NDArray, NDArray], tuple[NDArray, ...]]:
    """Return one step of an LSTM for a batch of 1, from x, h and c to h and c.

    All are `(..., n, 1)`. `W = [W_x b]` and W_h have the rows of the sigmoids halved.
    """
    gates, n_a, n_x = W_h.shape[0], W_h.shape[1], W.shape[2] - 1
    rows = np.concatenate((W[:, :, :n_x], W_h, W[:, :, n_x:]), axis=2).reshape(gates * n_a, -1)
    # A vector times a matrix starts faster than a matrix times a column.
    W_t = np.ascontiguousarray(rows.T)
    one = np.ones(1, dtype=W.dtype)
    half, _ = _scalars(W.dtype)

    def step(x: NDArray, h: NDArray, c: NDArray) -> tuple[NDArray, ...]:
        z = np.concatenate((x, h, one), None).dot(W_t)  # flattened
        np.tanh(z, z)
        ifo = z[: 3 * n_a]
        ifo *= half
        ifo += half
        i, f, o, g = z.reshape(4, *c.shape)
        c = f * c
        i *= g
        c += i
        h = np.tanh(c)
        h *= o
        return h, c

    return step


@cache
def _scalars(dtype: np.dtype[Any]) -> tuple[NDArray, NDArray]:
    """Return 1/2 and 1 as arrays: a Python float takes half the time of a small operation."""
    return np.asarray(0.5, dtype=dtype), np.asarray(1.0, dtype=dtype)


def _reshape(array: NDArray, shape: tuple[int, ...]) -> NDArray:
    return array.reshape(shape)


def _stack(arrays: Sequence[NDArray], axis: int = 0) -> NDArray:
    if axis:
        return np.stack(arrays, axis=axis)
    return np.concatenate(arrays).reshape(len(arrays), *arrays[0].shape)


def _moveaxis(array: NDArray, source: int, destination: int) -> NDArray:
    axes = list(range(array.ndim))
    axes.insert(destination % array.ndim, axes.pop(source))
    return array.transpose(axes)


# For functions that are called at every step.
inner = ModuleType(np.__name__)
vars(inner).update(vars(np))
vars(inner).update(reshape=_reshape, stack=_stack, moveaxis=_moveaxis, unstack=tuple)
