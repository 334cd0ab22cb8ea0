"""The history of an array: the graph in which PyTorch's autograd keeps how it was made.

Only PyTorch ties a history to an array. An array that comes from the last step of a loop with its
history keeps the whole past of the loop in memory. Inside a transformation of `torch.func` the
history belongs to the transformation, and stays.
"""

from __future__ import annotations

from typing import Any

import array_api_compat as compat

from seqcore.arrays.types import Array


def without_history(tree: Any) -> Any:
    """Return a tree whose arrays have no history and need no gradient.

    Parameters
    ----------
    tree
        An array, or tuples, named tuples, lists and dicts of trees; anything else is returned as
        it is. An array without a history is returned itself, a copy is never made.
    """
    if hasattr(tree, "requires_grad"):
        return tree.detach() if _requires_grad(tree) and _is_plain(tree) else tree
    kind: Any = type(tree)
    if kind is dict:
        return {name: without_history(item) for name, item in tree.items()}
    if kind in (tuple, list) or hasattr(kind, "_make"):
        parts = [without_history(item) for item in tree]
        return kind._make(parts) if hasattr(kind, "_make") else kind(parts)
    return tree


def leaf_like(array: Array, before: Array) -> Array:
    """Return an array without a history, for autograd what `before` was.

    If `before` required a gradient, the result is a leaf of autograd that requires one.

    Parameters
    ----------
    array
        `before` itself, or what was computed from it and belongs to the caller.
    before
        The array whose place it takes.
    """
    if not (_requires_grad(before) and _is_plain(array)):
        return without_history(array)
    return (array if array.is_leaf else array.detach()).requires_grad_()


def _requires_grad(value: Any) -> bool:
    """Tell whether autograd follows what is made of a value."""
    return bool(getattr(value, "requires_grad", False)) and compat.is_torch_array(value)


def _is_plain(tensor: Any) -> bool:
    """Tell whether a tensor has memory of its own: torch.func wraps tensors in others without."""
    try:
        tensor.data_ptr()
    except RuntimeError:
        return False
    return True
