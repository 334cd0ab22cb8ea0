"""The floor: the matrix products of a training step and nothing else.

Code that takes the same products through the same BLAS cannot be faster than they are, so the
rest of its time goes into its other operations. With G gates and r = G n_a rows the products are

    input        W_x x[t]               for all t at once
    forward      W_h h[t]               one step after another
    backward     W_h^T dz[t]            one step after another
    dx           W_x^T dz[t]            for all t at once
    dW_x, dW_h   sum_t dz[t] x[t]^T, sum_t dz[t] h[t]^T

Every form of a product (`product_forms`) is checked and timed, and the fastest is kept, as if
changing the layout between two products cost nothing. An LSTM and an RNN may also join W_x and
W_h: forward `[W_x W_h] [x; h]`, and so on. A GRU may not, as its reset gate stands between them.

With several threads the BLAS divides each product among them. Code that divides the batch
instead takes other products, to which this floor does not apply.

The numbers are random: the time of a product does not depend on them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from harness.side import Array, Arrays, Task, Work

from sides.product_forms import PLAIN, Form, at_once, over_time, stepwise

Product = tuple[Callable[[Array, Array], Iterator[Form]], Array, Array]


class Timed(NamedTuple):
    """The fastest form of a product, and the seconds of all forms."""

    form: Form
    seconds: dict[str, float]

    @property
    def best(self) -> float:
        """The seconds of the fastest form."""
        return self.seconds[self.form.name]


def step(arrays: Arrays, task: Task) -> Work:
    """Return the work of the fastest products; each form is tried for `trial` seconds."""
    chosen = fastest_products(task["cell"], arrays, task["trial"])

    def run() -> None:
        for timed in chosen.values():
            timed.form.run()

    notes = {
        product: {
            "won": timed.form.name,
            "ms": {name: round(1e3 * s, 4) for name, s in timed.seconds.items()},
        }
        for product, timed in chosen.items()
    }
    return Work(run, lambda _: {}, notes)


def fastest_products(cell: str, arrays: Arrays, trial: float) -> dict[str, Timed]:
    """Return the fastest products of a training step, by name."""
    W_x, W_h = (W.reshape(-1, W.shape[2]) for W in (arrays["0.W_x"], arrays["0.W_h"]))
    x, h = arrays["x"], arrays["dy"]  # h has the shape of dy
    rng = np.random.default_rng(1)
    dz = rng.standard_normal((x.shape[0], W_x.shape[0], x.shape[2]), np.float32)
    W, x_and_h = np.concatenate((W_x, W_h), axis=1), np.concatenate((x, h), axis=1)
    pairs: list[tuple[dict[str, Product], dict[str, Product]]] = [
        (
            {"input": (at_once, W_x, x), "forward": (stepwise, W_h, h)},
            {"input and forward": (stepwise, W, x_and_h)},
        ),
        (
            {"backward": (stepwise, W_h.T, dz), "dx": (at_once, W_x.T, dz)},
            {"backward and dx": (stepwise, W.T, dz)},
        ),
        (
            {"dW_x": (over_time, dz, x), "dW_h": (over_time, dz, h)},
            {"dW_x and dW_h": (over_time, dz, x_and_h)},
        ),
    ]
    chosen: dict[str, Timed] = {}
    for apart, joined in pairs:
        chosen |= fastest_way([apart] if cell == "gru" else [apart, joined], trial)
    return chosen


def fastest_way(ways: list[dict[str, Product]], trial: float) -> dict[str, Timed]:
    """Return the products of the fastest way, each in its fastest form."""
    timed = [
        {
            name: fastest(forms(a, b), PLAIN[forms](a, b), trial)
            for name, (forms, a, b) in way.items()
        }
        for way in ways
    ]
    return min(timed, key=lambda way: sum(product.best for product in way.values()))


def fastest(forms: Iterator[Form], expected: Array, trial: float) -> Timed:
    """Check and time each form, and return the fastest."""
    seconds: dict[str, float] = {}
    best: Form | None = None
    for form in forms:
        form.run()
        np.testing.assert_allclose(
            form.result(), expected, rtol=0, atol=1e-4 * np.abs(expected).max(), err_msg=form.name
        )
        seconds[form.name] = shortest(form.run, trial)
        if best is None or seconds[form.name] < seconds[best.name]:
            best = form
    if best is None:
        raise ValueError("fastest: there are no forms")
    return Timed(best, seconds)


def shortest(run: Callable[[], Any], trial: float) -> float:
    """Return the shortest time of as many runs as fill `trial` seconds, at least two."""
    times: list[float] = []
    while len(times) < 2 or sum(times) < trial:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)
