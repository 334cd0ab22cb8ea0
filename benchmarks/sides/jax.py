"""Layers of seqcore on JAX arrays: a whole step compiled as one function."""

from __future__ import annotations

import numpy as np
from harness.side import Arrays, Task, UnavailableError, Work

from sides import seqcore


def step(arrays: Arrays, task: Task) -> Work:
    """Return the work of a step under jit, on the CPU or on a GPU."""
    try:
        import jax
    except ImportError as error:
        raise UnavailableError(f"JAX is not installed ({error})") from error
    platform = "gpu" if task["gpu"] else "cpu"
    try:
        device = jax.devices(platform)[0]
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise UnavailableError(f"JAX has no {platform} on this machine ({reason})") from error
    if "tf32" in task:
        precision = "tensorfloat32" if task["tf32"] else "highest"
        jax.config.update("jax_default_matmul_precision", precision)
    step = jax.jit(seqcore.step_of(seqcore.layer_of(arrays, task), task["do"]))
    given = seqcore.inputs(arrays, task, lambda value: jax.device_put(value, device))
    return Work(
        lambda: jax.block_until_ready(step(*given)), lambda ran: seqcore.named(ran, np.asarray)
    )
