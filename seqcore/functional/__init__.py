"""The textbook door: the names, argument orders, shapes and caches of the notebooks.

Arrays are `(n_x, m)` for one time step and `(n_x, m, T_x)` for a sequence; parameters have
the notebooks' names. Each function packs what it is given, calls the core, which works in
`(T, n, m)`, and unpacks. Equations are in `seqcore.cells`.

RNN parameters: `Wax (n_a, n_x)`, `Waa (n_a, n_a)`, `Wya (n_y, n_a)`, `ba (n_a, 1)`, `by
(n_y, 1)`. LSTM parameters: `Wf, Wi, Wc, Wo (n_a, n_a + n_x)` over `[a_prev; xt]`, `bf, bi,
bc, bo (n_a, 1)`, `Wy (n_y, n_a)`, `by`. `Wu`, `bu` stand for `Wi`, `bi` where they are
given, and the gradients then say `dWu`, `dbu`.

Examples
--------
>>> import numpy as np
>>> from seqcore import functional as F
>>> rng = np.random.default_rng(0)
>>> n_x, n_a, n_y, m, T_x = 3, 5, 2, 4, 6
>>> shapes = {"Wax": (n_a, n_x), "Waa": (n_a, n_a), "ba": (n_a, 1)}
>>> shapes |= {"Wya": (n_y, n_a), "by": (n_y, 1)}
>>> parameters = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
>>> x, a0 = rng.standard_normal((n_x, m, T_x)), np.zeros((n_a, m))
>>> y = np.eye(n_y)[:, rng.integers(n_y, size=(m, T_x))]          # one-hot, (n_y, m, T_x)
>>> a, y_pred, caches = F.rnn_forward(x, a0, parameters)
>>> gradients = F.softmax_output_backward(y, y_pred, a, parameters)
>>> gradients |= F.rnn_backward(gradients["da"], caches)
>>> v, s = F.initialize_adam(parameters)
>>> parameters, v, s = F.update_parameters_with_adam(parameters, gradients, v, s, t=1)
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

from seqcore import activations, arrays, checks, optimizers
from seqcore.activations import sigmoid, sigmoid_deriv, softmax_deriv, tanh_deriv
from seqcore.arrays import Array, Namespace, Params
from seqcore.cells import Cell, LSTMCell, LSTMState, RNNCell, RNNState, State, linear
from seqcore.cells.lstm import LSTMSaved
from seqcore.cells.rnn import RNNSaved
from seqcore.layers import Dense
from seqcore.sequence import stepwise, tape

__all__ = [
    "cross_entropy_loss_t",
    "initialize_adam",
    "lstm_backward",
    "lstm_cell_backward",
    "lstm_cell_forward",
    "lstm_forward",
    "rnn_backward",
    "rnn_cell_backward",
    "rnn_cell_forward",
    "rnn_forward",
    "sigmoid",
    "sigmoid_deriv",
    "softmax",
    "softmax_deriv",
    "softmax_output_backward",
    "tanh_deriv",
    "update_parameters_with_adam",
]

# (a_next, a_prev, xt, parameters)
RNNCache: TypeAlias = tuple[Array, Array, Array, Params]
# (a_next, c_next, a_prev, c_prev, ft, it, cct, ot, xt, parameters)
LSTMCache: TypeAlias = tuple[Array, Array, Array, Array, Array, Array, Array, Array, Array, Params]
_RNN_CACHE, _LSTM_CACHE = 4, 10  # entries


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
        If x is no array of floats.
    ValueError
        If x has no entry along axis 0.
    """
    return activations.softmax(x, axis=0)


