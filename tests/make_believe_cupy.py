"""A make-believe CuPy: NumPy's arithmetic in arrays that are not NumPy arrays.

It takes the branches of array-api-compat that CuPy takes, on any machine. Its arrays refuse
what CuPy's refuse: NumPy arrays as operands, and implicit conversion. Inside `nothing_waits`
they also refuse all for which CuPy's host waits for the device: reading values, and results
whose shape depends on values, such as a boolean index.

    with installed():
        import cupy

It proves nothing about CuPy itself: its numbers, its kernels or its speed.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import array_api_compat as compat
import numpy as np

# NumPy's names that CuPy lacks, so that compat makes its own.
LACKS = {"unstack", "vecdot"}
# Functions that read values to know the shape of their result.
WAITS = {"nonzero", "flatnonzero", "argwhere", "unique", "extract", "compress", "trim_zeros"}
TAKES_NUMPY = {"array", "asarray"}
SUBMODULES = ("linalg", "fft", "random")

_forbidden = False


class WaitsError(AssertionError):
    """The host would wait for the device here."""


@contextmanager
def nothing_waits() -> Iterator[None]:
    """Refuse, inside the block, what waits for the device."""
    global _forbidden  # noqa: PLW0603 (one device, one state)
    _forbidden = True
    try:
        yield
    finally:
        _forbidden = False


def _waits(why: str) -> None:
    if _forbidden:
        raise WaitsError(f"the host waits for the device: {why}")


class Device:
    """A GPU, by its number."""

    def __init__(self, number: int | Device | None = None) -> None:
        """Take a number; None is the current device."""
        self.id: int = number.id if isinstance(number, Device) else number or 0

    def __eq__(self, other: object) -> bool:
        """Compare the numbers."""
        return isinstance(other, Device) and self.id == other.id

    def __hash__(self) -> int:
        """Hash the number."""
        return hash(self.id)

    def __repr__(self) -> str:
        """As CuPy prints it."""
        return f"<CUDA Device {self.id}>"

    def __enter__(self) -> Device:
        """Make it the current device."""
        return self

    def __exit__(self, *_: object) -> None:
        """Make the one before it current again."""


class ndarray:
    """An array that refuses what CuPy's refuse."""

    def __init__(self, values: Any) -> None:
        """Hold NumPy's values."""
        self._values = np.asarray(values)

    device = property(lambda _: Device(0))

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the NumPy array."""
        if name.startswith("__"):  # protocols of NumPy, above all
            raise AttributeError(name)
        got = getattr(self._values, name)
        return _wrapping(name, got) if callable(got) else _wrapped(got)

    def __getitem__(self, key: Any) -> Any:
        """Index; a boolean index is counted first."""
        if _is_mask(key):
            _waits("a boolean index is counted")
        return _wrapped(self._values[_bare(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        """Write; several values at a boolean index are counted first."""
        if _is_mask(key) and getattr(value, "size", 1) != 1:
            _waits("a boolean index is counted")
        self._values[_bare(key)] = _bare(value)

    def __len__(self) -> int:
        """Entries along the first axis."""
        return len(self._values)

    def __iter__(self) -> Iterator[Any]:
        """Views along the first axis."""
        return (self[i] for i in range(len(self)))

    def __array__(self, *_: Any, **__: Any) -> Any:
        """Refuse, as CuPy's arrays do."""
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Use `.get()`.")

    def get(self) -> np.ndarray[Any, Any]:
        """Copy to the host."""
        _waits("values are copied to the host")
        return self._values.copy()


def _reading(name: str) -> Callable[[Any], Any]:
    def read(self: Any) -> Any:
        _waits(f"a value is read, by {name}")
        return getattr(self._values, name)()

    return read


def _operating(name: str) -> Callable[..., Any]:
    plain = getattr(operator, name)

    def operate(self: Any, other: Any = None) -> Any:
        if isinstance(other, np.ndarray):
            raise TypeError(f"Unsupported type {type(other)}")
        return _wrapped(plain(self._values, *(() if other is None else (_bare(other),))))

    return operate


def _operating_reversed(name: str) -> Callable[..., Any]:
    plain = getattr(operator, name)
    return lambda self, other: _wrapped(plain(_bare(other), self._values))


