"""The gated recurrent unit of the first paper, with the reset gate before the product.

    (1) z = W_x x + b                               (3, n_a, m), in the order r, u, n
    (2) r = sigmoid(z_r + W_h,r h'),  u = sigmoid(z_u + W_h,u h')
    (3) q = r * h';  n = tanh(z_n + W_h,n q)
    (4) h = u * h' + (1 - u) * n                    h' is the state before the step

Backward, from dh = dL/dh after the step:

    (4') du = dh * (h' - n);  dn = dh * (1 - u);  dh' = dh * u
    (3') dz_n = dn (1 - n^2);  dq = W_h,n^T dz_n;  dr = dq * h';  dh' += dq * r
    (2') dz_r = dr r (1 - r);  dz_u = du u (1 - u)
    (1') dh' += W_h,r^T dz_r + W_h,u^T dz_u
         dW_x = sum_t dz x^T,  db = sum_t dz
         dW_h,r = sum_t dz_r h'^T,  dW_h,u = sum_t dz_u h'^T,  dW_h,n = sum_t dz_n q^T

Source: Cho et al., "Learning phrase representations using RNN encoder-decoder", EMNLP 2014,
equations 5 to 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from seqcore.arrays import Array, Namespace
from seqcore.cells.contract import BackwardMaps, ForwardMaps, Gate, sigmoid_of_halved
from seqcore.cells.gru import GRUSaved, GRUState, mix
from seqcore.kernels import Gates, Options


def reset_gates(xp: Namespace, z: Array, h: Array) -> tuple[Array, ...]:
    """Return ru and q from z of r and u, and h before the step."""
    ru = sigmoid_of_halved(xp, z)  # (2)
    return ru, ru[0, ...] * h


def reset_gates_vjp(
    xp: Namespace,  # noqa: ARG001 - all gates are called with it
    saved: GRUSaved,
    dh: Array,
) -> tuple[Array, ...]:
    """Return dz of n, dz of u, the slope of r times h', and dh * u."""
    h, ru, n, _ = saved
    dh_u = dh * ru[1, ...]
    dz_n = dh - dh_u
    dz_n *= 1.0 - n * n  # (4'), (3')
    # Multiply by the slope first: it is 0 at a closed gate, and dh * h' alone could overflow.
    slope = 1.0 - ru
    slope *= ru
    dz_u = slope[1, ...] * (h - n)
    dz_u *= dh
    return dz_n, dz_u, slope[0, ...] * h, dh_u


@dataclass(frozen=True)
class GRUResetBeforeCell:
    """h = u * h' + (1 - u) * n, with the reset gate before the product."""

    name: ClassVar[str] = "gru_reset_before"
    state_type: ClassVar[type[GRUState]] = GRUState
    saved_type: ClassVar[type[GRUSaved]] = GRUSaved
    gates: ClassVar[tuple[Gate, ...]] = (
        Gate("r", sigmoid=True),
        Gate("u", sigmoid=True),
        Gate("n", product=1),
    )
    takes: ClassVar[tuple[str, ...]] = ("h", "q")
    own: ClassVar[dict[str, tuple[str, ...]]] = {}
    elementwise: ClassVar[Gates] = Gates(reset_gates, reset_gates_vjp)

    @property
    def options(self) -> Options:
        """There are none."""
        return ()

    def step(
        self, xp: Namespace, maps: ForwardMaps, at: Array, state: GRUState
    ) -> tuple[GRUState, GRUSaved]:
        """Take one step."""
        (h,) = state
        z = maps.products[0](at, h)  # (1)
        ru, q = maps.gates.forward(xp, z, h)
        n = xp.tanh(maps.products[1](at, q)[0, ...])  # (3)
        return GRUState(mix(ru[1, ...], h, n)), GRUSaved(h, ru, n, q)  # (4)

    def step_vjp(
        self, xp: Namespace, maps: BackwardMaps, saved: GRUSaved, dstate: GRUState
    ) -> tuple[Array, GRUState, tuple[Array, ...]]:
        """Go one step back."""
        dz_n, dz_u, slope, dh = maps.gates.backward(xp, saved, dstate[0])
        dq = maps.products[1](dz_n)
        dh += dq * saved.ru[0, ...]
        dz_r = slope * dq  # (2')
        dz = xp.stack((dz_r, dz_u, dz_n))
        dh += maps.products[0](dz[:2, ...])  # (1')
        return dz, GRUState(dh), ()
