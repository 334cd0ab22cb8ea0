"""One test suite, any array library: `pytest --library NAME`.

What a library is, which devices and dtypes it has and how far it may be off is read from
backends/NAME.toml. A test asks for fixtures and runs once for each legal pair of device
and dtype:

    def test_step_keeps_its_state_small(asarray, assert_close, rng):
        x = rng.standard_normal((4, 3))                     # NumPy, float64
        assert_close(step(asarray(x)), step(x), kind="cell")

Fixtures that tests use: `xp`, `device`, `dtype`, `asarray`, `tolerance`, `assert_close`,
`to_host`, `contract`, `rng`. All but `rng` live for the whole session, so `@given` may use
them; `rng` starts anew for each test, and under `@given` hypothesis draws instead.
"""

from __future__ import annotations

import importlib
import re
import tomllib
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import array_api_compat as compat
import hypothesis
import numpy as np
import pytest

BACKENDS = Path(__file__).parent.parent / "backends"

# Derandomized: the same examples on every machine, so that a red test stays red.
hypothesis.settings.register_profile("ci", max_examples=200, deadline=None, derandomize=True)
hypothesis.settings.register_profile("thorough", max_examples=5000, deadline=None)


# --- the library under test -------------------------------------------------------------


class Library(NamedTuple):
    """An array library, imported, with its contract."""

    name: str
    contract: dict[str, Any]
    xp: Any
    devices: dict[str, Any]  # the contract's names, the library's objects


class Place(NamedTuple):
    """A device and a dtype, by the names in the contract."""

    device: str
    dtype: str


LIBRARY = pytest.StashKey[Library]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("seqcore")
    group.addoption(
        "--library",
        default="numpy",
        metavar="NAME",
        help="the array library to test on: the NAME of backends/NAME.toml",
    )
    group.addoption(
        "--thorough",
        action="store_true",
        help="let hypothesis try 5000 examples of each law, new ones each time",
    )
    group.addoption(
        "--wheel",
        type=Path,
        metavar="PATH",
        help="the built wheel that tests/test_wheel.py looks into",
    )


def pytest_configure(config: pytest.Config) -> None:
    wheel = config.getoption("--wheel")
    if wheel is not None and not wheel.is_file():
        raise pytest.UsageError(f"--wheel: there is no file {wheel}")
    hypothesis.settings.load_profile("thorough" if config.getoption("--thorough") else "ci")
    config.stash[LIBRARY] = load(config.getoption("--library"))


def load(name: str) -> Library:
    """Import the library `name`; whatever is missing ends the run, nothing is skipped."""
    path = BACKENDS / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(other.stem for other in BACKENDS.glob("*.toml")))
        raise pytest.UsageError(f"--library {name}: unknown, backends/ has {known}")
    contract = tomllib.loads(path.read_text(encoding="utf-8"))
    module = contract["namespace"]
    try:
        imported = importlib.import_module(module)
    except ImportError as error:
        raise pytest.UsageError(
            f"--library {name}: cannot import {module} ({error}); install it with "
            f"`pip install 'seqcore[{contract.get('extra', '')}]'`"
        ) from error
    try:
        xp = compat.array_namespace(imported.asarray([0.0]))
        there = {
            device_name(device): device
            for device in xp.__array_namespace_info__().devices()
            if device is not None  # "wherever the library likes" is no place to test
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
    return Library(name, contract, xp, {d: there[d] for d in contract["devices"]})


def device_name(device: Any) -> str:
    """Name a library's device as the contracts do: cpu, cuda:0, device1."""
    if isinstance(device, str):
        return device
    if hasattr(device, "id"):  # CuPy, and JAX, which also says what kind of device it is
        return f"{getattr(device, 'platform', 'cuda')}:{device.id}"
    # PyTorch prints the name; array-api-strict prints it in quotes.
    quoted = re.search(r"'([^']+)'", str(device))
    return quoted[1] if quoted else str(device)


def pytest_report_header(config: pytest.Config) -> list[str]:
    library = config.stash[LIBRARY]
    places = ", ".join(f"{place.device}-{place.dtype}" for place in legal(library.contract))
    return [f"library: {library.name} on {places}"]


# --- which tests run --------------------------------------------------------------------


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    # These tests need a wheel, which `nox -s wheel` builds and names. A run of all tests
    # leaves the file out; who names the file gets it, and the error below.
    if collection_path.name == "test_wheel.py" and config.getoption("--wheel") is None:
        return True
    return None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "place" in metafunc.fixturenames:
        metafunc.parametrize(
            "place",
            legal(metafunc.config.stash[LIBRARY].contract),
            ids=lambda place: f"{place.device}-{place.dtype}",
            scope="session",
        )


def legal(contract: dict[str, Any]) -> list[Place]:
    """List the pairs of device and dtype that the contract allows."""
    lacks = contract.get("lacks", {})
    return [
        Place(device, dtype)
        for device in contract["devices"]
        for dtype in contract["dtypes"]
        if dtype not in lacks.get(device, [])
    ]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--wheel") is None and any(
        item.path.name == "test_wheel.py" for item in items
    ):
        raise pytest.UsageError(
            "tests/test_wheel.py needs --wheel PATH; `nox -s wheel` builds one and runs it"
        )
    library = config.stash[LIBRARY]
    if library.name != "numpy":
        deselected = [item for item in items if item.get_closest_marker("host")]
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if not item.get_closest_marker("host")]
    for gap in library.contract.get("gap", []):
        for item in items:
            # A gap names a test with its [parameters], or all of them without.
            if gap["test"] in (item.nodeid, item.nodeid.partition("[")[0]):
                item.add_marker(pytest.mark.xfail(reason=gap["reason"], strict=True))


