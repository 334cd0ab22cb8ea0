"""The softmax output of the textbook door, its loss, and their backward pass."""

from __future__ import annotations

from seqcore import activations, checks
from seqcore.arrays import Array, Params
from seqcore.functional.steps import enter, leave, one_name, output_layer
from seqcore.layers import Dense


def softmax(x: Array) -> Array:
    """Return the softmax of x over axis 0.

    Parameters
    ----------
    x : (n, ...)
        Floats.

    Returns
    -------
    (n, ...)
        Positive, with sum 1 over axis 0.

    Raises
    ------
    TypeError
        If x is not an array of floats.
    ValueError
        If x has no entry along axis 0.
    """
    return activations.softmax(x, axis=0)


def cross_entropy_loss_t(y_t: Array, y_pred_t: Array) -> Array:
    """Return the cross entropy of each example at one step, in nats.

    Parameters
    ----------
    y_t : (n_y, m)
        The targets, one-hot.
    y_pred_t : (n_y, m)
        Probabilities; 0 counts as the smallest normal number.

    Returns
    -------
    (m,)
        -sum_k y_k log p_k.

    Raises
    ------
    ValueError, TypeError
        For wrong shapes; for wrong or mixed dtypes, libraries or devices.
    """
    place = "cross_entropy_loss_t"
    xp = checks.floats(place, {"y_t": y_t, "y_pred_t": y_pred_t})
    sizes: checks.Sizes = {}
    checks.shape(place, "y_t", y_t, ("n_y", "m"), sizes)
    checks.shape(place, "y_pred_t", y_pred_t, ("n_y", "m"), sizes)
    smallest = xp.full_like(y_pred_t, float(xp.finfo(y_pred_t.dtype).smallest_normal))
    return -xp.sum(y_t * xp.log(xp.where(y_pred_t > smallest, y_pred_t, smallest)), axis=0)


def softmax_output_backward(
    y: Array, y_pred: Array, a: Array, parameters: Params
) -> dict[str, Array]:
    """Return the gradients of the loss, through the softmax output to the hidden states.

    The loss is the cross entropy summed over steps and batch.

    Parameters
    ----------
    y : (n_y, m, T_x)
        The targets, one-hot.
    y_pred : (n_y, m, T_x)
        Softmax outputs of `rnn_forward` or `lstm_forward`.
    a : (n_a, m, T_x)
        Hidden states from the same call.
    parameters
        With `Wya` or `Wy`, and `by`.

    Returns
    -------
    dict
        `da (n_a, m, T_x)` for `rnn_backward` or `lstm_backward`, `dWya` (or `dWy`), `dby`.
        For a loss over the first steps only, give those of y, y_pred and a.

    Raises
    ------
    ValueError
        For wrong shapes, a missing parameter, or both of `Wya` and `Wy`.
    TypeError
        For wrong or mixed dtypes, libraries or devices.
    """
    place = "softmax_output_backward"
    checks.parameters(place, parameters, (), others=True, argument="parameters")
    W = one_name(place, parameters, {"Wya": "Wya", "Wy": "Wy"}) or "Wy"
    output = output_layer(place, parameters, W)
    xp = checks.floats(place, {"y": y, "y_pred": y_pred, "a": a, W: output["W"], "by": output["b"]})
    sizes: checks.Sizes = {}
    checks.shape(place, W, output["W"], ("n_y", "n_a"), sizes)
    checks.shape(place, "by", output["b"], ("n_y", 1), sizes)
    checks.shape(place, "y", y, ("n_y", "m", "T_x"), sizes)
    checks.shape(place, "y_pred", y_pred, ("n_y", "m", "T_x"), sizes)
    checks.shape(place, "a", a, ("n_a", "m", "T_x"), sizes)
    dlogits = y_pred * xp.sum(y, axis=0, keepdims=True) - y
    dense = Dense(sizes["n_y"])
    _, _, seen = dense.forward(output, enter(xp, a))
    da, grads, _ = dense.backward(output, seen, enter(xp, dlogits))
    return {"da": leave(xp, da), f"d{W}": grads["W"], "dby": grads["b"]}
