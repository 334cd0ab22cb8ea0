"""`python -m seqcore.cli`: the same as `python -m seqcore`."""

import sys

from seqcore.cli import main

if __name__ == "__main__":
    sys.exit(main())
