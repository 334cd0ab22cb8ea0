"""The script that measures on a GPU, as far as it can be tried without one.

benchmarks/gpu.py runs here in one process, NumPy in place of CuPy, without its peers. Its own
`--library numpy` runs it in many, with PyTorch; it has not been run on a GPU yet (2026-11-21).
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import seqcore as sc

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SIZE = {"n_a": (8, 16), "batches": (1, 3)}

pytestmark = pytest.mark.host


@pytest.fixture
def gpu(monkeypatch):
    """The script as a module, without PyTorch and JAX, and with workers in this process."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    forget()
    module = importlib.import_module("gpu")
    unavailable = importlib.import_module("harness.side").UnavailableError
    for name, title in (("sides.torch", "PyTorch"), ("sides.jax", "JAX")):
        side = importlib.import_module(name)
        monkeypatch.setattr(side, "step", absent(unavailable, title))
    run = importlib.import_module("harness.gpu_run")
    monkeypatch.setattr(run, "Worker", in_process(unavailable))
    monkeypatch.setattr(run, "TURN", 1e-4)
    yield module
    forget()


def forget():
    """Import the benchmark's modules anew, the next time."""
    for name in list(sys.modules):
        if name.partition(".")[0] in ("gpu", "harness", "sides"):
            del sys.modules[name]


def absent(unavailable, title):
    def side(*_):
        raise unavailable(f"{title} is not installed")

    return side


def in_process(unavailable):
    class Worker:
        def __init__(self, side, task, path):
            self.side, self.missing = side, None
            self.build(task, path)

        def build(self, task, path):
            module, _, function = self.side.build.partition(":")
            build = getattr(importlib.import_module(module), function)
            with np.load(path) as file:
                arrays = dict(file)
            try:
                self.work = build(arrays, {**task, **self.side.task})
            except unavailable as error:
                self.missing = str(error)
                return
            self.hello = {"notes": dict(self.work.notes), "versions": {}, "threadpools": []}

        def results(self):
            return self.work.results(self.work.run())

        def times(self, count):
            seconds = []
            for _ in range(count):
                begin = time.perf_counter()
                self.work.run()
                seconds.append(time.perf_counter() - begin)
            return seconds

        def close(self):
            pass

    return Worker


@pytest.fixture
def start(gpu, monkeypatch, tmp_path):
    """Run the script, and return what it wrote."""

    def run(*given, size=SIZE):
        script = str(BENCHMARKS / "gpu.py")
        monkeypatch.setattr(sys, "argv", [script, *given, "--out", str(tmp_path)])
        plain = gpu.arguments

        def smaller():
            options = plain()
            vars(options).update(size)
            return options

        monkeypatch.setattr(gpu, "arguments", smaller)
        gpu.main()
        page = (tmp_path / "gpu-stand-in.md").read_text(encoding="utf-8")
        found = json.loads((tmp_path / "gpu-stand-in.json").read_text(encoding="utf-8"))
        return page, found

    return run


STAND_IN = ("--library", "numpy", "--quick")


def test_it_checks_times_and_writes_and_says_that_it_is_no_result(start):
    page, found = start(*STAND_IN)
    assert page.startswith("# CPU stand-in, no GPU result\n")
    for do in ("Training", "Inference"):
        for tf32 in ("off", "on"):
            title = f"## {do}, float32, TF32 {tf32} (CPU stand-in, no GPU result)\n"
            assert page.count(title) == 1
    assert len(found["measured"]) == 32
    assert "seqcore-eager / products" in page
    for said in (
        "torch-cudnn is left out: PyTorch is not installed",
        "seqcore-jax is left out: JAX is not installed",
    ):
        assert said in page
    for row in found["measured"]:
        assert set(row["seconds"]) == {"seqcore-eager", "products"}
        assert all(len(turns) >= 6 for turns in row["seconds"].values())
        assert 0 < row["errors"]["seqcore-eager"] < 2e-5
    assert {"command", "date", "machine", "device", "versions"} <= set(found["facts"])


def test_what_the_budget_does_not_reach_is_left_out_and_named(start, gpu, monkeypatch):
    allowed = iter([True, True])
    monkeypatch.setattr(gpu.Budget, "allows", lambda _: next(allowed, False))
    page, found = start(*STAND_IN)
    assert [(row["n_a"], row["m"]) for row in found["measured"][::4]] == [(8, 1), (8, 3)]
    late = "1 x 16, m 1; 1 x 16, m 3; 2 x 8, m 1; 2 x 8, m 3; 2 x 16, m 1; 2 x 16, m 3."
    for side in ("seqcore-eager", "products"):
        assert f"{side} is left out, as the 450 s were used up, at {late}" in page


