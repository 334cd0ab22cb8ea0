"""Corpora: files and folders read as one text, part of which is held out."""

from __future__ import annotations

import codecs
import hashlib
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from seqcore.training.runs import CHECKPOINT

# What is held out. Of many files: every twentieth, but no more than about forty, and of each of
# them the middle, because beginnings (licences, imports) are unlike the rest. Of few files: the end
# of the whole text.
_EVERY_FILE, _FILES, _MIDDLE = 20, 40, 4_000
_END_PART, _END_MOST = 20, 100_000


class TextError(ValueError):
    """A text can't be used; the message says which and why."""


class Corpus(NamedTuple):
    """A text in two parts, one to train on and one that is held out, and where it came from."""

    train: str
    held_out: str
    sha256: str
    files: int
    skipped: int  # files in a folder that are empty or not UTF-8 text


def standard_library() -> Path:
    """Return the folder of the Python standard library's source."""
    return Path(sysconfig.get_path("stdlib"))


def read_corpus(paths: Sequence[str | Path] = ()) -> Corpus:
    """Read files and folders, or the Python standard library if none is named.

    Files are sorted by the SHA-256 of their names, then by their texts: an order that is the same
    on every machine and mixes the folders. A file that is named twice is read once. With 20 files
    or more, every twentieth is not trained on (about forty of very many), and the middle 4,000
    characters of each are the held-out text. With fewer files, a twentieth of the whole is held
    out at its end, at most 100,000 characters.

    Parameters
    ----------
    paths
        Files, which must be UTF-8 text, and folders, in which hidden files, run folders and
        files that are not UTF-8 text are skipped.

    Returns
    -------
    Corpus
        The text, its SHA-256 and the number of its files.

    Raises
    ------
    TextError
        If a path is missing, a file is empty, binary or not UTF-8, or a folder holds no text.
    """
    files: dict[Path, tuple[str, str]] = {}  # name and text, by resolved path
    skipped: set[Path] = set()
    for path in [Path(path) for path in paths] or [standard_library()]:
        if path.is_dir():
            below, not_text = _read_folder(path, standard=not paths)
            skipped |= not_text
        else:
            below = {path.resolve(): (path.name, read_text(path))}
        # A file found by two names (as in `docs docs/a.txt`) gets the shorter, in any order.
        files |= {at: min(file, files.get(at, file), key=_by_length) for at, file in below.items()}
    ordered = sorted(files.values(), key=_mixed)
    held_out, train = [], []
    every = max(_EVERY_FILE, len(ordered) // _FILES)
    for number, (_, text) in enumerate(ordered):
        if number % every == every - 1:
            begin = max(0, (len(text) - _MIDDLE) // 2)
            held_out.append(text[begin : begin + _MIDDLE])
        else:
            train.append(text)
    joined = "\n".join(train)
    if not held_out:
        cut = len(joined) - min(max(len(joined) // _END_PART, 1), _END_MOST)
        joined, held_out = joined[:cut], [joined[cut:]]
    tail = "\n".join(held_out)
    digest = hashlib.sha256(f"{joined}\0{tail}".encode())
    return Corpus(joined, tail, digest.hexdigest(), len(files), len(skipped))


def _by_length(file: tuple[str, str]) -> tuple[int, str]:
    return len(file[0]), file[0]


def _mixed(file: tuple[str, str]) -> tuple[bytes, str]:
    name, text = file
    # A file name that is not UTF-8 holds lone surrogates in Python.
    return hashlib.sha256(name.encode(errors="surrogateescape")).digest(), text


# Folders that are not part of the standard library though they lie in it, and its tests, which
# are many and unlike the rest.
_OUTSIDE = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"}


def _read_folder(folder: Path, *, standard: bool) -> tuple[dict[Path, tuple[str, str]], set[Path]]:
    """Return the names and texts of the files in a folder, and the files that are not text.

    Parameters
    ----------
    folder
        Where to look.
    standard
        Whether it is the standard library, of which only the Python source is read.
    """
    texts: dict[Path, tuple[str, str]] = {}
    not_text = set()
    # Otherwise `seqcore train .` would read its own earlier runs.
    runs = set() if standard else {found.parent for found in folder.rglob(CHECKPOINT)}
    for path in sorted(folder.rglob("*.py" if standard else "*")):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in name.parts)
        outside = standard and not _OUTSIDE.isdisjoint(name.parts)
        if hidden or outside or not path.is_file() or not runs.isdisjoint(path.parents):
            continue
        try:
            texts[path.resolve()] = (name.as_posix(), read_text(path))
        except TextError:
            not_text.add(path.resolve())
    if not texts:
        raise TextError(f"{folder}: there is no UTF-8 text in this folder")
    return texts, not_text


def read_text(path: str | Path) -> str:
    """Return the text of a UTF-8 file, with newlines as line ends.

    Raises
    ------
    TextError
        If the file is missing, empty, binary or not UTF-8.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise TextError(f"{path}: no such file or folder") from None
    except OSError as error:
        raise TextError(f"{path}: can't be read ({error.strerror})") from error
    begin = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
    if not data[begin:]:
        raise TextError(f"{path}: the file is empty, expected UTF-8 text")
    if b"\0" in data:
        at = data.index(b"\0")
        raise TextError(f"{path}: binary, byte {at} is 0; expected UTF-8 text")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise TextError(
            f"{path}: not UTF-8, byte {error.start} is {data[error.start]:#04x}"
        ) from error
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
