"""The name under which seqcore is installed, and how an array library is added to it.

Standard library only: noxfile.py loads this file by its path.
"""

from __future__ import annotations

import shlex
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

# The name on the package index. `seqcore` is another project there, with the same import name.
DISTRIBUTION = "seqcore-rnn"


def install_hint(extra: str) -> str:
    """Return the command that adds an extra to the seqcore that is running.

    Where the distribution is installed, from the index or from a checkout, pip takes the
    version that is there and adds what the extra needs. A checkout that is only imported, by
    PYTHONPATH or its own folder, has to be installed with the extra.

    Parameters
    ----------
    extra
        An extra of pyproject.toml.

    Returns
    -------
    str
        A command for a shell in the current folder.
    """
    try:
        distribution(DISTRIBUTION)
        what = DISTRIBUTION
    except PackageNotFoundError:
        what = _checkout() or DISTRIBUTION
    return f"pip install {shlex.quote(f'{what}[{extra}]')}"


def _checkout() -> str:
    """Return the checkout that holds this file, as a path from here; "" if there is none."""
    root = Path(__file__).resolve().parent.parent
    if not (root / "pyproject.toml").is_file():
        return ""
    return "." if root == Path.cwd() else str(root)
