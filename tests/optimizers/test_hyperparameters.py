"""Optimizers: numbers that cannot be meant, or that the dtype of the parameters does not hold."""

from __future__ import annotations

import math
import re
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
from judging import exactly

import seqcore as sc

# --- numbers that the dtype does not hold -----------------------------------------------

EPS = [0.0, 5e-324, 1e-310, 1e-50, 1e-46, 5e-39, 1e-30, 1e-19, 1e-8, 1.0, 1e39, 1e300]
REFUSED = ("adam: eps and eps_root are both 0,", "adam: eps is", "adam: eps_root is")


@contextmanager
def flushing(torch):
    """Count numbers below the smallest normal one as 0, as JAX does on its own."""
    assert torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def takes(call):
    """Tell whether the numbers are taken; they are refused by name."""
    try:
        call()
    except ValueError as error:
        if not str(error).startswith(REFUSED):
            raise
        return False
    return True


@pytest.mark.parametrize("eps", EPS)
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.9, 0.0), (0.0, 0.0), (0.99, 0.5)])
def test_an_eps_is_refused_or_no_gradient_of_0_makes_a_parameter_infinite(
    eps, betas, library, xp, dtype, asarray, to_host, settle
):
    largest = float(xp.finfo(dtype).max)
    params, taken = {"w": asarray([1.0, -1.0])}, 0
    switches = [nullcontext]
    if library.name == "torch":
        switches.append(lambda: flushing(xp))
    for eps_root in EPS:
        if not takes(lambda eps_root=eps_root: sc.adam(0.5, *betas, eps, eps_root).init(params)):
            continue
        taken += 1
        opt = sc.adam(0.5, *betas, eps, eps_root)
        for switch in switches:
            for before in (0.0, math.sqrt(largest), largest, 1e-30):
                after, state = params, opt.init(params)
                with switch():
                    for g in (before, 0.0, 0.0, 0.0):
                        after, state = opt.update(after, {"w": asarray([g, 0.0])}, state)
                        after = settle(after)
                        assert np.isfinite(to_host(after["w"])).all()
                assert to_host(after["w"])[1] == -1.0
    assert (taken > 0) == (eps < largest)


def test_the_smallest_eps_is_named(xp, dtype, asarray):
    params = {"w": asarray([1.0])}
    state = sc.adam().init(params)
    smallest, largest = (float(getattr(xp.finfo(dtype), k)) for k in ("smallest_normal", "max"))
    low = 1.0 / math.sqrt(largest)
    for opt, eps, least in (
        (sc.adam(eps=smallest / 2), smallest / 2, smallest),
        (sc.adam(eps=5e-324, eps_root=1e-320), 5e-324, smallest),
        (sc.adam(b1=0.9, b2=0.5, eps=low / 2), low / 2, low),
    ):
        text = (
            f"adam: eps is {eps} and eps_root {opt.eps_root}, expected an eps of at least {least} "
            f"in {params['w'].dtype}, or an eps_root of at least {smallest}"
        )
        with pytest.raises(ValueError, match=exactly(text)):
            opt.init(params)
        with pytest.raises(ValueError, match=exactly(text)):
            opt.update(params, params, state)
    for opt in (
        sc.adam(eps=smallest),
        sc.adam(eps=0.0, eps_root=smallest),
        sc.adam(b1=0.9, b2=0.5, eps=low),
    ):
        opt.update(params, params, opt.init(params))


@pytest.mark.parametrize("name", ["eps", "eps_root"])
def test_an_eps_that_overflows_is_named(name, xp, dtype, asarray):
    # No gradient over infinity would move anything.
    much, params = 0.6 * float(xp.finfo(dtype).max), {"w": asarray([0.0])}
    opt = sc.adam(**{name: much})
    text = rf"^adam: {name} is \S+, expected at most \S+ in {re.escape(str(params['w'].dtype))}$"
    with pytest.raises(ValueError, match=text):
        opt.init(params)
    with pytest.raises(ValueError, match=text):
        opt.update(params, params, sc.adam().init(params))


