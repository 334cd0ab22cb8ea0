"""The mean squared error.

    (1)  L = 1/N sum (y - t)^2
    (1') dL/dy = 2 (y - t) / N

The sum runs over the entries that are kept; N is their number, or `total`.
"""

from __future__ import annotations

from seqcore import checks
from seqcore.arrays import Array
from seqcore.losses import columns
from seqcore.masks import where_mask


def squared_error(
    y: Array,
    targets: Array,
    mask: Array | None = None,
    total: float | Array | None = None,
) -> tuple[Array, Array]:
    """Return the mean squared error, and its gradient with respect to y.

    Parameters
    ----------
    y : (T, n_y, m) or (n_y, m)
        Predictions.
    targets
        What they should be, in the shape and dtype of y.
    mask : (T, m) or (m,) of bool, optional
        Which steps count; targets elsewhere may be anything.
    total : float or 0-d array, optional
        What the sum is divided by, instead of the number of entries that count (n_y in each
        step of an example). Give each part of a batch the number of entries in the whole
        batch, and the losses and gradients of the parts add up to those of the whole.

    Returns
    -------
    loss, dy
        A 0-d array: the mean of (y - t)^2 over the entries that count; and dL/dy.

    Raises
    ------
    ValueError
        For wrong shapes, or a total that is not more than 0.
    TypeError
        For wrong or mixed dtypes, libraries or devices.

    Notes
    -----
    The value of a total that is an array is not read; unless it is more than 0 and finite,
    the results are NaN.

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
    columns.features(place, "y", "n_y", y)
    checks.shape(place, "targets", targets, tuple(y.shape), {})
    keep = columns.kept(place, y, mask)
    error = where_mask(xp, keep, y) - where_mask(xp, keep, targets)
    n = columns.divisor(place, "y", y, keep, total)
    return xp.sum(error * error) / n, (2.0 * error) / n  # (1), (1')