def cross_entropy_loss_t(y_t: Array, y_pred_t: Array) -> Array:
    """Return the cross entropy of each example at one step, in nats.

    Parameters
    ----------
    y_t : (n_y, m)
        What should come, one-hot.
    y_pred_t : (n_y, m)
        Probabilities. Those of 0 count as the smallest normal number.

    Returns
    -------
    (m,)
        -sum_k y_k log p_k.
    """
    place = "cross_entropy_loss_t"
    xp = checks.floats(place, {"y_t": y_t, "y_pred_t": y_pred_t})
    sizes: checks.Sizes = {}
    checks.shape(place, "y_t", y_t, ("n_y", "m"), sizes)
    checks.shape(place, "y_pred_t", y_pred_t, ("n_y", "m"), sizes)
    smallest = xp.full_like(y_pred_t, float(xp.finfo(y_pred_t.dtype).smallest_normal))
    return -xp.sum(y_t * xp.log(xp.where(y_pred_t > smallest, y_pred_t, smallest)), axis=0)


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
        parameters)`.

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
        cell caches, x)`.

    Raises
    ------
    ValueError, TypeError
        As `rnn_cell_forward`.
    """
    xp = _check_rnn("rnn_forward", {"x": x, "a0": a0}, parameters, ("n_x", "m", "T_x"))
    return _rnn(xp, x, a0, parameters)


def rnn_cell_backward(da_next: Array, cache: RNNCache) -> dict[str, Array]:
    """Go one step of the RNN cell back.

    Parameters
    ----------
    da_next : (n_a, m)
        dL/da_next.
    cache
        From `rnn_cell_forward`.

    Returns
    -------
    dict
        `dxt (n_x, m)`, `da_prev (n_a, m)`, `dWax`, `dWaa`, `dba`.
    """
    _check_cache("rnn_cell_backward", cache, _RNN_CACHE)
    xp = _check_gradients("rnn_cell_backward", {"da_next": da_next}, cache[0], None)
    grads = _rnn_back(xp, xp.expand_dims(da_next, axis=-1), [cache])
    return {"dxt": grads.pop("dx")[..., 0], "da_prev": grads.pop("da0"), **grads}


def rnn_backward(da: Array, caches: tuple[list[RNNCache], Array]) -> dict[str, Array]:
    """Go back through time over what `rnn_forward` did.

    Parameters
    ----------
    da : (n_a, m, T_x)
        dL/da of each step, not counting what comes through later steps.
    caches
        From `rnn_forward`.

    Returns
    -------
    dict
        `dx (n_x, m, T_x)`, `da0 (n_a, m)`, `dWax`, `dWaa`, `dba`.
    """
    cells = _cells("rnn_backward", caches, _RNN_CACHE)
    xp = _check_gradients("rnn_backward", {"da": da}, cells[0][0], len(cells))
    return _rnn_back(xp, da, cells)


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
        it, cct, ot, xt, parameters)`.

    Raises
    ------
    ValueError
        For wrong shapes or a missing parameter.
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
        T_x)`, and `(list of T_x cell caches, x)`.

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
    """Go one step of the LSTM cell back.

    Parameters
    ----------
    da_next, dc_next : (n_a, m)
        dL/da_next and dL/dc_next.
    cache
        From `lstm_cell_forward`.

    Returns
    -------
    dict
        `dxt (n_x, m)`, `da_prev`, `dc_prev (n_a, m)`, and the gradient of each gate's
        parameters, `dWf`, `dbf`, `dWi`, `dbi`, `dWc`, `dbc`, `dWo`, `dbo`.
    """
    named = {"da_next": da_next, "dc_next": dc_next}
    _check_cache("lstm_cell_backward", cache, _LSTM_CACHE)
    xp = _check_gradients("lstm_cell_backward", named, cache[0], None)
    grads = _lstm_back(xp, xp.expand_dims(da_next, axis=-1), dc_next, [cache])
    dxt, da_prev, dc_prev = grads.pop("dx")[..., 0], grads.pop("da0"), grads.pop("dc0")
    return {"dxt": dxt, "da_prev": da_prev, "dc_prev": dc_prev, **grads}


def lstm_backward(da: Array, caches: tuple[list[LSTMCache], Array]) -> dict[str, Array]:
    """Go back through time over what `lstm_forward` did.

    Parameters
    ----------
    da : (n_a, m, T_x)
        dL/da of each step, not counting what comes through later steps.
    caches
        From `lstm_forward`.

    Returns
    -------
    dict
        `dx (n_x, m, T_x)`, `da0`, `dc0 (n_a, m)`, and the gradient of each gate's parameters,
        `dWf`, `dbf`, `dWi`, `dbi`, `dWc`, `dbc`, `dWo`, `dbo`.
    """
    cells = _cells("lstm_backward", caches, _LSTM_CACHE)
    xp = _check_gradients("lstm_backward", {"da": da}, cells[0][0], len(cells))
    return _lstm_back(xp, da, xp.zeros_like(cells[0][1]), cells)


def softmax_output_backward(
    y: Array, y_pred: Array, a: Array, parameters: Params
) -> dict[str, Array]:
    """Go from the loss back to the hidden states, through the softmax output.

    The loss is the cross entropy summed over steps and batch.

    Parameters
    ----------
    y : (n_y, m, T_x)
        What should come, one-hot.
    y_pred : (n_y, m, T_x)
        Softmax outputs of `rnn_forward` or `lstm_forward`.
    a : (n_a, m, T_x)
        Hidden states of the same.
    parameters
        With `Wya` or `Wy`, and `by`.

    Returns
    -------
    dict
        `da (n_a, m, T_x)` for `rnn_backward` or `lstm_backward`, `dWya` (or `dWy`), `dby`.
    """
    place = "softmax_output_backward"
    checks.parameters(place, parameters, (), others=True, argument="parameters")
    W = "Wya" if "Wya" in parameters else "Wy"
    output = _output(place, parameters, W)
    xp = checks.floats(place, {"y": y, "y_pred": y_pred, "a": a, W: output["W"], "by": output["b"]})
    sizes: checks.Sizes = {}
    checks.shape(place, W, output["W"], ("n_y", "n_a"), sizes)
    checks.shape(place, "by", output["b"], ("n_y", 1), sizes)
    checks.shape(place, "y", y, ("n_y", "m", "T_x"), sizes)
    checks.shape(place, "y_pred", y_pred, ("n_y", "m", "T_x"), sizes)
    checks.shape(place, "a", a, ("n_a", "m", "T_x"), sizes)
    dlogits = y_pred * xp.sum(y, axis=0, keepdims=True) - y
    dense = Dense(sizes["n_y"])
    _, _, seen = dense.forward(output, _enter(xp, a))
    da, grads, _ = dense.backward(output, seen, _enter(xp, dlogits))
    return {"da": _leave(xp, da), f"d{W}": grads["W"], "dby": grads["b"]}


def initialize_adam(parameters: Params) -> tuple[Params, Params]:
    """Return Adam's moments before the first update.

    Parameters
    ----------
    parameters
        Arrays under any names, at least one.

    Returns
    -------
    v, s
        Zeros in the shape of each parameter, under `"d" + name`.
    """
    state = optimizers.adam().init(parameters)
    return _d(state.mu), _d(state.nu)


def update_parameters_with_adam(
    parameters: Params,
    grads: Params,
    v: Params,
    s: Params,
    t: int,
    learning_rate: float = 0.01,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    *,
    epsilon_root: float = 0.0,
) -> tuple[Params, Params, Params]:
    """Take one step of Adam, after the paper.

    Parameters
    ----------
    parameters
        Any names.
    grads
        Under `"d" + name`. A parameter without a gradient is left as it is; gradients of
        no parameter (dx, da0) are passed over.
    v, s
        From `initialize_adam` or the last update.
    t
        Number of this update: 1, 2, ...
    learning_rate, beta1, beta2
        Step size and decay of the two moments.
    epsilon, epsilon_root
        Added outside and inside the root.

    Returns
    -------
    parameters, v, s
        New dicts; what was given stays as it was.

    Raises
    ------
    ValueError
        For numbers out of range, or a moment that is missing.
    """
    place = "update_parameters_with_adam"
    checks.count(place, t=t)
    for given, which in ((parameters, "parameters"), (grads, "grads"), (v, "v"), (s, "s")):
        checks.parameters(place, given, (), others=True, argument=which)
    own = {name: grads[f"d{name}"] for name in parameters if f"d{name}" in grads}
    for name, g in own.items():
        p, d = parameters[name], f"d{name}"
        for moments, which in ((v, "v"), (s, "s")):
            if d not in moments:
                raise ValueError(f"{place}: {which} has no {d!r}; see initialize_adam")
        named = {name: p, d: g, f"v[{d!r}]": v[d], f"s[{d!r}]": s[d]}
        checks.floats(place, named)
        for label, value in named.items():
            checks.shape(place, label, value, tuple(p.shape), {})
    opt = optimizers.adam(learning_rate, beta1, beta2, epsilon, epsilon_root)
    done = arrays.integers_like(t - 1, next(iter(parameters.values())))
    state = optimizers.AdamState(
        done, {name: v[f"d{name}"] for name in own}, {name: s[f"d{name}"] for name in own}
    )
    parameters, state = opt.update(parameters, own, state)
    return parameters, v | _d(state.mu), s | _d(state.nu)


def _d(params: Params) -> Params:
    return {f"d{name}": value for name, value in params.items()}


def _enter(xp: Namespace, x: Array) -> Array:
    """Return `(n, m, T)` as `(T, n, m)`."""
    return xp.permute_dims(x, (2, 0, 1))


def _leave(xp: Namespace, x: Array) -> Array:
    """Return `(T, n, m)` as `(n, m, T)`."""
    return xp.permute_dims(x, (1, 2, 0))


def _forward(cell: Cell, params: Params, x: Array, start: State) -> tuple[Array, State, tape.Tape]:
    """Run a cell step by step: the caches need what a whole recurrence does not show."""
    xp = arrays.namespace(x)
    how = tape.How(cell, reverse=False, recompute=False, recurrence=None)
    return stepwise.forward(how, linear.prepared(xp, cell, params), x, start, None)


def _backward(
    params: Params, steps: tape.Tape, dy: Array, dstate: State
) -> tuple[Array, Params, State]:
    return stepwise.backward(params, steps, dy, dstate, frozenset({"x", *params}))


def _output(place: str, parameters: Params, W: str) -> Params:
    """Return the output layer's parameters as those of `Dense`."""
    checks.parameters(place, parameters, (W, "by"), others=True, argument="parameters")
    return {"W": parameters[W], "b": parameters["by"]}


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
    a, _, _ = _forward(RNNCell(), core, _enter(xp, x), RNNState(a0))
    output = _output("rnn_forward", parameters, "Wya")
    logits, _ = Dense(output["W"].shape[0]).predict(output, a)
    y_pred = activations.softmax(logits)
    cells: list[RNNCache] = []
    for t in range(a.shape[0]):
        a_prev = cells[-1][0] if cells else a0
        cells.append((a[t, ...], a_prev, x[..., t], parameters))
    return _leave(xp, a), _leave(xp, y_pred), (cells, x)


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
    dx, grads, dstate = _backward(core, steps, _enter(xp, da), dlast)
    return {
        "dx": _leave(xp, dx),
        "da0": dstate.h,
        "dWax": grads["W_x"][0, ...],
        "dWaa": grads["W_h"][0, ...],
        "dba": grads["b"][0, ...],
    }


