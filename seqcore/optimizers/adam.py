"""Adam, and AdamW: Adam with decoupled weight decay.

    (1) mu = b1 mu + (1 - b1) g,  nu = b2 nu + (1 - b2) g^2
    (2) mu' = mu / (1 - b1^t),    nu' = nu / (1 - b2^t)         t = 1, 2, ...
    (3) p -= lr mu' / (sqrt(nu' + eps_root) + eps)
    (4) p -= lr weight_decay p                                  AdamW, with the p before (3)

t counts the updates that gave a gradient to this parameter, each parameter by itself. A parameter
that gets its first gradient late therefore begins as all others did.

Source: Kingma & Ba, "Adam: a method for stochastic optimization", ICLR 2015, algorithm 1;
Loshchilov & Hutter, "Decoupled weight decay regularization", ICLR 2019.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple, TypeAlias

from seqcore import arrays
from seqcore.arrays import Array, Namespace, Params
from seqcore.optimizers import contract
from seqcore.optimizers.contract import Limits, Schedule

# Which parameters decay: all, those named, or those that a function of the name picks.
Decay: TypeAlias = Collection[str] | Callable[[str], bool] | None


class AdamState(NamedTuple):
    """Updates done, in all and by parameter, and the running moments of each gradient."""

    count: Array
    counts: dict[str, Array]  # updates with a gradient of this parameter, for (2)
    mu: Params
    nu: Params


@dataclass(frozen=True)
class Adam:
    """Adam, and with `weight_decay` AdamW; see `adam` and `adamw`."""

    learning_rate: float | Schedule
    b1: float
    b2: float
    eps: float
    eps_root: float
    weight_decay: float
    decay: Decay = None

    def __post_init__(self) -> None:
        """Refuse numbers out of range, and keep the others as Python's own."""
        place = self._place
        own = {
            "weight_decay": contract.not_negative(place, "weight_decay", self.weight_decay),
            "learning_rate": contract.learning_rate(place, self.learning_rate),
            "b1": contract.fraction(place, "b1", self.b1),
            "b2": contract.fraction(place, "b2", self.b2),
            "eps": contract.not_negative(place, "eps", self.eps),
            "eps_root": contract.not_negative(place, "eps_root", self.eps_root),
            "decay": _names(self.decay),
        }
        if not own["eps"] and not own["eps_root"]:
            raise ValueError(
                f"{place}: eps and eps_root are both 0, expected one of them to be more than 0, "
                "as a gradient of 0 is divided by it"
            )
        for name, value in own.items():
            object.__setattr__(self, name, value)

    def init(self, params: Params) -> AdamState:
        """Return the state before the first update, with counts and moments of zero."""
        place = self._place
        count = contract.zero_count(place, params)
        self._check_limits(contract.limits(arrays.namespace(count), params))
        self._decaying(params)
        counts = {name: arrays.integers_like(0, p) for name, p in params.items()}
        return AdamState(count, counts, contract.zeros(params), contract.zeros(params))

    def update(self, params: Params, grads: Params, state: AdamState) -> tuple[Params, AdamState]:
        """Return the parameters and the state after one update."""
        moments, own_counts = ("mu", "nu"), ("counts",)
        xp = contract.check(self._place, params, grads, state, AdamState, moments, own_counts)
        limits = contract.limits(xp, params)
        self._check_limits(limits)
        decaying = self._decaying(params)
        rate = contract.next_rate(xp, self.learning_rate, state.count, params)
        state = arrays.without_history(state)
        counts, mus, nus = dict(state.counts), dict(state.mu), dict(state.nu)
        after = {name: arrays.leaf_like(p, p) for name, p in params.items()}
        # A larger gradient counts as this one, so its step is about the learning rate. Its square,
        # infinity, would stay in nu, and the parameter would never move again. An infinite one has
        # no step, and makes NaN of its parameter.
        most = 0.5 * math.sqrt(limits.largest)
        for name, gradient in grads.items():
            p = arrays.without_history(params[name])
            # Not xp.clip: in array-api-compat it makes CuPy wait for the device twice.
            g = arrays.without_history(gradient)
            limited = xp.minimum(xp.maximum(g, -most), most)
            mu = self.b1 * mus[name]
            mu += (1.0 - self.b1) * limited
            nu = limited * limited
            nu *= 1.0 - self.b2
            nu += self.b2 * nus[name]  # (1)
            counts[name] = contract.next_count(xp, counts[name])
            t = xp.astype(counts[name], p.dtype)
            root = nu / _bias(xp, self.b2, t)  # (2)
            root = xp.sqrt(root + self.eps_root if self.eps_root else root)
            root += self.eps
            step = mu / root
            undefined = arrays.nan_unless(xp.all(xp.isfinite(g)), p.dtype)
            step *= rate / _bias(xp, self.b1, t) + undefined  # (3)
            if name in decaying:
                step += (rate * self.weight_decay) * p  # (4)
            after[name] = arrays.leaf_like(p - step, params[name])
            mus[name], nus[name] = mu, nu
        return after, AdamState(contract.next_count(xp, state.count), counts, mus, nus)

    @property
    def _place(self) -> str:
        """The name of the function that makes such an optimizer."""
        weight: object = self.weight_decay  # not checked yet
        zero = isinstance(weight, Real) and weight == 0
        return "adam" if zero and self.decay is None else "adamw"

    def _check_limits(self, limits: Limits) -> None:
        """Require an eps with which a gradient of 0 gives neither infinity nor NaN in this dtype.

        If no gradient comes, mu falls by b1 in each update and sqrt(nu) by sqrt(b2). Where that is
        faster, nu is 0 before mu is, and the largest mu over eps may not overflow either.
        """
        dtype, normal, largest = limits
        smallest = normal if self.b1**2 <= self.b2 else 1.0 / math.sqrt(largest)
        # A number below the smallest normal one counts as 0 in some libraries; the root of
        # another does not.
        if self.eps < smallest and self.eps_root < normal:
            raise ValueError(
                f"{self._place}: eps is {self.eps} and eps_root {self.eps_root}, expected an eps "
                f"of at least {smallest} in {dtype}, or an eps_root of at least {normal}"
            )
        for name in ("eps", "eps_root"):  # over infinity, no gradient would move anything
            if getattr(self, name) > largest / 2.0:
                raise ValueError(
                    f"{self._place}: {name} is {getattr(self, name)}, expected at most "
                    f"{largest / 2.0:.3g} in {dtype}"
                )

    def _decaying(self, params: Params) -> set[str]:
        """Return the names of the parameters that decay."""
        if self.decay is None:
            names = set(params)
        elif callable(self.decay):
            names = {name for name in params if _picks(self.decay, name)}
        else:
            names = set(self.decay)
            for name in self.decay:
                if name not in params:
                    raise ValueError(
                        f"adamw: decay names {name!r}, which is no parameter, expected some of "
                        f"{', '.join(params)}"
                    )
        return names if self.weight_decay else set()


