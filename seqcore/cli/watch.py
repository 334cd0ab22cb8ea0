"""What `seqcore train` does while it trains: the progress bar, and measuring now and then."""

from __future__ import annotations

import math
import sys
import threading
from dataclasses import dataclass, field

from tqdm import tqdm

from seqcore.character import model
from seqcore.character.corpus import Corpus
from seqcore.character.run import Metric, Run
from seqcore.training import NotFiniteError, Progress

EVERY = 10.0  # seconds from one measurement on the held-out text to the next


class _Bar(tqdm):  # type: ignore[type-arg]
    """A bar without tqdm's thread, which would outlive the command."""

    monitor_interval = 0


# tqdm's own lock would decide how the process starts others, which is up to its caller.
_Bar.set_lock(threading.RLock())


@dataclass
class Watch:
    """Called after each step; moves the bar, measures and saves."""

    run: Run
    corpus: Corpus
    steps: int | None
    seconds: float | None
    begin: Progress
    bar: bool
    seen: list[float] = field(default_factory=list)  # losses in bits since the last measurement
    measured: float = 0.0  # seconds at the last measurement
    smooth: float = 0.0
    before: float = 0.0  # seconds of training before this run was resumed

    def __post_init__(self) -> None:
        """Open the bar."""
        self.good = self.begin  # the last progress whose held-out loss was finite
        if self.run.metrics:
            self.before = self.run.metrics[-1].seconds
        timed = self.steps is None
        self.progress_bar = _Bar(
            total=self.seconds if timed else self.steps,
            initial=0 if timed else self.begin.step,
            # A narrow terminal cuts off the end, so what matters most comes first.
            bar_format="{desc}{percentage:3.0f}% {elapsed}<{remaining} |{bar:24}|",
            disable=not (self.bar and sys.stderr.isatty()),
            leave=False,
            dynamic_ncols=True,
            miniters=0,  # at each step it looks at the clock, and needs no thread for that
        )

    def __call__(self, progress: Progress, loss: float, seconds: float) -> None:
        """Note the loss of one step."""
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
        if seconds - self.measured >= EVERY:
            self.measure(progress, seconds)

    def measure(self, progress: Progress, seconds: float) -> None:
        """Measure on the held-out text, save, and print a row."""
        if not self.seen:
            return
        held_out = model.bits_per_character(
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
            _Bar.write("".join(f"{head:>12}" for head in heads) + "   bits per character")
        self.run.metrics.append(row)
        self.seen.clear()
        self.measured = seconds
        self.run.save(progress)
        _Bar.write(
            f"{row.seconds:12.0f}{row.step:12,d}{row.characters:12,d}"
            f" {row.train_bits:11.3f} {row.held_out_bits:11.3f}"
        )

    def close(self) -> None:
        """Remove the bar."""
        self.progress_bar.close()

    def _characters(self, progress: Progress) -> int:
        return progress.step * self.run.settings.batch * self.run.settings.seq_len
