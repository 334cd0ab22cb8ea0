"""Losses with their gradients, averaged over the steps and examples that a mask keeps.

    cross entropy   (1) L = -1/N sum_k y_k log p_k,  p = softmax(logits)
                    (1') dL/dlogits = (p sum_k y_k - y) / N
    squared error   (2) L = 1/N sum (y - t)^2
                    (2') dL/dy = 2 (y - t) / N

N counts what is kept: columns (a step of an example) in (1), entries in (2). With nothing
kept the loss and its gradient are 0.
"""

from __future__ import annotations

import math

from seqcore import activations, arrays, checks
from seqcore.arrays import Array, Namespace
from seqcore.masks import where_mask


def cross_entropy(logits: Array, targets: Array, mask: Array | None = None) -> tuple[Array, Array]:
    """Return the softmax cross entropy in nats, and its gradient by the logits.

    Parameters
    ----------
    logits : (T, n_y, m) or (n_y, m)
        Scores before the softmax.
    targets : (T, m) or (m,) of integers, or of the shape of the logits
        Classes `0 <= class < n_y`, or a distribution over them in the dtype of the logits
        (one-hot, say).
    mask : (T, m) or (m,) of bool, optional
        Which steps count; targets elsewhere may be anything.

    Returns
    -------
    loss, dlogits
        A 0-d array: the mean over what counts; and dL/dlogits in the shape of the logits.

    Raises
    ------
    ValueError
        For wrong shapes, or a class out of range.
    TypeError
        For wrong or mixed dtypes, libraries or devices.

    Examples
    --------
    >>> import numpy as np, seqcore as sc
    >>> loss, dlogits = sc.cross_entropy(np.zeros((1, 4, 1)), np.asarray([[2]]))
    >>> round(float(loss), 4), dlogits[0, :, 0]
    (1.3863, array([ 0.25,  0.25, -0.75,  0.25]))
    """
    place = "cross_entropy"
    given = {"logits": logits, "targets": targets}
    xp = checks.one_library(place, given if mask is None else given | {"mask": mask})
    checks.floating(place, {"logits": logits})
    n_y = _columns(place, "logits", "n_y", logits)
    keep = _mask(place, logits, mask)
    if arrays.is_floating(targets):
        checks.floating(place, {"logits": logits, "targets": targets})
        checks.shape(place, "targets", targets, tuple(logits.shape), {})
        wanted = where_mask(xp, keep, targets)
        total = xp.sum(wanted, axis=-2, keepdims=True)
    else:
        checks.integral(place, "targets", targets)
        checks.shape(place, "targets", targets, logits.shape[:-2] + logits.shape[-1:], {})
        if mask is not None:
            targets = xp.where(mask, targets, xp.zeros_like(targets))
        checks.indices(place, "targets", targets, n_y, "class")
        wanted = where_mask(xp, keep, arrays.one_hot(xp, targets, n_y, logits.dtype, axis=-2))
        total = where_mask(xp, keep, xp.ones_like(wanted[..., :1, :]))
    log_p = activations.log_softmax(where_mask(xp, keep, logits), axis=-2)
    # A class that is not wanted costs nothing, even where its log p is -inf.
    cost = wanted * xp.where(wanted != 0, log_p, xp.zeros_like(log_p))
    n = _count(xp, keep, logits[..., :1, :])
    return -xp.sum(cost) / n, (xp.exp(log_p) * total - wanted) / n


def squared_error(y: Array, targets: Array, mask: Array | None = None) -> tuple[Array, Array]:
    """Return the mean squared error, and its gradient by y.

    Parameters
    ----------
    y : (T, n_y, m) or (n_y, m)
        Predictions.
    targets
        What they should be, in the shape and dtype of y.
    mask : (T, m) or (m,) of bool, optional
        Which steps count; targets elsewhere may be anything.

    Returns
    -------
    loss, dy
        A 0-d array: the mean of (y - t)^2 over the entries that count; and dL/dy.

    Raises
    ------
    ValueError
        For wrong shapes.
    TypeError
        For wrong or mixed dtypes, libraries or devices.

    Examples
    --------
    >>> import numpy as np, seqcore as sc
    >>> loss, dy = sc.squared_error(np.asarray([[1.0, 3.0]]), np.asarray([[1.0, 1.0]]))
    >>> float(loss), dy
    (2.0, array([[0., 2.]]))
    """
    place = "squared_error"
    xp = checks.floats(place, {"y": y, "targets": targets})
    if mask is not None:
        checks.one_library(place, {"y": y, "mask": mask})
    _columns(place, "y", "n_y", y)
    checks.shape(place, "targets", targets, tuple(y.shape), {})
    keep = _mask(place, y, mask)
    error = where_mask(xp, keep, y) - where_mask(xp, keep, targets)
    n = _count(xp, keep, y)
    return xp.sum(error * error) / n, (2.0 * error) / n


def _columns(place: str, name: str, letter: str, array: Array) -> int:
    """Require `(T, n, m)` or `(n, m)`, and return n."""
    batch = (letter, "m") if array.ndim == 2 else ("T", letter, "m")
    sizes: checks.Sizes = {}
    checks.shape(place, name, array, batch, sizes)
    return sizes[letter]


def _mask(place: str, array: Array, mask: Array | None) -> Array | None:
    """Return the mask with an axis of features, or None."""
    if mask is None:
        return None
    xp = arrays.namespace(mask)
    if not xp.isdtype(mask.dtype, "bool"):
        raise TypeError(f"{place}: mask has dtype {mask.dtype}, expected bool")
    checks.shape(place, "mask", mask, array.shape[:-2] + array.shape[-1:], {})
    return xp.expand_dims(mask, axis=-2)


def _count(xp: Namespace, keep: Array | None, array: Array) -> Array | float:
    """Return how many entries of `array` are kept, at least 1."""
    if keep is None:
        return float(math.prod(array.shape))  # PyTorch has another `size`
    ones = xp.astype(xp.broadcast_to(keep, array.shape), array.dtype)
    total = xp.sum(ones)
    return xp.where(total > 0, total, xp.ones_like(total))