def adam(
    learning_rate: float | Schedule = 1e-3,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
) -> Adam:
    """Return Adam, equations (1) to (3): algorithm 1 of Kingma & Ba.

    Parameters
    ----------
    learning_rate
        More than 0, or a schedule.
    b1, b2
        Decay of the first and second moment, `0 <= b < 1`.
    eps, eps_root
        Added outside (the paper) and inside the root, at least 0, and not both 0.

    Raises
    ------
    ValueError
        For numbers out of range. `init` and `update` also refuse an eps and eps_root that both
        count as 0 in the dtype of the parameters (below about 1e-38 in float32), or overflow.

    Notes
    -----
    The state counts the updates of each parameter, and corrects the bias of its moments by its
    own count. A parameter that has no gradient in an update keeps its count and moments.

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
    decay: Decay = None,
) -> Adam:
    """Return Adam with decoupled weight decay, equation (4).

    Parameters
    ----------
    learning_rate, b1, b2, eps, eps_root
        As in `adam`.
    weight_decay
        At least 0; multiplied by the learning rate, as in PyTorch and optax.
    decay
        Which parameters decay: None for all, as in PyTorch; or a collection of their names; or a
        function that is called with each name and returns True or False (of a module, not a
        lambda, if the optimizer is to be pickled). A parameter does not decay in an update that
        has no gradient of it, as in PyTorch.

    Raises
    ------
    ValueError
        For numbers out of range, as in `adam`. `init` and `update` also refuse a name in `decay`
        that is no parameter's.
    TypeError
        If `decay` is something else.

    Examples
    --------
    Matrices decay, biases do not:

    >>> import numpy as np, seqcore as sc
    >>> opt = sc.adamw(0.1, weight_decay=0.5, decay=lambda name: not name.endswith("b"))
    >>> params = {"dense.W": np.ones((1, 1)), "dense.b": np.ones((1, 1))}
    >>> grads = {name: np.zeros((1, 1)) for name in params}
    >>> params, state = opt.update(params, grads, opt.init(params))
    >>> float(params["dense.W"][0, 0]), float(params["dense.b"][0, 0])
    (0.95, 1.0)
    """
    return Adam(learning_rate, b1, b2, eps, eps_root, weight_decay, decay)


def _names(decay: Any) -> Any:
    """Return names as a sorted tuple; None and a function as they are."""
    if decay is None or callable(decay):
        return decay
    if isinstance(decay, str | bytes | Mapping) or not isinstance(decay, Iterable):
        raise TypeError(
            f"adamw: decay is {decay!r}, expected names of parameters in a list, tuple or set, or "
            "a function of a name"
        )
    names = tuple(decay)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"adamw: decay holds {name!r}, expected names of parameters")
    return tuple(sorted({str(name) for name in names}))


def _picks(decay: Callable[[str], bool], name: str) -> bool:
    answer: object = decay(name)
    if not isinstance(answer, bool):
        raise TypeError(f"adamw: decay({name!r}) is {answer!r}, expected True or False")
    return answer


def _bias(xp: Namespace, b: float, t: Array) -> Array:
    """Return 1 - b^t, to full precision where b is close to 1."""
    return -xp.expm1(t * math.log(b)) if b else xp.ones_like(t)
