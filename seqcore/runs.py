"""A run folder: what `seqcore train` keeps, and what sample, eval and resume read.

checkpoint.safetensors   parameters, optimizer and recurrent state; settings, vocabulary
metrics.csv              bits per character over the run
loss.png                 the same as a picture, where matplotlib is installed
"""

from __future__ import annotations

import csv
import io
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from seqcore import arrays, checks, optimizers
from seqcore.arrays import Array
from seqcore.characters import CELLS, character_model
from seqcore.files import load_checkpoint, save_checkpoint, write_atomically
from seqcore.layers import Sequential
from seqcore.text import Corpus, Vocabulary
from seqcore.training import CHECKPOINT, Progress

METRICS = "metrics.csv"
PICTURE = "loss.png"

# What a setting of words may be.
CHOICES = {
    "cell": tuple(CELLS),
    "schedule": ("cosine", "constant"),
    "dtype": ("float32", "float64"),
}


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

    def __post_init__(self) -> None:
        """Refuse what no run can be set to."""
        counts = ("hidden", "layers", "embed", "seq_len", "batch")
        checks.count("settings", **{name: getattr(self, name) for name in counts})
        checks.positive("settings", lr=self.lr, clip=self.clip)
        if type(self.seed) is not int or self.seed < 0:
            raise ValueError(f"settings: seed is {self.seed!r}, expected a whole number from 0")
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"settings: {name} is {getattr(self, name)!r}, expected {' or '.join(known)}"
                )
        names = [self.backend] if self.device is None else [self.backend, self.device]
        if not all(isinstance(name, str) for name in names):
            raise TypeError("settings: backend or device is no name")


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

    def begin(self, out: str | None, progress: Progress) -> None:
        """Make the folder of a new run and save it; what fails leaves no folder behind."""
        place = Path("runs" if out is None else out)
        there = [folder for folder in (place, *place.parents) if folder.exists()]
        self.folder = new_folder(out)
        try:
            self.save(progress)
        except BaseException:
            for name in (CHECKPOINT, METRICS):
                (self.folder / name).unlink(missing_ok=True)
            with suppress(OSError):  # another run may have come to lie beside it
                for folder in (self.folder, *self.folder.parents):
                    if folder in there:
                        break
                    folder.rmdir()
            raise

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


def load_run(
    folder: str | Path, like: Array | None = None, *, metrics: bool = True
) -> tuple[Run, Progress]:
    """Read a run folder; arrays go beside `like`, or stay NumPy arrays.

    Without `metrics` its table is not looked at, and taken for empty.

    Raises
    ------
    RunError
        If the folder is missing, is no run, or its checkpoint or its table is damaged.
    """
    folder = Path(folder)
    path = folder / CHECKPOINT
    if not folder.is_dir():
        raise RunError(f"{folder}: no such run folder")
    if not path.is_file():
        raise RunError(f"{folder}: not a run folder, it has no {CHECKPOINT}")
    try:
        checkpoint = load_checkpoint(path, like=like)
    except ValueError as error:
        raise RunError(str(error)) from error
    try:
        run = _run(folder, checkpoint.config)
        progress = Progress(
            checkpoint.config["step"], checkpoint.params, checkpoint.opt_state, checkpoint.state
        )
        _check(run, progress, placed=like is not None)
    except (ValueError, TypeError) as error:
        raise RunError(f"{path}: not a checkpoint of a character model: {error}") from error
    if metrics:
        run.metrics = _read_metrics(folder / METRICS, progress.step)
    return run, progress


def _run(folder: Path, config: dict[str, Any]) -> Run:
    """Return the run that a checkpoint's configuration tells of."""
    kinds = {"settings": dict, "vocabulary": str, "text": dict, "step": int}
    for name, kind in kinds.items():
        if type(config.get(name)) is not kind:
            raise TypeError(f"{name} is {config.get(name)!r:.40}, expected {kind.__name__}")
    if config["step"] < 0:
        raise ValueError(f"step is {config['step']}, expected at least 0")
    paths, sha256 = config["text"].get("paths"), config["text"].get("sha256")
    if not (isinstance(paths, list) and all(isinstance(item, str) for item in [*paths, sha256])):
        raise TypeError("text has no paths or no sha256")
    # Settings refuses a name too many, and this one too few.
    missing = {field.name for field in fields(Settings)} - set(config["settings"])
    if missing:
        raise ValueError(f"settings lack {', '.join(sorted(missing))}")
    settings = Settings(**config["settings"])
    return Run(folder, settings, Vocabulary(config["vocabulary"]), config["text"], metrics=[])


def _check(run: Run, progress: Progress, *, placed: bool) -> None:
    """Require that the arrays are those that this run's settings lead to."""
    params, s = progress.params, run.settings
    # Each layer has parameters: with more layers than those, their names need not be listed.
    if s.layers > len(params) or set(run.model.names()) != set(params):
        raise ValueError(f"its parameters are {', '.join(params) or 'none'}")
    opt_state = optimizers.adam().init(params)
    # One step of the model with zeros for parameters: it checks their shapes.
    token = arrays.integers_like([[0]], next(iter(params.values())))
    y, state, _ = run.model.forward(opt_state.mu, token)
    if params["embedding.W"].shape[0] != run.vocabulary.size:
        raise ValueError(f"the vocabulary has {run.vocabulary.size} tokens, the embedding others")
    if not placed and str(y.dtype) != s.dtype:
        raise TypeError(f"its parameters are {y.dtype}, its settings say {s.dtype}")
    if not _alike(progress.opt_state, opt_state):
        raise ValueError("its opt_state is not that of Adam for these parameters")
    if progress.state is not None and not _alike(progress.state, state, s.batch):
        raise ValueError(f"its state is not that of the model for {s.batch} streams")


def _alike(tree: Any, model: Any, m: int | None = None) -> bool:
    """Tell whether two trees have one shape; the arrays of `tree` may have a batch of m."""
    if isinstance(model, dict):
        return (
            isinstance(tree, dict)
            and tree.keys() == model.keys()
            and all(_alike(tree[name], model[name], m) for name in model)
        )
    if isinstance(model, tuple):
        return (
            type(tree) is type(model)
            and len(tree) == len(model)
            and all(_alike(*pair, m) for pair in zip(tree, model, strict=True))
        )
    if not arrays.is_array(tree):
        return False
    # A library may count in integers of another width.
    counts = arrays.is_integer(tree) and arrays.is_integer(model)
    shape = model.shape if m is None else (*model.shape[:-1], m)
    return tuple(tree.shape) == tuple(shape) and (counts or bool(tree.dtype == model.dtype))


def _read_metrics(path: Path, step: int) -> list[Metric]:
    """Return the rows up to `step`: a row beyond it belongs to a save that never ended."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            head, *rows = csv.reader(file)
        if tuple(head) != Metric._fields:
            raise ValueError
        kinds = (int, int, float, float, float)
        metrics = [
            Metric(*(kind(value) for kind, value in zip(kinds, row, strict=True))) for row in rows
        ]
    except FileNotFoundError:
        return []
    except (ValueError, csv.Error) as error:
        raise RunError(
            f"{path}: damaged, expected numbers under {', '.join(Metric._fields)}"
        ) from error
    return [row for row in metrics if row.step <= step]
