"""Checkpoints: one safetensors file with tensors, configuration and a digest.

A file is written atomically. It holds a SHA-256 of itself, so that damage is noticed when it is
read.

Format "1": tensors are named by their path, `params.lstm.0.W_h` or `opt_state.mu.lstm.0.W_h`.
The metadata holds three strings (see `sealed.py`): `seqcore`, the format's version; `checkpoint`,
JSON with the configuration and the shape of the trees; `sha256`. `trees.py` says which trees there
are, and what an older file may lack.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from seqcore import checks
from seqcore.arrays import Array, Params
from seqcore.cells import State
from seqcore.files import sealed
from seqcore.files.plain import plain, read_json
from seqcore.files.tensors import Tensor, placed
from seqcore.files.trees import flatten, rebuild


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
        The file; one that is there is replaced, or the one that a link points to.
    params
        Parameters by name, of any array library. What has dtype float16, float32 or float64, is a
        whole number of at most 64 bits, or a boolean, comes back in its dtype.
    opt_state
        State of an optimizer of seqcore, or plain tuples and dicts of arrays.
    state
        State of a layer or a `Sequential`.
    config
        What JSON returns as it was: None, booleans, numbers and strings, and lists and dicts of
        these, with strings as keys. Tuples come back as lists, other mappings as dicts.

    Raises
    ------
    TypeError
        If something would not come back as it is: in `params`, `opt_state` or `state` a list,
        an array of bfloat16, or a named tuple that seqcore does not know; in `config` a number
        as a key, or an Enum.
    ValueError
        If two arrays have the same name, as those of `{"a.b": x, "a": {"b": y}}`; if `config` and
        the shape of the trees take more than 32 MiB of JSON, or are nested too deep.
    OSError
        If the file can't be written, or something else than a file is at `path`; what was there
        before stays as it was.
    """
    if not isinstance(params, Mapping):
        raise TypeError(
            f"save_checkpoint: params is a {type(params).__name__}, expected a dict of arrays"
        )
    if not isinstance(config, Mapping | None):
        raise TypeError(f"save_checkpoint: config is a {type(config).__name__}, expected a dict")
    try:
        config = plain("config", config or {})
    except TypeError as error:
        raise TypeError(f"save_checkpoint: {error}") from error
    tensors: dict[str, Tensor] = {}
    trees = {
        name: flatten(name, tree, tensors)
        for name, tree in {"params": dict(params), "opt_state": opt_state, "state": state}.items()
    }
    try:
        header = json.dumps({"config": config, "trees": trees})
    except ValueError as error:  # a number of thousands of digits
        raise TypeError(f"save_checkpoint: config is not JSON ({error})") from error
    sealed.write(path, sealed.CHECKPOINT, header, tensors)


def load_checkpoint(path: str | os.PathLike[str], *, like: Array | None = None) -> Checkpoint:
    """Read a checkpoint and check it against its digest.

    Parameters
    ----------
    path
        A file of `save_checkpoint`.
    like
        An array of floats whose library, device and dtype the floats get. Integers and booleans
        keep their dtype where that device has it. None for NumPy arrays as they were saved.

    Returns
    -------
    Checkpoint
        What was saved, nested as it was.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, is not a checkpoint of this version, or holds a number that is too
        large for the dtype.
    TypeError
        If `like` is not an array of floats.
    """
    path = Path(path)
    if like is not None:
        checks.floats("load_checkpoint", {"like": like})
    header, tensors = sealed.read(path, sealed.CHECKPOINT)
    arrays = {name: placed(path, name, tensor, like) for name, tensor in tensors.items()}
    try:
        return _read_header(header, arrays)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: damaged, its header does not fit its tensors") from error


def _read_header(header: str, arrays: dict[str, Array]) -> Checkpoint:
    """Return what was saved; any error means that the header does not fit the tensors."""
    whole = read_json(header)
    rest = dict(arrays)
    trees = {name: rebuild(name, shape, rest) for name, shape in whole["trees"].items()}
    if rest or not all(isinstance(tree, dict) for tree in (trees["params"], whole["config"])):
        raise ValueError
    return Checkpoint(**trees, config=whole["config"])
