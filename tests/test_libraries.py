"""The name of the distribution, and the commands that are printed for its extras."""

from __future__ import annotations

import re
import shlex
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from seqcore import libraries

pytestmark = pytest.mark.host

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture
def not_installed(monkeypatch):
    def distribution(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(libraries, "distribution", distribution)


def test_pyproject_has_the_name_of_the_distribution():
    assert PROJECT["name"] == libraries.DISTRIBUTION
    for extra, needs in PROJECT["optional-dependencies"].items():
        own = [need for need in needs if need.startswith("seqcore")]
        assert all(need.startswith(f"{libraries.DISTRIBUTION}[") for need in own), extra


def test_an_installed_distribution_is_named(monkeypatch):
    asked = []
    monkeypatch.setattr(libraries, "distribution", asked.append)
    assert libraries.install_hint("torch") == "pip install 'seqcore-rnn[torch]'"
    assert asked == ["seqcore-rnn"]


@pytest.mark.usefixtures("not_installed")
def test_a_checkout_that_is_not_installed_is_named_by_its_path(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    assert libraries.install_hint("torch") == "pip install '.[torch]'"
    monkeypatch.chdir(tmp_path)
    assert shlex.split(libraries.install_hint("torch")) == ["pip", "install", f"{ROOT}[torch]"]


@pytest.mark.usefixtures("not_installed")
def test_a_copy_without_a_checkout_names_the_distribution(monkeypatch, tmp_path):
    monkeypatch.setattr(libraries, "__file__", str(tmp_path / "seqcore" / "libraries.py"))
    assert libraries.install_hint("jax") == "pip install 'seqcore-rnn[jax]'"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_no_page_installs_the_other_seqcore(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for command in re.findall(r"pip install [^`\n&]*", text):
        assert not re.search(r"\bseqcore(?!-rnn)", command)
    assert "seqcore[" not in text


def test_no_message_names_an_extra_of_the_other_seqcore():
    sources = (ROOT / "seqcore").rglob("*.py")
    assert [p.name for p in sources if "seqcore[" in p.read_text(encoding="utf-8")] == []
