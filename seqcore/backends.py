"""Which array libraries there are, and which of them are usable here.

Each library has a contract, `backends/NAME.toml` in a checkout, installed beside this file.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
import warnings
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any, NamedTuple

from seqcore import arrays
from seqcore.arrays import Array

# What CUDA says in its own names and files, and what helps.
_FITTING = "install for the CUDA that it takes (CuPy: seqcore[cupy13] or seqcore[cupy12])"
_ADVICE = (
    (
        r"cudaErrorInsufficientDriver|libcuda\.so|nvcuda\.dll",
        f"there is no NVIDIA driver here, or one too old: nvidia-smi tells; renew it or {_FITTING}",
    ),
    (
        r"cudaErrorNoDevice",
        "the driver sees no GPU: look at nvidia-smi and at CUDA_VISIBLE_DEVICES",
    ),
    (
        r"cudaErrorNoKernelImageForDevice|cudaErrorUnsupportedPtxVersion",
        f"this CUDA and this GPU don't know each other: renew the driver or {_FITTING}",
    ),
    (
        r"(?:cudart|nvrtc|cublas|cusparse|curand|cusolver|cufft|nvJitLink)\w*\.(?:so|dll)",
        f"the libraries of that CUDA are not here: install them, or see nvidia-smi and {_FITTING}",
    ),
)


class BackendError(ValueError):
    """An array library, device or dtype that was asked for is not to be had here."""


class Backend(NamedTuple):
    """The contract of one array library, as far as the library itself needs it."""

    name: str
    namespace: str  # the module to import
    extra: str | None  # of pyproject.toml
    devices: list[str]
    dtypes: list[str]
    lacks: dict[str, list[str]]  # by device, the dtypes that it refuses
    env: dict[str, str]
    title: str = ""  # the library's name as it writes it
    required: bool = False  # whether every check runs on it
    variants: tuple[str, ...] = ("plain",)  # ways to run its tests
    apart: tuple[str, ...] = ()  # those that compute otherwise, with tolerances of their own

    def dtypes_on(self, device: str) -> list[str]:
        """The floating dtypes that a device takes."""
        return [dtype for dtype in self.dtypes if dtype not in self.lacks.get(device, [])]


class Measured(NamedTuple):
    """What was measured of a library: the largest errors of BPTT, against float64 NumPy."""

    version: str
    date: str
    bptt: dict[str, float]  # by dtype, over all devices, cells and variants that are not apart


class Usable(NamedTuple):
    """What of a library is here: its devices by name, or the problem."""

    version: str
    devices: dict[str, Any]
    problem: str


@cache
def contracts() -> dict[str, Backend]:
    """Read the contracts of all array libraries, numpy first."""
    backends = []
    for path in sorted(
        _folder().glob("*.toml"), key=lambda path: (path.stem != "numpy", path.stem)
    ):
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        backends.append(
            Backend(
                path.stem,
                table["namespace"],
                table.get("extra"),
                table["devices"],
                table["dtypes"],
                table.get("lacks", {}),
                table.get("env", {}),
                table["title"],
                table.get("required", False),
                tuple(table.get("variants", ["plain"])),
                tuple(v for v, own in table.get("variant", {}).items() if "tolerance" in own),
            )
        )
    return {backend.name: backend for backend in backends}


def _folder() -> Path:
    installed = Path(__file__).parent / "_contracts"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "backends"


def measured(name: str) -> Measured | None:
    """Read what was measured of a library; None if nothing was."""
    path = _folder() / "measured" / f"{name}.json"
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    bptt: dict[str, float] = {}
    alike = [
        devices
        for variant, devices in found["stages"].items()
        if variant not in contracts()[name].apart
    ]
    for devices in alike:
        for dtypes in devices.values():
            for dtype, stages in dtypes.items():
                errors = [at["error"] for at in stages.values() if at["kind"] == "bptt"]
                bptt[dtype] = max([bptt.get(dtype, 0.0), *errors])
    return Measured(found["version"], found["date"], bptt)


def look(backend: Backend) -> Usable:
    """Import a library and ask it for its devices; a problem is told, not raised."""
    for name, value in backend.env.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a library says of itself is not asked for here
        return _look(backend)


def _look(backend: Backend) -> Usable:
    try:
        xp = arrays.import_library(backend.namespace)
    except ImportError as error:
        if error.name in (backend.namespace, backend.namespace.partition(".")[0]):
            install = f"seqcore[{backend.extra}]" if backend.extra else backend.namespace
            return Usable("", {}, f"not installed: pip install '{install}'")
        return Usable("", {}, f"can't be imported: {_line(error)}")
    except Exception as error:  # noqa: BLE001 (a driver that is missing fails in its own way)
        return Usable(version_of(backend.namespace), {}, f"installed, but unusable: {_line(error)}")
    try:
        found = xp.__array_namespace_info__().devices()
    except Exception as error:  # noqa: BLE001 (as above)
        return Usable(version_of(backend.namespace), {}, f"has no device: {_line(error)}")
    devices = {device_name(device): device for device in found if device is not None}
    named = {name: devices[name] for name in backend.devices if name in devices}
    problem = "" if named else f"has no device {' or '.join(backend.devices)}"
    try:
        for device in named.values():
            _try(xp, device)
    except Exception as error:  # noqa: BLE001 (as above)
        named, problem = {}, f"installed, but can't compute: {_line(error)}"
    return Usable(version_of(backend.namespace), named, problem)


def _try(xp: arrays.Namespace, device: Any) -> None:
    """Add and multiply: a library loads what it compiles and multiplies with when it must."""
    if hasattr(xp, "ones"):
        one = xp.ones((1, 1), dtype=xp.float32, device=device)
        _ = one @ one + one


def device_name(device: Any) -> str:
    """Name a library's device as the contracts do: cpu, cuda:0, device1."""
    if isinstance(device, str):
        return device
    if hasattr(device, "id"):  # CuPy, and JAX, which also says what kind of device it is
        return f"{getattr(device, 'platform', 'cuda')}:{device.id}"
    if str(device).startswith("<"):  # ndonnx has but one, without a name
        return type(device).__module__.partition(".")[0]
    # PyTorch prints the name; array-api-strict prints it in quotes.
    quoted = re.search(r"'([^']+)'", str(device))
    return quoted[1] if quoted else str(device)


