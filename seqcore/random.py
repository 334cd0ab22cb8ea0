"""Initial values, the same numbers on every array library.

The array API standard has no random numbers. They are drawn on the host in float64 with a
NumPy generator and then copied to the library, device and dtype of an array.
"""

from __future__ import annotations

import math

import numpy as np

from seqcore import arrays
from seqcore.arrays import Array, Params


def glorot_uniform(
    rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int, like: Array
) -> Array:
    """Draw from U(-a, a) with a = sqrt(6 / (fan_in + fan_out)).

    Source: Glorot & Bengio, "Understanding the difficulty of training deep feedforward
    neural networks", AISTATS 2010, equation 16.
    """
    limit = math.sqrt(6.0 / (fan_in + fan_out))
    return arrays.like(rng.uniform(-limit, limit, size=shape), like)


def orthogonal(rng: np.random.Generator, gates: int, n: int, like: Array) -> Array:
    """Draw `gates` random orthogonal matrices, `(gates, n, n)`, uniform over the group.

    Source: Saxe, McClelland & Ganguli, "Exact solutions to the nonlinear dynamics of
    learning in deep linear neural networks", ICLR 2014; signs after Mezzadri, "How to
    generate random matrices from the classical compact groups", 2007.
    """
    q, r = np.linalg.qr(rng.standard_normal((gates, n, n)))
    signs = np.sign(np.diagonal(r, axis1=-2, axis2=-1))
    return arrays.like(q * signs[:, None, :], like)


def normal(rng: np.random.Generator, shape: tuple[int, ...], scale: float, like: Array) -> Array:
    """Draw from N(0, scale^2)."""
    return arrays.like(scale * rng.standard_normal(shape), like)


def generator(rng: np.random.Generator | int | None) -> np.random.Generator:
    """Return `rng` if it is a generator, else a new one seeded with it."""
    return rng if isinstance(rng, np.random.Generator) else np.random.default_rng(rng)


def recurrent(
    rng: np.random.Generator, n_x: int, n_a: int, *, biases: tuple[float, ...], like: Array
) -> Params:
    """Draw `W_x (G, n_a, n_x)` and `W_h (G, n_a, n_a)`; `b (G, n_a, 1)` is `biases` by gate."""
    gates = len(biases)
    b = np.broadcast_to(np.asarray(biases)[:, None, None], (gates, n_a, 1))
    return {
        "W_x": glorot_uniform(rng, (gates, n_a, n_x), n_x, n_a, like),
        "W_h": orthogonal(rng, gates, n_a, like),
        "b": arrays.like(b, like),
    }
