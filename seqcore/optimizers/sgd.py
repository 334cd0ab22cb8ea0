"""Stochastic gradient descent.

(1) u = momentum u + g
(2) p -= lr u                       plain, and with momentum
(3) p -= lr (g + momentum u)        with Nesterov's momentum
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from seqcore import arrays, checks
from seqcore.arrays import Array, Params
from seqcore.optimizers import contract
from seqcore.optimizers.contract import Schedule


class SGDState(NamedTuple):
    """Updates done, and the momentum of each parameter (empty without momentum)."""

    count: Array
    trace: Params


@dataclass(frozen=True)
class SGD:
    """Gradient descent with momentum; see `sgd`."""

    learning_rate: float | Schedule
    momentum: float
    nesterov: bool

    def __post_init__(self) -> None:
        """Refuse numbers out of range, and keep the others as Python's own."""
        rate = contract.learning_rate("sgd", self.learning_rate)
        momentum = contract.fraction("sgd", "momentum", self.momentum)
        checks.flag("sgd", nesterov=self.nesterov)
        if self.nesterov and not momentum:
            raise ValueError("sgd: nesterov is True, expected a momentum more than 0 with it")
        object.__setattr__(self, "learning_rate", rate)
        object.__setattr__(self, "momentum", momentum)

    def init(self, params: Params) -> SGDState:
        """Return the state before the first update, with momenta of zero."""
        count = contract.zero_count("sgd", params)
        return SGDState(count, contract.zeros(params) if self.momentum else {})

    def update(self, params: Params, grads: Params, state: SGDState) -> tuple[Params, SGDState]:
        """Return the parameters and the state after one update."""
        moments = ("trace",) if self.momentum else ()
        xp = contract.check("sgd", params, grads, state, SGDState, moments)
        rate = contract.next_rate(xp, self.learning_rate, state.count, params)
        trace = dict(arrays.without_history(state.trace))
        after = {name: arrays.leaf_like(p, p) for name, p in params.items()}
        for name, gradient in grads.items():
            p, g = arrays.without_history((params[name], gradient))
            step = g
            if self.momentum:
                u = self.momentum * trace[name]
                u += g  # (1)
                trace[name] = u
                step = g + self.momentum * u if self.nesterov else u
            after[name] = arrays.leaf_like(p - rate * step, params[name])  # (2), (3)
        return after, SGDState(contract.next_count(xp, state.count), trace)


def sgd(
    learning_rate: float | Schedule = 1e-2, momentum: float = 0.0, *, nesterov: bool = False
) -> SGD:
    """Return gradient descent, with or without momentum.

    Parameters
    ----------
    learning_rate
        More than 0, or a schedule.
    momentum
        `0 <= momentum < 1`.
    nesterov
        Whether to step as in equation (3) instead of (2); needs a momentum.

    Raises
    ------
    ValueError
        For numbers out of range.
    TypeError
        For what is not a number, or a `nesterov` that is neither True nor False.
    """
    return SGD(learning_rate, momentum, nesterov)
