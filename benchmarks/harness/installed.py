"""Versions and sizes of installed libraries."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import seqcore as sc
from harness.processes import BENCHMARKS
from harness.tables import table

Sizes = Mapping[str, Mapping[str, int]]  # bytes by side and distribution


def versions(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of seqcore and of those libraries that are installed."""
    found = {"seqcore": sc.__version__}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            print(f"  {name} is left out: it is not installed", flush=True)
    return found


def sizes(name: str) -> dict[str, int]:
    """Return the bytes of a distribution and of each one that it requires, by name.

    Extras and compiled caches do not count. seqcore is measured in its folder.
    """
    found: dict[str, int] = {}
    waiting = [canonicalize_name(name)]
    while waiting:
        now = waiting.pop()
        if now in found:
            continue
        files, requirements = _seqcore() if now == "seqcore" else _distribution(now)
        found[now] = sum(path.stat().st_size for path in files)
        waiting += [
            canonicalize_name(requirement.name)
            for requirement in map(Requirement, requirements)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        ]
    return found


def size_table(sizes: Sizes) -> str:
    """Return the table of installed sizes."""
    lines = []
    for side, own in sizes.items():
        parts = sorted(own.items(), key=lambda item: -item[1])
        required = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in parts if name != side)
        lines.append([side, required, f"{own[side] / 1e6:.1f}", f"{sum(own.values()) / 1e6:.1f}"])
    return table(["side", "what it requires, MB", "itself, MB", "all, MB"], lines, words=2)


def _distribution(name: str) -> tuple[set[Path], Sequence[str]]:
    """Return the files of an installed distribution, and what it requires."""
    distribution = metadata.distribution(name)
    paths = {Path(str(file.locate())).resolve() for file in distribution.files or ()}
    files = {path for path in paths if path.suffix != ".pyc" and path.is_file()}
    return files, distribution.requires or ()


def _seqcore() -> tuple[set[Path], Sequence[str]]:
    """Return the files of seqcore and what it requires, from the checkout's pyproject.toml."""
    folder = Path(sc.__file__).parent
    files = {path for path in folder.rglob("*") if path.suffix != ".pyc" and path.is_file()}
    text = (BENCHMARKS.parent / "pyproject.toml").read_text(encoding="utf-8")
    requirements: Sequence[str] = tomllib.loads(text)["project"]["dependencies"]
    return files, requirements
