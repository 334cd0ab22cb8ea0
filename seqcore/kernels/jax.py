"""JAX: the loop over time as one traced step."""

from __future__ import annotations

from typing import Any

import jax
from jax import lax

from seqcore.arrays import Array
from seqcore.kernels.contract import LoopStep, Provider

# Outside of a trace each lax.scan is compiled anew, which takes 0.4 s. Up to this many steps a
# loop in Python is faster: about 5 ms a step (LSTM training step, 2 cores).
_EAGER_STEPS = 50


class JAXKernels(Provider):
    """Loops with lax.scan: unrolled, a traced loop of 200 steps takes minutes to compile."""

    def block_steps(self, n_steps: int, m: int) -> int:
        """Return all steps: a traced loop is compiled once for each block."""
        return n_steps

    def scan(
        self, step: LoopStep, init: Any, xs: tuple[Any, ...], *, reverse: bool
    ) -> tuple[Any, tuple[Array, ...]] | None:
        """Run the loop with lax.scan, unless nothing is traced and it is short."""
        leaves = jax.tree.leaves((init, xs))
        n_steps = next(x for x in xs if x is not None).shape[0]
        if n_steps <= _EAGER_STEPS and not any(isinstance(x, jax.core.Tracer) for x in leaves):
            return None
        carry, outs = lax.scan(step, init, xs, reverse=reverse)
        return carry, outs
