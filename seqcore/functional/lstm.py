"""The LSTM of the textbook door, computed by the core."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from seqcore import activations, checks
from seqcore.arrays import Array, Namespace, Params
from seqcore.cells import LSTMCell, LSTMState
from seqcore.cells.lstm import LSTMSaved
from seqcore.functional.steps import (
    backward,
    cell_caches,
    check_cache,
    check_gradients,
    enter,
    forward,
    leave,
    one_name,
    output_layer,
)
from seqcore.layers import Dense
from seqcore.sequence import tape

# (a_next, c_next, a_prev, c_prev, ft, it, cct, ot, xt, parameters)
LSTMCache: TypeAlias = tuple[Array, Array, Array, Array, Array, Array, Array, Array, Array, Params]
_CACHE = 10  # entries


def lstm_cell_forward(
    xt: Array, a_prev: Array, c_prev: Array, parameters: Params
) -> tuple[Array, Array, Array, LSTMCache]:
    """Take one step of the LSTM cell.

    Parameters
    ----------
    xt : (n_x, m)
        Input of the step.
    a_prev, c_prev : (n_a, m)
        Hidden and cell state before it.
    parameters
        As in the module's docstring.

    Returns
    -------
    a_next, c_next, yt_pred, cache
        States `(n_a, m)`, softmax output `(n_y, m)`, `(a_next, c_next, a_prev, c_prev, ft,
        it, cct, ot, xt, parameters)`. The cache holds these arrays themselves: do not write
        into them before `lstm_cell_backward`.

    Raises
    ------
    ValueError
        For wrong shapes, a missing parameter, or the input gate under both of its names.
    TypeError
        For wrong or mixed dtypes, libraries or devices.
    """
    place = "lstm_cell_forward"
    named = {"xt": xt, "a_prev": a_prev, "c_prev": c_prev}
    xp = _check_lstm(place, named, parameters, ("n_x", "m"))
    state = LSTMState(a_prev, c_prev)
    _, y, _, (cells, _) = _lstm(xp, xp.expand_dims(xt, axis=-1), state, parameters)
    a_next, c_next, _, _, ft, it, cct, ot, _, _ = cells[0]
    cache = (a_next, c_next, a_prev, c_prev, ft, it, cct, ot, xt, parameters)
    return a_next, c_next, y[..., 0], cache


def lstm_forward(
    x: Array, a0: Array, parameters: Params, *, c0: Array | None = None
) -> tuple[Array, Array, Array, tuple[list[LSTMCache], Array]]:
    """Run the LSTM over a sequence.

    Parameters
    ----------
    x : (n_x, m, T_x)
        Inputs.
    a0 : (n_a, m)
        Hidden state before the first step.
    parameters
        As in the module's docstring.
    c0 : (n_a, m), optional
        Cell state before the first step, 0 by default.

    Returns
    -------
    a, y, c, caches
        Hidden states `(n_a, m, T_x)`, softmax outputs `(n_y, m, T_x)`, cell states `(n_a, m,
        T_x)`, and `(list of T_x cell caches, x)`. The caches hold x, a0, c0 and the parameters
        themselves: do not write into them before `lstm_backward`. They share nothing with a, y
        and c.

    Raises
    ------
    ValueError, TypeError
        As `lstm_cell_forward`.
    """
    place = "lstm_forward"
    named = {"x": x, "a0": a0} if c0 is None else {"x": x, "a0": a0, "c0": c0}
    xp = _check_lstm(place, named, parameters, ("n_x", "m", "T_x"))
    return _lstm(xp, x, LSTMState(a0, xp.zeros_like(a0) if c0 is None else c0), parameters)


def lstm_cell_backward(da_next: Array, dc_next: Array, cache: LSTMCache) -> dict[str, Array]:
    """Take one backward step of the LSTM cell.

    Parameters
    ----------
    da_next, dc_next : (n_a, m)
        dL/da_next and dL/dc_next.
    cache
        From `lstm_cell_forward`, or one of a sequence.

    Returns
    -------
    dict
        `dxt (n_x, m)`, `da_prev`, `dc_prev (n_a, m)`, and the gradient of each gate's
        parameters, `dWf`, `dbf`, `dWi`, `dbi`, `dWc`, `dbc`, `dWo`, `dbo`.

    Raises
    ------
    ValueError, TypeError
        For gradients that do not fit the cache, or a wrong cache.
    """
    place, named = "lstm_cell_backward", {"da_next": da_next, "dc_next": dc_next}
    check_cache(place, cache, _CACHE)
    xp = check_gradients(place, named, cache[0], None)
    grads = _lstm_back(place, xp, xp.expand_dims(da_next, axis=-1), dc_next, [cache])
    dxt, da_prev, dc_prev = grads.pop("dx")[..., 0], grads.pop("da0"), grads.pop("dc0")
    return {"dxt": dxt, "da_prev": da_prev, "dc_prev": dc_prev, **grads}


def lstm_backward(da: Array, caches: tuple[list[LSTMCache], Array]) -> dict[str, Array]:
    """Run the backward pass of `lstm_forward`.

    Parameters
    ----------
    da : (n_a, m, T_x)
        dL/da of each step, not counting what comes through later steps. With fewer steps than
        x it is that of the first ones, and the sequence ends there.
    caches
        From `lstm_forward`.

    Returns
    -------
    dict
        `dx (n_x, m, T_x)`, `da0`, `dc0 (n_a, m)`, and the gradient of each gate's parameters,
        `dWf`, `dbf`, `dWi`, `dbi`, `dWc`, `dbc`, `dWo`, `dbo`; T_x is that of da.

    Raises
    ------
    ValueError, TypeError
        As `lstm_cell_backward`, and for a da of more steps than the caches have.
    """
    place = "lstm_backward"
    cells = cell_caches(place, caches, _CACHE)
    xp = check_gradients(place, {"da": da}, cells[0][0], len(cells))
    return _lstm_back(place, xp, da, xp.zeros_like(cells[0][1]), cells[: da.shape[2]])


class _Gates(NamedTuple):
    """The notebooks' suffixes of the gates, in the core's order i, f, o, c."""

    i: str
    f: str
    o: str
    c: str


def _gates(place: str, parameters: Params) -> _Gates:
    pair = one_name(place, parameters, {"Wi": "i", "bi": "i", "Wu": "u", "bu": "u"})
    return _Gates(pair or "i", "f", "o", "c")


def _check_lstm(
    place: str,
    named: dict[str, Array],
    parameters: Params,
    axes: tuple[str, ...],
) -> Namespace:
    checks.parameters(place, parameters, (), others=True, argument="parameters")
    gates = _gates(place, parameters)
    names = [f"{kind}{gate}" for gate in gates for kind in "Wb"] + ["Wy", "by"]
    checks.parameters(place, parameters, names, others=True, argument="parameters")
    xp = checks.floats(place, named | {name: parameters[name] for name in names})
    x, *states = named
    sizes: checks.Sizes = {}
    checks.shape(place, x, named[x], axes, sizes)
    for name in states:
        checks.shape(place, name, named[name], ("n_a", "m"), sizes)
    sizes["n_a + n_x"] = sizes["n_a"] + sizes["n_x"]
    for gate in gates:
        checks.shape(place, f"W{gate}", parameters[f"W{gate}"], ("n_a", "n_a + n_x"), sizes)
        checks.shape(place, f"b{gate}", parameters[f"b{gate}"], ("n_a", 1), sizes)
    checks.shape(place, "Wy", parameters["Wy"], ("n_y", "n_a"), sizes)
    checks.shape(place, "by", parameters["by"], ("n_y", 1), sizes)
    return xp


def _lstm(
    xp: Namespace, x: Array, start: LSTMState, parameters: Params
) -> tuple[Array, Array, Array, tuple[list[LSTMCache], Array]]:
    core = _pack_lstm(xp, parameters, _gates("lstm_forward", parameters))
    a, last, steps = forward(LSTMCell(), core, enter(xp, x), start)
    output = output_layer("lstm_forward", parameters, "Wy")
    logits, _ = Dense(output["W"].shape[0]).predict(output, a)
    y = activations.softmax(logits)
    before_a, before_c, ifo, g = tape.saved_steps(xp, steps)[:4]
    after_a, after_c = (*before_a[1:], last.h), (*before_c[1:], last.c)
    cells: list[LSTMCache] = []
    for t in range(a.shape[0]):
        i, f, o = (ifo[t][gate, ...] for gate in range(3))
        states = (after_a[t], after_c[t], before_a[t], before_c[t])
        cells.append((*states, f, i, g[t], o, x[..., t], parameters))
    return leave(xp, a), leave(xp, y), leave(xp, xp.stack(after_c)), (cells, x)


def _pack_lstm(xp: Namespace, parameters: Params, gates: _Gates) -> Params:
    W = xp.stack([parameters[f"W{gate}"] for gate in gates])  # (4, n_a, n_a + n_x)
    n_a = W.shape[1]
    b = xp.stack([parameters[f"b{gate}"] for gate in gates])
    return {"W_x": W[:, :, n_a:], "W_h": W[:, :, :n_a], "b": b}


def _lstm_back(
    place: str, xp: Namespace, da: Array, dc: Array, cells: list[LSTMCache]
) -> dict[str, Array]:
    _, c, a_prev, c_prev, ft, it, cct, ot, xt, params = zip(*cells, strict=True)
    saved = LSTMSaved(
        h=a_prev,
        c=c_prev,
        ifo=tuple([xp.stack(gates) for gates in zip(it, ft, ot, strict=True)]),
        g=cct,
        tanh_c=tuple([xp.tanh(c_t) for c_t in c]),
    )
    start = LSTMState(a_prev[0], c_prev[0])
    steps = tape.of_steps(LSTMCell(), xp.stack(xt), start, saved)
    parameters = params[0]
    dstate = LSTMState(xp.zeros_like(dc), dc)
    gates = _gates(place, parameters)  # the caller's own dict, which may have changed
    core = _pack_lstm(xp, parameters, gates)
    dx, grads, dstart = backward(core, steps, enter(xp, da), dstate)
    dW = xp.concat((grads["W_h"], grads["W_x"]), axis=2)  # over [a_prev; xt]
    named = {"dx": leave(xp, dx), "da0": dstart.h, "dc0": dstart.c}
    for gate in (gates.f, gates.i, gates.c, gates.o):
        named[f"dW{gate}"] = dW[gates.index(gate), ...]
        named[f"db{gate}"] = grads["b"][gates.index(gate), ...]
    return named
