"""A run of the character model: what it was set to, how far it got, and its folder.

The configuration in the checkpoint holds `settings`, `vocabulary`, `text` and `step`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from seqcore import arrays, checks, optimizers, plots
from seqcore.arrays import Array
from seqcore.character.corpus import Corpus
from seqcore.character.model import CELLS, character_model
from seqcore.character.text import Vocabulary
from seqcore.files import write_atomically
from seqcore.layers import Sequential
from seqcore.training import Progress, runs
from seqcore.training.runs import RunError

PICTURE = "loss.png"  # of the run folder, where matplotlib is installed

# The settings that have a few known values.
CHOICES = {
    "cell": tuple(CELLS),
    "schedule": ("cosine", "constant"),
    "dtype": ("float32", "float64"),
}


@dataclass(frozen=True)
class Settings:
    """What defines a run: the model, how it is trained, and on which array library."""

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
    backend: str = "numpy"  # the array library
    device: str | None = None  # None for the library's first

    def __post_init__(self) -> None:
        """Refuse values that no run can have."""
        counts = ("hidden", "layers", "embed", "seq_len", "batch")
        checks.count("settings", **{name: getattr(self, name) for name in counts})
        checks.positive("settings", lr=self.lr, clip=self.clip)
        if type(self.seed) is not int or self.seed < 0:
            raise ValueError(
                f"settings: seed is {self.seed!r}, expected a whole number, at least 0"
            )
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"settings: {name} is {getattr(self, name)!r}, expected {' or '.join(known)}"
                )
        for name in ("backend", "device"):
            value = getattr(self, name)
            if not isinstance(value, str) and (name, value) != ("device", None):
                raise TypeError(f"settings: {name} is {value!r}, expected a name")


class Metric(NamedTuple):
    """One row of metrics.csv. Bits are per character; seconds are of training."""

    step: int
    characters: int
    seconds: float
    train_bits: float
    held_out_bits: float


@dataclass
class Run:
    """A run of the character model."""

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
        """Write the checkpoint, then the metrics, each of them whole or not at all."""
        config = {
            "settings": asdict(self.settings),
            "vocabulary": self.vocabulary.characters,
            "text": self.text,
        }
        runs.save(self.folder, progress, config, self.metrics, Metric)

    def begin(self, out: str | None, progress: Progress) -> None:
        """Make the folder of a new run and save it; if that fails, leave no folder behind."""

        def save_in(folder: Path) -> None:
            self.folder = folder
            self.save(progress)

        runs.begin(out, save_in)

    def draw(self) -> Path | None:
        """Draw the loss curve; None if matplotlib is not installed."""
        s = self.settings
        try:
            picture = plots.loss_curve(
                [row.characters / 1e6 for row in self.metrics],
                {
                    "training": [row.train_bits for row in self.metrics],
                    "held out": [row.held_out_bits for row in self.metrics],
                },
                x_label="characters read (millions)",
                y_label="bits per character",
                title=f"{s.cell}, {s.layers} x {s.hidden} units",
            )
        except ImportError:
            return None
        write_atomically(self.folder / PICTURE, picture)
        return self.folder / PICTURE


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
    """Read a run folder.

    Parameters
    ----------
    folder
        The run folder.
    like
        The arrays are placed beside this one; None for NumPy arrays.
    metrics
        Whether to read the metrics; without them they are empty.

    Raises
    ------
    RunError
        If the folder is missing or is not that of a character model, or is damaged.
    """
    folder = Path(folder)
    try:
        config, progress = runs.load(folder, like)
        run = _run(folder, config)
        _check(run, progress, placed=like is not None)
    except RunError:
        raise
    except (ValueError, TypeError) as error:
        path = folder / runs.CHECKPOINT
        raise RunError(f"{path}: not a checkpoint of a character model: {error}") from error
    if metrics:
        run.metrics = runs.read_metrics(folder, Metric, progress.step)
    return run, progress


def _run(folder: Path, config: dict[str, Any]) -> Run:
    """Return the run that a checkpoint's configuration describes."""
    kinds = {"settings": dict, "vocabulary": str, "text": dict}
    for name, kind in kinds.items():
        if type(config.get(name)) is not kind:
            raise TypeError(f"{name} is {config.get(name)!r:.40}, expected {kind.__name__}")
    paths, sha256 = config["text"].get("paths"), config["text"].get("sha256")
    if not (isinstance(paths, list) and all(isinstance(item, str) for item in [*paths, sha256])):
        raise TypeError("text has no paths or no sha256")
    # Settings itself refuses unknown names.
    missing = {field.name for field in fields(Settings)} - set(config["settings"])
    if missing:
        raise ValueError(f"settings lack {', '.join(sorted(missing))}")
    settings = Settings(**config["settings"])
    return Run(folder, settings, Vocabulary(config["vocabulary"]), config["text"], metrics=[])


def _check(run: Run, progress: Progress, *, placed: bool) -> None:
    """Require that the arrays fit the settings; `placed` arrays may have another dtype."""
    params, s = progress.params, run.settings
    # Each layer has parameters, so a huge number of layers need not be built to be refused.
    if s.layers > len(params) or set(run.model.names()) != set(params):
        raise ValueError(f"its parameters are {', '.join(params) or 'none'}")
    opt_state = optimizers.adam().init(params)
    # One step of the model, with zeros as parameters, checks their shapes.
    token = arrays.integers_like([[0]], next(iter(params.values())))
    y, state = run.model.predict(opt_state.mu, token)
    if params["embedding.W"].shape[0] != run.vocabulary.size:
        raise ValueError(
            f"the vocabulary has {run.vocabulary.size} tokens, the embedding "
            f"{params['embedding.W'].shape[0]}"
        )
    if not placed and str(y.dtype) != s.dtype:
        raise TypeError(f"its parameters are {y.dtype}, its settings say {s.dtype}")
    if not _alike(progress.opt_state, opt_state):
        raise ValueError("its opt_state is not that of Adam for these parameters")
    if progress.state is not None and not _alike(progress.state, state, s.batch):
        raise ValueError(f"its state is not that of the model for {s.batch} streams")


def _alike(tree: Any, model: Any, m: int | None = None) -> bool:
    """Tell whether two trees have the same shape.

    Parameters
    ----------
    tree, model
        The trees.
    m
        The batch of the arrays of `tree`; None for that of `model`.
    """
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
    # The integers of two libraries may differ in their width.
    counts = arrays.is_integer(tree) and arrays.is_integer(model)
    shape = model.shape if m is None else (*model.shape[:-1], m)
    return tuple(tree.shape) == tuple(shape) and (counts or bool(tree.dtype == model.dtype))
