"""Which tests run on a library, with how many examples of each law, and what is left out."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import pytest
from loading import Library, Place, legal

# Derandomized: the same examples on every machine, so that a red test stays red.
# How many examples of each law in a plain run. NumPy tries them widely. Elsewhere the source is
# the same and other tests prove equal numbers, so fewer show that no law breaks on what only
# that library's arrays do; fewest where an example costs a hundred times as much, as JAX
# compiles for each new shape and Dask builds a graph.
EXAMPLES = {"numpy": 50, "torch": 15, "strict": 10}
EXAMPLES_ELSEWHERE = 3
# In a full run, and once more with --thorough, which also draws new ones each time.
FULL_EXAMPLES = {"numpy": 200, "torch": 50, "strict": 20}
THOROUGH = 25  # times as many


def set_examples(library: Library, *, full: bool, thorough: bool) -> None:
    """Tell hypothesis how many examples of each law to try."""
    table = FULL_EXAMPLES if full or thorough else EXAMPLES
    examples = table.get(library.name, EXAMPLES_ELSEWHERE)
    if library.variant not in ("plain", "eager"):
        examples = min(examples, table["strict"])  # the default variant tried them all
    hypothesis.settings.register_profile(
        "seqcore",
        max_examples=THOROUGH * examples if thorough else examples,
        deadline=None,
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
        lines.append(
            "quick: without tests marked full, and with fewer examples of each law "
            f"({hypothesis.settings.default.max_examples}); --full runs all"
        )
    return lines


def places(metafunc: pytest.Metafunc, library: Library) -> list[Place]:
    """Return where a test runs: a slow library's suite may name fewer dtypes."""
    contract = library.contract
    # Only the stages and the judge need all places of a slow library.
    every = next(metafunc.definition.iter_markers("every_place"), None)
    dtypes = contract["dtypes"] if every or "suite" not in contract else contract["suite"]["dtypes"]
    return [place for place in legal(contract) if place.dtype in dtypes]


def needs_wheel(path: Path) -> bool:
    """Tell whether a file tests the built wheel, which `nox -s wheel` builds and names.

    A run of all tests leaves it out; whoever names the file without a wheel gets an error.
    """
    return path.name == "test_wheel.py"


def belongs(item: pytest.Item, library: Library, *, full: bool) -> bool:
    """Tell whether a test is run on the library, by its marks and the variant."""
    if item.get_closest_marker("host") and library.name != "numpy":
        return False
    if item.get_closest_marker("full") and not full:
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
    """Expect the failures that the contract admits."""
    for gap in library.contract.get("gap", []):
        for item in items:
            # A gap names a test with its [parameters], or all of them without.
            if gap["test"] in (item.nodeid, item.nodeid.partition("[")[0]):
                item.add_marker(pytest.mark.xfail(reason=gap["reason"], strict=True))
