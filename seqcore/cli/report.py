"""What `seqcore train` prints before and after the training."""

from __future__ import annotations

import math
import shlex

from seqcore import libraries
from seqcore.arrays import Array, available
from seqcore.character.corpus import Corpus, standard_library
from seqcore.character.run import PICTURE, Run
from seqcore.cli.arguments import print_bits
from seqcore.training import Progress, Stopped
from seqcore.training.runs import CHECKPOINT, METRICS


def print_head(run: Run, corpus: Corpus, like: Array, progress: Progress) -> None:
    """Print what is trained, on what and where."""
    s = run.settings
    paths = run.text["paths"]
    standard = f"source of the Python standard library, {standard_library()}"
    what = ", ".join(paths) if paths else standard
    files = f"{corpus.files:,} file{'s' if corpus.files > 1 else ''}"
    skipped = f" ({corpus.skipped:,} more skipped: empty or not UTF-8)" if corpus.skipped else ""
    size = sum(math.prod(p.shape) for p in progress.params.values())
    print(
        f"text    {what}: {files}{skipped}\n"
        f"        {len(corpus.train):,} characters to train on, {len(corpus.held_out):,} held "
        f"out; SHA-256 {corpus.sha256[:12]}\n"
        f"model   embedding {s.embed}, {s.layers} x {s.cell} {s.hidden}, dense "
        f"{run.vocabulary.size}: {size:,} parameters\n"
        f"step    {s.batch} streams x {s.seq_len} characters; Adam {s.lr:g}, clip {s.clip:g}\n"
        f"arrays  {available.describe(like)}, {s.dtype}\n"
        f"run     {run.folder}" + (f", from step {progress.step:,}" if progress.step else ""),
        flush=True,
    )


def print_speed(run: Run, stopped: Stopped, first: int) -> None:
    """Print how many characters were read since step `first`, and how fast."""
    done = (stopped.progress.step - first) * run.settings.batch * run.settings.seq_len
    rate = f", {done / stopped.seconds:,.0f} a second" if stopped.seconds else ""
    print(f"\n{done:,} characters in {stopped.seconds:.1f} s{rate}")


def print_result(run: Run, corpus: Corpus) -> None:
    """Print the last measurement beside the compressors."""
    print_bits(run.metrics[-1].held_out_bits, corpus.held_out, "the held-out text")
    print("(the compressors saw only this text, the model was trained on the rest)\n")


def print_end(run: Run, sample: str) -> None:
    """Draw the loss curve, and print a sample, the files and the next commands."""
    block = "\n".join("  " + line for line in sample.strip("\n").split("\n"))
    print(f"a sample:\n{block}\n")
    picture = run.draw()
    kept = [CHECKPOINT, METRICS] + ([PICTURE] if picture else [])
    print(f"saved in {run.folder}: {', '.join(kept)}")
    if picture is None:
        print(f"no loss curve without matplotlib: {libraries.install_hint('plot')}")
    print(f"next:\n{_next(run)}\n  seqcore train --resume {shlex.quote(str(run.folder))}")


def after_interrupt(run: Run, stopped: Stopped, steps: int | None, seconds: float | None) -> str:
    """Return what to print after Ctrl-C: the command that goes on, with the limits left."""
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
