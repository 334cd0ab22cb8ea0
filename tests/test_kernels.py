"""NumPy's kernels against the generic code, number by number, and where they are chosen."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from judging import frozen, named
from problems import (
    CELLS,
    N_A,
    N_X,
    M,
    OverTime,
    Problem,
    T,
    each_kind,
    each_steps,
    recurrent,
)

import seqcore as sc
from seqcore import arrays, kernels, process
from seqcore.cells import linear, lstm
from seqcore.kernels import Gates, contract
from seqcore.kernels import numpy as ours

pytestmark = pytest.mark.host

XP = arrays.namespace(np.zeros(0))
NUMPY = ours.NumPyKernels()


@pytest.fixture(autouse=True)
def chosen_anew(monkeypatch):
    """Each test chooses its kernels anew; the choice ends with it."""
    monkeypatch.delenv("SEQCORE_KERNELS", raising=False)
    kernels.of.cache_clear()
    yield
    kernels.of.cache_clear()


def openblas_for(*architectures):
    """Stand in for `process.openblas_architectures`."""
    return lambda: frozenset(architectures)


@pytest.fixture
def small_kernels(monkeypatch):
    """A BLAS with kernels for small matrices, as far as the blocks know."""
    monkeypatch.setattr(process, "openblas_architectures", openblas_for("SkylakeX"))


def assert_same(got, expected, *, eps=100):
    """Compare arrays by name, up to a number of roundings of the largest entry."""
    assert got.keys() == expected.keys()
    for name, wanted in expected.items():
        value = got[name]
        assert (value.shape, value.dtype) == (wanted.shape, wanted.dtype), name
        scale = np.max(np.abs(wanted))
        assert scale > 0, f"{name}: zeros prove nothing"
        error = np.max(np.abs(value.astype(np.float64) - wanted)) / scale
        assert error <= eps * np.finfo(wanted.dtype).eps, name


def noted(function, note):
    def call(*given, **named):
        answer = function(*given, **named)
        note(answer)
        return answer

    return call


# --- products in blocks -----------------------------------------------------------------

SHAPES = [  # rows, k, m
    *[(1, 1, 1), (97, 97, 97), (100, 100, 100), (256, 85, 32)],  # small as they are
    *[(200, 100, 100), (400, 121, 32), (600, 200, 24), (1024, 256, 32), (320, 149, 40)],
    *[(2048, 512, 1), (2424, 450, 1), (2018, 300, 2)],  # the last one is two times a prime
    *[(1009, 997, 1), (1009, 64, 16), (97, 101, 103)],  # a prime has no blocks
    *[(2018, 499, 3), (1024, 256, 64), (24, 2084, 21)],  # blocks would be too low to pay
]


def heights(rows, k, m):
    """All heights of equal blocks that are small products and pay."""
    return [
        height
        for height in range(max(ours._ROWS, m), rows)
        if rows % height == 0 and height * k * m <= ours._SMALL
    ]


@pytest.fixture
def drawn(rng):
    """Shapes around the limit, with and without divisors."""
    m = rng.integers(1, 120, size=60)
    k = rng.integers(1, 400, size=60)
    rows = 4 * (ours._SMALL * rng.uniform(0.1, 9.0, size=60) / (4 * k * m)).astype(int) + 4
    return list(zip(rows.tolist(), k.tolist(), m.tolist(), strict=True))


@pytest.mark.usefixtures("small_kernels")
@pytest.mark.parametrize(("rows", "k", "m"), SHAPES)
def test_a_product_in_blocks_is_the_product(rows, k, m, rng):
    # Whole numbers, whose sums have no roundings.
    W = rng.integers(-9, 10, size=(rows, k)).astype(np.float32)
    v = rng.integers(-9, 10, size=(k, m)).astype(np.float32)
    np.testing.assert_array_equal(np.reshape(NUMPY.rows(W, m) @ v, (rows, m)), W @ v)


@pytest.mark.usefixtures("small_kernels")
def test_a_block_is_the_highest_that_is_small_and_pays(drawn):
    kinds = set()
    for rows, k, m in [*SHAPES, *drawn]:
        W = np.zeros((rows, k), dtype=np.float32)
        blocks = NUMPY.rows(W, m)
        small, allowed = rows * k * m <= ours._SMALL, heights(rows, k, m)
        kinds.add((small, bool(allowed)))
        if small or not allowed:
            assert blocks is W
            continue
        assert blocks.shape == (rows // max(allowed), max(allowed), k)
        assert blocks.base is W  # not a copy
    assert {(False, True), (False, False)} <= kinds
    assert any(small for small, _ in kinds)


def test_without_small_kernels_a_matrix_stays_whole(monkeypatch, drawn):
    monkeypatch.setattr(process, "openblas_architectures", openblas_for("Haswell"))
    for rows, k, m in [*SHAPES, *drawn]:
        W = np.zeros((rows, k), dtype=np.float32)
        assert NUMPY.rows(W, m) is W


@pytest.mark.parametrize(
    ("architectures", "has"),
    [
        (["SkylakeX"], True),
        (["Haswell", "SapphireRapids"], True),
        (["Haswell"], False),
        ([None], False),
        ([], False),
    ],
)
def test_small_kernels_are_those_of_openblas_for_avx512(architectures, has, monkeypatch):
    asked = []

    class Controller:
        def select(self, **what):
            asked.append(what)
            return self

        def info(self):
            found = [{"internal_api": "openblas", "architecture": name} for name in architectures]
            return [entry if entry["architecture"] else {} for entry in found]

    monkeypatch.setattr(process.blas, "_controller", Controller)
    process.openblas_architectures.cache_clear()
    W = np.zeros((200, 100), dtype=np.float32)
    try:
        assert (NUMPY.rows(W, 100) is not W) is has
    finally:
        process.openblas_architectures.cache_clear()
    assert asked == [{"internal_api": "openblas"}]


# --- joint products ---------------------------------------------------------------------


@pytest.mark.parametrize("gates", [1, 4])
def test_a_joint_product_is_for_few_features_and_small_products(gates, monkeypatch):
    for architecture, has_small in (("Haswell", False), ("SkylakeX", True)):
        monkeypatch.setattr(process, "openblas_architectures", openblas_for(architecture))
        assert NUMPY.joins(gates, 5, 2, 7)
        assert NUMPY.joins(gates, 64, 32, 16)
        # More than half as many features as units.
        assert not NUMPY.joins(gates, 5, 3, 7)
        assert not NUMPY.joins(gates, 64, 33, 16)
        # Too large, and too wide for blocks that pay.
        assert not NUMPY.joins(gates, 1024, 20, 512)
        # Too large but in blocks, where the BLAS has kernels for them.
        assert NUMPY.joins(gates, 400, 20, 8) is has_small


JOINT = ["rnn-tanh", "rnn-relu", "lstm", "lstm-peephole"]  # the kinds with a joint product


@each_steps
@pytest.mark.parametrize("options", [{}, {"recompute": 2}], ids=["kept", "recomputed"])
@pytest.mark.parametrize("reverse", [False, True], ids=["onward", "reverse"])
@pytest.mark.parametrize("kind", JOINT)
def test_joint_and_apart_give_the_same(kind, reverse, options, steps, rng, monkeypatch):
    cell = CELLS[kind]
    problem = Problem.of(rng, OverTime(cell, reverse=reverse, **options), **steps)
    monkeypatch.setattr(kernels, "_BLOCK_STEPS", 3)  # T in blocks of 3, 3 and 1
    results = []
    for joint in (True, False):
        monkeypatch.setattr(ours.NumPyKernels, "joins", lambda *_, joint=joint: joint)
        xp = kernels.of(XP).inner
        weights = linear.prepared(xp, cell, problem.params)
        rows = linear.plan_forward(xp, cell, weights, M).of_x(problem.x)
        assert rows.shape == ((T, N_X + 1, M) if joint else (T, len(cell.gates), N_A, M))
        assert (linear.plan_backward(xp, cell, problem.params, M).W_x_t is None) is joint
        results.append(problem.results())
    assert_same(*results)


# --- the gates of the LSTM --------------------------------------------------------------

DTYPES = [np.float16, np.float32, np.float64]
each_dtype = pytest.mark.parametrize("dtype", DTYPES)
each_m = pytest.mark.parametrize("m", [1, M])
each_size = pytest.mark.parametrize("size", ["usual", "saturated", "huge"])


@pytest.fixture
def gates(rng, size, dtype, m):
    """z, c, dh, dc: as in training, with gates that are 0 or 1, and with states of 1e30."""
    z, c, dh, dc = (
        rng.standard_normal(shape) for shape in [(4, N_A, m), (N_A, m), (N_A, m), (N_A, m)]
    )
    huge = 1e30 if dtype != np.float16 else 1e4
    if size != "usual":
        z = np.sign(z) * huge
    if size == "huge":  # a product of two would overflow
        c, dh, dc = (np.sign(array) * huge for array in (c, dh, dc))
    return [array.astype(dtype) for array in (z, c, dh, dc)]


@each_size
@each_dtype
@each_m
def test_the_kernel_of_the_gates_gives_the_generic_numbers(gates, size, dtype):
    z, c, _, _ = gates
    expected = lstm.lstm_gates(np, frozen(z), frozen(c))
    before = c.copy()
    got = ours.lstm_gates(np, z, c)
    np.testing.assert_array_equal(c, before)
    for name, value, wanted in zip(("h", "c", "ifo", "g", "tanh_c"), got, expected, strict=True):
        assert (value.shape, value.dtype) == (wanted.shape, dtype), name
        assert np.all(np.isfinite(value)), name
        np.testing.assert_array_equal(value, wanted, err_msg=name)  # the same operations
    if size != "usual":
        assert set(np.unique(got[2])) <= {0.0, 1.0}


@each_size
@each_dtype
@each_m
def test_the_kernel_of_the_gates_goes_back_by_the_generic_numbers(gates, size, dtype, rng):
    z, c, dh, dc = gates
    _, _, ifo, g, tanh_c = lstm.lstm_gates(np, z, c)
    h = rng.standard_normal(c.shape).astype(dtype)
    # Read only: neither may write into what is kept or given.
    saved = lstm.LSTMSaved(*[frozen(array) for array in (h, c, ifo, g, tanh_c)])
    dz, dc_before = ours.lstm_gates_vjp(np, saved, frozen(dh), frozen(dc))
    expected_dz, expected_dc = lstm.lstm_gates_vjp(np, saved, dh, dc)
    assert dz.shape == (4, *c.shape)
    assert dz.dtype == dc_before.dtype == dtype
    assert np.all(np.isfinite(dz))
    # Each slope is rounded at the size of its gate, before it is multiplied.
    c, dh, dc = (np.abs(array).astype(np.float64) for array in (c, dh, dc))
    through = dc + dh
    allowed = 4 * float(np.finfo(dtype).eps) * np.stack([through, c * through, dh, through])
    assert np.all(np.abs(dz.astype(np.float64) - expected_dz) <= allowed)
    error = np.abs(dc_before.astype(np.float64) - expected_dc)
    assert np.all(error <= 4 * float(np.finfo(dtype).eps) * through)
    if size != "usual":  # a closed gate lets nothing through, whatever the state
        assert not np.any(dz[:3])
    else:
        assert np.all(np.any(dz, axis=(1, 2)))


def test_what_the_gates_return_shares_nothing_with_what_they_were_given(rng):
    z, c, dh, dc = (rng.standard_normal(shape) for shape in [(4, N_A, M), *[(N_A, M)] * 3])
    h, after, ifo, g, tanh_c = ours.lstm_gates(np, z, c)
    given = [c, dh, dc]
    assert not any(np.shares_memory(a, b) for a in (h, after, ifo, g, tanh_c) for b in given)
    assert not np.shares_memory(after, tanh_c)
    saved = lstm.LSTMSaved(h, c, ifo, g, tanh_c)
    results = ours.lstm_gates_vjp(np, saved, dh, dc)
    assert not np.shares_memory(*results)
    assert not any(np.shares_memory(a, b) for a in results for b in [*given, *saved])


# --- one step of a stream ---------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_x", [1, N_X, 2 * N_A])
def test_a_step_of_a_stream_is_that_of_the_generic_source(n_x, dtype, rng, monkeypatch):
    layer = sc.LSTM(N_A)
    drawn = layer.init(n_x, like=np.zeros(0), rng=rng)
    params = {
        name: frozen(rng.standard_normal(value.shape).astype(dtype))
        for name, value in drawn.items()
    }
    h, c = (rng.standard_normal((1, N_A, 1)) for _ in range(2))
    states = [
        lstm.LSTMState(frozen(h.astype(dtype)), frozen((size * c).astype(dtype)))
        for size in (1.0, 1e3, 1e30)
    ]
    x = frozen(rng.standard_normal((n_x, 1)).astype(dtype))
    fast = layer.bind(params)
    monkeypatch.setenv("SEQCORE_KERNELS", "0")
    kernels.of.cache_clear()
    generic = layer.bind(params)
    for state in [None, *states]:
        (y, after), (wanted_y, wanted) = (step(x, state) for step in (fast, generic))
        assert type(after) is lstm.LSTMState
        got = {"y": y, **after._asdict()}
        assert all(np.all(np.isfinite(value)) for value in got.values())
        assert_same(got, {"y": wanted_y, **wanted._asdict()})
        # What comes out is not overwritten by the step after it.
        kept = {name: value.copy() for name, value in got.items()}
        fast(x, after)
        for name, value in kept.items():
            np.testing.assert_array_equal(got[name], value, err_msg=name)


def test_one_layer_of_one_example_has_a_step_of_its_own(rng, monkeypatch):
    asked = []
    monkeypatch.setattr(ours, "lstm_stream", noted(ours.lstm_stream, asked.append))
    for layer, m, times in (
        (sc.LSTM(N_A), 1, 1),
        (sc.LSTM(N_A), 2, 0),
        (sc.LSTM(N_A, layers=2), 1, 0),
    ):
        asked.clear()
        params = layer.init(N_X, like=np.zeros(0), rng=rng)
        step = layer.bind(params, m)
        x = rng.standard_normal((N_X, m))
        _, state = step(x)
        step(x, state)
        assert len(asked) == times
        for before in (None, state):
            with pytest.raises(ValueError, match=r"^lstm: x has shape \(1, \d\), expected \(2, "):
                step(x[1:], before)


# --- columns and the inside of a loop ---------------------------------------------------


@pytest.mark.parametrize("shape", [(N_A, M), (4, N_A, M), (N_A, 1)])
@pytest.mark.parametrize("order", ["onward", "reverse", "any"])
@pytest.mark.parametrize("n_steps", [1, T])
def test_columns_are_gathered_as_by_the_generic_source(n_steps, order, shape, rng):
    times = {
        "onward": range(n_steps),
        "reverse": range(n_steps)[::-1],
        "any": rng.permutation(n_steps).tolist(),
    }[order]
    given = [rng.standard_normal(shape).astype(np.float32) for _ in range(n_steps)]
    given[-1] = np.asfortranarray(given[-1])
    got, expected = NUMPY.columns(n_steps), contract.Stacked(np, n_steps)
    for t in times:
        got.put(t, given[t])
        expected.put(t, given[t])
    assert got.array().dtype == np.float32
    np.testing.assert_array_equal(got.array(), expected.array())
    assert got.array().shape == (*shape[:-1], n_steps, shape[-1])
    assert got.array().flags.c_contiguous


def shapes(rng):
    """Shapes of 1 to 4 axes, some of size 1, with an array in rows and one that is a view."""
    for n in (1, 2, 3, 4):
        for _ in range(5):
            shape = tuple(rng.integers(1, 6, size=n).tolist())
            array = rng.standard_normal(shape).astype(np.float32)
            yield array
            yield np.ascontiguousarray(array.T).T


def check(got, wanted):
    assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype)
    np.testing.assert_array_equal(got, wanted)


def test_reshape_is_that_of_the_standard(rng):
    for array in shapes(rng):
        for shape in [(-1,), (1, -1), (-1, array.shape[-1]), array.shape[::-1], (array.size, 1)]:
            check(ours.inner.reshape(array, shape), XP.reshape(array, shape))
    with pytest.raises(ValueError, match="reshape"):
        ours.inner.reshape(np.zeros((2, 3)), (4,))


def test_moveaxis_is_that_of_the_standard(rng):
    for array in shapes(rng):
        axes = range(-array.ndim, array.ndim)
        for source in axes:
            for destination in axes:
                got = ours.inner.moveaxis(array, source, destination)
                check(got, XP.moveaxis(array, source, destination))
                assert np.shares_memory(got, array)  # a view, as there


def test_stack_is_that_of_the_standard(rng):
    for array in shapes(rng):
        for n in (1, 3):
            parts = [array + k for k in range(n)]
            check(ours.inner.stack(parts), XP.stack(parts))
            check(ours.inner.stack(tuple(parts)), XP.stack(parts))
            for axis in range(-array.ndim - 1, array.ndim + 1):
                got = ours.inner.stack(parts, axis=axis)
                check(got, XP.stack(parts, axis=axis))
                assert not np.shares_memory(got, parts[0])
    with pytest.raises(ValueError, match=r"shape|dimension"):
        ours.inner.stack([np.zeros((2, 3)), np.zeros((2, 4))])


def test_unstack_is_that_of_the_standard(rng):
    for array in shapes(rng):
        got, wanted = ours.inner.unstack(array), XP.unstack(array)
        assert type(got) is type(wanted) is tuple
        assert len(got) == len(wanted)
        for a, b in zip(got, wanted, strict=True):
            check(a, b)


def test_all_else_inside_a_loop_is_the_very_function_of_the_namespace():
    own = {"reshape", "stack", "moveaxis", "unstack"}
    names = {name for name, value in vars(XP).items() if callable(value)}
    assert {"concat", "tanh", "matrix_transpose", "where", *own} <= names
    for name in names:
        assert (getattr(ours.inner, name) is getattr(XP, name)) == (name not in own), name
    # It counts as the namespace of NumPy, so NumPy's kernels are found for it too.
    assert kernels.of(ours.inner).names == ["numpy"]
    assert kernels.of(ours.inner).inner is ours.inner


# --- where kernels are chosen -----------------------------------------------------------


def is_generic(found, xp):
    """Tell whether kernels are the generic ones, at every level."""
    W = np.zeros((200, 100), dtype=np.float32)
    cell = lstm.LSTMCell()
    weights = kernels.Weights(np.zeros((4, 5, 3)), np.zeros((4, 5, 5)), (), ())
    job = kernels.Job("lstm", (), T, N_X, N_A, M, W.dtype, False, False, False)
    answers = {
        "inner": found.inner is xp,
        "columns": type(found.columns(T)) is contract.Stacked,
        "rows": found.rows(W, 100) is W,
        "joins": found.joins(4, 5, 2, 7) is False,
        "gates": found.gates(cell.name, cell.options, cell.elementwise) is cell.elementwise,
        "stream": found.stream(cell.name, cell.options, weights, 1) is None,
    }
    # NumPy has none of these yet.
    assert not found.loops
    assert found.scan(len, (), (), reverse=False) is None
    assert found.recurrence(job) is None
    assert len(set(answers.values())) == 1, answers
    return answers["inner"]


@pytest.mark.usefixtures("small_kernels")
@pytest.mark.parametrize(
    ("value", "generic"),
    [("", False), ("0", True), ("numpy", False), ("jax,numpy", False), ("jax", True)],
)
def test_numpy_has_its_kernels_unless_the_environment_forbids_them(value, generic, monkeypatch):
    monkeypatch.setenv("SEQCORE_KERNELS", value)
    assert is_generic(kernels.of(XP), XP) is generic


@pytest.mark.usefixtures("small_kernels")
def test_another_library_has_the_generic_source():
    for other in (ModuleType("torch"), ModuleType("jax_like"), ModuleType("numpy_like")):
        assert not kernels.of(other).providers
        assert is_generic(kernels.of(other), other)


def test_what_has_no_kernel_is_generic():
    generic = Gates(len, max)
    for cell in ("gru", "no_such_cell"):
        assert kernels.of(XP).gates(cell, (), generic) is generic
        assert kernels.of(XP).stream(cell, (), None, 1) is None


# T, n_x, n_a, m; blocks of 30, 30 and 10 steps, then of 24 and 6 with large products.
LARGE = {"small products": (70, 20, 64, 32), "blocks of rows": (30, 48, 100, 40)}
# The others have smaller products; gru-before has those of W_n apart.
CUT = {"lstm", "lstm-peephole", "gru-after"}


@pytest.mark.usefixtures("small_kernels")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sizes", LARGE)
@each_kind
def test_with_kernels_and_without_all_results_are_the_same(kind, sizes, dtype, rng, monkeypatch):
    n_steps, n_x, n_a, m = LARGE[sizes]
    layer = recurrent(kind, n_a, layers=2)
    # As users start: parameters by init, no state.
    x, dy = (rng.standard_normal((n_steps, n, m)).astype(dtype) for n in (n_x, n_a))
    params = layer.init(n_x, like=x, rng=rng)
    lengths = rng.integers(0, n_steps + 1, size=m)
    seen = {"joins": [], "rows": []}
    for name, see in (("joins", bool), ("rows", np.ndim)):
        noting = noted(
            getattr(ours.NumPyKernels, name), lambda a, n=name, see=see: seen[n].append(see(a))
        )
        monkeypatch.setattr(ours.NumPyKernels, name, noting)
    results = []
    for value in ("numpy", "0"):
        monkeypatch.setenv("SEQCORE_KERNELS", value)
        kernels.of.cache_clear()
        y, last, tape = layer.forward(params, x, None, lengths)
        dx, grads, dstart = layer.backward(params, tape, dy)
        results.append(
            {"y": y, "dx": dx, **grads, **named("last", last), **named("dstart", dstart)}
        )
        if value == "numpy":  # what is meant to be compared really happens
            assert kernels.of(np).block_steps(n_steps, m) < n_steps
            # A layer on top has as many features as units.
            assert set(seen["joins"]) == ({True, False} if kind in JOINT else set())
            assert (3 in seen["rows"]) == (kind in CUT and sizes == "blocks of rows")
            counts = {name: len(answers) for name, answers in seen.items()}
    assert {name: len(answers) for name, answers in seen.items()} == counts  # none without
    assert_same(*results, eps=1000)
