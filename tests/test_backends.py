"""The contracts in backends/, and the judge that reads them."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
CONTRACTS = {
    path.stem: tomllib.loads(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / "backends").glob("*.toml"))
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

each_contract = pytest.mark.parametrize("name", list(CONTRACTS))


# Only collected: should the run not end, it must not run this file within itself.
PYTEST = ("--collect-only", "-q", "-p", "no:cacheprovider")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def sessions(*arguments: str) -> set[str]:
    listed = run("-m", "nox", "--list", "--json", *arguments)
    assert listed.returncode == 0, listed.stderr
    return {entry["session"] for entry in json.loads(listed.stdout)}


# --- the files --------------------------------------------------------------------------


@pytest.mark.host
def test_the_libraries_that_the_design_promises_have_contracts():
    assert {"numpy", "strict", "cupy"} <= set(CONTRACTS)


@pytest.mark.host
@each_contract
def test_a_contract_has_the_known_keys_and_no_other(name):
    required = {"namespace", "devices", "dtypes", "tolerance"}
    # NumPy is a base dependency; whatever else is there is installed by an extra.
    required |= {"extra"} if name != "numpy" else set()
    optional = {"env", "lacks", "gap"}
    keys = set(CONTRACTS[name])
    assert required <= keys
    assert keys <= required | optional


@pytest.mark.host
@each_contract
def test_a_contract_says_what_its_values_may_be(name):
    contract = CONTRACTS[name]
    assert contract["devices"]
    assert contract["dtypes"]
    assert set(contract["dtypes"]) <= {"float32", "float64"}
    assert all(isinstance(value, str) for value in contract.get("env", {}).values())
    for device, dtypes in contract.get("lacks", {}).items():
        assert device in contract["devices"]
        assert set(dtypes) < set(contract["dtypes"])


@pytest.mark.host
@each_contract
def test_an_extra_is_one_of_pyproject(name):
    contract = CONTRACTS[name]
    if "extra" in contract:
        assert contract["extra"] in PROJECT["project"]["optional-dependencies"]
    else:
        base = [need.partition(">")[0] for need in PROJECT["project"]["dependencies"]]
        assert contract["namespace"] in base


@pytest.mark.host
@each_contract
def test_every_tolerance_is_small_and_says_why(name):
    contract = CONTRACTS[name]
    assert set(contract["tolerance"]) == set(contract["dtypes"])
    for dtype, kinds in contract["tolerance"].items():
        assert set(kinds) == {"cell", "bptt", "train"}
        for entry in kinds.values():
            assert set(entry) == {"rtol", "why"}
            assert np.finfo(dtype).eps <= entry["rtol"] <= 1e-2
            assert entry["why"].strip()


@pytest.mark.host
@each_contract
def test_a_gap_names_a_test_that_exists_and_says_why(name):
    for gap in CONTRACTS[name].get("gap", []):
        assert set(gap) == {"test", "reason"}
        assert gap["reason"].strip()
        path, _, function = gap["test"].partition("[")[0].partition("::")
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert function in {
            node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
        }


@pytest.mark.host
def test_nox_has_a_session_for_each_contract_and_runs_all_that_need_no_gpu():
    assert sessions("-s", "tests") == {f"tests({name})" for name in CONTRACTS}
    default = sessions()
    assert {"lint", "types", "tests(numpy)", "tests(strict)", "wheel"} <= default
    assert "tests(cupy)" not in default


# --- the library under test -------------------------------------------------------------


def test_each_place_makes_arrays(asarray, assert_close):
    assert_close(asarray([1.0, 2.0]), np.array([1.0, 2.0]), kind="cell")
    assert_close(asarray([1, 2]), np.array([1, 2]), kind="cell")
    assert_close(asarray([True]), np.array([True]), kind="cell")


def test_a_device_refuses_the_dtypes_it_lacks(library):
    for device, dtypes in library.contract.get("lacks", {}).items():
        for dtype in dtypes:
            with pytest.raises((ValueError, TypeError), match=dtype):
                library.xp.ones(1, dtype=getattr(library.xp, dtype), device=library.devices[device])


@pytest.mark.host
def test_an_unknown_library_ends_the_run():
    result = run("-m", "pytest", "--library", "nosuch", *PYTEST)
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--library nosuch: unknown, backends/ has cupy, numpy, strict" in result.stderr


@pytest.mark.host
def test_a_library_that_is_not_installed_ends_the_run():
    hide = "import sys; sys.modules['array_api_strict'] = None; import pytest; "
    go = "sys.exit(pytest.main(['--library', 'strict', *sys.argv[1:]]))"
    result = run("-c", hide + go, *PYTEST)
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--library strict: cannot import array_api_strict" in result.stderr
    assert "seqcore[strict]" in result.stderr


@pytest.mark.host
def test_the_wheel_tests_without_a_wheel_are_an_error():
    result = run("-m", "pytest", "tests/test_wheel.py", *PYTEST)
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert "test_wheel.py needs --wheel PATH" in result.stderr
    result = run("-m", "pytest", "--wheel", "nosuch.whl", *PYTEST)
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--wheel: there is no file nosuch.whl" in result.stderr


# --- the judge --------------------------------------------------------------------------


def test_assert_close_accepts_an_error_within_the_tolerance(asarray, assert_close, tolerance):
    expected = np.array([1.0, -4.0])
    within = expected + np.array([0.0, 0.9 * 4.0 * tolerance("bptt")])
    assert_close(asarray(within), expected, kind="bptt")


def test_assert_close_refuses_an_error_beyond_the_tolerance(asarray, assert_close, tolerance):
    expected = np.array([1.0, -4.0])
    beyond = expected + np.array([0.0, 1.1 * 4.0 * tolerance("bptt")])
    with pytest.raises(AssertionError, match=r"dx: relative error .* worst at \(1,\)"):
        assert_close(asarray(beyond), expected, kind="bptt", name="dx")


def test_assert_close_measures_against_a_scale_that_is_given(asarray, assert_close, tolerance):
    residue = np.array([0.5 * tolerance("cell")])
    with pytest.raises(AssertionError, match="all expected are 0"):
        assert_close(asarray(residue), np.zeros(1), kind="cell")
    assert_close(asarray(residue), np.zeros(1), kind="cell", scale=1.0)


def test_assert_close_forgives_underflow(asarray, assert_close):
    expected = np.array([1.2345e-42])  # float32 keeps three of its digits
    assert_close(asarray(expected), expected, kind="cell")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_assert_close_refuses_what_is_not_finite(asarray, assert_close, bad):
    with pytest.raises(AssertionError, match="infinities and NaN"):
        assert_close(asarray([1.0, bad]), np.array([1.0, 2.0]), kind="train")
    with pytest.raises(AssertionError, match="infinities and NaN"):
        assert_close(asarray([1.0, 2.0]), np.array([1.0, bad]), kind="train")
    assert_close(asarray([1.0, bad]), np.array([1.0, bad]), kind="train")


def test_assert_close_refuses_another_shape_or_dtype(
    library, place, xp, device, asarray, assert_close
):
    with pytest.raises(AssertionError, match="has shape"):
        assert_close(asarray([[1.0]]), np.ones(1), kind="cell")
    with pytest.raises(AssertionError, match="has dtype"):
        assert_close(asarray([1]), np.ones(1), kind="cell")
    with pytest.raises(AssertionError, match="has dtype"):
        assert_close(asarray([1.0]), np.ones(1, dtype=np.int64), kind="cell")
    lacks = library.contract.get("lacks", {}).get(place.device, [])
    for other in set(library.contract["dtypes"]) - {place.dtype, *lacks}:
        wrong = xp.ones(1, dtype=getattr(xp, other), device=device)
        with pytest.raises(AssertionError, match="has dtype"):
            assert_close(wrong, np.ones(1), kind="cell")


def test_assert_close_refuses_another_library_or_device(library, place, xp, dtype, assert_close):
    with pytest.raises(AssertionError, match="expected an array"):
        assert_close([1.0], np.ones(1), kind="cell")
    if library.name != "numpy":
        with pytest.raises(AssertionError, match="has namespace"):
            assert_close(np.ones(1, dtype=place.dtype), np.ones(1), kind="cell")
    lacks = library.contract.get("lacks", {})
    for name, device in library.devices.items():
        if name != place.device and place.dtype not in lacks.get(name, []):
            elsewhere = xp.ones(1, dtype=dtype, device=device)
            with pytest.raises(AssertionError, match="has device"):
                assert_close(elsewhere, np.ones(1), kind="cell")