class _Gates(NamedTuple):
    """The notebooks' suffixes of the gates, in the core's order i, f, o, c."""

    i: str
    f: str
    o: str
    c: str


def _gates(parameters: Params) -> _Gates:
    return _Gates("u" if "Wu" in parameters and "Wi" not in parameters else "i", "f", "o", "c")


def _check_lstm(
    place: str,
    named: dict[str, Array],
    parameters: Params,
    axes: tuple[str, ...],
) -> Namespace:
    checks.parameters(place, parameters, (), others=True, argument="parameters")
    gates = _gates(parameters)
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
    core = _pack_lstm(xp, parameters)
    a, last, steps = _forward(LSTMCell(), core, _enter(xp, x), start)
    output = _output("lstm_forward", parameters, "Wy")
    logits, _ = Dense(output["W"].shape[0]).predict(output, a)
    y = activations.softmax(logits)
    before_a, before_c, ifo, g = tape.saved_steps(xp, steps)[:4]
    after_a, after_c = (*before_a[1:], last.h), (*before_c[1:], last.c)
    cells: list[LSTMCache] = []
    for t in range(a.shape[0]):
        i, f, o = (ifo[t][gate, ...] for gate in range(3))
        states = (after_a[t], after_c[t], before_a[t], before_c[t])
        cells.append((*states, f, i, g[t], o, x[..., t], parameters))
    return _leave(xp, a), _leave(xp, y), _leave(xp, xp.stack(after_c)), (cells, x)


