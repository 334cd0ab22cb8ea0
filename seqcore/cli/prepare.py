"""What `seqcore train` does before it trains: a new run, or one that is resumed."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from seqcore.arrays import Array, Params, available
from seqcore.character.corpus import Corpus, read_corpus
from seqcore.character.run import Run, Settings, load_run, provenance
from seqcore.character.text import Vocabulary
from seqcore.training import Progress
from seqcore.training.runs import RunError, hold

_MAY_CHANGE = {"lr", "schedule", "clip", "backend", "device"}  # when a run is resumed


@dataclass
class Training:
    """All that the training of one run needs."""

    run: Run
    progress: Progress
    corpus: Corpus
    like: Array  # of the library and on the device to train on


def new(arguments: argparse.Namespace) -> Training:
    """Return a new run: without a folder, parameters and progress."""
    settings = Settings(**_given(arguments))
    like = _like(settings, arguments)
    corpus = read_corpus(arguments.paths)
    vocabulary = Vocabulary.of(corpus.train)
    text = provenance(corpus, arguments.paths)
    run = Run(Path(), settings, vocabulary, text, metrics=[])
    return Training(run, Progress(0, {}, None, None), corpus, like)


def init(run: Run, like: Array) -> Params:
    """Draw the parameters of a new run."""
    try:
        return run.model.init(run.vocabulary.size, like=like, rng=run.settings.seed)
    except (MemoryError, ValueError) as error:  # NumPy raises either for an array too large
        raise RunError(
            f"a model of this size can't be made here ({error}); lower --hidden, --embed or "
            "--layers"
        ) from error


def resume(arguments: argparse.Namespace, steps: int | None, stack: ExitStack) -> Training:
    """Read a run and the text it was trained on, and change the settings that may change.

    Parameters
    ----------
    arguments
        Of the command line.
    steps
        The steps to do in all; None for any number.
    stack
        Holds the run folder until it is closed.
    """
    if "out" in arguments:
        raise RunError("--out can't be used with --resume, which goes on in its own folder")
    folder, given = arguments.resume, _given(arguments)
    run, _ = load_run(folder)  # before its library is imported
    stack.enter_context(hold(Path(folder)))
    for name, value in given.items():
        old = getattr(run.settings, name)
        if name not in _MAY_CHANGE and value != old:
            raise RunError(
                f"{folder}: --{name.replace('_', '-')} is {value}, but this run has {old}"
            )
    if given.get("backend", run.settings.backend) != run.settings.backend:
        given = {"device": None, **given}  # the saved device is one of the old library
    settings = replace(run.settings, **given)
    like = _like(settings, arguments)
    run, progress = load_run(folder, like)  # again, as another process may have saved since
    run.settings = settings
    corpus = read_corpus(arguments.paths or run.text["paths"])
    if corpus.sha256 != run.text["sha256"]:
        raise RunError(
            f"{folder}: the text is not the one that this run began with: SHA-256 "
            f"{corpus.sha256[:12]}, expected {run.text['sha256'][:12]}"
        )
    if steps is not None and progress.step >= steps:
        raise RunError(f"{folder}: --steps is {steps}, but {progress.step} steps are done already")
    return Training(run, progress, corpus, like)


def _like(settings: Settings, arguments: argparse.Namespace) -> Array:
    """Return an empty array of the library, device and dtype of the settings."""
    own = arguments.own_process
    return available.like(settings.backend, settings.device, settings.dtype, own_process=own)


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that stand on the command line."""
    return {f.name: getattr(arguments, f.name) for f in fields(Settings) if f.name in arguments}
