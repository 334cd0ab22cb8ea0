"""The gated recurrent unit, with the reset gate after or before the recurrent product.

    (1) z = W_x x + b                               (3, n_a, m), in the order r, u, n
    (2) r = sigmoid(z_r + W_h,r h'),  u = sigmoid(z_u + W_h,u h')
    (3) after:  q = W_h,n h' + b_h,   n = tanh(z_n + r * q)
        before: q = r * h',           n = tanh(z_n + W_h,n q)
    (4) h = u * h' + (1 - u) * n

Back, from dh = dL/dh after the step:

    (4') du = dh * (h' - n);  dn = dh * (1 - u);  dh' = dh * u
    (3') dz_n = dn (1 - n^2)
         after:  dr = dz_n * q;             dq = dz_n * r;  dh' += W_h,n^T dq
         before: dq = W_h,n^T dz_n;         dr = dq * h';   dh' += dq * r
    (2') dz_r = dr r (1 - r);  dz_u = du u (1 - u);  dh' += W_h,r^T dz_r + W_h,u^T dz_u
    (1') dW_x = sum_t dz x^T,  db = sum_t dz
         dW_h,r = sum_t dz_r h'^T,  dW_h,u = sum_t dz_u h'^T
         after:  dW_h,n = sum_t dq h'^T,  db_h = sum_t dq
         before: dW_h,n = sum_t dz_n q^T

As in the LSTM the rows of both sigmoids are halved, and tanh does the rest.

`reset_after=True` is the form of cuDNN, PyTorch and Keras; False that of the first paper.
Source: Cho et al., "Learning phrase representations using RNN encoder-decoder", EMNLP 2014,
equations 5 to 8; the other form: version 1 of the same, arXiv:1406.1078v1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from seqcore import arrays, random
from seqcore.arrays import Array, Namespace, Params
from seqcore.cells import products

if TYPE_CHECKING:
    import numpy as np


class GRUState(NamedTuple):
    """The state of a GRU: `h (n_a, m)`; in `layers.GRU` with a leading axis of layers."""

    h: Array


class GRUSaved(NamedTuple):
    """What a step keeps for the way back."""

    h: Array  # (n_a, m), before the step
    ru: Array  # (2, n_a, m), the activated gates
    n: Array  # (n_a, m), the candidate
    q: Array  # (n_a, m), what stands beside the reset gate


def _sigmoid_of_halved(xp: Namespace, z: Array) -> Array:
    s = 0.5 * xp.tanh(z)  # a new array: PyTorch's autograd keeps that of tanh
    s += 0.5
    return s


def _mix(u: Array, h: Array, n: Array) -> Array:
    after = h - n
    after *= u
    after += n
    return after


def gru_gates(
    xp: Namespace, z: Array, z_x: Array, b_h: Array, h: Array
) -> tuple[Array, Array, Array, Array]:
    """Return h after a step, ru, n and q from z = W_h h', with the reset gate after it."""
    ru = _sigmoid_of_halved(xp, z[:2, ...] + z_x[:2, ...])  # (2)
    q = z[2, ...] + b_h
    n = ru[0, ...] * q
    n += z_x[2, ...]
    n = xp.tanh(n)  # (3)
    return _mix(ru[1, ...], h, n), ru, n, q  # (4)


def gru_gates_vjp(xp: Namespace, saved: GRUSaved, dh: Array) -> tuple[Array, Array]:
    """Return dz of n, r, u and q, `(4, n_a, m)`, and dh * u, with the reset gate after."""
    h, ru, n, q = saved
    dh_u = dh * ru[1, ...]
    dz_n = dh - dh_u
    dz_n *= 1.0 - n * n  # (4'), (3')
    # The slope first: that of a closed gate is 0, and dh * h' alone could overflow.
    slope = 1.0 - ru
    slope *= ru
    dz_u = slope[1, ...] * (h - n)
    dz_u *= dh
    dz_r = slope[0, ...] * q
    dz_r *= dz_n  # (2')
    return xp.stack((dz_n, dz_r, dz_u, dz_n * ru[0, ...])), dh_u


