"""How many threads seqcore takes where nobody says."""

from __future__ import annotations

import os
import textwrap

import pytest
from processes import output_of

from seqcore import process

pytestmark = pytest.mark.host


def test_processors_are_those_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert process.processors() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert process.processors() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert process.processors() == 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, 6),
        ("1", 1),
        ("4", 4),
        (" +4 ", 4),
        ("04", 4),
        ("4,2", 4),
        ("4 , 2,1", 4),
        ("64", 6),  # more than there are processors
        ("9" * 30, 6),
        ("9" * 5000, 6),  # longer than Python reads
        ("0" * 5000 + "4,2", 4),
        ("3," + "9" * 5000, 3),
        # Not what OpenMP knows: as if it were not set.
        *((value, 6) for value in ("", "0", "-1", "1.5", "2,", ",2", "4,0", "4,x", "two", "1_0")),
        *((value, 6) for value in ("4,000", "+0")),
        *((value, 6) for value in ("2 3", "٣", "0x2")),
    ],
)
def test_omp_num_threads_is_the_most_that_is_taken(value, expected, monkeypatch):
    monkeypatch.setattr(process.threads, "processors", lambda: 6)
    if value is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert process.default_threads() == expected


PROGRAM = """
    import threading
    import numpy as np, seqcore as sc
    from seqcore import losses, optimizers, training
    from threadpoolctl import threadpool_info

    def blas():
        return [p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"]

    class Watching(sc.Dense):
        def run(self, *arguments):
            seen.add((threading.current_thread().name.split("_")[0].split("-")[0], *blas()))
            return super().run(*arguments)

    seen = set()
    x = np.zeros((3, 2, 8))
    params = Watching(4).init(2, like=x, rng=0)
    print("first", *blas())
    sc.Sharded(Watching(4), 8).forward(params, x)
    print("sharded", *seen, *blas())
    step = training.Step(sc.Dense(4), sc.squared_error, lambda _: optimizers.sgd(0.1))
    window = training.Window(x, np.zeros((3, 4, 8)), fresh=True)
    print("fit", end=" ")
    training.fit(
        step, step.start(params), lambda _: window, steps=1, after_step=lambda *_: print(*blas())
    )
    with sc.blas_threads(3):
        print("asked for", *blas())
    print("last", *blas())
"""


@pytest.mark.parametrize("number", ["1", "2"])
def test_omp_num_threads_holds_for_all_that_seqcore_does_by_itself(number):
    code = "import os; os.sched_getaffinity = lambda _: range(4)\n" + textwrap.dedent(PROGRAM)
    # The one left out wins in BLAS.
    said = output_of(code, without=["OPENBLAS_NUM_THREADS"], OMP_NUM_THREADS=number)
    first, *lines = said.splitlines()
    if first.split() != ["first", number]:
        pytest.skip(f"BLAS here does not follow OMP_NUM_THREADS: {first}")
    where = "MainThread" if number == "1" else "seqcore"
    assert lines == [f"sharded ('{where}', 1) {number}", "fit 1", "asked for 3", f"last {number}"]
