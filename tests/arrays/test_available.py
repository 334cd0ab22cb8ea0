"""Which array libraries are usable here, and arrays of those asked for by name."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest

from seqcore import arrays, libraries
from seqcore.arrays import available
from seqcore.arrays.available import LibraryError
from seqcore.libraries import Library

INFO = """
class Info:
    def devices(self):
        return {devices}
__array_namespace_info__ = Info
"""


def made_up(namespace, extra="made-up", devices=("cpu",), env=None):
    table = {"title": "made up", "namespace": namespace, "devices": list(devices)}
    table |= {"dtypes": ["float32"], "env": env or {}}
    return Library("made-up", table | ({"extra": extra} if extra else {}))


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module that can be imported, and unload it at the end."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name, source):
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    yield write
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


# --- what is here -----------------------------------------------------------------------


def test_the_library_under_test_is_seen_with_its_devices(library):
    usable = available.look(libraries.known()[library.name])
    assert usable.problem == ""
    assert usable.devices == library.devices
    assert list(usable.devices) == library.contract["devices"]
    assert usable.version[0].isdigit()


@pytest.mark.host
def test_numpy_is_always_usable():
    usable = available.look(libraries.known()["numpy"])
    assert usable == (np.__version__, {"cpu": "cpu"}, "")


@pytest.mark.host
def test_the_version_is_that_of_the_package_whatever_its_name(monkeypatch):
    # As cupy is installed by cupy-cuda13x.
    monkeypatch.setattr(available, "packages_distributions", lambda: {"np_by_another": ["numpy"]})
    assert available.version_of("np_by_another") == np.__version__
    assert available.version_of("no_such_module") == "?"


@pytest.mark.host
@pytest.mark.parametrize(
    ("extra", "install"),
    [("made-up", libraries.install_hint("made-up")), (None, "pip install no_such_library")],
)
def test_a_library_that_is_missing_is_told_with_what_installs_it(extra, install):
    usable = available.look(made_up("no_such_library", extra))
    assert usable == ("", {}, f"not installed: {install}")


@pytest.mark.host
@pytest.mark.parametrize(
    ("source", "problem"),
    [
        # A library may be there and something that it needs may not.
        (
            "import no_such_dependency",
            "can't be imported: ModuleNotFoundError: No module named 'no_such_dependency'",
        ),
        ("raise ImportError('no driver\\nand so on')", "can't be imported: ImportError: no driver"),
        ("raise OSError('libcuda\\nis missing')", "installed, but unusable: OSError: libcuda"),
        ("raise RuntimeError", "installed, but unusable: RuntimeError"),
        ("def zeros(n): raise ValueError('no GPU')", "installed, but unusable: ValueError: no GPU"),
        ("x = 1", "has no device: AttributeError: "),
        (
            INFO.format(devices=["gpu:7", None]),
            "has no device cpu or tpu",
        ),
    ],
)
def test_a_library_that_does_not_work_is_told_in_one_line(module, source, problem):
    name = module("broken_library", source)
    usable = available.look(made_up(name, devices=["cpu", "tpu"]))
    assert usable.devices == {}
    assert usable.problem.startswith(problem)
    assert "\n" not in usable.problem


# What CuPy raises, in its own words: of an import that fails a page, whose cause is the line
# that matters; of a first array or product an error of the CUDA runtime or of its own.
PAGE = """
def fail():
    try:
        raise ImportError({cause!r})
    except ImportError as error:
        rule = "=" * 64
        raise ImportError(f"\\n{{rule}}\\nFailed to import CuPy.\\n\\nIf you installed CuPy via "
            f"wheels ...\\n\\nOriginal error:\\n  ImportError: {{error}}\\n{{rule}}\\n") from error
"""
FILE = "cannot open shared object file: No such file or directory"
SOFT = """
def fail():
    try:
        raise OSError("{name}: {file}")
    except OSError as error:
        raise RuntimeError("CuPy failed to load {name}: OSError: {name}: {file}") from error
"""
RUNTIME = """
class CUDARuntimeError(RuntimeError):
    pass