def _pack_lstm(xp: Namespace, parameters: Params) -> Params:
    gates = _gates(parameters)
    W = xp.stack([parameters[f"W{gate}"] for gate in gates])  # (4, n_a, n_a + n_x)
    n_a = W.shape[1]
    b = xp.stack([parameters[f"b{gate}"] for gate in gates])
    return {"W_x": W[:, :, n_a:], "W_h": W[:, :, :n_a], "b": b}


def _lstm_back(xp: Namespace, da: Array, dc: Array, cells: list[LSTMCache]) -> dict[str, Array]:
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
    core = _pack_lstm(xp, parameters)
    dx, grads, dstart = _backward(core, steps, _enter(xp, da), dstate)
    dW = xp.concat((grads["W_h"], grads["W_x"]), axis=2)  # over [a_prev; xt]
    named = {"dx": _leave(xp, dx), "da0": dstart.h, "dc0": dstart.c}
    gates = _gates(parameters)
    for gate in (gates.f, gates.i, gates.c, gates.o):
        named[f"dW{gate}"] = dW[gates.index(gate), ...]
        named[f"db{gate}"] = grads["b"][gates.index(gate), ...]
    return named


def _cells(place: str, caches: Any, size: int) -> list[Any]:
    """Return the cell caches of a sequence, at least one, each with `size` entries."""
    if not (isinstance(caches, tuple) and len(caches) == 2 and isinstance(caches[0], list)):
        raise TypeError(
            f"{place}: caches is a {type(caches).__name__}, expected (list of cell caches, x)"
        )
    cells: list[Any] = caches[0]
    if not cells:
        raise ValueError(f"{place}: caches hold no step, expected at least one")
    for cell in cells:
        _check_cache(place, cell, size)
    return cells


def _check_cache(place: str, cache: Any, size: int) -> None:
    if not isinstance(cache, tuple) or len(cache) != size:
        came = f"{len(cache)} entries" if isinstance(cache, tuple) else type(cache).__name__
        raise TypeError(
            f"{place}: the cache of a cell is {came}, expected the tuple of {size} that its "
            "forward gave"
        )


def _check_gradients(
    place: str, named: dict[str, Array], a: Array, n_steps: int | None
) -> Namespace:
    """Require gradients in the shape of the state `a (n_a, m)`, with T_x behind if given."""
    xp = checks.floats(place, named | {"cache": a})
    sizes = {"n_a": a.shape[0], "m": a.shape[1]}
    axes: tuple[str, ...] = ("n_a", "m")
    if n_steps is not None:
        axes, sizes["T_x"] = (*axes, "T_x"), n_steps
    for name, value in named.items():
        checks.shape(place, name, value, axes, sizes)
    return xp
