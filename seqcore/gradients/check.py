"""Check the gradients of a layer over several calls: `check_gradients`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from seqcore import checks, random
from seqcore.arrays import Array, Params
from seqcore.gradients import cases
from seqcore.gradients.call import Call
from seqcore.gradients.cases import PLACE, Case
from seqcore.gradients.compare import Compared
from seqcore.gradients.error import GradientError
from seqcore.gradients.verdict import judge
from seqcore.layers.contract import check_layer
from seqcore.layers.door import BuiltIn

if TYPE_CHECKING:
    import numpy as np

FEW = 1  # entries that are compared one by one in calls without a state; the others together


@dataclass(frozen=True)
class GradientCheck:
    """What `check_gradients` looked at, where all was right.

    Parameters
    ----------
    errors
        For each gradient, "x", "params['W']" or "state.h", the largest difference from central
        differences, relative to the largest derivative.
    scales
        For each gradient the largest derivative. Where it is 0, nothing was proved.
    entries
        How many entries were compared one by one, in all calls.
    skipped
        How many of them were left out, as forward has a corner there.
    cases
        Which calls were made, in words.
    """

    errors: Mapping[str, float]
    scales: Mapping[str, float]
    entries: int
    skipped: int
    cases: tuple[str, ...]

    @classmethod
    def of(cls, found: Mapping[Case, Mapping[str, Compared]]) -> GradientCheck:
        """Sum up what was found in each call."""
        flat = [(name, one) for compared in found.values() for name, one in compared.items()]
        names = dict.fromkeys(name for name, _ in flat)
        return cls(
            {name: max(one.relative for other, one in flat if other == name) for name in names},
            {name: max(one.scale for other, one in flat if other == name) for name in names},
            sum(one.examined for _, one in flat),
            sum(one.skipped for _, one in flat),
            tuple(map(str, found)),
        )


def check_gradients(
    layer: Any,
    n_in: int,
    *,
    m: int | None = None,
    steps: tuple[int, ...] | None = None,
    x: Array | None = None,
    params: Params | None = None,
    like: Array | None = None,
    rng: np.random.Generator | int = 0,
    lengths: bool | None = None,
    mask: bool | None = None,
    draw: int | None = None,
    entries: int | None = 32,
    tolerance: float = 1e-6,
) -> GradientCheck:
    """Check `backward` of any layer against central differences of its `forward`.

    For layers of your own, and for models of them. Forward and backward are called with numbers
    that are drawn: with each number of steps, with lengths, with a mask and with both, from a
    state and from none. In each call the gradients of x, of every parameter and of every array
    of the state are compared with central differences of a random sum over y and the state
    after, in float64. The gradients of y alone, with dstate=None, have to be in line with them.

    Parameters
    ----------
    layer
        Any layer: see `seqcore.layers.contract`.
    n_in
        Features of x; with an Embedding in front, tokens.
    m
        Batch size: that of `x`, or 3.
    steps
        The numbers of time steps; (1, 4) unless given, and with `x` 1 and all of it.
    x : (T, n_in, m), optional
        To be used instead of numbers that are drawn. If they are integers, as tokens, they have
        no gradient. A matrix `(n_in, m)` of floats has no time.
    params
        To be used instead of those that `init` draws, to which a tenth of a standard normal
        number is added.
    like
        An array of float64 of the library to use; NumPy if None.
    rng
        A NumPy generator, or its seed. The same seed draws the same numbers.
    lengths, mask
        Whether to call the layer with lengths, and with a mask; None for whether its forward has
        such an argument. True also requires what a container does for the layers in it: y and dx
        are 0 at the steps that do not count, and NaN there in x and dy changes nothing.
    draw
        For layers that drop, which masks; 0 if None.
    entries
        How many entries of each array are compared one by one, half of them the largest of its
        gradient; None for all. The others are compared together, in up to 4 groups, each along
        a random direction. In calls without a state it is 1 entry, and 1 group.
    tolerance
        The largest difference that is right, relative to the largest entry of each gradient;
        less than 1. No error of the result exceeds it.

    Returns
    -------
    GradientCheck
        The largest error of each gradient, and how many entries were compared.

    Raises
    ------
    GradientError
        If a gradient is wrong: an AssertionError that says which one, at which entry, in which
        call, and by how much. Also if forward or backward return something of a wrong form, if
        they write into their arguments, if forward gives another result the second time, if
        `predict` gives something else than `forward` (of layers that do not drop), if `wrt`
        changes a gradient, if backward depends on another call of forward than its own, if steps
        that do not count are not left out, or if windows, with the state carried on, do not give
        what the whole sequence gives. Also if a gradient cannot be compared: forward has corners
        at more than a quarter of the entries, or rounding hides what differences have to show,
        as it does where y is 1e8 and changes by 1. Other numbers help then.
    TypeError, ValueError
        For wrong arguments.

    Notes
    -----
    Where forward has a corner, as that of relu, there is no derivative. Such entries are skipped
    and counted: two differences of different step sizes do not agree there.

    One wrong entry among many that are compared together may be missed. Of 10,000, one that was
    off by 1e-5 of the largest was found in 10 of 10 trials, and by 5e-6 in 7; of 90,000, 1e-4 was
    found in 10, 3e-5 in 8 and 1e-5 in 4. `entries=None` compares all of them one by one.

    The cost is about `2 * entries` calls of forward for each array in each of the 8 calls from a
    state, and little for the 8 without. Small layers show all there is to see.

    Examples
    --------
    >>> import seqcore as sc
    >>> found = sc.check_gradients(sc.Sequential(sc.GRU(2), sc.Dense(2)), 2)
    >>> found.errors["params['gru.0.W_h']"] < 1e-7
    True
    """
    check_layer(PLACE, layer)
    checks.count(PLACE, n_in=n_in)
    if entries is not None:
        checks.count(PLACE, entries=entries)
    checks.positive(PLACE, tolerance=tolerance)
    if tolerance >= 1:
        raise ValueError(f"{PLACE}: tolerance is {tolerance}, expected less than 1")
    rng = random.generator(rng)
    like = cases.like_of(x, like)
    m = cases.batch_of(x, m)
    cases.check_draw(layer, draw)
    which = cases.cases(layer, x, steps, lengths, mask)
    strict = isinstance(layer, BuiltIn) or lengths is True or mask is True
    params = cases.parameters(layer, n_in, params, like, rng)
    found: dict[Case, Mapping[str, Compared]] = {}
    for case in which:
        given = cases.input_of(case, x, n_in, m, like, rng)
        options = cases.options_of(case, layer, given, draw, like, rng)
        try:
            call = Call.drawn(layer, params, given, options, like, rng, started=case.started)
            found[case] = judge(
                call,
                tolerance=tolerance,
                entries=entries if case.started else FEW,
                rng=rng,
                strict=strict,
            )
        except GradientError as error:
            raise _told(layer, case, found, error) from None
        except Exception as error:
            error.add_note(f"in check_gradients, the call with {case}")
            raise
    return GradientCheck.of(found)


def _told(layer: Any, case: Case, done: Collection[Case], error: GradientError) -> GradientError:
    """Return the error with the layer's name, the call, and the calls in which all was right."""
    name = getattr(layer, "name", type(layer).__name__)
    lines = [f"{name}: {error}", f"in the call with {case}"]
    if done:
        lines.append(f"all was right with {'; '.join(map(str, done))}")
    return GradientError(
        "\n".join(lines),
        gradient=error.gradient,
        index=error.index,
        got=error.got,
        expected=error.expected,
        wrong=error.wrong,
    )
