"""Gradients against finite differences, for layers of a user's own.

`differences.py` differentiates any function of named arrays; `call.py` is one call of a layer;
`check.py` runs the calls and says what is wrong.
"""

from seqcore.gradients.check import GradientCheck, check_gradients
from seqcore.gradients.error import GradientError

__all__ = ["GradientCheck", "GradientError", "check_gradients"]
