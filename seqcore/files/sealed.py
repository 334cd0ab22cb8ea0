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
from seqcore.files.plain import check_depth, read_json, short
from seqcore.files.tensors import DTYPES, Tensor

MIB = 2**20
TENSORS = 16 * MIB  # of names, dtypes and shapes of tensors, at most


class Kind(NamedTuple):
    """A kind of file: its name, the keys of its metadata, its version, and what reads it.

    `most` is how many bytes the header may have. Python needs up to 50 times as many to read it.
    """

    name: str
    key: str
    version: int
    header: str
    reader: str
    most: int


CHECKPOINT = Kind("checkpoint", "seqcore", 1, "checkpoint", "load_checkpoint", 32 * MIB)
MODEL = Kind("model", "seqcore_model", 1, "model", "load_model", 4 * MIB)


def write(
    path: str | os.PathLike[str], kind: Kind, header: str, tensors: Mapping[str, Tensor]
) -> None:
    """Write a sealed file atomically.

    Raises
    ------
    ValueError
        If the header is too long or nested too deep to be read, or there are too many tensors.
    OSError
        If writing fails; the error names `path`.
    """
    try:
        check_depth(header)
        _check_size(kind, header)
        sha = digest(tensors, header)
        metadata = {kind.key: str(kind.version), kind.header: header, "sha256": sha}
        data = save(dict(tensors), metadata=metadata)
        _check_size(kind, header, data[:8])
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"save_{kind.name}: {short(error)}") from error
    write_atomically(path, data)


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
            tensors: dict[str, Tensor] = {}
            if not why:
                tensors = {name: file.get_tensor(name) for name in _names(path, kind, metadata)}
    except (SafetensorError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a whole safetensors file ({short(error)})") from error
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


def _check_size(kind: Kind, header: str, start: bytes = b"") -> None:
    """Require what can be read with some memory, before any JSON is read.

    A file starts with the size of safetensors' own header. It has ours in it, where quotation marks
    are escaped.

    Raises
    ------
    ValueError
        If one of them is too long.
    """
    whole, most = int.from_bytes(start, "little"), 2 * kind.most + TENSORS
    for what, found, limit in [
        (f"the JSON of the {kind.name}", len(header.encode()), kind.most),
        ("the header of safetensors", whole, most),
    ]:
        if found > limit:
            raise ValueError(f"{what} has {found} bytes, expected at most {limit}")


def _names(path: Path, kind: Kind, metadata: Mapping[str, str]) -> list[str]:
    """Return the names of the tensors of a whole file, of which each has a dtype of ours.

    The library that reads them takes the last of two tensors of one name.

    Raises
    ------
    ValueError
        If two have the same name, or one has another dtype, or there are too many.
    """
    with path.open("rb") as file:
        start = file.read(8)
        _check_size(kind, metadata[kind.header], start)
        head = read_json(file.read(int.from_bytes(start, "little")))
    head.pop("__metadata__")
    for name, entry in head.items():
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"{name} has dtype {entry['dtype']}")
    return list(head)
