"""Each test of the command line works in a folder of its own."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from command_line import TINY, Outcome, write_text

from seqcore import cli


@pytest.fixture(autouse=True)
def place_to_work(tmp_path, monkeypatch, request):
    """Each test in a folder of its own with a text in it, and without slow pictures."""
    monkeypatch.chdir(tmp_path)
    write_text(".")
    if "picture" not in request.node.name:
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)


@pytest.fixture
def seqcore_(capsys):
    """Call the command line as its script does."""

    def call(*arguments):
        capsys.readouterr()
        try:
            status = cli.main([str(argument) for argument in arguments])
        except SystemExit as end:  # argparse
            status = end.code
        return Outcome(status, *capsys.readouterr())

    return call


@pytest.fixture
def train(seqcore_):
    def call(*arguments, steps=6):
        return seqcore_("train", "in.txt", *TINY, "--steps", steps, *arguments)

    return call


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run folder to copy, not to change: 6 steps on in.txt beside it."""
    home = tmp_path_factory.mktemp("home")
    write_text(home)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setitem(sys.modules, "matplotlib.figure", None)
        assert cli.main(["train", "in.txt", *TINY, "--steps", "6", "--out", "run"]) == 0
    return home / "run"


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))
