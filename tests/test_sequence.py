"""A cell over time and back: loops by hand, cuts, turns, lengths, central differences; scan."""

import numpy as np
import pytest
from judging import exactly, frozen, leaves, named, same_bits
from problems import CELLS, LENGTHS, M, OverTime, Problem, T, each_steps

from seqcore import arrays, kernels, sequence_mask
from seqcore.cells import RNNCell, linear
from seqcore.sequence.loop import scan

# --- scan -------------------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("n_steps", [1, 5])
def test_scan_carries_a_state_through_time_and_keeps_the_order_of_time(
    n_steps, reverse, xp, asarray, assert_close, rng
):
    x, u = rng.standard_normal((n_steps, 3, 2)), rng.standard_normal((n_steps, 2))
    carry = rng.standard_normal((3, 2))

    def step(before, at):
        x_t, none, u_t = at
        assert none is None
        after = 0.5 * before + x_t * u_t
        return after, (after, u_t - 1.0)

    last, outs = scan(step, asarray(carry), (asarray(x), None, asarray(u)), reverse=reverse)

    expected = np.zeros_like(x)
    for t in range(n_steps)[:: -1 if reverse else 1]:
        carry = expected[t] = 0.5 * carry + x[t] * u[t]
    assert_close(last, carry, kind="cell", name="carry")
    assert len(outs) == 2
    first, second = (arrays.joined(xp, [series], axis=0) for series in outs)
    assert_close(first, expected, kind="cell", name="first output")
    assert_close(second, u - 1.0, kind="cell", name="second output")
    # The outputs of one scan are the inputs of another.
    back, again = scan(lambda n, at: (n + at[0], (at[0],)), asarray(0 * carry), outs)
    assert_close(back, np.sum(expected, axis=0), kind="cell", name="sum")
    assert_close(arrays.joined(xp, again, axis=0), expected, kind="cell", name="again")


def test_scan_takes_a_missing_first_array_and_puts_out_nothing(asarray):
    x = asarray(np.zeros((4, 1)))
    steps, outs = scan(lambda n, at: (n + len(at), ()), 0, (None, x, None))
    assert (steps, outs) == (12, ())


def test_scan_carries_any_tree(xp, asarray, assert_close):
    def step(carry, at):
        count, (total,) = carry
        return (count + 1, (total + at[0],)), (total,)

    x = np.asarray([[1.0], [2.0], [4.0]])
    (count, (total,)), (before,) = scan(step, (0, (asarray([0.0]),)), (asarray(x),))
    assert count == 3
    assert_close(total, [7.0], kind="cell")
    assert_close(arrays.joined(xp, [before], axis=0), [[0.0], [1.0], [3.0]], kind="cell")


# --- a cell over time ---------------------------------------------------------------------


@pytest.fixture(params=CELLS)
def cell(request):
    return CELLS[request.param]


@pytest.fixture(params=[False, True], ids=["onward", "reverse"])
def reverse(request):
    return request.param


def by_hand(problem, *, reverse=False):
    """y and the last state from one step after another."""
    cell, state = problem.layer.cell, problem.state
    plan = linear.plan_forward(np, cell, linear.prepared(np, cell, problem.params), M)
    y = np.empty_like(problem.dy)
    times = range(len(problem.x))
    for t in reversed(times) if reverse else times:
        state, _ = cell.step(np, plan.maps, plan.of_step(problem.x[t]), state)
        y[t] = state.h
    return y, state


@pytest.mark.parametrize("n_steps", [1, T])
def test_forward_is_one_step_after_another(cell, n_steps, reverse, asarray, assert_close, rng):
    problem = Problem.of(rng, OverTime(cell, reverse=reverse), n_steps=n_steps)
    y, state, _ = problem.move(asarray).forward()
    wanted_y, wanted = by_hand(problem, reverse=reverse)
    assert_close(y, wanted_y, kind="bptt", name="y")
    for name in state._fields:
        assert_close(getattr(state, name), getattr(wanted, name), kind="bptt", name=name)


def test_no_state_is_a_state_of_zeros(cell, asarray, assert_close, to_host, rng):
    problem = Problem.of(rng, OverTime(cell)).move(asarray)
    y, last, tape = problem.layer.forward(problem.params, problem.x)
    zeros = problem.state._make([0.0 * value for value in problem.state])
    zero_y, zero_last, _ = problem.but(state=zeros).forward()
    assert_close(y, to_host(zero_y), kind="cell")
    assert_close(last.h, to_host(zero_last.h), kind="cell")
    # Likewise in the backward pass.
    _, _, dstart = problem.layer.backward(problem.params, tape, problem.dy)
    _, _, wanted = problem.but(dstate=zeros).backward(tape)
    assert_close(dstart.h, to_host(wanted.h), kind="cell")


