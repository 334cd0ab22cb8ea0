"""Arrays of a library that mean more than their numbers, and arrays that only look odd."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from loading import Library


class Units(np.ndarray):
    """A subclass whose meaning functions of the standard would drop."""


def odd(library: Library, array: Any) -> Iterator[tuple[str, Any]]:
    """Yield what no door may take in place of a plain array of the library, with a name."""
    name = library.contract["namespace"].partition(".")[0]
    xp = library.xp
    floating = xp.isdtype(array.dtype, "real floating")
    if floating:
        for dtype in ("float16", "bfloat16", "longdouble", "complex64", "float8_e4m3fn"):
            if hasattr(xp, dtype) and getattr(xp, dtype) != array.dtype:
                yield dtype, xp.astype(array, getattr(xp, dtype))
    yield from {"numpy": _odd_numpy, "torch": _odd_torch, "jax": _odd_jax, "dask": _odd_dask}.get(
        name, lambda _: iter(())
    )(array)


def _odd_numpy(array: Any) -> Iterator[tuple[str, Any]]:
    yield "masked, nothing missing", np.ma.masked_array(array)
    yield "masked", np.ma.masked_array(array, mask=np.ones(array.shape, dtype=bool))
    yield "subclass", array.view(Units)
    yield "recarray", array.view(np.recarray)
    yield "object", array.astype(object)
    if array.ndim == 2:
        with warnings.catch_warnings(action="ignore"):  # NumPy does not recommend it
            yield "matrix", np.asmatrix(array)
    if array.dtype.kind != "b":
        yield "byte order", array.astype(array.dtype.newbyteorder())


def _odd_torch(array: Any) -> Iterator[tuple[str, Any]]:
    import torch

    own: Any = type("Own", (torch.Tensor,), {})
    yield "subclass", array.clone().as_subclass(own)
    if array.dtype.is_floating_point:
        with warnings.catch_warnings(action="ignore"):  # it is a prototype
            masked: Any = torch.masked.MaskedTensor
            yield "masked", masked(array, array > 0)
    if array.ndim:
        yield "sparse", array.to_sparse()
    yield "not initialized", torch.nn.UninitializedParameter()


def _odd_jax(array: Any) -> Iterator[tuple[str, Any]]:
    import jax

    yield "keys", jax.random.key(0)
    deleted = array.copy()
    deleted.delete()
    yield "deleted", deleted


def _odd_dask(array: Any) -> Iterator[tuple[str, Any]]:
    import dask.array as da

    if array.ndim:  # without axes Dask forgets what its chunk is
        yield "masked", da.ma.masked_array(array, mask=False)
    yield (
        "subclass",
        array.map_blocks(lambda block: block.view(Units), meta=np.zeros(0).view(Units)),
    )
    if array.ndim > 1:
        yield "unknown shape", array[(array == array)[(slice(None), *[0] * (array.ndim - 1))]]


def unusual(library: Library, array: Any) -> Iterator[tuple[str, Any]]:
    """Yield arrays that only look odd: every door takes them, for the same results."""
    name, xp = library.contract["namespace"].partition(".")[0], library.xp
    if array.ndim:
        yield "flipped twice", xp.flip(xp.flip(array))
        yield "every other", xp.repeat(array, 2, axis=-1)[..., ::2]
    if name == "numpy":
        yield from _unusual_numpy(array)
    elif name == "torch":
        import torch

        if array.ndim > 1:
            yield "transposed", array.mT.contiguous().mT
        if array.dtype.is_floating_point:
            yield "parameter", torch.nn.Parameter(array)
            yield "requires grad", array.clone().requires_grad_()


def _unusual_numpy(array: np.ndarray) -> Iterator[tuple[str, Any]]:
    still = array.copy()
    still.flags.writeable = False
    yield "read-only", still
    yield "column-major", np.asfortranarray(array) if array.ndim else array
    if array.ndim:
        yield "backwards", array[..., ::-1].copy()[..., ::-1]
        once = np.ascontiguousarray(array[:1])
        if np.array_equal(np.broadcast_to(once, array.shape), array):
            yield "broadcast", np.broadcast_to(once, array.shape)
    unaligned = np.empty(array.nbytes + 1, dtype=np.uint8)[1:].view(array.dtype)
    unaligned = unaligned.reshape(array.shape)
    unaligned[...] = array
    yield "unaligned", unaligned
    with tempfile.TemporaryFile() as file:
        mapped = np.memmap(file, dtype=array.dtype, mode="w+", shape=array.shape or (1,))
        mapped[...] = array
        yield "memmap", mapped if array.ndim else mapped[:1].reshape(())
