"""Checks of the results of sides against a reference."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from harness.processes import Worker
from harness.side import Arrays


class WrongSideError(Exception):
    """The result of a side differs from the reference."""


def check(
    running: Mapping[str, Worker], expected: Arrays, *, tolerance: float
) -> dict[str, float | None]:
    """Compare the results of every side with a reference.

    Parameters
    ----------
    running
        The workers, by the name of their side.
    expected
        The reference, by name.
    tolerance
        The largest difference allowed, relative to the largest value of its array.

    Returns
    -------
    dict of str to float or None
        The largest relative difference of each side, None for a side without results.

    Raises
    ------
    WrongSideError
        If a difference is larger, or if names or shapes differ from the reference.
    """
    return {
        name: largest_error(name, worker.results(), expected, tolerance)
        for name, worker in running.items()
    }


def largest_error(side: str, results: Arrays, expected: Arrays, tolerance: float) -> float | None:
    """Return the largest relative difference of the results of one side, None without results."""
    if not results:
        return None
    if results.keys() != expected.keys():
        raise WrongSideError(f"{side}: returned {sorted(results)}, expected {sorted(expected)}")
    worst = 0.0
    for name, wanted in expected.items():
        found = results[name]
        if found.shape != wanted.shape:
            raise WrongSideError(f"{side}: {name} has shape {found.shape}, expected {wanted.shape}")
        error = float(np.abs(found - wanted).max() / np.abs(wanted).max())
        if not error <= tolerance:  # NaN is wrong too
            raise WrongSideError(f"{side}: {name} is off by {error:.1e}, allowed {tolerance:.0e}")
        worst = max(worst, error)
    return worst
