"""One call of a layer, judged: its form, its manners, and its gradients."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from seqcore import arrays
from seqcore.arrays import Params
from seqcore.gradients.call import Call, Print, leaves, param, printed
from seqcore.gradients.compare import Compared, Wrong, compare
from seqcore.gradients.differences import Functional, largest
from seqcore.gradients.error import GradientError
from seqcore.gradients.laws import check_ends, check_steps, check_tape, check_windows
from seqcore.layers.contract import X

if TYPE_CHECKING:
    import numpy as np


def judge(
    call: Call, *, tolerance: float, entries: int | None, rng: np.random.Generator, strict: bool
) -> dict[str, Compared]:
    """Return how far each gradient of a call is off, where all is right.

    Raises
    ------
    GradientError
        If anything is wrong.
    """
    before = call.prints()
    y, state, tape = call.forward()
    _unchanged("forward", before, call)
    results = {"y": y, **dict(leaves("state", state))}
    for name, value in results.items():
        if arrays.is_floating(value) and not math.isfinite(largest(value)):
            raise GradientError(f"{name} of forward is not finite")
    again = call.forward()
    for name, value in {"y": again.y, **dict(leaves("state", again.state))}.items():
        if name not in results or printed(value) != printed(results[name]):
            raise GradientError(
                f"forward gives another {name} the second time; with the same arguments it must "
                "give the same"
            )
    if "draw" not in call.options:
        _check_predict(call, results, tolerance)
    grads = call.backward(tape)
    _unchanged("backward", before, call)
    functional = Functional(call.outputs, call.weights(), call.at())
    compared = {
        name: compare(functional, name, grad, tolerance=tolerance, entries=entries, rng=rng)
        for name, grad in grads.items()
    }
    # Among corners, or in float32, a difference may look smooth by chance.
    for name, one in compared.items():
        if one.has_corners:
            raise GradientError(_not_compared(name, one))
    if any(one.wrong for one in compared.values()):
        raise _wrong(compared)
    for name, one in compared.items():
        if one.hidden:
            raise GradientError(_not_compared(name, one))
    _check_wrt(call, grads, tolerance)
    check_ends(call, grads, tolerance)
    check_tape(call, grads, tolerance)
    check_steps(call, grads, tolerance, strict=strict)
    check_windows(call, tolerance)
    return compared


def _unchanged(method: str, before: Mapping[str, Print], call: Call) -> None:
    for name, value in call.prints().items():
        if value != before[name]:
            raise GradientError(f"{method} writes into {name}, which is its caller's")


def _check_predict(call: Call, results: Params, tolerance: float) -> None:
    y, state = call.predict()
    predicted = {"y": y, **dict(leaves("state", state))}
    for name, value in results.items():
        got: Any = predicted.get(name)
        if not arrays.is_array(got) or tuple(got.shape) != tuple(value.shape):
            given = getattr(got, "shape", None)
            raise GradientError(
                f"predict gives {name} of shape {given}, expected {tuple(value.shape)} as forward"
            )
        if arrays.is_floating(value):
            off = largest(got - value)
            if not off <= tolerance * largest(value):
                raise GradientError(f"predict gives another {name} than forward, off by {off:.3g}")


def _check_wrt(call: Call, grads: Params, tolerance: float) -> None:
    """Require the same gradients where only one is wanted."""
    if "wrt" not in inspect.signature(call.layer.backward).parameters:
        return
    for wrt in [*([X] if X in grads else []), *call.params]:
        name = wrt if wrt == X and X not in call.params else param(wrt)
        some = call.backward(call.forward().tape, (wrt,))[name]
        off = largest(some - grads[name])
        if not off <= tolerance * largest(grads[name]):
            raise GradientError(f"{name} is another gradient with wrt={(wrt,)!r}, off by {off:.3g}")


# --- messages ----------------------------------------------------------------------------


def _wrong(compared: dict[str, Compared]) -> GradientError:
    """Return the error of all that is wrong, the worst entry of each gradient."""
    lines, right = [], []
    for name, one in compared.items():
        if one.wrong:
            lines.append(_line(name, one, one.wrong[0]))
        elif one.hidden:
            lines.append(_not_compared(name, one))
        else:
            right.append(name)
    lines.append(f"right: {', '.join(right) or 'none of the gradients'}")
    name, one = max(
        [(name, one) for name, one in compared.items() if one.wrong],
        key=lambda item: (item[1].error / item[1].scale) if item[1].scale else math.inf,
    )
    at, got, expected = one.wrong[0]
    return GradientError(
        "\n".join(lines),
        gradient=name,
        index=at,
        got=got,
        expected=expected,
        wrong=len(one.wrong),
    )


def _not_compared(name: str, one: Compared) -> str:
    if one.has_corners:
        return (
            f"{name} cannot be compared: at {one.skipped} of {one.examined} entries forward has a "
            "corner or a jump, or it computes in less than float64"
        )
    return (
        f"{name} cannot be compared: rounding hides it, as y is so much larger than what {name} "
        f"changes in it that differences are certain up to {one.noise:.1g} only; give other "
        "numbers by x= or params=, or center y"
    )


def _line(name: str, one: Compared, worst: Wrong) -> str:
    where = "along a random direction" if worst.at is None else f"at {list(worst.at)}"
    share = f", {one.error / one.scale:.2g} of the largest entry" if one.scale else ""
    return (
        f"{name} is wrong {where}: backward gives {worst.got:.9g}, central differences give "
        f"{worst.expected:.9g}, off by {abs(worst.got - worst.expected):.3g}{share}; "
        f"{len(one.wrong)} of {one.examined} entries are wrong"
    )
