"""One gradient against central differences: some entries one by one, all others together.

Half of the entries that are looked at are the largest of the gradient, so that a gradient of
few entries, as that of an Embedding, is seen; the others are drawn. Whatever is left is divided
into up to 4 groups at random. Along each, (2) of `differences.py` is taken in a direction whose
entries are all between 1/2 and 3/2, of random sign: an error of one entry changes it by at
least half of that error, and halving the group finds the entry.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from seqcore import arrays
from seqcore.arrays import Array
from seqcore.gradients.differences import (
    STEP,
    Functional,
    Verdict,
    direction,
    entry,
    index,
    weights,
)

if TYPE_CHECKING:
    import numpy as np

GROUPS = 4


class Wrong(NamedTuple):
    """An entry that is wrong; `at` is None if only a whole direction is."""

    at: tuple[int, ...] | None
    got: float
    expected: float

    @property
    def distance(self) -> float:
        """How far it is off; infinite if it is NaN."""
        off = abs(self.got - self.expected)
        return off if math.isfinite(off) else math.inf


@dataclass(frozen=True)
class Compared:
    """What a comparison of one gradient found."""

    wrong: list[Wrong]  # the worst first
    examined: int  # entries
    skipped: int  # entries at a corner of the function
    hidden: int  # entries and groups that rounding hides
    scale: float  # the largest derivative
    error: float  # the largest difference
    noise: float  # what rounding may add to a difference

    @property
    def relative(self) -> float:
        """The largest difference, relative to the largest derivative."""
        return self.error / self.scale if self.scale else self.error

    @property
    def has_corners(self) -> bool:
        """Whether too many entries are at a corner."""
        return 4 * self.skipped > self.examined


@dataclass(frozen=True)
class _Comparison:
    functional: Functional
    name: str
    given: list[float]
    shape: tuple[int, ...]
    tolerance: float
    rng: np.random.Generator

    @property
    def array(self) -> Array:
        return self.functional.at[self.name]

    def slope(self, along: Array) -> float:
        return self.functional.slope(self.name, along, STEP * self.functional.unit(self.name))

    def read(self, along: Array, got: float, allowed: float) -> tuple[Verdict, float]:
        return self.functional.read(self.name, along, got, allowed, self.tolerance)

    def chosen(self, entries: int | None) -> list[int]:
        n = len(self.given)
        if entries is None or entries >= n:
            return list(range(n))
        sizes = [abs(v) if math.isfinite(v) else math.inf for v in self.given]
        by_size = sorted(range(n), key=sizes.__getitem__, reverse=True)
        first = by_size[: (entries + 1) // 2]
        taken = set(first)
        drawn = [k for k in self.rng.permutation(n).tolist() if k not in taken]
        return sorted(first + drawn[: entries - len(first)])

    def entries(self, chosen: list[int]) -> tuple[dict[int, Verdict], dict[int, float]]:
        """Return a verdict and a difference for each of some entries."""
        numeric = {k: self.slope(entry(self.array, k)) for k in chosen}
        # At a jump a difference may be huge, and a wrong gradient too, but hardly both.
        claims = [self.given[k] for k in chosen]
        sizes = [
            max(map(abs, filter(math.isfinite, v)), default=0.0) for v in (numeric.values(), claims)
        ]
        allowed = self.tolerance * min(sizes)
        verdicts = dict.fromkeys(chosen, Verdict.RIGHT)
        for _ in range(2):  # the second time by what remains without corners
            for k in chosen:
                off = abs(self.given[k] - numeric[k])
                if verdicts[k] is Verdict.RIGHT and not off <= allowed:
                    got = self.given[k]
                    verdicts[k], numeric[k] = self.read(entry(self.array, k), got, allowed)
            scale = self.scale(verdicts, numeric)
            allowed = self.tolerance * scale
        for k, verdict in verdicts.items():
            unsure = verdict in (Verdict.WRONG, Verdict.HIDDEN)
            if unsure and abs(self.given[k] - numeric[k]) <= allowed:
                verdicts[k] = Verdict.RIGHT
        return verdicts, numeric

    @staticmethod
    def scale(verdicts: dict[int, Verdict], numeric: dict[int, float]) -> float:
        seen = [k for k, v in verdicts.items() if v in (Verdict.RIGHT, Verdict.WRONG)]
        return max((abs(numeric[k]) for k in seen), default=0.0)

    def group(self, among: list[int], scale: float) -> tuple[Verdict, Wrong | None]:
        """Look at entries together; return a verdict, and what is wrong."""
        v = weights(self.rng, len(among))
        along, got = self.along(among, v)
        slope = self.slope(along)
        # An error that all entries share, within the tolerance, adds up.
        sizes = [abs(s) for s in (got, slope) if math.isfinite(s)]
        allowed = self.tolerance * max(scale, min(sizes, default=0.0))
        if abs(got - slope) <= allowed:
            return Verdict.RIGHT, None
        verdict, slope = self.read(along, got, allowed)
        certain = abs(got - slope) > self.tolerance * scale * 2 * math.sqrt(len(among))
        if verdict is not Verdict.WRONG:
            hidden = verdict is Verdict.HIDDEN and certain
            return (Verdict.HIDDEN if hidden else Verdict.RIGHT), None
        k = self.worst(among, v)
        one = entry(self.array, k)
        single, expected = self.read(one, self.given[k], self.tolerance * scale)
        if single is Verdict.WRONG:
            return Verdict.WRONG, Wrong(index(k, self.shape), self.given[k], expected)
        return (Verdict.WRONG, Wrong(None, got, slope)) if certain else (Verdict.RIGHT, None)

    def along(self, among: list[int], v: list[float]) -> tuple[Array, float]:
        """Return the direction v of some entries, and the derivative that is claimed."""
        values = [0.0] * len(self.given)
        for k, part in zip(among, v, strict=True):
            values[k] = part
        got = math.fsum(self.given[k] * part for k, part in zip(among, v, strict=True))
        return direction(self.array, values), got

    def worst(self, among: list[int], v: list[float]) -> int:
        """Return one entry: again and again, of the half that is further off."""
        while len(among) > 1:
            middle = len(among) // 2
            halves = [(among[:middle], v[:middle]), (among[middle:], v[middle:])]
            offs = []
            for half in halves:
                along, got = self.along(*half)
                offs.append(Wrong(None, got, self.slope(along)).distance)
            among, v = halves[0] if offs[0] > offs[1] else halves[1]
        return among[0]


def compare(
    functional: Functional,
    name: str,
    grad: Array,
    *,
    tolerance: float,
    entries: int | None,
    rng: np.random.Generator,
) -> Compared:
    """Compare dL/d(one array) with central differences.

    Parameters
    ----------
    functional
        L and the values.
    name
        Of the array.
    grad
        What is claimed to be dL/d of it, of its shape.
    tolerance
        Relative to the largest derivative.
    entries
        How many entries are looked at one by one; None for all.
    rng
        Draws them.
    """
    given: list[float] = arrays.to_host(grad).reshape(-1).tolist()
    one = _Comparison(functional, name, given, tuple(grad.shape), tolerance, rng)
    chosen = one.chosen(entries)
    verdicts, numeric = one.entries(chosen)
    wrong = [
        Wrong(index(k, one.shape), given[k], numeric[k])
        for k, verdict in verdicts.items()
        if verdict is Verdict.WRONG
    ]
    right = [k for k, verdict in verdicts.items() if verdict is Verdict.RIGHT]
    skipped = sum(verdict is Verdict.CORNER for verdict in verdicts.values())
    hidden = sum(verdict is Verdict.HIDDEN for verdict in verdicts.values())
    scale = one.scale(verdicts, numeric)
    if not wrong:
        left = rng.permutation(len(given)).tolist()
        left = [k for k in left if k not in verdicts]
        groups = min(GROUPS, len(chosen))
        for group in filter(None, (left[first::groups] for first in range(groups))):
            verdict, found = one.group(group, scale)
            hidden += verdict is Verdict.HIDDEN
            wrong += [] if found is None else [found]
    error = max((abs(given[k] - numeric[k]) for k in right), default=0.0)
    if not wrong and (hidden or (scale == 0 and right)):
        # Is there nothing to see, or can it not be seen?
        hidden = max(hidden, 1)
        claims = any(given)
        if functional.flat(name, rng) and not (claims and functional.is_offset):
            far = [k for k in range(len(given)) if not abs(given[k]) <= functional.least(name)]
            wrong = [Wrong(index(k, one.shape), given[k], 0.0) for k in far]
            hidden, skipped, scale, error = 0, 0, 0.0, 0.0
    wrong.sort(key=lambda one: one.distance, reverse=True)
    if wrong:
        error = wrong[0].distance
    noise = functional.noise(STEP * functional.unit(name))
    return Compared(wrong, len(chosen), skipped, hidden, scale, error, noise)
