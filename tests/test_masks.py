"""Which steps count: lengths and masks as arguments, and laws that hold for any model.

A step that does not count affects nothing, in any layer and in any chain of layers.
"""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from judging import exactly, named, same_bits
from loading import Foreign
from nestings import links, size
from problems import (
    ENDING,
    KINDS,
    LENGTHS,
    MASK,
    N_A,
    N_X,
    N_Y,
    STEPS,
    TOKENS,
    WAYS,
    M,
    Mean,
    Problem,
    Scaled,
    T,
    on,
    recurrent,
)

import seqcore as sc
from seqcore import masks
from seqcore.arrays import is_array

pytestmark = pytest.mark.usefixtures("unoptimized")

BOTH = STEPS["ragged with gaps"]
JUNK = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf, "huge": 1e38}
TOKEN_JUNK = {"nan": -1, "inf": 2**40, "-inf": -(2**40), "huge": TOKENS}


class Shifted(Scaled):
    """A user's own layer that mixes times, whether they count or not."""

    name = "shifted"

    def forward(self, params, x, state=None, lengths=None, mask=None, draw=None):
        xp = sc.arrays.namespace(x)
        return super().forward(params, x + xp.concat((x[1:, ...], x[:1, ...])))

    def backward(self, params, tape, dy, dstate=None, wrt=None):
        dx, grads, _ = super().backward(params, tape, dy)
        xp = sc.arrays.namespace(dx)
        return dx + xp.concat((dx[-1:, ...], dx[:-1, ...])), grads, ()


def chain(front: Any = None) -> Any:
    """Return a model of every kind of layer, with a user's own and a nested one in the middle."""
    inner = sc.Sequential(sc.Dropout(0.3, seed=2), sc.GRU(3, bidirectional=True), Scaled())
    layers = (sc.Dense(4), sc.Dropout(0.4), sc.LSTM(N_A, layers=2), Scaled(), inner, sc.RNN(2))
    layers = layers if front is None else (front, *layers)
    return sc.Sequential(*layers, sc.Sharded(sc.Sequential(sc.Dense(3), sc.Dropout(0.2)), 2))


# Every layer, with the size of its vocabulary where x holds tokens.
LAYERS: dict[str, tuple[Any, int | None]] = {
    f"{kind} {way}": (recurrent(kind, **options), None)
    for kind in KINDS
    for way, options in WAYS.items()
}
LAYERS |= {
    "recompute": (sc.LSTM(N_A, layers=2, recompute=2), None),
    "dense": (sc.Dense(N_Y), None),
    "dropout": (sc.Dropout(0.4), None),
    "embedding": (sc.Embedding(N_Y), TOKENS),
    "sharded": (sc.Sharded(sc.LSTM(N_A), 4), None),
    "sharded both ways": (sc.Sharded(sc.GRU(N_A, bidirectional=True), 2), None),
    "a user's own": (sc.Sequential(Scaled()), None),
    "a user's own that mixes times": (
        sc.Sequential(sc.Dense(3), Shifted(), sc.Sequential(Shifted(), sc.Dense(2))),
        None,
    ),
    "a user's own, sharded": (sc.Sharded(Scaled(), 2), None),
    "ends time": (sc.Sequential(sc.LSTM(N_A), Mean(), sc.Dense(N_Y)), None),
    **{name: (layer, None) for name, layer in ENDING.items()},
    "last, sharded": (sc.Sharded(ENDING["lstm, last, dense"], 4), None),
    "last of a user's own": (sc.Sequential(Scaled(), sc.Last(), Scaled()), None),
    "last of tokens": (sc.Sequential(sc.Embedding(3), sc.Sequential(sc.Last())), TOKENS),
    "chain": (chain(), None),
    "chain of tokens": (chain(sc.Embedding(3)), TOKENS),
}
each_layer = pytest.mark.parametrize(("layer", "tokens"), LAYERS.values(), ids=LAYERS)


