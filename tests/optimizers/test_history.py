"""Autograd's history ends at an update: a loop keeps the past of no step in memory.

Runs with the library torch only: no other library ties a history to its arrays.
"""

from __future__ import annotations

import gc
from typing import NamedTuple

import numpy as np
import pytest
from judging import leaves
from problems import KINDS, N_A, N_X, N_Y, M, T, on, recurrent

import seqcore as sc
from seqcore import arrays, losses
from seqcore.training import Step, Window

pytestmark = pytest.mark.only("torch")

OPTIMIZERS = {
    "sgd": sc.sgd(0.1),
    "momentum": sc.sgd(0.1, 0.9),
    "nesterov": sc.sgd(0.1, 0.9, nesterov=True),
    "adam": sc.adam(0.1),
    "adamw": sc.adamw(sc.warmup(2, 0.1), decay=lambda name: "w" in name.lower()),
}
each_optimizer = pytest.mark.parametrize("opt", OPTIMIZERS.values(), ids=OPTIMIZERS)
MODEL = sc.Sequential(sc.LSTM(N_A), sc.Dropout(0.3), sc.Dense(N_Y))


@pytest.fixture(scope="module")
def torch():
    import torch

    return torch


@pytest.fixture
def problem(torch, rng):
    """Return parameters that require a gradient, x and targets."""
    params = MODEL.init(N_X, like=torch.zeros(0), rng=0)
    for value in params.values():
        value.requires_grad_()
    x, targets = (torch.as_tensor(rng.standard_normal((T, n, M))).float() for n in (N_X, N_Y))
    return params, x, targets


@pytest.fixture
def alive(torch):
    """Count the tensors that Python holds, of those made since the test began."""
    gc.collect()
    gc.freeze()  # or each count would look at everything that was ever imported

    def count():
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    yield count
    gc.unfreeze()


def histories(tree):
    """Return the graphs that the arrays of a tree are tied to."""
    return [leaf.grad_fn for leaf in leaves(tree) if leaf.grad_fn is not None]


def steps_back(tree):
    """Count the operations that autograd remembers of a tree."""
    todo, seen = histories(tree), set()
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            todo += [before for before, _ in node.next_functions if before is not None]
    return len(seen)


def same(got, expected):
    """Compare trees bit for bit."""
    for one, other in zip(leaves(got), leaves(expected), strict=True):
        np.testing.assert_array_equal(arrays.to_host(one), arrays.to_host(other))


# --- one update -------------------------------------------------------------------------


@each_optimizer
def test_an_update_returns_leaves_and_a_state_without_a_history(opt, asarray, rng):
    shapes = {"w": (2, 3), "b": (3, 1), "free": (2,), "late": (4,), "late history": (2,)}
    plain = on(asarray, {name: rng.standard_normal(shape) for name, shape in shapes.items()})
    marked = {name: value.clone() for name, value in plain.items()}
    for name in ("w", "b", "late", "late history"):
        marked[name].requires_grad_()
    marked["b"] = marked["b"] * 1.0  # not a leaf any more
    marked["late history"] = marked["late history"] * 1.0
    # Twice: once from a state of zeros, and once with histories in the state too.
    state, twin = opt.init(marked), opt.init(plain)
    for _ in range(2):
        grads = {name: 0.3 * value for name, value in marked.items() if "late" not in name}
        assert len(histories(grads)) == 2
        twins = {name: value.detach() for name, value in grads.items()}
        before = marked
        marked, state = opt.update(marked, grads, state)
        plain, twin = opt.update(plain, twins, twin)
        same((marked, state), (plain, twin))
        assert histories((marked, state)) == []
        assert not any(leaf.requires_grad for leaf in leaves(state))
        for name, value in marked.items():
            assert value.is_leaf
            assert value.requires_grad == (name != "free")
        assert marked["late"] is before["late"]
        fields = {name: tree for name, tree in state._asdict().items() if name in ("mu", "trace")}
        tied = {
            name: {key: value * marked["w"].sum() ** 0 for key, value in tree.items()}
            for name, tree in fields.items()
        }
        state = state._replace(**tied)
    assert not any(value.requires_grad for value in plain.values())