@pytest.mark.parametrize("cut", [1, 4])
def test_two_windows_with_the_state_carried_are_one(cell, cut, reverse, xp, asarray, close, rng):
    whole = Problem.of(rng, OverTime(cell, reverse=reverse))
    expected = whole.results()
    whole = whole.move(asarray)
    windows = [slice(cut, None), slice(None, cut)] if reverse else [slice(cut), slice(cut, None)]
    state, tapes, ys = whole.state, [], []
    for window in windows:
        y, state, tape = whole.forward(x=whole.x[window, ...], state=state)
        ys.append(y)
        tapes.append(tape)
    # The gradient goes through the cut too, when it is handed over.
    dstate, dxs, total = whole.dstate, [], None
    for window, tape in zip(reversed(windows), reversed(tapes), strict=True):
        dx, grads, dstate = whole.but(dy=whole.dy[window, ...], dstate=dstate).backward(tape)
        dxs.append(dx)
        total = grads if total is None else {k: total[k] + grads[k] for k in grads}
    (dxs if not reverse else ys).reverse()  # into the order of time
    got = {"y": xp.concat(ys), "dx": xp.concat(dxs), **total}
    close(got | named("last", state) | named("dstart", dstate), expected)


@pytest.mark.host
@pytest.mark.parametrize(
    ("n_steps", "lengths"),
    [(1, None), (4, None), (4, [4, 0, 2, 1, 4, 3])],
    ids=["1", "4", "ragged"],
)
def test_backward_is_the_derivative_of_forward(
    cell, n_steps, lengths, reverse, check_gradients, rng
):
    problem = Problem.of(rng, OverTime(cell, reverse=reverse), n_steps=n_steps, lengths=lengths)
    check_gradients(problem.loss, problem.at(), problem.gradients())


@each_steps
def test_results_are_the_same_on_every_library(cell, steps, reverse, asarray, close, rng):
    problem = Problem.of(rng, OverTime(cell, reverse=reverse), **steps)
    close(problem.move(asarray).results(), problem.results())


def test_reverse_is_forward_on_the_turned_sequence(cell, asarray, close, rng):
    problem = Problem.of(rng, OverTime(cell))
    expected = problem.but(x=problem.x[::-1], dy=problem.dy[::-1]).results()
    expected |= {"y": expected["y"][::-1], "dx": expected["dx"][::-1]}
    close(problem.but(layer=OverTime(cell, reverse=True)).move(asarray).results(), expected)


def test_lengths_are_each_example_run_by_itself(cell, reverse, asarray, close, rng):
    problem = Problem.of(rng, OverTime(cell))
    # Padding may hold anything, in x and in dy.
    padding = np.arange(T)[:, None, None] >= np.asarray(LENGTHS)
    dirty = problem.but(
        layer=OverTime(cell, reverse=reverse),
        x=np.where(padding, np.nan, problem.x),
        dy=np.where(padding, np.nan, problem.dy),
        lengths=np.asarray(LENGTHS),
    )
    got = dirty.move(asarray).results()

    expected = {name: np.zeros_like(value) for name, value in problem.params.items()}
    expected |= {"y": np.zeros_like(problem.dy), "dx": np.zeros_like(problem.x)}
    for field in problem.state._fields:
        expected[f"last.{field}"] = getattr(problem.state, field).copy()
        expected[f"dstart.{field}"] = getattr(problem.dstate, field).copy()
    for j, length in enumerate(LENGTHS):
        if not length:  # its state, and the gradient of it, go through unchanged
            continue
        one = slice(j, j + 1)
        # Turned by hand, so that `reverse` is not what proves `reverse`.
        turn = slice(None, None, -1) if reverse else slice(None)
        own = problem.batch(one)
        own = own.but(x=own.x[:length][turn], dy=own.dy[:length][turn])
        for name, value in own.results().items():
            if name in problem.params:
                expected[name] += value
            elif name in ("y", "dx"):
                expected[name][:length, :, one] = value[turn]
            else:
                expected[name][:, one] = value
    close(got, expected)


