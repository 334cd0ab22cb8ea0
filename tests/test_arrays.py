"""Access to array libraries: kinds, copies, one-hot arrays; BLAS threads; kernels' examples."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import numpy as np
import pytest
from loading import Foreign, contracts

from seqcore import arrays, kernels

# --- series -----------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, -2, -1])
def test_joined_puts_time_where_it_is_asked_for(axis, xp, asarray, assert_close, rng):
    x = rng.standard_normal((5, 3, 2))
    arrays_of = [asarray(part) for part in (x[:2], x[2:])]
    for parts in (arrays_of, [arrays.unstacked(xp, part) for part in arrays_of]):
        got = arrays.joined(xp, parts, axis=axis)
        assert_close(got, np.moveaxis(x, 0, axis), kind="cell")


def test_unstacked_is_the_entry_at_each_time(xp, asarray, assert_close, rng):
    x = rng.standard_normal((3, 2, 4))
    entries = arrays.unstacked(xp, asarray(x))
    assert isinstance(entries, tuple)
    for entry, wanted in zip(entries, x, strict=True):
        assert_close(entry, wanted, kind="cell")
    assert arrays.unstacked(xp, entries) is entries


# --- what is an array of what -----------------------------------------------------------


def test_namespace_is_the_librarys_own(xp, asarray):
    assert arrays.namespace(asarray([0.0]), asarray([1])) is xp


@pytest.mark.parametrize("given", [(), ([0.0],), (1.0,), ("x",), (None,)])
def test_namespace_refuses_what_is_no_array(given):
    with pytest.raises(TypeError):
        arrays.namespace(*given)


def test_namespace_refuses_arrays_of_two_libraries(asarray):
    with pytest.raises(TypeError, match=r"[Mm]ultiple namespaces"):
        arrays.namespace(asarray([0.0]), Foreign())


def test_device_and_library_name_where_an_array_lives(device, library, asarray):
    array = asarray([0.0])
    assert arrays.device(array) == device
    assert arrays.library(array) == library.contract["namespace"].partition(".")[0]


@pytest.mark.parametrize(
    ("values", "floating", "integer"),
    [(0.5, True, False), ([1, 2], False, True), ([True], False, False)],
    ids=["floats", "integers", "booleans"],
)
def test_floats_integers_and_booleans_are_told_apart(values, floating, integer, asarray):
    array = asarray(values)
    assert arrays.is_array(array)
    assert arrays.is_floating(array) is floating
    assert arrays.is_integer(array) is integer


@pytest.mark.parametrize("value", [1.0, [1.0], (1,), "x", None])
def test_host_values_are_no_arrays(value):
    assert not arrays.is_array(value)


def test_import_library_returns_the_namespace_of_the_librarys_arrays(xp, library):
    assert arrays.import_library(library.contract["namespace"]) is xp


def test_import_library_says_which_library_is_missing():
    with pytest.raises(ImportError, match="no_such_library"):
        arrays.import_library("no_such_library")


# --- copies -----------------------------------------------------------------------------

FLOATS = {
    "a scalar": 1.5,
    "a list": [[1.0, 2.0, 3.0], [-4.0, 0.25, 0.0]],
    "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "float64": np.arange(12.0).reshape(2, 3, 2),
    "0-d": np.asarray(-2.5),
    "transposed": np.arange(6.0).reshape(2, 3).T,
    "strided": np.arange(12.0)[::-2],
    "broadcast": np.broadcast_to(np.asarray([[1.0], [2.0]]), (2, 3)),
    "empty": np.zeros((0, 3)),
}


@pytest.mark.parametrize("values", FLOATS.values(), ids=FLOATS)
def test_like_places_host_values_beside_an_array(values, asarray, assert_close):
    placed = arrays.like(values, asarray([0.0]))
    assert_close(placed, np.asarray(values, dtype=np.float64), kind="cell", scale=0.0)


@pytest.mark.parametrize("name", ["int64", "bool", "float32"])
def test_like_takes_another_dtype(name, xp, asarray, to_host):
    placed = arrays.like([[0, 1, 1]], asarray([0.0]), dtype=getattr(xp, name))
    assert placed.dtype == getattr(xp, name)
    np.testing.assert_array_equal(to_host(placed), np.asarray([[0, 1, 1]], dtype=name))


def test_like_copies(place, asarray, assert_close):
    # The dtype of the place, so that no conversion copies by accident.
    values = np.arange(6, dtype=place.dtype).reshape(2, 3)
    placed = arrays.like(values, asarray([0.0]))
    values[...] = -1.0
    assert_close(placed, np.arange(6.0).reshape(2, 3), kind="cell", scale=0.0)


@pytest.mark.parametrize(
    "values", [7, [[1, -2, 3]], np.asarray([2**40, 0]), np.asarray([3, 1], dtype=np.int16)]
)
def test_integers_like_are_int64_on_the_same_device(values, asarray, assert_close):
    placed = arrays.integers_like(values, asarray([0.0]))
    assert_close(placed, np.asarray(values, dtype=np.int64), kind="cell")


def test_integers_like_copies(asarray, assert_close):
    values = np.asarray([3, 1, 2])
    placed = arrays.integers_like(values, asarray([0.0]))
    values[...] = 0
    assert_close(placed, np.asarray([3, 1, 2]), kind="cell")


@pytest.mark.parametrize(
    "values",
    [1.5, [[1.0, -2.0, 4.0]], [], 3, [[1], [2]], True, [False, True]],
    ids=["0-d float", "floats", "empty", "0-d int", "integers", "0-d bool", "booleans"],
)
def test_host_copies_keep_values_dtype_and_shape(values, place, asarray):
    expected = np.asarray(values)
    if expected.dtype == np.float64:
        expected = expected.astype(place.dtype)
    host = arrays.to_host(asarray(values))
    assert type(host) is np.ndarray
    assert host.dtype == expected.dtype
    assert host.shape == expected.shape
    np.testing.assert_array_equal(host, expected)


def test_host_copies_of_reduced_arrays_are_arrays_too(xp, asarray):
    # NumPy reduces to scalars, which are not ndarrays.
    host = arrays.to_host(xp.sum(asarray([1.0, 2.0])))
    assert type(host) is np.ndarray
    assert host.shape == ()
    assert host == 3.0


@pytest.mark.parametrize("values", [2.5, [1.0, 2.0]], ids=["0-d", "1-d"])
def test_writing_into_a_host_copy_leaves_the_array_alone(values, asarray, assert_close):
    array = asarray(values)
    arrays.to_host(array)[...] = -1.0
    assert_close(array, values, kind="cell", scale=0.0)


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 0, 2), (2, 1, 0), (1, 2, 0)])
def test_contiguous_keeps_the_values_and_orders_them_by_rows(
    axes, xp, asarray, to_host, assert_close, rng
):
    x = rng.standard_normal((4, 3, 2))
    ordered = arrays.contiguous(xp, xp.permute_dims(asarray(x), axes))
    assert to_host(ordered).flags.c_contiguous
    # Against the same rounding: nothing may change.
    expected = to_host(asarray(x)).transpose(axes)
    assert_close(ordered, expected, kind="cell", scale=0.0)


# --- one-hot ----------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_one_hot_puts_its_new_axis_anywhere(axis, xp, dtype, asarray, assert_close):
    indices = np.asarray([[0, 3], [4, 1], [2, 4]])
    hot = arrays.one_hot(xp, asarray(indices), 5, dtype, axis=axis)
    expected = np.moveaxis(np.eye(5)[indices], -1, axis)
    assert_close(hot, expected, kind="cell", scale=0.0)


def test_one_hot_of_an_index_outside_is_zero(xp, dtype, asarray, assert_close):
    hot = arrays.one_hot(xp, asarray([-1, 2, 3]), 3, dtype, axis=0)
    assert_close(hot, [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]], kind="cell")


@pytest.mark.parametrize("name", ["uint8", "int8", "int32", "uint64"])
def test_one_hot_counts_further_than_the_dtype_of_its_indices(
    name, xp, dtype, asarray, assert_close
):
    indices = xp.astype(asarray([0, 100]), getattr(xp, name))
    hot = arrays.one_hot(xp, indices, 300, dtype, axis=0)
    assert_close(hot, np.eye(300)[:, [0, 100]], kind="cell", scale=0.0)


ROOM = Path(kernels.__file__).parent


def test_the_kernels_of_the_library_are_imported_and_their_examples_run(library):
    name = library.contract["namespace"].partition(".")[0]
    for path in ROOM.glob(f"{name}*.py"):
        module = importlib.import_module(f"seqcore.kernels.{path.stem}")
        failed, _ = doctest.testmod(module)
        assert failed == 0


@pytest.mark.host
def test_every_kernel_belongs_to_a_library_whose_tests_run_its_examples():
    found = {path.stem for path in ROOM.glob("*.py")} - {"__init__", "contract"}
    assert "numpy" in found
    assert found <= {
        table["namespace"].partition(".")[0]
        for table in contracts().values()
        if table.get("required")
    }