def drawn(rng: np.random.Generator, layer: Any, **options: Any) -> Problem:
    """Draw a problem, with a draw where the layer drops."""
    return Problem.of(rng, layer, draw=3 if layer.drops else None, **options)


def counted(problem: Problem) -> np.ndarray:
    """Return which steps of a problem on the host count, (T, m)."""
    shape = (problem.x.shape[0], problem.x.shape[-1])
    steps = np.ones(shape, dtype=bool)
    if problem.lengths is not None:
        steps &= np.arange(shape[0])[:, None] < problem.lengths
    return steps if problem.mask is None else steps & problem.mask


def filled(problem: Problem, junk: str | None) -> Problem:
    """Return the problem with zeros, or junk, wherever a step does not count."""
    steps = counted(problem)
    tokens = problem.x.ndim == 2
    value = 0.0 if junk is None else (TOKEN_JUNK if tokens else JUNK)[junk]
    x = np.where(steps if tokens else steps[:, None, :], problem.x, value)
    dy = problem.dy
    if dy.ndim == 3:
        dy = np.where(steps[:, None, :], dy, 0.0 if junk is None else np.nan)
    return problem.but(x=x.astype(problem.x.dtype), dy=dy)


@pytest.fixture(scope="session")
def on_host(to_host):
    """Copy named arrays to the host."""
    return lambda arrays: {name: to_host(value) for name, value in arrays.items()}


# --- as arguments -----------------------------------------------------------------------


def raises(kind: type[Exception], text: str):
    """Expect exactly this text."""
    return pytest.raises(kind, match=exactly(text))


@pytest.fixture
def x(asarray):
    return asarray(np.zeros((4, 3, 2)))  # T, n_x, m


@pytest.mark.parametrize("given", [[0, 4], (0, 4), np.asarray([0, 4]).tolist()])
def test_lengths_from_the_host_are_placed_beside_x(given, x, assert_close):
    expected = np.asarray([[False, True]] * 4)
    assert_close(masks.steps("lstm", x, given, None), expected, kind="cell")


def test_lengths_that_are_arrays_or_not_given_pass(x, asarray, assert_close):
    expected = np.arange(4)[:, None] < np.asarray([3, 1])
    assert_close(masks.steps("lstm", x, asarray([3, 1]), None), expected, kind="cell")
    assert masks.steps("lstm", x, None, None) is None


def test_a_mask_is_itself_and_with_lengths_both_say_so(x, asarray, assert_close):
    mask = np.asarray([[1, 0], [0, 1], [1, 1], [1, 1]], dtype=bool)
    given = asarray(mask)
    assert masks.steps("lstm", x, None, given) is given
    expected = mask & (np.arange(4)[:, None] < np.asarray([3, 2]))
    for lengths in ([3, 2], asarray([3, 2])):
        assert_close(masks.steps("lstm", x, lengths, given), expected, kind="cell")
    np.testing.assert_array_equal(mask, np.asarray([[1, 0], [0, 1], [1, 1], [1, 1]]))


@pytest.mark.parametrize(
    ("given", "kind", "text"),
    [
        ([5, 1], ValueError, "lengths holds 5, expected 0 <= length < 5"),
        ([1, -1], ValueError, "lengths holds -1, expected 0 <= length < 5"),
        ([1, 2, 3], ValueError, "lengths has shape (3,), expected (m,) = (2,)"),
        ([], ValueError, "lengths has shape (0,), expected (m,) = (2,)"),
        ([1.5, 2.0], TypeError, "lengths is [1.5, 2.0], expected whole numbers"),
        ([[1], [2]], TypeError, "lengths is [[1], [2]], expected whole numbers"),
        (3, TypeError, "lengths is 3, expected whole numbers"),
        ("12", TypeError, "lengths is '12', expected whole numbers"),
    ],
    ids=["too long", "negative", "too many", "none", "floats", "rank", "a number", "a string"],
)
def test_lengths_name_what_is_wrong(given, kind, text, x):
    with raises(kind, f"lstm: {text}"):
        masks.steps("lstm", x, given, None)