def like(name: str, device: str | None, dtype: str) -> Array:
    """Return an empty array of a library on a device: what parameters are to be like.

    Parameters
    ----------
    name, device, dtype
        As in the contracts; None for a library's first device.

    Raises
    ------
    BackendError
        If one of them is unknown, or not usable here.
    """
    if name not in contracts():
        raise BackendError(f"backend {name!r} is unknown, expected {_either(contracts())}")
    backend = contracts()[name]
    usable = look(backend)
    if usable.problem:
        raise BackendError(f"backend {name}: {usable.problem}")
    device = next(iter(usable.devices)) if device is None else device
    if device not in usable.devices:
        raise BackendError(
            f"backend {name} has no device {device!r} here, expected {_either(usable.devices)}"
        )
    dtypes = backend.dtypes_on(device)
    if dtype not in dtypes:
        raise BackendError(
            f"backend {name} has no dtype {dtype} on {device}, expected {_either(dtypes)}"
        )
    xp = arrays.import_library(backend.namespace)
    where = usable.devices[device]
    available = xp.__array_namespace_info__().dtypes(device=where, kind="real floating")
    if dtype not in available:  # a library may be set up without it, as JAX without x64
        settings = " and ".join(f"{key}={value}" for key, value in backend.env.items())
        hint = f" (set {settings} before {backend.namespace} is imported)" if settings else ""
        raise BackendError(
            f"backend {name} has no dtype {dtype} on {device} here, expected "
            f"{_either([d for d in dtypes if d in available])}{hint}"
        )
    return xp.zeros((0,), dtype=getattr(xp, dtype), device=where)


def describe(array: Array) -> str:
    """Name the library, version and device of an array: `numpy 2.4.6 on cpu`."""
    module = arrays.library(array)
    return f"{module} {version_of(module)} on {device_name(arrays.device(array))}"


def _either(names: Any) -> str:
    return " or ".join(names)


def _line(error: BaseException) -> str:
    """Return an error as one line, with what helps where that is known."""
    lines = str(error).strip().splitlines()
    # CuPy explains an import that failed in a page of text, which begins with a rule.
    if lines and error.__cause__ is not None and not re.search(r"\w", lines[0]):
        return _line(error.__cause__)
    line = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    for said, helps in _ADVICE:
        if re.search(said, line):
            return f"{line.rstrip('.')}; {helps}"
    return line


@cache
def version_of(module: str) -> str:
    """Return the version of the package that installs a module, "?" if there is none."""
    module = module.partition(".")[0]  # of jax.numpy, jax
    try:
        return version(module)
    except PackageNotFoundError:  # CuPy's packages are named after its CUDA
        # Reads what every installed package holds: up to seconds.
        owners = packages_distributions().get(module, [module])
    try:
        return version(owners[0])
    except PackageNotFoundError:
        return "?"
