"""Pictures, drawn with matplotlib, which the extra `plot` installs."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence


def loss_curve(
    x: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    *,
    x_label: str,
    y_label: str,
    title: str = "",
) -> bytes:
    """Draw losses over the course of a training.

    Parameters
    ----------
    x
        How far the training was at each point.
    curves
        The losses at these points, by the name in the legend.
    x_label, y_label, title
        The labels of the axes, and the title above the picture.

    Returns
    -------
    bytes
        A PNG file.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for label, y in curves.items():
        axes.plot(x, y, ".-", label=label)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_title(title)
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()