def test_the_budget_keeps_time_for_one_more_case_and_for_the_page(gpu):
    budget = gpu.Budget(sys.modules["harness.gpu_cases"].RESERVE + 100.0)
    budget.longest = 60.0
    assert budget.allows()  # 1.5 x 60 s are left
    budget.longest = 70.0
    assert not budget.allows()
    with budget.spent():
        pass
    assert budget.longest == 70.0


def test_a_side_that_is_wrong_is_not_timed_and_ends_the_run_with_an_error(
    start, gpu, monkeypatch, tmp_path
):
    plain = gpu.reference

    def crooked(arrays, layers):
        found = plain(arrays, layers)
        wrong = arrays["x"].shape[2] == 3
        return {**found, "y": found["y"] * 1.1} if wrong else found

    monkeypatch.setattr(gpu, "reference", crooked)
    with pytest.raises(SystemExit, match="a side was wrong"):
        start(*STAND_IN)
    page = (tmp_path / "gpu-stand-in.md").read_text(encoding="utf-8")
    said = "1 x 8, m 3, training, TF32 off: seqcore-eager: y is off by 9.1e-02, allowed 2e-05"
    assert said in page
    found = json.loads((tmp_path / "gpu-stand-in.json").read_text(encoding="utf-8"))
    for row in found["measured"]:
        assert ("seqcore-eager" in row["seconds"]) == (row["m"] == 1)


def test_a_side_whose_process_ends_is_left_out_from_there_on(start, monkeypatch):
    worker = sys.modules["harness.gpu_run"].Worker
    plain = worker.times

    def ends(self, count):
        if self.side.name == "products" and self.m == 3:
            raise RuntimeError("products: its process ended; its error stands above")
        return plain(self, count)

    def build(self, task, path, before=worker.build):
        with np.load(path) as file:
            self.m = file["x"].shape[2]
        before(self, task, path)

    monkeypatch.setattr(worker, "times", ends)
    monkeypatch.setattr(worker, "build", build)
    page, found = start(*STAND_IN)
    assert "products is left out: from 1 x 8, m 3, " in page
    with_products = [row for row in found["measured"] if "products" in row["seconds"]]
    assert {(row["layers"], row["n_a"], row["m"]) for row in with_products} == {(1, 8, 1)}
    assert all("seqcore-eager" in row["seconds"] for row in found["measured"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--library", "numpy"], "expected --quick beside it"),
        ([*STAND_IN, "--out", str(BENCHMARKS / "results")], "is not a result"),
        ([*STAND_IN, "--out", str(BENCHMARKS / "results" / "quick")], "is not a result"),
    ],
)
def test_what_is_no_result_is_not_put_among_results(gpu, monkeypatch, capsys, given, message):
    monkeypatch.setattr(sys, "argv", [str(BENCHMARKS / "gpu.py"), *given])
    with pytest.raises(SystemExit):
        gpu.arguments()
    assert message in capsys.readouterr().err


def test_without_cupy_it_measures_nothing_and_says_why(gpu, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(sys, "argv", [str(BENCHMARKS / "gpu.py"), "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="seqcore was not measured"):
        gpu.main()
    assert "seqcore-eager is left out: CuPy is not usable (ModuleNotFoundError:" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize("layers", [1, 2])
def test_the_reference_is_what_finite_differences_prove_of_our_layers(gpu, layers):
    problem = sys.modules["harness.problem"]
    arrays = problem.draw("lstm", problem.Shape(5, 4, 3, 2), layers)
    double = {name: array.astype(np.float64) for name, array in arrays.items()}
    x, dy = double.pop("x"), double.pop("dy")
    layer = sc.LSTM(2, layers=layers)
    y, _, tape = layer.forward(double, x)
    dx, grads, _ = layer.backward(double, tape, dy)
    expected = gpu.reference(arrays, layers)
    assert expected.keys() == {"y", "dx", *grads}
    for name, got in {"y": y, "dx": dx, **grads}.items():
        np.testing.assert_allclose(got, expected[name], rtol=1e-9, atol=1e-12, err_msg=name)


def test_the_grid_is_the_one_that_was_asked_for(gpu, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(BENCHMARKS / "gpu.py")])
    given = gpu.arguments()
    listed = sys.modules["harness.gpu_cases"].cases(given.n_a, given.batches)
    assert {case.n_a for case in listed} == {64, 128, 256, 512, 768, 1024}
    assert {case.m for case in listed} == {1, 16, 64, 256}
    assert len(listed) == len(set(listed)) == 6 * 4 * 2 * 2 * 2
