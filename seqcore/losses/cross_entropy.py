"""The cross entropy of a softmax, for classes or distributions.

    (1)  L = -1/N sum_k y_k log p_k,  p = softmax(logits)
    (1') dL/dlogits = (p sum_k y_k - y) / N

The outer sum runs over the columns that are kept (a column is one step of one example); N is
their number, or `total`.
"""

from __future__ import annotations

from seqcore import activations, arrays, checks
from seqcore.arrays import Array
from seqcore.losses import columns
from seqcore.masks import where_mask


def cross_entropy(
    logits: Array,
    targets: Array,
    mask: Array | None = None,
    total: float | Array | None = None,
) -> tuple[Array, Array]:
    """Return the softmax cross entropy in nats, and its gradient with respect to the logits.

    Parameters
    ----------
    logits : (T, n_y, m) or (n_y, m)
        Scores before the softmax.
    targets : (T, m) or (m,) of integers, or of the shape of the logits
        Classes `0 <= class < n_y`, or a distribution over them in the dtype of the logits
        (one-hot, say).
    mask : (T, m) or (m,) of bool, optional
        Which steps count; targets elsewhere may be anything.
    total : float or 0-d array, optional
        What the sum is divided by, instead of the number of columns that count. Give each
        part of a batch the number of columns in the whole batch, and the losses and
        gradients of the parts add up to those of the whole.

    Returns
    -------
    loss, dlogits
        A 0-d array: the mean over what counts; and dL/dlogits in the shape of the logits.

    Raises
    ------
    ValueError
        For wrong shapes, a class out of range, or a total that is not more than 0.
    TypeError
        For wrong or mixed dtypes, libraries or devices.

    Notes
    -----
    Classes that JAX traces, or that are lazy, cannot be read: one out of range makes the results
    NaN. The value of a total that is an array is not read; unless it is more than 0 and finite,
    the results are NaN.

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
    n_y = columns.features(place, "logits", "n_y", logits)
    keep = columns.kept(place, logits, mask)
    if arrays.is_floating(targets):
        checks.floating(place, {"logits": logits, "targets": targets})
        checks.shape(place, "targets", targets, tuple(logits.shape), {})
        wanted = where_mask(xp, keep, targets)
        weight = xp.sum(wanted, axis=-2, keepdims=True)
    else:
        checks.integral(place, "targets", targets)
        checks.shape(place, "targets", targets, logits.shape[:-2] + logits.shape[-1:], {})
        if mask is not None:
            targets = xp.where(mask, targets, xp.zeros_like(targets))
        checks.indices(place, "targets", targets, n_y, "class")
        hot = arrays.one_hot(xp, targets, n_y, logits.dtype, axis=-2)
        if not arrays.is_readable(targets):  # a class out of range would cost nothing
            known = (targets >= 0) & (targets < n_y)
            hot = hot + xp.expand_dims(arrays.nan_unless(known, logits.dtype), axis=-2)
        wanted = where_mask(xp, keep, hot)
        weight = where_mask(xp, keep, xp.ones_like(wanted[..., :1, :]))
    log_p = activations.log_softmax(where_mask(xp, keep, logits), axis=-2)
    # A class that is not wanted costs nothing, even where its log p is -inf.
    cost = wanted * xp.where(wanted != 0, log_p, xp.zeros_like(log_p))
    n = columns.divisor(place, "logits", logits[..., :1, :], keep, total)
    return -xp.sum(cost) / n, (xp.exp(log_p) * weight - wanted) / n  # (1), (1')
