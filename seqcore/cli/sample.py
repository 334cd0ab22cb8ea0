"""`seqcore sample`: draw text from a trained model."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import numpy as np

from seqcore.character import model
from seqcore.character.run import load_run
from seqcore.cli.arguments import count, not_negative, seed, some_text
from seqcore.training.runs import RunError

if TYPE_CHECKING:
    from seqcore.cli.arguments import Commands


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "sample",
        help="draw text from a trained model",
        description="Draw text from a trained model.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("folder", metavar="RUN", help="run folder")
    parser.add_argument(
        "--prompt",
        type=some_text,
        metavar="TEXT",
        help="text to continue (default: the start of a line)",
    )
    parser.add_argument(
        "--length",
        type=count,
        default=500,
        metavar="N",
        help="characters to draw (default: %(default)s)",
    )
    parser.add_argument(
        "--temperature",
        type=not_negative,
        default=0.7,
        metavar="T",
        help="below 1 more predictable, above 1 more varied, 0 always the most likely character "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=seed,
        default=0,
        metavar="N",
        help="seed of the random numbers (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the prompt, where one is given, and the text drawn after it."""
    trained, progress = load_run(arguments.folder, metrics=False)
    prompt = arguments.prompt
    try:
        drawn = model.sample(
            trained.model,
            progress.params,
            trained.vocabulary,
            np.random.default_rng(arguments.seed),
            length=arguments.length,
            prompt="\n" if prompt is None else prompt,
            temperature=arguments.temperature,
        )
    except ValueError as error:
        raise RunError(f"{trained.folder}: {error}") from error
    print(drawn if prompt is None else prompt + drawn)
    return 0
