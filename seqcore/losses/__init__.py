"""Losses with their gradients, averaged over the steps and examples that a mask keeps.

A loss returns a 0-d array and its gradient with respect to the predictions. If the mask keeps
nothing, both are 0.
"""

from seqcore.losses.cross_entropy import cross_entropy
from seqcore.losses.squared_error import squared_error

__all__ = ["cross_entropy", "squared_error"]
