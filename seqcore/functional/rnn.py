"""The RNN of the textbook door, computed by the core."""

from __future__ import annotations

from typing import TypeAlias

from seqcore import activations, checks
from seqcore.arrays import Array, Namespace, Params
from seqcore.cells import RNNCell, RNNState
from seqcore.cells.rnn import RNNSaved
from seqcore.functional.steps import (
    backward,
    cell_caches,
    check_cache,
    check_gradients,
    enter,
    forward,
    leave,
    output_layer,
)
from seqcore.layers import Dense
from seqcore.sequence import tape

# (a_next, a_prev, xt, parameters)
RNNCache: TypeAlias = tuple[Array, Array, Array, Params]
_CACHE = 4  # entries


def rnn_cell_forward(xt: Array, a_prev: Array, parameters: Params) -> tuple[Array, Array, RNNCache]:
    """Take one step of the RNN cell.

    Parameters
    ----------
    xt : (n_x, m)
        Input of the step.
    a_prev : (n_a, m)
        Hidden state before it.
    parameters
        As in the module's docstring.

    Returns
    -------
    a_next, yt_pred, cache
        Hidden state `(n_a, m)`, softmax output `(n_y, m)`, `(a_next, a_prev, xt,
        parameters)`. The cache holds these arrays themselves: do not write into them before
        `rnn_cell_backward`.

    Raises
    ------
    ValueError
        For wrong shapes or a missing parameter.
    TypeError
        For wrong or mixed dtypes, libraries or devices.
    """
    place = "rnn_cell_forward"
    xp = _check_rnn(place, {"xt": xt, "a_prev": a_prev}, parameters, ("n_x", "m"))
    a, y_pred, _ = _rnn(xp, xp.expand_dims(xt, axis=-1), a_prev, parameters)
    a_next = a[..., 0]
    return a_next, y_pred[..., 0], (a_next, a_prev, xt, parameters)


def rnn_forward(
    x: Array, a0: Array, parameters: Params
) -> tuple[Array, Array, tuple[list[RNNCache], Array]]:
    """Run the RNN over a sequence.

    Parameters
    ----------
    x : (n_x, m, T_x)
        Inputs.
    a0 : (n_a, m)
        Hidden state before the first step.
    parameters
        As in the module's docstring.

    Returns
    -------
    a, y_pred, caches
        Hidden states `(n_a, m, T_x)`, softmax outputs `(n_y, m, T_x)`, and `(list of T_x
        cell caches, x)`. The caches hold x, a0 and the parameters themselves: do not write into
        them before `rnn_backward`. They share nothing with a and y_pred.

    Raises
    ------
    ValueError, TypeError
        As `rnn_cell_forward`.
    """
    xp = _check_rnn("rnn_forward", {"x": x, "a0": a0}, parameters, ("n_x", "m", "T_x"))
    return _rnn(xp, x, a0, parameters)


def rnn_cell_backward(da_next: Array, cache: RNNCache) -> dict[str, Array]:
    """Take one backward step of the RNN cell.

    Parameters
    ----------
    da_next : (n_a, m)
        dL/da_next.
    cache
        From `rnn_cell_forward`, or one of a sequence.

    Returns
    -------
    dict
        `dxt (n_x, m)`, `da_prev (n_a, m)`, `dWax`, `dWaa`, `dba`.

    Raises
    ------
    ValueError, TypeError
        For a gradient that does not fit the cache, or a wrong cache.
    """
    check_cache("rnn_cell_backward", cache, _CACHE)
    xp = check_gradients("rnn_cell_backward", {"da_next": da_next}, cache[0], None)
    grads = _rnn_back(xp, xp.expand_dims(da_next, axis=-1), [cache])
    return {"dxt": grads.pop("dx")[..., 0], "da_prev": grads.pop("da0"), **grads}


def rnn_backward(da: Array, caches: tuple[list[RNNCache], Array]) -> dict[str, Array]:
    """Run the backward pass of `rnn_forward`.

    Parameters
    ----------
    da : (n_a, m, T_x)
        dL/da of each step, not counting what comes through later steps. With fewer steps than
        x it is that of the first ones, and the sequence ends there.
    caches
        From `rnn_forward`.

    Returns
    -------
    dict
        `dx (n_x, m, T_x)`, `da0 (n_a, m)`, `dWax`, `dWaa`, `dba`; T_x is that of da.

    Raises
    ------
    ValueError, TypeError
        As `rnn_cell_backward`, and for a da of more steps than the caches have.
    """
    cells = cell_caches("rnn_backward", caches, _CACHE)
    xp = check_gradients("rnn_backward", {"da": da}, cells[0][0], len(cells))
    return _rnn_back(xp, da, cells[: da.shape[2]])


def _check_rnn(
    place: str, named: dict[str, Array], parameters: Params, axes: tuple[str, ...]
) -> Namespace:
    names = ("Wax", "Waa", "Wya", "ba", "by")
    checks.parameters(place, parameters, names, others=True, argument="parameters")
    xp = checks.floats(place, named | {name: parameters[name] for name in names})
    x, a = named
    sizes: checks.Sizes = {}
    checks.shape(place, x, named[x], axes, sizes)
    checks.shape(place, a, named[a], ("n_a", "m"), sizes)
    shapes: dict[str, tuple[int | str, ...]] = {
        "Wax": ("n_a", "n_x"),
        "Waa": ("n_a", "n_a"),
        "ba": ("n_a", 1),
        "Wya": ("n_y", "n_a"),
        "by": ("n_y", 1),
    }
    for name, shape in shapes.items():
        checks.shape(place, name, parameters[name], shape, sizes)
    return xp


def _rnn(
    xp: Namespace, x: Array, a0: Array, parameters: Params
) -> tuple[Array, Array, tuple[list[RNNCache], Array]]:
    core = _pack_rnn(xp, parameters)
    a, _, _ = forward(RNNCell(), core, enter(xp, x), RNNState(a0))
    output = output_layer("rnn_forward", parameters, "Wya")
    logits, _ = Dense(output["W"].shape[0]).predict(output, a)
    y_pred = activations.softmax(logits)
    cells: list[RNNCache] = []
    for t in range(a.shape[0]):
        a_prev = cells[-1][0] if cells else a0
        cells.append((a[t, ...], a_prev, x[..., t], parameters))
    own = xp.stack([cell[0] for cell in cells])  # a copy: the caller may write into it
    return leave(xp, own), leave(xp, y_pred), (cells, x)


def _pack_rnn(xp: Namespace, parameters: Params) -> Params:
    names = {"W_x": "Wax", "W_h": "Waa", "b": "ba"}
    return {core: xp.expand_dims(parameters[name], axis=0) for core, name in names.items()}


def _rnn_back(xp: Namespace, da: Array, cells: list[RNNCache]) -> dict[str, Array]:
    parameters = cells[0][3]
    after, before, x, _ = zip(*cells, strict=True)
    saved = RNNSaved(before, after)
    steps = tape.of_steps(RNNCell(), xp.stack(x), RNNState(before[0]), saved)
    core = _pack_rnn(xp, parameters)
    dlast = RNNState(xp.zeros_like(before[0]))
    dx, grads, dstate = backward(core, steps, enter(xp, da), dlast)
    return {
        "dx": leave(xp, dx),
        "da0": dstate.h,
        "dWax": grads["W_x"][0, ...],
        "dWaa": grads["W_h"][0, ...],
        "dba": grads["b"][0, ...],
    }
