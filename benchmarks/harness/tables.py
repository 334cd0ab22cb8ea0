"""Tables in Markdown, and the text of their cells."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from harness.turns import Turns, ratio


def table(head: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """Return a Markdown table whose columns are aligned in plain text too.

    Parameters
    ----------
    head, rows
        The cells.
    words
        How many columns, from the left, hold words and are aligned to the left.
    """
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if number < words else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return f"| {' | '.join(cells)} |"

    rule = [
        ":" + "-" * (width - 1) if number < words else "-" * (width - 1) + ":"
        for number, width in enumerate(widths)
    ]
    return "\n".join([line(head), line(rule), *map(line, rows)])


def shortest(seconds: Sequence[float], unit: float = 1e3, form: str = ".3g") -> str:
    """Return the shortest time and in brackets the median, in milliseconds or another unit."""
    return f"{unit * min(seconds):{form}} ({unit * statistics.median(seconds):{form}})"


def versus(turns: Turns, above: str, below: str) -> str:
    """Return the ratio of two sides, in brackets the median; nothing if one was not timed."""
    if above not in turns or below not in turns or above == below:
        return ""
    best, median = ratio(turns, above, below)
    return f"{best:.2f} ({median:.2f})"
