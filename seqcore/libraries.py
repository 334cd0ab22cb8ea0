"""The contracts of the array libraries, `backends/*.toml`, and what was measured of them.

A contract says what pip cannot: which module to import, which devices and dtypes to expect,
which variables to set, and how large the errors may be. A wheel holds the contracts beside this
file, in `_contracts`.

This module imports the standard library only, and nothing of seqcore. noxfile.py and the tests
load it by its path, before any array library is installed or imported:

    spec = importlib.util.spec_from_file_location("libraries", "seqcore/libraries.py")
    libraries = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(libraries)
"""

from __future__ import annotations

import json
import shlex
import tomllib
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, NamedTuple

# The name on the package index. `seqcore` is another project there, with the same import name.
DISTRIBUTION = "seqcore-rnn"

_INSTALLED = Path(__file__).parent / "_contracts"
_CHECKOUT = Path(__file__).parent.parent


class Library(NamedTuple):
    """The contract of one array library; `table` is the whole TOML."""

    name: str  # of its file
    table: dict[str, Any]

    @property
    def title(self) -> str:
        """The library's name as its authors write it."""
        title: str = self.table["title"]
        return title

    @property
    def namespace(self) -> str:
        """The module to import."""
        namespace: str = self.table["namespace"]
        return namespace

    @property
    def extra(self) -> str | None:
        """The extra in pyproject.toml that installs it; None for a dependency of seqcore."""
        return self.table.get("extra")

    @property
    def required(self) -> bool:
        """Whether every check runs on it."""
        return bool(self.table.get("required", False))

    @property
    def devices(self) -> list[str]:
        """The names of the devices that the tests use."""
        return list(self.table["devices"])

    @property
    def dtypes(self) -> list[str]:
        """The floating dtypes that the tests use."""
        return list(self.table["dtypes"])

    @property
    def lacks(self) -> dict[str, list[str]]:
        """By device, the dtypes that it refuses."""
        return dict(self.table.get("lacks", {}))

    @property
    def variants(self) -> list[str]:
        """The ways to run the tests; the first is the default."""
        return list(self.table.get("variants", ["plain"]))

    @property
    def variants_apart(self) -> list[str]:
        """The variants with tolerances of their own, because they compute differently."""
        return [name for name, own in self._variants().items() if "tolerance" in own]

    @property
    def suite(self) -> dict[str, Any]:
        """What a slow library leaves out of the tests, and why; empty for none."""
        return dict(self.table.get("suite", {}))

    @property
    def workers(self) -> int | None:
        """How many processes share the tests under nox; None for one process."""
        return self.table.get("workers")

    @property
    def gaps(self) -> list[dict[str, str]]:
        """The tests that are expected to fail, each with its reason."""
        return list(self.table.get("gap", []))

    def dtypes_on(self, device: str) -> list[str]:
        """Return the floating dtypes that a device takes."""
        return [dtype for dtype in self.dtypes if dtype not in self.lacks.get(device, [])]

    def env(self, variant: str | None = None) -> dict[str, str]:
        """Return the environment variables to set before the library is imported.

        Parameters
        ----------
        variant
            Adds the variables of this variant; None for those of every variant.
        """
        own = self._variants().get(variant, {}) if variant else {}
        return {**self.table.get("env", {}), **own.get("env", {})}

    def tolerances(self, dtype: str, variant: str | None = None) -> dict[str, dict[str, Any]]:
        """Return the allowed errors by kind: `{"cell": {"rtol": 1e-6, "why": ...}, ...}`.

        Parameters
        ----------
        dtype
            One of `dtypes`.
        variant
            Takes the tolerances of this variant where it has its own for the dtype.
        """
        own = self._variants().get(variant, {}) if variant else {}
        kinds: dict[str, dict[str, Any]] = (self.table["tolerance"] | own.get("tolerance", {}))[
            dtype
        ]
        return kinds

    def requirements(self, extra: str | None = None) -> tuple[list[str], list[str]]:
        """Return what to install for the tests: extras of seqcore, and requirements.

        Parameters
        ----------
        extra
            Takes the place of the contract's own extra, as CuPy's depends on the machine's CUDA.
        """
        if "requirements" in self.table:  # these take the place of the extra
            return [], list(self.table["requirements"])
        chosen = extra or self.extra
        return [chosen] if chosen else [], []

    def _variants(self) -> dict[str, dict[str, Any]]:
        return dict(self.table.get("variant", {}))


class Measured(NamedTuple):
    """The largest measured errors of BPTT of a library, relative, against NumPy in float64."""

    version: str
    date: str
    bptt: dict[str, float]  # by dtype, over all devices, cells and variants but `variants_apart`


def folder() -> Path:
    """Return the folder of the contracts: installed with seqcore, or `backends` of a checkout."""
    return _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT / "backends"


def read(path: Path) -> Library:
    """Read one contract."""
    return Library(path.stem, tomllib.loads(path.read_text(encoding="utf-8")))


@cache
def known() -> dict[str, Library]:
    """Return the contracts of all array libraries by name, NumPy first."""
    paths = sorted(folder().glob("*.toml"), key=lambda path: (path.stem != "numpy", path.stem))
    return {path.stem: read(path) for path in paths}


def required() -> list[str]:
    """Return the names of the libraries that every check runs on."""
    return [name for name, library in known().items() if library.required]


def measured(name: str) -> Measured | None:
    """Return what was measured of a library; None if nothing was."""
    path = folder() / "measured" / f"{name}.json"
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    apart = known()[name].variants_apart
    bptt: dict[str, float] = {}
    for variant, devices in found["stages"].items():
        if variant in apart:
            continue
        for dtypes in devices.values():
            for dtype, stages in dtypes.items():
                errors = [at["error"] for at in stages.values() if at["kind"] == "bptt"]
                bptt[dtype] = max([bptt.get(dtype, 0.0), *errors])
    return Measured(found["version"], found["date"], bptt)


def requirement(extra: str | None = None) -> str:
    """Return seqcore as pip names it, with an extra: `seqcore-rnn[torch]`."""
    return f"{DISTRIBUTION}[{extra}]" if extra else DISTRIBUTION


def install_hint(extra: str) -> str:
    """Return the command that adds an extra to the seqcore that is running.

    Where the distribution is installed, from the index or from a checkout, pip takes the
    version that is there and adds what the extra needs. A checkout that is only imported, by
    PYTHONPATH or its own folder, has to be installed with the extra.

    Parameters
    ----------
    extra
        An extra of pyproject.toml.

    Returns
    -------
    str
        A command for a shell in the current folder.
    """
    try:
        distribution(DISTRIBUTION)
        what = DISTRIBUTION
    except PackageNotFoundError:
        what = _checkout() or DISTRIBUTION
    return f"pip install {shlex.quote(f'{what}[{extra}]')}"


def _checkout() -> str:
    """Return the checkout that holds this file, as a path from here; "" if there is none."""
    root = Path(__file__).resolve().parent.parent
    if not (root / "pyproject.toml").is_file():
        return ""
    return "." if root == Path.cwd() else str(root)