def test_lengths_of_floats_or_of_another_library_are_refused(x, library, asarray):
    stray = asarray([1.0, 2.0])
    with raises(TypeError, f"lstm: lengths has dtype {stray.dtype}, expected an integer dtype"):
        masks.steps("lstm", x, stray, None)
    own = library.contract["namespace"].partition(".")[0]
    with raises(TypeError, f"lstm: lengths is an array of elsewhere, expected {own} like x"):
        masks.steps("lstm", x, Foreign(), None)


@pytest.mark.parametrize(
    ("given", "kind", "text"),
    [
        ([True, False], TypeError, "lengths is [True, False], expected whole numbers"),
        ([10**30, 1], ValueError, f"lengths holds {10**30}, expected 0 <= length < 5"),
        ([-1, 1], ValueError, "lengths holds -1, expected 0 <= length < 5"),
    ],
)
def test_a_list_of_lengths_is_held_to_the_same_law(given, kind, text, x):
    with raises(kind, f"lstm: {text}"):
        masks.steps("lstm", x, given, None)


@pytest.mark.parametrize("values", [0, 1.0], ids=["integers", "floats"])
def test_a_mask_is_of_bool(values, x, asarray):
    stray = asarray(np.full((4, 2), values))
    with raises(TypeError, f"lstm: mask has dtype {stray.dtype}, expected bool"):
        masks.steps("lstm", x, None, stray)


@pytest.mark.parametrize("shape", [(2, 4), (4,), (2,), (4, 1), (4, 3, 2), (3, 2), ()])
def test_a_mask_has_time_first(shape, x, asarray):
    stray = asarray(np.ones(shape, dtype=bool))
    text = f"lstm: mask has shape {shape}, expected time first, (T, m) = (4, 2)"
    with raises(ValueError, text):
        masks.steps("lstm", x, None, stray)


@pytest.mark.parametrize("given", [[[True, False]] * 4, True, "yes"], ids=["list", "bool", "str"])
def test_a_mask_is_an_array(given, x):
    with raises(TypeError, f"lstm: mask is a {type(given).__name__}, expected an array"):
        masks.steps("lstm", x, None, given)


def test_a_mask_of_another_library_or_device_is_refused(x, library, device, xp):
    own = library.contract["namespace"].partition(".")[0]
    with raises(TypeError, f"lstm: mask is an array of elsewhere, expected {own} like x"):
        masks.steps("lstm", x, None, Foreign())
    for other in library.devices.values():  # NumPy has one, so nothing to refuse
        if other != device:
            stray = xp.ones((4, 2), dtype=xp.bool, device=other)
            with raises(TypeError, f"lstm: mask is on device {other}, expected {device} like x"):
                masks.steps("lstm", x, None, stray)


@pytest.mark.parametrize(
    "layer",
    [
        sc.Dense(N_Y),
        sc.Dropout(0.5),
        sc.Sequential(sc.Dense(N_Y)),
        sc.Sequential(sc.Sequential(sc.Dropout(0.5)), sc.Dense(N_Y)),
        sc.Sharded(sc.Dense(N_Y), 2),
    ],
    ids=["dense", "dropout", "sequential", "nested", "sharded"],
)
def test_what_counts_is_refused_where_there_is_no_time(layer, asarray):
    x = asarray(np.zeros((N_X, M)))
    params = layer.init(N_X, like=x, rng=0)
    drop = {"draw": 0} if layer.drops else {}
    lengths, mask = {"lengths": [1] * M}, {"mask": asarray(np.ones((N_X, M), dtype=bool))}
    for name, counts in (("lengths", lengths), ("mask", mask), ("mask", lengths | mask)):
        text = f"{layer.name}: {name} was given, but x of shape (2, 6) has no time axis"
        with raises(ValueError, text):
            layer.forward(params, x, **counts, **drop)
        with raises(ValueError, text):
            layer.predict(params, x, **counts)
        with raises(ValueError, text):
            layer.bind(params, M).predict(x, **counts)


