"""Text for a character model: corpora, vocabulary, windows over the text.

A text is cut into `batch` streams that are read side by side, `seq_len` characters a step,
with the state carried on from window to window.
"""

from __future__ import annotations

import bz2
import codecs
import hashlib
import lzma
import sysconfig
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from seqcore import arrays
from seqcore.arrays import Array
from seqcore.training import CHECKPOINT, Window

Tokens = np.ndarray[Any, np.dtype[np.int64]]

CODE_POINTS = 0x110000
# Held out: of many files every twentieth, or about forty of them, and of each its middle, as
# beginnings (licences, imports) are unlike the rest; of a few files the end of them all.
_EVERY_FILE, _FILES, _MIDDLE = 20, 40, 4_000
_END_PART, _END_MOST = 20, 100_000
_COVERAGE = 0.9999  # of the training text that the vocabulary spells without an escape


class TextError(ValueError):
    """A text can't be used; the message says which and why."""


class Corpus(NamedTuple):
    """A text, what it came from, and which part of it is held out."""

    train: str
    held_out: str
    sha256: str
    files: int
    skipped: int  # files in a folder that are empty or no UTF-8 text


def standard_library() -> Path:
    """Return the folder of the Python standard library's source."""
    return Path(sysconfig.get_path("stdlib"))


def read_corpus(paths: Sequence[str | Path] = ()) -> Corpus:
    """Read files and folders, or the Python standard library if none is named.

    Files are put in the order of the SHA-256 of their names, and of their texts where two
    names are the same: an order that is the same everywhere and mixes the folders. A file
    that is named twice counts once. From 20 files on, every twentieth (of very many about
    forty) is kept away from training, and the middle 4,000 characters of each are the
    held-out text. Of fewer files the end is held out: a twentieth, at most 100,000 characters.

    Parameters
    ----------
    paths
        Files, which must be UTF-8 text, and folders, in which hidden files, run folders and
        files that are no UTF-8 text are passed over.

    Raises
    ------
    TextError
        If a path is missing, or a file or the whole is empty, binary or not UTF-8.
    """
    files: dict[Path, tuple[str, str]] = {}  # name and text, by where the file really lies
    no_text: set[Path] = set()
    for path in [Path(path) for path in paths] or [standard_library()]:
        if path.is_dir():
            below, passed_over = _read_folder(path, library=not paths)
            no_text |= passed_over
        else:
            below = {path.resolve(): (path.name, read_text(path))}
        # Of a file's two names (`docs docs/a.txt`) the shorter, whichever came first.
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
    return Corpus(joined, tail, digest.hexdigest(), len(files), len(no_text))


def _by_length(file: tuple[str, str]) -> tuple[int, str]:
    return len(file[0]), file[0]


def _mixed(file: tuple[str, str]) -> tuple[bytes, str]:
    name, text = file
    # A file's name may be no UTF-8; Python then has lone surrogates in it.
    return hashlib.sha256(name.encode(errors="surrogateescape")).digest(), text


# Beside or below the standard library, but not of it; and its tests, huge and unlike it.
_OUTSIDE = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"}


def _read_folder(folder: Path, *, library: bool) -> tuple[dict[Path, tuple[str, str]], set[Path]]:
    """Return the names and texts of the files in a folder, and the files that are no text.

    Of the standard `library` only the Python source counts.
    """
    texts: dict[Path, tuple[str, str]] = {}
    no_text = set()
    # Else `seqcore train .` would read what it wrote there itself the time before.
    runs = set() if library else {found.parent for found in folder.rglob(CHECKPOINT)}
    for path in sorted(folder.rglob("*.py" if library else "*")):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in name.parts)
        outside = library and not _OUTSIDE.isdisjoint(name.parts)
        if hidden or outside or not path.is_file() or not runs.isdisjoint(path.parents):
            continue
        try:
            texts[path.resolve()] = (name.as_posix(), read_text(path))
        except TextError:
            no_text.add(path.resolve())
    if not texts:
        raise TextError(f"{folder}: there is no UTF-8 text in this folder")
    return texts, no_text


def read_text(path: str | Path) -> str:
    """Read one UTF-8 text file; line ends become newlines.

    Raises
    ------
    TextError
        If it is missing, empty, binary or not UTF-8.
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


@dataclass(frozen=True)
class Vocabulary:
    """The characters that have a token of their own; the last token is the escape."""

    characters: str

    @classmethod
    def of(cls, text: str) -> Vocabulary:
        """Take the most frequent characters of `text` that spell 99.99 % of it."""
        characters, spelled = [], 0
        # Ties in the order of the code points, so that the same text gives the same.
        for character, count in sorted(Counter(text).items(), key=lambda item: (-item[1], item)):
            if spelled >= _COVERAGE * len(text):
                break
            characters.append(character)
            spelled += count
        return cls("".join(sorted(characters)))

    @property
    def size(self) -> int:
        """Tokens, the escape counted."""
        return len(self.characters) + 1

    @property
    def escape(self) -> int:
        """The token of every other character."""
        return len(self.characters)

    def encode(self, text: str) -> Tokens:
        """Return the tokens of `text`."""
        table = np.full(CODE_POINTS, self.escape, dtype=np.int64)
        table[[ord(character) for character in self.characters]] = np.arange(self.escape)
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
        tokens: Tokens = table[points]
        return tokens

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of `tokens`; an escape becomes U+FFFD."""
        letters = self.characters + "\N{REPLACEMENT CHARACTER}"
        return "".join(letters[token] for token in tokens)


@dataclass(frozen=True)
class Streams:
    """Windows over a text that is read as `batch` streams side by side.

    Parameters
    ----------
    tokens : (n,)
        The text.
    batch, seq_len
        Streams m, and steps T of a window.
    like
        An array whose library and device the windows get.
    """

    tokens: Tokens
    batch: int
    seq_len: int
    like: Array

    def __post_init__(self) -> None:
        """Refuse a text that has not one window."""
        need = self.batch * (self.seq_len + 1)
        if len(self.tokens) < need:
            raise TextError(
                f"the text has {len(self.tokens)} characters to train on, expected at least "
                f"{need} = batch {self.batch} x (seq-len {self.seq_len} + 1); lower --batch or "
                "--seq-len"
            )

    @property
    def windows(self) -> int:
        """Windows in one pass over the text."""
        return (len(self.tokens) // self.batch - 1) // self.seq_len

    def __call__(self, step: int) -> Window:
        """Return the window of a step: x and targets `(T, m)`, targets one step ahead."""
        index = step % self.windows
        length = len(self.tokens) // self.batch
        starts = np.arange(self.batch) * length + index * self.seq_len
        cut = self.tokens[starts[None, :] + np.arange(self.seq_len + 1)[:, None]]
        x = arrays.integers_like(cut[:-1], self.like)
        targets = arrays.integers_like(cut[1:], self.like)
        return Window(x, targets, fresh=index == 0)


def compressors(text: str) -> dict[str, float]:
    """Return the bits per character of general compressors on `text` as UTF-8."""
    data = text.encode()
    packed = {
        "zlib": zlib.compress(data, 9),
        "bz2": bz2.compress(data, 9),
        "lzma": lzma.compress(data, preset=9 | lzma.PRESET_EXTREME),
    }
    return {name: 8 * len(small) / len(text) for name, small in packed.items()}
