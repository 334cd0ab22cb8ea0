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
    """Return 1 / (1 + exp(-x)), elementwise, accurate in both tails.

    Parameters
    ----------
    x
        Floats of any shape.

    Returns
    -------
    array
        Of the shape, dtype, library and device of x.

    Examples
    --------
    >>> import numpy as np, seqcore as sc
    >>> sc.sigmoid(np.asarray([-1e30, 0.0, 1e30]))
    array([0. , 0.5, 1. ])
    """
    xp = arrays.namespace(x)
    e = xp.exp(-xp.abs(x))
    return xp.where(x >= 0, xp.ones_like(e), e) / (1.0 + e)


def sigmoid_deriv(s: Array) -> Array:
    """Return ds/dx = s (1 - s) for `s = sigmoid(x)`.

    Parameters
    ----------
    s
        The activated value, of any shape.

    Returns
    -------
    array
        Of the shape, dtype, library and device of s.
    """
    return s * (1.0 - s)


def tanh(x: Array) -> Array:
    """Return tanh(x), elementwise.

    Parameters
    ----------
    x
        Floats of any shape.

    Returns
    -------
    array
        Of the shape, dtype, library and device of x.
    """
    return arrays.namespace(x).tanh(x)


def tanh_deriv(t: Array) -> Array:
    """Return dt/dx = 1 - t^2 for `t = tanh(x)`.

    Parameters
    ----------
    t
        The activated value, of any shape.

    Returns
    -------
    array
        Of the shape, dtype, library and device of t.
    """
    return 1.0 - t * t


def relu(x: Array) -> Array:
    """Return max(x, 0), elementwise; NaN stays NaN.

    Parameters
    ----------
    x
        Floats of any shape.

    Returns
    -------
    array
        Of the shape, dtype, library and device of x.

    Examples
    --------
    >>> import numpy as np, seqcore as sc
    >>> sc.relu(np.asarray([-2.0, 3.0]))
    array([0., 3.])
    """
    xp = arrays.namespace(x)
    return xp.where(x < 0, xp.zeros_like(x), x)


def relu_deriv(r: Array) -> Array:
    """Return dr/dx = [r > 0] for `r = relu(x)`; the corner at 0 counts as 0.

    Parameters
    ----------
    r
        The activated value, of any shape.

    Returns
    -------
    array
        Of the shape, dtype, library and device of r.
    """
    return arrays.namespace(r).astype(r > 0, r.dtype)


def softmax(x: Array, *, axis: int = -2) -> Array:
    """Return exp(x) / sum exp(x) over `axis`.

    Parameters
    ----------
    x
        Floats of any shape.
    axis
        What sums to 1; inside seqcore features are axis -2.

    Returns
    -------
    array
        Of the shape, dtype, library and device of x.

    Examples
    --------
    >>> import numpy as np, seqcore as sc
    >>> sc.softmax(np.asarray([[1e30, 0.0], [0.0, 0.0]]))
    array([[1. , 0.5],
           [0. , 0.5]])
    """
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
    """Return x - log sum exp(x) over `axis`: the logarithm of `softmax`, where that is 0 too.

    Parameters
    ----------
    x
        Floats of any shape.
    axis
        As of `softmax`.

    Returns
    -------
    array
        Of the shape, dtype, library and device of x.

    Examples
    --------
    >>> import numpy as np, seqcore as sc
    >>> sc.log_softmax(np.asarray([[0.0], [-1000.0]]))
    array([[    0.],
           [-1000.]])
    """
    xp = arrays.namespace(x)
    shifted = x - xp.max(x, axis=axis, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=axis, keepdims=True))
