"""Find the array libraries that are usable on this machine, and make an array of one by name."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from typing import Any, NamedTuple

from seqcore import arrays, libraries
from seqcore.arrays import Array, Namespace
from seqcore.libraries import Library

# Patterns of CUDA's errors, and advice for each.
_FITTING = "install CuPy for the CUDA that the driver supports (extra cupy13 or cupy12)"
_ADVICE = (
    (
        r"cudaErrorInsufficientDriver|libcuda\.so|nvcuda\.dll",
        f"the NVIDIA driver is missing or too old: look at nvidia-smi, update it or {_FITTING}",
    ),
    (
        r"cudaErrorNoDevice",
        "the driver finds no GPU: look at nvidia-smi and at CUDA_VISIBLE_DEVICES",
    ),
    (
        r"cudaErrorNoKernelImageForDevice|cudaErrorUnsupportedPtxVersion",
        f"this CUDA does not support this GPU: update the driver or {_FITTING}",
    ),
    (
        r"(?:cudart|nvrtc|cublas|cusparse|curand|cusolver|cufft|nvJitLink)\w*\.(?:so|dll)",
        f"libraries of this CUDA are missing: install them, or look at nvidia-smi and {_FITTING}",
    ),
)


class LibraryError(ValueError):
    """An array library, device or dtype that was asked for is not available here."""


class Usable(NamedTuple):
    """The usable devices of a library by name, or the problem with it."""

    version: str
    devices: dict[str, Any]
    problem: str  # empty where there is none


def look(library: Library, *, own_process: bool = False) -> Usable:
    """Import a library and ask for its devices; a problem is returned, not raised.

    Parameters
    ----------
    library
        What to import, and which devices to expect.
    own_process
        Whether nobody else uses the library in this process. Then its environment variables are
        set first, except those that are set already, and its own warnings are not shown. What it
        reads of the variables as it is imported, it keeps: JAX its dtypes and platforms.
    """
    if not own_process:
        return _look(library)
    for name, value in library.env().items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():  # it drops the filters, too, that an import adds
        warnings.simplefilter("ignore")
        return _look(library)


def _look(library: Library) -> Usable:
    try:
        xp = arrays.import_library(library.namespace)
    except ImportError as error:
        if error.name in (library.namespace, library.namespace.partition(".")[0]):
            install = f"pip install {library.namespace}"
            if library.extra:
                install = libraries.install_hint(library.extra)
            return Usable("", {}, f"not installed: {install}")
        return Usable("", {}, f"can't be imported: {_line(error)}")
    except Exception as error:  # noqa: BLE001 (without a driver, each library fails in its own way)
        return Usable(version_of(library.namespace), {}, f"installed, but unusable: {_line(error)}")
    try:
        found = xp.__array_namespace_info__().devices()
    except Exception as error:  # noqa: BLE001 (as above)
        return Usable(version_of(library.namespace), {}, f"has no device: {_line(error)}")
    devices = {device_name(where): where for where in found if where is not None}
    named = {name: devices[name] for name in library.devices if name in devices}
    problem = "" if named else f"has no device {_either(library.devices)}"
    try:
        for where in named.values():
            _try(xp, where)
    except Exception as error:  # noqa: BLE001 (as above)
        named, problem = {}, f"installed, but can't compute: {_line(error)}"
    return Usable(version_of(library.namespace), named, problem)


def _try(xp: Namespace, where: Any) -> None:
    """Add and multiply on a device: a library may load its compiler and BLAS only then."""
    if hasattr(xp, "ones"):
        one = xp.ones((1, 1), dtype=xp.float32, device=where)
        _ = one @ one + one


def device_name(where: Any) -> str:
    """Return a device's name as backends/ writes it: cpu, cuda:0, device1."""
    if isinstance(where, str):
        return where
    if hasattr(where, "id"):  # CuPy, and JAX, which also names the kind of device
        return f"{getattr(where, 'platform', 'cuda')}:{where.id}"
    if str(where).startswith("<"):  # ndonnx has one device, without a name
        return type(where).__module__.partition(".")[0]
    # PyTorch prints the name; array-api-strict prints it in quotes.
    quoted = re.search(r"'([^']+)'", str(where))
    return quoted[1] if quoted else str(where)


def like(name: str, device: str | None, dtype: str, *, own_process: bool = False) -> Array:
    """Return an empty array of a library on a device, to be passed as `like`.

    Parameters
    ----------
    name, dtype
        A library and one of its dtypes, as backends/ names them.
    device
        The device, as backends/ names it; None for the library's first device.
    own_process
        As in `look`.

    Raises
    ------
    LibraryError
        If one of them is unknown or not usable here.
    """
    if name not in libraries.known():
        raise LibraryError(
            f"array library {name!r} is unknown, expected {_either(libraries.known())}"
        )
    library = libraries.known()[name]
    usable = look(library, own_process=own_process)
    if usable.problem:
        raise LibraryError(f"array library {name}: {usable.problem}")
    device = next(iter(usable.devices)) if device is None else device
    if device not in usable.devices:
        raise LibraryError(
            f"array library {name} has no device {device!r} here, expected "
            f"{_either(usable.devices)}"
        )
    dtypes = library.dtypes_on(device)
    if dtype not in dtypes:
        raise LibraryError(
            f"array library {name} has no dtype {dtype} on {device}, expected {_either(dtypes)}"
        )
    xp = arrays.import_library(library.namespace)
    where = usable.devices[device]
    available = xp.__array_namespace_info__().dtypes(device=where, kind="real floating")
    if dtype not in available:  # a setting may have turned it off, as in JAX without x64
        settings = " and ".join(f"{key}={value}" for key, value in library.env().items())
        hint = f" (set {settings} before {library.namespace} is imported)" if settings else ""
        raise LibraryError(
            f"array library {name} has no dtype {dtype} on {device} here, expected "
            f"{_either([d for d in dtypes if d in available])}{hint}"
        )
    return xp.zeros((0,), dtype=getattr(xp, dtype), device=where)


def describe(array: Array) -> str:
    """Return the library, version and device of an array: `numpy 2.4.6 on cpu`."""
    module = arrays.library(array)
    return f"{module} {version_of(module)} on {device_name(arrays.device(array))}"


@cache
def version_of(module: str) -> str:
    """Return the version of the package that installs a module, "?" if there is none."""
    module = module.partition(".")[0]  # jax of jax.numpy
    try:
        return version(module)
    except PackageNotFoundError:  # as for CuPy, whose packages are named after a version of CUDA
        # This reads the records of all installed packages, which can take seconds.
        owners = packages_distributions().get(module, [module])
    try:
        return version(owners[0])
    except PackageNotFoundError:
        return "?"


def _either(names: Iterable[str]) -> str:
    return " or ".join(names)


def _line(error: BaseException) -> str:
    """Return an error as one line, with advice where the cause is known."""
    lines = str(error).strip().splitlines()
    # CuPy explains a failed import in a page of text that begins with a rule.
    if lines and error.__cause__ is not None and not re.search(r"\w", lines[0]):
        return _line(error.__cause__)
    line = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    for pattern, advice in _ADVICE:
        if re.search(pattern, line):
            return f"{line.rstrip('.')}; {advice}"
    return line
