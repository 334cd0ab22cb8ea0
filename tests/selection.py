"""Which tests run on a library, with how many examples of each law, and what is left out.

A plain run is quick: it runs every test, but on slow libraries not in all of its cases, and it
tries fewer examples of each law. `--full` leaves nothing out.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import hypothesis
import pytest
from loading import Library, Place, legal


class Extent(NamedTuple):
    """How much of the suite runs on a library."""

    examples: int  # of each law, for hypothesis
    cases: int | None = None  # of each test; None is all
    long: bool = True  # tests marked long, too


# NumPy tries the laws widely. Elsewhere the source is the same and other tests prove equal
# numbers, so fewer examples show that no law breaks on what only that library's arrays do;
# fewest where an example costs a hundred times as much, as JAX compiles for each new shape and
# Dask builds a graph.
QUICK = {"numpy": Extent(50), "torch": Extent(15), "strict": Extent(10, 8, long=False)}
QUICK_SLOW = Extent(1, 1, long=False)  # where backends/NAME.toml has a `suite`
QUICK_ELSEWHERE = Extent(3)
FULL = {"numpy": Extent(200), "torch": Extent(50), "strict": Extent(20)}
FULL_ELSEWHERE = Extent(3)
THOROUGH = 25  # times as many examples as in a full run


def extent(library: Library, *, full: bool) -> Extent:
    """Return how much of the suite to run."""
    if full:
        return FULL.get(library.name, FULL_ELSEWHERE)
    if "suite" in library.contract:
        return QUICK_SLOW
    return QUICK.get(library.name, QUICK_ELSEWHERE)


def set_examples(library: Library, *, full: bool, thorough: bool) -> None:
    """Tell hypothesis how many examples of each law to try."""
    examples = extent(library, full=full or thorough).examples
    if library.variant not in ("plain", "eager"):
        examples = min(examples, FULL["strict"].examples)  # the default variant tried them all
    hypothesis.settings.register_profile(
        "seqcore",
        max_examples=THOROUGH * examples if thorough else examples,
        deadline=None,
        # The same examples on every machine, so that a red test stays red.
        derandomize=not thorough,
    )
    hypothesis.settings.load_profile("seqcore")


def header(library: Library, *, full: bool) -> list[str]:
    """Return the lines that say what is tested, and what is not."""
    places = ", ".join(f"{place.device}-{place.dtype}" for place in legal(library.contract))
    lines = [f"library: {library.name} ({library.variant}) on {places}"]
    suite = library.contract.get("suite")
    if suite:
        lines.append(
            f"but for the stages in {', '.join(suite['dtypes'])} only, without tests marked "
            f"{', '.join(suite.get('without', ['nothing']))}: {suite['why']}"
        )
    if not full:
        taken = extent(library, full=False)
        out = [f"examples of each law: {hypothesis.settings().max_examples}"]
        if taken.cases is not None:
            out.append(f"cases of each test: {taken.cases} at most")
        if suite:
            out.append(f"stages: in {', '.join(suite['dtypes'])} only")
        if not taken.long:
            out.append("tests marked long: none")
        lines.append(f"quick ({'; '.join(out)}); --full leaves nothing out")
    return lines


def places(metafunc: pytest.Metafunc, library: Library, *, full: bool) -> list[Place]:
    """Return the places where a test runs: a slow library's `suite` may name fewer dtypes."""
    contract = library.contract
    # Only the stages and the judge need all places of a slow library.
    every = full and next(metafunc.definition.iter_markers("every_place"), None)
    dtypes = contract["dtypes"] if every or "suite" not in contract else contract["suite"]["dtypes"]
    return [place for place in legal(contract) if place.dtype in dtypes]


def needs_wheel(path: Path) -> bool:
    """Tell whether a file tests the built wheel, which `nox -s wheel` builds and names.

    A run of all tests leaves it out; to name the file without a wheel is an error.
    """
    return path.name == "test_wheel.py"


def select(items: list[pytest.Item], library: Library, *, full: bool) -> list[pytest.Item]:
    """Return the tests that run on the library."""
    taken = extent(library, full=full)
    kept = [item for item in items if belongs(item, library, long=taken.long)]
    if taken.cases is None:
        return kept
    cases: dict[str, list[pytest.Item]] = {}
    for item in kept:
        # The stages are few, and each is a part of its own.
        name = (
            item.nodeid if item.get_closest_marker("every_place") else item.nodeid.partition("[")[0]
        )
        cases.setdefault(name, []).append(item)
    return [item for name, of in cases.items() for item in some(of, taken.cases, name)]


def some(items: list[pytest.Item], n: int, name: str) -> Iterable[pytest.Item]:
    """Draw n cases of a test, by its name: the same in each run, others for each test."""
    if len(items) <= n:
        return items
    drawn = set(random.Random(name).sample(range(len(items)), n))
    return (item for number, item in enumerate(items) if number in drawn)


def belongs(item: pytest.Item, library: Library, *, long: bool) -> bool:
    """Tell whether a test is meant for the library, by its marks and the variant."""
    if item.get_closest_marker("host") and library.name != "numpy":
        return False
    if item.get_closest_marker("long") and not long:
        return False
    suite = library.contract.get("suite", {})
    if any(item.get_closest_marker(mark) for mark in suite.get("without", [])):
        return False
    if library.variant == "jit" and item.path.name != "test_stages.py":
        return False
    if library.variant == "generic" and item.path.name == "test_kernels.py":
        return False  # the variant does without what these tests are about
    only = item.get_closest_marker("only")
    # By module, so that torch on another device is torch.
    return only is None or library.contract["namespace"].partition(".")[0] == only.args[0]


def mark_gaps(items: list[pytest.Item], library: Library) -> None:
    """Expect the failures that the library's file in backends/ lists as gaps."""
    for gap in library.contract.get("gap", []):
        for item in items:
            # A gap names one case of a test, with its [parameters], or all of them, without.
            if gap["test"] in (item.nodeid, item.nodeid.partition("[")[0]):
                item.add_marker(pytest.mark.xfail(reason=gap["reason"], strict=True))
