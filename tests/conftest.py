"""One test suite, any array library: `pytest --library NAME`.

A library's devices, dtypes and tolerances are read from backends/NAME.toml. A test asks for
fixtures and runs once for each legal pair of device and dtype:

    def test_step_keeps_its_state_small(asarray, assert_close, rng):
        x = rng.standard_normal((4, 3))                     # NumPy, float64
        assert_close(step(asarray(x)), step(x), kind="cell")

All fixtures but `rng` live for the whole session, so `@given` may use them. CONTRIBUTING
lists the modules beside this file.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import array_api_compat as compat
import numpy as np
import pytest

pytest.register_assert_rewrite("judging", "problems")  # before they are imported

import loading
import selection
from judging import Errors, Judge
from judging import check_gradients as central_differences
from loading import Foreign, Library, Place, host_copy, load, placing, settling

LIBRARY = pytest.StashKey[Library]()
ERRORS = pytest.StashKey[Errors]()


def pytest_addoption(parser: pytest.Parser) -> None:
    add = parser.getgroup("seqcore").addoption
    text = "the array library to test on: the NAME of backends/NAME.toml"
    add("--library", default="numpy", metavar="NAME", help=text)
    text = "one of the `variants` in the library's contract (default: its first)"
    add("--variant", metavar="NAME", help=text)
    text = "write the largest errors seen to this JSON file; `nox -s measure` uses it"
    add("--measure", type=Path, metavar="PATH", help=text)
    text = "leave nothing out: all cases of all tests, and more examples of each law"
    add("--full", action="store_true", help=text)
    text = f"try {selection.THOROUGH} times as many examples as --full does, new ones each time"
    add("--thorough", action="store_true", help=text)
    text = "the built wheel that tests/test_wheel.py looks into"
    add("--wheel", type=Path, metavar="PATH", help=text)


def pytest_configure(config: pytest.Config) -> None:
    wheel = config.getoption("--wheel")
    if wheel is not None and not wheel.is_file():
        raise pytest.UsageError(f"--wheel: there is no file {wheel}")
    library = load(config.getoption("--library"), config.getoption("--variant"))
    config.stash[LIBRARY] = library
    config.stash[ERRORS] = Errors()
    full, thorough = (config.getoption(option) for option in ("--full", "--thorough"))
    selection.set_examples(library, full=full, thorough=thorough)


def pytest_report_header(config: pytest.Config) -> list[str]:
    return selection.header(config.stash[LIBRARY], full=config.getoption("--full"))


# --- which tests run --------------------------------------------------------------------


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if selection.needs_wheel(collection_path) and config.getoption("--wheel") is None:
        return True
    return None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "place" in metafunc.fixturenames:
        library, full = metafunc.config.stash[LIBRARY], metafunc.config.getoption("--full")
        metafunc.parametrize(
            "place",
            selection.places(metafunc, library, full=full),
            ids=lambda place: f"{place.device}-{place.dtype}",
            scope="session",
        )


@pytest.hookimpl(trylast=True)  # after -k and -m, which choose among all cases
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--wheel") is None and any(selection.needs_wheel(i.path) for i in items):
        raise pytest.UsageError(
            "tests/test_wheel.py needs --wheel PATH; `nox -s wheel` builds one and runs it"
        )
    library = config.stash[LIBRARY]
    kept = selection.select(items, library, full=config.getoption("--full"))
    if len(kept) < len(items):
        config.hook.pytest_deselected(items=list(set(items) - set(kept)))
        items[:] = kept
    selection.mark_gaps(items, library)


def pytest_runtest_teardown(item: pytest.Item) -> None:
    if item.config.stash[LIBRARY].name == "dask":
        importlib.import_module("lazy").forget()


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("--measure")
    if path is not None:
        session.config.stash[ERRORS].write(path)


# --- what tests use ---------------------------------------------------------------------


@pytest.fixture(scope="session")
def library(pytestconfig: pytest.Config) -> Library:
    """The library under test: name, contract, namespace and devices."""
    return pytestconfig.stash[LIBRARY]


@pytest.fixture(scope="session")
def xp(library: Library) -> Any:
    """The array API namespace of the library under test."""
    return library.xp


@pytest.fixture(scope="session")
def device(library: Library, place: Place) -> Any:
    """The device that this test runs on, as the library's own object."""
    return library.devices[place.device]


@pytest.fixture(scope="session")
def dtype(xp: Any, place: Place) -> Any:
    """The floating dtype that this test runs in, as the library's own object."""
    return getattr(xp, place.dtype)


@pytest.fixture(scope="session")
def asarray(library: Library, place: Place) -> Callable[[Any], Any]:
    """Copy host values to the device: floats in this test's dtype, integers as int64."""
    return placing(library, place)


@pytest.fixture(scope="session")
def to_host() -> Callable[[Any], np.ndarray]:
    """Copy an array to NumPy by a route that does not use the code under test."""
    return host_copy


@pytest.fixture(scope="session")
def settle(library: Library) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Have a lazy library compute named arrays: between the steps of a training."""
    return settling(library)


@pytest.fixture(scope="session")
def judge(pytestconfig: pytest.Config, library: Library, place: Place) -> Judge:
    """The judge of arrays in this test's place."""
    return Judge(library, place, pytestconfig.stash[ERRORS])


@pytest.fixture(scope="session")
def assert_close(judge: Judge) -> Callable[..., float]:
    """Compare an array with what NumPy expects: `Judge.assert_close`."""
    return judge.assert_close


@pytest.fixture(scope="session")
def close(judge: Judge) -> Callable[..., None]:
    """Compare arrays by name with those expected: `Judge.close`."""
    return judge.close


@pytest.fixture(scope="session")
def check_gradients() -> Callable[..., None]:
    """Compare gradients with central differences: `judging.check_gradients`."""
    return central_differences


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """A NumPy generator seeded by the test's name: the same numbers in every run."""
    return np.random.default_rng(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture(scope="module")
def unoptimized(library: Library) -> Iterator[None]:
    """Let JAX compile without optimizing: worth it for programs that run once."""
    with loading.unoptimized(library):
        yield


@pytest.fixture(scope="session")
def foreign(xp: Any) -> Any:
    """An array of another library: NumPy's, and beside NumPy a stand-in."""
    return Foreign() if compat.is_numpy_namespace(xp) else np.zeros(1, dtype=np.float32)
