"""Where all numbers are finite, no NaN and no infinity is made on the way, in any library.

Whoever hunts a NaN in his own code has his library stop at the first one: NumPy with
`np.errstate`, JAX with `jax_debug_nans` and `jax_debug_infs`, PyTorch with a dispatch mode that
looks at each result. Nothing of seqcore may stop the hunt where nothing is wrong.
"""

from __future__ import annotations

import importlib
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
from judging import leaves
from problems import (
    LENGTHS,
    MASK,
    N_A,
    N_X,
    N_Y,
    TOKENS,
    M,
    Problem,
    T,
    each_kind,
    each_steps,
    on,
    recurrent,
    weights,
)

import seqcore as sc
from seqcore import arrays
from seqcore import functional as F

pytestmark = pytest.mark.usefixtures("unoptimized")

# --- hunters: contexts in which the first NaN or infinity is an error -----------------------


@contextmanager
def in_jax():
    jax = importlib.import_module("jax")
    flags = ("jax_debug_nans", "jax_debug_infs")
    for flag in flags:
        jax.config.update(flag, True)
    try:
        yield
    finally:
        for flag in flags:
            jax.config.update(flag, False)


@contextmanager
def in_torch():
    torch = importlib.import_module("torch")
    modes = importlib.import_module("torch.utils._python_dispatch")

    def look(_, function, __, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for value in leaves(out):
            if value.is_floating_point() and "empty" not in str(function):
                assert bool(torch.isfinite(value).all()), function
        return out

    with type("Hunter", (modes.TorchDispatchMode,), {"__torch_dispatch__": look})():
        yield


@contextmanager
def in_strict():
    kind = importlib.import_module("array_api_strict._array_object").Array

    def looked_at(_, values, device):
        made = np.asarray(values)
        assert made.dtype.kind != "f" or np.isfinite(made).all(), made
        return new(values, device=device)

    new = kind._new
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "_new", classmethod(looked_at))
        yield


HUNTERS = {"jax": in_jax, "torch": in_torch, "array_api_strict": in_strict}


@pytest.fixture(scope="session")
def hunting(library):
    """Return the context of the library's hunter; NumPy raises what it may warn of, too."""
    hunter = HUNTERS.get(library.contract["namespace"].partition(".")[0])

    @contextmanager
    def hunt(**settings):
        with ExitStack() as stack:
            stack.enter_context(np.errstate(**({"all": "raise"} | settings)))
            if hunter is not None:
                stack.enter_context(hunter())
            yield

    return hunt


@pytest.fixture
def read(to_host):
    """Return the function that has a lazy library compute what a tree holds."""
    return lambda *tree: [to_host(leaf) for leaf in leaves(tree)]


@pytest.mark.parametrize("divide", [lambda x: x / (x - x), lambda x: (x - x) / (x - x)])
def test_a_hunter_finds_what_there_is(divide, hunting, asarray, read):
    x = asarray([1.0])
    with pytest.raises((AssertionError, FloatingPointError)), hunting():
        read(divide(x))


# --- layers -----------------------------------------------------------------------------


@each_kind
@each_steps
def test_a_recurrent_layer(kind, steps, hunting, asarray, read, rng):
    layer = recurrent(kind)
    problem = Problem.of(rng, layer, **steps).move(asarray)
    with hunting():
        read(problem.results())
        read(layer.predict(problem.params, problem.x, problem.state, **problem.steps()))


@each_kind
def test_a_step_of_a_stream(kind, hunting, asarray, read, rng):
    layer = recurrent(kind)
    params = on(asarray, weights(rng, layer))
    x = asarray(rng.standard_normal((T, N_X, 1)))
    with hunting():
        bound = layer.bind(params)
        y, state = bound(x[0, ...])
        read(y, state, bound(x[1, ...], state))


