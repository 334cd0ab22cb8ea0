"""Initial values and dropout masks, the same numbers on every array library.

The array API standard has no random numbers. Initial values are drawn on the host in
float64 with a NumPy generator and then copied to the library, device and dtype of an array.

Masks are too many for that. They come from Threefry-2x32-20, a counter-based generator: a
block cipher that turns a key and a counter into 64 random bits with additions, rotations
and exclusive ors of 32-bit words, on the device, with no state between the blocks.
Source: Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import math
from typing import Any

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


# Threefry-2x32: the distances of the rotations, and the constant of the key schedule.
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def threefry(key: tuple[int, int], x0: Array, x1: Array) -> tuple[Array, Array]:
    """Return the 2 x 32 random bits of each counter `(x0, x1)` under `key`.

    Words are int32, which every library has; as unsigned ones they are the published
    function. Additions wrap around.

    Parameters
    ----------
    key
        Two words, `0 <= word < 2^32`.
    x0, x1
        Counters, int32, of one shape.
    """
    words = (*key, key[0] ^ key[1] ^ _PARITY)
    x0 = x0 + _signed(words[0])
    x1 = x1 + _signed(words[1])
    for group in range(5):
        for distance in _ROTATIONS[group % 2]:
            x0 += x1
            left = x1 << distance
            x1 = x1 >> (32 - distance)
            x1 &= (1 << distance) - 1  # >> drags the sign along
            x1 |= left
            x1 ^= x0
        x0 += _signed(words[(group + 1) % 3])
        x1 += _signed(words[(group + 2) % 3] + group + 1)
    return x0, x1


def _signed(word: int) -> int:
    """Return the 32 low bits of a number as a signed one."""
    return (word + 2**31) % 2**32 - 2**31


def keep_mask(shape: tuple[int, ...], rate: float, *, seed: int, draw: Any, like: Array) -> Array:
    """Return which elements a dropout of `rate` keeps: an array of bool.

    Each element has 16 random bits, so `rate` is rounded to a multiple of 2^-16.

    Parameters
    ----------
    shape
        Of the mask.
    rate
        The probability that an element is dropped.
    seed
        `0 <= seed < 2^64`.
    draw
        Which of the seed's masks: a number, or a 0-d integer array, of which the low 32
        bits count.
    like
        An array whose library and device the mask gets.
    """
    xp = arrays.namespace(like)
    n = math.prod(shape)
    counter = xp.arange(-(-n // 4), dtype=xp.int32, device=arrays.device(like))
    number = _signed(draw) if isinstance(draw, int) else xp.astype(draw, xp.int32)
    bits = threefry((seed % 2**32, seed // 2**32), counter, xp.zeros_like(counter) + number)
    quarters = [word for x in bits for word in (x & 0xFFFF, (x >> 16) & 0xFFFF)]
    kept = xp.concat(quarters) >= round(rate * 2**16)
    return xp.reshape(kept[:n], shape)
