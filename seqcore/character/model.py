"""The character model: its layers, the bits that it needs for a text, and sampling.

Bits per character are the length of an ideal code: the mean of -log2 p(next character) over all
characters of a text. The first character has none before it and costs log2(size of the
vocabulary). A character outside the vocabulary costs the escape token and log2(0x110000) bits
more, which tell it from all other code points of Unicode.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from seqcore import arrays, losses, process
from seqcore.arrays import Params
from seqcore.character.text import CODE_POINTS, Vocabulary
from seqcore.layers import GRU, LSTM, RNN, Dense, Embedding, Layer, Sequential

CELLS: dict[str, Callable[..., Layer]] = {"rnn": RNN, "lstm": LSTM, "gru": GRU}


def character_model(cell: str, *, embed: int, hidden: int, layers: int, tokens: int) -> Sequential:
    """Return an Embedding, recurrent layers and a Dense layer.

    Parameters
    ----------
    cell
        A name in `CELLS`.
    embed
        Features of the embedding.
    hidden, layers
        Units of a recurrent layer, and how many such layers.
    tokens
        Size of the vocabulary.
    """
    if cell not in CELLS:
        raise ValueError(f"cell is {cell!r}, expected one of {', '.join(CELLS)}")
    return Sequential(Embedding(embed), CELLS[cell](hidden, layers=layers), Dense(tokens))


def bits_per_character(
    model: Layer, params: Params, vocabulary: Vocabulary, text: str, *, seq_len: int = 128
) -> float:
    """Return the bits per character that the model needs for `text`.

    A long text is read as up to 64 streams side by side. Each stream starts from the model's
    initial state, at the character before its first.

    Parameters
    ----------
    model, params
        A character model and its parameters.
    vocabulary
        Turns the text into tokens.
    text
        The text to measure.
    seq_len
        Characters of a window; the result does not depend on it.

    Raises
    ------
    ValueError
        If the text is empty.
    """
    if not text:
        raise ValueError("text is empty, expected at least one character")
    tokens = vocabulary.encode(text)
    like = next(iter(params.values()))
    predicted = len(tokens) - 1
    nats = 0.0
    if predicted:
        m = min(64, max(1, predicted // 1000))
        length = -(-predicted // m)
        at = np.arange(length)[:, None] + length * np.arange(m)[None, :]  # (length, m)
        there = at < predicted
        at = np.where(there, at, 0)
        bound, state = model.bind(params), None
        with process.blas_threads(1):
            for begin in range(0, length, seq_len):
                cut = slice(begin, begin + seq_len)
                x = arrays.integers_like(tokens[at[cut]], like)
                targets = arrays.integers_like(tokens[at[cut] + 1], like)
                keep = there[cut]
                mask = arrays.integers_like(keep, like) > 0
                logits, state = bound.predict(x, state)
                loss, _ = losses.cross_entropy(logits, targets, mask)
                nats += float(arrays.to_host(loss)) * int(keep.sum())
    escapes = int((tokens == vocabulary.escape).sum())
    bits = nats / math.log(2) + math.log2(vocabulary.size) + escapes * math.log2(CODE_POINTS)
    return bits / len(tokens)


def sample(
    model: Layer,
    params: Params,
    vocabulary: Vocabulary,
    rng: np.random.Generator,
    *,
    length: int,
    prompt: str = "\n",
    temperature: float = 1.0,
) -> str:
    """Draw a text from the model, one character after the other.

    Parameters
    ----------
    model, params
        A character model and its parameters.
    vocabulary
        Turns characters into tokens and back.
    rng
        Draws the characters.
    length
        The number of characters to draw.
    prompt
        What the model reads first; it is not part of the result.
    temperature
        Divides the logits. Below 1 the text is more predictable, above 1 more varied; at 0 the
        most likely character is taken.

    Raises
    ------
    ValueError
        If the temperature is negative or not finite, the prompt is empty, or the model's
        logits are not finite.
    """
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature is {temperature}, expected a finite number of at least 0")
    if not prompt:
        raise ValueError("prompt is empty, expected at least one character")
    like = next(iter(params.values()))
    tokens = vocabulary.encode(prompt)
    drawn: list[int] = []
    bound, state = model.bind(params), None
    with process.blas_threads(1):
        for _ in range(length):
            logits, state = bound.predict(arrays.integers_like(tokens[:, None], like), state)
            scores = arrays.to_host(logits[-1, :, 0]).astype(np.float64)
            if not np.isfinite(scores).all():
                raise ValueError("the model's logits are not finite, expected numbers")
            scores = scores[: vocabulary.escape]  # the last token stands for no character
            if temperature == 0:
                token = int(scores.argmax())
            else:
                with np.errstate(over="ignore"):  # at a tiny temperature: -inf, and p = 0
                    p = np.cumsum(np.exp((scores - scores.max()) / temperature))
                token = int(np.searchsorted(p, rng.random() * p[-1], side="right"))
            drawn.append(token)
            tokens = np.asarray([token], dtype=np.int64)
    return vocabulary.decode(drawn)
