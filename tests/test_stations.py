"""Each station of the river on the library under test against float64 NumPy.

With `--library jax --variant jit` each runs as one function under jax.jit.
"""

from __future__ import annotations

import numpy as np
import pytest
import stations
from stations import STATIONS, Station

pytestmark = pytest.mark.every_place

each_station = pytest.mark.parametrize("station", STATIONS, ids=lambda station: station.name)


@pytest.fixture
def wrap(library):
    """Return what a station's function goes through: jax.jit in the variant jit."""
    if library.variant != "jit":
        return lambda run: run
    import jax

    return jax.jit


@each_station
def test_a_station_gives_the_numbers_of_float64_numpy(
    station, wrap, settle, asarray, assert_close, see_station
):
    results = station.results(asarray, compile=wrap, settle=settle)
    expected = stations.expected(station)
    assert results.keys() == expected.keys()
    seen = {
        name: assert_close(results[name], expected[name], kind=station.kind, name=name)
        for name in expected
    }
    see_station(station.name, station.kind, seen)
    # What goes round, as a count does, stays of its dtype: NumPy might change it as well.
    for name, given in station.inputs().items():
        if name in results:
            assert results[name].dtype == asarray(given).dtype, name


@pytest.mark.host
def test_the_stations_are_the_river_in_its_order():
    order = (
        *("activations", "cell forward", "cell backward", "sequence forward", "bptt"),
        *("loss", "clipped adam step", "100 training steps"),
    )
    names = [station.name for station in STATIONS]
    assert len(set(names)) == len(names)
    heads = [next(head for head in order if name.startswith(head)) for name in names]
    assert list(dict.fromkeys(heads)) == list(order)
    assert heads == sorted(heads, key=order.index)
    for head in order[1:5]:  # each cell
        assert heads.count(head) == len(stations.CELLS)


@pytest.mark.host
@each_station
def test_a_stations_inputs_are_the_same_each_time_and_exact_in_float32(station):
    first, second = station.inputs(), station.inputs()
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name])
        if values.dtype == np.float64:
            np.testing.assert_array_equal(values, values.astype(np.float32))


@pytest.mark.host
@each_station
def test_no_result_of_a_station_is_zero_or_infinite(station):
    for name, values in stations.expected(station).items():
        assert np.all(np.isfinite(values)), name
        assert np.any(values != 0), name


@pytest.mark.host
def test_a_repeated_station_goes_on_from_its_own_results():
    step = Station("made up", "train", lambda _: {"x": np.ones(1)}, lambda g: {"x": 2 * g["x"]}, 5)
    (x,) = stations.expected(step).values()
    assert x == 32.0


@pytest.mark.host
def test_training_lowers_the_loss_so_that_its_station_says_something():
    train = STATIONS[-1]
    first = train.run(train.inputs())["loss"]
    assert stations.expected(train)["loss"] < 0.9 * first
