"""Checkpoints: one safetensors file with tensors, configuration and a digest.

A file is written beside its place, synced to the disk and renamed, so that a crash leaves
the old file or the new one, never half of one. A SHA-256 of all tensors is kept inside, so
that a file that was damaged later is noticed when it is read.

Format: tensors are named by their path, `params.lstm.0.W_h` or `opt_state.mu.lstm.0.W_h`.
The metadata holds three strings: `seqcore`, the format's version; `checkpoint`, JSON with the
configuration and the shape of the trees; `sha256`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from seqcore import arrays, checks
from seqcore.arrays import Array, Params
from seqcore.cells import GRUState, LSTMState, RNNState, State
from seqcore.optimizers import AdamState, SGDState

CHECKPOINT = "checkpoint.safetensors"  # its name in a run folder

_FORMAT = "1"
_NAMED: dict[str, Any] = {
    kind.__name__: kind for kind in (RNNState, LSTMState, GRUState, SGDState, AdamState)
}


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
        State of an optimizer of seqcore.
    state
        State of a layer or a `Sequential`.
    config
        Anything that JSON can hold.

    Raises
    ------
    TypeError
        If something is neither an array nor a tuple or dict of arrays, or `config` is not JSON.
    ValueError
        If two arrays have the same name, as those of `{"a.b": x, "a": {"b": y}}`.
    OSError
        If the file can't be written; one that was there before is as it was.
    """
    if not isinstance(params, Mapping):
        raise TypeError(
            f"save_checkpoint: params is a {type(params).__name__}, expected a dict of arrays"
        )
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    trees = {
        name: _flatten(name, tree, tensors)
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
        The library, device and floating dtype that the arrays are to have; None for NumPy
        arrays as they were saved.

    Returns
    -------
    Checkpoint
        What was saved, as it was nested.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, or no checkpoint of this version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            found = metadata.get("seqcore", "none")
            # Before the tensors: another's may have a dtype that NumPy does not know.
            if found != _FORMAT or "checkpoint" not in metadata:
                raise ValueError(
                    f"{path}: not a checkpoint of this version of seqcore: format {found}, "
                    f"expected {_FORMAT}"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
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
        raise ValueError(f"{path}: damaged, its header is not one that was saved") from error


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to a temporary file beside `path`, sync it, and rename it to `path`.

    Raises
    ------
    OSError
        If that fails; it names `path`.
    """
    path = Path(path)
    try:
        _sweep(path)
        _write(path, data)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _write(path: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    lock = _lock(temporary)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(_mode(path))
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    finally:
        if lock is not None:
            os.close(lock)
    if os.name == "posix":  # elsewhere a folder can't be opened and synced
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _mode(path: Path) -> int:
    """Return the mode of the file at `path`, or the one that a plain open would give it."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        umask = os.umask(0)
        os.umask(umask)
        return 0o666 & ~umask


def _sweep(path: Path) -> None:
    """Remove the temporary files of `path` whose writers were killed."""
    name = re.compile(re.escape(f".{path.name}.") + "[a-z0-9_]{8}")  # as mkstemp names them
    for file in path.parent.iterdir():
        if not (name.fullmatch(file.name) and file.is_file()):
            continue
        # Another process may be writing it, or may have swept it away by now.
        with suppress(OSError):
            # A writer locks its file before the first byte, so an empty one is left alone.
            lock = _lock(file) if file.stat().st_size else None
            if lock is not None:
                os.close(lock)
                file.unlink()


def _lock(path: str | Path) -> int | None:
    """Open and lock a file until it is closed, or its process ends.

    None where another has it locked, or no file can be.
    """
    try:
        import fcntl  # of POSIX
    except ImportError:
        return None
    lock = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def _place(tensor: np.ndarray[Any, Any], like: Array) -> Array:
    if np.issubdtype(tensor.dtype, np.floating):
        return arrays.like(tensor, like)
    return arrays.integers_like(tensor, like)


def _flatten(path: str, tree: Any, tensors: dict[str, np.ndarray[Any, Any]]) -> Any:
    """Put the arrays of `tree` into `tensors`, and return its shape as JSON."""
    if tree is None:
        return None
    if arrays.is_array(tree):
        checks.concrete("save_checkpoint", **{path: tree})
        tensor = arrays.to_host(tree)
        if tensor.dtype.kind not in "fiub" or tensor.dtype.itemsize > 8:
            raise TypeError(
                f"save_checkpoint: {path} has dtype {tensor.dtype}, expected floats or integers "
                "of at most 64 bits, or booleans"
            )
        if path in tensors:
            raise ValueError(f"save_checkpoint: two arrays are named {path}")
        # The writer of safetensors corrupts an array that is not in row-major order, and the
        # reader returns the byte order of the machine.
        tensors[path] = np.asarray(tensor, dtype=tensor.dtype.newbyteorder("="), order="C")
        return path
    kind = type(tree).__name__
    if isinstance(tree, tuple) and kind in _NAMED:
        named = {
            name: _flatten(f"{path}.{name}", value, tensors)
            for name, value in zip(_NAMED[kind]._fields, tree, strict=True)
        }
        return {"kind": kind, "items": named}
    if isinstance(tree, dict):
        return {
            "kind": "dict",
            "items": {k: _flatten(f"{path}.{k}", v, tensors) for k, v in tree.items()},
        }
    if isinstance(tree, tuple):
        return [_flatten(f"{path}.{k}", v, tensors) for k, v in enumerate(tree)]
    raise TypeError(f"save_checkpoint: {path} is a {type(tree).__name__}, expected arrays")


def _read_header(header: str, tensors: dict[str, Array]) -> Checkpoint:
    """Return what was saved; some error or other if the header does not fit the tensors."""
    whole = json.loads(header)
    rest = dict(tensors)
    trees = {name: _rebuild(name, tree, rest) for name, tree in whole["trees"].items()}
    if rest or not all(isinstance(tree, dict) for tree in (trees["params"], whole["config"])):
        raise ValueError
    return Checkpoint(**trees, config=whole["config"])


def _rebuild(path: str, tree: Any, rest: dict[str, Array]) -> Any:
    """Undo `_flatten`, and take out of `rest` what was used."""
    if tree is None:
        return None
    if tree == path:
        return rest.pop(path)
    if isinstance(tree, list):
        return tuple(_rebuild(f"{path}.{k}", item, rest) for k, item in enumerate(tree))
    items = {name: _rebuild(f"{path}.{name}", item, rest) for name, item in tree["items"].items()}
    return items if tree["kind"] == "dict" else _NAMED[tree["kind"]](**items)


def _digest(tensors: dict[str, np.ndarray[Any, Any]], header: str) -> str:
    sha = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(f"{name} {tensor.dtype.str} {tensor.shape}".encode())
        sha.update(np.asarray(tensor, order="C").data)
    return sha.hexdigest()
