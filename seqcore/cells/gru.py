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
from typing import TYPE_CHECKING, ClassVar, NamedTuple

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

    ru: Array  # (2, n_a, m), the activated gates
    n: Array  # (n_a, m), the candidate
    q: Array  # (n_a, m), what stands beside the reset gate


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

    def prepare(self, xp: Namespace, params: Params) -> tuple[Array, Array, tuple[Array, ...]]:
        """Return W_x, b and the recurrent weights, the rows of both sigmoids halved."""
        W_x, W_h, b = params["W_x"], params["W_h"], params["b"]
        half = arrays.like([[[0.5]], [[0.5]], [[1.0]]], b)
        if self.reset_after:
            return W_x * half, b * half, (W_h * half, params["b_h"][0, ...])
        return W_x * half, b * half, (W_h[:2, ...] * 0.5, W_h[2, ...])

    def step(
        self, xp: Namespace, weights: tuple[Array, ...], z_x: Array, state: GRUState
    ) -> tuple[GRUState, GRUSaved]:
        """Take one step."""
        h = state.h
        if self.reset_after:
            W_h, b_h = weights
            z = xp.matmul(W_h, h)  # (3, n_a, m)
            ru = xp.tanh(z[:2, ...] + z_x[:2, ...])
            q = z[2, ...] + b_h
        else:
            W_ru, W_n = weights
            ru = xp.matmul(W_ru, h)  # (2, n_a, m)
            ru += z_x[:2, ...]
            ru = xp.tanh(ru)
        ru = 0.5 * ru  # a new array: PyTorch's autograd keeps that of tanh
        ru += 0.5  # (2)
        r, u = ru[0, ...], ru[1, ...]
        if self.reset_after:
            n = r * q
        else:
            q = r * h
            n = xp.matmul(W_n, q)
        n += z_x[2, ...]
        n = xp.tanh(n)  # (3)
        after = h - n
        after *= u
        after += n  # (4)
        return GRUState(after), GRUSaved(ru, n, q)

    def prepare_vjp(self, xp: Namespace, params: Params) -> tuple[Array, ...]:
        """Return `(W_h^T,)`, or for the other form those of r, u and of n apart."""
        W_h = params["W_h"]
        if self.reset_after:
            return (products.transposed(xp, W_h),)
        return products.transposed(xp, W_h[:2, ...]), products.transposed(xp, W_h[2:, ...])

    def step_vjp(
        self,
        xp: Namespace,
        weights: tuple[Array, ...],
        before: GRUState,
        after: GRUState,
        saved: GRUSaved,
        dstate: GRUState,
    ) -> tuple[Array, GRUState]:
        """Go one step back."""
        h, dh = before.h, dstate.h
        ru, n, q = saved
        r, u = ru[0, ...], ru[1, ...]
        dh_before = dh * u
        dz_n = dh - dh_before
        dz_n *= 1.0 - n * n  # (4'), (3')
        # The slope first: that of a closed gate is 0, and dh * h' alone could overflow.
        slope = 1.0 - ru
        slope *= ru
        dz_u = slope[1, ...] * (h - n)
        dz_u *= dh
        if self.reset_after:
            dz_r = slope[0, ...] * q
            dz_r *= dz_n  # (2')
            dz_h = xp.stack((dz_r, dz_u, dz_n * r))
        else:
            dq = products.back(xp, weights[1], xp.expand_dims(dz_n, axis=0))
            dh_before += dq * r
            dz_r = slope[0, ...] * h
            dz_r *= dq  # (2')
            dz_h = xp.stack((dz_r, dz_u))
        dz = xp.stack((dz_r, dz_u, dz_n))  # (3, n_a, m)
        dh_before += products.back(xp, weights[0], dz_h)
        return dz, GRUState(dh_before)

    def recurrent_grads(
        self, xp: Namespace, before: GRUState, saved: GRUSaved, dz: Array
    ) -> Params:
        """Return dW_h and, with the reset gate after the product, db_h, summed over time."""
        dW_ru = products.over_time(xp, dz[:, :2, ...], before.h)
        if not self.reset_after:
            dW_n = products.over_time(xp, dz[:, 2:, ...], saved.q)
            return {"W_h": xp.concat((dW_ru, dW_n))}
        dq = dz[:, 2:, ...] * saved.ru[:, :1, ...]  # (T, 1, n_a, m)
        return {
            "W_h": xp.concat((dW_ru, products.over_time(xp, dq, before.h))),
            "b_h": products.bias_over_time(xp, dq),
        }
