"""Run a command once, and say what it took; `cold_start.py` starts this for each process.

    python -I -S spawn.py COMMAND ...

What the command prints goes through; the last line is that of this script: seconds from
start to end, the largest resident memory in bytes, and the exit status.

A process counts what the one that started it had resident, until it becomes another program.
That is why this script imports almost nothing: it is smaller than any Python that it starts.
POSIX only.
"""

import os
import sys
import time


def main() -> None:
    """Start, wait, print."""
    command = sys.argv[1:]
    start = time.perf_counter()
    process = os.posix_spawn(command[0], command, os.environ)
    _, status, usage = os.wait4(process, 0)
    seconds = time.perf_counter() - start
    unit = 1 if sys.platform == "darwin" else 1024
    print(seconds, usage.ru_maxrss * unit, os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
