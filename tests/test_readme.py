"""The README's examples run as they stand."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def run(example, names):
    exec(compile(example, "README.md", "exec"), names)  # noqa: S102 (it is our own)
    return names["loss"]


@pytest.mark.host
def test_the_first_example_learns_a_running_sum(capsys):
    loss = run(EXAMPLES[0], {})
    assert 0 < loss < 2.0  # it begins with about 10
    assert float(capsys.readouterr().out) == loss


@pytest.mark.long
def test_the_second_example_trains_the_same_on_another_library(xp, monkeypatch):
    names = {}
    on_numpy = run(EXAMPLES[0].replace("float32", "float64"), names)
    del names["loss"]  # it has to train anew
    # The library under test stands in for CuPy, or is it.
    monkeypatch.setitem(sys.modules, "cupy", xp)
    # In float64: in float32 the roundings grow over 200 steps to a tenth of the loss.
    assert run(EXAMPLES[1], names) == pytest.approx(on_numpy, rel=1e-6)
    assert type(names["params"]["dense.b"]) is type(xp.asarray(0.0))
    assert len(EXAMPLES) == 2