@each_layer
def test_every_layer_refuses_a_wrong_mask_and_wrong_lengths(layer, tokens, asarray, rng):
    problem = drawn(rng, layer, tokens=tokens).move(asarray)
    wrong = asarray(np.ones((M, T), dtype=bool))
    text = "mask has shape (6, 7), expected time first, (T, m) = (7, 6)"
    with raises(ValueError, f"{layer.name}: {text}"):
        problem.but(mask=wrong).forward()
    with raises(TypeError, f"{layer.name}: lengths is 'nonsense', expected whole numbers"):
        problem.but(lengths="nonsense").forward()
    with raises(TypeError, f"{layer.name}: mask is a str, expected an array"):
        layer.predict(problem.params, problem.x, mask="nonsense")


# --- what is masked touches nothing -----------------------------------------------------


def untouched(problem: Problem, junk: str, asarray: Any, on_host: Any) -> None:
    """Require the bits that zeros in the place of junk give, finite, and 0 where masked."""
    expected = on_host(filled(problem, None).move(asarray).results())
    same_bits(on_host(filled(problem, junk).move(asarray).results()), expected)
    steps = counted(problem)[:, None, :]
    for name, value in expected.items():
        assert np.all(np.isfinite(value)), name
        if name in ("y", "dx") and value.ndim == 3:
            assert not np.any(np.where(steps, 0.0, value)), name


@each_layer
def test_what_is_masked_touches_nothing(layer, tokens, asarray, on_host, rng):
    problem = drawn(rng, layer, tokens=tokens, **BOTH)
    for junk in JUNK:
        untouched(problem, junk, asarray, on_host)


@st.composite
def models(draw: Any) -> Any:
    """Draw a model, the size of its vocabulary or None, and which steps count."""
    parts = draw(st.lists(links(), min_size=1, max_size=3))
    tokens = None
    if draw(st.booleans()):
        parts, tokens = [sc.Embedding(draw(size)), *parts], 5
    if draw(st.booleans()):
        parts += [draw(st.sampled_from([Mean(), sc.Last()])), sc.Dense(draw(size))]
    n_steps, m = draw(size), draw(size)
    steps = {}
    if draw(st.booleans()):
        steps["lengths"] = draw(st.lists(st.integers(0, n_steps), min_size=m, max_size=m))
    if not steps or draw(st.booleans()):
        row = st.lists(st.booleans(), min_size=m, max_size=m)
        steps["mask"] = draw(st.lists(row, min_size=n_steps, max_size=n_steps))
    sizes = {"n_in": draw(size), "n_steps": n_steps, "m": m, "tokens": tokens}
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return drawn(rng, sc.Sequential(*parts), **sizes, **steps)


@given(problem=models(), junk=st.sampled_from(list(JUNK)))
def test_what_is_masked_touches_nothing_in_any_model(problem, junk, asarray, on_host):
    untouched(problem, junk, asarray, on_host)


@each_layer
def test_what_is_masked_touches_nothing_that_is_predicted(layer, tokens, asarray, on_host, rng):
    problem = drawn(rng, layer, tokens=tokens, **BOTH)

    def predicted(junk):
        given = filled(problem, junk).move(asarray)
        state = given.state
        y, last = layer.predict(given.params, given.x, state, given.lengths, given.mask)
        return on_host({"y": y, **named("last", last)})

    for junk in JUNK:
        same_bits(predicted(junk), predicted(None))