def test_other_layers(hunting, asarray, read, rng):
    model = sc.Sequential(sc.Embedding(N_A), sc.Dropout(0.5), sc.Dense(N_Y))
    params = on(asarray, weights(rng, model, TOKENS))
    tokens = asarray(rng.integers(TOKENS, size=(T, M)))
    with hunting():
        y, _, tape = model.forward(params, tokens, None, LENGTHS, draw=1)
        read(y, model.backward(params, tape, y))
        read(sc.Dropout(0.0).forward({}, y, draw=1)[0])
        at_end, _, tape = sc.Last().forward({}, y, None, LENGTHS)
        read(at_end, sc.Last().backward({}, tape, at_end))


# --- losses -----------------------------------------------------------------------------


TARGETS = {
    "classes": (sc.cross_entropy, lambda rng: rng.integers(N_Y, size=(T, M))),
    "one-hot": (
        sc.cross_entropy,
        lambda rng: np.moveaxis(np.eye(N_Y)[rng.integers(N_Y, size=(T, M))], -1, 1),
    ),
    "values": (sc.squared_error, lambda rng: rng.standard_normal((T, N_Y, M))),
}
# Nothing counts; a column; what the shards of a batch are given.
MASKS = {"all": None, "gaps": MASK, "nothing": np.zeros((T, M), dtype=bool)}


