"""The floor on a GPU: the matrix products of LSTM layers, queued one after another.

All input products, all of dx and all weight gradients of a layer are one product each; what a
step needs from the step before is a product for each step. The numbers are random: the time of
a product does not depend on them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from harness.side import Arrays, Task, Work

from sides import gpu


def step(arrays: Arrays, task: Task) -> Work:
    """Return the work of the products, on CuPy arrays or, without a GPU, on NumPy arrays."""
    place = gpu.cupy() if task["gpu"] else gpu.HOST
    xp = place.xp
    n_steps, n_x, m = arrays["x"].shape
    n_steps *= task["repeat"]
    n_a = arrays["0.W_h"].shape[1]
    rng = np.random.default_rng(1)

    def normal(*shape: int) -> Any:
        return xp.asarray(rng.standard_normal(shape, dtype=np.float32))

    def empty(*shape: int) -> Any:
        return xp.empty(shape, np.float32)

    jobs: list[tuple[Any, Any, Any]] = []  # left, right, result
    for layer in range(task["layers"]):
        n_in = n_x if layer == 0 else n_a
        W_x, W_h = (xp.asarray(arrays[f"{layer}.{n}"].reshape(4 * n_a, -1)) for n in ("W_x", "W_h"))
        h, dz_t = normal(n_a, m), normal(4 * n_a, m)
        z, dh = empty(4 * n_a, m), empty(n_a, m)
        jobs.append((W_x, normal(n_in, n_steps * m), empty(4 * n_a, n_steps * m)))  # input
        jobs += [(W_h, h, z)] * n_steps  # forward
        if task["do"] == "training":
            dz = normal(4 * n_a, n_steps * m)
            both = normal(n_a + n_in, n_steps * m)
            jobs += [(W_h.T, dz_t, dh)] * n_steps  # backward
            jobs.append((W_x.T, dz, empty(n_in, n_steps * m)))  # dx
            jobs.append((dz, both.T, empty(4 * n_a, n_a + n_in)))  # dW

    def run() -> None:
        for left, right, out in jobs:
            xp.matmul(left, right, out=out)

    return Work(run, lambda _: {}, place.facts, place.clock)
