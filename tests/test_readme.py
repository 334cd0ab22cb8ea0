"""README's examples run as they stand, and what its pages repeat is current."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def tool(name):
    """Import a script of tools/."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TRAIN, ON_A_GPU, *OTHERS = tool("page_examples").examples()


def run(example, names):
    exec(compile(example, "README.md", "exec"), names)  # noqa: S102 (it is our own)
    return names["loss"]


@pytest.mark.host
def test_the_first_example_learns_a_running_sum(capsys):
    loss = run(TRAIN, {})
    assert 0 < loss < 2.0  # about 10 before training
    assert float(capsys.readouterr().out) == loss


@pytest.mark.long
def test_the_second_example_trains_the_same_on_another_library(xp, monkeypatch):
    names = {}
    on_numpy = run(TRAIN.replace("float32", "float64"), names)
    del names["loss"]  # it has to train anew
    # The library under test stands in for CuPy, or is it.
    monkeypatch.setitem(sys.modules, "cupy", xp)
    # In float64: in float32 the roundings grow over 200 steps to a tenth of the loss.
    assert run(ON_A_GPU, names) == pytest.approx(on_numpy, rel=1e-6)
    assert type(names["params_gpu"]["dense.b"]) is type(xp.asarray(0.0))


@pytest.mark.host
def test_the_other_examples_run_after_the_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # one saves a file
    names = {}
    run(TRAIN.replace("range(200)", "range(2)"), names)
    predict, masks, classify, save = OTHERS
    run(predict, names)
    assert names["y"].shape == (20, 1, 1)
    run(masks, names)
    assert list(names["grads"]) == ["dense.W", "dense.b"]
    assert names["dx"] is None
    assert not names["y"][names["counts"][:, None, :] == 0].any()
    run(classify, names)
    assert (names["logits"].argmax(axis=0) == names["classes"]).all()
    trained = names["params"]
    run(save, names)
    assert (names["logits"].argmax(axis=0) == names["classes"]).all()
    assert names["params"] is not trained


@pytest.mark.host
def test_the_table_of_rooms_is_what_pyproject_declares():
    rooms = tool("rooms")
    page = rooms.PAGE.read_text(encoding="utf-8")
    # `python tools/rooms.py --write` renews it.
    assert rooms.renewed(page) == page


@pytest.mark.host
def test_every_room_is_there():
    for room in tool("rooms").rooms():
        place = ROOT / "seqcore" / room
        assert place.with_suffix(".py").is_file() or (place / "__init__.py").is_file(), room
