"""A trial cell: the minimal gated unit, in the one file of equations that a new cell takes.

    (1) z = W_x x + b                               (2, n_a, m), in the order f, n
    (2) f = sigmoid(z_f + W_h,f h')
    (3) q = f * h';  n = tanh(z_n + W_h,n q)
    (4) h = (1 - f) * h' + f * n                    h' is the state before the step

Backward, from dh = dL/dh after the step:

    (4') df = dh * (n - h');  dn = dh * f;  dh' = dh * (1 - f)
    (3') dz_n = dn (1 - n^2);  dq = W_h,n^T dz_n;  df += dq * h';  dh' += dq * f
    (2') dz_f = df f (1 - f)
    (1') dh' += W_h,f^T dz_f
         dW_x = sum_t dz x^T,  db = sum_t dz
         dW_h,f = sum_t dz_f h'^T,  dW_h,n = sum_t dz_n q^T

Source: Zhou et al., "Minimal gated unit for recurrent neural networks", International Journal
of Automation and Computing 13, 2016, equations 7a to 7c.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from seqcore.arrays import Array, Namespace
from seqcore.cells.contract import BackwardMaps, Cell, ForwardMaps, Gate
from seqcore.kernels import Gates, Options
from seqcore.layers import Recurrent


class MGUState(NamedTuple):
    """The state: `h (n_a, m)`."""

    h: Array


class MGUSaved(NamedTuple):
    """What a step keeps for the backward pass."""

    h: Array  # (n_a, m), before the step
    f: Array  # (n_a, m), the gate
    n: Array  # (n_a, m), the candidate
    q: Array  # (n_a, m), what the gate lets through


def mgu_gates(xp: Namespace, z: Array, h: Array) -> tuple[Array, ...]:
    """Return f and q from z of f, halved, and h before the step."""
    f = 0.5 * xp.tanh(z)
    f += 0.5  # (2)
    return f, f * h


def mgu_gates_vjp(_: Namespace, saved: MGUSaved, dh: Array) -> tuple[Array, ...]:
    """Return dz of n, dz of f but for q, the slope of f times h', and dh * (1 - f)."""
    h, f, n, _ = saved
    dn = dh * f
    slope = f * (1.0 - f)
    return dn * (1.0 - n * n), slope * (n - h) * dh, slope * h, dh - dn  # (4')


@dataclass(frozen=True)
class MGUCell:
    """h = (1 - f) * h' + f * n."""

    name: ClassVar[str] = "mgu"
    state_type: ClassVar[type[MGUState]] = MGUState
    saved_type: ClassVar[type[MGUSaved]] = MGUSaved
    gates: ClassVar[tuple[Gate, ...]] = (Gate("f", sigmoid=True), Gate("n", product=1))
    takes: ClassVar[tuple[str, ...]] = ("h", "q")
    own: ClassVar[dict[str, tuple[str, ...]]] = {}
    elementwise: ClassVar[Gates] = Gates(mgu_gates, mgu_gates_vjp)

    @property
    def options(self) -> Options:
        """There are none."""
        return ()

    def step(
        self, xp: Namespace, maps: ForwardMaps, at: Array, state: MGUState
    ) -> tuple[MGUState, MGUSaved]:
        """Take one step."""
        (h,) = state
        f, q = maps.gates.forward(xp, maps.products[0](at, h)[0, ...], h)  # (1)
        n = xp.tanh(maps.products[1](at, q)[0, ...])  # (3)
        return MGUState(h + f * (n - h)), MGUSaved(h, f, n, q)  # (4)

    def step_vjp(
        self, xp: Namespace, maps: BackwardMaps, saved: MGUSaved, dstate: MGUState
    ) -> tuple[Array, MGUState, tuple[Array, ...]]:
        """Go one step back."""
        dz_n, dz_f, slope, dh = maps.gates.backward(xp, saved, dstate[0])
        dq = maps.products[1](dz_n)  # (3')
        dz_f += slope * dq  # (2')
        dh += dq * saved.f
        dh += maps.products[0](dz_f)  # (1')
        return xp.stack((dz_f, dz_n)), MGUState(dh), ()


@dataclass(frozen=True)
class MGU(Recurrent):
    """Minimal gated units, one on top of another."""

    name = "mgu"

    def cell(self) -> Cell:
        """Return the cell."""
        return MGUCell()
