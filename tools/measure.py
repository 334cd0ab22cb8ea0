"""Measure the errors of array libraries, compare two of them, and print README's table.

    python tools/measure.py [NAME ...]          write backends/measured/NAME.json
    python tools/measure.py --compare A B       name the first stage at which two differ
    python tools/measure.py --table [--write]   print README's table, or put it there
    python tools/measure.py --tolerances NAME   print the tolerances that a measurement allows
    python tools/measure.py --variants NAME     print the variants of a library, one a line
    python tools/measure.py --gather FOLDER NAME    put FOLDER/NAME-VARIANT.json together

A measurement is one run of the whole test suite for each variant of a library, in a process
of its own. The numbers are relative errors as `assert_close` takes them, against float64
NumPy. Without names all libraries are measured that backends/ marks as required.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from seqcore import libraries
from seqcore.arrays import available

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "tests"))

import loading
from stages import STAGES, Named, Stage

MEASURED = ROOT / "backends" / "measured"
CONTRACTS = libraries.known()
BEGIN, END = "<!-- libraries -->", "<!-- end -->"


# --- measuring --------------------------------------------------------------------------


def facts(name: str) -> dict[str, Any]:
    """Return a measurement's facts, without errors yet."""
    library = CONTRACTS[name]
    return {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "machine": processor(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "version": available.version_of(library.namespace),
        "stages": {},
        "suite": {},
    }


def gather(name: str, folder: Path) -> dict[str, Any] | None:
    """Return the errors in all FOLDER/NAME-VARIANT.json of `--measure`; None if one is missing."""
    found = facts(name)
    for variant in CONTRACTS[name].variants:
        path = folder / f"{name}-{variant}.json"
        if not path.is_file():
            print(f"measure: {path} is not there yet, so {name}.json is not made")
            return None
        seen = json.loads(path.read_text(encoding="utf-8"))
        found["stages"][variant] = seen["stages"]
        found["suite"][variant] = seen["suite"]
    return found


def measure(name: str) -> dict[str, Any]:
    """Run the suite on a library once for each of its variants, and collect the errors."""
    library, found = CONTRACTS[name], facts(name)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **library.env()}
    for variant in library.variants:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "errors.json"
            command = [sys.executable, "-m", "pytest", "-q", "--full", "--library", name]
            command += ["--variant", variant, "--measure", str(path)]
            done = subprocess.run(command, cwd=ROOT, env=env, check=False)
            if not path.is_file():
                raise SystemExit(f"measure: {name} ({variant}) gave no errors to write down")
            if done.returncode != 0:
                print(f"measure: tests of {name} ({variant}) failed, see above", file=sys.stderr)
            seen = json.loads(path.read_text(encoding="utf-8"))
        found["stages"][variant] = seen["stages"]
        found["suite"][variant] = seen["suite"]
    return found


def processor() -> str:
    """Return the model of the processor, in words."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def tables(contract: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the tables of tolerances by dtype, and those of a variant's own as `tf32.float32`."""
    own = {
        f"{variant}.{dtype}": kinds
        for variant, told in contract.get("variant", {}).items()
        for dtype, kinds in told.get("tolerance", {}).items()
    }
    return {**contract["tolerance"], **own}


