"""What is in the built wheel, and that it works without the checkout.

`nox -s wheel` builds and installs the wheel and passes its path as --wheel; without that
option this file is not collected.
"""

from __future__ import annotations

import email
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(pytestconfig):
    with zipfile.ZipFile(pytestconfig.getoption("--wheel")) as archive:
        yield archive


def metadata(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return email.message_from_bytes(wheel.read(name))


def run(command, folder):
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


def test_only_the_package_is_in_the_wheel(wheel):
    top = {name.partition("/")[0] for name in wheel.namelist()}
    info = f"seqcore_rnn-{metadata(wheel)['Version']}.dist-info"
    assert top == {"seqcore", info}
    assert not [name for name in wheel.namelist() if name.endswith((".pyc", ".so"))]


def test_every_module_of_the_checkout_is_in_the_wheel(wheel):
    modules = {path.relative_to(ROOT) for path in (ROOT / "seqcore").rglob("*.py")}
    assert len(modules) > 1
    names = {name for name in wheel.namelist() if name.endswith(".py")}
    assert names == {module.as_posix() for module in modules}
    for module in modules:
        assert wheel.read(module.as_posix()) == (ROOT / module).read_bytes()


def test_the_wheel_says_that_it_is_typed_and_carries_its_licence(wheel):
    assert "seqcore/py.typed" in wheel.namelist()
    assert [name for name in wheel.namelist() if name.endswith("licenses/LICENSE")]
    assert metadata(wheel)["License-Expression"] == "BSD-3-Clause"


def test_the_contracts_are_in_the_wheel_as_they_stand_in_backends(wheel):
    folder, inside = ROOT / "backends", "seqcore/_contracts/"
    contracts = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert "measured/numpy.json" in contracts
    packed = {
        name.removeprefix(inside): wheel.read(name)
        for name in wheel.namelist()
        if name.startswith(inside)
    }
    assert packed == contracts


def test_the_base_dependencies_are_the_five(wheel):
    needs = metadata(wheel).get_all("Requires-Dist")
    base = {re.match(r"[\w.-]+", need)[0] for need in needs if "extra ==" not in need}
    assert base == {"numpy", "array-api-compat", "safetensors", "tqdm", "threadpoolctl"}


def test_the_installed_wheel_is_imported_outside_the_checkout(tmp_path):
    # -I: neither the folder nor PYTHONPATH can lend what the wheel lacks.
    code = "import seqcore; print(seqcore.__file__)"
    result = run([sys.executable, "-I", "-W", "error", "-c", code], tmp_path)
    assert result.returncode == 0, result.stderr
    home = Path(sysconfig.get_path("purelib"))
    assert Path(result.stdout.strip()) == home / "seqcore" / "__init__.py"


def test_the_command_tells_the_version_of_the_wheel(wheel, tmp_path):
    command = shutil.which("seqcore", path=sysconfig.get_path("scripts"))
    assert command is not None
    result = run([command, "--version"], tmp_path)
    assert result.returncode == 0, result.stderr
    first, *clash = result.stdout.splitlines()
    assert first == f"{metadata(wheel)['Name']} {metadata(wheel)['Version']}"
    assert "same import name" in " ".join(clash)


def test_the_command_that_adds_an_extra_finds_the_installed_wheel(tmp_path):
    code = "from seqcore.libraries import install_hint; print(install_hint('plot'))"
    hint = run([sys.executable, "-I", "-c", code], tmp_path).stdout
    assert hint == "pip install 'seqcore-rnn[plot]'\n"
    # The tests have matplotlib, which is all that the extra adds: pip needs no index for it.
    command = [sys.executable, "-m", *shlex.split(hint), "--dry-run", "--no-index"]
    result = run(command, tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Would install" not in result.stdout
