"""JAX: its gradients of our forward, and that jit, vmap, scan and trees take what we give.

Runs with the library jax only.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
from problems import (
    KINDS,
    LENGTHS,
    N_A,
    N_X,
    N_Y,
    M,
    Problem,
    T,
    each_kind,
    on,
    recurrent,
    weights,
)

import seqcore as sc
from seqcore import arrays, kernels, random

pytestmark = [
    pytest.mark.only("jax"),
    pytest.mark.every_place,
    pytest.mark.usefixtures("unoptimized"),
]

T_EAGER = 3  # each step of an eager loop is many small programs

# A pass over time takes about a second to compile, so not all combinations run.
BOTH = ({"bidirectional": True}, LENGTHS)
PROBLEMS = {f"{kind}, both ways, ragged": (kind, *BOTH) for kind in KINDS}
PROBLEMS["lstm, stacked"] = ("lstm", {"layers": 2}, None)


@pytest.fixture(scope="module")
def jax():
    import jax

    return jax


@contextmanager
def optimizing(jax):
    """Compile as users do, inside the block."""
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def optimized(jax):
    with optimizing(jax):
        yield


# --- jax.grad through our forward -------------------------------------------------------


@pytest.mark.parametrize("problem", PROBLEMS)
def test_jax_through_our_forward_is_our_backward(problem, jax, asarray, close, rng):
    kind, more, lengths = PROBLEMS[problem]
    problem = Problem.of(rng, recurrent(kind, **more), lengths=lengths).move(asarray)

    @jax.jit
    def both(at):
        _, vjp, tape = jax.vjp(problem.outputs, at, has_aux=True)
        return problem.gradients(tape), vjp(problem.cotangents())[0]

    close(*both(problem.at()))


def test_jax_through_the_equations_of_the_peephole_lstm_is_our_layer(jax, asarray, close, rng, xp):
    # Gers & Schmidhuber 2000, equations 1 to 6, written out for one example.
    problem = Problem.of(rng, recurrent("lstm-peephole"), n_steps=T_EAGER).move(asarray)

    def example(at, x, h, c):
        W_x, W_h, b, p = (at[f"0.{name}"] for name in ("W_x", "W_h", "b", "p"))
        sigmoid, ys = jax.nn.sigmoid, []
        for t in range(T_EAGER):
            z_i, z_f, z_o, z_c = W_x @ x[t] + W_h @ h + b[..., 0]
            i, f = sigmoid(z_i + p[0, :, 0] * c), sigmoid(z_f + p[1, :, 0] * c)
            c = f * c + i * xp.tanh(z_c)
            h = sigmoid(z_o + p[2, :, 0] * c) * xp.tanh(c)
            ys.append(h)
        return xp.stack(ys), h, c

    def outputs(at):
        own = {name: at[name] for name in problem.params}
        batch = jax.vmap(example, in_axes=(None, -1, -1, -1), out_axes=-1)
        y, h, c = batch(own, at["x"], at["start.h"][0], at["start.c"][0])
        return {"y": y, "last.h": h[None], "last.c": c[None]}

    @jax.jit
    def both(at):
        out, tape = problem.outputs(at)
        theirs, vjp = jax.vjp(outputs, at)
        own = problem.but(params={name: at[name] for name in problem.params})
        return out, own.gradients(tape), theirs, vjp(problem.cotangents())[0]

    out, grads, theirs, expected = both(problem.at())
    close(out, theirs)
    close(grads, expected)


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_jax_through_the_losses(masked, jax, asarray, close, rng):
    y = asarray(3.0 * rng.standard_normal((T, N_Y, M)))
    mask = asarray(rng.random((T, M)) < 0.6) if masked else None
    for name, loss, target in (
        ("classes", sc.cross_entropy, asarray(rng.integers(N_Y, size=(T, M)))),
        ("distribution", sc.cross_entropy, asarray(rng.random((T, N_Y, M)))),
        ("values", sc.squared_error, asarray(rng.standard_normal((T, N_Y, M)))),
    ):
        expected = jax.jit(jax.grad(lambda y, t=target, loss=loss: loss(y, t, mask)[0]))(y)
        close({name: loss(y, target, mask)[1]}, {name: expected})


# --- a whole training step ---------------------------------------------------------------


MODEL = sc.Sequential(
    sc.Embedding(N_X),
    sc.LSTM(N_A),
    sc.Dropout(0.3),
    sc.GRU(2),
    sc.Dropout(0.2),
    sc.Dense(N_Y),
)
OPTIMIZER = sc.adam(sc.warmup(3, sc.cosine(0.1, 5)))


def gradients(params, tokens, state, draw):
    logits, state, tape = MODEL.forward(params, tokens[:-1, :], state, draw=draw)
    mask = tokens[1:, :] != 0
    loss, dlogits = sc.cross_entropy(logits, tokens[1:, :], mask)
    _, grads, _ = MODEL.backward(params, tape, dlogits)
    return loss, grads, state


def train(params, opt_state, tokens, state):
    """Forward, BPTT, clip and Adam with a schedule; dropout counts with the optimizer."""
    loss, grads, state = gradients(params, tokens, state, opt_state.count)
    grads, norm = sc.clip_by_global_norm(grads, 0.3)
    params, opt_state = OPTIMIZER.update(params, grads, opt_state)
    return params, opt_state, state, {"loss": loss, "norm": norm}


@pytest.fixture
def start(asarray, rng):
    params = MODEL.init(N_Y, like=asarray(0.0), rng=3)
    return params, OPTIMIZER.init(params), asarray(rng.integers(N_Y, size=(T_EAGER + 1, M)))


def test_jax_grad_of_the_whole_model_is_its_backward(start, jax, close):
    params, opt_state, tokens = start

    @jax.jit
    def both(params, draw):
        theirs = jax.grad(lambda p: gradients(p, tokens, None, draw)[0])(params)
        return theirs, gradients(params, tokens, None, draw)[1]

    theirs, ours = both(params, opt_state.count)
    close(ours, theirs)


def test_a_training_step_under_jit_is_the_eager_one(start, jax, close):
    params, opt_state, tokens = start
    jitted = jax.jit(partial(train))  # a new function: JAX counts what it compiled of each
    state = MODEL.predict(params, tokens)[1]  # one tree from the start: compiled once
    eager, traced = (params, opt_state, state), (params, opt_state, state)
    for _ in range(3):
        *eager, seen = train(*eager[:2], tokens, eager[2])
        with optimizing(jax):
            *traced, told = jitted(*traced[:2], tokens, traced[2])
        close(told, seen, kind="train")
    assert jitted._cache_size() == 1
    close(traced[0], eager[0], kind="train")
    assert int(traced[1].count) == 3
    assert jax.tree.structure(traced) == jax.tree.structure(eager)
    close(
        {str(i): value for i, value in enumerate(jax.tree.leaves(traced[2]))},
        {str(i): value for i, value in enumerate(jax.tree.leaves(eager[2]))},
        kind="train",
    )


def test_dropout_draws_by_the_count_while_traced(jax, asarray, to_host, xp):
    x = asarray(np.ones((T, N_X, M)))
    layer = sc.Dropout(0.5, seed=9)
    dropped = jax.jit(lambda x, draw: layer.forward({}, x, draw=draw)[0])
    for draw in (0, 1, 2**31 - 1):
        np.testing.assert_array_equal(
            to_host(dropped(x, xp.asarray(draw))), to_host(layer.forward({}, x, draw=draw)[0])
        )


def test_jax_trees_take_ours_as_they_are(start, jax):
    params, opt_state, tokens = start
    _, state, tape = MODEL.forward(params, tokens, None, [4, 0, 2, 3, 1, 4], draw=1)
    for tree in (params, opt_state, state, tape, sc.sgd(momentum=0.5).init(params)):
        leaves, structure = jax.tree.flatten(tree)
        assert leaves
        assert all(isinstance(leaf, jax.Array) for leaf in leaves)  # no sizes, no flags
        same = jax.tree.map(lambda leaf: leaf + 0 if leaf.dtype != bool else leaf, tree)
        assert type(same) is type(tree)
        assert jax.tree.structure(same) == structure
    # A tree that went through JAX trains on.
    back = jax.tree.map(lambda leaf: leaf, tape)
    dy = MODEL.predict(params, tokens)[0]
    assert MODEL.backward(params, back, dy)[1].keys() == params.keys()


@pytest.mark.usefixtures("optimized")
def test_vmap_over_models_is_one_after_another(jax, asarray, close, rng, xp):
    layer = sc.Sequential(sc.LSTM(N_A), sc.Dropout(0.4), sc.Dense(N_Y))
    models = [layer.init(N_X, like=asarray(0.0), rng=seed) for seed in range(3)]
    x = asarray(rng.standard_normal((T, N_X, M)))
    targets = asarray(rng.integers(N_Y, size=(T, M)))

    def step(params, draw):
        y, _, tape = layer.forward(params, x, None, LENGTHS, draw=draw)
        loss, dy = sc.cross_entropy(y, targets)
        _, grads, _ = layer.backward(params, tape, dy)
        grads, norm = sc.clip_by_global_norm(grads, 0.3)
        opt = sc.adam(1e-2)
        params, opt_state = opt.update(params, grads, opt.init(params))
        return {**params, "loss": loss, "norm": norm, "nu": opt_state.nu["lstm.0.W_h"]}

    stacked = jax.tree.map(lambda *leaves: xp.stack(leaves), *models)
    draws = xp.asarray([5, 6, 7])
    together = jax.jit(jax.vmap(step))(stacked, draws)
    one = jax.jit(step)
    for k, params in enumerate(models):
        close(
            {name: value[k] for name, value in together.items()},
            one(params, draws[k]),
            kind="train",
        )


# --- the loop over time -----------------------------------------------------------------


def bptt(layer):
    def run(params, x):
        y, _, tape = layer.forward(params, x)
        return layer.backward(params, tape, y)

    return run


def equations(jaxpr):
    """Count the equations of a program, those inside of others too, and name them."""
    names = []
    for equation in jaxpr.eqns:
        names.append(equation.primitive.name)
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                names += equations(inner)
    return names


@each_kind
def test_a_traced_loop_is_a_scan_of_the_same_size_for_any_time(kind, jax, asarray):
    layer = recurrent(kind)
    params = layer.init(N_X, like=asarray(0.0), rng=0)
    programs = [
        equations(jax.make_jaxpr(bptt(layer))(params, asarray(np.ones((n, N_X, M)))).jaxpr)
        for n in (10, 1000)
    ]
    assert programs[0].count("scan") == 2  # forward and back
    assert programs[0] == programs[1]


@pytest.mark.usefixtures("optimized")
def test_compiling_takes_no_longer_for_a_long_sequence(jax, asarray):
    layer = sc.LSTM(N_A)
    params = layer.init(N_X, like=asarray(0.0), rng=0)
    seconds = {10: [], 1000: []}
    for _ in range(2):  # by turns, so that a busy machine slows both
        for n_steps, seen in seconds.items():
            begin = time.perf_counter()
            # A new function each time: JAX remembers those that it compiled.
            jax.jit(bptt(layer)).lower(params, asarray(np.ones((n_steps, N_X, M)))).compile()
            seen.append(time.perf_counter() - begin)
    assert min(seconds[1000]) < 2 * min(seconds[10]), seconds


@pytest.mark.parametrize("kind", ["rnn-tanh", "lstm"])  # one saves nothing, one much
def test_a_scan_is_the_loop_step_by_step(kind, asarray, close, rng, monkeypatch):
    layer = recurrent(kind, bidirectional=True)
    params = on(asarray, weights(rng, layer))
    x = asarray(rng.standard_normal((T, N_X, M)))

    def run():
        y, last, tape = layer.forward(params, x, None, LENGTHS)
        dx, grads, start = layer.backward(params, tape, y)
        return {"y": y, "x": dx, **grads, "last": last.h, "start": start.h}

    looped = run()
    monkeypatch.setattr(kernels.jax, "_EAGER_STEPS", 0)
    close(run(), looped)


# --- what cannot be ---------------------------------------------------------------------


def without_x64(code):
    """Run code where JAX has no float64; return what it printed."""
    program = "import jax, jax.numpy as jnp, numpy as np\nimport seqcore as sc\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program + textwrap.dedent(code)],
        env=os.environ | {"JAX_ENABLE_X64": "0", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
def test_float32_trains_without_x64(jitted, tmp_path):
    path = str(tmp_path / "model.safetensors")
    out = without_x64(f"""
        model = sc.Sequential(sc.Embedding(3), sc.LSTM(4), sc.Dropout(0.5), sc.Dense(5))
        params = model.init(5, like=jnp.zeros(0), rng=0)
        opt = sc.adam(sc.warmup(2, sc.cosine(0.1, 9)))
        tokens = jnp.ones((3, 2), dtype=jnp.int32)
        def step(params, state):
            y, _, tape = model.forward(params, tokens, None, [3, 0], draw=state.count)
            loss, dy = sc.cross_entropy(y, tokens)
            grads, _ = sc.clip_by_global_norm(model.backward(params, tape, dy)[1], 1.0)
            return opt.update(params, grads, state)
        state = opt.init(params)
        for _ in range(2):
            params, state = (jax.jit(step) if {jitted} else step)(params, state)
        sc.save_checkpoint({path!r}, params, opt_state=state)
        again = sc.load_checkpoint({path!r}, like=jnp.zeros(0))
        assert jax.tree.structure((again.params, again.opt_state)) == jax.tree.structure(
            (params, state))
        print({{str(leaf.dtype) for leaf in jax.tree.leaves((params, state.mu, again.params))}},
              again.opt_state.count.dtype, int(again.opt_state.count))
    """)
    assert out == "{'float32'} int32 2"


def test_float64_without_x64_is_refused_by_name():
    out = without_x64("""
        from seqcore.arrays import available
        assert available.like("jax", None, "float32").dtype == "float32"
        try:
            available.like("jax", None, "float64")
        except ValueError as error:
            print(error)
    """)
    assert out.startswith(
        "array library jax has no dtype float64 on cpu:0 here, expected float32 "
        "(set JAX_ENABLE_X64=1"
    )


def test_mixing_with_float64_of_numpy_is_refused_without_x64(tmp_path):
    path = str(tmp_path / "model.safetensors")
    out = without_x64(f"""
        layer = sc.LSTM(4)
        params = layer.init(3, like=np.zeros(0), rng=0)
        try:
            layer.forward(params, jnp.ones((2, 3, 1)))
        except TypeError as error:
            print(error)
        # To load float64 as float32 is what `like` asks for.
        sc.save_checkpoint({path!r}, params)
        print(sc.load_checkpoint({path!r}, like=jnp.zeros(0)).params["0.b"].dtype)
    """)
    assert out == "lstm: 0.W_x is an array of numpy, expected jax like x\nfloat32"


TRACED = {
    "lstm: lengths": lambda x, _: sc.LSTM(4).forward(
        sc.LSTM(4).init(1, like=x, rng=0), x, None, [3, x[0, 0, 1]]
    ),
    "save_checkpoint: params.W": lambda x, path: sc.save_checkpoint(path, {"W": x}),
    "clip_by_global_norm: max_norm": lambda x, _: sc.clip_by_global_norm({"W": x}, x[0, 0, 0]),
    "adam: learning_rate": lambda x, _: sc.adam(x[0, 0, 0]),
    "adam: b2": lambda x, _: sc.adam(b2=x[0, 0, 0]),
    "adam: eps": lambda x, _: sc.adam(eps=x[0, 0, 0]),
    "adamw: weight_decay": lambda x, _: sc.adamw(weight_decay=x[0, 0, 0]),
    "sgd: momentum": lambda x, _: sc.sgd(momentum=x[0, 0, 0]),
    "cosine: steps": lambda x, _: sc.cosine(0.1, x[0, 0, 0]),
    "cosine: final": lambda x, _: sc.cosine(0.1, 3, final=x[0, 0, 0]),
    "dropout: rate": lambda x, _: sc.Dropout(x[0, 0, 0]),
    "lstm: n_a": lambda x, _: sc.LSTM(x[0, 0, 0]),
    "to_host: array": lambda x, _: arrays.to_host(x),
}


@pytest.mark.parametrize("what", TRACED)
@pytest.mark.parametrize("transform", ["jit", "grad", "vmap"])
def test_a_traced_array_where_a_value_is_needed_is_named(what, transform, jax, asarray, tmp_path):
    def call(x):
        TRACED[what](x if x.ndim == 3 else x[None, ...], tmp_path / "model.safetensors")
        return x.sum()

    text = rf"^{re.escape(what)} is a traced array of jax, "
    with pytest.raises(TypeError, match=text):
        getattr(jax, transform)(call)(asarray(np.ones((3, 1, 2))))
    assert not list(tmp_path.iterdir())


def test_a_traced_draw_that_is_no_integer_is_refused(jax, asarray):
    x = asarray(np.ones((3, 1, 2)))
    text = f"dropout: draw has dtype {x.dtype}, expected an integer dtype"
    with pytest.raises(TypeError, match=f"^{re.escape(text)}"):  # JAX adds a note
        jax.jit(lambda x: sc.Dropout(0.5).forward({}, x, draw=x[0, 0, 0])[0])(x)


def test_lengths_may_be_traced(jax, asarray, close, rng):
    layer = sc.GRU(N_A)
    params = layer.init(N_X, like=asarray(0.0), rng=0)
    x = asarray(rng.standard_normal((T, N_X, M)))
    run = jax.jit(lambda lengths: layer.forward(params, x, None, lengths)[0])
    for lengths in (LENGTHS, LENGTHS[::-1]):
        close({"y": run(asarray(lengths))}, {"y": layer.forward(params, x, None, lengths)[0]})
    assert run._cache_size() == 1


def test_masks_are_the_same_under_jit(jax, asarray, to_host):
    like = asarray(0.0)
    for seed in (0, 2**33 + 5):

        def mask(like, seed=seed):
            return random.keep_mask((3, 7), 0.4, seed=seed, draw=random.Draw(2), like=like)

        eager, traced = mask(like), jax.jit(mask)(like)
        np.testing.assert_array_equal(to_host(traced), to_host(eager))


def test_a_tape_may_be_closed_over_by_what_jax_compiles(asarray, assert_close, to_host, rng):
    import jax

    layer = sc.LSTM(3)
    params = {name: asarray(v) for name, v in layer.init(2, like=np.zeros(0), rng=0).items()}
    x = asarray(rng.standard_normal((4, 2, 5)))
    y, _, tape = layer.forward(params, x)
    expected, _, _ = layer.backward(params, tape, y)
    compiled = jax.jit(lambda params, dy: layer.backward(params, tape, dy)[0])
    assert_close(compiled(params, y), to_host(expected), kind="bptt")
