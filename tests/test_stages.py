"""Each stage of the computation on the library under test against float64 NumPy.

With `--library jax --variant jit` each runs as one function under jax.jit.
"""

from __future__ import annotations

import numpy as np
import pytest
import stages
from stages import STAGES, Stage

pytestmark = pytest.mark.every_place

each_stage = pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)


@pytest.fixture
def wrap(library):
    """Return what a stage's function goes through: jax.jit in the variant jit."""
    if library.variant != "jit":
        return lambda run: run
    import jax

    return jax.jit


@each_stage
def test_a_stage_gives_the_numbers_of_float64_numpy(
    stage, wrap, settle, asarray, assert_close, judge
):
    results = stage.results(asarray, compile=wrap, settle=settle)
    expected = stages.expected(stage)
    assert results.keys() == expected.keys()
    seen = {
        name: assert_close(results[name], expected[name], kind=stage.kind, name=name)
        for name in expected
    }
    judge.see_stage(stage.name, stage.kind, seen)
    # A result that is an input again, such as a count, keeps its dtype: NumPy might change it too.
    for name, given in stage.inputs().items():
        if name in results:
            assert results[name].dtype == asarray(given).dtype, name


@pytest.mark.host
def test_the_stages_are_in_the_order_of_the_computation():
    order = (
        *("activations", "cell forward", "cell backward", "sequence forward", "bptt"),
        *("loss", "clipped adam step", "100 training steps"),
    )
    names = [stage.name for stage in STAGES]
    assert len(set(names)) == len(names)
    heads = [next(head for head in order if name.startswith(head)) for name in names]
    assert list(dict.fromkeys(heads)) == list(order)
    assert heads == sorted(heads, key=order.index)
    for head in order[1:5]:  # each cell
        assert heads.count(head) == len(stages.CELLS)


@pytest.mark.host
@each_stage
def test_a_stages_inputs_are_the_same_each_time_and_exact_in_float32(stage):
    first, second = stage.inputs(), stage.inputs()
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name])
        if values.dtype == np.float64:
            np.testing.assert_array_equal(values, values.astype(np.float32))


@pytest.mark.host
@each_stage
def test_no_result_of_a_stage_is_zero_or_infinite(stage):
    for name, values in stages.expected(stage).items():
        assert np.all(np.isfinite(values)), name
        assert np.any(values != 0), name


@pytest.mark.host
def test_a_repeated_stage_goes_on_from_its_own_results():
    step = Stage("made up", "train", lambda _: {"x": np.ones(1)}, lambda g: {"x": 2 * g["x"]}, 5)
    (x,) = stages.expected(step).values()
    assert x == 32.0


@pytest.mark.host
def test_training_lowers_the_loss_so_that_its_stage_says_something():
    train = STAGES[-1]
    first = train.run(train.inputs())["loss"]
    assert stages.expected(train)["loss"] < 0.9 * first
