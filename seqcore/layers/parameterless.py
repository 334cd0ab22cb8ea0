"""What layers without parameters share, whose y has the features of x."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seqcore import random
from seqcore.arrays import Array, Params, Shapes
from seqcore.layers.contract import check_like
from seqcore.layers.door import BuiltIn

if TYPE_CHECKING:
    import numpy as np


class Parameterless(BuiltIn):
    """A layer without parameters, whose y has the features of x."""

    @property
    def n_out(self) -> int | None:
        """None: as many output features as input features."""
        return None

    def shapes(self) -> Shapes:
        """There are no parameters."""
        return {}

    def init(self, n_in: int, *, like: Array, rng: np.random.Generator | int) -> Params:
        """Return no parameters."""
        check_like(self.name, like, n_in)
        random.generator(rng)
        return {}