def fail():
    raise CUDARuntimeError({words!r})
"""
TOO_OLD = (
    "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version"
)
LOADS = f"RuntimeError: CuPy failed to load {{0}}: OSError: {{0}}: {FILE}"
NO_DEVICE = "cudaErrorNoDevice: no CUDA-capable device is detected"
NO_KERNEL = "cudaErrorNoKernelImageForDevice: no kernel image is available for execution"
AT_IMPORT = "fail()\n"
AT_FIRST_ARRAY = "def zeros(n):\n    fail()\n"
AT_DEVICES = (
    "class Info:\n    def devices(self):\n        fail()\n__array_namespace_info__ = Info\n"
)
AT_FIRST_PRODUCT = INFO.format(devices=["cuda:0"]) + (
    "float32 = 'float32'\ndef ones(shape, dtype, device):\n    fail()\n"
)
FITTING = "(extra cupy13 or cupy12)"
NO_DRIVER = "the NVIDIA driver is missing or too old: "
MISSING = "libraries of this CUDA are missing: "
OTHER_GPU = "this CUDA does not support this GPU: "


@pytest.mark.host
@pytest.mark.parametrize(
    ("source", "begins", "helps"),
    [
        (
            RUNTIME.format(words=TOO_OLD) + AT_FIRST_ARRAY,
            f"installed, but unusable: CUDARuntimeError: {TOO_OLD}; {NO_DRIVER}",
            FITTING,
        ),
        (
            RUNTIME.format(words=TOO_OLD) + AT_DEVICES,
            f"has no device: CUDARuntimeError: {TOO_OLD}; {NO_DRIVER}",
            FITTING,
        ),
        (
            RUNTIME.format(words=NO_DEVICE) + AT_FIRST_ARRAY,
            f"installed, but unusable: CUDARuntimeError: {NO_DEVICE}; the driver finds no GPU",
            "CUDA_VISIBLE_DEVICES",
        ),
        (
            PAGE.format(cause=f"libcuda.so.1: {FILE}") + AT_IMPORT,
            f"can't be imported: ImportError: libcuda.so.1: {FILE}; {NO_DRIVER}",
            FITTING,
        ),
        (
            PAGE.format(cause=f"libcudart.so.12: {FILE}") + AT_IMPORT,
            f"can't be imported: ImportError: libcudart.so.12: {FILE}; {MISSING}",
            FITTING,
        ),
        (
            SOFT.format(name="libcuda.so.1", file=FILE) + AT_FIRST_ARRAY,
            f"installed, but unusable: {LOADS.format('libcuda.so.1')}; {NO_DRIVER}",
            FITTING,
        ),
        # Its first array needs no compiler, its first sum does.
        (
            SOFT.format(name="libnvrtc.so.13", file=FILE) + AT_FIRST_PRODUCT,
            f"installed, but can't compute: {LOADS.format('libnvrtc.so.13')}; {MISSING}",
            FITTING,
        ),
        (
            RUNTIME.format(words=NO_KERNEL) + AT_FIRST_PRODUCT,
            f"installed, but can't compute: CUDARuntimeError: {NO_KERNEL}; {OTHER_GPU}",
            FITTING,
        ),
    ],
    ids=[
        *("no driver", "no driver, at devices", "no device", "no libcuda", "another cudart"),
        *("no libcuda, late", "another nvrtc", "another GPU"),
    ],
)
def test_cupy_without_driver_device_or_its_cuda_is_told_with_what_helps(
    module, monkeypatch, source, begins, helps
):
    name = module("make_believe_cupy", source)
    made = made_up(name, extra="cupy", devices=["cuda:0"])
    usable = available.look(made)
    assert usable.devices == {}
    assert usable.problem.startswith(begins)
    assert helps in usable.problem
    assert "\n" not in usable.problem
    # The same text for an array asked for by name.
    monkeypatch.setattr(libraries, "known", lambda: {"cupy": made})
    with pytest.raises(LibraryError) as error:
        available.like("cupy", None, "float32")
    assert str(error.value) == f"array library cupy: {usable.problem}"


@pytest.mark.host
def test_of_a_librarys_devices_those_of_the_contract_are_named(module):
    name = module(
        "some_library",
        INFO.format(devices=["c", None, "a", "b"]),
    )
    usable = available.look(made_up(name, devices=["a", "nowhere", "c"]))
    assert usable == ("?", {"a": "a", "c": "c"}, "")


@pytest.mark.host
def test_the_environment_of_a_contract_is_set_for_a_process_of_its_own_unless_the_user_did(
    monkeypatch,
):
    monkeypatch.setenv("SEQCORE_TEST_MINE", "mine")
    monkeypatch.setenv("SEQCORE_TEST_NEW", "")  # so that it is taken away at the end
    monkeypatch.delenv("SEQCORE_TEST_NEW")
    env = {"SEQCORE_TEST_MINE": "theirs", "SEQCORE_TEST_NEW": "theirs"}
    available.look(made_up("no_such_library", env=env))
    assert "SEQCORE_TEST_NEW" not in os.environ
    available.look(made_up("no_such_library", env=env), own_process=True)
    assert os.environ["SEQCORE_TEST_MINE"] == "mine"
    assert os.environ.pop("SEQCORE_TEST_NEW") == "theirs"


@pytest.mark.host
@pytest.mark.parametrize(
    ("attributes", "name"),
    [
        ({"id": 0}, "cuda:0"),
        ({"id": 3, "platform": "gpu"}, "gpu:3"),
        ({"__str__": lambda _: "array_api_strict.Device('device1')"}, "device1"),
        ({"__str__": lambda _: "cuda:1"}, "cuda:1"),
        ({"__module__": "nameless.device"}, "nameless"),
    ],
)
def test_a_device_is_named_as_the_contracts_do(attributes, name):
    assert available.device_name(type("Device", (), attributes)()) == name
    assert available.device_name("cpu") == "cpu"


# --- asking for one ---------------------------------------------------------------------


def test_like_is_empty_and_of_the_library_device_and_dtype_asked_for(library, place, xp, device):
    array = available.like(library.name, place.device, place.dtype)
    assert array.shape == (0,)
    assert arrays.namespace(array) is xp
    assert arrays.device(array) == device
    assert array.dtype == getattr(xp, place.dtype)
    first = available.like(library.name, None, "float32")
    assert arrays.device(first) == library.devices[library.contract["devices"][0]]


def test_a_dtype_that_a_device_lacks_is_refused(library):
    lacking = library.contract.get("lacks", {})
    for device, dtypes in lacking.items():
        with pytest.raises(LibraryError, match=rf"has no dtype {dtypes[0]} on {device}, expected"):
            available.like(library.name, device, dtypes[0])


@pytest.mark.host
@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("foo", None, "float32"), "'foo' is unknown, expected numpy or "),
        (
            ("numpy", "cuda:0", "float32"),
            "numpy has no device 'cuda:0' here, expected cpu",
        ),
        (("numpy", "", "float32"), "numpy has no device '' here, expected cpu"),
        (
            ("numpy", None, "int8"),
            "numpy has no dtype int8 on cpu, expected float32 or",
        ),
    ],
)
def test_what_is_not_to_be_had_is_refused_with_what_is(asked, message):
    with pytest.raises(LibraryError) as error:
        available.like(*asked)
    assert str(error.value).startswith(f"array library {message}")
    assert "\n" not in str(error.value)


@pytest.mark.host
def test_a_library_with_a_problem_is_refused_with_the_problem(monkeypatch):
    monkeypatch.setattr(libraries, "known", lambda: {"made-up": made_up("no_such_library")})
    with pytest.raises(LibraryError, match="array library made-up: not installed: pip install"):
        available.like("made-up", None, "float32")


def test_an_array_is_described_by_library_version_and_device(library, place, asarray):
    described = available.describe(asarray(np.zeros(2)))
    version = available.look(libraries.known()[library.name]).version
    module = library.contract["namespace"].partition(".")[0]
    assert described == f"{module} {version} on {place.device}"
