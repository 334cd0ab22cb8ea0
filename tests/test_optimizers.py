"""Optimizers against plain NumPy, clipping, schedules."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from judging import exactly, leaves

import seqcore as sc
from seqcore import arrays
from seqcore.optimizers import AdamState

SHAPES = {"lstm.0.W_h": (2, 3, 4), "b": (5, 1), "scale": ()}


def draw(rng: np.random.Generator, size: float = 1.0) -> dict[str, np.ndarray]:
    """Draw parameters that float32 holds without rounding, so that both dtypes see the same."""
    return {
        name: np.asarray(size * rng.standard_normal(shape), np.float32).astype(np.float64)
        for name, shape in SHAPES.items()
    }


@pytest.fixture
def place_all(asarray):
    return lambda tree: {name: asarray(value) for name, value in tree.items()}


@pytest.fixture
def assert_all_close(assert_close):
    def check(actual, expected, kind="cell", **options):
        assert list(actual) == list(expected)
        for name, value in expected.items():
            assert_close(actual[name], value, kind=kind, name=name, **options)

    return check


# --- plain NumPy, equation by equation --------------------------------------------------


def plain_sgd(params, all_grads, rate, momentum=0.0, nesterov=False):
    trace = {name: np.zeros_like(p) for name, p in params.items()}
    for grads in all_grads:
        for name, g in grads.items():
            trace[name] = momentum * trace[name] + g
            step = g + momentum * trace[name] if nesterov else trace[name]
            params = params | {name: params[name] - rate * step}
    return params


def plain_adam(params, all_grads, rate, b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0, decay=0.0):
    mu = {name: np.zeros_like(p) for name, p in params.items()}
    nu = dict(mu)
    counts = dict.fromkeys(params, 0)
    for grads in all_grads:
        for name, g in grads.items():
            t = counts[name] = counts[name] + 1
            mu[name] = b1 * mu[name] + (1 - b1) * g
            nu[name] = b2 * nu[name] + (1 - b2) * g**2
            m_hat, n_hat = mu[name] / (1 - b1**t), nu[name] / (1 - b2**t)
            step = m_hat / (np.sqrt(n_hat + eps_root) + eps) + decay * params[name]
            params = params | {name: params[name] - rate * step}
    return params, mu, nu


# --- the equations ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"momentum": 0.9}, {"momentum": 0.8, "nesterov": True}],
    ids=["plain", "momentum", "nesterov"],
)
def test_sgd_follows_its_equation(options, place_all, assert_all_close, rng):
    params, all_grads = draw(rng), [draw(rng) for _ in range(5)]
    opt = sc.sgd(0.05, **options)
    ours = place_all(params)
    state = opt.init(ours)
    for grads in all_grads:
        ours, state = opt.update(ours, place_all(grads), state)
    assert_all_close(ours, plain_sgd(params, all_grads, 0.05, **options))


ADAMS = {
    "adam": (sc.adam, {}),
    "other betas": (sc.adam, {"b1": 0.5, "b2": 0.9}),
    "no first moment": (sc.adam, {"b1": 0.0}),
    "no second moment": (sc.adam, {"b2": 0.0}),
    "eps outside the root": (sc.adam, {"eps": 0.1}),
    "eps inside the root": (sc.adam, {"eps": 0.0, "eps_root": 0.1}),
    "both": (sc.adam, {"eps": 0.1, "eps_root": 0.02}),
    "adamw": (sc.adamw, {"weight_decay": 0.1}),
}


@pytest.mark.parametrize(("make", "options"), ADAMS.values(), ids=ADAMS)
def test_adam_follows_its_equations(make, options, place_all, assert_all_close, rng):
    params, all_grads = draw(rng), [draw(rng, 0.3) for _ in range(6)]
    opt, ours = make(0.02, **options), place_all(params)
    state = opt.init(ours)
    for grads in all_grads:
        ours, state = opt.update(ours, place_all(grads), state)
    assert_is_plain_adam(ours, state, params, all_grads, options, assert_all_close)


def assert_is_plain_adam(ours, state, params, all_grads, options, assert_all_close):
    """Require the parameters and moments that the equations give at a rate of 0.02."""
    options = dict(options)
    decay = options.pop("weight_decay", 0.0)
    expected, mu, nu = plain_adam(params, all_grads, 0.02, decay=decay, **options)
    assert_all_close(ours, expected)
    assert_all_close(state.mu, mu)
    assert_all_close(state.nu, nu)


def patterns(rng, steps):
    """Draw gradients, of some parameters only; that of "b" is late, and "scale" never has one."""
    return [
        {
            name: 0.3 * g
            for name, g in draw(rng).items()
            if name != "scale" and k >= 4 * (name == "b") and rng.random() < 0.6
        }
        for k in range(steps)
    ]


@pytest.mark.parametrize(("make", "options"), ADAMS.values(), ids=ADAMS)
def test_adam_follows_its_equations_where_gradients_are_missing(
    make, options, place_all, assert_all_close, assert_close, settle, rng
):
    params, all_grads = draw(rng), patterns(rng, 9)
    opt, ours = make(0.02, **options), place_all(params)
    state = opt.init(ours)
    for grads in all_grads:
        ours, state = opt.update(ours, place_all(grads), state)
        ours = settle(ours)
    assert_is_plain_adam(ours, state, params, all_grads, options, assert_all_close)
    for name in SHAPES:
        had = sum(name in grads for grads in all_grads)
        assert_close(state.counts[name], np.int64(had), kind="cell", name=name)
    assert_close(state.count, np.int64(9), kind="cell")


@pytest.mark.parametrize("done", [1, 1000])
def test_a_parameter_that_is_thawed_late_begins_as_all_others_did(done, asarray, assert_close):
    ones = asarray(np.ones(3))
    opt = sc.adam(0.125, eps=1e-30)
    params = {"head": ones, "frozen": ones}
    begun, zero = asarray(np.asarray(done)), asarray(np.asarray(0))
    moments = {"head": ones, "frozen": asarray(np.zeros(3))}
    state = AdamState(begun, {"head": begun, "frozen": zero}, moments, moments)
    for k in range(1, 4):
        params, state = opt.update(params, {"head": ones, "frozen": ones}, state)
        assert_close(params["frozen"], np.full(3, 1.0 - 0.125 * k), kind="bptt")
        assert_close(state.counts["frozen"], np.int64(k), kind="cell")
        assert_close(state.counts["head"], np.int64(done + k), kind="cell")


def test_a_schedule_follows_all_updates_not_those_of_a_parameter(asarray, assert_close):
    # The first step of a parameter is the rate: a half of 0.5, three of six updates later.
    opt = sc.adam(sc.cosine(0.5, 6), eps=1e-30)
    params = {"w": asarray([0.0]), "late": asarray([0.0])}
    state = opt.init(params)
    for _ in range(3):
        params, state = opt.update(params, {"w": asarray([1.0])}, state)
    params, state = opt.update(params, {"late": asarray([1.0])}, state)
    assert_close(params["late"], [-0.25], kind="train")


def test_adamw_decays_by_the_documented_default(place_all, assert_all_close, rng):
    params, grads = draw(rng), draw(rng)
    ours = place_all(params)
    opt = sc.adamw(0.5)
    after, _ = opt.update(ours, place_all(grads), opt.init(ours))
    expected, _, _ = plain_adam(params, [grads], 0.5, decay=1e-2)
    assert_all_close(after, expected)


def test_adamw_without_decay_is_adam(place_all, to_host, rng):
    params, grads = place_all(draw(rng)), place_all(draw(rng))
    state = sc.adam(0.1).init(params)
    plain, _ = sc.adam(0.1).update(params, grads, state)
    decayed, _ = sc.adamw(0.1, weight_decay=0.0).update(params, grads, state)
    for name, value in plain.items():
        np.testing.assert_array_equal(to_host(decayed[name]), to_host(value))


def test_the_first_adam_step_is_the_rate_whatever_the_gradient(asarray, assert_close):
    # m' = g and n' = g^2 at t = 1, so the step is lr g / |g|.
    g = np.asarray([1e-12, -1e-6, 1.0, -1e6, 1e15])
    params = {"w": asarray(np.zeros(5))}
    opt = sc.adam(0.125, eps=1e-30)
    after, _ = opt.update(params, {"w": asarray(g)}, opt.init(params))
    assert_close(after["w"], -0.125 * np.sign(g), kind="cell")


@pytest.mark.parametrize("b", [0.9, 0.999, 0.99999])
@pytest.mark.parametrize("t", [1, 100, 100_000])
def test_bias_correction_is_precise_at_any_count(t, b, asarray, assert_close):
    # In float32 1 - 0.999^1 as it stands has four digits left.
    mu, nu, g = 0.5, 0.25, 0.75
    params = {"w": asarray([0.0])}
    done = {"w": asarray(t - 1)}
    before = AdamState(asarray(t + 6), done, {"w": asarray([mu])}, {"w": asarray([nu])})
    after, state = sc.adam(1.0, b1=b, b2=b, eps=1e-30).update(params, {"w": asarray([g])}, before)
    mu, nu = b * mu + (1 - b) * g, b * nu + (1 - b) * g * g
    correction = -math.expm1(t * math.log(b))
    step = (mu / correction) / math.sqrt(nu / correction)
    assert_close(after["w"], [-step], kind="cell")
    assert_close(state.counts["w"], np.int64(t), kind="cell")
    assert_close(state.count, np.int64(t + 7), kind="cell")


# --- the contract -----------------------------------------------------------------------

OPTIMIZERS = {
    "sgd": sc.sgd(0.1),
    "momentum": sc.sgd(0.1, 0.9),
    "nesterov": sc.sgd(0.1, 0.9, nesterov=True),
    "adam": sc.adam(0.1),
    "adamw": sc.adamw(0.1),
    "scheduled": sc.adam(sc.warmup(3, sc.cosine(0.1, 9))),
}
each_optimizer = pytest.mark.parametrize("opt", OPTIMIZERS.values(), ids=OPTIMIZERS)


@each_optimizer
def test_an_update_changes_nothing_that_it_is_given(opt, place_all, to_host, rng):
    params = place_all(draw(rng))
    params, state = opt.update(params, place_all(draw(rng)), opt.init(params))
    grads = place_all(draw(rng))
    names = [list(params), list(grads)]
    given = leaves((params, grads, state))
    before = [to_host(array) for array in given]
    after, later = opt.update(params, grads, state)
    assert [list(params), list(grads)] == names
    for array, leaf, copy in zip(given, leaves((params, grads, state)), before, strict=True):
        assert leaf is array
        np.testing.assert_array_equal(to_host(array), copy)
    assert after is not params
    assert later is not state


@each_optimizer
def test_parameters_and_state_keep_kind_and_shape(opt, place_all, assert_all_close, rng):
    params = place_all(draw(rng))
    state = opt.init(params)
    for _ in range(2):
        params, state = opt.update(params, place_all(draw(rng)), state)
    for field, tree in {"params": params, **state._asdict()}.items():
        if field == "counts":
            assert_all_close(tree, dict.fromkeys(SHAPES, np.int64(2)))
        elif isinstance(tree, dict) and tree:
            assert_all_close(tree, {k: np.zeros(s) for k, s in SHAPES.items()}, scale=np.inf)


@each_optimizer
def test_the_count_is_an_integer_array(opt, place_all, assert_close, rng):
    params = place_all(draw(rng))
    state = opt.init(params)
    assert_close(state.count, np.int64(0), kind="cell")
    for _ in range(3):
        params, state = opt.update(params, place_all(draw(rng)), state)
    assert_close(state.count, np.int64(3), kind="cell")


@each_optimizer
def test_parameters_without_a_gradient_stay_as_they_are(opt, place_all, to_host, rng):
    params = place_all(draw(rng))
    params, state = opt.update(params, place_all(draw(rng)), opt.init(params))
    some = {"b": place_all(draw(rng))["b"]}
    after, later = opt.update(params, some, state)
    assert list(after) == list(params)
    assert after["scale"] is params["scale"]
    assert after["lstm.0.W_h"] is params["lstm.0.W_h"]
    assert np.all(to_host(after["b"]) != to_host(params["b"]))
    for before, tree in zip(state, later, strict=True):
        if isinstance(tree, dict) and tree:
            assert tree["scale"] is before["scale"]
    nothing, _ = opt.update(params, {}, state)
    assert all(nothing[name] is params[name] for name in params)


def test_sgd_without_momentum_keeps_no_trace(place_all, rng):
    params = place_all(draw(rng))
    assert sc.sgd(0.1).init(params).trace == {}


CONVERGING = {
    "sgd": sc.sgd(0.15),
    "momentum": sc.sgd(0.05, 0.7),
    "nesterov": sc.sgd(0.05, 0.7, nesterov=True),
    "adam": sc.adam(sc.cosine(0.3, 150), b2=0.9),
    "adamw": sc.adamw(sc.cosine(0.3, 150), b2=0.9, weight_decay=1e-6),
}


@pytest.mark.long
@pytest.mark.parametrize("opt", CONVERGING.values(), ids=CONVERGING)
def test_a_small_quadratic_is_minimized(opt, asarray, to_host):
    target, curvature = asarray([1.0, -2.0, 0.5]), asarray([1.0, 3.0, 10.0])
    params = {"w": asarray(np.zeros(3))}
    state = opt.init(params)
    for _ in range(150):
        params, state = opt.update(params, {"w": curvature * (params["w"] - target)}, state)
    np.testing.assert_allclose(to_host(params["w"]), [1.0, -2.0, 0.5], atol=2e-3)


# --- errors -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "options", "text"),
    [
        (sc.sgd, {"learning_rate": 0.0}, "sgd: learning_rate is 0.0, expected more than 0"),
        (sc.sgd, {"momentum": 1.0}, "sgd: momentum is 1.0, expected 0 <= momentum < 1"),
        (sc.sgd, {"momentum": -0.1}, "sgd: momentum is -0.1, expected 0 <= momentum < 1"),
        (sc.adam, {"learning_rate": -1.0}, "adam: learning_rate is -1.0, expected more than 0"),
        (
            sc.adam,
            {"learning_rate": math.nan},
            "adam: learning_rate is nan, expected more than 0",
        ),
        (sc.adam, {"b1": 1.0}, "adam: b1 is 1.0, expected 0 <= b1 < 1"),
        (sc.adam, {"b2": 1.0}, "adam: b2 is 1.0, expected 0 <= b2 < 1"),
        (sc.adam, {"b2": math.nan}, "adam: b2 is nan, expected 0 <= b2 < 1"),
        (sc.adam, {"eps": -1e-8}, "adam: eps is -1e-08, expected at least 0"),
        (
            sc.adam,
            {"eps": 0.0},
            (
                "adam: eps and eps_root are both 0, expected one of them to be more than 0, as a "
                "gradient of 0 is divided by it"
            ),
        ),
        (sc.adam, {"eps_root": math.nan}, "adam: eps_root is nan, expected at least 0"),
        (sc.adamw, {"weight_decay": -0.1}, "adamw: weight_decay is -0.1, expected at least 0"),
        (sc.adamw, {"weight_decay": math.nan}, "adamw: weight_decay is nan, expected at least 0"),
        (sc.adamw, {"learning_rate": 0}, "adamw: learning_rate is 0, expected more than 0"),
        (sc.constant, {"value": -1.0}, "constant: value is -1.0, expected more than 0"),
        (
            sc.cosine,
            {"value": math.nan, "steps": 3},
            "cosine: value is nan, expected more than 0",
        ),
        (sc.cosine, {"value": 1.0, "steps": 0}, "cosine: steps is 0, expected at least 1"),
        (
            sc.cosine,
            {"value": 1.0, "steps": 3, "final": -0.1},
            "cosine: final is -0.1, expected at least 0",
        ),
        (sc.warmup, {"steps": 0, "after": 1.0}, "warmup: steps is 0, expected at least 1"),
        (sc.warmup, {"steps": 2, "after": 0.0}, "warmup: after is 0.0, expected more than 0"),
        (
            sc.clip_by_global_norm,
            {"grads": {"w": np.ones(1)}, "max_norm": 0.0},
            "clip_by_global_norm: max_norm is 0.0, expected more than 0",
        ),
        (
            sc.clip_by_global_norm,
            {"grads": {"w": np.ones(1)}, "max_norm": math.nan},
            "clip_by_global_norm: max_norm is nan, expected more than 0",
        ),
    ],
)
@pytest.mark.host
def test_a_number_out_of_range_is_named(make, options, text):
    with pytest.raises(ValueError, match=exactly(text)):
        make(**options)


@pytest.mark.host
@pytest.mark.parametrize("make", [lambda n: sc.cosine(1.0, n), lambda n: sc.warmup(n, 1.0)])
@pytest.mark.parametrize("steps", [2.5, True, "3"])
def test_steps_of_a_schedule_are_whole(make, steps):
    with pytest.raises(TypeError, match=f"steps is {steps!r}, expected a whole number"):
        make(steps)


@pytest.mark.parametrize("opt", [sc.sgd(0.1, 0.9), sc.adam()], ids=["sgd", "adam"])
@pytest.mark.parametrize(
    ("grads", "kind", "text"),
    [
        (
            {"b": np.zeros((5, 1)), "c": np.zeros(2)},
            ValueError,
            "gradient 'c' belongs to no parameter, expected one of W, b",
        ),
        (
            {"b": np.zeros((1, 5))},
            ValueError,
            "gradient 'b' has shape (1, 5), expected (5, 1)",
        ),
        (
            {"W": np.zeros((3, 4), dtype=int)},
            TypeError,
            "gradient 'W' has dtype {int64}, expected a floating point dtype",
        ),
    ],
    ids=["no parameter", "shape", "integers"],
)
def test_an_update_names_the_wrong_gradient(opt, grads, kind, text, asarray, place_all):
    params = place_all({"W": np.zeros((3, 4)), "b": np.zeros((5, 1))})
    place = "adam" if hasattr(opt, "b1") else "sgd"
    text = text.replace("{int64}", str(asarray(0).dtype))
    with pytest.raises(kind, match=exactly(f"{place}: {text}")):
        opt.update(params, place_all(grads), opt.init(params))


@pytest.mark.host
@pytest.mark.parametrize("opt", [sc.sgd(), sc.adam()], ids=["sgd", "adam"])
def test_an_update_names_the_wrong_dtype_and_library(opt):
    params = {"W": np.zeros(2, dtype=np.float32)}
    state = opt.init(params)
    text = "gradient 'W' has dtype float64, expected float32 like parameter 'W'"
    with pytest.raises(TypeError, match=text):
        opt.update(params, {"W": np.zeros(2)}, state)
    with pytest.raises(TypeError, match="b has dtype float64, expected float32 like W"):
        opt.init(params | {"b": np.zeros(2)})


@each_optimizer
def test_an_optimizer_needs_a_parameter(opt):
    with pytest.raises(ValueError, match="no arrays were given"):
        opt.init({})


# --- clipping ---------------------------------------------------------------------------


def norm_of(tree):
    return math.sqrt(sum(float((g**2).sum()) for g in tree.values()))


def test_global_norm_is_that_of_all_gradients_together(place_all, assert_close, rng):
    grads = draw(rng)
    assert_close(sc.global_norm(place_all(grads)), norm_of(grads), kind="cell")


def test_a_norm_above_the_limit_is_scaled_to_it(place_all, assert_all_close, assert_close, rng):
    grads = draw(rng)
    norm = norm_of(grads)
    clipped, seen = sc.clip_by_global_norm(place_all(grads), 0.25)
    assert_close(seen, norm, kind="cell")
    assert_all_close(clipped, {name: g * (0.25 / norm) for name, g in grads.items()})
    assert_close(sc.global_norm(clipped), 0.25, kind="cell")


@pytest.mark.parametrize("limit", [1e3, math.inf])
def test_a_norm_below_the_limit_changes_no_bit(limit, place_all, to_host, rng):
    grads = place_all(draw(rng))
    clipped, _ = sc.clip_by_global_norm(grads, limit)
    for name, g in grads.items():
        np.testing.assert_array_equal(to_host(clipped[name]), to_host(g))


def test_gradients_of_zero_stay_zero(place_all, assert_all_close, assert_close):
    zeros = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    clipped, norm = sc.clip_by_global_norm(place_all(zeros), 1.0)
    assert_close(norm, 0.0, kind="cell", scale=0.0)
    assert_all_close(clipped, zeros, scale=0.0)


@pytest.mark.parametrize("size", [1e30, 1e37, 1e-30])
def test_squares_neither_overflow_nor_vanish(size, asarray, assert_close):
    grads = {"a": asarray([3 * size, 0.0]), "b": asarray([[-4 * size]])}
    clipped, norm = sc.clip_by_global_norm(grads, size)
    assert_close(norm, 5 * size, kind="cell")
    assert_close(clipped["a"], [0.6 * size, 0.0], kind="cell")
    assert_close(clipped["b"], [[-0.8 * size]], kind="cell")


@pytest.mark.parametrize("other", [1.0, 1e30])
def test_nan_in_a_gradient_shows_in_the_norm_without_a_warning(other, asarray, to_host):
    grads = {"a": asarray([other, 2.0]), "b": asarray([math.nan, other])}
    clipped, norm = sc.clip_by_global_norm(grads, 1.0)
    assert np.isnan(to_host(norm))
    assert np.isnan(to_host(clipped["b"])[0])


def test_infinity_in_a_gradient_shows_in_the_norm_without_a_warning(asarray, assert_close):
    grads = {"a": asarray([1e30, -math.inf]), "b": asarray([2.0])}
    assert_close(sc.global_norm(grads), math.inf, kind="cell")


def test_clipping_changes_nothing_that_it_is_given(place_all, to_host, rng):
    grads = place_all(draw(rng))
    before = {name: to_host(g) for name, g in grads.items()}
    clipped, _ = sc.clip_by_global_norm(grads, 0.1)
    assert clipped is not grads
    for name, copy in before.items():
        np.testing.assert_array_equal(to_host(grads[name]), copy)


@pytest.mark.parametrize("function", [sc.global_norm, lambda g: sc.clip_by_global_norm(g, 1.0)])
def test_clipping_names_what_it_cannot_take(function, asarray):
    with pytest.raises(ValueError, match=r"^global_norm: no arrays were given"):
        function({})
    with pytest.raises(TypeError, match=r"^global_norm: w has dtype .*int64.*, expected a float"):
        function({"w": asarray([1])})
    with pytest.raises(TypeError, match=r"^global_norm: w is a float, expected an array$"):
        function({"w": 1.0})


# --- schedules --------------------------------------------------------------------------

SCHEDULES = {
    "constant": (sc.constant(0.3), {0: 0.3, 7: 0.3, 10**6: 0.3}),
    "cosine": (
        sc.cosine(0.8, 8),
        {0: 0.8, 2: 0.4 * (1 + math.sqrt(0.5)), 4: 0.4, 8: 0.0, 9: 0.0, 10**6: 0.0},
    ),
    "cosine to a floor": (sc.cosine(0.8, 8, final=0.2), {0: 0.8, 4: 0.5, 8: 0.2, 99: 0.2}),
    "cosine that rises": (sc.cosine(0.2, 4, final=0.6), {0: 0.2, 2: 0.4, 5: 0.6}),
    "warmup": (sc.warmup(4, 0.8), {0: 0.2, 1: 0.4, 3: 0.8, 4: 0.8, 99: 0.8}),
    "warmup of one step": (sc.warmup(1, 0.8), {0: 0.8, 1: 0.8}),
    "warmup, then cosine": (
        sc.warmup(2, sc.cosine(0.8, 4)),
        {0: 0.4, 1: 0.8, 2: 0.8, 4: 0.4, 6: 0.0, 7: 0.0},
    ),
}


@pytest.mark.parametrize(("schedule", "values"), SCHEDULES.values(), ids=SCHEDULES)
def test_a_schedule_has_its_values(schedule, values, asarray, to_host):
    for count, rate in values.items():
        # Computed in the widest float of the device, whatever the parameters' dtype.
        seen = to_host(schedule(asarray(count)))
        assert seen.shape == ()
        assert float(seen) == pytest.approx(rate, rel=1e-6, abs=1e-7)


def test_a_schedule_counts_beyond_what_float32_can(asarray, to_host):
    # 2^24 + 1 is not a float32; where there is float64 the last steps are still told apart.
    steps = 2**24 + 2
    last = [to_host(sc.warmup(steps, 1.0)(asarray(steps - k))) for k in (3, 2)]
    if last[0].dtype == np.float64:
        assert last[0] < last[1] < 1.0


@pytest.mark.parametrize("make", [sc.sgd, sc.adam, sc.adamw])
def test_an_optimizer_takes_the_rate_of_its_schedule(
    make, place_all, assert_all_close, to_host, rng
):
    params, all_grads = place_all(draw(rng)), [place_all(draw(rng)) for _ in range(4)]
    opt = make(sc.warmup(2, sc.cosine(0.8, 2)))
    scheduled, state = params, opt.init(params)
    plain = params
    for grads, rate in zip(all_grads, (0.4, 0.8, 0.8, 0.4), strict=True):
        plain, _ = make(rate).update(plain, grads, state)
        scheduled, state = opt.update(scheduled, grads, state)
    expected = {name: to_host(p).astype(np.float64) for name, p in plain.items()}
    assert_all_close(scheduled, expected)


def test_a_schedule_may_be_your_own(asarray, assert_close):
    def schedule(count):
        xp = arrays.namespace(count)
        return 0.25 * xp.astype(count + 1, xp.float32)

    opt = sc.sgd(schedule)
    params = {"w": asarray([0.0])}
    state = opt.init(params)
    for _ in range(2):
        params, state = opt.update(params, {"w": asarray([1.0])}, state)
    assert_close(params["w"], [-0.75], kind="cell", scale=0.0)


# --- what a user may get wrong ----------------------------------------------------------


@pytest.mark.parametrize("scalar", [np.float64, np.float32], ids=["float64", "float32"])
def test_a_numpy_number_changes_no_dtype(scalar, dtype, asarray):
    params, grads = {"w": asarray([1.0, 2.0])}, {"w": asarray([0.5, -0.5])}
    half, tenth = scalar(0.5), scalar(0.1)
    for opt in (
        sc.sgd(tenth, half),
        sc.adam(tenth, half, half, tenth, tenth),
        sc.adamw(tenth, weight_decay=tenth),
    ):
        after, state = opt.update(params, grads, opt.init(params))
        after, state = opt.update(after, grads, state)
        assert after["w"].dtype == dtype
    clipped, norm = sc.clip_by_global_norm(grads, tenth)
    assert (clipped["w"].dtype, norm.dtype) == (dtype, dtype)


@pytest.mark.host
@pytest.mark.parametrize("wrong", ["0.1", None, True, [0.1]])
def test_what_is_no_number_is_named(wrong):
    grads = {"w": np.ones(1)}
    for make, name in (
        (lambda: sc.sgd(wrong), "sgd: learning_rate"),
        (lambda: sc.sgd(0.1, wrong), "sgd: momentum"),
        (lambda: sc.adam(wrong), "adam: learning_rate"),
        (lambda: sc.adam(b1=wrong), "adam: b1"),
        (lambda: sc.adam(eps=wrong), "adam: eps"),
        (lambda: sc.adamw(weight_decay=wrong), "adamw: weight_decay"),
        (lambda: sc.clip_by_global_norm(grads, wrong), "clip_by_global_norm: max_norm"),
        (lambda: sc.cosine(wrong, 3), "cosine: value"),
        (lambda: sc.constant(wrong), "constant: value"),
    ):
        with pytest.raises(
            TypeError, match=f"^{re.escape(f'{name} is {wrong!r}')}, expected a num"
        ):
            make()


def test_a_schedule_may_return_a_plain_number(asarray, assert_close):
    params, grads = {"w": asarray([1.0])}, {"w": asarray([2.0])}
    opt = sc.sgd(lambda _: 0.25)
    after, _ = opt.update(params, grads, opt.init(params))
    assert_close(after["w"], [0.5], kind="cell")


@pytest.mark.parametrize(
    ("opt", "kind"), [(sc.sgd(0.1, 0.9), "SGDState"), (sc.adam(0.1), "AdamState")]
)
def test_the_state_of_another_optimizer_or_model_is_refused(opt, kind, asarray):
    params = {"w": asarray(np.ones((3, 1)))}
    grads = {"w": asarray(np.ones((3, 1)))}
    place = "sgd" if kind == "SGDState" else "adam"
    other = (sc.adam() if place == "sgd" else sc.sgd()).init(params)
    text = f"{place}: state is a {type(other).__name__}, expected the {kind} of init"
    with pytest.raises(TypeError, match=exactly(text)):
        opt.update(params, grads, other)
    # NumPy would broadcast it, and the parameter with it.
    wide = opt.init({"w": asarray(np.ones((3, 4)))})
    with pytest.raises(
        ValueError, match=rf"^{place}: state\.\w+ 'w' has shape \(3, 4\), expected "
    ):
        opt.update(params, grads, wide)
    with pytest.raises(ValueError, match=rf"^{place}: state\.\w+ has no 'w', which init makes$"):
        opt.update(params, grads, opt.init({"v": params["w"]}))
    for wrong in (None, [1.0]):
        text = f"{place}: gradient 'w' is a {type(wrong).__name__}, expected an array"
        with pytest.raises(TypeError, match=exactly(text)):
            opt.update(params, {"w": wrong}, opt.init(params))


@pytest.mark.parametrize("opt", [sc.sgd(0.1, 0.9), sc.adam(0.1)], ids=["sgd", "adam"])
def test_an_update_names_the_wrong_count(opt, asarray):
    params = {"w": asarray(np.ones((3, 1)))}
    state = opt.init(params)
    place = "sgd" if hasattr(opt, "momentum") else "adam"
    wrongs = [
        (asarray(1.0), TypeError, f"has dtype {params['w'].dtype}, expected an integer dtype"),
        (asarray([1]), ValueError, "has shape (1,), expected ()"),
        (1, TypeError, "is a int, expected an array"),
    ]
    for wrong, kind, text in wrongs:
        cases = {"state.count": state._replace(count=wrong)}
        if place == "adam":
            cases["state.counts 'w'"] = state._replace(counts={"w": wrong})
        for label, given in cases.items():
            with pytest.raises(kind, match=exactly(f"{place}: {label} {text}")):
                opt.update(params, params, given)
    if place == "adam":
        text = "adam: state.counts has no 'w', which init makes"
        with pytest.raises(ValueError, match=exactly(text)):
            opt.update(params, params, state._replace(counts={}))


def test_adam_steps_on_after_a_gradient_too_large_to_square(xp, dtype, asarray, assert_close):
    huge = float(xp.finfo(dtype).max) / 4
    params = {"w": asarray([1.0, 1.0, 1.0])}
    opt = sc.adam(0.1, b1=0.0, b2=0.0, eps=1e-30)  # remembers nothing but infinity
    state = opt.init(params)
    params, state = opt.update(params, {"w": asarray([huge, -huge, 1.0])}, state)
    assert_close(params["w"], [0.9, 1.1, 0.9], kind="train")
    before = params["w"]
    params, state = opt.update(params, {"w": asarray([1.0] * 3)}, state)
    assert_close(before - params["w"], [0.1, 0.1, 0.1], kind="train")


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "uint32", "uint64"])
@pytest.mark.parametrize("done", [0, 3, 9])
def test_a_schedule_counts_in_any_integers(done, dtype, xp, asarray, device, to_host):
    for schedule in (sc.constant(0.1), sc.cosine(0.1, 5), sc.warmup(5, sc.cosine(0.1, 5))):
        count = xp.asarray(done, dtype=getattr(xp, dtype), device=device)
        assert to_host(schedule(count)) == to_host(schedule(asarray(done)))


@pytest.mark.parametrize("wrong", [math.inf, -math.inf, math.nan])
def test_adam_makes_no_finite_step_of_an_infinite_gradient(wrong, asarray, to_host):
    opt, params = sc.adam(0.1), {"w": asarray([1.0, 2.0]), "other": asarray([3.0])}
    state = opt.init(params)
    grads = {"w": asarray([wrong, 1.0]), "other": asarray([1.0])}
    after, state = opt.update(params, grads, state)
    assert np.isnan(to_host(after["w"])).any()
    np.testing.assert_allclose(to_host(after["other"]), [2.9], rtol=1e-6)


@pytest.mark.parametrize("opt", [sc.adam(0.1), sc.sgd(0.1, momentum=0.5)], ids=["adam", "sgd"])
def test_a_count_of_32_bits_stops_at_its_largest_number(opt, xp, device, asarray, to_host):
    params = {"w": asarray([1.0, 2.0])}
    last = xp.asarray(2**31 - 1, dtype=xp.int32, device=device)
    state = opt.init(params)._replace(count=last)
    if "counts" in state._fields:
        state = state._replace(counts={"w": last})
    before = params
    for _ in range(2):
        after, state = opt.update(before, params, state)
        assert int(to_host(state.count)) == 2**31 - 1
        assert (to_host(after["w"]) < to_host(before["w"])).all()
        before = after
