"""Losses, their gradients, their masks."""

from __future__ import annotations

import numpy as np
import pytest
from judging import exactly
from loading import Foreign

import seqcore as sc

T, N_Y, M = 5, 4, 3
SHAPES = {"(T, n_y, m)": (T, N_Y, M), "(n_y, m)": (N_Y, M)}
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def draw(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Draw numbers that float32 holds without rounding, so that both dtypes see the same."""
    return rng.standard_normal(shape).astype(np.float32).astype(np.float64)


def one_hot(classes: np.ndarray, n: int) -> np.ndarray:
    return np.moveaxis(np.eye(n)[classes], -1, -2)


def cross_entropy(logits, targets, keep=None):
    """Mean over columns of -sum_k y_k log p_k, term by term."""
    log_p = logits - np.logaddexp.reduce(logits, axis=-2, keepdims=True)
    columns = -(targets * log_p).sum(axis=-2)
    return columns.mean() if keep is None else columns[keep].mean()


def squared_error(y, targets, keep=None):
    squares = (y - targets) ** 2
    return squares.mean() if keep is None else np.moveaxis(squares, -2, -1)[keep].mean()


def central(loss, x, h=1e-4):
    """Return dL/dx in float64 by central differences; its error is near 1e-9."""
    slope = np.zeros_like(x)
    for at in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[at] = h
        slope[at] = (loss(x + step) - loss(x - step)) / (2 * h)
    return slope


@pytest.fixture
def assert_gradient(assert_close, to_host, judge):
    """Compare with central differences, and kind of array with the argument."""

    def check(gradient, loss, x):
        expected = central(loss, x)
        assert_close(gradient, to_host(gradient).astype(np.float64), kind="cell")
        atol = max(1e-8, judge.tolerance("cell")) * np.abs(expected).max()
        np.testing.assert_allclose(to_host(gradient), expected, rtol=0, atol=atol)

    return check


# --- cross entropy ----------------------------------------------------------------------


@each_shape
def test_cross_entropy_of_classes_is_its_formula_with_its_gradient(
    shape, asarray, assert_close, assert_gradient, rng
):
    logits = draw(rng, *shape)
    classes = rng.integers(N_Y, size=shape[:-2] + shape[-1:])
    hot = one_hot(classes, N_Y)
    loss, dlogits = sc.cross_entropy(asarray(logits), asarray(classes))
    assert_close(loss, cross_entropy(logits, hot), kind="cell", name="loss")
    assert_gradient(dlogits, lambda x: cross_entropy(x, hot), logits)


@each_shape
def test_cross_entropy_of_a_distribution_is_its_formula_with_its_gradient(
    shape, asarray, assert_close, assert_gradient, rng
):
    logits = draw(rng, *shape)
    # Positive weights that need not sum to 1: the gradient has their sum in it.
    targets = np.abs(draw(rng, *shape))
    loss, dlogits = sc.cross_entropy(asarray(logits), asarray(targets))
    assert_close(loss, cross_entropy(logits, targets), kind="cell", name="loss")
    assert_gradient(dlogits, lambda x: cross_entropy(x, targets), logits)


@each_shape
@pytest.mark.parametrize("masked", [False, True], ids=["all steps", "masked"])
def test_classes_and_one_hot_targets_give_the_same(
    shape, masked, asarray, assert_close, to_host, rng
):
    logits = asarray(draw(rng, *shape))
    columns = shape[:-2] + shape[-1:]
    classes = rng.integers(N_Y, size=columns)
    mask = asarray(rng.random(columns) < 0.6) if masked else None
    loss, dlogits = sc.cross_entropy(logits, asarray(classes), mask)
    hot = sc.cross_entropy(logits, asarray(one_hot(classes, N_Y)), mask)
    assert_close(hot[0], float(loss), kind="cell")
    assert_close(hot[1], to_host(dlogits).astype(np.float64), kind="cell")


@pytest.mark.parametrize("name", ["uint8", "int8", "int32", "uint16"])
def test_classes_may_be_narrow_integers(name, xp, asarray, assert_close, rng):
    logits = draw(rng, 300, M)  # more classes than 8 bits count
    classes = np.asarray([0, 99, 3])
    narrow = xp.astype(asarray(classes), getattr(xp, name))
    loss, _ = sc.cross_entropy(asarray(logits), narrow)
    assert_close(loss, cross_entropy(logits, one_hot(classes, 300)), kind="cell")


@pytest.mark.parametrize("soft", [False, True], ids=["classes", "distribution"])
def test_a_mask_hides_steps_whatever_stands_there(
    soft, asarray, assert_close, assert_gradient, rng
):
    logits = draw(rng, T, N_Y, M)
    classes = rng.integers(N_Y, size=(T, M))
    targets = np.abs(draw(rng, T, N_Y, M)) if soft else one_hot(classes, N_Y)
    keep = rng.random((T, M)) < 0.6
    hidden = np.broadcast_to(~keep[:, None, :], logits.shape)

    junk = np.where(hidden, rng.choice([np.nan, np.inf, -np.inf], logits.shape), logits)
    if soft:
        wanted = np.where(hidden, np.nan, targets)
    else:
        wanted = np.where(keep, classes, rng.choice([-1, 10**6], classes.shape))
    loss, dlogits = sc.cross_entropy(asarray(junk), asarray(wanted), asarray(keep))

    assert_close(loss, cross_entropy(logits, targets, keep), kind="cell", name="loss")
    assert_gradient(dlogits, lambda x: cross_entropy(x, targets, keep), logits)


def test_a_mask_of_all_is_no_mask(asarray, assert_close, to_host, rng):
    logits, classes = asarray(draw(rng, T, N_Y, M)), asarray(rng.integers(N_Y, size=(T, M)))
    y = asarray(draw(rng, T, N_Y, M))
    every = asarray(np.ones((T, M), dtype=bool))
    for loss, targets in ((sc.cross_entropy, classes), (sc.squared_error, y)):
        for masked, plain in zip(loss(logits, targets, every), loss(logits, targets), strict=True):
            assert_close(masked, to_host(plain).astype(np.float64), kind="cell")


@pytest.mark.parametrize("kind", ["classes", "distribution", "squared error"])
def test_with_nothing_kept_loss_and_gradient_are_zero(kind, asarray, assert_close):
    none = asarray(np.zeros((T, M), dtype=bool))
    logits = asarray(np.full((T, N_Y, M), np.nan))
    if kind == "classes":
        loss, slope = sc.cross_entropy(logits, asarray(np.full((T, M), -1)), none)
    else:
        loss_of = sc.squared_error if kind == "squared error" else sc.cross_entropy
        loss, slope = loss_of(logits, asarray(np.full((T, N_Y, M), np.inf)), none)
    assert_close(loss, 0.0, kind="cell", scale=0.0)
    assert_close(slope, np.zeros((T, N_Y, M)), kind="cell", scale=0.0)


@pytest.mark.parametrize("soft", [False, True], ids=["classes", "one-hot"])
@pytest.mark.parametrize("size", [1e30, 1e37])
def test_extreme_logits_give_right_losses_without_a_warning(size, soft, asarray, assert_close):
    logits = size * np.asarray([[1.0, 1.0, -1.0], [-1.0, -1.0, -1.0], [0.0, 0.0, -1.0]])
    classes = np.asarray([0, 1, 2])  # right, wrong by 2 size, even
    targets = one_hot(classes, 3) if soft else classes
    loss, dlogits = sc.cross_entropy(asarray(logits), asarray(targets))
    assert_close(loss, 2 * size / 3, kind="cell")
    p = np.asarray([[1.0, 1.0, 1 / 3], [0.0, 0.0, 1 / 3], [0.0, 0.0, 1 / 3]])
    assert_close(dlogits, (p - one_hot(classes, 3)) / 3, kind="cell")


@pytest.mark.parametrize("soft", [False, True], ids=["classes", "one-hot"])
def test_a_class_ruled_out_by_minus_infinity_costs_nothing(soft, asarray, assert_close):
    logits = asarray([[-np.inf, 0.0], [0.0, 0.0], [0.0, -np.inf]])
    classes = np.asarray([2, 0])
    loss, dlogits = sc.cross_entropy(logits, asarray(one_hot(classes, 3) if soft else classes))
    assert_close(loss, np.log(2), kind="cell")
    assert_close(dlogits, [[0.0, -0.25], [0.25, 0.25], [-0.25, 0.0]], kind="cell")


@pytest.mark.parametrize("where", ["logits", "targets"])
def test_nan_that_counts_shows_in_the_loss(where, asarray, to_host):
    logits, targets = np.zeros((N_Y, M)), one_hot(np.asarray([0, 1, 2]), N_Y)
    {"logits": logits, "targets": targets}[where][1, 2] = np.nan
    for loss in (sc.cross_entropy, sc.squared_error):
        assert np.isnan(to_host(loss(asarray(logits), asarray(targets))[0]))


# --- squared error ----------------------------------------------------------------------


@each_shape
def test_squared_error_is_its_formula_with_its_gradient(
    shape, asarray, assert_close, assert_gradient, rng
):
    y, targets = draw(rng, *shape), draw(rng, *shape)
    loss, dy = sc.squared_error(asarray(y), asarray(targets))
    assert_close(loss, squared_error(y, targets), kind="cell", name="loss")
    assert_gradient(dy, lambda x: squared_error(x, targets), y)


def test_a_mask_hides_errors_whatever_stands_there(asarray, assert_close, assert_gradient, rng):
    y, targets = draw(rng, T, N_Y, M), draw(rng, T, N_Y, M)
    keep = rng.random((T, M)) < 0.6
    hidden = np.broadcast_to(~keep[:, None, :], y.shape)
    junk_y = np.where(hidden, rng.choice([np.nan, np.inf, 1e30], y.shape), y)
    junk_targets = np.where(hidden, rng.choice([np.nan, np.inf, -1e30], y.shape), targets)
    loss, dy = sc.squared_error(asarray(junk_y), asarray(junk_targets), asarray(keep))
    assert_close(loss, squared_error(y, targets, keep), kind="cell", name="loss")
    assert_gradient(dy, lambda x: squared_error(x, targets, keep), y)


def test_large_errors_whose_squares_are_floats_give_no_warning(asarray, assert_close):
    y = np.asarray([[1e18, -1e18, 0.0]])
    loss, dy = sc.squared_error(asarray(y), asarray(-y))
    assert_close(loss, 8e36 / 3, kind="cell")
    assert_close(dy, 4 * y / 3, kind="cell")


# --- both -------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [sc.cross_entropy, sc.squared_error])
def test_a_loss_changes_none_of_its_arguments(loss, asarray, to_host, rng):
    given = [
        asarray(draw(rng, T, N_Y, M)),
        asarray(np.abs(draw(rng, T, N_Y, M))),
        asarray(rng.random((T, M)) < 0.6),
    ]
    before = [to_host(array) for array in given]
    loss(*given)
    for array, copy in zip(given, before, strict=True):
        np.testing.assert_array_equal(to_host(array), copy)


# --- a batch in parts -------------------------------------------------------------------

TARGETS = {
    "classes": (sc.cross_entropy, lambda rng: rng.integers(N_Y, size=(T, M))),
    "distribution": (sc.cross_entropy, lambda rng: np.abs(draw(rng, T, N_Y, M))),
    "squared error": (sc.squared_error, lambda rng: draw(rng, T, N_Y, M)),
}
each_loss = pytest.mark.parametrize(("loss", "make"), TARGETS.values(), ids=TARGETS)
# The forms in which a whole batch's divisor may come, and whether they are put on the device.
TOTALS = {
    "int": (int, False),
    "float": (float, False),
    "a NumPy scalar": (np.float64, False),
    "an array of integers": (np.int64, True),
    "an array of floats": (np.float64, True),
}


@each_loss
@pytest.mark.parametrize(("form", "placed"), TOTALS.values(), ids=TOTALS)
@pytest.mark.parametrize("masked", [False, True], ids=["all steps", "masked"])
def test_parts_with_the_total_of_the_whole_add_up_to_it(
    loss, make, form, placed, masked, asarray, assert_close, to_host, rng
):
    y, targets = draw(rng, T, N_Y, M), make(rng)
    keep = rng.random((T, M)) < 0.6 if masked else np.ones((T, M), dtype=bool)
    keep[:, 0] = False if masked else keep[:, 0]  # one part has nothing that counts
    whole, slope = loss(asarray(y), asarray(targets), asarray(keep) if masked else None)

    total = form(keep.sum() * (N_Y if loss is sc.squared_error else 1))
    total = asarray(total) if placed else total
    parts = []
    for part in (slice(0, 1), slice(1, None)):
        mask = asarray(keep[..., part]) if masked else None
        parts.append(loss(asarray(y[..., part]), asarray(targets[..., part]), mask, total=total))
    assert all(value.dtype == whole.dtype for value, _ in parts)
    assert_close(sum(value for value, _ in parts), to_host(whole).astype(np.float64), kind="cell")
    slopes = np.concatenate([to_host(d) for _, d in parts], axis=-1)
    assert_close(asarray(slopes), to_host(slope).astype(np.float64), kind="cell")


@each_loss
def test_the_count_of_what_is_kept_as_total_changes_no_bit(loss, make, asarray, to_host, rng):
    y, targets = asarray(draw(rng, T, N_Y, M)), asarray(make(rng))
    keep = rng.random((T, M)) < 0.6
    for mask, n in ((None, keep.size), (asarray(keep), int(keep.sum()))):
        n *= N_Y if loss is sc.squared_error else 1
        for given, counted in zip(
            loss(y, targets, mask, total=n), loss(y, targets, mask), strict=True
        ):
            np.testing.assert_array_equal(to_host(given), to_host(counted))


@each_loss
@pytest.mark.parametrize("value", [0, -2, np.nan])
def test_an_array_that_is_no_divisor_shows_as_nan_where_something_counts(
    loss, make, value, asarray, assert_close, to_host, rng
):
    y, targets, total = draw(rng, T, N_Y, M), make(rng), asarray(np.asarray(value))
    for mask in (None, asarray(np.ones((T, M), dtype=bool))):
        for found in loss(asarray(y), asarray(targets), mask, total):
            assert np.all(np.isnan(to_host(found)))
    none = asarray(np.zeros((T, M), dtype=bool))
    value, slope = loss(asarray(y), asarray(targets), none, total)
    assert_close(value, 0.0, kind="cell", scale=0.0)
    assert_close(slope, np.zeros((T, N_Y, M)), kind="cell", scale=0.0)


FLOATS = np.zeros((T, N_Y, M))
CLASSES = np.zeros((T, M), dtype=int)
BAD = {
    "logits of integers": (
        "cross_entropy",
        (CLASSES[:, None, :], CLASSES),
        TypeError,
        "logits has dtype {int64}, expected a floating point dtype",
    ),
    "logits of one axis": (
        "cross_entropy",
        (np.zeros(M), CLASSES),
        ValueError,
        "logits has shape (3,), expected (T, n_y, m)",
    ),
    "no steps": (
        "cross_entropy",
        (np.zeros((0, N_Y, M)), CLASSES[:0]),
        ValueError,
        "logits has shape (0, 4, 3), expected (T, n_y, m) with T at least 1",
    ),
    "no examples": (
        "squared_error",
        (np.zeros((N_Y, 0)), np.zeros((N_Y, 0))),
        ValueError,
        "y has shape (4, 0), expected (n_y, m) with m at least 1",
    ),
    "classes of another shape": (
        "cross_entropy",
        (FLOATS, CLASSES[:4]),
        ValueError,
        "targets has shape (4, 3), expected (5, 3)",
    ),
    "a distribution of another shape": (
        "cross_entropy",
        (FLOATS, FLOATS[:, :3]),
        ValueError,
        "targets has shape (5, 3, 3), expected (5, 4, 3)",
    ),
    "targets of another shape": (
        "squared_error",
        (FLOATS, FLOATS[:4]),
        ValueError,
        "targets has shape (4, 4, 3), expected (5, 4, 3)",
    ),
    "a class too high": (
        "cross_entropy",
        (FLOATS, CLASSES + 4),
        ValueError,
        "targets holds 4, expected 0 <= class < 4",
    ),
    "a class below 0": (
        "cross_entropy",
        (FLOATS, CLASSES - 1),
        ValueError,
        "targets holds -1, expected 0 <= class < 4",
    ),
    "classes of bool": (
        "cross_entropy",
        (FLOATS, CLASSES == 0),
        TypeError,
        "targets has dtype {bool}, expected an integer dtype",
    ),
    "targets of integers": (
        "squared_error",
        (FLOATS, CLASSES),
        TypeError,
        "targets has dtype {int64}, expected a floating point dtype",
    ),
    "a mask of floats": (
        "cross_entropy",
        (FLOATS, CLASSES, np.ones((T, M))),
        TypeError,
        "mask has dtype {float}, expected bool",
    ),
    "a mask of integers": (
        "squared_error",
        (FLOATS, FLOATS, CLASSES),
        TypeError,
        "mask has dtype {int64}, expected bool",
    ),
    "a mask of another shape": (
        "squared_error",
        (FLOATS, FLOATS, np.ones((M, T), dtype=bool)),
        ValueError,
        "mask has shape (3, 5), expected (5, 3)",
    ),
    "a total with an axis": (
        "cross_entropy",
        (FLOATS, CLASSES, None, np.ones(1)),
        ValueError,
        "total has shape (1,), expected ()",
    ),
    "a total of bool": (
        "squared_error",
        (FLOATS, FLOATS, None, np.asarray(True)),
        TypeError,
        "total has dtype {bool}, expected a number",
    ),
}


@pytest.mark.parametrize(("loss", "given", "kind", "text"), BAD.values(), ids=BAD)
def test_a_loss_names_what_is_wrong(loss, given, kind, text, xp, dtype, asarray):
    for name, found in {"int64": xp.int64, "bool": xp.bool, "float": dtype}.items():
        text = text.replace(f"{{{name}}}", str(asarray_dtype(xp, found)))
    with pytest.raises(kind, match=exactly(f"{loss}: {text}")):
        getattr(sc, loss)(*(value if value is None else asarray(value) for value in given))


@pytest.mark.host
@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
@pytest.mark.parametrize(
    ("total", "kind", "text"),
    [
        (0, ValueError, "is 0, expected more than 0"),
        (-1.5, ValueError, "is -1.5, expected more than 0"),
        (np.float32(0), ValueError, "is 0.0, expected more than 0"),
        (float("nan"), ValueError, "is nan, expected more than 0"),
        (True, TypeError, "is True, expected a number"),
        ("12", TypeError, "is '12', expected a number"),
        ([12], TypeError, "is [12], expected a number"),
    ],
)
def test_a_number_that_divides_nothing_is_named(loss, total, kind, text):
    with pytest.raises(kind, match=exactly(f"{loss}: total {text}")):
        getattr(sc, loss)(FLOATS, FLOATS, total=total)


def asarray_dtype(xp, dtype):
    """Return a dtype as its arrays carry it: NumPy's scalar types become dtypes."""
    return xp.zeros(0, dtype=dtype).dtype


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
@pytest.mark.parametrize("name", ["targets", "mask"])
def test_a_loss_takes_arrays_of_one_library(loss, name, library, asarray):
    first = "logits" if loss == "cross_entropy" else "y"
    given = {first: FLOATS, "targets": FLOATS, "mask": np.ones((T, M), dtype=bool)}
    given = {key: asarray(value) for key, value in given.items()}
    own = library.contract["namespace"].partition(".")[0]
    foreign = f"is an array of elsewhere, expected {own} like {first}"
    for stray, text in (([0.0], "is a list, expected an array"), (Foreign(), foreign)):
        with pytest.raises(TypeError, match=exactly(f"{loss}: {name} {text}")):
            getattr(sc, loss)(*(given | {name: stray}).values())
    with pytest.raises(TypeError, match=exactly(f"{loss}: total {foreign}")):
        getattr(sc, loss)(*given.values(), total=Foreign())


@pytest.mark.host
@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
def test_a_loss_takes_floats_of_one_dtype(loss):
    first = "logits" if loss == "cross_entropy" else "y"
    text = f"^{loss}: targets has dtype float64, expected float32 like {first}$"
    with pytest.raises(TypeError, match=text):
        getattr(sc, loss)(FLOATS.astype(np.float32), FLOATS)


def test_a_class_out_of_range_is_refused_or_where_it_cannot_be_read_nan(library, asarray, to_host):
    readable = library.name not in ("jax", "dask")
    logits, mask = asarray(np.zeros((2, 3, 2))), np.asarray([[True, True], [False, True]])
    loss = sc.cross_entropy
    if library.name == "jax":
        import jax

        loss = jax.jit(sc.cross_entropy)
    for wrong in (99, 3, -1, -7):
        for place, spoiled in (((0, 1), True), ((1, 0), False)):  # the other one does not count
            targets = np.zeros((2, 2), dtype=np.int64)
            targets[place] = wrong
            if readable and spoiled:
                with pytest.raises(ValueError, match=f"^cross_entropy: targets holds {wrong}, "):
                    loss(logits, asarray(targets), asarray(mask))
                continue
            value, dlogits = loss(logits, asarray(targets), asarray(mask))
            assert np.isnan(to_host(value)) == spoiled
            assert np.isnan(to_host(dlogits)).any() == spoiled
