"""`seqcore train`: train a character model on text, or go on with a run."""

from __future__ import annotations

import argparse
import math
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from seqcore import losses, optimizers, training
from seqcore.character import model
from seqcore.character.corpus import Corpus
from seqcore.character.run import CHOICES, Run, Settings
from seqcore.character.text import Streams
from seqcore.cli import report
from seqcore.cli.arguments import count, positive, seed
from seqcore.cli.prepare import Training, init, new, resume
from seqcore.cli.watch import Watch
from seqcore.training import NotFiniteError, OutOfMemoryError, Progress, Step, Stopped
from seqcore.training.runs import RunError, hold

if TYPE_CHECKING:
    from seqcore.cli.arguments import Commands

SECONDS = 90.0  # of training, unless --steps or --seconds is given
_WARM_UP = 0.03  # of the training: the learning rate rises, then falls as half a cosine


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "train",
        help="train a character-level language model",
        description="Train a character-level language model on text files and folders, or on the "
        "source of the Python standard library if none are given. Ctrl-C stops and saves.",
        argument_default=argparse.SUPPRESS,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "paths", nargs="*", default=[], metavar="PATH", help="text files and folders (UTF-8)"
    )
    _add_settings(parser)
    parser.add_argument(
        "--seconds",
        type=positive,
        metavar="S",
        help=f"train for this long (default: {SECONDS:.0f}, or no limit with --steps)",
    )
    parser.add_argument(
        "--steps",
        type=count,
        metavar="N",
        help="train until N steps are done, including those before --resume",
    )
    parser.add_argument("--out", metavar="RUN", help="run folder (default: the next free runs/N)")
    parser.add_argument("--resume", metavar="RUN", help="go on with this run, in its folder")
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """Add an option for each setting; what is not given is not in the parsed namespace."""
    default = Settings()

    def add(name: str, what: str, **options: Any) -> None:
        value = getattr(default, name)
        known = "" if value is None else f" (default: {value})"
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, help=what.replace("%", "%%") + known, **options)

    add("cell", "recurrent cell", choices=CHOICES["cell"])
    add("hidden", "hidden units of each layer", type=count, metavar="N")
    add("layers", "number of recurrent layers", type=count, metavar="N")
    add("embed", "features of a character's embedding", type=count, metavar="N")
    add("seq_len", "characters of a window", type=count, metavar="N")
    add("batch", "streams read side by side", type=count, metavar="N")
    add("lr", "learning rate of Adam", type=positive, metavar="RATE")
    add("schedule", "learning rate over the run", choices=CHOICES["schedule"])
    add("clip", "largest global norm of the gradients", type=positive, metavar="NORM")
    add("backend", "array library, see `seqcore backends`", metavar="NAME")
    add("device", "device of the library (default: its first)", metavar="NAME")
    add("dtype", "floating dtype", choices=CHOICES["dtype"])
    add("seed", "seed of all random numbers", type=seed, metavar="N")


def run(arguments: argparse.Namespace) -> int:
    """Train a new run or a resumed one, and print the results."""
    steps: int | None = getattr(arguments, "steps", None)
    seconds: float | None = getattr(arguments, "seconds", None)
    if steps is None and seconds is None:
        seconds = SECONDS
    with ExitStack() as stack:  # holds the run folder
        resumed = "resume" in arguments
        train = resume(arguments, steps, stack) if resumed else new(arguments)
        run, settings = train.run, train.run.settings
        tokens = run.vocabulary.encode(train.corpus.train)
        streams = Streams(tokens, settings.batch, settings.seq_len, train.like)
        step = training.Step(
            run.model,
            losses.cross_entropy,
            lambda done: optimizers.adam(_rate(settings, done)),
            settings.clip,
        )
        if resumed:
            run.save(train.progress)  # with the settings that have changed
        else:
            train.progress = step.start(init(run, train.like))
            # Only now, so that what is refused leaves no folder behind; and at once, so that
            # Ctrl-C at any time finds a complete run.
            run.begin(getattr(arguments, "out", None), train.progress)
            stack.enter_context(hold(run.folder))
        bar = "no_progress" not in arguments
        return _train(train, step, streams, steps=steps, seconds=seconds, bar=bar)


def _train(
    train: Training,
    step: Step,
    streams: Streams,
    *,
    steps: int | None,
    seconds: float | None,
    bar: bool,
) -> int:
    """Run the loop, keep what is good whatever ends it, and return the exit status."""
    run, corpus, progress = train.run, train.corpus, train.progress
    stopped = Stopped("interrupted", progress, 0.0)
    try:
        report.print_head(run, corpus, train.like, progress)
        watch = Watch(run, corpus, steps, seconds, progress, bar=bar)
        try:
            stopped = training.fit(
                step, progress, streams, steps=steps, seconds=seconds, after_step=watch
            )
        finally:
            watch.close()
        run.save(stopped.progress)  # before measuring, which takes time: Ctrl-C may come again
        good = watch.good
        watch.measure(stopped.progress, stopped.seconds)
        report.print_speed(run, stopped, progress.step)
        if stopped.why != "interrupted":
            _finish(run, corpus, stopped.progress, good)
            return 0
    except KeyboardInterrupt:
        print()
    except NotFiniteError as error:
        raise _diverged(run, error.progress, error) from error
    except (MemoryError, RuntimeError) as error:  # measuring takes memory too
        if not training.ran_out_of_memory(error):
            raise
        good = error.progress if isinstance(error, OutOfMemoryError) else stopped.progress
        words = training.in_words(error)
        advice = "lower --batch, --seq-len, --hidden or --layers in a new run"
        raise _ended(run, good, f"out of memory{words and ': '}{words}; {advice}") from error
    print(report.after_interrupt(run, stopped, steps, seconds))
    return 130


def _finish(run: Run, corpus: Corpus, progress: Progress, good: Progress) -> None:
    """Print the results; `good` is what to go back to if the model can't be sampled."""
    report.print_result(run, corpus)
    rng = np.random.default_rng(run.settings.seed)
    try:
        drawn = model.sample(
            run.model, progress.params, run.vocabulary, rng, length=400, temperature=0.7
        )
    except ValueError as error:  # logits may overflow here and not on the held-out text
        raise _diverged(run, good, error) from error
    report.print_end(run, drawn)


def _diverged(run: Run, good: Progress, error: Exception) -> RunError:
    """Save the last good progress, and return an error with advice."""
    return _ended(run, good, f"{error}; try a smaller --lr or --clip")


def _ended(run: Run, good: Progress, what: str) -> RunError:
    """Save the last good progress, and return an error that says what ended the training."""
    run.save(good)
    return RunError(f"{what}. The last good state, after step {good.step:,}, is in {run.folder}")


def _rate(settings: Settings, done: float) -> float:
    """Return the learning rate when the fraction `done` of the training is over."""
    if settings.schedule == "constant":
        return settings.lr
    rise = min(1.0, 0.05 + done / _WARM_UP)
    return settings.lr * rise * (0.05 + 0.95 * 0.5 * (1.0 + math.cos(math.pi * done)))
