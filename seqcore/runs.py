"""A run folder: what `seqcore train` keeps, and what sample, eval and resume read.

checkpoint.safetensors   parameters, optimizer and recurrent state; settings, vocabulary
metrics.csv              bits per character over the run
loss.png                 the same as a picture, where matplotlib is installed
"""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from seqcore.arrays import Array
from seqcore.characters import character_model
from seqcore.checkpoint import CHECKPOINT, load_checkpoint, save_checkpoint, write_atomically
from seqcore.layers import Sequential
from seqcore.text import Corpus, Vocabulary
from seqcore.training import Progress

METRICS = "metrics.csv"
PICTURE = "loss.png"


class RunError(ValueError):
    """A run folder can't be used; the message says which and why."""


@dataclass(frozen=True)
class Settings:
    """What makes a run what it is: the model, how it is trained, and where."""

    cell: str = "lstm"
    hidden: int = 128
    layers: int = 1
    embed: int = 64
    seq_len: int = 64
    batch: int = 32
    lr: float = 1e-2
    schedule: str = "cosine"
    clip: float = 1.0
    seed: int = 0
    dtype: str = "float32"
    backend: str = "numpy"
    device: str | None = None


class Metric(NamedTuple):
    """One row of metrics.csv. Bits are per character; seconds are of training."""

    step: int
    characters: int
    seconds: float
    train_bits: float
    held_out_bits: float


@dataclass
class Run:
    """One run: its folder, what it was set to, and how far it got."""

    folder: Path
    settings: Settings
    vocabulary: Vocabulary
    text: dict[str, Any]  # where the text came from, and its SHA-256
    metrics: list[Metric]

    @property
    def model(self) -> Sequential:
        """The model that this run trains."""
        s = self.settings
        return character_model(
            s.cell, embed=s.embed, hidden=s.hidden, layers=s.layers, tokens=self.vocabulary.size
        )

    def save(self, progress: Progress) -> None:
        """Write the checkpoint and the metrics, each whole or not at all."""
        config = {
            "settings": asdict(self.settings),
            "vocabulary": self.vocabulary.characters,
            "text": self.text,
            "step": progress.step,
        }
        save_checkpoint(
            self.folder / CHECKPOINT,
            progress.params,
            opt_state=progress.opt_state,
            state=progress.state,
            config=config,
        )
        table = io.StringIO(newline="")
        writer = csv.writer(table)
        writer.writerow(Metric._fields)
        writer.writerows(self.metrics)
        write_atomically(self.folder / METRICS, table.getvalue().encode())

    def draw(self) -> Path | None:
        """Draw the loss curve; None where matplotlib is not installed."""
        try:
            from matplotlib.figure import Figure
        except ImportError:
            return None
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.add_subplot()
        characters = [row.characters / 1e6 for row in self.metrics]
        axes.plot(characters, [row.train_bits for row in self.metrics], ".-", label="training")
        axes.plot(characters, [row.held_out_bits for row in self.metrics], ".-", label="held out")
        axes.set_xlabel("characters read (millions)")
        axes.set_ylabel("bits per character")
        s = self.settings
        axes.set_title(f"{s.cell}, {s.layers} x {s.hidden} units")
        axes.grid(visible=True, alpha=0.3)
        axes.legend()
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=120)
        write_atomically(self.folder / PICTURE, picture.getvalue())
        return self.folder / PICTURE


def new_folder(out: str | None) -> Path:
    """Make the folder of a new run: `out`, or the first free one of runs/1, runs/2, ...

    Raises
    ------
    RunError
        If `out` is a file, or a folder with something in it.
    """
    if out is not None:
        folder = Path(out)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RunError(f"{folder}: is there already; name another --out, or --resume it")
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    Path("runs").mkdir(exist_ok=True)
    number = 1
    while True:
        folder = Path("runs") / str(number)
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def provenance(corpus: Corpus, paths: list[str]) -> dict[str, Any]:
    """Return what a checkpoint records of its text."""
    return {
        "paths": [str(Path(path).resolve()) for path in paths],
        "sha256": corpus.sha256,
        "files": corpus.files,
        "characters": len(corpus.train) + len(corpus.held_out),
    }


def load_run(folder: str | Path, like: Array | None = None) -> tuple[Run, Progress]:
    """Read a run folder; arrays go beside `like`, or stay NumPy arrays.

    Raises
    ------
    RunError
        If the folder is missing, is no run, or its checkpoint is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RunError(f"{folder}: no such run folder")
    if not (folder / CHECKPOINT).is_file():
        raise RunError(f"{folder}: not a run folder, it has no {CHECKPOINT}")
    try:
        checkpoint = load_checkpoint(folder / CHECKPOINT, like=like)
    except ValueError as error:
        raise RunError(str(error)) from error
    config = checkpoint.config
    known = {field.name for field in fields(Settings)}
    if not set(config) >= {"settings", "vocabulary", "text", "step"} or (
        not isinstance(config["settings"], dict) or set(config["settings"]) != known
    ):
        raise RunError(f"{folder / CHECKPOINT}: not a checkpoint of a character model")
    run = Run(
        folder,
        Settings(**config["settings"]),
        Vocabulary(config["vocabulary"]),
        config["text"],
        _read_metrics(folder / METRICS, config["step"]),
    )
    if set(run.model.names()) != set(checkpoint.params):
        raise RunError(
            f"{folder / CHECKPOINT}: not a checkpoint of a character model, its parameters are "
            f"{', '.join(checkpoint.params) or 'none'}"
        )
    progress = Progress(config["step"], checkpoint.params, checkpoint.opt_state, checkpoint.state)
    return run, progress


def _read_metrics(path: Path, step: int) -> list[Metric]:
    """Return the rows up to `step`: a row beyond it belongs to a save that never ended."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        metrics = [
            Metric(
                int(row["step"]),
                int(row["characters"]),
                float(row["seconds"]),
                float(row["train_bits"]),
                float(row["held_out_bits"]),
            )
            for row in rows
        ]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise RunError(
            f"{path}: damaged, expected numbers under {', '.join(Metric._fields)}"
        ) from error
    return [row for row in metrics if row.step <= step]
