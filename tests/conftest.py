"""One test suite, any array library: `pytest --library NAME`.

What a library is, which devices and dtypes it has and how far it may be off is read from
backends/NAME.toml. A test asks for fixtures and runs once for each legal pair of device
and dtype:

    def test_step_keeps_its_state_small(asarray, assert_close, rng):
        x = rng.standard_normal((4, 3))                     # NumPy, float64
        assert_close(step(asarray(x)), step(x), kind="cell")

A library may have variants, ways to run the same tests: `--variant NAME`, by default the
first. `--measure PATH` writes down the largest errors that the run saw.

Fixtures that tests use: `xp`, `device`, `dtype`, `asarray`, `tolerance`, `assert_close`,
`to_host`, `contract`, `rng`. All but `rng` live for the whole session, so `@given` may use
them; `rng` starts anew for each test, and under `@given` hypothesis draws instead.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import tomllib
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import array_api_compat as compat
import hypothesis
import numpy as np
import pytest

BACKENDS = Path(__file__).parent.parent / "backends"

# Derandomized: the same examples on every machine, so that a red test stays red.
# How many examples of each law in CI. NumPy tries them widely. Elsewhere the source is the
# same and other tests prove equal numbers, so fewer show that no law breaks on what only
# that library's arrays do; fewest where an example costs a hundred times as much, as JAX
# compiles for each new shape and Dask draws up a graph.
EXAMPLES = {"numpy": 200, "torch": 50, "strict": 20}
EXAMPLES_ELSEWHERE = 3
THOROUGH = 25  # times as many


# --- the library under test -------------------------------------------------------------


class Library(NamedTuple):
    """An array library, imported, with its contract."""

    name: str
    contract: dict[str, Any]
    xp: Any
    devices: dict[str, Any]  # the contract's names, the library's objects
    variant: str


class Place(NamedTuple):
    """A device and a dtype, by the names in the contract."""

    device: str
    dtype: str


LIBRARY = pytest.StashKey[Library]()
ERRORS = pytest.StashKey["Errors"]()

# What the contracts may name as a variant. The first one of a contract is its default.
VARIANTS = {
    "plain": "nothing special",
    "readonly": "asarray gives arrays that can't be written into",
    "generic": "without the kernels of the library, by SEQCORE_KERNELS=0",
    "strictest": "array-api-strict without whatever the standard calls optional",
    "eager": "each operation by itself",
    "jit": "the stations only, each through jax.jit as a whole",
    "tf32": "products of float32 with factors of 11 bits, by CUPY_TF32=1",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("seqcore")
    group.addoption(
        "--library",
        default="numpy",
        metavar="NAME",
        help="the array library to test on: the NAME of backends/NAME.toml",
    )
    group.addoption(
        "--variant",
        metavar="NAME",
        help="one of the `variants` in the library's contract (default: its first)",
    )
    group.addoption(
        "--measure",
        type=Path,
        metavar="PATH",
        help="write the largest errors seen to this JSON file; `nox -s measure` uses it",
    )
    group.addoption(
        "--thorough",
        action="store_true",
        help="let hypothesis try 5000 examples of each law, new ones each time (fewer on "
        "slower libraries)",
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
    library = load(config.getoption("--library"), config.getoption("--variant"))
    config.stash[LIBRARY] = library
    config.stash[ERRORS] = Errors()
    thorough = config.getoption("--thorough")
    examples = EXAMPLES.get(library.name, EXAMPLES_ELSEWHERE)
    if library.variant not in ("plain", "eager"):
        examples = min(examples, EXAMPLES["strict"])  # the default variant tried them all
    hypothesis.settings.register_profile(
        "seqcore",
        max_examples=THOROUGH * examples if thorough else examples,
        deadline=None,
        derandomize=not thorough,
    )
    hypothesis.settings.load_profile("seqcore")


def own_namespace(array: Any) -> Any:
    """Return the namespace that an array is to go by: NumPy's own is one of the standard."""
    numpys = isinstance(array, np.ndarray | np.generic)
    return np if numpys else compat.array_namespace(array)


def load(name: str, variant: str | None = None) -> Library:
    """Import the library `name`; whatever is missing ends the run, nothing is skipped."""
    path = BACKENDS / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(other.stem for other in BACKENDS.glob("*.toml")))
        raise pytest.UsageError(f"--library {name}: unknown, backends/ has {known}")
    contract = tomllib.loads(path.read_text(encoding="utf-8"))
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
        raise pytest.UsageError(
            f"--library {name}: cannot import {module} ({error}); install it with "
            f"`pip install 'seqcore[{contract.get('extra', '')}]'`"
        ) from error
    try:
        xp = own_namespace(imported.asarray([0.0]))
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
    if variant == "generic":
        os.environ["SEQCORE_KERNELS"] = "0"  # the processes that tests start inherit it
        importlib.import_module("seqcore.arrays").kernel.cache_clear()
    if variant == "strictest":
        imported.set_array_api_strict_flags(
            boolean_indexing=False, data_dependent_shapes=False, enabled_extensions=()
        )
    if compat.is_dask_namespace(xp):
        importlib.import_module("lazy").watch()
    return Library(name, contract, xp, {d: there[d] for d in contract["devices"]}, variant)


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


