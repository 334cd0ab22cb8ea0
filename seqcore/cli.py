"""The command line: train, sample, eval, backends.

Exit status: 0 done, 2 something that was asked for can't be had (one line on standard
error says what), 130 stopped by Ctrl-C, 141 nobody reads the output any more.
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import seqcore
from seqcore import availability, libraries, losses, optimizers, training
from seqcore.arrays import Array, Params
from seqcore.character import corpus as corpora
from seqcore.character import model as characters
from seqcore.character import run as runs
from seqcore.character import text
from seqcore.character.run import Metric, Run, Settings
from seqcore.training import NotFiniteError, OutOfMemoryError, Progress, Stopped
from seqcore.training.runs import CHECKPOINT, METRICS, RunError

SECONDS = 90.0  # of training, unless --steps or --seconds say otherwise
_EVERY = 10.0  # seconds between two looks at the held-out text
_WARM_UP = 0.03  # of the training: the learning rate rises, then falls as half a cosine
_MAY_CHANGE = {"lr", "schedule", "clip", "backend", "device"}  # when a run is resumed


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal may not know every character of a text; none of them is worth a crash.
        if hasattr(stream, "reconfigure"):
            # Line by line, so that a log can be followed while training goes on.
            stream.reconfigure(errors="replace", line_buffering=True)
    arguments = _parser().parse_args(argv)
    try:
        # Numbers that are too large get an error of their own; NumPy's warnings say less.
        with np.errstate(all="ignore"):
            status: int = arguments.run(arguments)
    except BrokenPipeError:
        # `seqcore train | head`: write no more, not even when Python flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (
        corpora.TextError,
        availability.LibraryError,
        RunError,
        OSError,
        MemoryError,
    ) as error:
        print(f"seqcore {arguments.command}: error: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nseqcore {arguments.command}: interrupted", file=sys.stderr)
        return 130
    return status


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, MemoryError):
        return f"out of memory: {error}".removesuffix(": ")
    return " ".join(str(error).splitlines())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="seqcore", description="Recurrent networks on whatever arrays you hold."
    )
    parser.add_argument("--version", action="version", version=f"seqcore {seqcore.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    train = commands.add_parser(
        "train",
        help="train a character-level language model",
        description="Train a character-level language model on text files and folders; "
        "without any, on the source of the Python standard library. Ctrl-C stops and saves.",
        argument_default=argparse.SUPPRESS,
    )
    train.set_defaults(run=_train)
    train.add_argument(
        "paths", nargs="*", default=[], metavar="PATH", help="text files and folders (UTF-8)"
    )
    _add_settings(train)
    train.add_argument(
        "--seconds",
        type=_positive,
        metavar="S",
        help=f"train for so long (default: {SECONDS:.0f}, or no limit with --steps)",
    )
    train.add_argument(
        "--steps",
        type=_count,
        metavar="N",
        help="train until so many steps are done, those before --resume counted",
    )
    train.add_argument("--out", metavar="RUN", help="run folder (default: the next free runs/N)")
    train.add_argument("--resume", metavar="RUN", help="go on with this run, in its folder")
    train.add_argument("--no-progress", action="store_true", help="show no progress bar")

    sample = commands.add_parser(
        "sample",
        help="draw text from a trained model",
        description="Draw text from a trained model.",
    )
    sample.set_defaults(run=_sample)
    sample.add_argument("folder", metavar="RUN", help="run folder")
    sample.add_argument(
        "--prompt",
        type=_some_text,
        metavar="TEXT",
        help="text to go on from (default: the end of a line)",
    )
    sample.add_argument(
        "--length",
        type=_count,
        default=500,
        metavar="N",
        help="characters to draw (default: %(default)s)",
    )
    sample.add_argument(
        "--temperature",
        type=_not_negative,
        default=0.7,
        metavar="T",
        help="below 1 plainer, above 1 wilder, 0 the likeliest (default: %(default)s)",
    )
    sample.add_argument(
        "--seed",
        type=_seed,
        default=0,
        metavar="N",
        help="of the random numbers (default: %(default)s)",
    )

    evaluate = commands.add_parser(
        "eval",
        help="measure a trained model on a file",
        description="Measure how many bits a character of a text file costs under a trained "
        "model, beside zlib, bz2 and lzma.",
    )
    evaluate.set_defaults(run=_eval)
    evaluate.add_argument("folder", metavar="RUN", help="run folder")
    evaluate.add_argument("file", metavar="FILE", help="text file (UTF-8)")

    listing = commands.add_parser(
        "backends",
        help="list the array libraries that are usable here",
        description="List the array libraries, and of those that are usable here the devices.",
    )
    listing.set_defaults(run=_backends)
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """Add an option for each of the settings; what is not given is not in the namespace."""
    default = Settings()

    def add(name: str, what: str, **options: Any) -> None:
        value = getattr(default, name)
        known = "" if value is None else f" (default: {value})"
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, help=what.replace("%", "%%") + known, **options)

    add("cell", "recurrent cell", choices=runs.CHOICES["cell"])
    add("hidden", "hidden units of a layer", type=_count, metavar="N")
    add("layers", "recurrent layers", type=_count, metavar="N")
    add("embed", "features of a character's embedding", type=_count, metavar="N")
    add("seq_len", "characters of a window", type=_count, metavar="N")
    add("batch", "streams read side by side", type=_count, metavar="N")
    add("lr", "learning rate of Adam", type=_positive, metavar="RATE")
    add("schedule", "learning rate over the run", choices=runs.CHOICES["schedule"])
    add("clip", "largest global norm of the gradients", type=_positive, metavar="NORM")
    add("backend", "array library, see `seqcore backends`", metavar="NAME")
    add("device", "its device (default: its first)", metavar="NAME")
    add("dtype", "floating dtype", choices=runs.CHOICES["dtype"])
    add("seed", "of all random numbers", type=_seed, metavar="N")


def _count(given: str) -> int:
    value = int(given)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def _seed(given: str) -> int:
    value = int(given)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is less than 0")
    return value


def _positive(given: str) -> float:
    value = float(given)
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{given} is not a number greater than 0")
    return value


def _not_negative(given: str) -> float:
    value = float(given)
    if not (value >= 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{given} is not a number of at least 0")
    return value


def _some_text(given: str) -> str:
    if not given:
        raise argparse.ArgumentTypeError("is empty")
    return given


# argparse names the type in its own error: "invalid number value: 'abc'".
_count.__name__ = _seed.__name__ = "whole number"
_positive.__name__ = _not_negative.__name__ = "number"


# --- train ------------------------------------------------------------------------------


def _train(arguments: argparse.Namespace) -> int:
    given = {f.name: getattr(arguments, f.name) for f in fields(Settings) if f.name in arguments}
    paths: list[str] = arguments.paths
    steps: int | None = getattr(arguments, "steps", None)
    seconds: float | None = getattr(arguments, "seconds", None)
    if steps is None and seconds is None:
        seconds = SECONDS
    resumed: str | None = getattr(arguments, "resume", None)
    if resumed is not None:
        if "out" in arguments:
            raise RunError("--out was given beside --resume, which goes on in its folder")
        run, progress, corpus, like = _resume(resumed, given, paths)
        if steps is not None and progress.step >= steps:
            raise RunError(
                f"{run.folder}: --steps is {steps}, and {progress.step} steps are done already"
            )
    else:
        settings = Settings(**given)
        like = availability.like(settings.backend, settings.device, settings.dtype)
        corpus = corpora.read_corpus(paths)
        vocabulary = text.Vocabulary.of(corpus.train)
        run = Run(Path(), settings, vocabulary, runs.provenance(corpus, paths), metrics=[])
    streams = text.Streams(
        run.vocabulary.encode(corpus.train), run.settings.batch, run.settings.seq_len, like
    )
    step = training.Step(
        run.model,
        losses.cross_entropy,
        lambda done: optimizers.adam(_rate(run.settings, done)),
        run.settings.clip,
    )
    if resumed is None:
        progress = step.start(_init(run, like))
        # Last, so that whatever is refused leaves no folder behind; and saved at once, so
        # that Ctrl-C at any time finds a whole run.
        run.begin(getattr(arguments, "out", None), progress)
    else:
        run.save(progress)  # with the settings that were changed
    stopped = Stopped("interrupted", progress, 0.0)
    try:
        _print_head(run, corpus, like, progress)
        watch = _Watch(run, corpus, steps, seconds, progress, bar="no_progress" not in arguments)
        try:
            stopped = training.fit(
                step, progress, streams, steps=steps, seconds=seconds, after_step=watch
            )
        finally:
            watch.close()
        run.save(stopped.progress)  # before the rest, which takes time: Ctrl-C may come again
        good = watch.good
        watch.look(stopped.progress, stopped.seconds)
        _print_speed(run, stopped, progress.step)
        if stopped.why != "interrupted":
            _finish(run, corpus, stopped.progress, good)
            return 0
    except KeyboardInterrupt:
        print()
    except NotFiniteError as error:
        raise _spoiled(run, error.progress, error) from error
    except (MemoryError, RuntimeError) as error:  # measuring the result takes memory too
        if not training.ran_out_of_memory(error):
            raise
        good = error.progress if isinstance(error, OutOfMemoryError) else stopped.progress
        words = training.in_words(error)
        advice = "lower --batch, --seq-len, --hidden or --layers in a new run"
        raise _ended(run, good, f"out of memory{words and ': '}{words}; {advice}") from error
    print(_how_to_go_on(run, stopped, steps, seconds))
    return 130


def _spoiled(run: Run, good: Progress, error: Exception) -> RunError:
    """Go back to what was good, and return the error that says so."""
    return _ended(run, good, f"{error}; try a smaller --lr or --clip")


def _ended(run: Run, good: Progress, what: str) -> RunError:
    """Save what is good, and return the error that says what ended the training."""
    run.save(good)
    return RunError(f"{what}. What was good after step {good.step:,} is in {run.folder}")


def _how_to_go_on(run: Run, stopped: Stopped, steps: int | None, seconds: float | None) -> str:
    """Say after Ctrl-C what to type."""
    left_steps = math.inf if steps is None else steps - stopped.progress.step
    left_seconds = math.inf if seconds is None else seconds - stopped.seconds
    if left_steps <= 0 or left_seconds <= 0:
        return f"interrupted; the training is complete, and saved. Next:\n{_next(run)}"
    limits = f" --steps {steps}" if steps is not None else ""
    limits += f" --seconds {math.ceil(left_seconds)}" if seconds is not None else ""
    folder = shlex.quote(str(run.folder))
    return f"interrupted; all is saved. Go on with:\n  seqcore train --resume {folder}{limits}"


def _next(run: Run) -> str:
    folder = shlex.quote(str(run.folder))
    return f"  seqcore sample {folder} --prompt 'def '\n  seqcore eval {folder} FILE"


def _init(run: Run, like: Array) -> Params:
    try:
        return run.model.init(run.vocabulary.size, like=like, rng=run.settings.seed)
    except (MemoryError, ValueError) as error:  # NumPy has either for an array too large
        raise RunError(
            f"a model of this size can't be made here ({error}); lower --hidden, --embed or "
            "--layers"
        ) from error


def _rate(settings: Settings, done: float) -> float:
    """Return the learning rate when the fraction `done` of the training is over."""
    if settings.schedule == "constant":
        return settings.lr
    rise = min(1.0, 0.05 + done / _WARM_UP)
    return settings.lr * rise * (0.05 + 0.95 * 0.5 * (1.0 + math.cos(math.pi * done)))


def _resume(
    folder: str, given: dict[str, Any], paths: list[str]
) -> tuple[Run, Progress, corpora.Corpus, Array]:
    """Read a run and the text it was trained on, with what may change changed."""
    run, _ = runs.load_run(folder)  # before its backend is asked for
    for name, value in given.items():
        old = getattr(run.settings, name)
        if name not in _MAY_CHANGE and value != old:
            raise RunError(
                f"{folder}: --{name.replace('_', '-')} is {value}, but this run has {old}"
            )
    if given.get("backend", run.settings.backend) != run.settings.backend:
        given = {"device": None, **given}  # the old one is another library's
    run.settings = replace(run.settings, **given)
    settings = run.settings
    like = availability.like(settings.backend, settings.device, settings.dtype)
    _, progress = runs.load_run(folder, like)
    corpus = corpora.read_corpus(paths or run.text["paths"])
    if corpus.sha256 != run.text["sha256"]:
        raise RunError(
            f"{folder}: the text is not the one that this run began with: SHA-256 "
            f"{corpus.sha256[:12]}, expected {run.text['sha256'][:12]}"
        )
    return run, progress, corpus, like


@dataclass
class _Watch:
    """Looks on while training goes on: the bar, and now and then the held-out text."""

    run: Run
    corpus: corpora.Corpus
    steps: int | None
    seconds: float | None
    begin: Progress
    bar: bool
    seen: list[float] = field(default_factory=list)  # losses in bits since the last look
    looked: float = 0.0  # seconds at the last look
    smooth: float = 0.0
    before: float = 0.0  # seconds of the earlier parts of a resumed run

    def __post_init__(self) -> None:
        self.good = self.begin  # the last one that the held-out text was measured with
        if self.run.metrics:
            self.before = self.run.metrics[-1].seconds
        timed = self.steps is None
        self.progress_bar = tqdm(
            total=self.seconds if timed else self.steps,
            initial=0 if timed else self.begin.step,
            # What a narrow terminal cuts off stands last.
            bar_format="{desc}{percentage:3.0f}% {elapsed}<{remaining} |{bar:24}|",
            disable=not (self.bar and sys.stderr.isatty()),
            leave=False,
            dynamic_ncols=True,
        )

    def __call__(self, progress: Progress, loss: float, seconds: float) -> None:
        """Take note of one step."""
        bits = loss / math.log(2)
        self.seen.append(bits)
        self.smooth = bits if len(self.seen) == 1 else 0.95 * self.smooth + 0.05 * bits
        bar = self.progress_bar
        if self.steps is None and self.seconds is not None:
            bar.n = min(seconds, self.seconds)
        else:
            bar.n = progress.step
        done = self._characters(progress) - self._characters(self.begin)
        bar.set_description_str(
            f"{self.smooth:.2f} bits/char, {done / seconds:,.0f} char/s, ", refresh=False
        )
        bar.update(0)
        if seconds - self.looked >= _EVERY:
            self.look(progress, seconds)

    def look(self, progress: Progress, seconds: float) -> None:
        """Measure on the held-out text, print a row, and save."""
        if not self.seen:
            return
        held_out = characters.bits_per_character(
            self.run.model, progress.params, self.run.vocabulary, self.corpus.held_out
        )
        if not math.isfinite(held_out):
            raise NotFiniteError("held-out loss", held_out, progress.step, self.good)
        self.good = progress
        row = Metric(
            progress.step,
            self._characters(progress),
            round(self.before + seconds, 3),
            round(math.fsum(self.seen) / len(self.seen), 5),
            round(held_out, 5),
        )
        if progress.step == self.begin.step + len(self.seen):  # the first row
            heads = ("seconds", "steps", "characters", "training", "held out")
            tqdm.write("".join(f"{head:>12}" for head in heads) + "   bits per character")
        self.run.metrics.append(row)
        self.seen.clear()
        self.looked = seconds
        self.run.save(progress)
        tqdm.write(
            f"{row.seconds:12.0f}{row.step:12,d}{row.characters:12,d}"
            f" {row.train_bits:11.3f} {row.held_out_bits:11.3f}"
        )

    def _characters(self, progress: Progress) -> int:
        return progress.step * self.run.settings.batch * self.run.settings.seq_len

    def close(self) -> None:
        """Take the bar away."""
        self.progress_bar.close()


def _print_head(run: Run, corpus: corpora.Corpus, like: Array, progress: Progress) -> None:
    s = run.settings
    paths = run.text["paths"]
    library = f"source of the Python standard library, {corpora.standard_library()}"
    what = ", ".join(paths) if paths else library
    files = f"{corpus.files:,} file{'s' if corpus.files > 1 else ''}"
    skipped = f" ({corpus.skipped:,} more are empty or no UTF-8 text)" if corpus.skipped else ""
    size = sum(math.prod(p.shape) for p in progress.params.values())
    print(
        f"text    {what}: {files}{skipped}\n"
        f"        {len(corpus.train):,} characters to train on, {len(corpus.held_out):,} held "
        f"out; SHA-256 {corpus.sha256[:12]}\n"
        f"model   embedding {s.embed}, {s.layers} x {s.cell} {s.hidden}, dense "
        f"{run.vocabulary.size}: {size:,} parameters\n"
        f"step    {s.batch} streams x {s.seq_len} characters; Adam {s.lr:g}, clip {s.clip:g}\n"
        f"arrays  {availability.describe(like)}, {s.dtype}\n"
        f"run     {run.folder}" + (f", from step {progress.step:,}" if progress.step else ""),
        flush=True,
    )


def _print_speed(run: Run, stopped: Stopped, first: int) -> None:
    done = (stopped.progress.step - first) * run.settings.batch * run.settings.seq_len
    rate = f", {done / stopped.seconds:,.0f} a second" if stopped.seconds else ""
    print(f"\n{done:,} characters in {stopped.seconds:.1f} s{rate}")


def _finish(run: Run, corpus: corpora.Corpus, progress: Progress, good: Progress) -> None:
    """Say what came of it, and what to type next; `good` is what to go back to."""
    _print_table(run.metrics[-1].held_out_bits, corpus.held_out, "the held-out text")
    print("the compressors saw this text alone, the model the training text before it\n")
    rng = np.random.default_rng(run.settings.seed)
    try:
        drawn = characters.sample(
            run.model, progress.params, run.vocabulary, rng, length=400, temperature=0.7
        )
    except ValueError as error:  # logits may overflow where the held-out text's did not
        raise _spoiled(run, good, error) from error
    print(f"a sample:\n{_indent(drawn)}\n")
    picture = run.draw()
    kept = [CHECKPOINT, METRICS] + ([runs.PICTURE] if picture else [])
    print(f"saved in {run.folder}: {', '.join(kept)}")
    if picture is None:
        print(f"no loss curve without matplotlib: {libraries.install_hint('plot')}")
    print(f"next:\n{_next(run)}\n  seqcore train --resume {shlex.quote(str(run.folder))}")


def _print_table(bits: float, plain: str, what: str) -> None:
    print(f"\nbits per character of {what}, {len(plain):,} characters:")
    rows = {"seqcore": bits, **text.compressors(plain)}
    for name, value in sorted(rows.items(), key=lambda row: row[1]):
        print(f"  {name:8} {value:6.3f}")


def _indent(block: str) -> str:
    return "\n".join("  " + line for line in block.strip("\n").split("\n"))


# --- sample, eval, backends -------------------------------------------------------------


def _sample(arguments: argparse.Namespace) -> int:
    run, progress = runs.load_run(arguments.folder, metrics=False)
    prompt = arguments.prompt
    try:
        drawn = characters.sample(
            run.model,
            progress.params,
            run.vocabulary,
            np.random.default_rng(arguments.seed),
            length=arguments.length,
            prompt="\n" if prompt is None else prompt,
            temperature=arguments.temperature,
        )
    except ValueError as error:
        raise RunError(f"{run.folder}: {error}") from error
    print(drawn if prompt is None else prompt + drawn)
    return 0


def _eval(arguments: argparse.Namespace) -> int:
    run, progress = runs.load_run(arguments.folder, metrics=False)
    plain = corpora.read_text(arguments.file)
    bits = characters.bits_per_character(run.model, progress.params, run.vocabulary, plain)
    if not math.isfinite(bits):
        raise RunError(
            f"{run.folder}: the bits per character of {arguments.file} are {bits}, expected a "
            "finite number"
        )
    unknown = int((run.vocabulary.encode(plain) == run.vocabulary.escape).sum())
    _print_table(bits, plain, arguments.file)
    print(
        f"{unknown:,} of its characters are outside the model's vocabulary of "
        f"{len(run.vocabulary.characters)}"
    )
    return 0


def _backends(_: argparse.Namespace) -> int:
    print(f"{'library':10} {'version':12} devices")
    for library in libraries.known().values():
        usable = availability.look(library)
        where = usable.problem or "; ".join(
            f"{name} ({', '.join(library.dtypes_on(name))})" for name in usable.devices
        )
        print(f"{library.name:10} {usable.version or '-':12} {where}")
    print("\nLargest relative error of BPTT, measured against NumPy in float64:\n")
    print(f"{'library':10} {'version':12} {'date':10} errors")
    for name in libraries.known():
        seen = libraries.measured(name)
        if seen is None:
            print(f"{name:10} {'-':12} {'-':10} not measured")
            continue
        errors = ", ".join(f"{error:.1e} in {dtype}" for dtype, error in seen.bptt.items())
        print(f"{name:10} {seen.version:12} {seen.date:10} {errors}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
