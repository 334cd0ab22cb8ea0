"""What the commands share: the types of their arguments, and the table of bits per character."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from seqcore.character.text import compressors

if TYPE_CHECKING:
    from typing import TypeAlias

    Commands: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 (it has no public name)


def count(given: str) -> int:
    """Return a whole number of at least 1."""
    value = int(given)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def seed(given: str) -> int:
    """Return a whole number of at least 0."""
    value = int(given)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is less than 0")
    return value


def positive(given: str) -> float:
    """Return a finite number greater than 0."""
    value = float(given)
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{given} is not a number greater than 0")
    return value


def not_negative(given: str) -> float:
    """Return a finite number of at least 0."""
    value = float(given)
    if not (value >= 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{given} is not a number of at least 0")
    return value


def some_text(given: str) -> str:
    """Return a text that is not empty."""
    if not given:
        raise argparse.ArgumentTypeError("is empty")
    return given


# argparse names the type in its own message: "invalid number value: 'abc'".
count.__name__ = seed.__name__ = "whole number"
positive.__name__ = not_negative.__name__ = "number"


def print_bits(bits: float, text: str, what: str) -> None:
    """Print the bits per character of a text beside those of the compressors."""
    print(f"\nbits per character of {what}, {len(text):,} characters:")
    rows = {"seqcore": bits, **compressors(text)}
    for name, value in sorted(rows.items(), key=lambda row: row[1]):
        print(f"  {name:8} {value:6.3f}")
