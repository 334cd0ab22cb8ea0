"""Sealed files: no damage goes unnoticed, and each kind of file says what reads it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import safetensors.numpy
from judging import exactly

import seqcore as sc
from seqcore.files import sealed

pytestmark = pytest.mark.host

CONFIG = {"hidden": 7, "text": "aä\n\u0000\U0001f600", "none": None}


def save_checkpoint(path: Path) -> None:
    params = {"lstm.0.W_h": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.ones(5)}
    state = sc.sgd(0.1, 0.9).init({"b": params["b"]})
    sc.save_checkpoint(path, params, opt_state=state, state=(), config=CONFIG)


def save_model(path: Path) -> None:
    model = sc.Sequential(sc.Embedding(2), sc.RNN(7), dense=sc.Dense(1))
    sc.save_model(path, model, model.init(3, like=np.zeros(0, dtype=np.float32), rng=0))


class Format(NamedTuple):
    """A kind of file, and what writes and reads one."""

    kind: sealed.Kind
    save: Callable[[Path], None]
    load: Callable[[Path], Any]


FORMATS = {
    "checkpoint": Format(sealed.CHECKPOINT, save_checkpoint, sc.load_checkpoint),
    "model": Format(sealed.MODEL, save_model, sc.load_model),
}


@pytest.fixture(params=list(FORMATS.values()), ids=list(FORMATS))
def of(request: pytest.FixtureRequest) -> Format:
    form: Format = request.param
    return form


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.safetensors"


@pytest.fixture
def whole(of: Format, path: Path) -> bytes:
    """The bytes of a file; the one at `path` is there to be damaged."""
    of.save(path)
    return path.read_bytes()


def assert_damaged(of: Format, path: Path, says: str = "safetensors: ") -> None:
    with pytest.raises(ValueError, match=says) as caught:
        of.load(path)
    assert type(caught.value) is ValueError
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def split(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header of safetensors, and the tensors after it."""
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def joined(head: bytes, data: bytes) -> bytes:
    return len(head).to_bytes(8, "little") + head + data


# --- damage -----------------------------------------------------------------------------


def test_a_cut_file_is_noticed_wherever_it_was_cut(of, whole, path):
    sizes = {0, 1, 7, 8, 9, *range(10, len(whole), 29), len(whole) - 1}
    for size in sorted(sizes):
        path.write_bytes(whole[:size])
        assert_damaged(of, path)


@pytest.mark.parametrize("extra", [b"\0", b"x" * 8])
def test_a_file_with_something_after_it_is_noticed(of, extra, whole, path):
    path.write_bytes(whole + extra)
    assert_damaged(of, path)


def test_a_flipped_bit_is_noticed_wherever_it_is(of, whole, path):
    header = int.from_bytes(whole[:8], "little")
    places = {*range(8), *range(8, 8 + header, 11), *range(8 + header, len(whole), 3)}
    for number, place in enumerate(sorted(places)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << number % 8
        path.write_bytes(damaged)
        assert_damaged(of, path)


def test_changed_metadata_is_noticed(of, whole, path):
    damaged = whole.replace(b": 7", b": 8")
    assert damaged != whole
    path.write_bytes(damaged)
    assert_damaged(of, path, "damaged, its SHA-256 is not the one that was saved")


def test_a_name_that_stands_twice_is_noticed(of, whole, path):
    # The library that reads safetensors takes the second.
    head, data = split(whole)
    (name, entry), *_ = (item for item in head.items() if item[0] != "__metadata__")
    text = json.dumps(head)
    path.write_bytes(joined(text.encode(), data))
    of.load(path)
    once = json.dumps({name: entry})[1:-1]
    for twice in (
        f"{text[:-1]}, {once}}}",
        f"{{{once}, {text[1:]}",
        text.replace('"sha256": ', '"sha256": "0", "sha256": '),
    ):
        path.write_bytes(joined(twice.encode(), data))
        assert_damaged(of, path, "not a whole safetensors file .a name stands twice")


@pytest.mark.parametrize(
    ("dtype", "size"),
    [("BF16", 2), ("F8_E4M3", 1), ("F8_E5M2", 1), ("C64", 8), ("F4", 1), ("F128", 16), ("x", 1)],
)
def test_a_dtype_that_is_never_saved_is_refused(of, dtype, size, whole, path):
    head, _ = split(whole)
    count = 2 if dtype != "F4" else 4
    entry = {"dtype": dtype, "shape": [count], "data_offsets": [0, 2 * size]}
    for metadata in ({}, {"__metadata__": head["__metadata__"]}):
        text = json.dumps({"a": entry, **metadata})
        path.write_bytes(joined(text.encode(), bytes(2 * size)))
        assert_damaged(of, path)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ([2**63, 2**63], 8),
        ([2**61], 0),
        ([0, 2**62], 0),
        ([0, 2**40, 2**40], 0),
        ([1] * 70, 8),
        ([-1], 8),
        ([1.0], 8),
    ],
)
def test_a_shape_that_no_array_has_is_refused(of, shape, size, whole, path):
    head, _ = split(whole)
    entry = {"dtype": "F64", "shape": shape, "data_offsets": [0, size]}
    text = json.dumps({"a": entry, "__metadata__": head["__metadata__"]})
    path.write_bytes(joined(text.encode(), bytes(size)))
    assert_damaged(of, path)


