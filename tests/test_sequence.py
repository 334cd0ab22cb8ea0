"""A cell over time and back: loops by hand, cuts, turns, lengths, central differences."""

import re

import numpy as np
import pytest

from seqcore import arrays, sequence, sequence_mask
from seqcore.cells import GRUCell, LSTMCell, RNNCell, products

T, N_X, N_A, M = 7, 2, 5, 6
LENGTHS = [7, 0, 3, 1, 7, 4]  # all of T, nothing, and in between

CELLS = {
    "rnn-tanh": RNNCell(),
    "rnn-relu": RNNCell("relu"),
    "lstm": LSTMCell(),
    "gru-after": GRUCell(),
    "gru-before": GRUCell(reset_after=False),
}


@pytest.fixture(params=CELLS.values(), ids=CELLS.keys())
def cell(request):
    return request.param


@pytest.fixture(params=[False, True], ids=["onward", "reverse"])
def reverse(request):
    return request.param


class Problem:
    """Numbers for one call: parameters, x, state, dy, dstate; float64 on NumPy."""

    def __init__(self, rng, cell, n_steps=T):
        sizes = {"n_a": N_A, "n_x": N_X}
        self.cell = cell
        self.params = {
            name: 0.5 * rng.standard_normal([sizes.get(size, size) for size in shape])
            for name, shape in cell.shapes.items()
        }
        self.x = rng.standard_normal((n_steps, N_X, M))
        self.dy = rng.standard_normal((n_steps, N_A, M))
        self.state, self.dstate = (
            cell.state_type._make([rng.standard_normal((N_A, M)) for _ in cell.state_type._fields])
            for _ in range(2)
        )

    def move(self, change):
        """The same problem with every array changed."""
        moved = object.__new__(Problem)
        moved.cell = self.cell
        moved.params = {name: change(value) for name, value in self.params.items()}
        moved.x, moved.dy = change(self.x), change(self.dy)
        moved.state, moved.dstate = (
            self.cell.state_type._make(map(change, state)) for state in (self.state, self.dstate)
        )
        return moved

    def arrays(self):
        return [self.x, self.dy, *self.params.values(), *self.state, *self.dstate]

    def forward(self, lengths=None, **options):
        return sequence.forward(self.cell, self.params, self.x, self.state, lengths, **options)

    def results(self, lengths=None, **options):
        """All that forward and backward return, by name."""
        y, state, tape = self.forward(lengths, **options)
        dx, grads, dstart = sequence.backward(
            self.cell, self.params, tape, self.dy, self.dstate, **options
        )
        return {
            "y": y,
            "dx": dx,
            **grads,
            **{f"last.{name}": value for name, value in state._asdict().items()},
            **{f"dstart.{name}": value for name, value in dstart._asdict().items()},
        }


def by_hand(problem, *, reverse=False):
    """y and the last state from one step after another."""
    cell, state = problem.cell, problem.state
    W_x, weights = cell.prepare(np, problem.params, M)
    z_x = products.input_product(np, W_x, problem.x, cell.gates)
    y = np.empty_like(problem.dy)
    times = range(len(problem.x))
    for t in reversed(times) if reverse else times:
        state, _ = cell.step(np, weights, z_x[t], state)
        y[t] = state.h
    return y, state


def leaves(tree):
    """Every array of a tape."""
    if isinstance(tree, tuple):
        return [leaf for branch in tree for leaf in leaves(branch)]
    return [] if tree is None else [tree]


def check_same(assert_close, got, expected, *, kind="bptt"):
    assert got.keys() == expected.keys()
    for name, wanted in expected.items():
        assert_close(got[name], wanted, kind=kind, name=name)


@pytest.mark.parametrize("n_steps", [1, T])
def test_forward_is_one_step_after_another(cell, n_steps, reverse, asarray, assert_close, rng):
    problem = Problem(rng, cell, n_steps)
    y, state, _ = problem.move(asarray).forward(reverse=reverse)
    wanted_y, wanted = by_hand(problem, reverse=reverse)
    assert_close(y, wanted_y, kind="bptt", name="y")
    for name in state._fields:
        assert_close(getattr(state, name), getattr(wanted, name), kind="bptt", name=name)


