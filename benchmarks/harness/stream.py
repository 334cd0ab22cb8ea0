"""Streams: one step at a time, with the state carried on.

A run is one step, from the state that the run before has left to its output, and the x of the
runs are repeated in turn. Inputs belong to the library of the side before time is taken, and
outputs stay there. Results are the outputs of a new pass over all x.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any

import numpy as np

from harness.side import Arrays, Work

State = Any


def stream(
    step: Callable[[Any, State], tuple[Any, State]],
    xs: Sequence[Any],
    to_host: Callable[[Any], Any],
) -> Work:
    """Return the work of a stream.

    Parameters
    ----------
    step
        Takes x and a state, None at first, and returns an output and the next state.
    xs
        The x of each step.
    to_host
        Takes an output and returns it as a NumPy array `(n_a, 1)`.
    """
    coming = cycle(xs)
    state: State = None

    def run() -> Any:
        nonlocal state
        y, state = step(next(coming), state)
        return y

    def results(_: Any) -> Arrays:
        carried, ys = None, []
        for x in xs:
            y, carried = step(x, carried)
            ys.append(np.array(to_host(y)))
        return {"y": np.stack(ys)}

    return Work(run, results)
