"""Quick runs: every test, on slow libraries in a few of its cases; nothing is left out unsaid."""

from __future__ import annotations

import pytest
import selection
from loading import Library

pytestmark = pytest.mark.host

CONTRACT = {"namespace": "slow", "devices": ["cpu"], "dtypes": ["float32", "float64"]}
SUITE = {"dtypes": ["float32"], "why": "it is slow"}


def library(name="slow", variant="plain", **contract):
    return Library(name, CONTRACT | contract, None, {}, variant)


class Item:
    """A test with its marks, as far as the selection asks."""

    def __init__(self, nodeid, *marks):
        self.nodeid, self.marks = nodeid, marks

    def get_closest_marker(self, name):
        return name if name in self.marks else None


ITEMS = [
    *(Item(f"test_a.py::test_many[{i}]") for i in range(40)),
    *(Item(f"test_a.py::test_other[{i}]") for i in range(40)),
    *(Item(f"test_a.py::test_stage[{i}]", "every_place") for i in range(9)),
    Item("test_a.py::test_one"),
    Item("test_a.py::test_training", "long"),
    Item("test_a.py::test_words", "host"),
]


def ids(items):
    return [item.nodeid for item in items]


def test_a_full_run_leaves_out_only_what_is_not_meant_for_the_library():
    assert ids(selection.select(ITEMS, library(), full=True)) == ids(ITEMS[:-1])
    assert ids(selection.select(ITEMS, library("numpy"), full=True)) == ids(ITEMS)


def test_a_quick_run_on_a_slow_library_has_every_test_in_the_same_few_cases():
    most, slow = selection.QUICK_SLOW.cases, library(suite=SUITE)
    seen = ids(selection.select(ITEMS, slow, full=False))
    assert seen == ids(selection.select(ITEMS, slow, full=False))
    cases = {name: [one for one in seen if name in one] for name in ("many", "other", "stage")}
    assert [len(of) for of in cases.values()] == [most, most, 9]
    assert "test_a.py::test_one" in seen
    assert "test_a.py::test_training" not in seen
    # Drawn for each test by itself, so that all tests together see all kinds.
    assert [one[-4:] for one in cases["many"]] != [one[-4:] for one in cases["other"]]


def test_a_quick_run_on_any_other_has_every_test_in_all_cases():
    assert ids(selection.select(ITEMS, library("numpy"), full=False)) == ids(ITEMS)
    assert ids(selection.select(ITEMS, library("fast"), full=False)) == ids(ITEMS[:-1])


def test_the_header_says_what_is_left_out():
    slow = library(suite=SUITE)
    assert selection.header(slow, full=True) == [
        "library: slow (plain) on cpu-float32, cpu-float64",
        "but for the stages in float32 only, without tests marked nothing: it is slow",
    ]
    last = selection.header(slow, full=False)[-1]
    most = f"cases of each test: {selection.QUICK_SLOW.cases} at most"
    for part in (most, "stages: in float32 only", "marked long: none", "--full"):
        assert part in last