def test_no_state_is_a_state_of_zeros(cell, asarray, assert_close, to_host, rng):
    problem = Problem(rng, cell).move(asarray)
    y, last, tape = sequence.forward(cell, problem.params, problem.x)
    problem.state = type(problem.state)._make([0.0 * value for value in problem.state])
    zero_y, zero_last, _ = problem.forward()
    assert_close(y, to_host(zero_y), kind="cell")
    assert_close(last.h, to_host(zero_last.h), kind="cell")
    # Likewise on the way back.
    _, _, dstart = sequence.backward(cell, problem.params, tape, problem.dy)
    zeros = type(problem.state)._make([0.0 * value for value in problem.dstate])
    _, _, wanted = sequence.backward(cell, problem.params, tape, problem.dy, zeros)
    assert_close(dstart.h, to_host(wanted.h), kind="cell")


@pytest.mark.parametrize("cut", [1, 4])
def test_two_windows_with_the_state_carried_are_one(
    cell, cut, reverse, xp, asarray, assert_close, rng
):
    whole = Problem(rng, cell)
    expected = whole.results(reverse=reverse)
    whole = whole.move(asarray)
    windows = [slice(cut, None), slice(None, cut)] if reverse else [slice(cut), slice(cut, None)]
    state, tapes, ys = whole.state, [], []
    for window in windows:
        y, state, tape = sequence.forward(
            cell, whole.params, whole.x[window, ...], state, reverse=reverse
        )
        ys.append(y)
        tapes.append(tape)
    # The gradient goes through the cut too, when it is handed over.
    dstate, dxs, total = whole.dstate, [], None
    for window, tape in zip(reversed(windows), reversed(tapes), strict=True):
        dx, grads, dstate = sequence.backward(
            cell, whole.params, tape, whole.dy[window, ...], dstate, reverse=reverse
        )
        dxs.append(dx)
        total = grads if total is None else {k: total[k] + grads[k] for k in grads}
    (dxs if not reverse else ys).reverse()  # into the order of time
    got = {"y": xp.concat(ys), "dx": xp.concat(dxs), **total}
    got |= {f"last.{name}": value for name, value in state._asdict().items()}
    got |= {f"dstart.{name}": value for name, value in dstate._asdict().items()}
    check_same(assert_close, got, expected)


@pytest.mark.host
@pytest.mark.parametrize(
    ("n_steps", "lengths"),
    [(1, None), (4, None), (4, [4, 0, 2, 1, 4, 3])],
    ids=["1", "4", "ragged"],
)
def test_backward_is_the_derivative_of_forward(
    cell, n_steps, lengths, reverse, check_gradients, rng
):
    problem = Problem(rng, cell, n_steps)
    lengths = None if lengths is None else np.asarray(lengths)
    start = {f"start.{name}": value for name, value in problem.state._asdict().items()}

    def loss(at):
        state = cell.state_type._make([at[name] for name in start])
        params = {name: at[name] for name in problem.params}
        y, last, _ = sequence.forward(cell, params, at["x"], state, lengths, reverse=reverse)
        return np.sum(problem.dy * y) + sum(
            np.sum(d * value) for d, value in zip(problem.dstate, last, strict=True)
        )

    got = problem.results(lengths, reverse=reverse)
    grads = {"x": got["dx"]} | {name: got[name] for name in problem.params}
    grads |= {name: got[f"d{name}"] for name in start}
    check_gradients(loss, {"x": problem.x, **problem.params, **start}, grads)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
def test_results_are_the_same_on_every_library(cell, lengths, reverse, asarray, assert_close, rng):
    problem = Problem(rng, cell)
    host = device = None
    if lengths is not None:
        host, device = np.asarray(lengths), asarray(lengths)
    check_same(
        assert_close,
        problem.move(asarray).results(device, reverse=reverse),
        problem.results(host, reverse=reverse),
    )


def test_reverse_is_forward_on_the_turned_sequence(cell, asarray, assert_close, rng):
    problem = Problem(rng, cell)
    turned = problem.move(lambda value: value)
    turned.x, turned.dy = problem.x[::-1], problem.dy[::-1]
    expected = turned.results()
    expected |= {"y": expected["y"][::-1], "dx": expected["dx"][::-1]}
    check_same(assert_close, problem.move(asarray).results(reverse=True), expected)