def test_a_rate_with_a_history_leaves_none(torch, asarray):
    rate = torch.tensor(0.5, requires_grad=True)
    params = {"w": asarray([1.0])}
    for opt in (sc.sgd(lambda _: 2.0 * rate), sc.adam(lambda _: 2.0 * rate)):
        after, state = opt.update(params, params, opt.init(params))
        assert histories((after, state)) == []
        assert not after["w"].requires_grad


@pytest.mark.parametrize("mode", ["no_grad", "inference_mode"])
@each_optimizer
def test_an_update_works_where_autograd_is_off(opt, mode, torch, asarray):
    params = {"w": asarray([1.0, 2.0]).requires_grad_()}
    expected, _ = opt.update(params, {"w": asarray([1.0, 2.0])}, opt.init(params))
    with getattr(torch, mode)():
        after, _ = opt.update(params, {"w": asarray([1.0, 2.0])}, opt.init(params))
        same(after, expected)
        assert after["w"].requires_grad


# --- loops ------------------------------------------------------------------------------


def ordinary(opt, problem, steps):
    """Yield the parameters, the optimizer's state and y of each step of README's loop."""
    params, x, targets = problem
    opt_state = opt.init(params)
    for step in range(steps):
        y, _, tape = MODEL.forward(params, x, draw=step)
        _, dy = sc.squared_error(y, targets)
        _, grads, _ = MODEL.backward(params, tape, dy)
        grads, _ = sc.clip_by_global_norm(grads, 1.0)
        params, opt_state = opt.update(params, grads, opt_state)
        yield params, opt_state, y


def test_an_ordinary_loop_remembers_no_more_after_200_steps_than_after_20(problem, alive):
    seen = {}
    for step, (params, opt_state, y) in enumerate(ordinary(sc.adam(1e-3), problem, 200)):
        if step in (20, 199):
            assert histories((params, opt_state)) == []
            seen[step] = alive(), steps_back((y,))
            assert seen[step][1] > T  # it is the history of one forward
    assert seen[199] == seen[20]


def forward(kind):
    layer = recurrent(kind)
    return lambda at: layer.forward(layer.init(N_X, like=at, rng=0), at)


CALLS = {
    **{kind: forward(kind) for kind in KINDS},
    "dropout": lambda at: sc.Dropout(0.5).forward({}, at, draw=0),
    "cross_entropy": lambda at: sc.cross_entropy(at, arrays.without_history(at)),
    "squared_error": lambda at: sc.squared_error(at, arrays.without_history(at)),
    "clip": lambda at: sc.clip_by_global_norm({"at": at}, 1.0),
    **{name: getattr(sc, name) for name in ("sigmoid", "tanh", "relu", "softmax", "log_softmax")},
}


@pytest.mark.parametrize("name", CALLS)
def test_what_a_call_made_is_freed_with_its_history(name, torch, alive):
    at = torch.ones((T, N_X, M), requires_grad=True)
    seen = []
    for _ in range(3):
        assert histories(list(CALLS[name](at)))
        seen.append(alive())
    assert seen[1] == seen[2]


@each_optimizer
def test_a_loop_with_autograd_is_the_loop_with_our_backward(opt, torch, problem):
    params, x, targets = problem
    opt_state = opt.init(params)
    for step, (expected, *_) in enumerate(ordinary(opt, problem, 4)):
        y, _, _ = MODEL.forward(params, x, draw=step)
        loss, _ = sc.squared_error(y, targets)
        grads = torch.autograd.grad(loss, list(params.values()))
        grads, _ = sc.clip_by_global_norm(dict(zip(params, grads, strict=True)), 1.0)
        params, opt_state = opt.update(params, grads, opt_state)
        for name, value in params.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)


class Plain(NamedTuple):
    """An optimizer of a user's own, which knows nothing of histories."""

    def init(self, params):
        return {"last": params}

    def update(self, params, grads, state):
        del state
        return {name: p - 0.1 * grads[name] for name, p in params.items()}, {"last": params}


