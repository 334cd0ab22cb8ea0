"""A run folder: one training run, kept so that it can be resumed. It knows no model.

checkpoint.safetensors   parameters, optimizer and recurrent state, configuration, steps done
metrics.csv              one row for each time that the run was measured
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_type_hints

from seqcore.arrays import Array
from seqcore.files import load_checkpoint, lock, save_checkpoint, write_atomically
from seqcore.training.step import Progress

CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.csv"

Row = TypeVar("Row", bound=NamedTuple)  # of metrics.csv; its first field is `step`


class RunError(ValueError):
    """A run folder can't be used; the message says which and why."""


def save(
    folder: Path,
    progress: Progress,
    config: Mapping[str, Any],
    metrics: Sequence[Row],
    kind: type[Row],
) -> None:
    """Write the checkpoint, then the metrics, each of them whole or not at all.

    Parameters
    ----------
    folder
        The run folder.
    progress
        The training so far.
    config
        What else the checkpoint holds, as JSON; `step` is added to it.
    metrics, kind
        The rows of the table, and their type.
    """
    save_checkpoint(
        folder / CHECKPOINT,
        progress.params,
        opt_state=progress.opt_state,
        state=progress.state,
        config={**config, "step": progress.step},
    )
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(kind._fields)
    writer.writerows(metrics)
    write_atomically(folder / METRICS, table.getvalue().encode())


def load(folder: Path, like: Array | None = None) -> tuple[dict[str, Any], Progress]:
    """Read the checkpoint of a run folder.

    Parameters
    ----------
    folder
        The run folder.
    like
        The arrays are placed beside this one; None for NumPy arrays.

    Returns
    -------
    config, progress
        The configuration, without `step`, and the training so far.

    Raises
    ------
    RunError
        If the folder is missing or is not a run folder, or its checkpoint is damaged.
    ValueError, TypeError
        If the checkpoint is not that of a run.
    """
    if not folder.is_dir():
        raise RunError(f"{folder}: no such run folder")
    if not (folder / CHECKPOINT).is_file():
        raise RunError(f"{folder}: not a run folder, it has no {CHECKPOINT}")
    try:
        params, opt_state, state, config = load_checkpoint(folder / CHECKPOINT, like=like)
    except ValueError as error:
        raise RunError(str(error)) from error
    step = config.pop("step", None)
    if type(step) is not int:
        raise TypeError(f"step is {step!r:.40}, expected int")
    if step < 0:
        raise ValueError(f"step is {step}, expected at least 0")
    return config, Progress(step, params, opt_state, state)


def read_metrics(folder: Path, kind: type[Row], step: int) -> list[Row]:
    """Return the rows of the metrics up to `step`.

    Rows beyond it come from a save that was interrupted before its checkpoint, or from training
    that went back to an earlier step.

    Raises
    ------
    RunError
        If the table is damaged.
    """
    path = folder / METRICS
    kinds = get_type_hints(kind).values()
    try:
        with path.open(newline="", encoding="utf-8") as file:
            head, *lines = csv.reader(file)
        if tuple(head) != kind._fields:
            raise ValueError
        rows = [
            kind._make(to(value) for to, value in zip(kinds, line, strict=True)) for line in lines
        ]
    except FileNotFoundError:
        return []
    except (ValueError, csv.Error) as error:
        raise RunError(
            f"{path}: damaged, expected numbers under {', '.join(kind._fields)}"
        ) from error
    return [row for row in rows if row[0] <= step]


def new_folder(out: str | None) -> Path:
    """Make the folder of a new run: `out`, or the first free one of runs/1, runs/2, ...

    Raises
    ------
    RunError
        If `out` is a file, or a folder that is not empty.
    """
    if out is not None:
        folder = Path(out)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RunError(f"{folder}: exists already; choose another --out, or --resume it")
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


def begin(out: str | None, save_in: Callable[[Path], None]) -> Path:
    """Make the folder of a new run and save the run; if that fails, leave no folder behind.

    Parameters
    ----------
    out
        As for `new_folder`.
    save_in
        Saves the run in the folder that it is given.
    """
    place = Path("runs" if out is None else out)
    existing = [folder for folder in (place, *place.parents) if folder.exists()]
    made = new_folder(out)
    try:
        save_in(made)
    except BaseException:
        for name in (CHECKPOINT, METRICS):
            (made / name).unlink(missing_ok=True)
        with suppress(OSError):  # another run may have been put beside it
            for folder in (made, *made.parents):
                if folder in existing:
                    break
                folder.rmdir()
        raise
    return made


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keep other processes from training in a run folder, where the system has file locks.

    Raises
    ------
    RunError
        If another process is training there.
    """
    try:
        held = lock(folder)
    except BlockingIOError:
        raise RunError(f"{folder}: another process is training this run") from None
    try:
        yield
    finally:
        if held is not None:
            os.close(held)