# --- what tests use ---------------------------------------------------------------------


@pytest.fixture(scope="session")
def library(pytestconfig: pytest.Config) -> Library:
    """The library under test: name, contract, namespace and devices."""
    return pytestconfig.stash[LIBRARY]


@pytest.fixture(scope="session")
def contract(library: Library) -> dict[str, Any]:
    """What backends/NAME.toml says of the library under test."""
    return library.contract


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
def asarray(xp: Any, device: Any, place: Place) -> Callable[[Any], Any]:
    """Copy host values to the device: floats in this test's dtype, integers as int64."""

    def to_device(values: Any) -> Any:
        host = np.asarray(values)
        if np.isdtype(host.dtype, "real floating"):
            name = place.dtype
        elif np.isdtype(host.dtype, "integral"):
            name = "int64"
        elif host.dtype == np.bool_:
            name = "bool"
        else:
            raise TypeError(f"asarray: {host.dtype} is no dtype that tests use")
        # astype copies, so a function that writes into its argument is caught.
        return xp.asarray(host.astype(name), dtype=getattr(xp, name), device=device)

    return to_device


@pytest.fixture(scope="session")
def to_host() -> Callable[[Any], np.ndarray]:
    """Copy an array to NumPy by a route that does not lean on the code under test."""
    return host_copy


def host_copy(array: Any) -> np.ndarray:
    xp = compat.array_namespace(array)
    if compat.is_array_api_strict_namespace(xp):
        # Its other devices refuse NumPy.
        array = compat.to_device(array, xp.__array_namespace_info__().default_device())
    elif not compat.is_jax_namespace(xp):  # JAX copies by itself
        array = compat.to_device(array, "cpu")
    return np.array(array)


@pytest.fixture(scope="session")
def tolerance(contract: dict[str, Any], place: Place) -> Callable[[str], float]:
    """Look up the largest relative error that a kind of test allows in this dtype."""

    def rtol(kind: str) -> float:
        kinds = contract["tolerance"][place.dtype]
        if kind not in kinds:
            raise KeyError(f"tolerance: {kind!r} is none of {', '.join(kinds)}")
        return float(kinds[kind]["rtol"])

    return rtol


