"""Every check of seqcore, each in its own environment.

`nox` runs the default sessions: quick tests on every required library. `nox -t full` leaves
nothing out. `nox --list` shows all sessions, and `nox -s "tests(strict)" -- -k lstm` passes what
follows `--` to pytest.

A session's array library is installed and set up as backends/NAME.toml says. A library
asked for by name and missing fails its session; it is never skipped.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nox

ROOT = Path(__file__).parent
PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")


def read_contracts() -> dict[str, dict[str, Any]]:
    """Read every file in backends/, by name, with the one reader, which needs no package."""
    spec = importlib.util.spec_from_file_location("libraries", ROOT / "seqcore" / "libraries.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError("seqcore/libraries.py")
    libraries = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = libraries  # as named tuples look their module up
    spec.loader.exec_module(libraries)
    return {name: library.table for name, library in libraries.known().items()}


CONTRACTS = read_contracts()
REQUIRED = [name for name, contract in CONTRACTS.items() if contract.get("required")]
# One thread: the matrices are small, and two BLAS threads on a busy machine wait for
# each other.
ENV = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
# What other Pythons run in the default sessions: what depends on the language and its library.
SMOKE = (
    *("tests/cli", "tests/files", "tests/training", "tests/test_laws.py", "tests/test_layers.py"),
    *("tests/test_readme.py", "tests/test_recurrent.py", "tests/test_shards.py"),
)
# The scripts of benchmarks/ that need no GPU.
BENCHMARKS = ("training", "load", "streaming", "cold_start", "growth")


def other_pythons() -> dict[str, str]:
    """Find each supported Python on this machine, other than the one that runs nox.

    A name on PATH may be a version manager's shim that leads nowhere, and an interpreter
    may exist that PATH does not name. So candidates count only once they have run.

    Returns
    -------
    dict of str to str
        Version ("3.12") and path of the interpreter. Versions that are not on the
        machine are left out.
    """
    roots = {Path(os.environ.get("PYENV_ROOT", "~/.pyenv")), Path("~/.pyenv")}
    found = {}
    for version in nox.project.python_versions(PROJECT):
        if version == f"{sys.version_info.major}.{sys.version_info.minor}":
            continue
        name = f"python{version}"
        managed = [
            path
            for root in roots
            for path in root.expanduser().glob(f"versions/{version}.*/bin/{name}")
        ]
        on_path = [Path(folder) / name for folder in os.get_exec_path()]
        for candidate in [*on_path, *sorted(managed, reverse=True)]:
            if candidate.is_file() and runs(candidate, version):
                found[version] = str(candidate)
                break
    return found


def runs(interpreter: Path, version: str) -> bool:
    """Tell whether `interpreter` really starts and is of `version`."""
    try:
        answer = subprocess.run(
            [interpreter, "--version"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and answer.stdout.startswith(f"Python {version}.")


OTHER_PYTHONS = other_pythons()

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"  # `wheel` needs pip inside its environment
nox.options.reuse_venv = "yes"
nox.options.sessions = [
    "lint",
    "types",
    "tests(numpy)",
    *(f"smoke-{version}" for version in OTHER_PYTHONS),
    *(f"tests({name})" for name in REQUIRED if name != "numpy"),
    "wheel",
]


def groups(*names: str) -> tuple[str, ...]:
    """Look up the requirements of dependency groups in pyproject.toml."""
    return nox.project.dependency_groups(PROJECT, *names)


@nox.session(tags=["full"])
def lint(session: nox.Session) -> None:
    """Check style and format with ruff."""
    session.install(*groups("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session(tags=["full"])
def types(session: nox.Session) -> None:
    """Check types with mypy, strictly but for the tests."""
    # The checkout itself is checked, so only what it imports is installed.
    session.install(*PROJECT["project"]["dependencies"], *groups("types", "test"))
    session.run("mypy")


@nox.session(tags=["full"])
def pyright(session: nox.Session) -> None:
    """Check README's examples with pyright, as a user's code."""
    session.install("--editable", ".", *groups("pyright"))
    program = Path(session.create_tmp()) / "examples.py"
    session.run("python", "tools/page_examples.py", str(program))
    session.run("pyright", str(program))


@nox.session(tags=["full"])
def examples(session: nox.Session) -> None:
    """Run the programs of examples/, as a user would."""
    session.install("--editable", ".", "scikit-learn")
    for program in sorted((ROOT / "examples").glob("*.py")):
        session.run("python", str(program), env=ENV)


def install(session: nox.Session, *libraries: str, group: str = "test") -> None:
    """Install seqcore with array libraries as backends/ says, and a dependency group."""
    extras, requirements = [], []
    for library in libraries:
        contract = CONTRACTS[library]
        if "requirements" in contract:  # in place of the extra
            requirements += contract["requirements"]
        else:
            # CuPy's wheels differ by the machine's CUDA, which no TOML can know.
            extras.append(os.environ.get("SEQCORE_EXTRA", "") or contract.get("extra"))
    named = ",".join(extra for extra in extras if extra)
    # Editable: what is tested is always the checkout, in a reused environment too.
    seqcore = f".[{named}]" if named else "."
    session.install("--editable", seqcore, *requirements, *groups(group))


def run_tests(session: nox.Session, library: str, *arguments: str, full: bool = False) -> None:
    """Install `library`, then run the tests on it; a full run takes each of its variants."""
    install(session, library)
    contract = CONTRACTS[library]
    env = ENV | contract.get("env", {})
    workers = ["-n", str(contract["workers"])] if "workers" in contract else []
    # A variant that is named runs alone.
    given = "--variant" in " ".join(session.posargs)
    variants = contract.get("variants", ["plain"])[: None if full else 1]
    for variant in [None] if given else variants:
        chosen = ["--variant", variant] if variant else []
        chosen += ["--full"] if full else []
        command = ["pytest", "--library", library, *workers, *chosen, *arguments]
        session.run(*command, *session.posargs, env=env)


@nox.session
@nox.parametrize("library", list(CONTRACTS), ids=list(CONTRACTS))
def tests(session: nox.Session, library: str) -> None:
    """Run the quick tests on one array library, in its first variant."""
    run_tests(session, library)


@nox.session(tags=["full"])
@nox.parametrize("library", REQUIRED, ids=REQUIRED)
def full(session: nox.Session, library: str) -> None:
    """Run all tests on one array library, once for each of its variants; minutes each."""
    run_tests(session, library, full=True)


@nox.session(tags=["full"])
def thorough(session: nox.Session) -> None:
    """Try the laws on NumPy with thousands of examples, new ones each time."""
    run_tests(session, "numpy", "--thorough", "tests/test_laws.py")


def on_python(version: str, interpreter: str) -> None:
    """Register a quick and a full run on NumPy for one more Python."""

    @nox.session(name=f"smoke-{version}", python=interpreter)
    def smoke(session: nox.Session) -> None:
        """Run a part of the quick tests on NumPy with another Python."""
        run_tests(session, "numpy", *SMOKE)

    @nox.session(name=f"full-{version}", python=interpreter, tags=["full"])
    def full_on_python(session: nox.Session) -> None:
        """Run all tests on NumPy with another Python, in its first variant."""
        run_tests(session, "numpy", "--full")  # variants do not depend on the Python


for _version, _interpreter in OTHER_PYTHONS.items():
    on_python(_version, _interpreter)


@nox.session
def measure(session: nox.Session) -> None:
    """Measure the errors of each library given, or of all required ones; minutes each."""
    libraries = session.posargs or REQUIRED
    unknown = [name for name in libraries if name not in CONTRACTS]
    if unknown:
        session.error(f"{', '.join(unknown)}: unknown, backends/ has {', '.join(CONTRACTS)}")
    install(session, *libraries)
    session.run("python", "tools/measure.py", *libraries, env=ENV)
    session.run("python", "tools/measure.py", "--table", "--write", env=ENV)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure against peers in one run; `-- --quick` goes to each script of benchmarks/."""
    install(session, "jax", "torch", group="bench")
    for script in BENCHMARKS:
        session.run("python", f"benchmarks/{script}.py", *session.posargs)


@nox.session(reuse_venv=False, tags=["full"])
def wheel(session: nox.Session) -> None:
    """Build the wheel, look inside, install it and run it outside the checkout."""
    folder = session.create_tmp()
    for old in Path(folder).glob("*.whl"):
        old.unlink()
    session.run("python", "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ".")
    (built,) = Path(folder).glob("*.whl")
    session.install(str(built), *groups("test"))
    # No posargs: `-- -k lstm`, meant for the tests, would select nothing here.
    session.run("pytest", "tests/test_wheel.py", "--wheel", str(built), env=ENV)
