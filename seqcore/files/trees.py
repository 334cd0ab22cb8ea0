"""Trees of arrays, as a checkpoint holds them: arrays by path, and the shape as JSON.

A tree is None, an array, a plain tuple or dict of trees, or one of the named tuples in `STATES`.
Anything else is refused when it is saved, because it would come back as something else.

An `AdamState` in a file has `count`, `counts`, `mu` and `nu`. Before there were `counts`, all
parameters shared `count`. A file without them still loads: each parameter's own count is then
`count`, or 0 if its moments are 0 everywhere, as it has never had a gradient.
"""

from __future__ import annotations

from typing import Any

from seqcore import arrays
from seqcore.arrays import Array, Params
from seqcore.cells import STATES as CELL_STATES
from seqcore.files.tensors import Tensor, to_tensor
from seqcore.layers import LastState
from seqcore.optimizers import AdamState, SGDState

# The states of layers and optimizers, by their names in the file.
STATES: dict[str, Any] = CELL_STATES | {
    kind.__name__: kind for kind in (LastState, SGDState, AdamState)
}


def flatten(path: str, tree: Any, tensors: dict[str, Tensor]) -> Any:
    """Copy the arrays of a tree to the host, and return the tree's shape as JSON.

    Parameters
    ----------
    path
        The tree's name, with which the names of its arrays begin.
    tree
        What to save.
    tensors
        Takes the arrays by name.

    Raises
    ------
    TypeError
        If the tree holds something that would come back as something else.
    ValueError
        If two arrays have the same name, as those of `{"a.b": x, "a": {"b": y}}`, or a name is not
        text.
    """
    if tree is None:
        return None
    if arrays.is_array(tree):
        if path in tensors:
            raise ValueError(f"save_checkpoint: two arrays are named {path}")
        tensors[path] = to_tensor("save_checkpoint", path, tree)
        return path
    kind = type(tree)
    if kind is STATES.get(kind.__name__):
        named = zip(kind._fields, tree, strict=True)
        items = {name: flatten(f"{path}.{name}", item, tensors) for name, item in named}
        return {"kind": kind.__name__, "items": items}
    if kind is dict:
        for key in tree:
            if not isinstance(key, str):
                raise TypeError(
                    f"save_checkpoint: {path} has the key {key!r}, expected strings as keys"
                )
        items = {key: flatten(f"{path}.{key}", item, tensors) for key, item in tree.items()}
        return {"kind": "dict", "items": items}
    if kind is tuple:
        return [flatten(f"{path}.{k}", item, tensors) for k, item in enumerate(tree)]
    raise TypeError(
        f"save_checkpoint: {path} is a {kind.__name__}, expected an array, a plain tuple or dict, "
        f"or one of {', '.join(STATES)}"
    )


def rebuild(path: str, shape: Any, rest: dict[str, Array]) -> Any:
    """Return the tree that `flatten` took apart, and take the arrays used out of `rest`.

    Raises an error of any kind if `shape` and `rest` are not what `flatten` returned.
    """
    if shape is None:
        return None
    if shape == path:
        return rest.pop(path)
    if isinstance(shape, list):
        return tuple(rebuild(f"{path}.{k}", item, rest) for k, item in enumerate(shape))
    items = {name: rebuild(f"{path}.{name}", item, rest) for name, item in shape["items"].items()}
    if shape["kind"] == "AdamState" and "counts" not in items:
        items["counts"] = _counts(**items)
    return items if shape["kind"] == "dict" else STATES[shape["kind"]](**items)


def _counts(count: Array, mu: Params, nu: Params) -> Params:
    """Return the updates of each parameter, for a state that was saved without them."""
    xp = arrays.namespace(count)
    none = xp.zeros_like(count)
    return {
        name: xp.where(xp.any(mu[name] != 0) | xp.any(nu[name] != 0), count, none) for name in nu
    }