def largest(
    found: dict[str, Any], contract: dict[str, Any] | None = None
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the largest error by table and kind of tolerance, with where it was seen."""
    worst: dict[str, dict[str, dict[str, Any]]] = {}
    own = tables(contract) if contract else {}

    def see(variant: str, dtype: str, kind: str, error: float, where: str) -> None:
        apart = f"{variant}.{dtype}"
        kinds = worst.setdefault(apart if apart in own else dtype, {})
        if error > kinds.get(kind, {"error": -1.0})["error"]:
            kinds[kind] = {"error": error, "where": where}

    for variant, devices in found["stages"].items():
        for device, dtypes in devices.items():
            for dtype, stages in dtypes.items():
                for stage, at in stages.items():
                    where = f"{stage}, {at['array']} ({variant}, {device})"
                    see(variant, dtype, at["kind"], at["error"], where)
    for variant, dtypes in found["suite"].items():
        for dtype, kinds in dtypes.items():
            for kind, at in kinds.items():
                see(variant, dtype, kind, at["error"], at["test"].rpartition("::")[2])
    return worst


def tolerances(name: str) -> str:
    """Return the tables of tolerances for backends/NAME.toml: 4 times what was measured."""
    found = json.loads((MEASURED / f"{name}.json").read_text(encoding="utf-8"))
    lines = []
    for judge, kinds in sorted(largest(found, read_contract(name)).items()):
        variant, _, dtype = judge.rpartition(".")
        lines.append(f"\n[{f'variant.{variant}.' if variant else ''}tolerance.{dtype}]")
        for kind in ("cell", "bptt", "train"):
            at = kinds[kind]
            digit = 10.0 ** (math.floor(math.log10(4.0 * at["error"])) - 1)
            rtol = math.floor(4.0 * at["error"] / digit) * digit  # two digits, rounded down
            seen = f"{at['error']:.2g} at {at['where']}, {found['version']}, {found['date']}"
            why = json.dumps(f"4 x {seen}", ensure_ascii=False)
            lines.append(f"{kind} = {{ rtol = {rtol:.1e}, why = {why} }}")
    return "\n".join(lines) + "\n"


# --- comparing --------------------------------------------------------------------------


class Difference(NamedTuple):
    """The first array in which two libraries differ by more than is allowed."""

    stage: str
    array: str
    error: float
    allowed: float


def first_difference(
    stages: tuple[Stage, ...],
    ways: tuple[Any, Any],
    allowed: dict[str, float],
) -> Difference | None:
    """Return where two runs of a stage first differ; None if nowhere.

    `ways` are two functions from a stage to its results as host arrays; `allowed` is the
    largest relative error by kind.
    """
    for stage in stages:
        one, other = (way(stage) for way in ways)
        for array, values in one.items():
            error = relative_error(other[array], values)
            if not error <= allowed[stage.kind]:
                return Difference(stage.name, array, error, allowed[stage.kind])
    return None


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Return max|actual - expected| / max|expected|; infinity where shape or dtype differ."""
    if (actual.shape, actual.dtype) != (expected.shape, expected.dtype):
        return float("inf")
    actual, expected = actual.astype(np.float64), expected.astype(np.float64)
    error, scale = np.max(np.abs(actual - expected)), np.max(np.abs(expected))
    return float(error / scale) if scale else float(error and np.inf)


def way(name: str, dtype: str) -> Any:
    """Return the function that runs a stage on the first device of a library."""
    for key, value in CONTRACTS[name].env().items():
        os.environ.setdefault(key, value)
    library = loading.load(name)
    to_device = loading.placing(library, loading.Place(next(iter(library.devices)), dtype))

    def to_host(named: Named) -> Named:
        return {key: loading.host_copy(array) for key, array in named.items()}

    def settle(named: Named) -> Named:
        return {key: to_device(values) for key, values in to_host(named).items()}

    def run(stage: Stage) -> Named:
        return to_host(stage.results(to_device, settle=settle))

    return run


def compare(one: str, other: str) -> int:
    """Print where two libraries first differ, by dtype; return 1 if they do."""
    contracts = [read_contract(name) for name in (one, other)]
    shared = [d for d in contracts[0]["dtypes"] if d in contracts[1]["dtypes"]]
    differ = False
    for dtype in shared:
        # Each may be off by its own tolerance, in opposite directions.
        two = [contract["tolerance"][dtype] for contract in contracts]
        allowed = {kind: sum(kinds[kind]["rtol"] for kinds in two) for kind in two[0]}
        first = first_difference(STAGES, (way(one, dtype), way(other, dtype)), allowed)
        differ |= first is not None
        if first is None:
            print(f"{dtype}: {one} and {other} agree at all {len(STAGES)} stages")
        else:
            print(
                f"{dtype}: {one} and {other} differ at {first.stage}, {first.array}: "
                f"relative error {first.error:.2g}, allowed {first.allowed:.2g}"
            )
    return int(differ)


def read_contract(name: str) -> dict[str, Any]:
    """Return backends/NAME.toml."""
    return loading.contracts()[name]


# --- README -----------------------------------------------------------------------------


def table() -> str:
    """Return README's table of array libraries, without its markers."""
    rows = [
        "| library | install | devices | BPTT error, float32 / float64 |",
        "| --- | --- | --- | --- |",
    ]
    for library in sorted(CONTRACTS.values(), key=lambda library: not library.required):
        install = f"`{libraries.requirement(library.extra)}`"
        devices = ", ".join(f"`{device}`" for device in library.devices)
        rows.append(f"| {library.title} | {install} | {devices} | {cell(library.name)} |")
    return "\n".join(rows)


def cell(name: str) -> str:
    """Return a library's measured errors as README shows them."""
    seen = libraries.measured(name)
    if seen is None:
        return "ready, not measured"
    errors = " / ".join(f"{error:.0e}" if error else "0" for error in seen.bptt.values())
    return f"{errors} ({seen.version}, {seen.date})"


def readme(text: str) -> str:
    """Return README's text with the table of now between its markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"measure: README.md lacks {BEGIN} or {END}")
    return f"{before}{begin}\n{table()}\n{end}{after}"


# --- the command line -------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="libraries to measure")
    parser.add_argument(
        "--compare", nargs=2, metavar=("A", "B"), help="find where two libraries differ"
    )
    parser.add_argument("--table", action="store_true", help="print README's table")
    parser.add_argument("--write", action="store_true", help="with --table: into README.md")
    parser.add_argument("--tolerances", metavar="NAME", help="print what its contract may say")
    parser.add_argument("--variants", metavar="NAME", help="print the variants of a library")
    parser.add_argument("--gather", type=Path, metavar="FOLDER", help="put runs together")
    given = parser.parse_args(arguments)
    for name in (*given.names, *(given.compare or ()), *filter(None, [given.variants])):
        if name not in CONTRACTS:
            parser.error(f"{name}: unknown, backends/ has {', '.join(sorted(CONTRACTS))}")
    if given.compare:
        return compare(*given.compare)
    if given.tolerances:
        print(tolerances(given.tolerances))
        return 0
    if given.variants:
        print("\n".join(CONTRACTS[given.variants].variants))
        return 0
    if given.gather:
        for name in given.names:
            together = gather(name, given.gather)
            if together is not None:
                write(name, together, given.gather)
        return 0
    if given.table:
        path = ROOT / "README.md"
        if given.write:
            path.write_text(readme(path.read_text(encoding="utf-8")), encoding="utf-8")
        else:
            print(table())
        return 0
    for name in given.names or libraries.required():
        MEASURED.mkdir(exist_ok=True)
        write(name, measure(name), MEASURED)
    return 0


def write(name: str, found: dict[str, Any], folder: Path) -> None:
    """Write a measurement down, and print its largest errors."""
    text = json.dumps(found, indent=1) + "\n"
    (folder / f"{name}.json").write_text(text, encoding="utf-8")
    for judge, kinds in largest(found, read_contract(name)).items():
        for kind, at in kinds.items():
            print(f"{name} {judge} {kind}: {at['error']:.2e} at {at['where']}")


if __name__ == "__main__":
    sys.exit(main())
