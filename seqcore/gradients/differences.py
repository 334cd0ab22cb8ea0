"""The derivative of a function of named arrays, by central differences, and what they can tell.

    (1) L(at) = sum of all outputs of the function times their weights
    (2) D(h) = (L(at + h v) - L(at - h v)) / 2h               the derivative along v
    (3) S(h) = (L(at + h v) - 2 L(at) + L(at - h v)) / h      the jump of a slope at `at`
    (4) noise(h) = 64 eps N^(1/2) max |output * weight| / h   rounding of N outputs in D(h)

Steps h are powers of two, and relative to the array: to its largest entry, u. Where rounding
hides a derivative at these, as that of an x of 1e-12, steps relative to 1 are tried too.

Where (2) and a claimed derivative agree at one of the steps, the claim is right: a wrong one
does not agree by chance. Where they do not, the function may have a corner near `at`, as relu
has. A smooth function has |D(h) - D(h/2)| and |2 S(h/2) - S(h)| of the order of h^2. A slope
that jumps by d within h makes the larger of the two at least d/8. So the claim is wrong if at
one of the steps the function is smooth and the two differ by more than (4); it is hidden if
they never do; and if the function is smooth at none of the steps, there is a corner.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from seqcore import arrays
from seqcore.arrays import Array, Params

STEP = 2.0**-17  # about 1e-5: rounding, eps / h, and truncation, h^2, are both about 1e-10
SMALLER = 2.0**-21  # beside corners
LARGER = 2.0**-11  # above rounding
FAR = 2.0**-9
EPS = 2.0**-52


class Verdict(enum.Enum):
    """What differences say about a claimed derivative."""

    RIGHT = "right"
    WRONG = "wrong"
    HIDDEN = "hidden by rounding"
    CORNER = "at a corner or a jump"


class Reading(NamedTuple):
    """A verdict, and the difference that it is taken from."""

    verdict: Verdict
    slope: float


@dataclass(frozen=True)
class Functional:
    """L of (1), at given values.

    Parameters
    ----------
    function
        From arrays by name to a list of outputs.
    weights
        One array for each output, of its shape.
    at
        The values, by name.
    """

    function: Callable[[Params], list[Array]]
    weights: list[Array]
    at: Params

    @cached_property
    def _here(self) -> list[Array]:
        return self.function(self.at)

    @cached_property
    def size(self) -> float:
        """The size of what L adds up, which is what gets rounded."""
        parts = [out * weight for out, weight in zip(self._here, self.weights, strict=True)]
        n = sum(math.prod(part.shape) for part in parts)
        return math.sqrt(n) * max(map(largest, parts), default=0.0)

    def unit(self, name: str) -> float:
        """Return the power of two next to the largest entry of an array; 1 if all are 0."""
        found = largest(self.at[name])
        return 2.0 ** math.frexp(found)[1] if found else 1.0

    def noise(self, h: float) -> float:
        """Return what rounding may add to D(h), (4)."""
        return 64 * EPS * self.size / h

    def _sum(self, outs: list[Array]) -> float:
        parts = []
        for out, weight in zip(outs, self.weights, strict=True):
            parts.append(float(arrays.to_host(arrays.namespace(weight).sum(out * weight))))
        return math.fsum(parts) if all(map(math.isfinite, parts)) else math.nan

    def _moved(self, name: str, along: Array, by: float) -> list[Array]:
        return self.function({**self.at, name: self.at[name] + by * along})

    def slope(self, name: str, along: Array, h: float) -> float:
        """Return D(h)."""
        ends = zip(self._moved(name, along, h), self._moved(name, along, -h), strict=True)
        return self._sum([ahead - behind for ahead, behind in ends]) / (2 * h)

    def _jump(self, name: str, along: Array, h: float) -> float:
        ends = zip(
            self._moved(name, along, h), self._here, self._moved(name, along, -h), strict=True
        )
        return self._sum([(a - here) - (here - b) for a, here, b in ends]) / h

    def read(self, name: str, along: Array, got: float, allowed: float, relative: float) -> Reading:
        """Judge a claimed derivative along a direction.

        Parameters
        ----------
        name, along
            The array and the direction.
        got
            The claim.
        allowed
            The largest difference that is right.
        relative
            What counts as smooth, relative to the slope itself: the tolerance.
        """
        own = self.unit(name)
        found = self._read(name, along, got, allowed, relative, [own * h for h in STEPS])
        if found.verdict in (Verdict.RIGHT, Verdict.WRONG) or own == 1.0:
            return found
        other = self._read(name, along, got, allowed, relative, STEPS[:2])
        # A corner as the array's own steps see it may look smooth to much larger ones.
        if found.verdict is Verdict.HIDDEN or other.verdict is Verdict.RIGHT:
            return other
        return found

    def _read(
        self,
        name: str,
        along: Array,
        got: float,
        allowed: float,
        relative: float,
        steps: Sequence[float],
    ) -> Reading:
        hidden = None
        for h in steps:
            whole, half = self.slope(name, along, h), self.slope(name, along, h / 2)
            for slope in (half, whole):
                if abs(got - slope) <= allowed:  # NaN is not
                    return Reading(Verdict.RIGHT, slope)
            jump = 2 * self._jump(name, along, h / 2) - self._jump(name, along, h)
            smooth = max(allowed, relative * abs(half)) / 8 + self.noise(h)
            if abs(whole - half) <= smooth and abs(jump) <= smooth:
                if not abs(got - half) <= allowed + 8 * self.noise(h):
                    return Reading(Verdict.WRONG, half)
                hidden = Reading(Verdict.HIDDEN, half)
        return hidden or Reading(Verdict.CORNER, half)

    def flat(self, name: str, rng: np.random.Generator) -> bool:
        """Tell whether the outputs do not depend on an array, rather than hide it by rounding.

        They do not if nothing at all changes where all entries move by 2^-9 of the largest. Nor
        do they beside a corner: where nothing changes any more by a 16th of the way, though
        rounding would not hide a 16th of the change. And where all entries move by as much as
        the largest, and only rounding is left of it: a layer may subtract its bias again.
        """
        unit = max(self.unit(name), 1.0)
        n = math.prod(self.at[name].shape)
        along = [direction(self.at[name], weights(rng, n)) for _ in range(2)]

        def change(by: float) -> float:
            with np.errstate(all="ignore"):
                moved = [self._moved(name, v, sign * by) for v in along for sign in (1, -1)]
                pairs = [pair for outs in moved for pair in zip(outs, self._here, strict=True)]
                return max((largest(out - here) for out, here in pairs), default=0.0)

        rounding = EPS * max(map(largest, self._here), default=0.0)
        before = math.inf
        for by in (FAR, FAR / 16, FAR / 256):
            now = change(by * unit)
            if now == 0 and before / 16 > 4 * rounding:
                return True
            before = now
        return change(unit) <= 32 * rounding

    @property
    def is_offset(self) -> bool:
        """Whether an output is far from 0 next to how much its entries differ."""
        for out in self._here:
            if math.prod(out.shape):
                xp = arrays.namespace(out)
                spread = float(arrays.to_host(xp.max(out) - xp.min(out)))
                if largest(out) > 1e3 * spread:
                    return True
        return False

    def least(self, name: str) -> float:
        """Return the largest derivative that rounding hides from `flat`."""
        return self.noise(FAR * max(self.unit(name), 1.0))


STEPS = (STEP, SMALLER, LARGER)


def largest(array: Array) -> float:
    """Return the size of the largest entry; NaN if one is NaN."""
    xp = arrays.namespace(array)
    return float(arrays.to_host(xp.max(xp.abs(array)))) if math.prod(array.shape) else 0.0


def weights(rng: np.random.Generator, n: int) -> list[float]:
    """Draw numbers of both signs, none of them small and no two alike."""
    found: list[float] = ((0.5 + rng.random(n)) * (1 - 2 * rng.integers(2, size=n))).tolist()
    return found


def direction(array: Array, values: list[float]) -> Array:
    """Return a direction: values in row-major order as an array like `array`."""
    return arrays.namespace(array).reshape(arrays.like(values, array), array.shape)


def entry(array: Array, k: int) -> Array:
    """Return the direction of the k-th entry in row-major order."""
    xp = arrays.namespace(array)
    places = xp.arange(math.prod(array.shape), device=arrays.device(array))
    return xp.reshape(xp.astype(places == k, array.dtype), array.shape)


def index(k: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the index of the k-th entry in row-major order."""
    found = []
    for size in reversed(shape):
        k, at = divmod(k, size)
        found.append(at)
    return tuple(reversed(found))
