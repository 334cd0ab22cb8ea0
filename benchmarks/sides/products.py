"""The floor: the matrix products of a training step and nothing else.

No code that takes the same products through the same BLAS can be faster than they are, so
what a step takes beyond them is what its other operations cost. The products, with
G gates, rows r = G n_a:

    input     W_x x[t]               for all t at once
    forward   W_h h[t]               one step after another
    backward  W_h^T dz[t]            one step after another
    dx        W_x^T dz[t]            for all t at once
    dW_x, dW_h   sum_t dz[t] x[t]^T, sum_t dz[t] h[t]^T

A product can be put to a BLAS in several forms, and which one is fastest depends on sizes,
BLAS and threads. Here each form is checked, timed, and the fastest kept, product by product,
as if a layout could be changed between two of them for nothing. An LSTM and an RNN may also
join W_x and W_h: forward `[W_x W_h] [x; h]`, and so on. A GRU, whose reset gate stands
between the two, may not.

With several threads the BLAS divides each product among them. Who divides the batch instead
takes other products, to which this floor does not apply.

The numbers are random: the time of a product does not depend on them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]

BLOCKS = (16, 32, 64, 128, 256)  # rows


class Form(NamedTuple):
    """One way of taking a product, with its result in the layout of the plain one."""

    name: str
    run: Callable[[], object]
    result: Callable[[], Array]


class Timed(NamedTuple):
    """The fastest form of a product, and the seconds of all of them."""

    form: Form
    seconds: dict[str, float]

    @property
    def best(self) -> float:
        """The seconds of the fastest form."""
        return self.seconds[self.form.name]


def rows(v: Array) -> Array:
    """Return `v (T, k, m)` as `(T m, k)`: an example at one time is a row."""
    return np.ascontiguousarray(v.transpose(0, 2, 1)).reshape(-1, v.shape[1])


def columns(v: Array) -> Array:
    """Return `v (T, k, m)` as `(k, T m)`: an example at one time is a column."""
    return np.ascontiguousarray(v.transpose(1, 0, 2)).reshape(v.shape[1], -1)


def stepwise(W: Array, v: Array) -> Iterator[Form]:
    """Yield the forms of `W (r, k) @ v[t] (k, m)`, one step after another.

    The result is that of the last step, `(r, m)`.
    """
    r, k = W.shape
    m = v.shape[2]
    W, W_t = np.ascontiguousarray(W), np.ascontiguousarray(W.T)
    v_t = np.ascontiguousarray(v.transpose(0, 2, 1))

    def loop(left: Array | None, right: Array | None, out: Array) -> Callable[[], None]:
        def run() -> None:
            if left is not None:
                for v_now in v:
                    np.matmul(left, v_now, out=out)
            else:
                for v_now in v_t:
                    np.matmul(v_now, right, out=out)

        return run

    z, z_t = np.empty((r, m), W.dtype), np.empty((m, r), W.dtype)
    yield Form("flat", loop(W, None, z), lambda: z)
    yield Form("flat, W stored transposed", loop(W_t.T, None, z), lambda: z)
    for block in blocks(r, k):
        stack = np.empty((r // block, block, m), W.dtype)
        run = loop(W.reshape(r // block, block, k), None, stack)
        yield Form(f"blocks of {block} rows", run, lambda s=stack: s.reshape(r, m))
    yield Form("transposed", loop(None, W_t, z_t), lambda: z_t.T)
    yield Form("transposed, W stored as it is", loop(None, W.T, z_t), lambda: z_t.T)


def blocks(r: int, k: int) -> list[int]:
    """Return into blocks of how many rows a `(r, k)` matrix may be divided, gates among them."""
    divisors = [d for d in range(4, r) if r % d == 0]
    fitting = ([d for d in divisors if d <= most] for most in (*BLOCKS, k))
    return list(dict.fromkeys(few[-1] for few in fitting if few))


def at_once(W: Array, v: Array) -> Iterator[Form]:
    """Yield the forms of `W (r, k) @ v[t] (k, m)` for all t at once: `(T, r, m)`."""
    (r, k), (n_steps, _, m) = W.shape, v.shape
    W, W_t = np.ascontiguousarray(W), np.ascontiguousarray(W.T)
    v_rows, v_columns = rows(v), columns(v)
    z = np.empty((n_steps, r, m), W.dtype)
    z_columns = np.empty((r, n_steps * m), W.dtype)
    z_rows = np.empty((n_steps * m, r), W.dtype)

    def from_columns() -> Array:
        return z_columns.reshape(r, n_steps, m).transpose(1, 0, 2)

    def from_rows() -> Array:
        return z_rows.reshape(n_steps, m, r).transpose(0, 2, 1)

    yield Form("a stack of T", lambda: np.matmul(W, v, out=z), lambda: z)
    for block in blocks(r, k):
        yield Form(
            f"a stack of T in blocks of {block} rows",
            lambda b=block: np.matmul(
                W.reshape(r // b, b, k), v[:, None], out=z.reshape(n_steps, r // b, b, m)
            ),
            lambda: z,
        )
    yield Form("flat columns", lambda: np.matmul(W, v_columns, out=z_columns), from_columns)
    yield Form("flat rows", lambda: np.matmul(v_rows, W_t, out=z_rows), from_rows)
    yield Form(
        "flat rows, W stored as it is", lambda: np.matmul(v_rows, W.T, out=z_rows), from_rows
    )


def over_time(dz: Array, v: Array) -> Iterator[Form]:
    """Yield the forms of `sum_t dz[t] (r, m) @ v[t]^T (m, k)`: `(r, k)`.

    A stack of T products is none of them: it has to be summed afterwards.
    """
    out = np.empty((dz.shape[1], v.shape[1]), dz.dtype)
    out_t = np.empty(out.shape[::-1], dz.dtype)
    dz_rows, dz_columns, v_rows, v_columns = rows(dz), columns(dz), rows(v), columns(v)
    for name, left, right in (
        ("rows", dz_rows.T, v_rows),
        ("columns", dz_columns, v_columns.T),
        ("columns by rows", dz_columns, v_rows),
    ):
        yield Form(
            f"flat {name}",
            lambda left=left, right=right: np.matmul(left, right, out=out),
            lambda: out,
        )
        yield Form(
            f"flat {name}, transposed",
            lambda left=left, right=right: np.matmul(right.T, left.T, out=out_t),
            lambda: out_t.T,
        )


# What the forms must give.
PLAIN: dict[Callable[[Array, Array], Iterator[Form]], Callable[[Array, Array], Array]] = {
    stepwise: lambda W, v: W @ v[-1],
    at_once: lambda W, v: W @ v,
    over_time: lambda dz, v: np.tensordot(dz, v, axes=((0, 2), (0, 2))),
}


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


def shortest(run: Callable[[], object], trial: float) -> float:
    """Return the shortest time of as many runs as fill `trial` seconds, at least two."""
    times: list[float] = []
    while len(times) < 2 or sum(times) < trial:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


class Step:
    """The fastest products found for a training step."""

    def __init__(self, cell: str, arrays: dict[str, Array], trial: float) -> None:
        """Try each form for so many seconds; keep the fastest ones."""
        W_x, W_h = (W.reshape(-1, W.shape[2]) for W in (arrays["0.W_x"], arrays["0.W_h"]))
        x, h = arrays["x"], arrays["dy"]  # h has the shape of dy
        rng = np.random.default_rng(1)
        dz = rng.standard_normal((x.shape[0], W_x.shape[0], x.shape[2]), np.float32)
        self.chosen = {
            **choose(
                *(cell, trial),
                apart={"input": (at_once, W_x, x), "forward": (stepwise, W_h, h)},
                joined={"input and forward": (stepwise, *join(W_x, W_h, x, h))},
            ),
            **choose(
                *(cell, trial),
                apart={"backward": (stepwise, W_h.T, dz), "dx": (at_once, W_x.T, dz)},
                joined={"backward and dx": (stepwise, np.concatenate((W_x, W_h), 1).T, dz)},
            ),
            **choose(
                *(cell, trial),
                apart={"dW_x": (over_time, dz, x), "dW_h": (over_time, dz, h)},
                joined={"dW_x and dW_h": (over_time, dz, np.concatenate((x, h), axis=1))},
            ),
        }

    def run(self) -> None:
        """Take all products once."""
        for timed in self.chosen.values():
            timed.form.run()

    def notes(self) -> dict[str, Any]:
        """Say which form of each product won, and the milliseconds of those that lost."""
        return {
            product: {
                "won": timed.form.name,
                "ms": {name: round(1e3 * s, 4) for name, s in timed.seconds.items()},
            }
            for product, timed in self.chosen.items()
        }


Product = tuple[Callable[[Array, Array], Iterator[Form]], Array, Array]


def join(W_x: Array, W_h: Array, x: Array, h: Array) -> tuple[Array, Array]:
    """Return `[W_x W_h]` and `[x; h]`."""
    return np.concatenate((W_x, W_h), axis=1), np.concatenate((x, h), axis=1)


def choose(
    cell: str, trial: float, *, apart: dict[str, Product], joined: dict[str, Product]
) -> dict[str, Timed]:
    """Return the fastest forms of two products, apart or as one where the cell can."""
    ways = [apart] if cell == "gru" else [apart, joined]
    timed = [
        {
            name: fastest(forms(a, b), PLAIN[forms](a, b), trial)
            for name, (forms, a, b) in way.items()
        }
        for way in ways
    ]
    return min(timed, key=lambda way: sum(product.best for product in way.values()))
