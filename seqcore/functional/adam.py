"""Adam of the textbook door, over parameters of any names."""

from __future__ import annotations

from seqcore import arrays, checks, optimizers
from seqcore.arrays import Params


def initialize_adam(parameters: Params) -> tuple[Params, Params]:
    """Return Adam's moments before the first update.

    Parameters
    ----------
    parameters
        Arrays under any names, at least one.

    Returns
    -------
    v, s
        Zeros in the shape of each parameter, under `"d" + name`.
    """
    state = optimizers.adam().init(parameters)
    return _d(state.mu), _d(state.nu)


def update_parameters_with_adam(
    parameters: Params,
    grads: Params,
    v: Params,
    s: Params,
    t: int,
    learning_rate: float = 0.01,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    *,
    epsilon_root: float = 0.0,
) -> tuple[Params, Params, Params]:
    """Take one step of Adam; its equations are in `seqcore.optimizers.adam`.

    Parameters
    ----------
    parameters
        Arrays under any names.
    grads
        Under `"d" + name`. A parameter without a gradient is left as it is; gradients that
        belong to no parameter (dx, da0) are ignored.
    v, s
        From `initialize_adam` or the last update.
    t
        Number of this update, 1, 2, ..., which corrects the bias of the moments of every parameter
        that has a gradient in this call. A parameter that gets its first gradient later than
        others needs a call of its own, with a t of its own that begins at 1; with theirs its first
        steps are several times too long. (`seqcore.adam` counts for each parameter by itself.)
    learning_rate, beta1, beta2
        Step size and decay of the two moments.
    epsilon, epsilon_root
        Added outside and inside the root; not both 0.

    Returns
    -------
    parameters, v, s
        New dicts; the arguments are not changed. Where there is no gradient, they hold the
        arguments' own arrays.

    Raises
    ------
    ValueError
        For numbers out of range, wrong shapes, or a missing moment.
    TypeError
        For wrong or mixed dtypes, libraries or devices.
    """
    place = "update_parameters_with_adam"
    t = checks.whole(place, "t", t)
    for given, which in ((parameters, "parameters"), (grads, "grads"), (v, "v"), (s, "s")):
        checks.parameters(place, given, (), others=True, argument=which)
    own = {name: grads[f"d{name}"] for name in parameters if f"d{name}" in grads}
    for name, g in own.items():
        p, d = parameters[name], f"d{name}"
        for moments, which in ((v, "v"), (s, "s")):
            if d not in moments:
                raise ValueError(f"{place}: {which} has no {d!r}; see initialize_adam")
        named = {name: p, d: g, f"v[{d!r}]": v[d], f"s[{d!r}]": s[d]}
        checks.floats(place, named)
        for label, value in named.items():
            checks.shape(place, label, value, tuple(p.shape), {})
    opt = optimizers.adam(learning_rate, beta1, beta2, epsilon, epsilon_root)
    done = arrays.integers_like(t - 1, next(iter(parameters.values())))
    mu, nu = ({name: moments[f"d{name}"] for name in own} for moments in (v, s))
    state = optimizers.AdamState(done, dict.fromkeys(own, done), mu, nu)
    parameters, state = opt.update(parameters, own, state)
    return parameters, v | _d(state.mu), s | _d(state.nu)


def _d(params: Params) -> Params:
    return {f"d{name}": value for name, value in params.items()}