@pytest.mark.host
def test_a_loss_of_padded_floats_has_finite_gradients(rng):
    # Behind a Dense, 0 times NaN once reached its gradient.
    layer = sc.Sequential(sc.Dense(4), sc.LSTM(N_A), sc.Dense(N_Y))
    params = layer.init(N_X, like=np.zeros(0), rng=rng)
    x, mask = rng.standard_normal((T, N_X, M)), sc.sequence_mask(np.asarray(LENGTHS), T)
    logits, _, tape = layer.forward(params, np.where(mask[:, None], x, np.nan), None, LENGTHS)
    loss, dlogits = sc.cross_entropy(logits, rng.integers(N_Y, size=(T, M)), mask)
    _, grads, _ = layer.backward(params, tape, dlogits)
    assert np.isfinite(loss)
    for name, value in grads.items():
        assert np.all(np.isfinite(value)), name


# --- a masked step is no step -----------------------------------------------------------

# Dropout's masks go by the position of a step, which removing another one changes.
STEADY = {
    name: pair
    for name, pair in LAYERS.items()
    if not pair[0].drops and name != "a user's own that mixes times"
}


@pytest.mark.parametrize(("layer", "tokens"), STEADY.values(), ids=STEADY)
def test_a_masked_step_is_removed(layer, tokens, asarray, close, rng):
    problem = drawn(rng, layer, tokens=tokens, **BOTH)
    which, got = counted(problem), filled(problem, "nan").move(asarray).results()
    expected = {name: np.zeros(value.shape) for name, value in got.items() if is_array(value)}
    for j in range(M):
        times = np.flatnonzero(which[:, j])
        # An example without any step keeps one, masked: no sequence is empty.
        own = filled(problem, None).batch([j]) if not len(times) else problem.batch([j])
        left = times if len(times) else [0]
        own = own.but(
            x=own.x[left],
            dy=own.dy[left] if own.dy.ndim == 3 else own.dy,
            lengths=None if len(times) else np.asarray([0]),
            mask=None,
        )
        for name, value in own.results().items():
            if name in problem.params:
                expected[name] += value
            elif is_array(value):
                in_time = name in ("y", "dx") and value.shape[:-1] != expected[name].shape[:-1]
                at = (left, slice(None), j) if in_time else (..., j)
                expected[name][at] = value[..., 0]
    close({name: got[name] for name in expected}, expected)


@each_layer
def test_lengths_are_the_mask_of_lengths(layer, tokens, asarray, on_host, rng):
    problem = drawn(rng, layer, tokens=tokens, lengths=LENGTHS)
    within = np.arange(T)[:, None] < problem.lengths
    masked = problem.but(lengths=None, mask=within)
    same_bits(on_host(masked.move(asarray).results()), on_host(problem.move(asarray).results()))


@each_layer
def test_with_lengths_and_a_mask_a_step_counts_where_both_say_so(
    layer, tokens, asarray, on_host, rng
):
    problem = drawn(rng, layer, tokens=tokens, **BOTH)
    both = problem.but(lengths=None, mask=counted(problem))
    same_bits(on_host(both.move(asarray).results()), on_host(problem.move(asarray).results()))


@pytest.mark.host
@pytest.mark.parametrize(
    "layer",
    [
        *(recurrent(kind, 3, layers=2, bidirectional=True) for kind in KINDS),
        sc.Sequential(
            sc.Dense(3), sc.Dropout(0.4), Scaled(), sc.LSTM(2), Mean(), sc.Dropout(0.3), sc.Dense(2)
        ),
        sc.Sharded(sc.Sequential(sc.Dense(3), sc.GRU(2)), 2),
        *ENDING.values(),
    ],
    ids=[*KINDS, "chain", "sharded", *ENDING],
)
def test_backward_is_the_derivative_of_forward(layer, check_gradients, rng):
    problem = drawn(rng, layer, n_steps=4, lengths=[4, 3, 0, 4, 2, 4], mask=MASK[:4])
    check_gradients(problem.loss, problem.at(), problem.gradients())


