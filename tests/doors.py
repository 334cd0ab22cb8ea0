"""Every public function that takes arrays.

`doors()` has one entry for each way in: the arrays of one call, by the names that its messages
use. A new public function is one entry; the tests of the doors then run on it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from problems import LENGTHS, MASK, N_A, N_X, N_Y, TOKENS, M, T

import seqcore as sc
from seqcore import functional as F

Arrays = dict[str, Any]


class Door(NamedTuple):
    """A public function, and the arrays of one call by their names in messages."""

    arrays: Arrays  # on the host, float64, int64 or bool
    call: Callable[[Arrays], Any]  # takes all of them, and returns arrays in tuples and dicts
    also: Mapping[str, Any] = MappingProxyType({})  # what the call always gets as it is


# Public names that take no arrays, and check_gradients, which takes float64 only.
WITHOUT = {
    *("Checkpoint", "GradientError", "Layer", "blas_threads", "check_gradients", "functional"),
    *("adam", "adamw", "sgd"),
}


def doors() -> dict[str, Door]:
    """Return every door by its name."""
    return {
        **{f"sc.{name}": door for name, door in _functions().items()},
        **{f"sc.{name}": door for name, door in _optimizers().items()},
        **{f"sc.{name}": door for name, door in _files().items()},
        **{f"functional.{name}": door for name, door in _textbook().items()},
        **_layers(),
    }


def _drawn(**shapes: tuple[int, ...]) -> Arrays:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def _functions() -> dict[str, Door]:
    rng = np.random.default_rng(1)
    columns = (T, N_Y, M)
    activations = {
        "sigmoid": ("x", sc.sigmoid),
        "tanh": ("x", sc.tanh),
        "relu": ("x", sc.relu),
        "softmax": ("x", sc.softmax),
        "log_softmax": ("x", sc.log_softmax),
    }
    classes = {"logits": _drawn(a=columns)["a"], "targets": rng.integers(N_Y, size=(T, M))}
    counted = {"mask": MASK, "total": np.asarray(7.0)}
    y = {"y": _drawn(a=columns)["a"], "targets": _drawn(b=columns)["b"]}
    return {
        **{
            name: Door(_drawn(**{label: columns}), _first(function))
            for name, (label, function) in activations.items()
        },
        "sequence_mask": Door(
            {"lengths": np.asarray(LENGTHS)}, lambda a: sc.sequence_mask(a["lengths"], T)
        ),
        "last": Door(
            {"y": y["y"], "lengths": np.asarray(LENGTHS), "mask": MASK}, lambda a: sc.last(**a)
        ),
        "last_backward": Door(
            {"dlast": y["y"][0], "lengths": np.asarray(LENGTHS), "mask": MASK},
            lambda a: sc.last_backward(n_steps=T, **a),
        ),
        "cross_entropy": Door(classes | counted, lambda a: sc.cross_entropy(**a)),
        "cross_entropy of distributions": Door(
            classes | {"targets": np.full(columns, 1.0 / N_Y)}, lambda a: sc.cross_entropy(**a)
        ),
        "squared_error": Door(y | counted, lambda a: sc.squared_error(**a)),
        "global_norm": Door(_drawn(w=(2, 3), b=(2, 1)), sc.global_norm),
        "clip_by_global_norm": Door(
            _drawn(w=(2, 3), b=(2, 1)), lambda a: sc.clip_by_global_norm(a, 1.0)
        ),
    }


def _first(function: Callable[..., Any]) -> Callable[[Arrays], Any]:
    return lambda a: function(*a.values())


def _moments(opt: Any) -> Callable[[Arrays], Any]:
    return lambda a: opt.init(a)[1:]


def _update(opt: Any, names: list[str]) -> Callable[[Arrays], Any]:
    """Return an update of one parameter, from a state of given arrays."""

    def update(a: Arrays) -> Any:
        state = opt.init({"w": a["plain"]})
        given: Any = {"count": a["state.count"]}
        given |= {name: {"w": a[f"state.{name} 'w'"]} for name in names}
        return opt.update(
            {"w": a["parameter 'w'"]}, {"w": a["gradient 'w'"]}, state._replace(**given)
        )

    return update


def _optimizers() -> dict[str, Door]:
    found = {}
    for name, opt in {
        "adam": sc.adam(),
        "adamw": sc.adamw(),
        "sgd": sc.sgd(0.1, momentum=0.9),
    }.items():
        moments = ["trace"] if name == "sgd" else ["mu", "nu"]
        counts = [] if name == "sgd" else ["counts"]
        floats = _drawn(**dict.fromkeys(("parameter 'w'", "gradient 'w'"), (2, 3)))
        floats |= {f"state.{moment} 'w'": np.ones((2, 3)) for moment in moments}
        integers = {f"state.{count} 'w'": np.asarray(4) for count in counts}
        found[f"{name}.init"] = Door(_drawn(w=(2, 3)), _moments(opt))
        found[f"{name}.update"] = Door(
            floats | integers | {"state.count": np.asarray(7)},
            _update(opt, moments + counts),
            {"plain": np.zeros((2, 3))},
        )
    schedules: dict[str, Callable[..., Any]] = {
        "constant": sc.constant(0.1),
        "cosine": sc.cosine(0.1, 9),
        "warmup": sc.warmup(9, sc.cosine(0.1, 9)),
    }
    for name, schedule in schedules.items():
        found[name] = Door({"count": np.asarray(4)}, _first(schedule))
    return found


def _files() -> dict[str, Door]:
    dense = sc.Dense(2)
    weights = _drawn(W=(2, 3), b=(2, 1))

    def checkpoint(a: Arrays, path: Path) -> Any:
        sc.save_checkpoint(path, {"w": a["params.w"]}, state=(a["state.0"],))
        found = sc.load_checkpoint(path)
        return found.params, found.state

    def checkpoint_like(a: Arrays, path: Path) -> Any:
        sc.save_checkpoint(path, {"w": np.ones(3)})
        return sc.load_checkpoint(path, like=a["like"]).params

    def model(a: Arrays, path: Path) -> Any:
        sc.save_model(path, dense, a)
        return sc.load_model(path)[1]

    def model_like(a: Arrays, path: Path) -> Any:
        sc.save_model(path, dense, weights)
        return sc.load_model(path, like=a["like"])[1]

    like = _drawn(like=(1,))
    return {
        "save_checkpoint": Door(
            _drawn(**{"params.w": (2, 3), "state.0": (2, 1)}), _in_a_file(checkpoint)
        ),
        "load_checkpoint": Door(like, _in_a_file(checkpoint_like)),
        "save_model": Door(weights, _in_a_file(model)),
        "load_model": Door(like, _in_a_file(model_like)),
    }


def _in_a_file(call: Callable[[Arrays, Path], Any]) -> Callable[[Arrays], Any]:
    def within(a: Arrays) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            return call(a, Path(folder) / "file.safetensors")

    return within


def _textbook() -> dict[str, Door]:
    a_x, of_x = (N_A, N_A + N_X), {"x": (N_X, M, T), "a0": (N_A, M)}
    output = {"by": (N_Y, 1)}
    rnn = {"Wax": (N_A, N_X), "Waa": (N_A, N_A), "ba": (N_A, 1), "Wya": (N_Y, N_A)} | output
    lstm = {f"W{gate}": a_x for gate in "fico"} | {f"b{gate}": (N_A, 1) for gate in "fico"}
    lstm |= {"Wy": (N_Y, N_A)} | output

    def split(a: Arrays, names: Any) -> Arrays:
        return {name: a[name] for name in names}

    one_hot = np.eye(N_Y)[:, np.random.default_rng(2).integers(N_Y, size=(M, T))]
    p = sc.softmax(_drawn(p=(N_Y, M))["p"])

    def back(a: Arrays, names: Any, forward: Any, backward: Any) -> Any:
        *_, caches = forward(a["x"], a["a0"], split(a, names))
        return backward(caches)

    return {
        "softmax": Door(_drawn(x=(N_Y, M)), lambda a: F.softmax(**a)),
        "sigmoid": Door(_drawn(x=(N_Y, M)), lambda a: F.sigmoid(**a)),
        "sigmoid_deriv": Door(_drawn(s=(N_Y, M)), lambda a: F.sigmoid_deriv(**a)),
        "tanh_deriv": Door(_drawn(t=(N_Y, M)), lambda a: F.tanh_deriv(**a)),
        "softmax_deriv": Door(_drawn(s=(N_Y, M)), lambda a: F.softmax_deriv(**a)),
        "cross_entropy_loss_t": Door(
            {"y_t": one_hot[:, :, 0], "y_pred_t": p}, lambda a: F.cross_entropy_loss_t(**a)
        ),
        "rnn_cell_forward": Door(
            _drawn(xt=(N_X, M), a_prev=(N_A, M), **rnn),
            lambda a: F.rnn_cell_forward(a["xt"], a["a_prev"], split(a, rnn))[:2],
        ),
        "rnn_forward": Door(
            _drawn(**of_x, **rnn), lambda a: F.rnn_forward(a["x"], a["a0"], split(a, rnn))[:2]
        ),
        "lstm_cell_forward": Door(
            _drawn(xt=(N_X, M), a_prev=(N_A, M), c_prev=(N_A, M), **lstm),
            lambda a: F.lstm_cell_forward(a["xt"], a["a_prev"], a["c_prev"], split(a, lstm))[:3],
        ),
        "lstm_forward": Door(
            _drawn(**of_x, **lstm),
            lambda a: F.lstm_forward(a["x"], a["a0"], split(a, lstm))[:3],
        ),
        "rnn_backward": Door(
            _drawn(da=(N_A, M, T)),
            lambda a: back(a, rnn, F.rnn_forward, lambda caches: F.rnn_backward(a["da"], caches)),
            _drawn(**of_x, **rnn),
        ),
        "lstm_backward": Door(
            _drawn(da=(N_A, M, T)),
            lambda a: back(
                a, lstm, F.lstm_forward, lambda caches: F.lstm_backward(a["da"], caches)
            ),
            _drawn(**of_x, **lstm),
        ),
        "rnn_cell_backward": Door(
            _drawn(da_next=(N_A, M)),
            lambda a: back(
                a,
                rnn,
                lambda x, a0, p: F.rnn_cell_forward(x[..., 0], a0, p),
                lambda cache: F.rnn_cell_backward(a["da_next"], cache),
            ),
            _drawn(**of_x, **rnn),
        ),
        "lstm_cell_backward": Door(
            _drawn(da_next=(N_A, M), dc_next=(N_A, M)),
            lambda a: back(
                a,
                lstm,
                lambda x, a0, p: F.lstm_cell_forward(x[..., 0], a0, a0, p),
                lambda cache: F.lstm_cell_backward(a["da_next"], a["dc_next"], cache),
            ),
            _drawn(**of_x, **lstm),
        ),
        "softmax_output_backward": Door(
            {
                "y": one_hot,
                **_drawn(y_pred=(N_Y, M, T), a=(N_A, M, T), Wya=(N_Y, N_A), **output),
            },
            lambda a: F.softmax_output_backward(
                a["y"], a["y_pred"], a["a"], split(a, ("Wya", "by"))
            ),
        ),
        "initialize_adam": Door(_drawn(W=(2, 3)), F.initialize_adam),
        "update_parameters_with_adam": Door(
            _drawn(W=(2, 3), dW=(2, 3)),
            lambda a: F.update_parameters_with_adam(
                {"W": a["W"]}, {"dW": a["dW"]}, *F.initialize_adam({"W": a["plain"]}), 1
            ),
            {"plain": np.zeros((2, 3))},
        ),
    }


LAYERS = {
    "RNN": (sc.RNN(N_A), N_X),
    "LSTM": (sc.LSTM(N_A), N_X),
    "RNN relu recomputed": (sc.RNN(N_A, activation="relu", recompute=True), N_X),
    "LSTM peephole": (sc.LSTM(N_A, peephole=True), N_X),
    "LSTM both ways": (sc.LSTM(N_A, bidirectional=True, layers=2), N_X),
    "GRU": (sc.GRU(N_A), N_X),
    "GRU reset before": (sc.GRU(N_A, reset_after=False), N_X),
    "Dense": (sc.Dense(N_Y), N_X),
    "Dropout": (sc.Dropout(0.5), N_X),
    "Embedding": (sc.Embedding(N_A), TOKENS),
    "Last": (sc.Last(), N_X),
    "Sequential": (sc.Sequential(sc.LSTM(N_A), sc.Dropout(0.5), sc.Dense(N_Y)), N_X),
    "Sharded": (sc.Sharded(sc.Sequential(sc.GRU(N_A), sc.Dense(N_Y)), 2), N_X),
}


def _layers() -> dict[str, Door]:
    found = {}
    for name, (layer, n_in) in LAYERS.items():
        for method, door in _of_layer(layer, n_in).items():
            found[f"{name}.{method}"] = door
    return found


def _of_layer(layer: Any, n_in: int) -> dict[str, Door]:
    rng = np.random.default_rng(3)
    params = {
        k: rng.standard_normal(v.shape)
        for k, v in layer.init(n_in, like=np.zeros(0), rng=0).items()
    }
    x: Any = rng.standard_normal((T, n_in, M))
    if n_in == TOKENS:
        x = rng.integers(TOKENS, size=(T, M))
    counted = {"lengths": np.asarray(LENGTHS), "mask": MASK}
    y, after = layer.predict(params, x)
    has_state = isinstance(after, tuple) and hasattr(after, "_fields")
    state = {f"state.{k}": np.asarray(v) for k, v in after._asdict().items()} if has_state else {}
    fields = list(state)

    def own(a: Arrays) -> Arrays:
        return {k: a[k] for k in params}

    def before(a: Arrays) -> Any:
        return tuple(a[k] for k in fields) if fields else None

    def bound_twice(a: Arrays) -> Any:
        """Return the second step, after one of plain arrays in the layer's own state."""
        bound = layer.bind(own(a), M)
        plain = type(after)(*(a[f"plain {k}"] for k in fields)) if fields else None
        bound(a["plain x"], plain)
        return bound(a["x"], type(after)(*before(a)) if fields else None)

    def backward(a: Arrays) -> Any:
        _, _, tape = layer.forward(own(a), a["x"], draw=0)
        dstate = tuple(a[f"d{k}"] for k in fields) if fields else None
        return layer.backward(own(a), tape, a["dy"], dstate)

    found = {
        "init": Door({"like": np.zeros(1)}, lambda a: layer.init(n_in, like=a["like"], rng=0)),
        "forward": Door(
            {"x": x, **params, **state, **counted},
            lambda a: layer.forward(own(a), a["x"], before(a), a["lengths"], a["mask"], draw=3)[:2],
        ),
        "predict": Door(
            {"x": x, **params, **state, **counted},
            lambda a: layer.predict(own(a), a["x"], before(a), a["lengths"], a["mask"]),
        ),
        "backward": Door(
            {"dy": y, **{f"d{k}": v for k, v in state.items()}}, backward, {"x": x, **params}
        ),
        "bound.predict": Door(
            {"x": x, **params, **state, **counted},
            lambda a: layer.bind(own(a), M).predict(a["x"], before(a), a["lengths"], a["mask"]),
        ),
    }
    if layer.drops:
        found["draw"] = Door(
            {"draw": np.asarray(3)},
            lambda a: layer.forward(own(a), a["x"], draw=a["draw"])[:2],
            {"x": x, **params},
        )
    if not getattr(layer, "bidirectional", False):
        found["bound"] = Door(
            {"x": x[0], **params, **state},
            lambda a: layer.bind(own(a), M)(a["x"], before(a)),
        )
        found["bound twice"] = Door(
            {"x": x[0], **state},
            bound_twice,
            {"plain x": x[0], **params, **{f"plain {k}": v for k, v in state.items()}},
        )
    return found
