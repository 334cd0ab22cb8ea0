"""The stages of the computation, each as a function that any array library can run.

A stage takes named host arrays, runs on arrays of one library, device and dtype, and
returns named arrays. test_stages.py compares them with float64 NumPy, tools/measure.py writes
down by how much they differ and finds the first one at which two libraries differ.

Inputs are drawn in float32 and handed out in float64: every library gets them exactly.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from problems import CELLS

import seqcore as sc
from seqcore import activations, masks, optimizers, sequence
from seqcore.cells import linear

# Not those of problems.py: the errors in backends/measured/ were measured at these sizes.
T, N_X, N_A, N_Y, M = 7, 3, 5, 6, 4
TRAINING_STEPS = 100
TRAINING_T = 3  # short, since a lazy library builds every step anew

Named = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """One part of the computation, from the activations to a training."""

    name: str
    kind: str  # of the tolerance
    draw: Callable[[np.random.Generator], Named]
    run: Callable[[Named], Named]
    repeat: int = 1  # `run` is taken again, on what it returned laid over the inputs

    def inputs(self) -> Named:
        """Draw the host inputs, always the same ones."""
        drawn = self.draw(np.random.default_rng(zlib.crc32(self.name.encode())))
        return {
            name: values
            if np.isdtype(values.dtype, "integral")
            else values.astype(np.float32).astype(np.float64)
            for name, values in drawn.items()
        }

    def results(
        self,
        place: Callable[[np.ndarray], Any],
        *,
        compile: Callable[[Any], Any] = lambda run: run,  # noqa: A002 (jax.jit's own word)
        settle: Callable[[Named], Named] = lambda named: named,
    ) -> Named:
        """Run on the arrays that `place` makes of the inputs.

        `compile` may wrap what runs; `settle` has a lazy library compute between repeats.
        """
        given = {name: place(values) for name, values in self.inputs().items()}
        run = compile(self.run)
        out: Named = run(given)
        for _ in range(1, self.repeat):
            settled = settle(out)
            out = run({**given, **{name: settled[name] for name in given if name in settled}})
        return out


def expected(stage: Stage) -> Named:
    """Run a stage in float64 on NumPy."""
    return stage.results(np.array)


# --- activations ------------------------------------------------------------------------


def _draw_activations(rng: np.random.Generator) -> Named:
    return {"x": 3.0 * rng.standard_normal((N_X, M))}


def _activations(given: Named) -> Named:
    x = given["x"]
    s, t, r, p = (getattr(activations, f)(x) for f in ("sigmoid", "tanh", "relu", "softmax"))
    return {
        "sigmoid": s,
        "tanh": t,
        "relu": r,
        "softmax": p,
        "log_softmax": activations.log_softmax(x),
        "sigmoid_deriv": activations.sigmoid_deriv(s),
        "tanh_deriv": activations.tanh_deriv(t),
        "relu_deriv": activations.relu_deriv(r),
        "softmax_deriv": activations.softmax_deriv(p),
    }


# --- one step ---------------------------------------------------------------------------


def _parameters(cell: Any, rng: np.random.Generator) -> Named:
    params = linear.init(cell, N_X, N_A, like=np.zeros(0), rng=rng)
    return {f"params.{name}": 0.1 * rng.standard_normal(v.shape) + v for name, v in params.items()}


def _states(cell: Any, rng: np.random.Generator, prefix: str) -> Named:
    fields = cell.state_type._fields
    return {f"{prefix}.{field}": rng.standard_normal((N_A, M)) for field in fields}


def _params(given: Named) -> Named:
    return _under(given, "params")


def _under(given: Named, prefix: str) -> Named:
    start = f"{prefix}."
    return {k.removeprefix(start): v for k, v in given.items() if k.startswith(start)}


def _named(prefix: str, fields: Any) -> Named:
    entries = fields if isinstance(fields, dict) else fields._asdict()
    return {f"{prefix}.{name}": array for name, array in entries.items()}


def _cell(cell: Any, *, back: bool) -> tuple[Callable[..., Named], Callable[[Named], Named]]:
    def draw(rng: np.random.Generator) -> Named:
        drawn = {"x": rng.standard_normal((1, N_X, M)), **_parameters(cell, rng)}
        return drawn | _states(cell, rng, "before") | _states(cell, rng, "dafter")

    def run(given: Named) -> Named:
        xp = sc.arrays.namespace(given["x"])
        params = _params(given)
        plan = linear.plan_forward(xp, cell, linear.prepared(xp, cell, params), M)
        before = cell.state_type(**_under(given, "before"))
        after, saved = cell.step(xp, plan.maps, plan.of_step(given["x"][0, ...]), before)
        if not back:
            return _named("after", after) | _named("saved", saved)
        dafter = cell.state_type(**_under(given, "dafter"))
        dz, dbefore, down = cell.step_vjp(
            xp, linear.plan_backward(xp, cell, params, M).maps, saved, dafter
        )
        return {"dz": dz, **_named("dbefore", dbefore), **dict(zip(cell.own, down, strict=True))}

    return draw, run


# --- a sequence -------------------------------------------------------------------------


def _sequence(cell: Any, *, back: bool) -> tuple[Callable[..., Named], Callable[[Named], Named]]:
    def draw(rng: np.random.Generator) -> Named:
        drawn = {"x": rng.standard_normal((T, N_X, M)), "dy": rng.standard_normal((T, N_A, M))}
        drawn |= {"lengths": np.asarray([T, T - 2, 1, T - 1])} | _parameters(cell, rng)
        return drawn | _states(cell, rng, "start") | _states(cell, rng, "dlast")

    def run(given: Named) -> Named:
        xp = sc.arrays.namespace(given["x"])
        params, start = _params(given), cell.state_type(**_under(given, "start"))
        steps = masks.steps("stage", given["x"], given["lengths"], None)
        assert steps is not None
        mask = steps[:, None, :]
        x, dy = (masks.where_mask(xp, mask, given[name]) for name in ("x", "dy"))
        y, last, tape = sequence.forward(sequence.prepare(cell, params), x, start, mask)
        if not back:
            return {"y": y, **_named("last", last)}
        dlast = cell.state_type(**_under(given, "dlast"))
        dx, grads, dstart = sequence.backward(params, tape, dy, dlast)
        return {"dx": dx, **_named("grads", grads), **_named("dstart", dstart)}

    return draw, run


# --- loss, optimizer, training ----------------------------------------------------------


def _draw_loss(rng: np.random.Generator) -> Named:
    return {
        "logits": rng.standard_normal((T, N_Y, M)),
        "classes": rng.integers(N_Y, size=(T, M)),
        "targets": rng.standard_normal((T, N_Y, M)),
    }


def _loss(given: Named) -> Named:
    entropy, dlogits = sc.cross_entropy(given["logits"], given["classes"])
    error, dy = sc.squared_error(given["logits"], given["targets"])
    return {"cross_entropy": entropy, "dlogits": dlogits, "squared_error": error, "dy": dy}


OPTIMIZER = sc.adam(learning_rate=0.01)
MAX_NORM = 0.5
MODEL = sc.Sequential(sc.LSTM(N_A), sc.Dense(N_Y))


def _update(params: Named, grads: Named, state: Any) -> Named:
    clipped, norm = sc.clip_by_global_norm(grads, MAX_NORM)
    params, state = OPTIMIZER.update(params, clipped, state)
    moments = {**_named("mu", state.mu), **_named("nu", state.nu)}
    counts = {"count": state.count, **_named("counts", state.counts)}
    return {"norm": norm, **counts, **_named("params", params), **moments}


def _draw_adam(rng: np.random.Generator) -> Named:
    shapes = {"W": (N_A, N_X), "b": (N_A, 1)}
    drawn: Named = {"count": np.asarray(4)}
    for k, (name, shape) in enumerate(shapes.items()):
        drawn[f"counts.{name}"] = np.asarray(4 - k)
        for what in ("params", "grads", "mu"):
            drawn[f"{what}.{name}"] = rng.standard_normal(shape)
        drawn[f"nu.{name}"] = rng.uniform(0.1, 1.0, shape)
    return drawn


def _opt_state(given: Named) -> optimizers.AdamState:
    trees = [_under(given, name) for name in ("counts", "mu", "nu")]
    return optimizers.AdamState(given["count"], *trees)


def _adam(given: Named) -> Named:
    return _update(_params(given), _under(given, "grads"), _opt_state(given))


def _draw_training(rng: np.random.Generator) -> Named:
    params = MODEL.init(N_X, like=np.zeros(0), rng=rng)
    return {
        "x": rng.standard_normal((TRAINING_T, N_X, M)),
        "classes": rng.integers(N_Y, size=(TRAINING_T, M)),
        "count": np.asarray(0),
        **{f"counts.{name}": np.asarray(0) for name in params},
        **_named("params", params),
        **{f"{m}.{name}": np.zeros(v.shape) for m in ("mu", "nu") for name, v in params.items()},
    }


def _train(given: Named) -> Named:
    params = _params(given)
    logits, _, tape = MODEL.forward(params, given["x"])
    loss, dlogits = sc.cross_entropy(logits, given["classes"])
    _, grads, _ = MODEL.backward(params, tape, dlogits)
    return {"loss": loss, **_update(params, grads, _opt_state(given))}


# --- all of them, in the order of the computation ---------------------------------------


def _stages() -> Iterator[Stage]:
    yield Stage("activations", "cell", _draw_activations, _activations)
    for what, of, back, kind in (
        ("cell forward", _cell, False, "cell"),
        ("cell backward", _cell, True, "cell"),
        ("sequence forward", _sequence, False, "bptt"),
        ("bptt", _sequence, True, "bptt"),
    ):
        for name, cell in CELLS.items():
            yield Stage(f"{what} {name}", kind, *of(cell, back=back))
    yield Stage("loss", "cell", _draw_loss, _loss)
    yield Stage("clipped adam step", "train", _draw_adam, _adam)
    yield Stage(f"{TRAINING_STEPS} training steps", "train", _draw_training, _train, TRAINING_STEPS)


STAGES: tuple[Stage, ...] = tuple(_stages())
