"""`python -m seqcore`: the command line."""

import sys

from seqcore.cli import main

if __name__ == "__main__":
    sys.exit(main())
