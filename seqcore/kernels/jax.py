"""JAX: the loop over time as one traced step, and whether values can be looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import lax

# Outside of a trace each lax.scan is compiled anew, which takes 0.4 s. A loop of up to so
# many steps is done sooner as it is: about 5 ms a step (LSTM training step, 2 cores).
_EAGER_STEPS = 50


def is_traced(array: Any) -> bool:
    """Tell whether `array` has no values yet."""
    return isinstance(array, jax.core.Tracer)


def scan(
    step: Callable[[Any, tuple[Any, ...]], tuple[Any, tuple[Any, ...]]],
    init: Any,
    xs: tuple[Any, ...],
    *,
    reverse: bool,
) -> tuple[Any, tuple[Any, ...]] | None:
    """Do what `arrays.scan` does with lax.scan; None where a plain loop is faster.

    Unrolled, a traced loop of 200 steps compiles for minutes; this one takes a second for
    any number of steps.
    """
    leaves = jax.tree.leaves((init, xs))
    n_steps = next(x for x in xs if x is not None).shape[0]
    if n_steps <= _EAGER_STEPS and not any(map(is_traced, leaves)):
        return None
    carry, outs = lax.scan(step, init, xs, reverse=reverse)
    return carry, outs
