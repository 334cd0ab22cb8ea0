"""`python -m seqcore.cli`: the same as `python -m seqcore`."""

import sys

from seqcore.cli import program

if __name__ == "__main__":
    sys.exit(program())
