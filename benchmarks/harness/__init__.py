"""What all benchmarks share. It imports no side; the sides import it.

A comparison runs each side in a process of its own (`processes`, `worker`), checks its results
against a reference (`check`) and then lets the sides take turns (`turns`). `report` writes what
was measured.

A side is a function in a module of `sides/`. The worker calls it with the inputs and a task
(plain values), and it returns its `Work`:

    def numpy_sum(arrays, task):
        return Work(lambda: arrays["x"].sum(), lambda total: {"total": total})

A script starts the sides, checks them and measures them:

    sides = [Side("numpy", "sides.sums:numpy_sum"), ...]
    with workers(sides, {"axis": 0}, {"x": x}) as running:
        errors = check(running, {"total": expected}, tolerance=1e-6)
        turns = rounds(running, count=7, seconds=0.2)
    ratio(turns, "numpy", "other")
"""
