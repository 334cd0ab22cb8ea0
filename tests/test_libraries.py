"""Reading the files in backends/; tests/test_backends.py judges what is in them."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from seqcore import libraries

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "backends"
SOURCE = Path(libraries.__file__)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.host
def test_each_contract_of_the_checkout_is_found_numpy_first():
    found = libraries.known()
    assert next(iter(found)) == "numpy"
    assert set(found) == {path.stem for path in FOLDER.glob("*.toml")}
    for name, library in found.items():
        table = tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
        assert library.name == name
        for key in ("namespace", "devices", "dtypes"):
            assert getattr(library, key) == table[key]
        assert library.extra == table.get("extra")
        assert library.env() == table.get("env", {})


@pytest.mark.host
def test_a_device_may_lack_a_dtype():
    strict = libraries.known()["strict"]
    assert strict.dtypes_on("device1") == ["float32", "float64"]
    assert strict.dtypes_on("no_float64") == ["float32"]


@pytest.mark.host
def test_what_a_contract_leaves_out_has_a_value():
    table = {"title": "A", "namespace": "a", "devices": ["cpu"], "dtypes": ["float32"]}
    library = libraries.Library("a", table)
    assert (library.extra, library.required, library.workers) == (None, False, None)
    assert (library.variants, library.variants_apart) == (["plain"], [])
    assert (library.lacks, library.env(), library.suite, library.gaps) == ({}, {}, {}, [])
    assert library.requirements() == ([], [])


@pytest.mark.host
def test_a_variant_has_its_own_environment_and_tolerances_or_those_of_the_library():
    cupy = libraries.known()["cupy"]
    own = cupy.table["variant"]["tf32"]
    assert (cupy.env(), cupy.env("plain")) == ({"CUPY_TF32": "0"}, {"CUPY_TF32": "0"})
    assert cupy.env("tf32") == {"CUPY_TF32": "1"}
    assert cupy.tolerances("float32", "tf32") == own["tolerance"]["float32"]
    assert cupy.tolerances("float32", "plain") == cupy.table["tolerance"]["float32"]
    assert cupy.tolerances("float64", "tf32") == cupy.table["tolerance"]["float64"]


@pytest.mark.host
def test_requirements_are_an_extra_or_what_takes_its_place(tmp_path):
    path = tmp_path / "one.toml"
    path.write_text('extra = "one"\nrequirements = ["one==1.0"]\n', encoding="utf-8")
    assert libraries.read(path).requirements() == ([], ["one==1.0"])
    assert libraries.known()["cupy"].requirements() == (["cupy"], [])
    assert libraries.known()["cupy"].requirements("cupy12") == (["cupy12"], [])


# --- the module by itself ---------------------------------------------------------------

BY_PATH = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("libraries", sys.argv[1])
libraries = importlib.util.module_from_spec(spec)
spec.loader.exec_module(libraries)
print(json.dumps([list(libraries.known()), libraries.required(), "seqcore" in sys.modules]))
"""


@pytest.mark.host
def test_it_is_loaded_by_its_path_where_nothing_is_installed(tmp_path):
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", BY_PATH, SOURCE],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    names, required, imported = json.loads(done.stdout)
    assert names == list(libraries.known())
    assert required == libraries.required()
    assert not imported


@pytest.mark.host
def test_it_imports_the_standard_library_only():
    found = set()
    for node in ast.walk(ast.parse(SOURCE.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    assert {name.partition(".")[0] for name in found} <= set(sys.stdlib_module_names)


# --- how to install ---------------------------------------------------------------------


@pytest.mark.host
def test_the_name_of_the_distribution_is_that_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert libraries.requirement() == libraries.DISTRIBUTION == project["name"]
    assert libraries.requirement("torch") == f"{project['name']}[torch]"


@pytest.fixture
def not_installed(monkeypatch):
    def distribution(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(libraries, "distribution", distribution)


@pytest.mark.host
def test_pyproject_has_the_name_of_the_distribution():
    assert PROJECT["name"] == libraries.DISTRIBUTION
    for extra, needs in PROJECT["optional-dependencies"].items():
        own = [need for need in needs if need.startswith("seqcore")]
        assert all(need.startswith(f"{libraries.DISTRIBUTION}[") for need in own), extra


@pytest.mark.host
def test_an_installed_distribution_is_named(monkeypatch):
    asked = []
    monkeypatch.setattr(libraries, "distribution", asked.append)
    assert libraries.install_hint("torch") == "pip install 'seqcore-rnn[torch]'"
    assert asked == ["seqcore-rnn"]


@pytest.mark.host
@pytest.mark.usefixtures("not_installed")
def test_a_checkout_that_is_not_installed_is_named_by_its_path(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    assert libraries.install_hint("torch") == "pip install '.[torch]'"
    monkeypatch.chdir(tmp_path)
    assert shlex.split(libraries.install_hint("torch")) == ["pip", "install", f"{ROOT}[torch]"]


@pytest.mark.host
@pytest.mark.usefixtures("not_installed")
def test_a_copy_without_a_checkout_names_the_distribution(monkeypatch, tmp_path):
    monkeypatch.setattr(libraries, "__file__", str(tmp_path / "seqcore" / "libraries.py"))
    assert libraries.install_hint("jax") == "pip install 'seqcore-rnn[jax]'"


@pytest.mark.host
@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_no_page_installs_the_other_seqcore(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for command in re.findall(r"pip install [^`\n&]*", text):
        assert not re.search(r"\bseqcore(?!-rnn)", command)
    assert "seqcore[" not in text


@pytest.mark.host
def test_no_source_names_an_extra_of_the_other_seqcore():
    folders = ("seqcore", "tests", "tools", "benchmarks")
    sources = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    sources = {*sources, ROOT / "noxfile.py"} - {Path(__file__)}
    assert len(sources) > 100
    assert [p.name for p in sources if "seqcore[" in p.read_text(encoding="utf-8")] == []
