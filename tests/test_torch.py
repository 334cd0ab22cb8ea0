"""PyTorch as an oracle: its autograd through our forward, its own layers, losses, optimizers.

Runs with the library torch only. Autograd knows the forward's equations, so it proves the
backward; torch.nn knows nothing of ours, so it proves both.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judging import named
from problems import (
    KINDS,
    LENGTHS,
    MASK,
    N_A,
    N_X,
    N_Y,
    WAYS,
    M,
    Problem,
    T,
    each_kind,
    each_steps,
    each_way,
    on,
    recurrent,
    weights,
)

import seqcore as sc

pytestmark = pytest.mark.only("torch")

PACKED = [max(1, length) for length in LENGTHS]  # torch.nn takes no length of 0


@pytest.fixture(scope="module")
def torch():
    import torch

    return torch


def autograd(torch, function, at, cotangents=None):
    """Gradients by torch, of `function(at)` or of its outputs times their cotangents."""
    at = {name: value.detach().clone().requires_grad_() for name, value in at.items()}
    out = function(at)
    if cotangents is not None:
        out = sum((out[name] * d).sum() for name, d in cotangents.items())
    return dict(zip(at, torch.autograd.grad(out, list(at.values())), strict=True))


# --- autograd through our forward ------------------------------------------------------


@each_kind
@each_way
@pytest.mark.parametrize(
    "steps",
    [{}, {"lengths": PACKED}, {"lengths": LENGTHS}, {"mask": MASK}],
    ids=["full", "ragged", "empty", "gaps"],
)
def test_autograd_through_our_forward_is_our_backward(kind, way, steps, torch, asarray, close, rng):
    problem = Problem.of(rng, recurrent(kind, **WAYS[way]), **steps).move(asarray)
    expected = autograd(
        torch, lambda at: problem.outputs(at)[0], problem.at(), problem.cotangents()
    )
    close(problem.gradients(), expected)


@pytest.mark.parametrize("kind", ["rnn", "lstm"])
def test_autograd_through_the_textbook_door_is_its_backward(kind, torch, asarray, close, rng):
    gates = {"rnn": ("Wax", "Waa", "ba"), "lstm": tuple("W" + g for g in "fico")}[kind]
    shapes = {
        "Wax": (N_A, N_X),
        "Waa": (N_A, N_A),
        "Wya": (N_Y, N_A),
        **{f"W{gate}": (N_A, N_A + N_X) for gate in "fico"},
        **{f"b{gate}": (N_A, 1) for gate in "aifco"},
        "Wy": (N_Y, N_A),
        "by": (N_Y, 1),
    }
    at = on(asarray, {name: 0.5 * rng.standard_normal(shape) for name, shape in shapes.items()})
    at |= {"x": asarray(rng.standard_normal((N_X, M, T))), "a0": at["Wya"].new_zeros((N_A, M))}
    da = asarray(rng.standard_normal((N_A, M, T)))
    forward = getattr(sc.functional, f"{kind}_forward")
    names = [*gates, "x", "a0"]
    expected = autograd(
        torch,
        lambda some: (forward(some["x"], some["a0"], at | some)[0] * da).sum(),
        {name: at[name] for name in names},
    )
    *_, caches = forward(at["x"], at["a0"], at)
    got = getattr(sc.functional, f"{kind}_backward")(da, caches)
    own = {"x": "dx", "a0": "da0"}
    close({name: got[own.get(name, f"d{name}")] for name in names}, expected)


def test_autograd_through_embedding_dense_and_dropout(torch, asarray, close, rng):
    tokens = asarray(rng.integers(N_X, size=(T, M)))
    model = sc.Sequential(sc.Embedding(4), sc.Dropout(0.3), sc.Dense(N_Y))
    params = on(asarray, weights(rng, model))
    dy = asarray(rng.standard_normal((T, N_Y, M)))
    y, _, tape = model.forward(params, tokens, None, LENGTHS, draw=3)
    assert bool((tape.kept[1][0] == 0).any())  # something was dropped
    _, grads, _ = model.backward(params, tape, dy)
    expected = autograd(
        torch,
        lambda at: {"y": model.forward(at, tokens, None, LENGTHS, draw=3)[0]},
        params,
        {"y": dy},
    )
    close(grads, expected)

    x = {"x": asarray(rng.standard_normal(tuple(y.shape)))}
    for layer, own in ((sc.Dropout(0.5, seed=2**40), {}), (sc.Dense(3), None)):
        own = on(asarray, weights(rng, layer, N_Y)) if own is None else own
        out, _, tape = layer.forward(own, x["x"], draw=7)
        dy = asarray(rng.standard_normal(tuple(out.shape)))
        dx, grads, _ = layer.backward(own, tape, dy)
        expected = autograd(
            torch,
            lambda at, layer=layer, own=own: {
                "y": layer.forward({k: at[k] for k in own}, at["x"], draw=7)[0]
            },
            x | own,
            {"y": dy},
        )
        close({"x": dx, **grads}, expected)


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_autograd_through_the_losses(masked, torch, asarray, close, rng):
    y = asarray(3.0 * rng.standard_normal((T, N_Y, M)))
    mask = asarray(rng.random((T, M)) < 0.6) if masked else None
    soft = rng.random((T, N_Y, M))
    targets = {
        "classes": (sc.cross_entropy, asarray(rng.integers(N_Y, size=(T, M)))),
        "distribution": (sc.cross_entropy, asarray(soft / soft.sum(axis=1, keepdims=True))),
        "not summing to 1": (sc.cross_entropy, asarray(soft)),
        "values": (sc.squared_error, asarray(rng.standard_normal((T, N_Y, M)))),
    }
    for name, (loss, target) in targets.items():
        _, dy = loss(y, target, mask)
        expected = autograd(
            torch, lambda at, loss=loss, target=target: loss(at["y"], target, mask)[0], {"y": y}
        )
        close({name: dy}, {name: expected["y"]})


# --- torch.nn with the same weights ----------------------------------------------------


def gates(kind, value):
    """Our gates (G, n_a, k) in the order of torch.nn, stacked: (G n_a, k)."""
    if kind == "LSTM":
        value = value[[0, 1, 3, 2]]  # ours: i, f, o, c; torch: i, f, c, o
    return value.reshape(-1, value.shape[-1])


def ours(kind, value, n_gates):
    """Undo `gates`."""
    value = value.reshape(n_gates, N_A, -1)
    return value[[0, 1, 3, 2]] if kind == "LSTM" else value


class Theirs:
    """A layer of torch.nn with our parameters copied over."""

    def __init__(self, torch, kind, layer, params, rng, asarray):
        more = {"nonlinearity": layer.activation} if kind == "RNN" else {}
        self.kind, self.torch, like = kind, torch, params["0.b"]
        self.module = getattr(torch.nn, kind)(
            N_X,
            N_A,
            num_layers=layer.layers,
            bidirectional=layer.bidirectional,
            device=like.device,
            dtype=like.dtype,
            **more,
        )
        self.prefixes = {}  # theirs of ours
        for number in range(layer.layers):
            self.prefixes[f"{number}."] = f"l{number}"
            if layer.bidirectional:
                self.prefixes[f"{number}.reverse."] = f"l{number}_reverse"
        with torch.no_grad():
            for prefix, suffix in self.prefixes.items():
                own = {
                    key.removeprefix(prefix): value
                    for key, value in params.items()
                    if key in (prefix + "W_x", prefix + "W_h", prefix + "b", prefix + "b_h")
                }
                # Theirs has two biases where ours has one; only the sum matters, but in the
                # GRU's candidate, where the second one is b_h.
                b = own["b"]
                b_hh = asarray(rng.standard_normal(tuple(b.shape)))
                b_ih = b - b_hh
                if "b_h" in own:
                    b_ih[2], b_hh[2] = b[2], own["b_h"][0]
                self.parameter("weight_ih", suffix).copy_(gates(kind, own["W_x"]))
                self.parameter("weight_hh", suffix).copy_(gates(kind, own["W_h"]))
                self.parameter("bias_ih", suffix).copy_(gates(kind, b_ih)[:, 0])
                self.parameter("bias_hh", suffix).copy_(gates(kind, b_hh)[:, 0])

    def parameter(self, name, suffix):
        return getattr(self.module, f"{name}_{suffix}")

    def run(self, problem):
        """Outputs and gradients under our names, in our shapes."""
        rnn = self.torch.nn.utils.rnn
        x = problem.x.transpose(1, 2).clone().requires_grad_()
        start = [value.transpose(1, 2).clone().requires_grad_() for value in problem.state]
        packed, lengths = x, problem.lengths
        if lengths is not None:
            packed = rnn.pack_padded_sequence(x, lengths.cpu(), enforce_sorted=False)
        y, last = self.module(packed, tuple(start) if len(start) == 2 else start[0])
        if lengths is not None:
            y, _ = rnn.pad_packed_sequence(y, total_length=T)
        last = last if isinstance(last, tuple) else (last,)
        out = {"y": y.transpose(1, 2)}
        out |= named("last", problem.state._make([value.transpose(1, 2) for value in last]))

        loss = sum((out[name] * d).sum() for name, d in problem.cotangents().items())
        loss.backward()
        grads = {"x": x.grad.transpose(1, 2)}
        for prefix, suffix in self.prefixes.items():
            n_gates = problem.params[prefix + "b"].shape[0]
            ih, hh, b_ih, b_hh = (
                ours(self.kind, self.parameter(name, suffix).grad, n_gates)
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            grads |= {prefix + "W_x": ih, prefix + "W_h": hh, prefix + "b": b_ih}
            if self.kind == "GRU":
                grads[prefix + "b_h"] = b_hh[2:]
        starts = [value.grad.transpose(1, 2) for value in start]
        return out, grads | named("start", problem.state._make(starts))


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.torch])
@each_way
@pytest.mark.parametrize("lengths", [None, PACKED], ids=["full", "packed"])
def test_torch_nn_with_the_same_weights_is_our_layer(
    kind, way, lengths, torch, asarray, close, rng
):
    problem = Problem.of(rng, recurrent(kind, **WAYS[way]), lengths=lengths).move(asarray)
    theirs = Theirs(torch, KINDS[kind].torch, problem.layer, problem.params, rng, asarray)
    expected, grads = theirs.run(problem)
    out, tape = problem.outputs(problem.at())
    close(out, expected)
    close(problem.gradients(tape), grads)


@each_steps
def test_the_equations_of_the_peephole_lstm_in_torch_are_our_layer(
    steps, torch, asarray, close, rng
):
    # Gers & Schmidhuber 2000, equations 1 to 6: torch.nn has no such layer.
    problem = Problem.of(rng, recurrent("lstm-peephole"), **steps).move(asarray)
    counts = np.ones((T, M), dtype=bool)
    if problem.lengths is not None:
        counts &= np.arange(T)[:, None] < np.asarray(LENGTHS)
    if problem.mask is not None:
        counts &= MASK
    counts = asarray(counts)

    def outputs(at):
        W_x, W_h, b, p = (at[f"0.{name}"] for name in ("W_x", "W_h", "b", "p"))
        h, c, ys = at["start.h"][0], at["start.c"][0], []
        for t in range(T):
            z_i, z_f, z_o, z_c = W_x @ at["x"][t] + W_h @ h + b
            i, f = torch.sigmoid(z_i + p[0] * c), torch.sigmoid(z_f + p[1] * c)
            after = f * c + i * torch.tanh(z_c)
            y = torch.sigmoid(z_o + p[2] * after) * torch.tanh(after)
            h, c = torch.where(counts[t], y, h), torch.where(counts[t], after, c)
            ys.append(torch.where(counts[t], y, 0.0))
        return {"y": torch.stack(ys), "last.h": h[None], "last.c": c[None]}

    out, tape = problem.outputs(problem.at())
    close(out, outputs(problem.at()))
    close(problem.gradients(tape), autograd(torch, outputs, problem.at(), problem.cotangents()))


def test_torch_cross_entropy_is_ours(torch, asarray, close, rng):
    y = asarray(3.0 * rng.standard_normal((T, N_Y, M)))
    classes, mask = asarray(rng.integers(N_Y, size=(T, M))), asarray(rng.random((T, M)) < 0.6)
    soft = rng.random((T, N_Y, M))
    soft = asarray(soft / soft.sum(axis=1, keepdims=True))
    loss = torch.nn.CrossEntropyLoss()
    ignored = torch.where(mask, classes, torch.full_like(classes, loss.ignore_index))
    for ours, theirs in (
        ((y, classes), classes),
        ((y, classes, mask), ignored),
        ((y, soft), soft),
    ):
        got, dy = sc.cross_entropy(*ours)
        close({"loss": got}, {"loss": loss(y, theirs)})
        expected = autograd(torch, lambda at, theirs=theirs: loss(at["y"], theirs), {"y": y})
        close({"y": dy}, expected)


def test_torch_mean_squared_error_is_ours(torch, asarray, close, rng):
    y, targets = (asarray(rng.standard_normal((T, N_Y, M))) for _ in range(2))
    loss = torch.nn.MSELoss()
    got, dy = sc.squared_error(y, targets)
    close({"loss": got}, {"loss": loss(y, targets)})
    close({"y": dy}, autograd(torch, lambda at: loss(at["y"], targets), {"y": y}))


# --- torch.optim -----------------------------------------------------------------------


OPTIMIZERS = {
    "adam": (
        sc.adam(3e-2, 0.8, 0.97, 1e-6),
        lambda optim, p: optim.Adam(p, lr=3e-2, betas=(0.8, 0.97), eps=1e-6),
    ),
    "adamw": (
        sc.adamw(3e-2, weight_decay=0.2),
        lambda optim, p: optim.AdamW(p, lr=3e-2, weight_decay=0.2),
    ),
    "sgd": (sc.sgd(0.1), lambda optim, p: optim.SGD(p, lr=0.1)),
    "momentum": (
        sc.sgd(0.1, 0.9),
        lambda optim, p: optim.SGD(p, lr=0.1, momentum=0.9),
    ),
    "nesterov": (
        sc.sgd(0.1, 0.9, nesterov=True),
        lambda optim, p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_torch_optim_walks_our_way(name, torch, asarray, close, rng):
    mine, theirs = OPTIMIZERS[name]
    params = {key: asarray(rng.standard_normal((3, k))) for k, key in enumerate("abc", 1)}
    twins = {key: value.clone().requires_grad_() for key, value in params.items()}
    optimizer, state = theirs(torch.optim, list(twins.values())), mine.init(params)
    for _ in range(10):
        grads = {key: asarray(rng.standard_normal(tuple(p.shape))) for key, p in params.items()}
        for key, twin in twins.items():
            twin.grad = grads[key].clone()
        optimizer.step()
        params, state = mine.update(params, grads, state)
        close(params, twins)


@st.composite
def histories(draw):
    """Draw which of three parameters have a gradient in each update, and which of them decay."""
    names = st.sets(st.sampled_from("abc"))
    return draw(st.lists(names, min_size=1, max_size=12)), draw(st.none() | names)


def groups(params, decay, **options):
    """Parameters as torch.optim takes them: those without decay in a group of their own."""
    if decay is None:
        return list(params.values())
    return [
        {"params": [params[name] for name in params if name in decay]},
        {"params": [params[name] for name in params if name not in decay], **options},
    ]


@pytest.mark.parametrize("name", [*OPTIMIZERS, "decay"])
@given(history=histories(), seed=st.integers(0, 99))
def test_torch_optim_walks_our_way_whichever_gradients_are_missing(
    name, history, seed, torch, asarray, close
):
    rng, (updates, decay) = np.random.default_rng(seed), history
    params = {key: asarray(rng.standard_normal((3, k))) for k, key in enumerate("abc", 1)}
    twins = {key: value.clone().requires_grad_() for key, value in params.items()}
    if name == "decay":
        mine = sc.adamw(3e-2, weight_decay=0.2, decay=decay)
        theirs = groups(twins, decay, weight_decay=0.0)
        optimizer = torch.optim.AdamW(theirs, lr=3e-2, weight_decay=0.2)
    else:
        mine, make = OPTIMIZERS[name]
        optimizer = make(torch.optim, list(twins.values()))
    state = mine.init(params)
    for some in updates:
        grads = {key: asarray(rng.standard_normal(tuple(params[key].shape))) for key in some}
        for key, twin in twins.items():
            twin.grad = grads[key].clone() if key in grads else None
        optimizer.step()
        params, state = mine.update(params, grads, state)
        close(params, twins)


@pytest.mark.parametrize("size", [1e-3, 1e7], ids=["below", "above"])
def test_torch_clips_as_we_do(size, torch, asarray, close, rng):
    # Theirs divides by norm + 1e-6; at a norm of 1e7 that is beyond float64.
    grads = {key: asarray(size * rng.standard_normal((4, k))) for k, key in enumerate("abc", 1)}
    twins = [torch.zeros_like(g, requires_grad=True) for g in grads.values()]
    for twin, g in zip(twins, grads.values(), strict=True):
        twin.grad = g.clone()
    norm = torch.nn.utils.clip_grad_norm_(twins, 0.7)
    clipped, ours = sc.clip_by_global_norm(grads, 0.7)
    close({"norm": ours}, {"norm": norm})
    close(clipped, dict(zip(grads, [twin.grad for twin in twins], strict=True)))


def test_torch_trains_our_model_as_we_do(torch, asarray, assert_close, to_host):
    # Everything at once: forward, loss, BPTT against autograd, clipping, AdamW, dropout.
    # The tolerance of torch in float64 was measured at these sizes.
    n_y, n_steps, m, lengths = 5, 6, 7, [6, 2, 1, 6, 3, 5, 4]
    model = sc.Sequential(
        sc.Embedding(3), sc.LSTM(4, layers=2), sc.Dropout(0.2), sc.GRU(3), sc.Dense(n_y)
    )
    params = model.init(n_y, like=asarray(0.0), rng=3)
    twins = {name: value.clone().requires_grad_() for name, value in params.items()}
    optimizer = torch.optim.AdamW(twins.values(), lr=3e-2, weight_decay=0.1)
    opt = sc.adamw(3e-2, weight_decay=0.1)
    state, big, losses = opt.init(params), 1e6, []
    tokens = asarray(np.tile(np.arange(n_steps + 1)[:, None] % n_y, (1, m)))
    for step in range(30):
        logits, _, tape = model.forward(params, tokens[:-1, :], None, lengths, draw=step)
        loss, dlogits = sc.cross_entropy(logits, tokens[1:, :])
        _, grads, _ = model.backward(params, tape, big * dlogits)
        grads, _ = sc.clip_by_global_norm(grads, 0.5)
        params, state = opt.update(params, grads, state)

        optimizer.zero_grad()
        logits, _, _ = model.forward(twins, tokens[:-1, :], None, lengths, draw=step)
        twin = torch.nn.functional.cross_entropy(logits, tokens[1:, :])
        (big * twin).backward()
        torch.nn.utils.clip_grad_norm_(twins.values(), 0.5)
        optimizer.step()
        assert_close(loss, to_host(twin), kind="train", name=f"loss {step}")
        losses.append(float(loss))
    assert losses[-1] < 0.7 * losses[0]
    for name, value in params.items():
        assert_close(value, to_host(twins[name]), kind="train", name=name)
