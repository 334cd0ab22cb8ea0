"""The gated recurrent unit, with the reset gate after the recurrent product.

    (1) z = W_x x + b                               (3, n_a, m), in the order r, u, n
    (2) r = sigmoid(z_r + W_h,r h'),  u = sigmoid(z_u + W_h,u h')
    (3) q = W_h,n h' + b_h;  n = tanh(z_n + r * q)
    (4) h = u * h' + (1 - u) * n                    h' is the state before the step

Backward, from dh = dL/dh after the step:

    (4') du = dh * (h' - n);  dn = dh * (1 - u);  dh' = dh * u
    (3') dz_n = dn (1 - n^2);  dr = dz_n * q;  dq = dz_n * r
    (2') dz_r = dr r (1 - r);  dz_u = du u (1 - u)
    (1') dh' += W_h^T [dz_r; dz_u; dq]
         dW_x = sum_t dz x^T,  db = sum_t dz
         dW_h = sum_t [dz_r; dz_u; dq] h'^T,  db_h = sum_t dq

As in the LSTM, the rows of both sigmoids are halved, so that tanh computes them. This is the
form of cuDNN, PyTorch and Keras; `gru_reset_before.py` has the other form.

Source: Cho et al., "Learning phrase representations using RNN encoder-decoder", version 1,
arXiv:1406.1078v1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from seqcore.arrays import Array, Namespace
from seqcore.cells.contract import BackwardMaps, ForwardMaps, Gate, sigmoid_of_halved
from seqcore.kernels import Gates, Options


class GRUState(NamedTuple):
    """The state of a GRU: `h (n_a, m)`; in a layer with a leading axis of layers."""

    h: Array


class GRUSaved(NamedTuple):
    """What a step keeps for the backward pass."""

    h: Array  # (n_a, m), before the step
    ru: Array  # (2, n_a, m), the activated gates
    n: Array  # (n_a, m), the candidate
    q: Array  # (n_a, m), of equation (3)


def mix(u: Array, h: Array, n: Array) -> Array:
    """Return u * h + (1 - u) * n, equation (4)."""
    after = h - n
    after *= u
    after += n
    return after


def gru_gates(xp: Namespace, z: Array, z_n: Array, q: Array, h: Array) -> tuple[Array, ...]:
    """Return h after a step, ru and n from z of r and u, z of n, q, and h before it."""
    ru = sigmoid_of_halved(xp, z)  # (2)
    n = ru[0, ...] * q
    n += z_n
    n = xp.tanh(n)  # (3)
    return mix(ru[1, ...], h, n), ru, n


def gru_gates_vjp(xp: Namespace, saved: GRUSaved, dh: Array) -> tuple[Array, Array]:
    """Return dz of n, r, u and q, `(4, n_a, m)`, and dh * u."""
    h, ru, n, q = saved
    dh_u = dh * ru[1, ...]
    dz_n = dh - dh_u
    dz_n *= 1.0 - n * n  # (4'), (3')
    # Multiply by the slope first: it is 0 at a closed gate, and dh * h' alone could overflow.
    slope = 1.0 - ru
    slope *= ru
    dz_u = slope[1, ...] * (h - n)
    dz_u *= dh
    dz_r = slope[0, ...] * q
    dz_r *= dz_n  # (2')
    return xp.stack((dz_n, dz_r, dz_u, dz_n * ru[0, ...])), dh_u


@dataclass(frozen=True)
class GRUCell:
    """h = u * h' + (1 - u) * n, with the reset gate after the product."""

    name: ClassVar[str] = "gru"
    state_type: ClassVar[type[GRUState]] = GRUState
    saved_type: ClassVar[type[GRUSaved]] = GRUSaved
    gates: ClassVar[tuple[Gate, ...]] = (
        Gate("r", sigmoid=True),
        Gate("u", sigmoid=True),
        Gate("n", apart=True),
    )
    takes: ClassVar[tuple[str, ...]] = ("h",)
    own: ClassVar[dict[str, tuple[str, ...]]] = {}
    elementwise: ClassVar[Gates] = Gates(gru_gates, gru_gates_vjp)

    @property
    def options(self) -> Options:
        """There are none."""
        return ()

    def step(
        self, xp: Namespace, maps: ForwardMaps, at: Array, state: GRUState
    ) -> tuple[GRUState, GRUSaved]:
        """Take one step."""
        (h,) = state
        z, z_n, q = maps.products[0](at, h)  # (1)
        after, ru, n = maps.gates.forward(xp, z, z_n[0, ...], q[0, ...], h)
        return GRUState(after), GRUSaved(h, ru, n, q[0, ...])

    def step_vjp(
        self, xp: Namespace, maps: BackwardMaps, saved: GRUSaved, dstate: GRUState
    ) -> tuple[Array, GRUState, tuple[Array, ...]]:
        """Go one step back; dz is in the order n, r, u, q."""
        dz, dh = maps.gates.backward(xp, saved, dstate[0])
        dh += maps.products[0](dz)  # (1')
        return dz, GRUState(dh), ()
