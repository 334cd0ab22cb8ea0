"""Activations and their derivatives.

    (1) sigmoid(x) = 1 / (1 + exp(-x))                 ds/dx = s (1 - s)
    (2) tanh(x)                                        dt/dx = 1 - t^2
    (3) relu(x) = max(x, 0)                            dr/dx = [r > 0]
    (4) softmax(x)_i = exp(x_i) / sum_j exp(x_j)       ds_i/dx_j = s_i ([i = j] - s_j)
    (5) log_softmax(x)_i = x_i - log sum_j exp(x_j)

The derivatives take the activated value, which BPTT has at hand. No form overflows: (1)
only ever takes exp of a negative number, (4) and (5) subtract the largest entry first.
"""

from __future__ import annotations

from seqcore import arrays
from seqcore.arrays import Array


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + exp(-x)), elementwise, accurate in both tails."""
    xp = arrays.namespace(x)
    e = xp.exp(-xp.abs(x))
    return xp.where(x >= 0, xp.ones_like(e), e) / (1.0 + e)


def sigmoid_deriv(s: Array) -> Array:
    """Return ds/dx = s (1 - s) for `s = sigmoid(x)`."""
    return s * (1.0 - s)


def tanh(x: Array) -> Array:
    """Return tanh(x), elementwise."""
    return arrays.namespace(x).tanh(x)


def tanh_deriv(t: Array) -> Array:
    """Return dt/dx = 1 - t^2 for `t = tanh(x)`."""
    return 1.0 - t * t


def relu(x: Array) -> Array:
    """Return max(x, 0), elementwise; NaN stays NaN."""
    xp = arrays.namespace(x)
    return xp.where(x < 0, xp.zeros_like(x), x)


def relu_deriv(r: Array) -> Array:
    """Return dr/dx = [r > 0] for `r = relu(x)`; the corner at 0 counts as 0."""
    return arrays.namespace(r).astype(r > 0, r.dtype)


def softmax(x: Array, *, axis: int = -2) -> Array:
    """Return exp(x) / sum exp(x) over `axis`; features are axis -2 inside seqcore."""
    xp = arrays.namespace(x)
    e = xp.exp(x - xp.max(x, axis=axis, keepdims=True))
    return e / xp.sum(e, axis=axis, keepdims=True)


def softmax_deriv(s: Array) -> Array:
    """Return the Jacobian of softmax over axis 0.

    Parameters
    ----------
    s : (n, m)
        Softmax of some x over axis 0, one column an example.

    Returns
    -------
    (n, n, m)
        At `[i, j, k]` the derivative of `s[i, k]` by `x[j, k]`: s_i ([i = j] - s_j).
    """
    xp = arrays.namespace(s)
    eye = xp.eye(s.shape[0], dtype=s.dtype, device=arrays.device(s))
    return s[:, None, :] * (eye[:, :, None] - s[None, :, :])


def log_softmax(x: Array, *, axis: int = -2) -> Array:
    """Return x - log sum exp(x) over `axis`."""
    xp = arrays.namespace(x)
    shifted = x - xp.max(x, axis=axis, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=axis, keepdims=True))
