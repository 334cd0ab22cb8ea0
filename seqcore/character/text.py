"""Text as tokens: the vocabulary, and windows over the text.

A text is cut into `batch` streams that are read side by side, `seq_len` characters a step, with
the state carried from window to window.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from seqcore import arrays
from seqcore.arrays import Array
from seqcore.character.corpus import TextError
from seqcore.training import Window

Tokens = np.ndarray[Any, np.dtype[np.int64]]

CODE_POINTS = 0x110000
_COVERAGE = 0.9999  # of the training text is in the vocabulary


@dataclass(frozen=True)
class Vocabulary:
    """The characters that have a token of their own; the last token is the escape."""

    characters: str

    @classmethod
    def of(cls, text: str) -> Vocabulary:
        """Return the most frequent characters of `text` that make up 99.99 % of it."""
        characters, covered = [], 0
        # Characters that are equally frequent are taken in the order of their code points.
        for character, count in sorted(Counter(text).items(), key=lambda item: (-item[1], item)):
            if covered >= _COVERAGE * len(text):
                break
            characters.append(character)
            covered += count
        return cls("".join(sorted(characters)))

    @property
    def size(self) -> int:
        """The number of tokens, including the escape."""
        return len(self.characters) + 1

    @property
    def escape(self) -> int:
        """The token of all other characters."""
        return len(self.characters)

    def encode(self, text: str) -> Tokens:
        """Return the tokens of `text`, one for each character."""
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
    """The windows of a text that is read as `batch` streams side by side.

    Parameters
    ----------
    tokens : (n,)
        The text.
    batch, seq_len
        The number of streams m, and of steps T of a window.
    like
        An array of the library and on the device that the windows are for.
    """

    tokens: Tokens
    batch: int
    seq_len: int
    like: Array

    def __post_init__(self) -> None:
        """Refuse a text that is too short for one window."""
        need = self.batch * (self.seq_len + 1)
        if len(self.tokens) < need:
            raise TextError(
                f"the text has {len(self.tokens)} characters to train on, expected at least "
                f"{need} = batch {self.batch} x (seq-len {self.seq_len} + 1); lower --batch or "
                "--seq-len"
            )

    @property
    def windows(self) -> int:
        """The number of windows in one pass over the text."""
        return (len(self.tokens) // self.batch - 1) // self.seq_len

    def __call__(self, step: int) -> Window:
        """Return the window of a step: x and targets `(T, m)`, the targets one step ahead of x."""
        index = step % self.windows
        length = len(self.tokens) // self.batch
        starts = np.arange(self.batch) * length + index * self.seq_len
        cut = self.tokens[starts[None, :] + np.arange(self.seq_len + 1)[:, None]]
        x = arrays.integers_like(cut[:-1], self.like)
        targets = arrays.integers_like(cut[1:], self.like)
        return Window(x, targets, fresh=index == 0)


def compressors(text: str) -> dict[str, float]:
    """Return the bits per character that general-purpose compressors need for `text` as UTF-8."""
    data = text.encode()
    packed = {
        "zlib": zlib.compress(data, 9),
        "bz2": bz2.compress(data, 9),
        "lzma": lzma.compress(data, preset=9 | lzma.PRESET_EXTREME),
    }
    return {name: 8 * len(small) / len(text) for name, small in packed.items()}
