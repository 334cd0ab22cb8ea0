"""Keep the table of packages in CONTRIBUTING.md as pyproject.toml declares it.

python tools/rooms.py           print the table
python tools/rooms.py --write   renew it in CONTRIBUTING.md
"""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "CONTRIBUTING.md"
BEGIN, END = "<!-- rooms -->", "<!-- end -->"


def rooms() -> dict[str, str]:
    """Return what each room holds, in the order in which they may import each other."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    declared: dict[str, str] = project["tool"]["seqcore"]["rooms"]
    return declared


def table() -> str:
    """Return the rooms as a table in Markdown, without its markers."""
    rows = [f"| `{room}` | {holds} |" for room, holds in rooms().items()]
    return "\n".join(["| in `seqcore/` | holds |", "| --- | --- |", *rows])


def renewed(page: str) -> str:
    """Return the page with the table of now between its markers.

    Raises
    ------
    SystemExit
        If the page lacks a marker.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"rooms: {PAGE.name} lacks {BEGIN} or {END}")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def main() -> None:
    """Print the table, or write it into CONTRIBUTING.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--write", action="store_true", help=f"renew the table in {PAGE.name}")
    if parser.parse_args().write:
        PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(table())


if __name__ == "__main__":
    main()
