"""Optimizers, clipping by global norm and learning-rate schedules.

    sgd    (1) u = momentum u + g                     p -= lr u
    adam   (2) mu = b1 mu + (1 - b1) g,  nu = b2 nu + (1 - b2) g^2
           (3) p -= lr mu' / (sqrt(nu' + eps_root) + eps)
               mu' = mu / (1 - b1^t),  nu' = nu / (1 - b2^t)      t = 1, 2, ...
    adamw  (4) p -= lr (mu' / (sqrt(nu' + eps_root) + eps) + weight_decay p)
    clip   (5) g *= min(1, max_norm / |g|),  |g| over all gradients together

An optimizer is a frozen dataclass of numbers; its state is a named tuple of a count and
dicts named like the parameters. `update` changes no array that it is given. A parameter
without a gradient stays as it is.

Source: Kingma & Ba, "Adam: a method for stochastic optimization", ICLR 2015, algorithm 1;
Loshchilov & Hutter, "Decoupled weight decay regularization", ICLR 2019; clipping: Pascanu,
Mikolov & Bengio, "On the difficulty of training recurrent neural networks", ICML 2013.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

from seqcore import arrays, checks
from seqcore.arrays import Array, Namespace, Params

# Takes the number of updates done, a 0-d array, and returns the rate for the next one.
Schedule: TypeAlias = Callable[[Array], Array]


class Optimizer(Protocol):
    """What every optimizer here does."""

    def init(self, params: Params) -> Any:
        """Return the state before the first update."""

    def update(self, params: Params, grads: Params, state: Any) -> tuple[Params, Any]:
        """Return the parameters and the state after one update."""


class SGDState(NamedTuple):
    """Updates done, and the momentum of each parameter (empty without momentum)."""

    count: Array
    trace: Params


class AdamState(NamedTuple):
    """Updates done, and the running first and second moments of each gradient."""

    count: Array
    mu: Params
    nu: Params


@dataclass(frozen=True)
class SGD:
    """Gradient descent with momentum; see `sgd`."""

    learning_rate: float | Schedule
    momentum: float
    nesterov: bool

    def init(self, params: Params) -> SGDState:
        """Return a momentum of zero."""
        return SGDState(_zero_count("sgd", params), _zeros(params) if self.momentum else {})

    def update(self, params: Params, grads: Params, state: SGDState) -> tuple[Params, SGDState]:
        """Return the parameters and the state after one update."""
        xp = _check("sgd", params, grads, state, SGDState, ("trace",) if self.momentum else ())
        rate = _rate(xp, self.learning_rate, state.count, params)
        trace = dict(state.trace)
        after = dict(params)
        for name, g in grads.items():
            step = g
            if self.momentum:
                u = self.momentum * trace[name]
                u += g  # (1)
                trace[name] = u
                step = g + self.momentum * u if self.nesterov else u
            after[name] = params[name] - rate * step
        return after, SGDState(state.count + 1, trace)


@dataclass(frozen=True)
class Adam:
    """Adam, and with `weight_decay` AdamW; see `adam` and `adamw`."""

    learning_rate: float | Schedule
    b1: float
    b2: float
    eps: float
    eps_root: float
    weight_decay: float

    def init(self, params: Params) -> AdamState:
        """Return moments of zero."""
        return AdamState(_zero_count("adam", params), _zeros(params), _zeros(params))

    def update(self, params: Params, grads: Params, state: AdamState) -> tuple[Params, AdamState]:
        """Return the parameters and the state after one update."""
        xp = _check("adam", params, grads, state, AdamState, ("mu", "nu"))
        count = state.count + 1
        rate = _rate(xp, self.learning_rate, state.count, params)
        after, mus, nus = dict(params), dict(state.mu), dict(state.nu)
        for name, gradient in grads.items():
            p = params[name]
            # Not clip: that of array-api-compat makes CuPy wait for the device twice.
            g = xp.minimum(xp.maximum(gradient, -_limit(xp, p)), _limit(xp, p))
            mu = self.b1 * mus[name]
            mu += (1.0 - self.b1) * g
            nu = g * g
            nu *= 1.0 - self.b2
            nu += self.b2 * nus[name]  # (2)
            t = xp.astype(count, p.dtype)
            root = nu / _bias(xp, self.b2, t)
            root = xp.sqrt(root + self.eps_root if self.eps_root else root)
            root += self.eps
            step = mu / root
            step *= rate / _bias(xp, self.b1, t)  # (3)
            if self.weight_decay:
                step += (rate * self.weight_decay) * p  # (4)
            after[name], mus[name], nus[name] = p - step, mu, nu
        return after, AdamState(count, mus, nus)


def sgd(
    learning_rate: float | Schedule = 1e-2, momentum: float = 0.0, *, nesterov: bool = False
) -> SGD:
    """Return gradient descent, with momentum after equation (1).

    Parameters
    ----------
    learning_rate
        More than 0, or a schedule.
    momentum
        `0 <= momentum < 1`.
    nesterov
        Look ahead: step by g + momentum u.

    Raises
    ------
    ValueError
        For numbers out of range.
    """
    rate = _checked_rate("sgd", learning_rate)
    return SGD(rate, _fraction("sgd", "momentum", momentum), nesterov)


def adam(
    learning_rate: float | Schedule = 1e-3,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
) -> Adam:
    """Return Adam, equations (2) and (3): algorithm 1 of Kingma & Ba.

    Parameters
    ----------
    learning_rate
        More than 0, or a schedule.
    b1, b2
        Decay of the first and second moment, `0 <= b < 1`.
    eps, eps_root
        Added outside (the paper) and inside the root, at least 0.

    Raises
    ------
    ValueError
        For numbers out of range.

    Examples
    --------
    >>> import numpy as np, seqcore as sc
    >>> params = {"w": np.asarray([1.0, -2.0])}
    >>> opt = sc.adam(learning_rate=0.1)
    >>> state = opt.init(params)
    >>> params, state = opt.update(params, {"w": 2 * params["w"]}, state)
    >>> params["w"].round(6)
    array([ 0.9, -1.9])
    """
    return adamw(learning_rate, b1, b2, eps, eps_root, weight_decay=0.0)


def adamw(
    learning_rate: float | Schedule = 1e-3,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    *,
    weight_decay: float = 1e-2,
) -> Adam:
    """Return Adam with decoupled weight decay, equation (4), on every parameter.

    Parameters
    ----------
    learning_rate, b1, b2, eps, eps_root
        As of `adam`.
    weight_decay
        At least 0; multiplied by the learning rate, as in PyTorch and optax.

    Raises
    ------
    ValueError
        For numbers out of range.
    """
    decay = _not_negative("adamw", "weight_decay", weight_decay)
    place = "adamw" if decay else "adam"
    return Adam(
        learning_rate=_checked_rate(place, learning_rate),
        b1=_fraction(place, "b1", b1),
        b2=_fraction(place, "b2", b2),
        eps=_not_negative(place, "eps", eps),
        eps_root=_not_negative(place, "eps_root", eps_root),
        weight_decay=decay,
    )


def global_norm(grads: Params) -> Array:
    """Return the Euclidean norm of all gradients together, a 0-d array.

    Each is divided by the largest entry of all first, so that no square overflows.

    Parameters
    ----------
    grads
        Gradients by name, at least one.

    Returns
    -------
    array
        0-d, in the dtype of the gradients; NaN or infinity if there is one among them.

    Raises
    ------
    ValueError
        If there are no gradients.
    TypeError
        For wrong or mixed dtypes, libraries or devices.

    Examples
    --------
    >>> import numpy as np, seqcore as sc
    >>> float(sc.global_norm({"w": np.asarray([1e200]), "b": np.asarray([0.0])}))
    1e+200
    """
    xp = checks.floats("global_norm", grads)
    largest = _largest(xp, grads)
    # For infinity, NaN and 0 as well, an eighth of the largest float does no harm. Its
    # reciprocal is no subnormal number, by which XLA would multiply as by 0.
    eighth = xp.full_like(largest, float(xp.finfo(largest.dtype).max) / 8.0)
    unit = xp.where((largest > 0) & (largest < eighth), largest, eighth)
    total = xp.zeros_like(unit)
    for g in grads.values():
        scaled = g / unit
        scaled *= scaled
        total = total + xp.sum(scaled)
    return unit * xp.sqrt(total)


def clip_by_global_norm(grads: Params, max_norm: float) -> tuple[Params, Array]:
    """Scale all gradients together so that their global norm is at most `max_norm`.

    Parameters
    ----------
    grads
        Gradients by name.
    max_norm
        More than 0.

    Returns
    -------
    grads, norm
        The scaled gradients, and the norm before scaling (0-d).

    Raises
    ------
    ValueError
        If max_norm is not more than 0.

    Examples
    --------
    >>> import numpy as np, seqcore as sc
    >>> grads, norm = sc.clip_by_global_norm({"w": np.asarray([3.0, 4.0])}, 1.0)
    >>> grads["w"], float(norm)
    (array([0.6, 0.8]), 5.0)
    """
    checks.positive("clip_by_global_norm", max_norm=max_norm)
    max_norm = float(max_norm)
    norm = global_norm(grads)
    xp = arrays.namespace(norm)
    # Divides by 1 where nothing is clipped, so that norms of 0 and NaN divide nothing. (5)
    one, above = xp.ones_like(norm), norm > max_norm
    scale = xp.where(above, max_norm / xp.where(above, norm, one), one)
    # No scale makes infinity finite; NaN says so, where 0 times infinity would warn.
    scale = xp.where(xp.isfinite(norm), scale, xp.full_like(norm, math.nan))
    return {name: scale * g for name, g in grads.items()}, norm


def constant(value: float) -> Schedule:
    """Return the schedule that is always `value`.

    Parameters
    ----------
    value
        The learning rate, more than 0.

    Raises
    ------
    ValueError
        If value is not more than 0.
    """
    checks.positive("constant", value=value)
    value = float(value)
    return lambda count: _float("constant", count) * 0.0 + value


def cosine(value: float, steps: int, *, final: float = 0.0) -> Schedule:
    """Return the schedule that falls from `value` to `final` over `steps` as half a cosine.

    Parameters
    ----------
    value
        The rate of the first update, more than 0.
    steps
        Updates until `final`, at least 1.
    final
        The rate from then on, at least 0.

    Raises
    ------
    ValueError
        For numbers out of range.
    TypeError
        If steps is no whole number.

    Notes
    -----
    Source: Loshchilov & Hutter, "SGDR", ICLR 2017, equation 5, without restarts.

    Examples
    --------
    >>> import numpy as np, seqcore as sc
    >>> rate = sc.cosine(0.8, 4)
    >>> [round(float(rate(np.asarray(count))), 3) for count in range(6)]
    [0.8, 0.683, 0.4, 0.117, 0.0, 0.0]
    """
    checks.positive("cosine", value=value)
    checks.count("cosine", steps=steps)
    value, final = float(value), _not_negative("cosine", "final", final)

    def rate(count: Array) -> Array:
        xp = arrays.namespace(count)
        done = _float("cosine", count) / float(steps)
        done = xp.where(done < 1.0, done, xp.ones_like(done))
        return final + (0.5 * (value - final)) * (1.0 + xp.cos(math.pi * done))

    return rate


def warmup(steps: int, after: float | Schedule) -> Schedule:
    """Return the schedule that rises linearly to `after` over `steps`, then follows it.

    Update k of the warm-up (k = 1 .. steps) has k / steps of the first rate of `after`.

    Parameters
    ----------
    steps
        Updates of the warm-up, at least 1.
    after
        A rate, more than 0, or a schedule; its count starts when the warm-up is done.

    Raises
    ------
    ValueError
        For numbers out of range.
    TypeError
        If steps is no whole number.

    Examples
    --------
    >>> import numpy as np, seqcore as sc
    >>> rate = sc.warmup(4, 0.8)
    >>> [round(float(rate(np.asarray(count))), 3) for count in range(6)]
    [0.2, 0.4, 0.6, 0.8, 0.8, 0.8]
    """
    checks.count("warmup", steps=steps)
    if not callable(after):
        checks.positive("warmup", after=after)
    then = after if callable(after) else constant(after)

    def rate(count: Array) -> Array:
        xp = arrays.namespace(count)
        past = count - steps
        past = xp.where(past > 0, past, xp.zeros_like(past))
        done = (_float("warmup", count) + 1.0) / float(steps)
        return then(past) * xp.where(done < 1.0, done, xp.ones_like(done))

    return rate


def _float(place: str, count: Array) -> Array:
    """Return a count in the widest float of its device."""
    xp = checks.one_library(place, {"count": count})
    info = xp.__array_namespace_info__().dtypes(device=arrays.device(count), kind="real floating")
    return xp.astype(count, info.get("float64", info["float32"]))


def _rate(xp: Namespace, rate: float | Schedule, count: Array, params: Params) -> Any:
    if not callable(rate):
        return rate
    value = rate(count)
    if not arrays.is_array(value):
        return checks.number("learning_rate", "what the schedule returns", value)
    return xp.astype(value, next(iter(params.values())).dtype)


def _bias(xp: Namespace, b: float, t: Array) -> Array:
    """Return 1 - b^t, to full precision where b is close to 1."""
    return -xp.expm1(t * math.log(b)) if b else xp.ones_like(t)


def _zero_count(place: str, params: Params) -> Array:
    checks.floats(place, params)
    return arrays.integers_like(0, next(iter(params.values())))


def _zeros(params: Params) -> Params:
    return {name: arrays.namespace(p).zeros_like(p) for name, p in params.items()}


def _largest(xp: Namespace, grads: Params) -> Array:
    """Return the largest absolute value in all gradients; NaN if there is one."""
    return xp.max(xp.stack([xp.max(xp.abs(g)) for g in grads.values()]))


def _check(
    place: str,
    params: Params,
    grads: Params,
    state: Any,
    kind: type[Any],
    moments: tuple[str, ...],
) -> Namespace:
    """Require gradients and moments in the shape, dtype and library of their parameters."""
    if not isinstance(state, kind):
        raise TypeError(
            f"{place}: state is a {type(state).__name__}, expected the {kind.__name__} of init"
        )
    named = {f"parameter {name!r}": p for name, p in params.items()}
    beside: dict[str, tuple[Array, str]] = {}
    for name, g in grads.items():
        if name not in params:
            raise ValueError(
                f"{place}: gradient {name!r} belongs to no parameter; got {', '.join(params)}"
            )
        beside[f"gradient {name!r}"] = (g, name)
        for moment in moments:
            values = getattr(state, moment)
            if name not in values:
                raise ValueError(f"{place}: state.{moment} has no {name!r}; init makes it")
            beside[f"state.{moment} {name!r}"] = (values[name], name)
    xp = checks.floats(place, named | {label: value for label, (value, _) in beside.items()})
    for label, (value, name) in beside.items():
        checks.shape(place, label, value, tuple(params[name].shape), {})
    return xp


def _limit(xp: Namespace, p: Array) -> float:
    """Return the largest gradient that Adam can square.

    A larger one counts as this one: the step is the learning rate in its direction. Its
    square would stay infinite in nu, and the parameter where it is, for good.
    """
    return 0.5 * math.sqrt(float(xp.finfo(p.dtype).max))


def _checked_rate(place: str, rate: float | Schedule) -> float | Schedule:
    if callable(rate):
        return rate
    checks.positive(place, learning_rate=rate)
    return float(rate)


def _fraction(place: str, name: str, given: float) -> float:
    value = checks.number(place, name, given)
    if not 0 <= value < 1:
        raise ValueError(f"{place}: {name} is {value}, expected 0 <= {name} < 1")
    return value


def _not_negative(place: str, name: str, given: float) -> float:
    value = checks.number(place, name, given)
    if not value >= 0:
        raise ValueError(f"{place}: {name} is {value}, expected at least 0")
    return value
