"""`seqcore eval`: measure a trained model on a file."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from seqcore.character import model
from seqcore.character.corpus import read_text
from seqcore.character.run import load_run
from seqcore.cli.arguments import print_bits
from seqcore.training.runs import RunError

if TYPE_CHECKING:
    from seqcore.cli.arguments import Commands


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "eval",
        help="measure a trained model on a file",
        description="Measure how many bits per character a trained model needs for a text file, "
        "beside zlib, bz2 and lzma.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("folder", metavar="RUN", help="run folder")
    parser.add_argument("file", metavar="FILE", help="text file (UTF-8)")


def run(arguments: argparse.Namespace) -> int:
    """Print the bits per character of the file."""
    trained, progress = load_run(arguments.folder, metrics=False)
    text = read_text(arguments.file)
    bits = model.bits_per_character(trained.model, progress.params, trained.vocabulary, text)
    if not math.isfinite(bits):
        raise RunError(
            f"{trained.folder}: the bits per character of {arguments.file} are {bits}, expected a "
            "finite number"
        )
    unknown = int((trained.vocabulary.encode(text) == trained.vocabulary.escape).sum())
    print_bits(bits, text, arguments.file)
    print(
        f"{unknown:,} of its characters are outside the model's vocabulary of "
        f"{len(trained.vocabulary.characters)}"
    )
    return 0