def pytest_report_header(config: pytest.Config) -> list[str]:
    library = config.stash[LIBRARY]
    places = ", ".join(f"{place.device}-{place.dtype}" for place in legal(library.contract))
    lines = [f"library: {library.name} ({library.variant}) on {places}"]
    suite = library.contract.get("suite")
    if suite:
        lines.append(
            f"but for the stations in {', '.join(suite['dtypes'])} only, without tests marked "
            f"{', '.join(suite.get('without', ['nothing']))}: {suite['why']}"
        )
    return lines


# --- which tests run --------------------------------------------------------------------


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    # These tests need a wheel, which `nox -s wheel` builds and names. A run of all tests
    # leaves the file out; who names the file gets it, and the error below.
    if collection_path.name == "test_wheel.py" and config.getoption("--wheel") is None:
        return True
    return None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "place" in metafunc.fixturenames:
        contract = metafunc.config.stash[LIBRARY].contract
        # Only the stations and the judge need all places of a slow library.
        every = next(metafunc.definition.iter_markers("every_place"), None)
        dtypes = (
            contract["dtypes"] if every or "suite" not in contract else contract["suite"]["dtypes"]
        )
        metafunc.parametrize(
            "place",
            [place for place in legal(contract) if place.dtype in dtypes],
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
    deselected = [item for item in items if not belongs(item, library)]
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if belongs(item, library)]
    for gap in library.contract.get("gap", []):
        for item in items:
            # A gap names a test with its [parameters], or all of them without.
            if gap["test"] in (item.nodeid, item.nodeid.partition("[")[0]):
                item.add_marker(pytest.mark.xfail(reason=gap["reason"], strict=True))


def belongs(item: pytest.Item, library: Library) -> bool:
    """Tell whether a test is meant for the library, by its marks `host` and `only`."""
    if item.get_closest_marker("host") and library.name != "numpy":
        return False
    suite = library.contract.get("suite", {})
    if any(item.get_closest_marker(mark) for mark in suite.get("without", [])):
        return False
    if library.variant == "jit" and item.path.name != "test_stations.py":
        return False
    if library.variant == "generic" and item.path.name == "test_kernels.py":
        return False  # what it is about, the variant does without
    only = item.get_closest_marker("only")
    # By module, so that torch on another device is torch.
    return only is None or library.contract["namespace"].partition(".")[0] == only.args[0]


def pytest_runtest_teardown(item: pytest.Item) -> None:
    if item.config.stash[LIBRARY].name == "dask":
        importlib.import_module("lazy").forget()


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
def asarray(library: Library, xp: Any, device: Any, place: Place) -> Callable[[Any], Any]:
    """Copy host values to the device: floats in this test's dtype, integers as int64."""
    return placing(library, xp, device, place)


def placing(library: Library, xp: Any, device: Any, place: Place) -> Callable[[Any], Any]:
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
        array = xp.asarray(host.astype(name), dtype=getattr(xp, name), device=device)
        if library.variant == "readonly":
            array.flags.writeable = False
        return array

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
    elif compat.is_torch_namespace(xp):
        array = array.detach().cpu().numpy()
    elif compat.is_dask_namespace(xp):
        return importlib.import_module("lazy").host_copy(array)
    elif not compat.is_jax_namespace(xp):  # JAX copies by itself
        array = compat.to_device(array, "cpu")
    return np.array(array)


@pytest.fixture(scope="session")
def settle(library: Library) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Have a lazy library compute named arrays: between the steps of a training."""
    if library.name != "dask":
        return lambda named: named
    return importlib.import_module("lazy").persist


def tolerances(contract: dict[str, Any], variant: str, dtype: str) -> dict[str, Any]:
    """Return what each kind of test allows: a variant's own table, or else that of the dtype."""
    own = contract.get("variant", {}).get(variant, {}).get("tolerance", {})
    return dict(own.get(dtype, contract["tolerance"][dtype]))


@pytest.fixture(scope="session")
def tolerance(library: Library, place: Place) -> Callable[[str], float]:
    """Look up the largest relative error that a kind of test allows in this dtype."""

    def rtol(kind: str) -> float:
        kinds = tolerances(library.contract, library.variant, place.dtype)
        if kind not in kinds:
            raise KeyError(f"tolerance: {kind!r} is none of {', '.join(kinds)}")
        return float(kinds[kind]["rtol"])

    return rtol


