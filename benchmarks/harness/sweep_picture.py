"""The picture of sweeps: time and memory of a training step against each size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness import pictures
from harness.report import Report
from harness.sweep import Exponents, Row, Sweep, values

LOOKS = {"plain": ("#D55E00", "o"), "recompute": ("#0072B2", "s")}  # colour, marker


def draw(
    plan: Sequence[Sweep],
    measured: Sequence[Sequence[Row]],
    fitted: Sequence[Exponents],
    page: Report,
) -> None:
    """Draw all sweeps side by side, time above memory."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7), layout="constrained")
    panels = figure.subplots(2, len(plan), sharex="col")
    for number, (sweep, rows, found) in enumerate(zip(plan, measured, fitted, strict=True)):
        top, bottom = panels[:, number]
        curves(top, bottom, sweep, rows, found)
        others = [
            f"{n} = {size}" for n, size in sweep.shapes[0]._asdict().items() if n != sweep.axis
        ]
        top.set_title(f"against {sweep.axis}, with {', '.join(others)}", fontsize=10)
        bottom.set_xlabel(f"{sweep.axis}: {sweep.words}")
        for axes in (top, bottom):
            pictures.log_log(axes, sweep.sizes)
    panels[0, 0].set_ylabel("ms per training step")
    panels[1, 0].set_ylabel("MB")
    figure.suptitle("A training step of an LSTM in float32, one thread")
    page.picture(figure, "growth", "Time and memory against T, m and n_a")


def curves(top: Any, bottom: Any, sweep: Sweep, rows: Sequence[Row], found: Exponents) -> None:
    """Draw the curves of one sweep, time in `top` and memory in `bottom`."""
    for side, own in found.items():
        colour, marker = LOOKS[side]
        for name, axes, unit, line in (
            ("time", top, 1e3, "-"),
            ("peak", bottom, 1e-6, "-"),
            ("tape", bottom, 1e-6, ":"),
        ):
            axes.plot(
                sweep.sizes,
                [unit * values(row, side)[name] for row in rows],
                line,
                color=colour,
                marker=marker,
                markersize=4,
                label=f"{side}, {name}: exponent {own[name]:.2f}",
            )
