"""The training step that is measured: its sizes, its inputs and its task.

A step is the forward pass over time, the backward pass through time, and the gradients of x and
of all weights. Inputs are float32 in the layout of seqcore: x `(T, n_x, m)`, dy `(T, n_a, m)`,
and for each layer `"0.W_x" (G, n_a, n_x)`, `"0.W_h" (G, n_a, n_a)`, `"0.b" (G, n_a, 1)`, for a
GRU also `"0.b_h" (1, n_a, 1)`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from harness.side import Array, Arrays

# Gates of each cell.
GATES = {"lstm": 4, "gru": 3, "rnn": 1}

# float32 against float64: largest difference divided by the largest value of the array. It
# covers sums of up to 25088 terms, over time and batch. The largest seen is 5e-6, in PyTorch's
# db at T = 784.
TOLERANCE = 2e-5


class Shape(NamedTuple):
    """T steps of n_x features for a batch of m, with n_a units."""

    T: int
    m: int
    n_x: int
    n_a: int

    def __str__(self) -> str:
        """Return the sizes as in tables and `--shapes`: `T/m/n_x/n_a`."""
        return "/".join(map(str, self))

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Read `T/m/n_x/n_a`."""
        return cls(*map(int, text.split("/")))


GRID = (
    Shape(50, 1, 16, 32),
    Shape(100, 32, 64, 128),
    Shape(50, 64, 128, 256),
    Shape(100, 64, 256, 512),
    Shape(35, 20, 650, 650),
    Shape(784, 32, 1, 128),
)


def draw(cell: str, shape: Shape, layers: int = 1) -> dict[str, Array]:
    """Draw x, dy and parameters of usual size, the same ones for every side."""
    rng = np.random.default_rng(0)
    series = {
        "x": rng.standard_normal((shape.T, shape.n_x, shape.m)),
        "dy": rng.standard_normal((shape.T, shape.n_a, shape.m)),
    }
    arrays = {name: array.astype(np.float32) for name, array in series.items()}
    for layer in range(layers):
        n_in = shape.n_x if layer == 0 else shape.n_a
        arrays |= _parameters(cell, layer, n_in, shape.n_a, rng)
    return arrays


def _parameters(
    cell: str, layer: int, n_in: int, n_a: int, rng: np.random.Generator
) -> dict[str, Array]:
    bound = 1.0 / math.sqrt(n_a)
    shapes = {"W_x": (GATES[cell], n_a, n_in), "W_h": (GATES[cell], n_a, n_a)}
    shapes["b"] = (GATES[cell], n_a, 1)
    if cell == "gru":
        shapes["b_h"] = (1, n_a, 1)
    return {
        f"{layer}.{name}": rng.uniform(-bound, bound, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def parameters(arrays: Arrays) -> dict[str, Array]:
    """Return the parameters among the inputs."""
    return {name: value for name, value in arrays.items() if name not in ("x", "dy")}


def task(
    cell: str, *, layers: int = 1, do: str = "training", repeat: int = 1, gpu: bool = False
) -> dict[str, Any]:
    """Return the task of a side that runs the step.

    Parameters
    ----------
    cell
        "lstm", "gru" or "rnn".
    layers
        Number of layers.
    do
        "training", or "inference" for the forward pass alone.
    repeat
        How often x and dy are repeated in time.
    gpu
        Whether the step runs on a GPU.
    """
    return {"cell": cell, "layers": layers, "do": do, "repeat": repeat, "gpu": gpu}
