"""`python -m seqcore`: the command line."""

import sys

from seqcore.cli import program

if __name__ == "__main__":
    sys.exit(program())