@pytest.mark.parametrize(
    "content",
    [
        *(b"hello, world", bytes(64), b"{}", b"\xff" * 64),
        *(joined(head, b"") for head in (b"[" * 100_000, b'{"a":' * 100_000, b"\xff", b"null")),
        (2**63).to_bytes(8, "little") + b"{}",
    ],
    ids=range(9),
)
def test_a_file_of_another_kind_is_refused(of, content, path):
    path.write_bytes(content)
    assert_damaged(of, path, "not a whole safetensors file")


# --- kinds and versions -----------------------------------------------------------------


@pytest.mark.parametrize(
    "metadata",
    [None, {"format": "pt"}, {"KEY": "0"}, {"KEY": "1"}, {"KEY": "-2"}, {"KEY": "2.0"}],
    ids=lambda metadata: repr(metadata)[:60],
)
def test_a_foreign_safetensors_file_is_refused(of, metadata, path):
    if metadata:
        metadata = {key.replace("KEY", of.kind.key): value for key, value in metadata.items()}
    path.write_bytes(safetensors.numpy.save({"w": np.ones(2)}, metadata=metadata))
    assert_damaged(of, path, f"not a {of.kind.name} of this version of seqcore")


@pytest.mark.parametrize("version", ["2", "10", "999999999"])
def test_a_later_version_says_so(of, version, whole, path):
    head, data = split(whole)
    head["__metadata__"] |= {of.kind.key: version}
    path.write_bytes(joined(json.dumps(head).encode(), data))
    says = exactly(
        f"{path}: a {of.kind.name} of a later version of seqcore: format {version}, where this "
        f"version, {sc.__version__}, reads format 1"
    )
    assert_damaged(of, path, says)


def test_a_file_of_the_other_kind_says_what_reads_it(path):
    for here in FORMATS.values():
        here.save(path)
        for there in FORMATS.values():
            if there is not here:
                says = (
                    f"{path}: a {here.kind.name}, not a {there.kind.name}: "
                    f"{here.kind.reader} reads it"
                )
                assert_damaged(there, path, exactly(says))


def test_a_missing_file_is_named(of, path):
    for place in (path, path.parent):  # a folder is not a file
        with pytest.raises(FileNotFoundError, match=exactly(f"{place}: no such {of.kind.name}")):
            of.load(place)


# --- the digest -------------------------------------------------------------------------


def test_the_digest_is_what_the_docstring_says(whole):
    head, data = split(whole)
    metadata = head.pop("__metadata__")
    (header,) = [text for key, text in metadata.items() if key in ("checkpoint", "model")]
    sha = hashlib.sha256(header.encode())
    dtypes = {"F32": "<f4", "F64": "<f8", "I64": "<i8"}
    for name in sorted(head):
        start, end = head[name]["data_offsets"]
        shape = tuple(head[name]["shape"])
        sha.update(f"{name} {dtypes[head[name]['dtype']]} {shape}".encode() + data[start:end])
    assert metadata["sha256"] == sha.hexdigest()


def test_reading_keeps_no_hold_on_the_file(path):
    sc.save_checkpoint(path, {"w": np.arange(3.0)})
    loaded = sc.load_checkpoint(path)
    sc.save_checkpoint(path, {"w": np.zeros(3)})
    np.testing.assert_array_equal(loaded.params["w"], np.arange(3.0))
    loaded.params["w"][0] = 5.0  # and what came from it may be written to
    assert sc.load_checkpoint(path).params["w"][0] == 0.0