@dataclass(frozen=True)
class GRUCell:
    """h = u * h' + (1 - u) * n."""

    reset_after: bool = True

    name: ClassVar[str] = "gru"
    gates: ClassVar[int] = 3
    state_type: ClassVar[type[GRUState]] = GRUState
    saved_type: ClassVar[type[GRUSaved]] = GRUSaved

    @property
    def shapes(self) -> dict[str, tuple[int | str, ...]]:
        """The shape of each parameter, in sizes and letters; gates in the order r, u, n."""
        shapes: dict[str, tuple[int | str, ...]] = {
            "W_x": (3, "n_a", "n_x"),
            "W_h": (3, "n_a", "n_a"),
            "b": (3, "n_a", 1),
        }
        if self.reset_after:
            shapes["b_h"] = (1, "n_a", 1)
        return shapes

    def init(self, n_x: int, n_a: int, *, like: Array, rng: np.random.Generator) -> Params:
        """Draw W_x Glorot uniform, W_h orthogonal; biases are 0."""
        params = random.recurrent(rng, n_x, n_a, biases=(0.0, 0.0, 0.0), like=like)
        if self.reset_after:
            params["b_h"] = arrays.like([[[0.0]] * n_a], like)
        return params

    def prepare(self, xp: Namespace, params: Params, m: int) -> tuple[Array, tuple[Any, ...]]:
        """Return `[W_x b]` and the recurrent weights, the rows of both sigmoids halved."""
        half = arrays.like([[[0.5]], [[0.5]], [[1.0]]], params["b"])
        W = xp.concat((params["W_x"], params["b"]), axis=2)
        W *= half
        W = products.flat(xp, W)
        W_h = params["W_h"] * half
        if self.reset_after:
            W_h = products.blocked(xp, products.flat(xp, W_h), m)
            gates = arrays.kernel(xp, "gru_gates", gru_gates)
            return W, (W_h, params["b_h"][0, ...], gates)
        W_ru, W_n = products.flat(xp, W_h[:2, ...]), W_h[2, ...]
        return W, (products.blocked(xp, W_ru, m), products.blocked(xp, W_n, m))

    def step(
        self, xp: Namespace, weights: tuple[Any, ...], z_x: Array, state: GRUState
    ) -> tuple[GRUState, GRUSaved]:
        """Take one step."""
        h = state.h
        if self.reset_after:
            W_h, b_h, gates = weights
            z = xp.reshape(W_h @ h, z_x.shape)  # (3, n_a, m)
            after, ru, n, q = gates(xp, z, z_x, b_h, h)
            return GRUState(after), GRUSaved(h, ru, n, q)
        W_ru, W_n = weights
        z_ru = xp.reshape(W_ru @ h, (2, *h.shape))
        z_ru += z_x[:2, ...]
        ru = _sigmoid_of_halved(xp, z_ru)  # (2)
        q = ru[0, ...] * h
        n = xp.reshape(W_n @ q, h.shape)
        n += z_x[2, ...]
        n = xp.tanh(n)  # (3)
        return GRUState(_mix(ru[1, ...], h, n)), GRUSaved(h, ru, n, q)  # (4)

    def prepare_vjp(self, xp: Namespace, params: Params, m: int) -> tuple[Array, tuple[Any, ...]]:
        """Return `W_x^T`, and `(W_h^T,)` or for the other form those of r, u and of n apart."""
        W_x, W_h = params["W_x"], params["W_h"]
        if self.reset_after:
            W_x = xp.concat((W_x[2:, ...], W_x[:2, ...]))  # n, r, u
            W_h_t = products.blocked(xp, products.transposed(xp, W_h), m)
            gates = arrays.kernel(xp, "gru_gates_vjp", gru_gates_vjp)
            return xp.matrix_transpose(products.flat(xp, W_x)), (W_h_t, gates)
        W_ru_t = products.blocked(xp, products.transposed(xp, W_h[:2, ...]), m)
        W_n_t = products.blocked(xp, products.transposed(xp, W_h[2:, ...]), m)
        return xp.matrix_transpose(products.flat(xp, W_x)), (W_ru_t, W_n_t)

    def step_vjp(
        self, xp: Namespace, weights: tuple[Any, ...], saved: GRUSaved, dstate: GRUState
    ) -> tuple[Array, None, GRUState]:
        """Go one step back: dz in the order n, r, u, q, or for the other form r, u, n."""
        (dh,) = dstate
        if self.reset_after:
            W_h_t, gates = weights
            dz, dh_before = gates(xp, saved, dh)
            rows = xp.reshape(dz[1:, ...], (-1, dh.shape[1]))
            dh_before += xp.reshape(W_h_t @ rows, dh.shape)
            return dz, None, GRUState(dh_before)
        W_ru_t, W_n_t = weights
        h, ru, n, _ = saved
        r, u = ru[0, ...], ru[1, ...]
        dh_before = dh * u
        dz_n = dh - dh_before
        dz_n *= 1.0 - n * n  # (4'), (3')
        # The slope first: that of a closed gate is 0, and dh * h' alone could overflow.
        slope = 1.0 - ru
        slope *= ru
        dz_u = slope[1, ...] * (h - n)
        dz_u *= dh
        dq = xp.reshape(W_n_t @ dz_n, dh.shape)
        dh_before += dq * r
        dz_r = slope[0, ...] * h
        dz_r *= dq  # (2')
        dz = xp.stack((dz_r, dz_u, dz_n))
        rows = xp.reshape(dz[:2, ...], (-1, dh.shape[1]))
        dh_before += xp.reshape(W_ru_t @ rows, dh.shape)
        return dz, None, GRUState(dh_before)

    def outer(
        self, xp: Namespace, dz: Array, v: Array, n_x: int, saved: GRUSaved
    ) -> tuple[Array, ...]:
        """Return `[dW_x db]`, and `[db_h dW_h]` or for the other form dW_h of r, u and of n."""
        to_x, to_h = v[: n_x + 1, ...], v[n_x:, ...]
        if self.reset_after:
            n_a = dz.shape[0] // 4
            of_x = products.outer(xp, dz[: 3 * n_a, ...], to_x)
            return of_x, products.outer(xp, dz[n_a:, ...], to_h)
        n_a = dz.shape[0] // 3
        of_x = products.outer(xp, dz, to_x)
        of_ru = products.outer(xp, dz[: 2 * n_a, ...], to_h[1:, ...])
        q = products.columns(xp, saved.q)
        return of_x, of_ru, products.outer(xp, dz[2 * n_a :, ...], q)

    def grads(self, xp: Namespace, outers: tuple[Array, ...], n_x: int) -> Params:
        """Return the gradient of every parameter."""
        of_x = xp.reshape(outers[0], (3, -1, n_x + 1))
        if not self.reset_after:
            dW_h = xp.concat(outers[1:])
            n_a = dW_h.shape[1]
            return {
                "W_x": of_x[:, :, :n_x],
                "b": of_x[:, :, n_x:],
                "W_h": xp.reshape(dW_h, (3, n_a, n_a)),
            }
        of_x = xp.concat((of_x[1:, ...], of_x[:1, ...]))  # r, u, n
        of_h = xp.reshape(outers[1], (3, of_x.shape[1], -1))
        return {
            "W_x": of_x[:, :, :n_x],
            "b": of_x[:, :, n_x:],
            "W_h": of_h[:, :, 1:],
            "b_h": of_h[2:, :, :1],
        }
