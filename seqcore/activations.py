"""Activations and their derivatives.

    (1) sigmoid(x) = 1 / (1 + exp(-x))                 ds/dx = s (1 - s)
    (2) tanh(x)                                        dt/dx = 1 - t^2
    (3) relu(x) = max(x, 0)                            dr/dx = [r > 0]
    (4) softmax(x)_i = exp(x_i) / sum_j exp(x_j)       ds_i/dx_j = s_i ([i = j] - s_j)
    (5) log_softmax(x)_i = x_i - log sum_j exp(x_j)

The derivatives take the activated value, because that is what BPTT keeps. Nothing
overflows: (1) takes exp of negative numbers only, (4) and (5) subtract the largest entry first.
"""

from __future__ import annotations

from seqcore import arrays, checks
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
        With the shape, dtype, library and device of x.

    Raises
    ------
    TypeError
        If x is not an array of floats.

    Examples
    --------
    >>> import numpy as np, seqcore as sc
    >>> sc.sigmoid(np.asarray([-1e30, 0.0, 1e30]))
    array([0. , 0.5, 1. ])
    """
    xp = checks.floats("sigmoid", {"x": x})
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
        With the shape, dtype, library and device of s.

    Raises
    ------
    TypeError
        If s is not an array of floats.
    """
    checks.floats("sigmoid_deriv", {"s": s})
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
        With the shape, dtype, library and device of x.

    Raises
    ------
    TypeError
        If x is not an array of floats.
    """
    return checks.floats("tanh", {"x": x}).tanh(x)


def tanh_deriv(t: Array) -> Array:
    """Return dt/dx = 1 - t^2 for `t = tanh(x)`.

    Parameters
    ----------
    t
        The activated value, of any shape.

    Returns
    -------
    array
        With the shape, dtype, library and device of t.

    Raises
    ------
    TypeError
        If t is not an array of floats.
    """
    checks.floats("tanh_deriv", {"t": t})
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
        With the shape, dtype, library and device of x.

    Raises
    ------
    TypeError
        If x is not an array of floats.

    Examples
    --------
    >>> import numpy as np, seqcore as sc
    >>> sc.relu(np.asarray([-2.0, 3.0]))
    array([0., 3.])
    """
    xp = checks.floats("relu", {"x": x})
    return xp.where(x < 0, xp.zeros_like(x), x)


def relu_deriv(r: Array) -> Array:
    """Return dr/dx = [r > 0] for `r = relu(x)`; it is 0 at x = 0, where relu has a corner.

    Parameters
    ----------
    r
        The activated value, of any shape.

    Returns
    -------
    array
        With the shape, dtype, library and device of r.

    Raises
    ------
    TypeError
        If r is not an array of floats.
    """
    return checks.floats("relu_deriv", {"r": r}).astype(r > 0, r.dtype)


def softmax(x: Array, *, axis: int = -2) -> Array:
    """Return exp(x) / sum exp(x) over `axis`.

    Parameters
    ----------
    x
        Floats of any shape.
    axis
        The axis over which the result sums to 1. Axis -2 holds the features in seqcore.

    Returns
    -------
    array
        With the shape, dtype, library and device of x.

    Raises
    ------
    TypeError
        If x is not an array of floats.
    ValueError
        If x has no such axis, or the axis is empty.

    Examples
    --------
    >>> import numpy as np, seqcore as sc
    >>> sc.softmax(np.asarray([[1e30, 0.0], [0.0, 0.0]]))
    array([[1. , 0.5],
           [0. , 0.5]])
    """
    xp = checks.floats("softmax", {"x": x})
    _check_axis("softmax", x, axis)
    e = xp.exp(x - xp.max(x, axis=axis, keepdims=True))
    return e / xp.sum(e, axis=axis, keepdims=True)


def softmax_deriv(s: Array) -> Array:
    """Return the Jacobian of softmax over axis 0.

    Parameters
    ----------
    s : (n, m)
        A softmax over axis 0, with one column for each example.

    Returns
    -------
    (n, n, m)
        Entry `[i, j, k]` is the derivative of `s[i, k]` by `x[j, k]`: s_i ([i = j] - s_j).

    Raises
    ------
    TypeError
        If s is not an array of floats.
    ValueError
        If s does not have two axes.
    """
    xp = checks.floats("softmax_deriv", {"s": s})
    checks.shape("softmax_deriv", "s", s, ("n", "m"), {})
    eye = xp.eye(s.shape[0], dtype=s.dtype, device=arrays.device(s))
    return s[:, None, :] * (eye[:, :, None] - s[None, :, :])


def log_softmax(x: Array, *, axis: int = -2) -> Array:
    """Return x - log sum exp(x) over `axis`.

    It is the logarithm of `softmax`, and stays finite where `softmax` rounds to 0.

    Parameters
    ----------
    x
        Floats of any shape.
    axis
        As for `softmax`.

    Returns
    -------
    array
        With the shape, dtype, library and device of x.

    Raises
    ------
    TypeError
        If x is not an array of floats.
    ValueError
        If x has no such axis, or the axis is empty.

    Examples
    --------
    >>> import numpy as np, seqcore as sc
    >>> sc.log_softmax(np.asarray([[0.0], [-1000.0]]))
    array([[    0.],
           [-1000.]])
    """
    xp = checks.floats("log_softmax", {"x": x})
    _check_axis("log_softmax", x, axis)
    shifted = x - xp.max(x, axis=axis, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=axis, keepdims=True))


def _check_axis(place: str, x: Array, axis: int) -> None:
    if not checks.is_whole(axis):
        raise TypeError(f"{place}: axis is {axis!r}, expected a whole number")
    if not -x.ndim <= axis < x.ndim or x.shape[axis] < 1:
        raise ValueError(
            f"{place}: x has shape {tuple(x.shape)}, expected axis {axis} with at least one entry"
        )
