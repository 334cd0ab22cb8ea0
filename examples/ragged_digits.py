"""A classifier of ragged sequences: scikit-learn's digits, read row by row.

Each digit is 8 rows of 8 pixels. Here it is cut to its first 5 to 8 rows, so that the batch is
ragged. With `sc.Last` the classifier sees each example at its own last row. With `y[-1]` it sees
the last row of the longest one: zeros, for all that are shorter.

    pip install scikit-learn && python examples/ragged_digits.py
"""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

import seqcore as sc

TRAIN, UPDATES, M = 1347, 400, 64


def accuracy(*, at_the_last_row: bool) -> float:
    """Return the part of the test set that is told right."""
    images, classes = load_digits(return_X_y=True)
    x = np.transpose(images.reshape(-1, 8, 8), (1, 2, 0)).astype(np.float32) / 16.0  # (T, n_x, m)
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 9, size=x.shape[-1])
    order = rng.permutation(x.shape[-1])
    train, test = order[:TRAIN], order[TRAIN:]

    body = [sc.LSTM(32), sc.Last()] if at_the_last_row else [sc.LSTM(32)]
    model = sc.Sequential(*body, sc.Dense(10))
    params = model.init(8, like=x, rng=0)
    opt = sc.adam(learning_rate=5e-3)
    opt_state = opt.init(params)
    for _ in range(UPDATES):
        batch = rng.choice(train, M, replace=False)
        y, _, tape = model.forward(params, x[..., batch], lengths=lengths[batch])
        logits = y if at_the_last_row else y[-1]
        _, dlogits = sc.cross_entropy(logits, classes[batch])
        if at_the_last_row:
            dy = dlogits
        else:
            dy = np.zeros_like(y)
            dy[-1] = dlogits
        _, grads, _ = model.backward(params, tape, dy)
        params, opt_state = opt.update(params, grads, opt_state)
    y, _ = model.predict(params, x[..., test], lengths=lengths[test])
    logits = y if at_the_last_row else y[-1]
    return float((logits.argmax(axis=0) == classes[test]).mean())


if __name__ == "__main__":
    print(f"sc.Last: {accuracy(at_the_last_row=True):.0%}")
    print(f"y[-1]:   {accuracy(at_the_last_row=False):.0%}")
