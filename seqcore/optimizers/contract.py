"""What every optimizer does, and the checks that all of them share.

An optimizer is a frozen dataclass of numbers. Its state is a named tuple of a count and of
dicts with the names of the parameters. `update` changes none of the arrays that it is given. A
parameter without a gradient stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

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
) -> Namespace:
    """Require gradients and moments in the shape, dtype and library of their parameters."""
    if not isinstance(state, kind):
        raise TypeError(
            f"{place}: state is a {type(state).__name__}, expected the {kind.__name__} of init"
        )
    named = {f"parameter {name!r}": p for name, p in params.items()}
    beside: dict[str, tuple[Array, str]] = {}
    for name, g in grads.items():
        if name not in params:
            raise ValueError(
                f"{place}: gradient {name!r} belongs to no parameter, expected one of "
                f"{', '.join(params)}"
            )
        beside[f"gradient {name!r}"] = (g, name)
        for moment in moments:
            values = getattr(state, moment)
            if name not in values:
                raise ValueError(f"{place}: state.{moment} has no {name!r}, which init makes")
            beside[f"state.{moment} {name!r}"] = (values[name], name)
    xp = checks.floats(place, named | {label: value for label, (value, _) in beside.items()})
    for label, (value, name) in beside.items():
        checks.shape(place, label, value, tuple(params[name].shape), {})
    return xp


def next_rate(xp: Namespace, rate: float | Schedule, count: Array, params: Params) -> Any:
    """Return the rate of the next update, in the dtype of the parameters if it is an array."""
    if not callable(rate):
        return rate
    value = rate(count)
    if not arrays.is_array(value):
        return checks.number("learning_rate", "what the schedule returns", value)
    return xp.astype(value, next(iter(params.values())).dtype)


def learning_rate(place: str, rate: float | Schedule) -> float | Schedule:
    """Require a schedule or a number above 0, and return the number as a float."""
    if callable(rate):
        return rate
    checks.positive(place, learning_rate=rate)
    return float(rate)


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
