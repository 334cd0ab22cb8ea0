"""The character model: its layers, what it says of a text, and text drawn from it.

Bits per character is the length of an ideal code: the mean of -log2 p(next character) over
every character of a text. The first has nothing before it and costs log2(size of the
vocabulary). A character outside the vocabulary costs the escape token and then
log2(0x110000) bits, to say which of Unicode's code points it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from seqcore import arrays, losses, process
from seqcore.arrays import Params
from seqcore.layers import GRU, LSTM, RNN, Dense, Embedding, Layer, Sequential
from seqcore.text import CODE_POINTS, Vocabulary

CELLS: dict[str, Callable[..., Layer]] = {"rnn": RNN, "lstm": LSTM, "gru": GRU}


def character_model(cell: str, *, embed: int, hidden: int, layers: int, tokens: int) -> Sequential:
    """Return Embedding, recurrent layers and Dense for a vocabulary of `tokens`."""
    if cell not in CELLS:
        raise ValueError(f"cell is {cell!r}, expected one of {', '.join(CELLS)}")
    return Sequential(Embedding(embed), CELLS[cell](hidden, layers=layers), Dense(tokens))


def bits_per_character(
    model: Layer, params: Params, vocabulary: Vocabulary, text: str, *, seq_len: int = 128
) -> float:
    """Return how many bits a character of `text` costs under the model.

    A long text is read as up to 64 streams side by side; each starts with a state of zero
    and the character before it.

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
        state = None
        with process.blas_threads(1):
            for begin in range(0, length, seq_len):
                cut = slice(begin, begin + seq_len)
                x = arrays.integers_like(tokens[at[cut]], like)
                targets = arrays.integers_like(tokens[at[cut] + 1], like)
                keep = there[cut]
                mask = arrays.integers_like(keep, like) > 0
                logits, state, _ = model.forward(params, x, state)
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
    """Draw `length` characters that the model finds likely after `prompt`.

    Parameters
    ----------
    temperature
        Divides the logits: below 1 plainer, above 1 wilder text; 0 takes the likeliest.

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
    state = None
    with process.blas_threads(1):
        for _ in range(length):
            logits, state, _ = model.forward(
                params, arrays.integers_like(tokens[:, None], like), state
            )
            scores = arrays.to_host(logits[-1, :, 0]).astype(np.float64)
            if not np.isfinite(scores).all():
                raise ValueError("the model's logits are not finite, expected numbers")
            scores[vocabulary.escape] = -np.inf  # no text can show it
            if temperature == 0:
                token = int(scores.argmax())
            else:
                with np.errstate(over="ignore"):  # a tiny temperature: -inf, and p = 0
                    p = np.cumsum(np.exp((scores - scores.max()) / temperature))
                token = int(np.searchsorted(p, rng.random() * p[-1], side="right"))
            drawn.append(token)
            tokens = np.asarray([token], dtype=np.int64)
    return vocabulary.decode(drawn)
