"""Checks of arguments: each error names the place, what was given and what was expected.

Shapes and sizes raise ValueError; dtypes, libraries and devices raise TypeError. The loop
over time checks nothing.
"""

from seqcore.checks.kinds import (
    concrete,
    floating,
    floats,
    in_range,
    indices,
    integral,
    one_library,
    usable,
)
from seqcore.checks.numbers import (
    above_zero,
    count,
    flag,
    is_whole,
    number,
    plain,
    positive,
    whole,
)
from seqcore.checks.shapes import Sizes, parameters, series, shape, size

__all__ = [
    "Sizes",
    "above_zero",
    "concrete",
    "count",
    "flag",
    "floating",
    "floats",
    "in_range",
    "indices",
    "integral",
    "is_whole",
    "number",
    "one_library",
    "parameters",
    "plain",
    "positive",
    "series",
    "shape",
    "size",
    "usable",
    "whole",
]
