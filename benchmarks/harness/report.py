"""The page that a benchmark writes: facts of the run, tables, pictures.

A script makes `Report(name, title, options)` before it measures, adds tables and pictures, and
calls `save` at the end. That writes `NAME.md` with the tables, `NAME.json` with every number
that was measured, and the pictures, all with machine, versions, date and command.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import platform
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness import machine
from harness.processes import BENCHMARKS, Worker

RESULTS = BENCHMARKS / "results"


class Report:
    """The tables and pictures of one benchmark, and the facts of its run."""

    def __init__(self, name: str, title: str, options: argparse.Namespace) -> None:
        """Note when, where and on how busy a machine the run starts."""
        self.name, self.title = name, title
        # A quick run is a trial; git ignores its folder.
        self.folder: Path = options.out or RESULTS / ("quick" if options.quick else "")
        self.text: list[str] = []
        self._stolen = machine.stolen()
        script = Path(sys.argv[0]).resolve().relative_to(BENCHMARKS.parent).as_posix()
        self.facts: dict[str, Any] = {
            "command": shlex.join(["python", script, *sys.argv[1:]]),
            "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "machine": machine.processor(),
            "cores": machine.cores(),
            "system": machine.system(),
            "python": platform.python_version(),
            "commit": machine.commit(BENCHMARKS),
            "load at start": machine.load(),
            "versions": {},
            "threadpools": {},
        }

    def see(self, running: Mapping[str, Worker]) -> None:
        """Note the versions that the workers have loaded."""
        for name, worker in running.items():
            self.facts["versions"] |= worker.hello["versions"]
            self.facts["threadpools"].setdefault(name, worker.hello["threadpools"])

    def say(self, text: str) -> None:
        """Print a paragraph or a table, and add it to the page."""
        print(f"\n{text}", flush=True)
        self.text.append(text)

    def picture(self, figure: Any, name: str, caption: str) -> None:
        """Save a picture and show it on the page."""
        self.folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(self.folder / f"{name}.png", dpi=150, metadata={"Software": None})
        self.text.append(f"![{caption}]({name}.png)")

    def save(self, measured: Any) -> None:
        """Write the page and all that was measured."""
        self.facts["load at end"] = machine.load()
        self.facts["stolen seconds"] = round(machine.stolen() - self._stolen, 1)
        self.folder.mkdir(parents=True, exist_ok=True)
        page = "\n\n".join([f"# {self.title}", self.heading(), *self.text])
        (self.folder / f"{self.name}.md").write_text(page + "\n", encoding="utf-8")
        record = {"facts": self.facts, "measured": measured}
        text = json.dumps(record, indent=1, ensure_ascii=False)
        (self.folder / f"{self.name}.json").write_text(text + "\n", encoding="utf-8")
        print(f"\nwritten: {self.folder / self.name}.md, .json")

    def heading(self) -> str:
        """Return the facts as sentences."""
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
