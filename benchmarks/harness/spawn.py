"""Run a command once and print what it took; `harness.fresh` starts this for each process.

    python -I -S spawn.py COMMAND ...

The last line of the output is from this script: seconds from start to end, the largest
resident memory in bytes, and the exit status. Before it stands what the command printed.

Until a new process loads its own program, the system counts the memory of its parent as its
own. So this script imports almost nothing, and stays smaller than any Python that it starts.
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