@pytest.mark.host
@pytest.mark.parametrize("wrong", [math.inf, -math.inf, math.nan])
def test_every_number_is_finite(wrong):
    for name, make in {
        "sgd: learning_rate": lambda: sc.sgd(wrong),
        "sgd: momentum": lambda: sc.sgd(0.1, wrong),
        "adam: learning_rate": lambda: sc.adam(wrong),
        "adam: b1": lambda: sc.adam(b1=wrong),
        "adam: b2": lambda: sc.adam(b2=wrong),
        "adam: eps": lambda: sc.adam(eps=wrong),
        "adam: eps_root": lambda: sc.adam(eps_root=wrong),
        "adamw: learning_rate": lambda: sc.adamw(wrong),
        "adamw: weight_decay": lambda: sc.adamw(weight_decay=wrong),
        "constant: value": lambda: sc.constant(wrong),
        "cosine: value": lambda: sc.cosine(wrong, 3),
        "cosine: final": lambda: sc.cosine(0.1, 3, final=wrong),
        "warmup: after": lambda: sc.warmup(3, wrong),
    }.items():
        with pytest.raises(ValueError, match=f"^{re.escape(f'{name} is {wrong}')}, expected"):
            make()


@pytest.mark.host
@pytest.mark.parametrize("wrong", [math.inf, math.nan])
def test_a_rate_that_a_schedule_returns_as_a_number_is_finite(wrong):
    opt, params = sc.sgd(lambda _: wrong), {"w": np.ones(1)}
    with pytest.raises(ValueError, match=f"^learning_rate: what the schedule returns is {wrong}"):
        opt.update(params, params, opt.init(params))


@pytest.mark.parametrize("opt", [sc.adam, sc.sgd], ids=["adam", "sgd"])
def test_a_rate_that_a_schedule_returns_is_checked(opt, asarray, to_host):
    params = {"w": asarray([1.0, 2.0])}

    def step(value):
        made = opt(learning_rate=lambda _: value)
        return to_host(made.update(params, params, made.init(params))[0]["w"])

    what = "learning_rate: what the schedule returns"
    for value, kind, text in (
        (math.nan, ValueError, f"{what} is nan, expected at least 0"),
        (math.inf, ValueError, f"{what} is inf, expected a finite number"),
        (-1.0, ValueError, f"{what} is -1.0, expected at least 0"),
        (True, TypeError, f"{what} is True, expected a number"),
        (asarray([1.0, 2.0]), ValueError, f"{what} has shape (2,), expected ()"),
    ):
        with pytest.raises(kind, match=exactly(text)):
            step(value)
    with pytest.raises(TypeError, match=rf"^{what} has dtype .*, expected a floating point dtype$"):
        step(asarray(True))
    for value in (math.inf, math.nan, -1.0):  # in an array it is not read
        assert np.isnan(step(asarray(value))).all()
    np.testing.assert_array_equal(step(asarray(0.0)), [1.0, 2.0])
    np.testing.assert_array_equal(step(asarray(1)), step(1))


def test_nesterov_needs_a_momentum():
    text = "sgd: nesterov is True, expected a momentum more than 0 with it"
    with pytest.raises(ValueError, match=exactly(text)):
        sc.sgd(0.1, nesterov=True)
    assert sc.sgd(0.1, momentum=0.5, nesterov=True).nesterov


@pytest.mark.parametrize("narrow", ["int8", "int16", "uint8"])
def test_a_count_is_wide_enough(narrow, xp, device, asarray):
    opt, params = sc.adam(), {"w": asarray(np.ones(2))}
    state = opt.init(params)
    count = xp.asarray(3, dtype=getattr(xp, narrow), device=device)
    for wrong in (state._replace(count=count), state._replace(counts={"w": count})):
        with pytest.raises(
            TypeError, match=r"^adam: state\.count.* has dtype .*, expected that of"
        ):
            opt.update(params, params, wrong)
