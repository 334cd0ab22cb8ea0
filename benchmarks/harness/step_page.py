"""The tables and pictures of training steps: shapes by sides, for each number of threads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness import pictures
from harness.report import Report
from harness.tables import shortest, table, versus
from harness.turns import ratio

Row = dict[str, Any]  # cell, shape, threads, seconds by side, forms of products

COMPARED = (
    ("torch", "Time of torch / time: above 1 is faster than torch."),
    ("products", "Time / time of products: how far above the floor."),
    ("textbook", "Time of textbook / time: above 1 is faster than textbook."),
)


def tables(rows: Sequence[Row], page: Report) -> None:
    """Write the tables of one cell with one number of threads."""
    if not rows:
        return
    names = pictures.present(row["seconds"] for row in rows)
    page.say(f"## {rows[0]['cell'].upper()}, {in_words(rows[0]['threads'])}")
    lines = []
    for row in rows:
        turns = row["seconds"]
        times = [shortest(turns[name]) if name in turns else "" for name in names]
        lines.append([row["shape"], *times])
    page.say(table(["ms per step", *names], lines))
    for side, caption in COMPARED:
        if side not in names:
            continue
        page.say(caption)
        others = [name for name in names if name != side]
        lines = []
        for row in rows:
            pairs = [(name, side) if side == "products" else (side, name) for name in others]
            lines.append([row["shape"], *(versus(row["seconds"], *pair) for pair in pairs)])
        page.say(table(["shape", *others], lines))
    if "products" in names:
        page.say("Fastest forms of the products.")
        won = [[f"{name}: {form['won']}" for name, form in row["forms"].items()] for row in rows]
        lines = [[row["shape"], "; ".join(own)] for row, own in zip(rows, won, strict=True)]
        page.say(table(["shape", "forms"], lines, words=2))


def draw(rows: Sequence[Row], page: Report) -> None:
    """Draw how fast the sides are compared with torch, one panel for each number of threads."""
    if len(pictures.present(row["seconds"] for row in rows)) < 2:
        return
    if not all("torch" in row["seconds"] for row in rows):
        return
    from matplotlib.figure import Figure

    cell = rows[0]["cell"]
    counts = sorted({row["threads"] for row in rows})
    figure = Figure(figsize=(11, 0.8 + 3.4 * len(counts)), layout="constrained")
    panels = figure.subplots(len(counts), squeeze=False)[:, 0]
    for axes, threads in zip(panels, counts, strict=True):
        own = [row for row in rows if row["threads"] == threads]
        timed = [row["seconds"] for row in own]
        speeds = {
            name: [ratio(turns, "torch", name)[0] if name in turns else None for turns in timed]
            for name in pictures.present(timed)
            if name != "torch"
        }
        pictures.bars(axes, [row["shape"] for row in own], speeds, base=1.0)
        axes.set_title(in_words(threads), loc="left")
        axes.set_ylabel("times as fast as torch")
        pictures.powers_of_two(axes)
    panels[-1].set_xlabel("time steps / batch / features / units")
    pictures.legend(figure, panels[-1])
    figure.suptitle(f"{cell.upper()}: a training step in float32, compared with torch.nn")
    page.picture(figure, f"training-{cell}", f"{cell.upper()} training step, compared with torch")


def in_words(threads: int) -> str:
    """Return a number of threads in words."""
    return "one thread" if threads == 1 else f"{threads} threads"