def _operating_in_place(name: str) -> Callable[..., Any]:
    plain = getattr(operator, name)

    def operate(self: Any, other: Any) -> Any:
        self._values = plain(self._values, _bare(other))
        return self

    return operate


for _name in ("bool", "int", "float", "complex", "index"):
    setattr(ndarray, f"__{_name}__", _reading(f"__{_name}__"))
for _name in ("item", "tolist"):
    setattr(ndarray, _name, _reading(_name))
for _name in ("neg", "pos", "abs", "invert", "eq", "ne", "lt", "le", "gt", "ge"):
    setattr(ndarray, f"__{_name}__", _operating(f"__{_name}__"))
for _name in (
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"),
    *("and", "or", "xor", "lshift", "rshift"),
):
    setattr(ndarray, f"__{_name}__", _operating(f"__{_name}__"))
    setattr(ndarray, f"__r{_name}__", _operating_reversed(f"__{_name}__"))
    setattr(ndarray, f"__i{_name}__", _operating_in_place(f"__i{_name}__"))
setattr(ndarray, "__hash__", object.__hash__)  # noqa: B010 (an __eq__ takes it away)
ndarray.__module__ = "cupy"


def _is_mask(key: Any) -> bool:
    keys = key if isinstance(key, tuple) else (key,)
    return any(isinstance(one, ndarray) and one.dtype == np.bool_ for one in keys)


def _bare(value: Any) -> Any:
    if isinstance(value, ndarray):
        return value._values
    if isinstance(value, tuple | list):
        return type(value)(_bare(one) for one in value)
    return value


def _wrapped(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return ndarray(value)  # CuPy has no scalars
    if type(value) in (tuple, list):
        return type(value)(_wrapped(one) for one in value)
    return value


def _wrapping(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*given: Any, **named: Any) -> Any:
        if name in WAITS or (name == "where" and len(given) == 1):
            _waits(f"{name} counts its result")
        for value in (*given, *named.values()):
            if isinstance(value, np.ndarray) and name not in TAKES_NUMPY:
                raise TypeError(f"Unsupported type {type(value)}")
        bare = {key: _bare(value) for key, value in named.items()}
        return _wrapped(function(*(_bare(value) for value in given), **bare))

    return call


@contextmanager
def installed() -> Iterator[ModuleType]:
    """Put it in place of cupy, and take it away at the end."""
    before = {name: module for name, module in sys.modules.items() if _is_cupys(name)}
    for name in before:
        del sys.modules[name]
    cupy: Any = _module("cupy", np, [name for name in np.__all__ if name not in LACKS])
    cupy.ndarray = ndarray
    for part in SUBMODULES:
        plain = getattr(np, part)
        setattr(cupy, part, _module(f"cupy.{part}", plain, plain.__all__))
    cupy.cuda = ModuleType("cupy.cuda")
    cupy.cuda.Device = Device
    cupy.cuda.runtime = ModuleType("cupy.cuda.runtime")
    cupy.cuda.runtime.getDeviceCount = lambda: 1
    cupy.cuda.device = ModuleType("cupy.cuda.device")
    cupy.cuda.device.Device = Device
    for module in (cupy.cuda, cupy.cuda.runtime, cupy.cuda.device):
        sys.modules[module.__name__] = module
    try:
        yield cupy
    finally:
        for name in [name for name in sys.modules if _is_cupys(name)]:
            del sys.modules[name]
        vars(compat).pop("cupy", None)
        sys.modules.update(before)


def _is_cupys(name: str) -> bool:
    return name.startswith(("cupy", "array_api_compat.cupy"))


def _module(name: str, plain: ModuleType, names: list[str]) -> ModuleType:
    """Return a module of CuPy's with NumPy's functions; types and numbers are the same."""
    module = ModuleType(name)
    each_name = [each for each in names if not isinstance(getattr(plain, each), ModuleType)]
    vars(module)["__all__"] = each_name
    for each in each_name:
        value = getattr(plain, each)
        wraps = callable(value) and not isinstance(value, type)
        setattr(module, each, _wrapping(each, value) if wraps else value)
    sys.modules[name] = module
    return module
