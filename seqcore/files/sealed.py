"""Sealed files: safetensors with JSON about the tensors, and a digest of all of it.

The metadata holds three strings: the format's version, under a key that tells the kind of file;
the JSON, called the header here; and `sha256`, in hexadecimal.

(1) The digest is that of the header and then, for each tensor in the order of the names, of its
    name, dtype and shape, written as `name <f4 (2, 3)`, and of its values, row-major.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

import seqcore
from seqcore.files.atomic import write_atomically
from seqcore.files.plain import read_json
from seqcore.files.tensors import DTYPES, Tensor


class Kind(NamedTuple):
    """A kind of file: its name, the keys of its metadata, its version, and what reads it."""

    name: str
    key: str
    version: int
    header: str
    reader: str


CHECKPOINT = Kind("checkpoint", "seqcore", 1, "checkpoint", "load_checkpoint")
MODEL = Kind("model", "seqcore_model", 1, "model", "load_model")


def write(
    path: str | os.PathLike[str], kind: Kind, header: str, tensors: Mapping[str, Tensor]
) -> None:
    """Write a sealed file atomically.

    Raises
    ------
    OSError
        If writing fails; the error names `path`.
    """
    metadata = {
        kind.key: str(kind.version),
        kind.header: header,
        "sha256": digest(tensors, header),
    }
    write_atomically(path, save(dict(tensors), metadata=metadata))


def read(path: Path, kind: Kind) -> tuple[str, dict[str, Tensor]]:
    """Return the header and the tensors of a sealed file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged, of another kind, or of another version.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such {kind.name}")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            # First: the tensors of another program may have dtypes that NumPy lacks.
            why = _not_of(kind, metadata)
            tensors = {} if why else {name: file.get_tensor(name) for name in _names(path)}
    except (RecursionError, SafetensorError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error})") from error
    if why:
        raise ValueError(f"{path}: {why}")
    header = metadata[kind.header]
    if metadata.get("sha256") != digest(tensors, header):
        raise ValueError(f"{path}: damaged, its SHA-256 is not the one that was saved")
    return header, tensors


def digest(tensors: Mapping[str, Tensor], header: str) -> str:
    """Return the digest (1)."""
    sha = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        tensor = np.ascontiguousarray(tensors[name])
        tensor = tensor.astype(tensor.dtype.newbyteorder("<"), copy=False)
        shape = tensors[name].shape  # ascontiguousarray makes 1-d of 0-d
        sha.update(f"{name} {tensor.dtype.str} {shape}".encode())
        sha.update(tensor.reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


def _not_of(kind: Kind, metadata: Mapping[str, str]) -> str:
    """Return why a file with this metadata is not one that can be read; "" if it is."""
    found = metadata.get(kind.key, "none")
    if found == str(kind.version) and kind.header in metadata:
        return ""
    for other in (CHECKPOINT, MODEL):
        if kind.key not in metadata and other.key in metadata:
            return f"a {other.name}, not a {kind.name}: {other.reader} reads it"
    if re.fullmatch("[0-9]{1,9}", found) and int(found) > kind.version:
        return (
            f"a {kind.name} of a later version of seqcore: format {found}, where this version, "
            f"{seqcore.__version__}, reads format {kind.version}"
        )
    return (
        f"not a {kind.name} of this version of seqcore: format {found:.40}, expected {kind.version}"
    )


def _names(path: Path) -> list[str]:
    """Return the names of the tensors of a whole file, of which each has a dtype of ours.

    The library that reads them takes the last of two tensors of one name.

    Raises
    ------
    ValueError
        If two have the same name, or one has another dtype.
    """
    with path.open("rb") as file:
        head = read_json(file.read(int.from_bytes(file.read(8), "little")))
    head.pop("__metadata__")
    for name, entry in head.items():
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"{name} has dtype {entry['dtype']}")
    return list(head)
