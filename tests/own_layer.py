"""A recurrent layer of a user's own, and what may be wrong with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import seqcore as sc
from seqcore import masks

N_IN, N_OWN = 2, 4


class OwnState(NamedTuple):
    h: Any


@dataclasses.dataclass(frozen=True)
class Own:
    """h[t] = tanh(w x[t] + u h[t-1] + b), y = h: a user's layer, right unless it is spoiled."""

    spoil: Callable[[SimpleNamespace], Any] | None = None  # changes what backward returns
    spoil_forward: Callable[[SimpleNamespace], Any] | None = None
    n_out: int = N_OWN
    blanks: bool = True  # x at steps that do not count
    carries: bool = True  # the state over them
    name = "own"
    keeps_time = True

    def shapes(self):
        return {"w": (N_OWN, "n_in"), "u": (N_OWN, N_OWN), "b": (N_OWN, 1)}

    def init(self, n_in, *, like, rng):
        sizes = {"w": n_in, "u": N_OWN, "b": 1}
        return {k: sc.arrays.like(rng.standard_normal((N_OWN, n)), like) for k, n in sizes.items()}

    def forward(self, params, x, state=None, lengths=None, mask=None, draw=None):
        xp, steps = sc.arrays.namespace(x), masks.steps("own", x, lengths, mask)
        whole, x = x, masks.blank(xp, steps, x) if self.blanks else x
        h = xp.zeros_like(params["b"] + x[0, :1, :]) if state is None else state[0]
        hs, ys = [h], []
        for t in range(x.shape[0]):
            new = xp.tanh(params["w"] @ x[t, ...] + params["u"] @ h + params["b"])
            seen = None if steps is None else steps[t, ...][None, :]
            h = new if seen is None else xp.where(seen, new, h if self.carries else 0.0)
            hs.append(h)
            ys.append(masks.where_mask(xp, seen, h))
        made = SimpleNamespace(
            y=xp.stack(ys),
            state=OwnState(h),
            tape=(x, hs, steps, state is None),
            x=whole,
            params=params,
            given=state,
            steps=steps,
        )
        return (self.spoil_forward or right_forward)(made)

    def predict(self, params, x, state=None, lengths=None, mask=None):
        # Whatever forward does wrong, predict does not.
        return dataclasses.replace(self, spoil_forward=None).forward(
            params, x, state, lengths, mask
        )[:2]

    def backward(self, params, tape, dy, dstate=None, wrt=None):
        x, hs, steps, fresh = tape
        xp = sc.arrays.namespace(x)
        dh = xp.zeros_like(hs[0]) if dstate is None else dstate[0]
        dzs, dxs = [], []
        for t in reversed(range(x.shape[0])):
            seen = None if steps is None else steps[t, ...][None, :]
            dnew = masks.where_mask(xp, seen, dh + dy[t, ...])
            dz = dnew * (1.0 - hs[t + 1] * hs[t + 1])
            past = xp.zeros_like(dh)
            if seen is not None and self.carries:
                past = xp.where(seen, past, dh)
            dh = params["u"].T @ dz + past
            dzs.insert(0, dz)
            dxs.insert(0, params["w"].T @ dz)
        grads = {
            "w": sum(dz @ x[t, ...].T for t, dz in enumerate(dzs)),
            "u": sum(dz @ hs[t].T for t, dz in enumerate(dzs)),
            "b": sum(xp.sum(dz, axis=1, keepdims=True) for dz in dzs),
        }
        made = SimpleNamespace(dx=xp.stack(dxs), grads=grads, dstate=OwnState(dh))
        made.__dict__.update(
            x=x,
            hs=hs,
            steps=steps,
            fresh=fresh,
            dzs=dzs,
            dy=dy,
            dafter=dstate,
            wrt=wrt,
            params=params,
        )
        return (self.spoil or right)(made)

    def bind(self, params, m=1):
        def step(x, state=None):
            y, after = self.predict(params, x[None], state)
            return y[0], after

        return step


def right(b):
    return b.dx, b.grads, b.dstate


def right_forward(f):
    return f.y, f.state, f.tape


def with_grads(b, /, **changed):
    return b.dx, b.grads | changed, b.dstate