@pytest.mark.parametrize("opt", [sc.adam(1e-3), Plain()], ids=["adam", "a user's own"])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_progress_has_no_history(opt, clip, problem, alive):
    params, x, targets = problem

    def loss(y, targets):
        assert y.grad_fn is None  # nothing was remembered to begin with
        return losses.squared_error(y, targets)

    step = Step(MODEL, loss, lambda _: opt, clip)
    progress, plain = step.start(params), step.start({k: p.detach() for k, p in params.items()})
    seen = []
    for k in range(30):
        window = Window(x, targets, fresh=k % 5 == 0)
        progress, loss = step(progress, window, 0.0)
        plain, expected = step(plain, window, 0.0)
        if k in (9, 29):
            seen.append(alive())
        same((progress.params, progress.state, loss), (plain.params, plain.state, expected))
        assert type(progress.state) is type(plain.state)
        assert histories((progress, loss)) == []
        assert all(p.is_leaf and p.requires_grad for p in progress.params.values())
        assert not any(p.requires_grad for p in leaves((*progress[2:], loss)))
    assert seen[0] == seen[1]


def test_progress_has_no_history_where_x_has_one(problem):
    params, x, targets = problem
    step = Step(MODEL, losses.squared_error, lambda _: sc.sgd(0.1, 0.9))
    progress = step.start(params)
    for _ in range(2):
        window = Window(2.0 * x.requires_grad_(), targets, fresh=False)
        progress, loss = step(progress, window, 0.0)
        assert histories((progress, loss)) == []


# --- inside of torch.func the history belongs to the transformation ---------------------


def updated(opt, w):
    """Return a parameter after an update with 2 w as its gradient."""
    params, _ = opt.update({"w": w}, {"w": 2.0 * w}, opt.init({"w": w}))
    return params["w"]


@pytest.mark.parametrize("opt", [sc.sgd(0.1), sc.sgd(0.1, 0.9)], ids=["sgd", "momentum"])
@pytest.mark.parametrize("requires", [False, True])
def test_torch_func_still_differentiates_an_update(opt, requires, torch, asarray, close):
    w = asarray([1.0, 2.0, 3.0]).requires_grad_(requires)

    def loss(w):
        return (updated(opt, w) ** 2).sum()

    expected = {"w": 1.28 * w}  # (w - 0.1 2 w)^2
    close({"w": torch.func.grad(loss)(w)}, expected)
    many = torch.stack([w, 2.0 * w])
    got = torch.func.vmap(torch.func.grad(loss))(many)
    close({"w": got[1]}, {"w": 2.56 * w})
    got = torch.func.jacrev(torch.func.grad(loss))(w)
    close({"w": got}, {"w": 1.28 * torch.eye(3, dtype=w.dtype)})


@each_optimizer
def test_vmap_over_models_is_one_after_another(opt, torch, asarray, close):
    many = asarray([[1.0, 2.0], [-3.0, 0.5]])
    got = torch.func.vmap(lambda w: updated(opt, w))(many)
    close({"w": got}, {"w": torch.stack([updated(opt, w) for w in many])})


# --- the primitives ---------------------------------------------------------------------


def test_without_history_keeps_the_form_of_a_tree(asarray):
    tied = asarray([1.0]).requires_grad_() * 2.0
    free = asarray([1.0])
    state = sc.optimizers.SGDState(free, {"a": tied})
    tree = {"s": state, "t": (tied, [tied, None, 3, "x"]), "f": free}
    got = arrays.without_history(tree)
    assert type(got["s"]) is sc.optimizers.SGDState
    assert type(got["t"]) is tuple
    assert got["t"][1][1:] == [None, 3, "x"]
    assert histories(got) == []
    assert got["f"] is free
    assert got["s"].count is free
    assert got["t"][0].data_ptr() == tied.data_ptr()  # not a copy
    assert len(histories(tree)) == 3


def test_clipping_has_a_gradient_where_all_gradients_are_zero(torch, asarray):
    g = asarray([0.0, 0.0]).requires_grad_()
    clipped, norm = sc.clip_by_global_norm({"w": g}, 1.0)
    assert torch.autograd.grad(clipped["w"].sum(), g, retain_graph=True)[0].tolist() == [1.0, 1.0]
    assert torch.autograd.grad(norm, g)[0].tolist() == [0.0, 0.0]


def test_what_is_no_plain_container_has_its_history_left_alone(asarray):
    class Own(list[object]):
        def __init__(self, a, b):
            super().__init__((a, b))

    own = Own(asarray(1.0).requires_grad_(), 2)
    assert arrays.without_history((own,)) == (own,)