def test_lengths_are_each_example_run_by_itself(cell, reverse, asarray, assert_close, rng):
    problem = Problem(rng, cell)
    # Padding may hold anything, in x and in dy.
    padding = np.arange(T)[:, None, None] >= np.asarray(LENGTHS)
    dirty = problem.move(lambda value: value)
    dirty.x = np.where(padding, np.nan, problem.x)
    dirty.dy = np.where(padding, np.nan, problem.dy)
    got = dirty.move(asarray).results(asarray(LENGTHS), reverse=reverse)

    expected = {name: np.zeros_like(value) for name, value in problem.params.items()}
    expected |= {"y": np.zeros_like(problem.dy), "dx": np.zeros_like(problem.x)}
    for field in problem.state._fields:
        expected[f"last.{field}"] = getattr(problem.state, field).copy()
        expected[f"dstart.{field}"] = getattr(problem.dstate, field).copy()
    for j, length in enumerate(LENGTHS):
        if not length:  # its state, and the gradient of it, go through unchanged
            continue
        own = problem.move(lambda value: value)
        one = slice(j, j + 1)
        # Turned by hand, so that `reverse` is not what proves `reverse`.
        turn = slice(None, None, -1) if reverse else slice(None)
        own.x, own.dy = problem.x[:length][turn, :, one], problem.dy[:length][turn, :, one]
        own.state = cell.state_type._make([value[:, one] for value in problem.state])
        own.dstate = cell.state_type._make([value[:, one] for value in problem.dstate])
        for name, value in own.results().items():
            if name in problem.params:
                expected[name] += value
            elif name in ("y", "dx"):
                expected[name][:length, :, one] = value[turn]
            else:
                expected[name][:, one] = value
    check_same(assert_close, got, expected)


@pytest.fixture
def blocks_of_3(monkeypatch):
    """T = 7 in blocks of 3, 3 and 1 steps, where the library has blocks at all."""
    monkeypatch.setattr(arrays, "_BLOCK_STEPS", 3)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
def test_blocks_change_nothing(cell, lengths, reverse, asarray, assert_close, rng, monkeypatch):
    problem = Problem(rng, cell)
    expected = problem.results(None if lengths is None else np.asarray(lengths), reverse=reverse)
    monkeypatch.setattr(arrays, "_BLOCK_STEPS", 3)
    got = problem.move(asarray).results(
        None if lengths is None else asarray(lengths), reverse=reverse
    )
    check_same(assert_close, got, expected)


@pytest.mark.host
@pytest.mark.usefixtures("blocks_of_3")
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
@pytest.mark.parametrize("recompute", [True, 1, 4, 6, 100])
def test_recomputed_gradients_are_the_same_to_the_bit(cell, recompute, lengths, reverse, rng):
    problem = Problem(rng, cell)
    lengths = None if lengths is None else np.asarray(lengths)
    expected = problem.results(lengths, reverse=reverse)
    got = problem.results(lengths, reverse=reverse, recompute=recompute)
    assert got.keys() == expected.keys()
    for name, wanted in expected.items():
        np.testing.assert_array_equal(got[name], wanted, err_msg=name)


@pytest.mark.usefixtures("blocks_of_3")
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
def test_recomputed_results_are_the_same_on_every_library(
    cell, lengths, reverse, asarray, assert_close, rng
):
    problem = Problem(rng, cell)
    got = problem.move(asarray).results(
        None if lengths is None else asarray(lengths), reverse=reverse, recompute=3
    )
    lengths = None if lengths is None else np.asarray(lengths)
    check_same(assert_close, got, problem.results(lengths, reverse=reverse))


@pytest.mark.host
def test_recompute_keeps_the_state_before_each_segment_and_nothing_else(cell, rng):
    problem = Problem(rng, cell, n_steps=10_000)
    problem.params["W_h"] *= 0.1  # relu shall not grow for 10,000 steps
    x = problem.x.nbytes
    plain, recomputed = (
        sum(leaf.nbytes for leaf in leaves(problem.forward(recompute=recompute)[2])) - x
        for recompute in (False, True)
    )
    assert recomputed == 79 * sum(value.nbytes for value in problem.state)  # of 128 steps
    assert recomputed < plain / 70


