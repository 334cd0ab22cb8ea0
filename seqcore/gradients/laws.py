"""What a layer promises besides its gradients: dstate, its tape, steps that do not count, windows.

Nothing here is differentiated: one call of the layer is compared with another one, up to the
tolerance and relative to the largest entry.

    (1) backward(dy, dstate) = backward(dy, None) + backward(0, dstate)
    (2) backward gives the same whatever forward has computed since its own tape
    (3) y and dx are 0 at the steps that do not count; NaN in x and dy there changes nothing
    (3') what is in x there changes neither the state nor y at the steps that count
    (4) y and the state of an example are those of its sequence without these steps
    (5) y and the state of a sequence are those of its windows, one after another

A container puts zeros into x, y, dy and dx at such steps, so that a user's layer in it needs (3')
only. (4) and (5) hold for layers with a state. They are seen by `predict`, which never drops.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from seqcore import arrays, masks
from seqcore.arrays import Array, Params
from seqcore.gradients.call import Call, leaves, mapped
from seqcore.gradients.differences import index, largest
from seqcore.gradients.error import GradientError

if TYPE_CHECKING:
    from collections.abc import Mapping

STEPS = ("lengths", "mask")  # the options that say which steps count


def _off(got: Array, wanted: Array, tolerance: float, *others: Array) -> float | None:
    """Return how far two arrays are apart, if that is too far."""
    off = largest(got - wanted)
    right = off <= tolerance * max(map(largest, (wanted, *others)))
    return None if right else off


def _floats(name: str, state: Any) -> Params:
    return {name: value for name, value in leaves(name, state) if arrays.is_floating(value)}


def _outputs(y: Array, state: Any) -> Params:
    return {"y": y, **_floats("state", state)}


def check_ends(call: Call, grads: Params, tolerance: float) -> None:
    """Require (1): a gradient of y alone, as in training in windows, is right too."""
    only_y = call.on(dstate=None)
    rest = call.on(dy=mapped(_zeros, call.dy))
    ones = [one.backward(one.forward().tape) for one in (only_y, rest)]
    for name, whole in grads.items():
        first, second = (one[name] for one in ones)
        off = _off(first + second, whole, tolerance, first, second)
        if off is not None:
            raise GradientError(
                f"{name} is wrong with dstate=None: backward(dy, None) + backward(0, dstate) is "
                f"not backward(dy, dstate), off by {off:.3g}",
                gradient=name,
            )


def _zeros(array: Array) -> Array:
    return arrays.namespace(array).zeros_like(array)


def check_tape(call: Call, grads: Params, tolerance: float) -> None:
    """Require (2): two calls of one layer must not meet."""
    xp = arrays.namespace(call.x)
    other = xp.flip(call.x, axis=-1)
    if arrays.is_floating(other):  # smaller, and of the same sign
        other = 0.75 * other

    def change(array: Array) -> Array:
        return 0.75 * array

    params = {name: change(value) for name, value in call.params.items()}
    tape = call.forward().tape
    call.on(x=other, params=params, state=mapped(change, call.state)).forward()
    for name, got in call.backward(tape).items():
        off = _off(got, grads[name], tolerance)
        if off is not None:
            raise GradientError(
                f"backward does not depend on its tape alone: with another call of forward before "
                f"it, it gives another {name}, off by {off:.3g}",
                gradient=name,
            )


# --- steps that do not count ------------------------------------------------------------


def check_steps(call: Call, grads: Params, tolerance: float, *, strict: bool) -> None:
    """Require (3), or (3') if not `strict`, and (4) of a layer with a state."""
    given = [call.options.get(name) for name in STEPS]
    if all(value is None for value in given):
        return
    steps = masks.steps("check_gradients", call.x, *given)
    counts = arrays.to_host(steps)
    if counts.all():
        return
    y, state, _ = call.forward()
    if strict:
        places = {"dx": grads["x"]} if "x" in grads else {}
        if call.keeps_time:
            places = {"y": y} | places
        for name, value in places.items():
            _check_blank(name, value, counts)
        _check_junk(call, steps, {**_outputs(y, state), **grads}, tolerance)
    else:
        _check_reads(call, steps, _seen(call, steps, y, state), tolerance)
    if call.has_state:
        _check_without(call, counts, tolerance)


def _check_blank(name: str, array: Array, counts: np.ndarray[Any, Any]) -> None:
    host = np.moveaxis(arrays.to_host(array), -1, 1)  # (T, m, ...)
    host = np.where(counts.reshape(*counts.shape, *(1,) * (host.ndim - 2)), 0.0, np.abs(host))
    host = np.moveaxis(host, 1, -1)
    if np.any(host):
        at = index(int(np.argmax(host)), host.shape)
        raise GradientError(
            f"{name} at {list(at)} is {float(host[at]):.3g} in size, expected 0: this step does "
            f"not count. {_IGNORES}"
        )


_IGNORES = (
    "A layer that leaves such steps to its container is checked without lengths=True and mask=True"
)


def _check_junk(call: Call, steps: Array, right: Params, tolerance: float) -> None:
    """Require that what stands at the other steps does not matter."""
    x, dy, what = call.x, call.dy, "NaN"
    if arrays.is_floating(x):
        x = _with_nan(x, steps)
    else:  # another token
        xp, what = arrays.namespace(x), "another token"
        x = xp.where(steps, x, xp.min(x) + xp.max(x) - x)
    if call.keeps_time:
        dy = _with_nan(dy, steps)
    junk = call.on(x=x, dy=dy)
    with np.errstate(all="ignore"):
        y, state, tape = junk.forward()
        found = _outputs(y, state)
        for name, got in {**found, **junk.backward(tape)}.items():
            off = _off(got, right[name], tolerance)
            if off is None:
                continue
            where = "x" if name in found else "x or dy"
            raise GradientError(
                f"{name} depends on {where} at steps that do not count: {what} there changes it "
                f"by {off:.3g}; put zeros there before anything is computed from them"
            )


def _seen(call: Call, steps: Array, y: Array, state: Any) -> Params:
    """Return what a container sees: y at the steps that count, and the state."""
    xp = arrays.namespace(y)
    return _outputs(masks.blank(xp, steps, y) if call.keeps_time else y, state)


def _check_reads(call: Call, steps: Array, right: Params, tolerance: float) -> None:
    """Require (3')."""
    x, xp = call.x, arrays.namespace(call.x)
    own = (steps.shape[0], *(1,) * (x.ndim - 2), steps.shape[1])
    x = xp.where(xp.reshape(steps, own), x, xp.min(x) + xp.max(x) - x)
    y, state, _ = call.on(x=x).forward()
    for name, got in _seen(call, steps, y, state).items():
        off = _off(got, right[name], tolerance)
        if off is not None:
            raise GradientError(
                f"{name} depends on x at steps that do not count: other numbers there change it "
                f"by {off:.3g}"
            )


def _with_nan(array: Array, steps: Array) -> Array:
    xp = arrays.namespace(array)
    steps = xp.reshape(steps, (steps.shape[0], *(1,) * (array.ndim - 2), steps.shape[1]))
    return xp.where(steps, array, xp.full_like(array, float("nan")))


def _check_without(call: Call, counts: np.ndarray[Any, Any], tolerance: float) -> None:
    """Compare each example with its sequence without the steps that do not count."""
    whole = _outputs(*call.predict())
    left = {name: value for name, value in call.options.items() if name not in STEPS}
    for j in range(counts.shape[1]):
        rows = [t for t, seen in enumerate(counts[:, j].tolist()) if seen]
        if rows:
            at = arrays.integers_like(rows, call.like)
            x = arrays.namespace(call.x).take(call.x, at, axis=0)
            expected = _outputs(*call.on(x=x, options=left).predict())
            if call.keeps_time:
                xp = arrays.namespace(call.dy)
                _same_example(j, "y", xp.take(whole["y"], at, axis=0), expected["y"], tolerance)
            elif whole["y"].ndim:
                _same_example(j, "y", whole["y"], expected["y"], tolerance)
        else:
            expected = _floats("state", call.state)
        for name, value in expected.items():
            if name != "y":
                _same_example(j, name, whole[name], value, tolerance)


def _same_example(j: int, name: str, got: Array, wanted: Array, tolerance: float) -> None:
    if not wanted.ndim or wanted.shape[-1] <= j or got.shape != wanted.shape:
        return
    off = _off(got[..., j : j + 1], wanted[..., j : j + 1], tolerance, wanted)
    if off is not None:
        raise GradientError(
            f"{name} of example {j} is not that of its sequence without the steps that do not "
            f"count, off by {off:.3g}; the state is carried over them as it is"
        )


# --- windows ----------------------------------------------------------------------------


def check_windows(call: Call, tolerance: float) -> None:
    """Require (5) of a layer that takes the state that it returns."""
    n_steps = call.x.shape[0]
    if not call.has_time or not call.has_state or n_steps < 2 or "lengths" in call.options:
        return
    middle = n_steps // 2
    first = _window(call, slice(0, middle))
    y, state = first.predict()
    second = _window(call, slice(middle, n_steps)).on(state=state)
    try:
        y_second, after = second.predict()
    except (TypeError, ValueError):
        return  # it refuses the state, as a layer that reads in both directions does
    whole = _outputs(*call.predict())
    found: Mapping[str, Array] = _outputs(y_second, after)
    if call.keeps_time:
        found = {**found, "y": arrays.namespace(y).concat([y, y_second], axis=0)}
    for name, got in found.items():
        if name == "y" and not call.keeps_time:
            continue
        off = _off(got, whole[name], tolerance)
        if off is not None:
            raise GradientError(
                f"{name} of two windows, with the state carried on, is not that of the whole "
                f"sequence, off by {off:.3g}; a layer that needs all of it at once refuses a "
                "state that it has returned"
            )


def _window(call: Call, rows: slice) -> Call:
    options = dict(call.options)
    if "mask" in options:
        options["mask"] = options["mask"][rows, ...]
    return call.on(x=call.x[rows, ...], options=options)
