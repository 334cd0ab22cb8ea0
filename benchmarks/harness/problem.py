"""The training step that is measured: its sizes, its inputs, and what is right.

A step is forward over time, back through time, and the gradients of x and of all weights.
Inputs are float32 and in seqcore's layout: x `(T, n_x, m)`, dy `(T, n_a, m)`, parameters
`"0.W_x" (G, n_a, n_x)`, `"0.W_h" (G, n_a, n_a)`, `"0.b" (G, n_a, 1)`, for a GRU also
`"0.b_h" (1, n_a, 1)`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from sides import textbook

Arrays = dict[str, np.ndarray[Any, Any]]

# float32 against float64, largest difference over largest value of the array. Sums of up to
# 25088 terms, over time and batch, are in it: 5e-6 was seen in PyTorch's db at T = 784.
TOLERANCE = 2e-5


class Shape(NamedTuple):
    """T steps of n_x features for m examples, into n_a units."""

    T: int
    m: int
    n_x: int
    n_a: int

    def __str__(self) -> str:
        """The sizes as tables and `--shapes` have them: `T/m/n_x/n_a`."""
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


def draw(cell: str, shape: Shape, seed: int = 0) -> Arrays:
    """Draw x, dy and parameters of usual size, the same ones for every side."""
    rng = np.random.default_rng(seed)
    gates, (n_steps, m, n_x, n_a) = len(textbook.GATES[cell]), shape
    bound = 1.0 / math.sqrt(n_a)
    parameters = {
        "0.W_x": (gates, n_a, n_x),
        "0.W_h": (gates, n_a, n_a),
        "0.b": (gates, n_a, 1),
        **({"0.b_h": (1, n_a, 1)} if cell == "gru" else {}),
    }
    arrays = {
        "x": rng.standard_normal((n_steps, n_x, m)),
        "dy": rng.standard_normal((n_steps, n_a, m)),
        **{name: rng.uniform(-bound, bound, size) for name, size in parameters.items()},
    }
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def reference(cell: str, arrays: Arrays) -> Arrays:
    """Return y, dx and all gradients from the textbook loops in float64."""
    double = {name: array.astype(np.float64) for name, array in arrays.items()}
    step = textbook.Step(cell, double)
    return step.results(step.run())
