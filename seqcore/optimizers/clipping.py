"""The norm of all gradients together, and clipping by it.

    (1) |g| = sqrt(sum g^2)                over all entries of all gradients
    (2) g *= min(1, max_norm / |g|)

Source: Pascanu, Mikolov & Bengio, "On the difficulty of training recurrent neural networks",
ICML 2013.
"""

from __future__ import annotations

from seqcore import arrays, checks
from seqcore.arrays import Array, Namespace, Params


def global_norm(grads: Params) -> Array:
    """Return the Euclidean norm of all gradients together, a 0-d array.

    All entries are divided by the largest of them first, so that no square overflows.

    Parameters
    ----------
    grads
        Gradients by name, at least one.

    Returns
    -------
    array
        0-d, in the dtype of the gradients; not finite if one of them is not.

    Raises
    ------
    ValueError
        If there are no gradients.
    TypeError
        For wrong or mixed dtypes, libraries or devices.

    Examples
    --------
    >>> import numpy as np, seqcore as sc
    >>> float(sc.global_norm({"w": np.asarray([1e200]), "b": np.asarray([0.0])}))
    1e+200
    """
    xp = checks.floats("global_norm", grads)
    largest = _largest(xp, grads)
    # Infinity, NaN and 0 cannot be divided by; an eighth of the largest float takes their
    # place. Not the largest float itself: XLA multiplies by the reciprocal, which would be
    # subnormal there and count as 0.
    eighth = xp.full_like(largest, float(xp.finfo(largest.dtype).max) / 8.0)
    unit = xp.where((largest > 0) & (largest < eighth), largest, eighth)
    total = xp.zeros_like(unit)
    for g in grads.values():
        scaled = g / unit
        # Not in place: PyTorch would keep a tensor that is multiplied by itself for good, if it
        # has a history.
        total = total + xp.sum(scaled * scaled)
    # At 0 the square root has no gradient, for whoever differentiates through this.
    none = total == 0
    root = xp.sqrt(xp.where(none, xp.ones_like(total), total))
    return xp.where(none, xp.zeros_like(total), unit * root)


def clip_by_global_norm(grads: Params, max_norm: float) -> tuple[Params, Array]:
    """Scale all gradients together so that their global norm is at most `max_norm`.

    Parameters
    ----------
    grads
        Gradients by name.
    max_norm
        More than 0.

    Returns
    -------
    grads, norm
        The scaled gradients, and the norm before scaling (0-d). If the norm is not finite, all
        gradients are NaN.

    Raises
    ------
    ValueError
        If max_norm is not more than 0.

    Examples
    --------
    >>> import numpy as np, seqcore as sc
    >>> grads, norm = sc.clip_by_global_norm({"w": np.asarray([3.0, 4.0])}, 1.0)
    >>> grads["w"], float(norm)
    (array([0.6, 0.8]), 5.0)
    """
    max_norm = checks.above_zero("clip_by_global_norm", "max_norm", max_norm, infinite=True)
    norm = global_norm(grads)
    xp = arrays.namespace(norm)
    one = scale = xp.ones_like(norm)
    if max_norm < float(xp.finfo(norm.dtype).max):  # or it is no limit
        # (2). Where nothing is clipped the divisor is 1, as the norm may be 0 or NaN there.
        above = norm > max_norm
        scale = xp.where(above, max_norm / xp.where(above, norm, one), one)
    # No scale makes infinity finite. NaN shows that; 0 times infinity would also warn.
    scale = scale + arrays.nan_unless(xp.isfinite(norm), norm.dtype)
    return {name: scale * g for name, g in grads.items()}, norm


def _largest(xp: Namespace, grads: Params) -> Array:
    """Return the largest absolute value in all gradients; NaN if any is NaN, 0 without any."""
    first = next(iter(grads.values()))
    entries = [g for g in grads.values() if 0 not in g.shape]
    if not entries:
        return xp.sum(first)
    return xp.max(xp.stack([xp.max(xp.abs(g)) for g in entries]))
