"""What every optimizer does, and the checks that all of them share.

An optimizer is a frozen dataclass of numbers. Its state is a named tuple of a count and of
dicts with the names of the parameters. `update` changes none of the arrays that it is given. A
parameter without a gradient stays as it is.

What `update` returns has no history: PyTorch's autograd does not follow it back through the
update. A parameter that required a gradient is a leaf that requires one again.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple, Protocol, TypeAlias

from seqcore import arrays, checks
from seqcore.arrays import Array, Namespace, Params

# Takes the number of updates done, a 0-d array, and returns the rate for the next one.
Schedule: TypeAlias = Callable[[Array], Array]


class Optimizer(Protocol):
    """The contract of an optimizer."""

    def init(self, params: Params) -> Any:
        """Return the state before the first update."""

    def update(self, params: Params, grads: Params, state: Any) -> tuple[Params, Any]:
        """Return the parameters and the state after one update."""


def zero_count(place: str, params: Params) -> Array:
    """Return the count of a new state, 0, on the device of the parameters."""
    checks.floats(place, params)
    return arrays.integers_like(0, next(iter(params.values())))


def zeros(params: Params) -> Params:
    """Return zeros with the names, shapes and dtypes of the parameters."""
    return {name: arrays.namespace(p).zeros_like(p) for name, p in params.items()}


def check(
    place: str,
    params: Params,
    grads: Params,
    state: Any,
    kind: type[Any],
    moments: tuple[str, ...],
    counts: tuple[str, ...] = (),
) -> Namespace:
    """Require all that an update takes to fit the parameters.

    Gradients and `moments` have the shape, dtype and library of their parameters; `state.count`
    and the entries of `counts` are 0-d integers of the same library.
    """
    if not isinstance(state, kind):
        raise TypeError(
            f"{place}: state is a {type(state).__name__}, expected the {kind.__name__} of init"
        )
    floats = {f"parameter {name!r}": p for name, p in params.items()}
    integers = {"state.count": state.count}
    beside: dict[str, str] = {}  # the parameter of each label
    for name, g in grads.items():
        if name not in params:
            raise ValueError(
                f"{place}: gradient {name!r} belongs to no parameter, expected one of "
                f"{', '.join(params)}"
            )
        named = {f"gradient {name!r}": g}
        for field in (*moments, *counts):
            values = getattr(state, field)
            if name not in values:
                raise ValueError(f"{place}: state.{field} has no {name!r}, which init makes")
            kinds = integers if field in counts else named
            kinds[f"state.{field} {name!r}"] = values[name]
        floats |= named
        beside |= dict.fromkeys(named, name)
    xp = checks.floats(place, floats)
    first = next(iter(floats))
    checks.one_library(place, {first: floats[first]} | integers)
    for label, name in beside.items():
        if floats[label].shape != params[name].shape:
            checks.shape(place, label, floats[label], tuple(params[name].shape), {})
    dtype = None
    for label, value in integers.items():
        # Most have the dtype of the one before. In NumPy, float64 is equal to None.
        if dtype is None or value.dtype != dtype:
            checks.integral(place, label, value)
            if xp.iinfo(value.dtype).bits < 32:  # it would soon begin anew, below 0
                raise TypeError(f"{place}: {label} has dtype {value.dtype}, expected that of init")
            dtype = value.dtype
        if value.shape != ():
            checks.shape(place, label, value, (), {})
    return xp


def next_count(xp: Namespace, count: Array) -> Array:
    """Return a count after one more update; one of 32 bits stops at its largest number."""
    if count.dtype == xp.int64:
        return count + 1
    return xp.where(count < xp.iinfo(count.dtype).max, count + 1, count)


# --- numbers ------------------------------------------------------------------------------


class Limits(NamedTuple):
    """What the floats of the parameters can hold."""

    dtype: Any
    smallest: float  # that no library counts as 0
    largest: float


def limits(xp: Namespace, params: Params) -> Limits:
    """Return the limits of the dtype that all parameters have."""
    dtype = next(iter(params.values())).dtype
    info = xp.finfo(dtype)
    return Limits(dtype, float(info.smallest_normal), float(info.max))


def next_rate(xp: Namespace, rate: float | Schedule, count: Array, params: Params) -> Any:
    """Return the rate of the next update, in the dtype of the parameters if it is an array.

    The value of an array is not read, because it may be on a GPU: unless it is finite and at least
    0, it counts as NaN.
    """
    if not callable(rate):
        return rate
    what, value = "what the schedule returns", rate(count)
    name, p = next(iter(params.items()))
    # A scalar of NumPy is a number for other libraries.
    is_number = isinstance(value, Real) and arrays.library(p) != "numpy"
    if is_number or not arrays.is_array(value):
        return not_negative("learning_rate", what, value)
    checks.one_library("learning_rate", {f"parameter {name!r}": p, what: value})
    if not arrays.is_integer(value):
        checks.floating("learning_rate", {what: value})
    checks.shape("learning_rate", what, value, (), {})
    value = xp.astype(value, p.dtype)
    return value + arrays.nan_unless((value >= 0) & xp.isfinite(value), p.dtype)


def learning_rate(place: str, rate: float | Schedule) -> float | Schedule:
    """Require a schedule or a number above 0, and return the number as a float."""
    if callable(rate):
        return rate
    return checks.above_zero(place, "learning_rate", rate)


def fraction(place: str, name: str, given: float) -> float:
    """Require a number of at least 0 and less than 1."""
    value = checks.number(place, name, given)
    if not 0 <= value < 1:
        raise ValueError(f"{place}: {name} is {value}, expected 0 <= {name} < 1")
    return value


def not_negative(place: str, name: str, given: float) -> float:
    """Require a number of at least 0."""
    value = checks.number(place, name, given)
    if not value >= 0:
        raise ValueError(f"{place}: {name} is {value}, expected at least 0")
    return value
