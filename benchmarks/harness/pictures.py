"""Pictures: the look of the sides, grouped bars and curves on logarithmic axes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# Okabe and Ito's colours, which colour-blind readers can tell apart. A side looks the same in
# every picture. Tables and pictures list the sides in this order.
COLOURS = {
    "textbook": "#999999",
    "seqcore": "#D55E00",
    "seqcore-generic": "#E69F00",
    "seqcore-shards": "#CC79A7",
    "seqcore-eager": "#D55E00",
    "seqcore-bound": "#D55E00",
    "seqcore-forward": "#E69F00",
    "seqcore-jax": "#009E73",
    "torch": "#0072B2",
    "torch-1": "#56B4E9",
    "torch-cell": "#56B4E9",
    "torch-cudnn": "#0072B2",
    "onnxruntime": "#009E73",
    "onnxruntime-bound": "#CC79A7",
    "python": "#999999",
    "numpy": "#000000",
    "products": "#000000",
}


def present(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the names of the sides that have a value in any row, in the order of COLOURS."""
    named = {name for row in rows for name in row}
    return [name for name in COLOURS if name in named]


def bars(
    axes: Any,
    groups: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    *,
    base: float,
) -> None:
    """Draw grouped bars on a logarithmic axis, each with its value.

    Parameters
    ----------
    axes
        Axes of matplotlib.
    groups
        Names of the groups.
    series
        Values by side, one for each group; None draws no bar.
    base
        Where bars start: larger values go up from it, smaller ones go down.
    """
    width = 0.86 / len(series)
    for number, (side, values) in enumerate(series.items()):
        drawn = [(at, value) for at, value in enumerate(values) if value is not None]
        places = [at + (number - (len(series) - 1) / 2) * width for at, _ in drawn]
        heights = [value - base for _, value in drawn]
        axes.bar(places, heights, width, bottom=base, color=COLOURS[side], label=side)
        for place, (_, value) in zip(places, drawn, strict=True):
            axes.annotate(
                f"{value:.2f}" if value < 10 else f"{value:.0f}",
                (place, value),
                xytext=(0, 2 if value >= base else -2),
                textcoords="offset points",
                ha="center",
                va="bottom" if value >= base else "top",
                fontsize=7,
                rotation=90,
            )
    axes.set_yscale("log")
    axes.set_xticks(range(len(groups)), groups)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.axhline(base, color="black", linewidth=0.8)
    axes.margins(x=0.01, y=0.18)
    _drop_edges(axes)


def base_below(series: Iterable[Sequence[float | None]]) -> float:
    """Return the power of ten below all values, from which `bars` may start."""
    least = min(value for values in series for value in values if value)
    return float(10.0 ** math.floor(math.log10(least)))


def powers_of_two(axes: Any) -> None:
    """Mark the powers of two within the limits of the y axis: 1/4, 1/2, 1, 2, ..."""
    low, high = axes.get_ylim()
    marks = [2.0**n for n in range(-12, 13) if low <= 2.0**n <= high]
    axes.set_yticks(marks, [f"{at:g}" if at >= 1 else f"1/{1 / at:g}" for at in marks])
    axes.minorticks_off()


def log_log(axes: Any, sizes: Sequence[int]) -> None:
    """Make both axes of curves logarithmic, mark the sizes, and add a legend with its room."""
    from matplotlib.ticker import LogLocator

    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(sizes, [str(n) if n % 1000 else f"{n // 1000}k" for n in sizes])
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.grid(alpha=0.3)
    drawn = axes.legend(fontsize=8, frameon=False, loc="upper left")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** (0.07 * len(drawn.get_texts())))
    _drop_edges(axes)


def legend(figure: Any, axes: Any, columns: int | None = None) -> None:
    """Draw one legend below all panels, with the sides in `axes`: one row, or `columns` wide."""
    handles, labels = axes.get_legend_handles_labels()
    columns = columns or len(labels)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def _drop_edges(axes: Any) -> None:
    """Remove the edges at the top and on the right."""
    for edge in ("top", "right"):
        axes.spines[edge].set_visible(False)
