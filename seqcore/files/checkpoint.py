"""Checkpoints: one safetensors file with tensors, configuration and a digest.

A file is written atomically. It holds a SHA-256 of itself, so that damage is noticed when it is
read.

Format "1": tensors are named by their path, `params.lstm.0.W_h` or `opt_state.mu.lstm.0.W_h`.
The metadata holds three strings: `seqcore`, the format's version; `checkpoint`, JSON with the
configuration and the shape of the trees; `sha256`, of all tensors and this JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from seqcore import arrays
from seqcore.arrays import Array, Params
from seqcore.cells import State
from seqcore.files.atomic import write_atomically
from seqcore.files.trees import flatten, rebuild

_FORMAT = "1"


class Checkpoint(NamedTuple):
    """What a checkpoint holds; what was not saved is None."""

    params: Params
    opt_state: Any
    state: State
    config: dict[str, Any]


def save_checkpoint(
    path: str | os.PathLike[str],
    params: Params,
    *,
    opt_state: Any = None,
    state: State = None,
    config: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint atomically; the folder must exist.

    Parameters
    ----------
    path
        The file; one that is there is replaced.
    params
        Parameters by name, of any array library.
    opt_state
        State of an optimizer of seqcore, or plain tuples and dicts of arrays.
    state
        State of a layer or a `Sequential`.
    config
        Anything that JSON can hold; tuples come back as lists.

    Raises
    ------
    TypeError
        If `params`, `opt_state` or `state` holds something that `load_checkpoint` would not
        return as it is, such as a list or a named tuple that seqcore does not know, or if
        `config` is not JSON.
    ValueError
        If two arrays have the same name, as those of `{"a.b": x, "a": {"b": y}}`.
    OSError
        If the file can't be written; one that was there before stays as it was.
    """
    if not isinstance(params, Mapping):
        raise TypeError(
            f"save_checkpoint: params is a {type(params).__name__}, expected a dict of arrays"
        )
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    trees = {
        name: flatten(name, tree, tensors)
        for name, tree in {"params": dict(params), "opt_state": opt_state, "state": state}.items()
    }
    try:
        header = json.dumps({"config": dict(config or {}), "trees": trees})
    except (TypeError, ValueError) as error:  # ValueError: it contains itself
        raise TypeError(f"save_checkpoint: config is not JSON ({error})") from error
    metadata = {"seqcore": _FORMAT, "checkpoint": header, "sha256": _digest(tensors, header)}
    write_atomically(path, save(tensors, metadata=metadata))


def load_checkpoint(path: str | os.PathLike[str], *, like: Array | None = None) -> Checkpoint:
    """Read a checkpoint and check it against its digest.

    Parameters
    ----------
    path
        A file of `save_checkpoint`.
    like
        An array whose library, device and floating dtype the arrays get; None for NumPy arrays
        in the dtypes that were saved.

    Returns
    -------
    Checkpoint
        What was saved, nested as it was.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, or is not a checkpoint of this version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            found = metadata.get("seqcore", "none")
            # Checked first: the tensors of another program may have dtypes that NumPy lacks.
            if found != _FORMAT or "checkpoint" not in metadata:
                raise ValueError(
                    f"{path}: not a checkpoint of this version of seqcore: format {found}, "
                    f"expected {_FORMAT}"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, TypeError) as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error})") from error
    if metadata.get("sha256") != _digest(tensors, metadata["checkpoint"]):
        raise ValueError(f"{path}: damaged, its SHA-256 is not the one that was saved")
    placed: dict[str, Array] = dict(tensors)
    if like is not None:
        placed = {name: _place(tensor, like) for name, tensor in tensors.items()}
    try:
        return _read_header(metadata["checkpoint"], placed)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: damaged, its header does not fit its tensors") from error


def _place(tensor: np.ndarray[Any, Any], like: Array) -> Array:
    if np.issubdtype(tensor.dtype, np.floating):
        return arrays.like(tensor, like)
    if tensor.dtype == np.bool_:
        return arrays.like(tensor, like, dtype=arrays.namespace(like).bool)
    xp = arrays.namespace(like)
    there = xp.__array_namespace_info__().dtypes(device=arrays.device(like), kind="integral")
    if tensor.dtype.name in there:
        return arrays.like(tensor, like, dtype=there[tensor.dtype.name])
    return arrays.integers_like(tensor, like)  # a device may have 32-bit numbers only


def _read_header(header: str, tensors: dict[str, Array]) -> Checkpoint:
    """Return what was saved; any error means that the header does not fit the tensors."""
    whole = json.loads(header)
    rest = dict(tensors)
    trees = {name: rebuild(name, shape, rest) for name, shape in whole["trees"].items()}
    if rest or not all(isinstance(tree, dict) for tree in (trees["params"], whole["config"])):
        raise ValueError
    return Checkpoint(**trees, config=whole["config"])


def _digest(tensors: dict[str, np.ndarray[Any, Any]], header: str) -> str:
    sha = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(f"{name} {tensor.dtype.str} {tensor.shape}".encode())
        # As bytes: the dtypes that other libraries add to NumPy, as bfloat16, have no buffer.
        sha.update(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)
    return sha.hexdigest()