# --- after a layer that ends time -------------------------------------------------------


class Spy(Scaled):
    """A user's own layer that records what it is told about steps."""

    seen: list[Any] = []  # noqa: RUF012 - a frozen dataclass has no other place for it

    def forward(self, params, x, state=None, lengths=None, mask=None, draw=None):
        # `predict` calls it too.
        Spy.seen.append((len(x.shape), lengths, mask))
        return super().forward(params, x)


ENDS = {
    "behind": sc.Sequential(Spy(), Mean(), Spy()),
    "nested": sc.Sequential(sc.Sequential(sc.Sequential(Spy(), Mean())), sc.Sequential(Spy())),
    "sharded": sc.Sequential(sc.Sharded(sc.Sequential(Spy(), Mean()), 1), Spy()),
    "in shards": sc.Sharded(sc.Sequential(Spy(), Mean(), Spy()), 1),
    "last": sc.Sequential(Spy(), sc.Last(), Spy()),
}


@pytest.mark.parametrize("layer", ENDS.values(), ids=ENDS)
def test_behind_a_layer_that_ends_time_nothing_is_masked(layer, asarray, on_host, rng):
    assert not layer.keeps_time
    params = on(asarray, layer.init(N_X, like=np.zeros(0), rng=rng))
    x, mask = asarray(rng.standard_normal((T, N_X, M))), asarray(MASK)
    for run in (layer.forward, layer.predict):
        Spy.seen.clear()
        y, *_ = run(params, x, mask=mask)
        assert y.shape == (N_X, M)
        (before, _, seen), behind = Spy.seen
        assert before == 3
        same_bits(on_host({"mask": seen}), {"mask": MASK})
        assert behind == (2, None, None)


def test_dy_behind_a_layer_that_ends_time_is_left_as_it_is(asarray, assert_close, rng):
    # It has no steps, though it has as many features as x has steps.
    problem = drawn(rng, sc.Sequential(Mean(), sc.Dense(T)), mask=MASK)
    placed = problem.move(asarray)
    _, grads, _ = placed.backward(placed.forward()[2])
    assert_close(grads["dense.b"], problem.dy.sum(axis=1, keepdims=True), kind="cell")


def test_a_mask_is_about_steps_whatever_lies_between_time_and_batch(asarray, to_host, rng):
    x = rng.standard_normal((T, 3, 2, M))
    x[~MASK[:, None, None, :] & np.ones(x.shape, bool)] = np.nan
    y, _ = sc.Dropout(0.5).predict({}, asarray(x), mask=asarray(MASK))
    np.testing.assert_array_equal(to_host(y) == 0, ~MASK[:, None, None, :] & np.ones(x.shape, bool))


@pytest.mark.parametrize("on_host", [True, False])
def test_lengths_of_the_first_axis_say_that_x_has_its_axes_in_another_order(on_host, asarray, rng):
    layer = sc.LSTM(N_A)
    params = {k: asarray(v) for k, v in layer.init(N_X, like=np.zeros(0), rng=0).items()}
    x = asarray(rng.standard_normal((2, N_X, T)))  # batch first
    lengths = [T, 1] if on_host else asarray(np.asarray([T, 1]))
    text = f"lstm: x has shape (2, {N_X}, {T}), expected time first, (T, n_x, m) with m = 2, "
    with pytest.raises(ValueError, match=exactly(text + "the number of lengths")):
        layer.forward(params, x, lengths=lengths)


@pytest.mark.parametrize("wrong", [{5: 1, 1: 2}, {5, 1}, "51", b"51"])
def test_lengths_without_an_order_are_refused(wrong, asarray, rng):
    x = asarray(rng.standard_normal((T, N_X, 2)))
    text = f"test: lengths is {wrong!r}, expected whole numbers"
    with pytest.raises(TypeError, match=exactly(text)):
        masks.steps("test", x, wrong, None)
