"""The tables and the picture of a run on a GPU."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness import machine, pictures
from harness.gpu_cases import Case
from harness.report import Report
from harness.tables import table

Row = dict[str, Any]  # seconds, errors and notes, each by side
Rows = Mapping[Case, Row]

BELOW = ("torch-cudnn", "products")  # ratios compare with these


def microseconds(row: Row, name: str, n_steps: int) -> float | None:
    """Return the median time per time step, None if the side was not timed."""
    seconds = row["seconds"].get(name)
    return 1e6 * statistics.median(seconds) / n_steps if seconds else None


def number(value: float | None) -> str:
    """Return a number as a cell of a table; nothing if there is none."""
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def in_words(row: Row, n_steps: int) -> str:
    """Return the times of one case in one line."""
    times = {name: microseconds(row, name, n_steps) for name in row["seconds"]}
    return ", ".join(f"{name} {number(value)} us" for name, value in times.items()) or "nothing"


def device(rows: Iterable[Row]) -> dict[str, Any]:
    """Return the facts of the GPU, its driver and its CUDA."""
    found: dict[str, Any] = {}
    for row in rows:
        for notes in row["notes"].values():
            found |= notes
    return found | machine.gpu()


def case_table(rows: Rows, n_steps: int) -> str:
    """Return the table of times and ratios of cases in one precision."""
    names = pictures.present(row["seconds"] for row in rows.values())
    below = [name for name in BELOW if name in names]
    above = [name for name in names if name not in below]
    head = ["layers x n_a", "batch m", *(f"{name}, us" for name in names)]
    head += [f"{name} / {other}" for other in below for name in above]
    lines = []
    for case, row in rows.items():
        if not row["seconds"]:
            continue
        times = {name: microseconds(row, name, n_steps) for name in names}
        ratios = [ratio(times[name], times[other]) for other in below for name in above]
        cells = [number(value) for value in (*times.values(), *ratios)]
        lines.append([f"{case.layers} x {case.n_a}", str(case.m), *cells])
    return table(head, lines)


def ratio(above: float | None, below: float | None) -> float | None:
    """Return a ratio of times, None if one is missing."""
    return above / below if above and below else None


def left_out(
    missing: Mapping[str, str], late: Mapping[str, Sequence[Case]], budget: float
) -> list[str]:
    """Return what was left out, and why."""
    said = [f"{name} is left out: {why}." for name, why in missing.items()]
    for name, cases in late.items():
        sizes = "; ".join(dict.fromkeys(case.size for case in cases))
        said.append(f"{name} is left out, as the {budget:.0f} s were used up, at {sizes}.")
    return said


def draw(rows: Rows, n_steps: int, page: Report, title: str) -> None:
    """Draw the time of a training step with TF32 off, one panel for each number of layers."""
    rows = {
        case: row
        for case, row in rows.items()
        if case.do == "training" and not case.tf32 and "torch-cudnn" in row["seconds"]
    }
    names = pictures.present(row["seconds"] for row in rows.values())
    if len(names) < 2:
        return
    try:
        from matplotlib.figure import Figure
    except ImportError:
        page.say("No picture was drawn: matplotlib is not installed.")
        return
    layers = sorted({case.layers for case in rows})
    figure = Figure(figsize=(14, 0.8 + 3.4 * len(layers)), layout="constrained")
    panels = figure.subplots(len(layers), squeeze=False)[:, 0]
    for axes, count in zip(panels, layers, strict=True):
        own = {case: row for case, row in rows.items() if case.layers == count}
        series = {
            name: [microseconds(row, name, n_steps) for row in own.values()] for name in names
        }
        groups = [f"{case.n_a}\nm {case.m}" for case in own]
        pictures.bars(axes, groups, series, base=pictures.base_below(series.values()))
        axes.set_title(f"{count} layer{'s' if count > 1 else ''}", loc="left")
        axes.set_ylabel("us per time step")
    panels[-1].set_xlabel("units and batch")
    pictures.legend(figure, panels[-1])
    figure.suptitle(title)
    page.picture(figure, page.name, "LSTM training step, microseconds per time step")
