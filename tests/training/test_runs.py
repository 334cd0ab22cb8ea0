"""A run folder of any model: made, kept, read back, and held by one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import seqcore
from seqcore.training import Progress, runs
from seqcore.training.runs import RunError, new_folder

pytestmark = pytest.mark.host


class Row(NamedTuple):
    step: int
    score: float


ROWS = [Row(3, 0.5), Row(7, 0.25)]
PROGRESS = Progress(7, {"w": np.arange(3.0)}, {"mu": {"w": np.ones(3)}}, None)


# --- there and back ---------------------------------------------------------------------


def test_what_is_saved_is_read_back(tmp_path):
    runs.save(tmp_path, PROGRESS, {"size": 3}, ROWS, Row)
    config, progress = runs.load(tmp_path)
    assert config == {"size": 3}
    assert (progress.step, progress.state) == (7, None)
    np.testing.assert_array_equal(progress.params["w"], PROGRESS.params["w"])
    np.testing.assert_array_equal(progress.opt_state["mu"]["w"], np.ones(3))
    assert runs.read_metrics(tmp_path, Row, 7) == ROWS
    assert runs.read_metrics(tmp_path, Row, 6) == ROWS[:1]
    assert {type(value) for value in runs.read_metrics(tmp_path, Row, 7)[0]} == {int, float}
    assert (tmp_path / "metrics.csv").read_text().split() == ["step,score", "3,0.5", "7,0.25"]


def test_arrays_are_placed_beside_like(tmp_path):
    runs.save(tmp_path, PROGRESS, {}, [], Row)
    _, progress = runs.load(tmp_path, np.zeros(0, dtype=np.float32))
    assert progress.params["w"].dtype == np.float32


@pytest.mark.parametrize("columns", ["step,score,more\n3,1,1\n", "step\n3\n", "step,score\n3,x\n"])
def test_the_metrics_of_another_kind_of_run_are_refused(tmp_path, columns):
    (tmp_path / "metrics.csv").write_text(columns)
    with pytest.raises(RunError, match=r"metrics.csv: damaged, expected numbers under step, score"):
        runs.read_metrics(tmp_path, Row, 9)


# --- one process at a time --------------------------------------------------------------

HOLD = """
import sys
from pathlib import Path
from seqcore.training.runs import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(os.name != "posix", reason="file locks are POSIX")
def test_a_folder_is_held_by_one_process_until_it_ends(tmp_path):
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path],
        env=os.environ | {"PYTHONPATH": str(Path(seqcore.__file__).parent.parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(RunError, match=r": another process is training this run$") as error:
            runs.hold(tmp_path).__enter__()
        assert str(error.value).startswith(f"{tmp_path}: ")
    finally:
        other.kill()
        other.communicate()
    for _ in range(2):  # held again, and after that free again
        with runs.hold(tmp_path):
            assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="file locks are POSIX")
def test_where_files_cant_be_locked_nothing_is_held(tmp_path, monkeypatch):
    import fcntl

    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with runs.hold(tmp_path), runs.hold(tmp_path):
        runs.save(tmp_path, PROGRESS, {}, [], Row)


# --- a new folder -----------------------------------------------------------------------


def test_new_runs_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [new_folder(None) for _ in range(3)] == [Path(f"runs/{k}") for k in (1, 2, 3)]
    Path("runs/2").rmdir()
    Path("runs/4").write_text("a file is in the way")
    assert [new_folder(None) for _ in range(2)] == [Path("runs/2"), Path("runs/5")]
    assert Path("runs/5").is_dir()


@pytest.mark.parametrize("make_way", [lambda p: p.write_text(""), lambda p: p.symlink_to("gone")])
def test_what_is_in_the_way_of_runs_is_an_error_and_no_endless_loop(
    tmp_path, monkeypatch, make_way
):
    monkeypatch.chdir(tmp_path)
    make_way(Path("runs"))
    with pytest.raises(OSError, match="runs"):
        new_folder(None)


def test_out_may_be_new_or_empty_and_nothing_else(tmp_path):
    deep = tmp_path / "a" / "b"
    assert new_folder(str(deep)) == deep
    assert new_folder(str(deep)) == deep
    (deep / "mine").write_text("precious")
    for taken in (deep, deep / "mine"):
        with pytest.raises(RunError, match=r"exists already; .*--out, or --resume"):
            new_folder(str(taken))
    assert (deep / "mine").read_text() == "precious"
    with pytest.raises(OSError, match="mine"):
        new_folder(str(deep / "mine" / "below"))