@pytest.fixture(scope="session")
def assert_close(
    pytestconfig: pytest.Config,
    xp: Any,
    device: Any,
    place: Place,
    tolerance: Callable[[str], float],
) -> Callable[..., float]:
    """Compare an array with what NumPy expects: kind of array first, then values.

    `assert_close(actual, expected, kind="cell", scale=None, name="array")` compares
    namespace, device, shape and dtype. A floating `expected` stands for this test's
    dtype; integers and booleans must match in dtype and be equal.

    The error of floats is max|actual - expected| / max|expected|: relative to the largest
    element, because an element that is small by cancellation carries the rounding of the
    large ones. Where `expected` is small by cancellation as a whole, `scale` gives the
    size of what was added up. With scale 0 (all expected are zero) the array must be
    zero, up to what underflows in this dtype. Infinities and NaN must stand at the same places.
    Returns the error.
    """
    errors_seen = pytestconfig.stash[ERRORS]

    def check(
        actual: Any,
        expected: Any,
        *,
        kind: str,
        scale: float | None = None,
        name: str = "array",
    ) -> float:
        rtol = tolerance(kind)
        host = np.asarray(expected)
        floating = np.isdtype(host.dtype, "real floating")
        if not compat.is_array_api_obj(actual):
            raise AssertionError(f"{name} is a {type(actual).__name__}, expected an array")
        seen_as = {
            "namespace": (own_namespace(actual), xp),
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
            return 0.0
        # In float64, so that the comparison itself adds no error to a float32.
        values, host = values.astype(np.float64), host.astype(np.float64)
        finite = np.isfinite(host)
        np.testing.assert_array_equal(
            np.where(finite, 0.0, host),
            np.where(finite & np.isfinite(values), 0.0, values),
            err_msg=f"{name}: infinities and NaN",
        )
        if not finite.any():
            return 0.0
        if scale is None:
            scale = float(np.max(np.abs(host[finite])))
        errors = np.zeros_like(host)
        errors[finite] = np.abs(values[finite] - host[finite])
        worst = np.unravel_index(np.argmax(errors), errors.shape)
        error = errors[worst]
        # Below the smallest normal number a float loses its digits, whoever computes it.
        counted = max(0.0, error - float(np.finfo(place.dtype).smallest_normal))
        if scale:
            errors_seen.see(place, kind, name, float(counted / scale))
        if counted > rtol * scale:
            relative = f"{error / scale:.3g}" if scale else "infinite (all expected are 0)"
            raise AssertionError(
                f"{name}: relative error {relative}, allowed {rtol:.3g} "
                f"({kind}, {place.dtype}); worst at {tuple(map(int, worst))}: "
                f"{values[worst]:.17g}, expected {host[worst]:.17g}"
            )
        return float(counted / scale) if scale else 0.0

    return check


class Errors:
    """The largest errors of a run: of the suite by kind, and of each station."""

    def __init__(self) -> None:
        self.suite: dict[str, dict[str, dict[str, Any]]] = {}  # by dtype and kind
        self.stations: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}  # device, dtype

    def see(self, place: Place, kind: str, name: str, error: float) -> None:
        """Note the error of an array that a test compared."""
        test = os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0]
        # The judge's own tests plant errors; those are not measured.
        if test.startswith("tests/test_backends.py"):
            return
        kinds = self.suite.setdefault(place.dtype, {})
        if error >= kinds.get(kind, {"error": 0.0})["error"]:
            kinds[kind] = {"error": error, "test": test, "array": name}

    def see_station(self, place: Place, station: str, kind: str, seen: dict[str, float]) -> None:
        """Note the errors of a station's arrays."""
        worst = max(seen, key=lambda name: seen[name])
        by_dtype = self.stations.setdefault(place.device, {}).setdefault(place.dtype, {})
        by_dtype[station] = {"kind": kind, "error": seen[worst], "array": worst}


@pytest.fixture(scope="session")
def see_station(pytestconfig: pytest.Config, place: Place) -> Callable[..., None]:
    """Note the errors of a station: `see_station(name, kind, {array: error})`."""
    return lambda *seen: pytestconfig.stash[ERRORS].see_station(place, *seen)


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("--measure")
    if path is not None:
        errors = session.config.stash[ERRORS]
        seen = {"stations": errors.stations, "suite": errors.suite}
        path.write_text(json.dumps(seen, indent=1) + "\n", encoding="utf-8")


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """A NumPy generator seeded by the test's name: the same numbers in every run."""
    return np.random.default_rng(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture(scope="module")
def unoptimized(library: Library) -> Iterator[None]:
    """Let JAX compile without optimizing: worth it for programs that run once."""
    if not compat.is_jax_namespace(library.xp):
        yield
        return
    jax = importlib.import_module("jax")
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


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
