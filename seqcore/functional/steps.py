"""What the functions of the textbook door share: axes, caches, and the loop step by step."""

from __future__ import annotations

from typing import Any

from seqcore import arrays, checks, kernels
from seqcore.arrays import Array, Namespace, Params
from seqcore.cells import Cell, State, linear
from seqcore.sequence import stepwise, tape


def enter(xp: Namespace, x: Array) -> Array:
    """Return `(n, m, T)` as `(T, n, m)`."""
    return xp.permute_dims(x, (2, 0, 1))


def leave(xp: Namespace, x: Array) -> Array:
    """Return `(T, n, m)` as `(n, m, T)`."""
    return xp.permute_dims(x, (1, 2, 0))


def forward(cell: Cell, params: Params, x: Array, start: State) -> tuple[Array, State, tape.Tape]:
    """Run a cell step by step: the caches need what a whole recurrence does not return."""
    xp = arrays.namespace(x)
    how = tape.How(cell, reverse=False, recompute=False, recurrence=None)
    return stepwise.forward(how, linear.prepared(xp, cell, params), x, start, None)


def backward(
    params: Params, steps: tape.Tape, dy: Array, dstate: State
) -> tuple[Array, Params, State]:
    """Run the backward pass of a tape step by step, for all gradients."""
    kernels.of(arrays.namespace(dy)).note_training()
    return stepwise.backward(params, steps, dy, dstate, frozenset({"x", *params}))


def output_layer(place: str, parameters: Params, W: str) -> Params:
    """Return the output layer's parameters as those of `Dense`."""
    checks.parameters(place, parameters, (W, "by"), others=True, argument="parameters")
    return {"W": parameters[W], "b": parameters["by"]}


def one_name(place: str, parameters: Params, names: dict[str, str]) -> str | None:
    """Return which of two spellings the parameters use; None for neither, an error for both.

    Parameters
    ----------
    place, parameters
        Of the function that was called.
    names
        The spelling to which a parameter's name belongs.
    """
    found = [name for name in names if name in parameters]
    spellings = list(dict.fromkeys(names[name] for name in found))
    if len(spellings) > 1:
        raise ValueError(
            f"{place}: parameters have {' and '.join(found)}, which are names of the same, "
            "expected one of them"
        )
    return spellings[0] if spellings else None


def cell_caches(place: str, caches: Any, size: int) -> list[Any]:
    """Return the cell caches of a sequence, at least one, each with `size` entries."""
    if not (isinstance(caches, tuple) and len(caches) == 2 and isinstance(caches[0], list)):
        raise TypeError(
            f"{place}: caches is a {type(caches).__name__}, expected (list of cell caches, x)"
        )
    cells: list[Any] = caches[0]
    if not cells:
        raise ValueError(f"{place}: caches hold no step, expected at least one")
    for t, cell in enumerate(cells):
        check_cache(place, cell, size, f"caches[0][{t}]", cells[0])
    return cells


def check_cache(place: str, cache: Any, size: int, label: str = "cache", first: Any = None) -> None:
    """Require the cache of a cell: `size` entries, with the shapes of the first of its sequence."""
    if not isinstance(cache, tuple) or len(cache) != size:
        came = f"{len(cache)} entries" if isinstance(cache, tuple) else type(cache).__name__
        raise TypeError(
            f"{place}: the cache of a cell is {came}, expected the tuple of {size} that its "
            "forward gave"
        )
    *states, xt, _ = [tuple(getattr(entry, "shape", ())) for entry in first or cache]
    expected = [states[0]] * len(states) + [xt[:1] + states[0][1:]]  # xt has the batch of a_next
    for number, shape in enumerate(expected):
        found = tuple(getattr(cache[number], "shape", ()))
        if found != shape:
            raise ValueError(
                f"{place}: {label}[{number}] has shape {found}, expected {shape} as the caches of "
                "one forward have"
            )


def check_gradients(
    place: str, named: dict[str, Array], a: Array, n_steps: int | None
) -> Namespace:
    """Require gradients in the shape of the state `a (n_a, m)`; with T_x <= n_steps if given."""
    xp = checks.floats(place, named | {"cache": a})
    sizes = {"n_a": a.shape[0], "m": a.shape[1]}
    axes: tuple[str, ...] = ("n_a", "m") if n_steps is None else ("n_a", "m", "T_x")
    for name, value in named.items():
        found = tuple(value.shape)
        sizes["T_x"] = found[2] if len(found) == 3 else n_steps or 0
        if n_steps is not None and not 1 <= sizes["T_x"] <= n_steps:
            raise ValueError(
                f"{place}: {name} has shape {found}, expected (n_a, m, T_x) with T_x from 1 to "
                f"{n_steps}, the steps of the caches"
            )
        checks.shape(place, name, value, axes, sizes)
    return xp