def test_padding_is_exactly_zero(cell, reverse, asarray, to_host, rng):
    got = Problem(rng, cell).move(asarray).results(asarray(LENGTHS), reverse=reverse)
    padding = np.arange(T)[:, None] >= np.asarray(LENGTHS)
    for name in ("y", "dx"):
        inside = np.moveaxis(to_host(got[name]), 1, 2)  # features last
        assert not np.any(inside[padding])
        assert np.any(inside[~padding])


def test_full_lengths_are_no_lengths(cell, reverse, asarray, assert_close, to_host, rng):
    problem = Problem(rng, cell).move(asarray)
    full = {k: to_host(v) for k, v in problem.results(asarray([T] * M), reverse=reverse).items()}
    check_same(assert_close, problem.results(reverse=reverse), full, kind="cell")


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
def test_arguments_stay_as_they_are(cell, lengths, reverse, asarray, to_host, rng):
    problem = Problem(rng, cell).move(asarray)
    lengths = None if lengths is None else asarray(lengths)
    before = [to_host(value) for value in problem.arrays()]
    _, _, tape = problem.forward(lengths, reverse=reverse)
    taped = [to_host(value) for value in leaves(tape)]
    for _ in range(2):  # a tape may be used twice
        sequence.backward(cell, problem.params, tape, problem.dy, problem.dstate, reverse=reverse)
    for old, new in zip(before, problem.arrays(), strict=True):
        np.testing.assert_array_equal(to_host(new), old)
    for old, new in zip(taped, leaves(tape), strict=True):
        np.testing.assert_array_equal(to_host(new), old)


@pytest.mark.host
def test_read_only_arrays_are_enough(cell, reverse, rng):
    def frozen(value):
        value = value.copy()
        value.flags.writeable = False
        return value

    problem = Problem(rng, cell)
    expected = problem.results(np.asarray(LENGTHS), reverse=reverse)
    got = problem.move(frozen).results(frozen(np.asarray(LENGTHS)), reverse=reverse)
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


@pytest.mark.host
def test_views_in_any_memory_order_give_the_same(cell, rng):
    problem = Problem(rng, cell)
    expected = problem.results()
    got = problem.move(np.asfortranarray).results()
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-12, atol=1e-12, err_msg=name)


def test_extreme_inputs_give_finite_results(cell, asarray, to_host, rng):
    problem = Problem(rng, cell)
    problem.x = np.where(problem.x > 0, 1e30, -1e30)
    if cell == RNNCell("relu"):
        problem.params["W_h"] *= 0.1  # it does not saturate; 1e30 may grow, but not for ever
        problem.dy *= 1e-6
    for name, value in problem.move(asarray).results().items():
        assert np.all(np.isfinite(to_host(value))), name


def test_sequence_mask_is_true_where_there_is_a_step(asarray, assert_close):
    expected = [[t < length for length in LENGTHS] for t in range(T)]
    assert_close(sequence_mask(asarray(LENGTHS), T), np.asarray(expected), kind="cell")


def test_sequence_mask_takes_lengths_too_narrow_to_count_to_t(xp, asarray, assert_close):
    narrow = xp.astype(asarray([3, 0, 200]), xp.uint8)
    expected = np.arange(300)[:, None] < np.asarray([3, 0, 200])
    assert_close(sequence_mask(narrow, 300), expected, kind="cell")


def test_sequence_mask_names_what_is_wrong(asarray):
    halves = asarray([1.5, 2.0])
    for lengths, kind, text in (
        ([1, 2], TypeError, "lengths is a list, expected an array"),
        (halves, TypeError, f"lengths has dtype {halves.dtype}, expected an integer dtype"),
        (asarray([[1, 2]]), ValueError, "lengths has shape (1, 2), expected (m,)"),
    ):
        with pytest.raises(kind, match=rf"^sequence_mask: {re.escape(text)}$"):
            sequence_mask(lengths, 3)
    with pytest.raises(ValueError, match=r"^sequence_mask: n_steps is 0, expected at least 1$"):
        sequence_mask(asarray([1, 2]), 0)
