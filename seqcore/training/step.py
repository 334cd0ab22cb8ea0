"""One training step of a model.

    (1) y, state, tape = model.forward(params, x, state, draw=step)   from the last window's state
    (2) loss, dy       = loss(y, targets)
    (3) _, grads, _    = model.backward(params, tape, dy)    no gradient goes to the last window
    (4) grads          = clip_by_global_norm(grads, clip)
    (5) params, opt_state = optimizer.update(params, grads, opt_state)

A step changes none of the arrays that it is given, so that every `Progress` stays good. PyTorch's
autograd follows none of them: (3) has all gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from seqcore import arrays
from seqcore.arrays import Array, Params
from seqcore.cells import State
from seqcore.layers import Layer
from seqcore.optimizers import Optimizer, clip_by_global_norm

Loss: TypeAlias = Callable[[Array, Array], tuple[Array, Array]]


class Progress(NamedTuple):
    """All that training carries from step to step."""

    step: int  # steps done
    params: Params
    opt_state: Any
    state: State  # of the model after the last window; None before a new sequence


class Window(NamedTuple):
    """The input of one step."""

    x: Array
    targets: Array
    fresh: bool  # a new sequence begins here, from the model's own initial state


@dataclass(frozen=True)
class Step:
    """One step of truncated BPTT: equations (1) to (5).

    Parameters
    ----------
    model
        The layer to train.
    loss
        `loss(y, targets)` returns the loss and its gradient with respect to y.
    optimizer
        `optimizer(done)` returns the optimizer for the moment when the fraction `done` of the
        training is over, so that a learning rate can follow steps or time. All must have the same
        kind of state.
    clip
        The largest global norm of the gradients; None for no limit.
    """

    model: Layer
    loss: Loss
    optimizer: Callable[[float], Optimizer]
    clip: float | None = None

    def start(self, params: Params) -> Progress:
        """Return the progress before the first step."""
        return Progress(0, params, self.optimizer(0.0).init(params), None)

    def __call__(self, progress: Progress, window: Window, done: float) -> tuple[Progress, Array]:
        """Return the progress after one step, and the loss before it."""
        step, params, opt_state, state = progress
        own = arrays.without_history(params)
        before = None if window.fresh else state
        y, state, tape = self.model.forward(own, window.x, before, draw=step)  # (1)
        loss, dy = self.loss(y, window.targets)  # (2)
        _, grads, _ = self.model.backward(own, tape, dy, wrt=tuple(own))  # (3)
        if self.clip is not None:
            grads, _ = clip_by_global_norm(grads, self.clip)  # (4)
        after, opt_state = self.optimizer(done).update(params, grads, opt_state)  # (5)
        # An optimizer, a loss or a layer may be the user's own.
        after = {name: arrays.leaf_like(p, params[name]) for name, p in after.items()}
        opt_state, state, loss = arrays.without_history((opt_state, state, loss))
        return Progress(step + 1, after, opt_state, state), loss
