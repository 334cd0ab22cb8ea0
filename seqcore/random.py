"""Initial values and dropout masks, the same numbers on every array library.

The array API standard has no random numbers. Initial values are drawn on the host in
float64 with a NumPy generator and then copied to the library, device and dtype of an array.

Dropout masks have too many elements for that. They come from Threefry-2x32-20, a
counter-based generator: a block cipher that turns a key and a counter into 64 random bits
with additions, rotations and exclusive ors of 32-bit words, on the device, without a state.

    (1) k    = threefry(seed ^ place in the model, draw)      a key for this mask
    (2) bits = threefry(k, (position in the example, number of the example))

Since (2) counts examples in the whole batch, the parts of a divided batch have the same masks
as the whole batch.

Source: Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from seqcore import arrays, checks
from seqcore.arrays import Array, Namespace


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
    """Return `rng` if it is a generator, else a new one seeded with it.

    Raises
    ------
    TypeError, ValueError
        If it is neither a generator nor a seed.
    """
    if isinstance(rng, np.random.Generator):
        return rng
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        expected = "expected a NumPy generator or a whole number from 0"
        raise type(error)(f"init: rng is {rng!r}, {expected}") from error


# --- draws: which mask a call of a model uses ---------------------------------------------


class Draw(NamedTuple):
    """Which of its masks a Dropout uses, and for which examples.

    A container gives each child the draw of the child's place, and each part of a divided batch
    the number of the part's first example.
    """

    number: int | Array  # what `forward(draw=...)` was given; only the low 32 bits matter
    place: int = 0  # of the layer in the model, 64 bits
    first: int = 0  # the number of the first example in the whole batch

    @classmethod
    def of(cls, place: str, given: Any, x: Array) -> Draw:
        """Check the draw given to a public function.

        Raises
        ------
        TypeError
            If it is neither a whole number nor an array of integers on x's device.
        ValueError
            If it is an array with axes.
        """
        if isinstance(given, Draw):
            return given
        if checks.is_whole(given):
            return cls(int(given))  # NumPy's too, as from a loop over arange
        if not arrays.is_array(given):
            raise TypeError(f"{place}: draw is {given!r}, expected a whole number or a 0-d array")
        checks.one_library(place, {"x": x, "draw": given})
        checks.integral(place, "draw", given)
        checks.shape(place, "draw", given, (), {})
        return cls(given)

    def child(self, index: int) -> Draw:
        """Return the draw of a child of a container."""
        return self._replace(place=_mixed(self.place + (index + 1) * _GOLDEN))

    def shifted(self, examples: int) -> Draw:
        """Return the draw of a part of the batch that begins with a later example."""
        return self._replace(first=self.first + examples)

    def plain(self, like: Array) -> int | Array:
        """Return one number made of all three fields, for layers that take only a number."""
        key = _mixed(self.place + self.first * _GOLDEN)
        if isinstance(self.number, int):  # on the host, as JAX traces whatever is made of x
            x0, _ = threefry(_words(key), *_counters(self.number, np.zeros(0)))
            return int(x0[0]) & 0x7FFFFFFF
        x0, _ = threefry(_words(key), *_counters(self.number, like))
        return arrays.namespace(like).reshape(x0 & 0x7FFFFFFF, ())


_GOLDEN = 0x9E3779B97F4A7C15


def _mixed(value: int) -> int:
    """Return 64 bits, each of which depends on every bit of `value`.

    Source: Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014,
    figure 14: the finalizer of SplitMix64.
    """
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
    return value ^ (value >> 31)


# --- Threefry-2x32 ------------------------------------------------------------------------

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))  # distances
_PARITY = 0x1BD11BDA  # the constant of the key schedule


def threefry(key: tuple[Any, Any], x0: Array, x1: Array) -> tuple[Array, Array]:
    """Return the 2 x 32 random bits of each counter `(x0, x1)` under `key`.

    Words are int32, which every library has; read as unsigned, they are those of the
    published function. Additions wrap around.

    Parameters
    ----------
    key
        Two words: numbers `0 <= word < 2^32`, or int32 arrays that broadcast with x0.
    x0, x1
        Counters, int32, both of one shape with at least one axis.
    """
    third = key[0] ^ key[1] ^ _PARITY
    words = [_signed(word) if isinstance(word, int) else word for word in (*key, third)]
    x0 = x0 + words[0]
    x1 = x1 + words[1]
    for group in range(5):
        for distance in _ROTATIONS[group % 2]:
            x0 += x1
            left = x1 << distance
            x1 = x1 >> (32 - distance)
            x1 &= (1 << distance) - 1  # >> copies the sign bit
            x1 |= left
            x1 ^= x0
        x0 += words[(group + 1) % 3]
        last = words[(group + 2) % 3] + (group + 1)
        x1 += _signed(last) if isinstance(last, int) else last
    return x0, x1


def _signed(word: int) -> int:
    """Return the 32 low bits of a number as a signed one."""
    return (word + 2**31) % 2**32 - 2**31


def _words(key: int) -> tuple[int, int]:
    """Return 64 bits as two words."""
    return key % 2**32, key // 2**32


def _counters(number: int | Array, like: Array) -> tuple[Array, Array]:
    """Return a draw's number as a counter of one block."""
    xp, where = arrays.namespace(like), arrays.device(like)
    if isinstance(number, int):
        x0 = xp.full((1,), _signed(number), dtype=xp.int32, device=where)
    else:
        x0 = xp.reshape(xp.astype(number, xp.int32), (1,))
    return x0, xp.zeros_like(x0)


def keep_mask(shape: tuple[int, ...], rate: float, *, seed: int, draw: Draw, like: Array) -> Array:
    """Return which elements a dropout of `rate` keeps: an array of bool.

    Each element has 16 random bits, so `rate` is rounded to a multiple of 2^-16.

    Parameters
    ----------
    shape
        Of the mask; the last axis is the batch.
    rate
        The probability that an element is dropped.
    seed
        `0 <= seed < 2^64`.
    draw
        Which of the seed's masks, and for which examples.
    like
        The mask gets the library and device of this array.
    """
    xp = arrays.namespace(like)
    *axes, m = shape or (1,)
    rows = math.prod(axes)
    key = threefry(_words(seed ^ draw.place), *_counters(draw.number, like))  # (1)
    blocks = -(-rows // 4)  # of 4 x 16 bits
    position = _range(xp, 0, blocks, like)[:, None]
    example = _range(xp, draw.first, m, like)[None, :]
    zeros = xp.zeros((blocks, m), dtype=xp.int32, device=arrays.device(like))
    bits = threefry(key, zeros + position, zeros + example)  # (2), (blocks, m) each
    quarters = [word for x in bits for word in (x & 0xFFFF, (x >> 16) & 0xFFFF)]
    kept = xp.stack(quarters, axis=1) >= round(rate * 2**16)  # (blocks, 4, m)
    return xp.reshape(xp.reshape(kept, (4 * blocks, m))[:rows, ...], shape)


def _range(xp: Namespace, first: int, n: int, like: Array) -> Array:
    return xp.arange(first, first + n, dtype=xp.int32, device=arrays.device(like))
