"""The library under test: read from its file in backends/, imported, and its arrays copied.

Nothing is skipped: if a library or device is missing, the run ends and says what there is.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import array_api_compat as compat
import numpy as np
import pytest

from seqcore import libraries

# What a file in backends/ may name as a variant; its first one is the default.
VARIANTS = {
    "plain": "nothing special",
    "readonly": "asarray gives arrays that can't be written into",
    "generic": "without the kernels of the library, by SEQCORE_KERNELS=0",
    "strictest": "array-api-strict without whatever the standard calls optional",
    "eager": "each operation by itself",
    "jit": "the stages only, each through jax.jit as a whole",
    "tf32": "products of float32 with factors of 11 bits, by CUPY_TF32=1",
}


class Library(NamedTuple):
    """An array library, imported, with what its file in backends/ says (`contract`)."""

    name: str
    contract: dict[str, Any]
    xp: Any
    devices: dict[str, Any]  # by their names in backends/, the library's objects
    variant: str


class Place(NamedTuple):
    """A device and a dtype, by their names in backends/."""

    device: str
    dtype: str


# --- from the contract to the library ---------------------------------------------------


def contracts() -> dict[str, dict[str, Any]]:
    """Return what every file in backends/ says, by name."""
    return {name: library.table for name, library in libraries.known().items()}


def load(name: str, variant: str | None = None) -> Library:
    """Import the library `name`; whatever is missing ends the run, nothing is skipped."""
    known = contracts()
    if name not in known:
        raise pytest.UsageError(
            f"--library {name}: unknown, backends/ has {', '.join(sorted(known))}"
        )
    contract = known[name]
    variants = contract.get("variants", ["plain"])
    variant = variants[0] if variant is None else variant
    if variant not in variants:
        raise pytest.UsageError(
            f"--variant {variant}: {name} has none of that name, but {', '.join(variants)}"
        )
    module = contract["namespace"]
    # Before the import, which may look at it; the processes that tests start inherit it.
    os.environ.update(contract.get("variant", {}).get(variant, {}).get("env", {}))
    try:
        imported = importlib.import_module(module)
    except ImportError as error:
        extra = contract.get("extra")
        install = libraries.install_hint(extra) if extra else f"pip install {module}"
        raise pytest.UsageError(
            f"--library {name}: cannot import {module} ({error}); install it with `{install}`"
        ) from error
    try:
        xp = own_namespace(imported.asarray([0.0]))
        there = {
            device_name(device): device
            for device in xp.__array_namespace_info__().devices()
            if device is not None  # None means "wherever the library likes"
        }
    # A library without its hardware fails in its own way, at its first array.
    except Exception as error:
        raise pytest.UsageError(
            f"--library {name}: {module} is installed but makes no array: {error!r}"
        ) from error
    absent = [device for device in contract["devices"] if device not in there]
    if absent:
        raise pytest.UsageError(
            f"--library {name}: no device {', '.join(absent)} here, {module} has "
            f"{', '.join(there) or 'none'}"
        )
    if variant == "generic":
        os.environ["SEQCORE_KERNELS"] = "0"  # the processes that tests start inherit it
        importlib.import_module("seqcore.kernels").of.cache_clear()
    if variant == "strictest":
        imported.set_array_api_strict_flags(
            boolean_indexing=False, data_dependent_shapes=False, enabled_extensions=()
        )
    if compat.is_dask_namespace(xp):
        importlib.import_module("lazy").watch()
    return Library(name, contract, xp, {d: there[d] for d in contract["devices"]}, variant)


def own_namespace(array: Any) -> Any:
    """Return the namespace of an array, for NumPy's arrays NumPy itself."""
    numpys = isinstance(array, np.ndarray | np.generic)
    return np if numpys else compat.array_namespace(array)


def device_name(device: Any) -> str:
    """Name a library's device as backends/ does: cpu, cuda:0, device1."""
    if isinstance(device, str):
        return device
    if hasattr(device, "id"):  # CuPy, and JAX, which also says what kind of device it is
        return f"{getattr(device, 'platform', 'cuda')}:{device.id}"
    if str(device).startswith("<"):  # ndonnx has one device, without a name
        return type(device).__module__.partition(".")[0]
    # PyTorch prints the name; array-api-strict prints it in quotes.
    quoted = re.search(r"'([^']+)'", str(device))
    return quoted[1] if quoted else str(device)


def legal(contract: dict[str, Any]) -> list[Place]:
    """List the pairs of device and dtype that a library has."""
    lacks = contract.get("lacks", {})
    return [
        Place(device, dtype)
        for device in contract["devices"]
        for dtype in contract["dtypes"]
        if dtype not in lacks.get(device, [])
    ]


# --- between the host and the library ---------------------------------------------------


def placing(library: Library, place: Place) -> Callable[[Any], Any]:
    """Return the function that copies host values to a device, floats in one dtype."""
    xp, device = library.xp, library.devices[place.device]

    def to_device(values: Any) -> Any:
        host = np.asarray(values)
        if np.isdtype(host.dtype, "real floating"):
            name = place.dtype
        elif np.isdtype(host.dtype, "integral"):
            name = "int64"
        elif host.dtype == np.bool_:
            name = "bool"
        else:
            raise TypeError(f"asarray: tests do not use the dtype {host.dtype}")
        # astype copies, so a function that writes into its argument is caught.
        array = xp.asarray(host.astype(name), dtype=getattr(xp, name), device=device)
        if library.variant == "readonly":
            array.flags.writeable = False
        return array

    return to_device


def host_copy(array: Any) -> np.ndarray:
    """Copy an array to NumPy by a route that does not use the code under test."""
    xp = compat.array_namespace(array)
    if compat.is_array_api_strict_namespace(xp):
        # Its other devices refuse NumPy.
        array = compat.to_device(array, xp.__array_namespace_info__().default_device())
    elif compat.is_torch_namespace(xp):
        array = array.detach().cpu().numpy()
    elif compat.is_dask_namespace(xp):
        copy: np.ndarray = importlib.import_module("lazy").host_copy(array)
        return copy
    elif not compat.is_jax_namespace(xp):  # JAX copies by itself
        array = compat.to_device(array, "cpu")
    return np.array(array)


def settling(library: Library) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return the function that has a lazy library compute named arrays."""
    if library.name != "dask":
        return lambda named: named
    persist: Callable[[dict[str, Any]], dict[str, Any]] = importlib.import_module("lazy").persist
    return persist


@contextmanager
def unoptimized(library: Library) -> Iterator[None]:
    """Let JAX compile without optimizing: worth it for programs that run once."""
    if not compat.is_jax_namespace(library.xp):
        yield
        return
    jax, option = importlib.import_module("jax"), "jax_disable_most_optimizations"
    before = jax.config.read(option)
    jax.config.update(option, True)
    yield
    jax.config.update(option, before)


class Foreign:
    """An array of a made-up library, on any device: there is a second library everywhere."""

    shape, ndim, dtype = (1,), 1, "float32"
    __module__ = "elsewhere.arrays"

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        return Foreign  # whatever it is, it is not a library that tests run on