@pytest.fixture(scope="session")
def assert_close(
    xp: Any, device: Any, place: Place, tolerance: Callable[[str], float]
) -> Callable[..., None]:
    """Compare an array with what NumPy expects: kind of array first, then values.

    `assert_close(actual, expected, kind="cell", scale=None, name="array")` compares
    namespace, device, shape and dtype. A floating `expected` stands for this test's
    dtype; integers and booleans must match in dtype and be equal.

    The error of floats is max|actual - expected| / max|expected|: relative to the largest
    element, because an element that is small by cancellation carries the rounding of the
    large ones. Where `expected` is small by cancellation as a whole, `scale` gives the
    size of what was added up. With scale 0 (all expected are zero) the array must be
    zero, up to what underflows in this dtype. Infinities and NaN must stand at the same places.
    """

    def check(
        actual: Any,
        expected: Any,
        *,
        kind: str,
        scale: float | None = None,
        name: str = "array",
    ) -> None:
        rtol = tolerance(kind)
        host = np.asarray(expected)
        floating = np.isdtype(host.dtype, "real floating")
        if not compat.is_array_api_obj(actual):
            raise AssertionError(f"{name} is a {type(actual).__name__}, expected an array")
        seen_as = {
            "namespace": (compat.array_namespace(actual), xp),
            "device": (compat.device(actual), device),
            "shape": (tuple(actual.shape), host.shape),
            "dtype": (
                actual.dtype,
                getattr(xp, place.dtype if floating else host.dtype.name),
            ),
        }
        for what, (got, wanted) in seen_as.items():
            if got != wanted:
                raise AssertionError(f"{name} has {what} {got}, expected {wanted}")

        values = host_copy(actual)
        if not floating:
            np.testing.assert_array_equal(values, host, err_msg=name)
            return
        # In float64, so that the comparison itself adds no error to a float32.
        values, host = values.astype(np.float64), host.astype(np.float64)
        finite = np.isfinite(host)
        np.testing.assert_array_equal(
            np.where(finite, 0.0, host),
            np.where(finite & np.isfinite(values), 0.0, values),
            err_msg=f"{name}: infinities and NaN",
        )
        if not finite.any():
            return
        if scale is None:
            scale = float(np.max(np.abs(host[finite])))
        errors = np.zeros_like(host)
        errors[finite] = np.abs(values[finite] - host[finite])
        worst = np.unravel_index(np.argmax(errors), errors.shape)
        error = errors[worst]
        # Below the smallest normal number a float loses its digits, whoever computes it.
        if error > rtol * scale + float(np.finfo(place.dtype).smallest_normal):
            relative = f"{error / scale:.3g}" if scale else "infinite (all expected are 0)"
            raise AssertionError(
                f"{name}: relative error {relative}, allowed {rtol:.3g} "
                f"({kind}, {place.dtype}); worst at {tuple(map(int, worst))}: "
                f"{values[worst]:.17g}, expected {host[worst]:.17g}"
            )

    return check


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """A NumPy generator seeded by the test's name: the same numbers in every run."""
    return np.random.default_rng(zlib.crc32(request.node.nodeid.encode()))


# --- gradients and strangers ------------------------------------------------------------


@pytest.fixture(scope="session")
def check_gradients() -> Callable[..., None]:
    """Compare gradients with central differences, in float64 on NumPy.

    `check_gradients(loss, at, grads)`: `loss(at)` is a float, `at` holds arrays by name,
    and `grads` holds dL/d of each under the same names. As in `assert_close` the error is
    relative to the largest element. A gradient that is 0 throughout proves nothing, so it
    fails.
    """

    def check(
        loss: Callable[[dict[str, np.ndarray]], Any],
        at: dict[str, np.ndarray],
        grads: dict[str, np.ndarray],
        *,
        rtol: float = 1e-6,
    ) -> None:
        if grads.keys() != at.keys():
            raise AssertionError(f"gradients of {sorted(grads)}, expected of {sorted(at)}")
        step = 1e-5  # rounding, eps / step, and truncation, step^2, are both about 1e-10
        for name, array in at.items():
            grad = grads[name]
            if (grad.shape, grad.dtype) != (array.shape, np.float64):
                raise AssertionError(
                    f"d{name} is {grad.dtype} {grad.shape}, expected float64 {array.shape}"
                )
            numeric = np.empty_like(array)
            for index in np.ndindex(array.shape):
                ends = []
                for sign in (1.0, -1.0):
                    moved = array.copy()
                    moved[index] += sign * step
                    ends.append(float(loss({**at, name: moved})))
                numeric[index] = (ends[0] - ends[1]) / (2.0 * step)
            scale = np.max(np.abs(numeric))
            error = np.max(np.abs(grad - numeric))
            if not (scale > 1e-4 and error <= rtol * scale):
                raise AssertionError(
                    f"d{name} is off by {error:.3g} where the largest is {scale:.3g}, "
                    f"allowed {rtol:.3g}:\n{grad}\ncentral differences:\n{numeric}"
                )

    return check


class Foreign:
    """An array of a library that is not under test; it has no more than its kind."""

    shape, ndim, dtype, device = (1,), 1, "float32", "cpu"

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        return importlib.import_module(__name__)


@pytest.fixture(scope="session")
def foreign(xp: Any) -> Any:
    """An array of another library: NumPy's, and beside NumPy a stand-in."""
    return Foreign() if compat.is_numpy_namespace(xp) else np.zeros(1, dtype=np.float32)
