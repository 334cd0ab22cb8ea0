"""Gradients of a function of named arrays, against central differences.

    (1) L(at) = sum of all outputs of the function times their weights
    (2) D(h) = (L(at + h v) - L(at - h v)) / 2h               the derivative along v
    (3) S(h) = (L(at + h v) - 2 L(at) + L(at - h v)) / h      the jump of a slope at `at`

v is one entry of one array, or a random direction through all of its entries: that one sees
every entry at once, and halving it finds the entry that is wrong.

Only where (2) and the gradient disagree, the function may have a corner near `at`, as relu has.
A smooth function has |D(h) - D(h/2)| and |2 S(h/2) - S(h)| of the order of h^2. A slope that
jumps by d within h makes the larger of the two at least d/8. Then a smaller h is tried, and at
last the entry is skipped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from seqcore import arrays
from seqcore.arrays import Array, Params

if TYPE_CHECKING:
    import numpy as np

STEP = 2.0**-17  # about 1e-5: rounding, eps / h, and truncation, h^2, are both about 1e-10
SMALLER = 2.0**-21
EPS = 2.0**-52


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
        return self._sum([abs(out) for out in self._here], [abs(w) for w in self.weights])

    def _sum(self, outs: list[Array], weights: list[Array]) -> float:
        parts = []
        for out, weight in zip(outs, weights, strict=True):
            total = arrays.namespace(weight).sum(out * weight)
            parts.append(float(arrays.to_host(total)))
        return math.fsum(parts)

    def noise(self, h: float) -> float:
        """Return what rounding may add to D(h)."""
        return 64 * EPS * self.size / h

    def _moved(self, name: str, along: Array, by: float) -> list[Array]:
        return self.function({**self.at, name: self.at[name] + by * along})

    def slope(self, name: str, along: Array, h: float = STEP) -> float:
        """Return D(h)."""
        ends = zip(self._moved(name, along, h), self._moved(name, along, -h), strict=True)
        return self._sum([ahead - behind for ahead, behind in ends], self.weights) / (2 * h)

    def _jump(self, name: str, along: Array, h: float) -> float:
        ends = zip(
            self._moved(name, along, h), self._here, self._moved(name, along, -h), strict=True
        )
        return self._sum([(a - here) - (here - b) for a, here, b in ends], self.weights) / h

    def smooth_slope(self, name: str, along: Array, allowed: float) -> float | None:
        """Return the derivative if there is one, up to `allowed`; None at a corner or a jump."""
        for h in (STEP, SMALLER):
            whole, half = self.slope(name, along, h), self.slope(name, along, h / 2)
            jump = 2 * self._jump(name, along, h / 2) - self._jump(name, along, h)
            if max(abs(whole - half), abs(jump)) <= allowed / 8 + self.noise(h):
                return half
        return None


class Wrong(NamedTuple):
    """An entry that is wrong; `at` is None if only a whole direction is."""

    at: tuple[int, ...] | None
    got: float
    expected: float


@dataclass(frozen=True)
class Compared:
    """What a comparison of one gradient found."""

    wrong: list[Wrong]  # the worst first
    examined: int  # entries
    skipped: int  # entries at a corner of the function
    scale: float  # the largest derivative
    error: float  # the largest difference

    @property
    def relative(self) -> float:
        """The largest difference, relative to the largest derivative."""
        return self.error / self.scale if self.scale else self.error


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
        How many entries are looked at one by one, drawn by `rng`; None for all. The others are
        looked at together, along a random direction.
    rng
        Draws them.
    """
    given: list[float] = arrays.to_host(grad).reshape(-1).tolist()
    n, shape = len(given), tuple(grad.shape)
    chosen: list[int] = sorted(rng.permutation(n)[:entries].tolist())
    noise = functional.noise(STEP)

    def unit(k: int) -> Array:
        return _unit(functional.at[name], k)

    numeric = {k: functional.slope(name, unit(k)) for k in chosen}
    # At a jump a difference may be huge, and a wrong gradient too, but hardly both.
    largest = [
        max(map(abs, filter(math.isfinite, v)), default=0.0) for v in (numeric.values(), given)
    ]
    near = tolerance * min(largest) + noise
    skipped = set()
    for k in chosen:
        if not abs(given[k] - numeric[k]) <= near:  # NaN is not near
            slope = functional.smooth_slope(name, unit(k), near)
            if slope is None:
                skipped.add(k)
            else:
                numeric[k] = slope
    rest = [k for k in chosen if k not in skipped]
    scale = max([abs(numeric[k]) for k in rest], default=0.0)
    off = {k: abs(given[k] - numeric[k]) for k in rest}
    allowed = tolerance * scale + noise
    wrong = [
        Wrong(_unravelled(k, shape), given[k], numeric[k]) for k in rest if not off[k] <= allowed
    ]
    if n > len(chosen) and not wrong:
        wrong = _elsewhere(functional, name, given, shape, allowed, rng)
    wrong.sort(key=_distance, reverse=True)
    error = max([_distance(wrong[0])] if wrong else off.values(), default=0.0)
    return Compared(wrong, len(chosen), len(skipped), scale, error)


def _elsewhere(
    functional: Functional,
    name: str,
    given: list[float],
    shape: tuple[int, ...],
    allowed: float,
    rng: np.random.Generator,
) -> list[Wrong]:
    """Look at all entries together, along a random direction of length 1."""
    array, n = functional.at[name], len(given)
    drawn: list[float] = rng.standard_normal(n).tolist()
    length = math.sqrt(math.fsum([v * v for v in drawn]))
    v = [value / length for value in drawn]

    def within(first: int, stop: int) -> tuple[Array, float]:
        part = [value if first <= i < stop else 0.0 for i, value in enumerate(v)]
        return _along(array, part), math.fsum(g * p for g, p in zip(given, part, strict=True) if p)

    along, got = within(0, n)
    slope = functional.slope(name, along)
    if abs(got - slope) <= allowed:
        return []
    smooth = functional.smooth_slope(name, along, allowed)
    if smooth is None or abs(got - smooth) <= allowed:
        return []
    first, stop = 0, n
    while stop - first > 1:  # to the half that is further off
        middle = (first + stop) // 2
        halves = [(first, middle), (middle, stop)]
        offs = []
        for half in halves:
            part, claimed = within(*half)
            offs.append(_distance(Wrong(None, claimed, functional.slope(name, part))))
        first, stop = halves[0] if offs[0] > offs[1] else halves[1]
    single = functional.smooth_slope(name, _unit(array, first), allowed)
    if single is None or abs(given[first] - single) <= allowed:
        return [Wrong(None, got, smooth)]
    return [Wrong(_unravelled(first, shape), given[first], single)]


def _distance(wrong: Wrong) -> float:
    off = abs(wrong.got - wrong.expected)
    return off if math.isfinite(off) else math.inf


def _along(array: Array, values: list[float]) -> Array:
    """Return a direction: values in row-major order as an array like `array`."""
    return arrays.namespace(array).reshape(arrays.like(values, array), array.shape)


def _unit(array: Array, k: int) -> Array:
    """Return the direction of the k-th entry in row-major order."""
    xp = arrays.namespace(array)
    places = xp.arange(math.prod(array.shape), device=arrays.device(array))
    return xp.reshape(xp.astype(places == k, array.dtype), array.shape)


def _unravelled(k: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the index of the k-th entry in row-major order."""
    index = []
    for size in reversed(shape):
        k, at = divmod(k, size)
        index.append(at)
    return tuple(reversed(index))