@pytest.fixture
def blocks_of_3(monkeypatch):
    """T = 7 in blocks of 3, 3 and 1 steps, where the library has blocks at all."""
    monkeypatch.setattr(kernels, "_BLOCK_STEPS", 3)


@each_steps
def test_blocks_change_nothing(cell, steps, reverse, asarray, close, rng, monkeypatch):
    problem = Problem.of(rng, OverTime(cell, reverse=reverse), **steps)
    expected = problem.results()
    monkeypatch.setattr(kernels, "_BLOCK_STEPS", 3)
    close(problem.move(asarray).results(), expected)


@pytest.mark.host
@pytest.mark.usefixtures("blocks_of_3")
@each_steps
@pytest.mark.parametrize("recompute", [True, 1, 4, 6, 100])
def test_recomputed_gradients_are_the_same_to_the_bit(cell, recompute, steps, reverse, rng):
    problem = Problem.of(rng, OverTime(cell, reverse=reverse), **steps)
    again = OverTime(cell, reverse=reverse, recompute=recompute)
    same_bits(problem.but(layer=again).results(), problem.results())


@pytest.mark.usefixtures("blocks_of_3")
@each_steps
def test_recomputed_results_are_the_same_on_every_library(
    cell, steps, reverse, asarray, close, rng
):
    problem = Problem.of(rng, OverTime(cell, reverse=reverse), **steps)
    again = problem.but(layer=OverTime(cell, reverse=reverse, recompute=3))
    close(again.move(asarray).results(), problem.results())


@pytest.mark.host
def test_recompute_keeps_the_state_before_each_segment_and_nothing_else(cell, rng):
    problem = Problem.of(rng, OverTime(cell), n_steps=10_000)
    problem.params["W_h"] *= 0.1  # relu shall not grow for 10,000 steps
    x = problem.x.nbytes
    plain, recomputed = (
        sum(leaf.nbytes for leaf in leaves(problem.but(layer=layer).forward()[2])) - x
        for layer in (OverTime(cell), OverTime(cell, recompute=True))
    )
    assert recomputed == 79 * sum(value.nbytes for value in problem.state)  # of 128 steps
    assert recomputed < plain / 70


def test_padding_is_exactly_zero(cell, reverse, asarray, to_host, rng):
    problem = Problem.of(rng, OverTime(cell, reverse=reverse), lengths=LENGTHS)
    got = problem.move(asarray).results()
    padding = np.arange(T)[:, None] >= np.asarray(LENGTHS)
    for name in ("y", "dx"):
        inside = np.moveaxis(to_host(got[name]), 1, 2)  # features last
        assert not np.any(inside[padding])
        assert np.any(inside[~padding])


def test_full_lengths_are_no_lengths(cell, reverse, asarray, close, rng):
    problem = Problem.of(rng, OverTime(cell, reverse=reverse), lengths=[T] * M).move(asarray)
    close(problem.but(lengths=None).results(), problem.results(), kind="cell")


@each_steps
def test_arguments_stay_as_they_are(cell, steps, reverse, asarray, to_host, rng):
    problem = Problem.of(rng, OverTime(cell, reverse=reverse), **steps).move(asarray)
    before = {name: to_host(value) for name, value in problem.arrays().items()}
    _, _, tape = problem.forward()
    taped = [to_host(value) for value in leaves(tape)]
    for _ in range(2):  # a tape may be used twice
        problem.backward(tape)
    same_bits({name: to_host(value) for name, value in problem.arrays().items()}, before)
    for old, new in zip(taped, leaves(tape), strict=True):
        np.testing.assert_array_equal(to_host(new), old)


@pytest.mark.host
def test_read_only_arrays_are_enough(cell, reverse, rng):
    problem = Problem.of(rng, OverTime(cell, reverse=reverse), lengths=LENGTHS)
    same_bits(problem.move(frozen).results(), problem.results())


@pytest.mark.host
def test_views_in_any_memory_order_give_the_same(cell, rng):
    problem = Problem.of(rng, OverTime(cell))
    expected = problem.results()
    got = problem.move(np.asfortranarray).results()
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-12, atol=1e-12, err_msg=name)


def test_extreme_inputs_give_finite_results(cell, asarray, to_host, rng):
    problem = Problem.of(rng, OverTime(cell))
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
        with pytest.raises(kind, match=exactly(f"sequence_mask: {text}")):
            sequence_mask(lengths, 3)
    with pytest.raises(ValueError, match=r"^sequence_mask: n_steps is 0, expected at least 1$"):
        sequence_mask(asarray([1, 2]), 0)
