"""What all benchmarks write: the facts of a run, tables, pictures.

A script makes `Report(name, options)` before it measures, adds tables and pictures, and
ends with `save`: `NAME.md` with the tables, `NAME.json` with every number that was measured,
and the pictures, all with machine, versions, date and command.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import duel
from harness.problem import Shape

HERE = Path(__file__).resolve().parents[1]  # benchmarks/

# Okabe and Ito's colours, which colour-blind readers tell apart. A side looks the same in
# every picture.
COLOURS = {
    "textbook": "#999999",
    "seqcore": "#D55E00",
    "seqcore-generic": "#E69F00",
    "seqcore-shards": "#CC79A7",
    "seqcore-jax": "#009E73",
    "torch": "#0072B2",
    "torch-1": "#56B4E9",
    "products": "#000000",
    # Of a GPU.
    "seqcore-eager": "#D55E00",
    "torch-cudnn": "#0072B2",
    # Of one step at a time, and of cold starts.
    "seqcore-bound": "#D55E00",
    "seqcore-forward": "#E69F00",
    "torch-cell": "#56B4E9",
    "onnxruntime": "#009E73",
    "onnxruntime-bound": "#CC79A7",
    "python": "#999999",
    "numpy": "#000000",
}


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of the options that every benchmark takes."""
    options = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument(
        "--quick", action="store_true", help="a short run that shows that all works"
    )
    options.add_argument("--rounds", type=int, help="turns of each side")
    options.add_argument("--out", type=Path, help="folder of the results")
    return options


def step_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser that also takes the cells, shapes and sides of training steps."""
    options = parser(description)
    options.add_argument("--cells", nargs="+", choices=("lstm", "gru", "rnn"), metavar="CELL")
    options.add_argument("--shapes", nargs="+", type=Shape.parse, metavar="T/m/n_x/n_a")
    options.add_argument("--sides", nargs="+", choices=COLOURS, metavar="SIDE", help="only these")
    return options


def selected(sides: Sequence[duel.Side], names: Sequence[str] | None) -> list[duel.Side]:
    """Return the sides of those names, or all."""
    if not names:
        return list(sides)
    return [side for side in sides if side.name in names]


def present(turns: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the sides that have turns in any row, in the order of COLOURS."""
    return [name for name in COLOURS if any(name in row for row in turns)]


class Report:
    """One benchmark's tables and pictures, with the facts that they hang on."""

    def __init__(self, name: str, title: str, options: argparse.Namespace) -> None:
        """Note where, when and in what state of the machine the run starts."""
        self.name, self.title = name, title
        # A quick run is a trial; git ignores its folder.
        self.folder = options.out or HERE / "results" / ("quick" if options.quick else "")
        self.text: list[str] = []
        self._stolen = stolen()
        self.facts: dict[str, Any] = {
            "command": shlex.join(["python", script(), *sys.argv[1:]]),
            "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "machine": processor(),
            "cores": duel.cores(),
            "system": f"{platform.system()} {platform.machine()}, {' '.join(platform.libc_ver())}",
            "python": platform.python_version(),
            "commit": commit(),
            "load at start": load(),
            "versions": {},
            "threadpools": {},
        }

    def see(self, running: Mapping[str, duel.Worker]) -> None:
        """Note the versions that the workers have loaded."""
        for name, worker in running.items():
            self.facts["versions"] |= worker.hello["versions"]
            self.facts["threadpools"].setdefault(name, worker.hello["threadpools"])

    def say(self, text: str) -> None:
        """Print a paragraph or table, and keep it for the page."""
        print(f"\n{text}", flush=True)
        self.text.append(text)

    def picture(self, figure: Any, name: str, caption: str) -> None:
        """Save a picture, and show it on the page."""
        self.folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(self.folder / f"{name}.png", dpi=150, metadata={"Software": None})
        self.text.append(f"![{caption}]({name}.png)")

    def save(self, measured: Any) -> None:
        """Write the page, and all that was measured."""
        self.facts["load at end"] = load()
        self.facts["stolen seconds"] = round(stolen() - self._stolen, 1)
        self.folder.mkdir(parents=True, exist_ok=True)
        page = "\n\n".join([f"# {self.title}", self.heading(), *self.text])
        (self.folder / f"{self.name}.md").write_text(page + "\n", encoding="utf-8")
        record = {"facts": self.facts, "measured": measured}
        text = json.dumps(record, indent=1, ensure_ascii=False)
        (self.folder / f"{self.name}.json").write_text(text + "\n", encoding="utf-8")
        print(f"\nwritten: {self.folder / self.name}.md, .json")

    def heading(self) -> str:
        """Return the facts in words."""
        facts = self.facts
        versions = {"Python": facts["python"], **facts["versions"]}
        libraries = ", ".join(f"{name} {version}" for name, version in versions.items())
        pools = {
            f"{pool['internal_api']} {pool['version']} ({pool['architecture']})"
            for side in facts["threadpools"].values()
            for pool in side
            if pool["version"]
        }
        return (
            f"`{facts['command']}`, {facts['date']}, commit {facts['commit']}.\n"
            f"{facts['machine']}, {facts['cores']} cores, {facts['system']}; load average "
            f"{facts['load at start']} at the start, {facts['load at end']} at the end, "
            f"{facts['stolen seconds']} s of processor time stolen by the host.\n"
            f"{'; '.join(filter(None, (libraries, ', '.join(sorted(pools)))))}."
        )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """Return a Markdown table that is aligned as plain text too.

    Parameters
    ----------
    head, rows
        Cells as text.
    words
        So many columns, from the left, hold words and are aligned to the left.
    """
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if number < words else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return f"| {' | '.join(cells)} |"

    rule = [
        ":" + "-" * (width - 1) if number < words else "-" * (width - 1) + ":"
        for number, width in enumerate(widths)
    ]
    return "\n".join([line(head), line(rule), *map(line, rows)])


def bars(
    axes: Any,
    groups: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    *,
    base: float,
) -> None:
    """Draw grouped bars on a logarithmic axis, with their values written on them.

    Parameters
    ----------
    axes
        Matplotlib's.
    groups
        Names of the groups.
    series
        Values by side, one for each group; None where there is none.
    base
        Where bars start: values above go up from it, those below go down.
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
    for edge in ("top", "right"):
        axes.spines[edge].set_visible(False)


def legend(figure: Any, axes: Any, columns: int | None = None) -> None:
    """Draw one legend below all panels, of what is in `axes`; in a row, or so many columns."""
    handles, labels = axes.get_legend_handles_labels()
    columns = columns or len(labels)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def script() -> str:
    """Return the path of the running script as one types it in the checkout."""
    return Path(sys.argv[0]).resolve().relative_to(HERE.parent).as_posix()


def processor() -> str:
    """Return the model of the processor, in words."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def commit() -> str:
    """Return the commit of the checkout, with a + if files of it have changed since."""
    command = ["git", "-C", str(HERE), "describe", "--always", "--exclude=*", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def load() -> float:
    """Return how many processes wanted to run, on average over the last minute."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else float("nan")


def stolen() -> float:
    """Return the seconds of processor time that a host has kept from this machine."""
    try:
        first = Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0]
        return int(first.split()[8]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError):
        return 0.0
