"""Write the Python examples of README.md into one file, as a user's program.

python tools/page_examples.py FILE   write it, for a type checker

The examples build on each other, so they are one program. An array library that is not
installed where types are checked is not an error of the program.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
HEADER = "# pyright: standard, reportMissingImports=false\n\n"


def examples(page: Path = README) -> list[str]:
    """Return the Python blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def program() -> str:
    """Return all examples as one program."""
    return HEADER + "\n".join(examples())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python tools/page_examples.py FILE")
    Path(sys.argv[1]).write_text(program(), encoding="utf-8")