@pytest.mark.parametrize(("loss", "targets"), TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("total", [None, 7, 7.5], ids=["own", "integer", "float"])
@pytest.mark.parametrize("placed", [False, True], ids=["number", "array"])
def test_a_loss(loss, targets, mask, total, placed, hunting, asarray, read, rng):
    y, targets = asarray(rng.standard_normal((T, N_Y, M))), asarray(targets(rng))
    mask = None if mask is None else asarray(mask)
    total = asarray(np.asarray(total)) if placed and total is not None else total
    with hunting():
        read(loss(y, targets, mask, total))


# --- optimizers and clipping ------------------------------------------------------------


OPTIMIZERS = {
    "sgd": sc.sgd(0.1),
    "momentum": sc.sgd(sc.constant(0.1), 0.9),
    "nesterov": sc.sgd(0.1, 0.9, nesterov=True),
    "adam": sc.adam(sc.cosine(0.1, 2)),
    "adam with an eps inside the root": sc.adam(0.1, eps=0.0, eps_root=1e-8),
    "adam without moments": sc.adam(0.1, 0.0, 0.0),
    "adamw": sc.adamw(sc.warmup(2, sc.cosine(0.1, 2)), decay=["W"]),
}


@pytest.mark.parametrize("opt", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_an_optimizer(opt, hunting, asarray, read, rng):
    params = on(asarray, {"W": rng.standard_normal((3, 2)), "b": np.zeros((3, 1))})
    # A gradient of 0, now and then or always; and one that is missing.
    rows = [asarray(rng.standard_normal((3, 2)) * (np.arange(2) == k % 2)) for k in range(4)]
    zeros = asarray(np.zeros((3, 1)))
    with hunting():
        state = opt.init(params)
        for k, row in enumerate(rows):
            params, state = opt.update(params, {"W": row} | ({"b": zeros} if k % 2 else {}), state)
        read(params, state)


GRADS = {
    "usual": {"a": [3.0, -4.0], "b": [[1.0]]},
    "one": {"a": [3.0]},
    "zeros": {"a": [0.0, 0.0], "b": [[0.0]]},
    "some zeros": {"a": [0.0, 2.0], "b": [[0.0]]},
    "large": {"a": [1e37, 0.0], "b": [[1e37]]},
    "small": {"a": [1e-30, 0.0], "b": [[1e-30]]},
}


@pytest.mark.parametrize("grads", GRADS.values(), ids=GRADS)
@pytest.mark.parametrize("max_norm", [0.5, 1e4, 1e300, float("inf")])
def test_clipping(grads, max_norm, hunting, asarray, read):
    grads = on(asarray, grads)
    with hunting():
        read(sc.global_norm(grads), sc.clip_by_global_norm(grads, max_norm))


# --- activations, the textbook door -----------------------------------------------------


ACTIVATIONS = ("sigmoid", "tanh", "relu", "softmax", "log_softmax")


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("size", [1.0, 1e4, 1e30])
def test_an_activation(name, size, hunting, asarray, read, rng):
    x = asarray(size * rng.standard_normal((N_Y, M)))
    # exp of a large negative number is 0, and that may be said.
    with hunting(under="ignore"):
        s = getattr(sc, name)(x)
        read(s)
        if hasattr(sc, f"{name}_deriv"):
            read(getattr(sc, f"{name}_deriv")(s))


@pytest.mark.long  # JAX compiles for 5 s
@pytest.mark.parametrize("kind", ["rnn", "lstm"])
def test_the_textbook_door(kind, hunting, asarray, read, rng):
    wide = {"rnn": ("ax", "aa"), "lstm": ("f", "i", "c", "o")}[kind]
    columns = {"ax": N_X, "aa": N_A}
    parameters = {f"W{g}": rng.standard_normal((N_A, columns.get(g, N_A + N_X))) for g in wide}
    parameters |= {f"b{g}": np.zeros((N_A, 1)) for g in (wide if kind == "lstm" else "a")}
    parameters |= {("Wya" if kind == "rnn" else "Wy"): rng.standard_normal((N_Y, N_A))}
    parameters = on(asarray, parameters | {"by": np.zeros((N_Y, 1))})
    x, a0 = asarray(rng.standard_normal((N_X, M, 2))), asarray(np.zeros((N_A, M)))
    y = asarray(np.moveaxis(np.eye(N_Y)[rng.integers(N_Y, size=(M, 2))], 2, 0))
    with hunting():
        forward, backward = (getattr(F, f"{kind}_{way}") for way in ("forward", "backward"))
        a, y_pred, *_, caches = forward(x, a0, parameters)
        gradients = F.softmax_output_backward(y, y_pred, a, parameters)
        gradients |= backward(gradients["da"], caches)
        moments = F.initialize_adam(parameters)
        read(F.cross_entropy_loss_t(y[..., 0], y_pred[..., 0]))
        read(F.cross_entropy_loss_t(y[..., 0], y[..., 1]))  # log p where p is 0
        read(F.update_parameters_with_adam(parameters, gradients, *moments, t=1))


# --- where something is wrong -----------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_gradient_that_is_not_finite_makes_all_of_them_nan(bad, asarray, to_host):
    grads = {"a": asarray([1.0, bad]), "b": asarray([2.0, 0.0])}
    for max_norm in (1.0, float("inf")):
        clipped, norm = sc.clip_by_global_norm(grads, max_norm)
        assert not np.isfinite(to_host(norm))
        for value in clipped.values():
            assert np.isnan(to_host(value)).all()


@pytest.mark.parametrize("total", [0.0, -2.0, float("nan"), float("inf")])
def test_a_total_that_divides_nothing_makes_a_loss_nan(total, asarray, to_host):
    y = asarray(np.ones((T, N_Y, M)))
    loss, dy = sc.squared_error(y, 2.0 * y, total=asarray(np.asarray(total)))
    assert np.isnan(to_host(loss))
    assert np.isnan(to_host(dy)).all()


@pytest.mark.only("jax")
def test_a_step_that_jax_compiles(hunting, asarray, rng):
    jax = importlib.import_module("jax")
    layer = sc.Sequential(sc.LSTM(N_A), sc.Dense(N_Y))
    params = on(asarray, weights(rng, layer))
    x, mask = asarray(rng.standard_normal((T, N_X, M))), asarray(MASK)
    targets, opt = asarray(rng.integers(N_Y, size=(T, M))), sc.adam()

    @jax.jit
    def step(params, state, total):
        y, _, tape = layer.forward(params, x, None, mask=mask)
        loss, dy = sc.cross_entropy(y, targets, mask, total)
        grads, norm = sc.clip_by_global_norm(layer.backward(params, tape, dy)[1], 0.1)
        return loss, norm, grads, opt.update(params, grads, state)

    with hunting():
        out = step(params, opt.init(params), asarray(np.asarray(MASK.sum())))
        jax.block_until_ready(out)
    # What jit leaves out does not hide a NaN that is meant.
    bad = jax.jit(lambda g: sc.clip_by_global_norm(g, 0.1)[0])({"w": asarray([1.0, np.inf])})
    assert np.isnan(arrays.to_host(bad["w"])).all()
