"""The files in backends/, and the judge that reads them."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import loading
import measure
import numpy as np
import pytest
from judging import tolerances
from stages import STAGES, Stage

from seqcore import libraries

ROOT = Path(__file__).parent.parent
CONTRACTS = loading.contracts()
REQUIRED = {name for name, contract in CONTRACTS.items() if contract.get("required")}
MEASURED = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / "backends" / "measured").glob("*.json"))
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

# The judge is tried in every place, in slow libraries too.
pytestmark = pytest.mark.every_place

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
    assert set(REQUIRED) == {"numpy", "strict", "torch", "jax", "dask"}
    ready = {"cupy", "torch-cuda", "jax-cuda", "mlx", "dpnp", "ndonnx"}
    assert set(CONTRACTS) == REQUIRED | ready


@pytest.mark.host
@each_contract
def test_a_contract_has_the_known_keys_and_no_other(name):
    required = {"title", "namespace", "devices", "dtypes", "tolerance"}
    # NumPy is a base dependency; whatever else is there is installed by an extra.
    required |= {"extra"} if name != "numpy" else set()
    optional = {"env", "lacks", "gap", "required", "measured", "requirements", "variants"}
    optional |= {"suite", "workers", "variant"}
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
    # Said as it is: one that needs hardware may be measured and still not be required.
    assert contract.get("required", True) is True
    assert contract.get("measured", True) is (name in MEASURED)
    assert all(isinstance(requirement, str) for requirement in contract.get("requirements", []))
    variants = contract.get("variants", ["plain"])
    assert variants
    assert len(set(variants)) == len(variants)
    assert set(variants) <= set(loading.VARIANTS)
    for variant, own in contract.get("variant", {}).items():
        assert variant in variants[1:]  # the default one has the file's own
        assert own.keys() <= {"env", "tolerance"}
        assert all(isinstance(value, str) for value in own.get("env", {}).values())
        assert set(own.get("tolerance", {})) <= set(contract["dtypes"])


@pytest.mark.host
@each_contract
def test_a_suite_that_runs_less_says_what_and_why(name):
    suite = CONTRACTS[name].get("suite")
    if suite is None:
        return
    assert {"dtypes", "why"} <= set(suite) <= {"dtypes", "why", "without"}
    assert suite["dtypes"]
    assert set(suite["dtypes"]) < set(CONTRACTS[name]["dtypes"])
    assert set(suite.get("without", [])) <= {"long"}
    assert suite["why"].strip()


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
    for judge, kinds in measure.tables(contract).items():
        variant, _, dtype = judge.rpartition(".")
        assert set(kinds) == {"cell", "bptt", "train"}
        for entry in kinds.values():
            assert set(entry) == {"rtol", "why"}
            most = 0.1 if variant == "tf32" else 1e-2
            assert np.finfo(dtype).eps / 4 <= entry["rtol"] <= most
            assert entry["why"].strip()


@pytest.mark.host
def test_all_required_libraries_are_measured_and_nothing_that_is_no_library():
    assert REQUIRED <= set(MEASURED) <= set(CONTRACTS)


@pytest.mark.host
@each_contract
def test_every_tolerance_is_at_most_four_times_a_measured_error(name):
    tables = measure.tables(CONTRACTS[name])
    if name not in MEASURED:
        assert CONTRACTS[name]["measured"] is False
        whys = {entry["why"] for kinds in tables.values() for entry in kinds.values()}
        assert all(why.startswith("not measured") for why in whys)
        return
    found = MEASURED[name]
    worst = measure.largest(found, CONTRACTS[name])
    for judge, kinds in tables.items():
        for kind, entry in kinds.items():
            seen = worst[judge][kind]
            assert seen["error"] <= entry["rtol"] <= 4.0 * seen["error"], (judge, kind, seen)
            for said in (seen["where"], found["version"], found["date"]):
                assert said in entry["why"], (judge, kind)


@pytest.mark.host
@pytest.mark.parametrize("name", sorted(MEASURED))
def test_a_measurement_has_every_stage_in_every_place_and_says_of_what_it_is(name):
    contract, found = CONTRACTS[name], MEASURED[name]
    assert {"date", "machine", "python", "numpy", "version"} <= set(found)
    assert all(found[key] for key in found)
    assert list(found["stages"]) == contract.get("variants", ["plain"])
    for devices in found["stages"].values():
        assert set(devices) == set(contract["devices"])
        for device, dtypes in devices.items():
            lacks = contract.get("lacks", {}).get(device, [])
            assert set(dtypes) == set(contract["dtypes"]) - set(lacks)
            for stages in dtypes.values():
                assert list(stages) == [stage.name for stage in STAGES]


@pytest.mark.host
def test_readmes_table_is_the_one_of_the_contracts_and_measurements():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text == measure.readme(text)


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
def test_nox_has_a_session_for_each_contract_and_runs_those_required():
    assert sessions("-s", "tests") == {f"tests({name})" for name in CONTRACTS}
    default = sessions()
    assert {"lint", "types", "wheel"} <= default
    assert {name for name in default if name.startswith("tests(")} == {
        f"tests({name})" for name in REQUIRED
    }
    everything = sessions("-t", "full")
    assert {"lint", "types", "wheel", "thorough"} <= everything
    assert {name for name in everything if name.startswith("full(")} == {
        f"full({name})" for name in REQUIRED
    }


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
    known = ", ".join(sorted(CONTRACTS))
    assert f"--library nosuch: unknown, backends/ has {known}" in result.stderr


@pytest.mark.host
def test_an_unknown_variant_ends_the_run():
    result = run("-m", "pytest", "--variant", "jit", *PYTEST)
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert (
        "--variant jit: numpy has none of that name, but plain, readonly, generic" in result.stderr
    )


@pytest.mark.host
def test_a_library_that_is_not_installed_ends_the_run():
    hide = "import sys; sys.modules['array_api_strict'] = None; import pytest; "
    go = "sys.exit(pytest.main(['--library', 'strict', *sys.argv[1:]]))"
    result = run("-c", hide + go, *PYTEST)
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--library strict: cannot import array_api_strict" in result.stderr
    assert f"`{libraries.install_hint('strict')}`" in result.stderr


@pytest.mark.host
def test_the_wheel_tests_without_a_wheel_are_an_error():
    result = run("-m", "pytest", "tests/test_wheel.py", *PYTEST)
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert "test_wheel.py needs --wheel PATH" in result.stderr
    result = run("-m", "pytest", "--wheel", "nosuch.whl", *PYTEST)
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--wheel: there is no file nosuch.whl" in result.stderr


# --- the judge --------------------------------------------------------------------------


def test_assert_close_accepts_an_error_within_the_tolerance(asarray, assert_close, judge):
    expected = np.array([1.0, -4.0])
    within = expected + np.array([0.0, 0.9 * 4.0 * judge.tolerance("bptt")])
    assert_close(asarray(within), expected, kind="bptt")


def test_assert_close_refuses_an_error_beyond_the_tolerance(asarray, assert_close, judge):
    expected = np.array([1.0, -4.0])
    beyond = expected + np.array([0.0, 1.1 * 4.0 * judge.tolerance("bptt")])
    with pytest.raises(AssertionError, match=r"dx: relative error .* worst at \(1,\)"):
        assert_close(asarray(beyond), expected, kind="bptt", name="dx")


def test_assert_close_measures_against_a_scale_that_is_given(asarray, assert_close, judge):
    residue = np.array([0.5 * judge.tolerance("cell")])
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


def test_assert_close_returns_the_error(asarray, assert_close):
    assert assert_close(asarray([1.0, 2.0]), np.array([1.0, 2.0]), kind="cell") == 0.0
    off = np.array([1.0, 2.0 + 2.0**-30])
    assert assert_close(asarray([1.0, 2.0]), off, kind="cell", scale=1e9) == 2.0**-30 / 1e9


# --- variants and lazy arrays -----------------------------------------------------------


def test_a_variant_is_what_it_says(library, asarray):
    from seqcore import kernels

    array = asarray([1.0, 2.0])
    if library.name == "numpy":
        providers = kernels.of(library.xp).providers
        assert (not providers) == (library.variant == "generic")
    if library.variant == "readonly":
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 3.0
    if library.variant == "strictest":
        with pytest.raises(RuntimeError, match="boolean_indexing flag"):
            array[array > 1.0]
        with pytest.raises(RuntimeError, match=r"data-dependent|data_dependent"):
            library.xp.unique_values(array)


@pytest.mark.only("dask")
def test_dask_computes_for_tests_and_to_host_but_not_for_the_library(asarray, monkeypatch):
    from seqcore import arrays, checks

    array = asarray([1.0, 2.0])
    assert float(array.sum()) == 3.0
    np.testing.assert_array_equal(arrays.to_host(array), [1.0, 2.0])
    # The library would compute here, did it not take Dask arrays for unreadable.
    monkeypatch.setattr(arrays, "is_readable", lambda _: True)
    with pytest.raises(AssertionError, match="bounds computes a Dask array"):
        checks.indices("here", "x", asarray([1, 2]), 3, "token")


OWN = """
namespace = "numpy"
devices = ["cpu"]
dtypes = ["float32", "float64"]
variants = ["plain", "rough"]
[tolerance]
float32 = { cell = { rtol = 1e-6 } }
float64 = { cell = { rtol = 1e-12 } }
[variant.rough]
env = { SEQCORE_TEST_ROUGH = "1" }
tolerance.float32 = { cell = { rtol = 1e-3 } }
"""


@pytest.mark.host
def test_a_variant_has_its_own_environment_and_tolerances_and_else_the_contracts(
    tmp_path, monkeypatch
):
    path = tmp_path / "made-up.toml"
    path.write_text(OWN, encoding="utf-8")
    monkeypatch.setattr(libraries, "known", lambda: {"made-up": libraries.read(path)})
    monkeypatch.setenv("SEQCORE_TEST_ROUGH", "0")  # as one has set it for the default variant
    allowed = {}
    for variant in ("plain", "rough"):
        library = loading.load("made-up", variant)
        assert os.environ["SEQCORE_TEST_ROUGH"] == ("1" if variant == "rough" else "0")
        for dtype in library.contract["dtypes"]:
            kinds = tolerances(library.contract, variant, dtype)
            allowed[variant, dtype] = kinds["cell"]["rtol"]
    assert allowed == {
        ("plain", "float32"): 1e-6,
        ("plain", "float64"): 1e-12,
        ("rough", "float32"): 1e-3,
        ("rough", "float64"): 1e-12,
    }


@pytest.mark.host
def test_tf32_is_a_variant_of_cupy_with_an_environment_and_tolerances_of_its_own():
    contract = CONTRACTS["cupy"]
    assert contract["env"] == {"CUPY_TF32": "0"}
    assert contract["variants"] == ["plain", "tf32"]
    assert contract["variant"]["tf32"]["env"] == {"CUPY_TF32": "1"}
    # float64 is multiplied as it is.
    assert set(measure.tables(contract)) == {"float32", "float64", "tf32.float32"}
    assert libraries.known()["cupy"].variants_apart == ["tf32"]


# --- measuring and comparing ------------------------------------------------------------


@pytest.mark.host
def test_a_variant_with_tolerances_of_its_own_is_measured_apart(monkeypatch, tmp_path):
    def seen(error):
        at = {"kind": "bptt", "error": error, "array": "dx"}
        return {"cuda:0": {"float32": {"bptt lstm": at}, "float64": {"bptt lstm": at}}}

    stages = {"plain": seen(1.0), "tf32": seen(7.0)}
    found = {"date": "today", "version": "1.2", "stages": stages, "suite": {}}
    worst = measure.largest(found, CONTRACTS["cupy"])
    assert {judge: kinds["bptt"]["error"] for judge, kinds in worst.items()} == {
        "float32": 1.0,
        "tf32.float32": 7.0,
        "float64": 7.0,
    }
    (tmp_path / "cupy.toml").write_text(
        (ROOT / "backends" / "cupy.toml").read_text(encoding="utf-8"), encoding="utf-8"
    )
    (tmp_path / "measured").mkdir()
    (tmp_path / "measured" / "cupy.json").write_text(json.dumps(found), encoding="utf-8")
    monkeypatch.setattr(libraries, "folder", lambda: tmp_path)
    assert libraries.measured("cupy") == ("1.2", "today", {"float32": 1.0, "float64": 1.0})


@pytest.mark.host
def test_the_largest_error_is_taken_over_stages_and_suite():
    def found(**suite):
        at = {"kind": "bptt", "error": 2.0, "array": "dx"}
        return {
            "stages": {"plain": {"cpu": {"float32": {"bptt lstm": at}}}},
            "suite": {"plain": {"float32": suite}},
        }

    (kinds,) = measure.largest(found()).values()
    assert kinds == {"bptt": {"error": 2.0, "where": "bptt lstm, dx (plain, cpu)"}}
    seen = {"error": 3.0, "test": "tests/test_x.py::test_law[a-b]", "array": "y"}
    (kinds,) = measure.largest(found(bptt=seen, cell=seen)).values()
    assert kinds["bptt"] == kinds["cell"] == {"error": 3.0, "where": "test_law[a-b]"}


@pytest.mark.host
def test_two_libraries_differ_first_where_a_difference_was_planted():
    planted = "bptt gru-after"

    def honest(stage):
        return stage.results(np.array)

    def crooked(stage):
        results = honest(stage)
        at = [one.name for one in STAGES].index(stage.name)
        if at >= [one.name for one in STAGES].index(planted):  # and all that come later
            name = list(results)[-1]
            results[name] = results[name] * (1.0 + 1e-6)
        return results

    allowed = {"cell": 1e-9, "bptt": 1e-9, "train": 1e-9}
    assert measure.first_difference(STAGES, (honest, honest), allowed) is None
    first = measure.first_difference(STAGES, (honest, crooked), allowed)
    assert (first.stage, first.array) == (planted, "dstart.h")
    assert first.error == pytest.approx(1e-6, rel=1e-3)


@pytest.mark.host
@pytest.mark.parametrize("change", [lambda x: x.astype(np.float32), lambda x: x[None]])
def test_two_libraries_differ_where_one_promotes_or_reshapes(change):
    stage = Stage("made up", "cell", lambda _: {"x": np.ones(2)}, lambda given: given)
    ways = (lambda one: one.inputs(), lambda one: {"x": change(one.inputs()["x"])})
    first = measure.first_difference((stage,), ways, {"cell": 1e-3})
    assert first == ("made up", "x", float("inf"), 1e-3)


@pytest.mark.host
def test_runs_of_all_variants_are_put_together_and_of_some_are_not(tmp_path, capsys):
    assert measure.main(["--variants", "cupy"]) == 0
    assert capsys.readouterr().out.split() == ["plain", "tf32"]
    at = {"kind": "bptt", "error": 1e-7, "array": "dx"}
    for variant in ("plain", "tf32"):
        seen = {
            "stages": {"cuda:0": {"float32": {f"of {variant}": at}}},
            "suite": {"float32": {"cell": {"error": 2e-7, "test": "a", "array": "b"}}},
        }
        path = tmp_path / f"cupy-{variant}.json"
        path.write_text(json.dumps(seen), encoding="utf-8")
        assert measure.main(["--gather", str(tmp_path), "cupy"]) == 0
        assert (tmp_path / "cupy.json").exists() == (variant == "tf32")
    found = json.loads((tmp_path / "cupy.json").read_text(encoding="utf-8"))
    assert {"date", "machine", "python", "numpy", "version"} < set(found)
    for variant in ("plain", "tf32"):
        assert list(found["stages"][variant]["cuda:0"]["float32"]) == [f"of {variant}"]
        assert "cell" in found["suite"][variant]["float32"]
    said = capsys.readouterr().out
    assert "cupy-tf32.json is not there yet" in said
    assert "cupy tf32.float32 bptt: 1.00e-07 at of tf32, dx (tf32, cuda:0)" in said


@pytest.mark.only("array_api_strict")
def test_numpy_and_strict_are_compared_from_the_command_line():
    result = run("tools/measure.py", "--compare", "numpy", "strict")
    assert result.returncode == 0, result.stderr
    agree = f"numpy and strict agree at all {len(STAGES)} stages"
    assert result.stdout.splitlines() == [f"float32: {agree}", f"float64: {agree}"]


@pytest.mark.host
def test_measuring_writes_down_the_errors_of_stages_and_suite(tmp_path):
    path = tmp_path / "errors.json"
    law = "test_a_stage_gives_the_numbers_of_float64_numpy[cpu-float32-loss]"
    chosen = f"tests/test_stages.py::{law}"
    result = run("-m", "pytest", "-q", "-p", "no:cacheprovider", chosen, "--measure", str(path))
    assert result.returncode == 0, result.stdout
    seen = json.loads(path.read_text(encoding="utf-8"))
    stage = seen["stages"]["cpu"]["float32"]["loss"]
    suite = seen["suite"]["float32"]["cell"]
    assert stage["kind"] == "cell"
    assert 0 < stage["error"] < 1e-6
    assert suite == {"error": stage["error"], "test": chosen, "array": stage["array"]}
