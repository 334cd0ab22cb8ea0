"""Cold starts: an import, and a prediction of a saved model, each in a process of its own.

    python benchmarks/cold_start.py [--quick] [--rounds 10]

From the start of `python -c ...` to its end, seen from outside, with the largest memory that
it had resident:

    imports      bare Python, NumPy, seqcore, onnxruntime, torch
    predictions  the same model, an LSTM of 128 units on 16 features with a Dense layer, read
                 from the disk and run on 20 steps: seqcore from a checkpoint (safetensors),
                 onnxruntime from an ONNX file, torch from a state dict into its modules; the
                 programs are those that a user would write, and stand below

The sides take turns. The first round is not counted: it brings the files into the system's
memory, as they are there for whoever starts a program again, and writes Python's caches.
Every prediction is compared with the textbook loops in float64. Threads are what each library
takes by itself.

The installed size is that of a distribution and of all that it requires, without extras and
without compiled caches, which not all installers write. seqcore's is that of its folder.

Needs seqcore, threadpoolctl, matplotlib with packaging, torch, onnx, onnxruntime; POSIX. A
minute, `--quick` some seconds.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from harness import duel, problem, report
from harness.problem import Shape
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from sides.training import TORCH_ORDER

import seqcore as sc

HERE = Path(__file__).resolve().parent
SHAPE = Shape(20, 1, 16, 128)
OUTPUTS = 4
OTHERS = ("torch", "onnxruntime")
IMPORTS = {
    "python": "pass",
    "numpy": "import numpy",
    "seqcore": "import seqcore",
    "onnxruntime": "import onnxruntime",
    "torch": "import torch",
}
PREDICTIONS = {
    "seqcore": """
import numpy as np
import seqcore as sc

model = sc.Sequential(sc.LSTM(128), sc.Dense(4))
params = sc.load_checkpoint("model.safetensors").params
x = np.load("x.npy")
y, state, tape = model.forward(params, x[:, :, None])
print(*y[-1, :, 0].tolist())
""",
    "onnxruntime": """
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
x = np.load("x.npy")
(y,) = session.run(None, {"x": x[:, None, :]})
print(*y[-1, 0].tolist())
""",
    "torch": """
import numpy as np
import torch


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(16, 128)
        self.head = torch.nn.Linear(128, 4)

    def forward(self, x):
        h, state = self.lstm(x)
        return self.head(h)


model = Model()
model.load_state_dict(torch.load("model.pt"))
model.eval()
x = torch.from_numpy(np.load("x.npy"))
with torch.inference_mode():
    y = model(x[:, None, :])
print(*y[-1, 0].tolist())
""",
}

Arrays = dict[str, np.ndarray[Any, Any]]


class Ran(NamedTuple):
    """What a process took, and printed."""

    seconds: float
    memory: int  # bytes, the largest resident
    printed: str


def main() -> None:
    """Measure, print, write."""
    options = report.parser(__doc__).parse_args()
    options.rounds = options.rounds or (2 if options.quick else 10)
    page = report.Report("cold_start", "Cold starts", options)
    page.say(
        "Processes from their start to their end, seen from outside: seconds, the shortest and "
        "in brackets the median, and the largest resident memory, the median, in MB of 10^6 "
        "bytes. Both are of the whole process; `beyond` is what is left without those of bare "
        "Python. `times` is how often the figure of seqcore goes into it."
    )
    page.facts["versions"] |= versions()
    there = {"python", *page.facts["versions"]}
    measured: dict[str, dict[str, list[Ran]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        expected = save_models(folder, there)
        for what, programs in (("imports", IMPORTS), ("predictions", PREDICTIONS)):
            print(what, flush=True)
            own = {side: code for side, code in programs.items() if side in there}
            measured[what] = rounds(own, folder, options.rounds)
    errors = check(measured["predictions"], expected)
    bare = measured["imports"]["python"]
    page.say("## Imports")
    page.say(table(measured["imports"], bare))
    page.say("## To the first prediction of a saved model")
    page.say(table(measured["predictions"], bare))
    page.say(
        "Largest errors of the predictions, relative to the textbook loops in float64: "
        + ", ".join(f"{side} {error:.0e}" for side, error in errors.items())
        + "."
    )
    page.say("## Installed size")
    sizes = {side: installed(side) for side in ("numpy", "seqcore", *OTHERS) if side in there}
    page.say(size_table(sizes))
    draw(measured, sizes, page)
    page.say("## Programs")
    for side in measured["predictions"]:
        page.say(f"{side}:\n\n```python\n{PREDICTIONS[side].strip()}\n```")
    record = {
        what: {side: [ran._asdict() for ran in runs] for side, runs in sides.items()}
        for what, sides in measured.items()
    }
    page.save({**record, "errors": errors, "installed": sizes})


def versions() -> dict[str, str]:
    """Return the versions of the libraries that are there."""
    found = {"seqcore": sc.__version__}
    for name in ("numpy", "safetensors", "torch", "onnx", "onnxruntime"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            print(f"  {name} is left out: it is not installed", flush=True)
    return found


def save_models(folder: Path, there: Iterable[str]) -> Arrays:
    """Write x and the model in the form of each library; return the right prediction."""
    lstm = problem.draw("lstm", SHAPE)
    rng = np.random.default_rng(1)
    head = {
        "W": rng.uniform(-0.1, 0.1, (OUTPUTS, SHAPE.n_a)).astype(np.float32),
        "b": rng.uniform(-0.1, 0.1, (OUTPUTS, 1)).astype(np.float32),
    }
    y = problem.reference("lstm", lstm)["y"][-1]
    x = lstm.pop("x")
    del lstm["dy"]
    np.save(folder / "x.npy", x[:, :, 0])
    params = {f"lstm.{name}": value for name, value in lstm.items()}
    params |= {f"dense.{name}": value for name, value in head.items()}
    sc.save_checkpoint(folder / "model.safetensors", params)
    if "torch" in there:
        _save_torch(folder / "model.pt", lstm, head)
    if "onnxruntime" in there:
        from sides import onnx as onnx_lstm

        (folder / "model.onnx").write_bytes(onnx_lstm.predictor(lstm, head))
    return {"y": (head["W"].astype(np.float64) @ y + head["b"])[:, 0]}


def _save_torch(path: Path, lstm: Arrays, head: Arrays) -> None:
    import torch

    W_x, W_h, b = (lstm[f"0.{name}"][TORCH_ORDER["lstm"]] for name in ("W_x", "W_h", "b"))
    state = {
        "lstm.weight_ih_l0": W_x.reshape(-1, SHAPE.n_x),
        "lstm.weight_hh_l0": W_h.reshape(-1, SHAPE.n_a),
        "lstm.bias_ih_l0": b.reshape(-1),
        "lstm.bias_hh_l0": np.zeros_like(b).reshape(-1),
        "head.weight": head["W"],
        "head.bias": head["b"][:, 0],
    }
    torch.save({name: torch.tensor(value) for name, value in state.items()}, path)


def rounds(programs: Mapping[str, str], folder: Path, count: int) -> dict[str, list[Ran]]:
    """Let programs take turns in fresh processes, one round more than are counted."""
    runs: dict[str, list[Ran]] = {side: [] for side in programs}
    for _ in range(1 + count):
        for side, code in programs.items():
            runs[side].append(run(code, folder))
    return {side: own[1:] for side, own in runs.items()}


def run(code: str, folder: Path) -> Ran:
    """Run one program in a fresh process."""
    spawn = [
        sys.executable,
        "-I",
        "-S",
        str(HERE / "harness" / "spawn.py"),
        sys.executable,
        "-c",
        code,
    ]
    # The child runs in another folder, from which a relative path would not lead to seqcore.
    path = os.pathsep.join([str(Path(sc.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": path.rstrip(os.pathsep)}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # what is installed has its caches
    out = subprocess.run(spawn, cwd=folder, env=env, stdout=subprocess.PIPE, text=True, check=True)
    *printed, last = out.stdout.splitlines()
    seconds, memory, status = last.split()
    if status != "0":
        raise RuntimeError(f"a program ended with {status}; its error stands above:\n{code}")
    return Ran(float(seconds), int(memory), "\n".join(printed))


def check(runs: Mapping[str, Sequence[Ran]], expected: Arrays) -> dict[str, float | None]:
    """Compare all predictions with the right one; return the largest error of each side."""
    errors = {}
    for side, own in runs.items():
        for ran in own:
            found = {"y": np.asarray([float(value) for value in ran.printed.split()])}
            errors[side] = duel.largest_error(side, found, expected, problem.TOLERANCE)
    return errors


def table(runs: Mapping[str, Sequence[Ran]], bare: Sequence[Ran]) -> str:
    """Return the table of imports or of predictions."""
    ours = runs["seqcore"]
    lines = [
        [
            side,
            f"{fastest(own):.3f} ({statistics.median(ran.seconds for ran in own):.3f})",
            f"{fastest(own) - fastest(bare):.3f}",
            f"{fastest(own) / fastest(ours):.2f}",
            f"{megabytes(own):.1f}",
            f"{megabytes(own) - megabytes(bare):.1f}",
            f"{megabytes(own) / megabytes(ours):.2f}",
        ]
        for side, own in runs.items()
    ]
    return report.table(["side", "s", "beyond", "times", "MB", "beyond", "times"], lines)


def fastest(runs: Sequence[Ran]) -> float:
    """Return the shortest time."""
    return min(ran.seconds for ran in runs)


def megabytes(runs: Sequence[Ran]) -> float:
    """Return the median of the largest resident memories."""
    return statistics.median(ran.memory for ran in runs) / 1e6


def installed(name: str) -> dict[str, int]:
    """Return the bytes of a distribution and of each that it requires, by name."""
    sizes: dict[str, int] = {}
    waiting = [canonicalize_name(name)]
    while waiting:
        now = waiting.pop()
        if now in sizes:
            continue
        files, requirements = _seqcore_files() if now == "seqcore" else _files(now)
        sizes[now] = sum(path.stat().st_size for path in files)
        waiting += [
            canonicalize_name(requirement.name)
            for requirement in map(Requirement, requirements)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        ]
    return sizes


def _files(name: str) -> tuple[set[Path], Sequence[str]]:
    """Return the files of an installed distribution, and what it requires."""
    distribution = metadata.distribution(name)
    paths = {Path(str(file.locate())).resolve() for file in distribution.files or ()}
    files = {path for path in paths if path.suffix != ".pyc" and path.is_file()}
    return files, distribution.requires or ()


def _seqcore_files() -> tuple[set[Path], Sequence[str]]:
    """Return the same of seqcore, from its folder and the checkout's pyproject.toml."""
    folder = Path(sc.__file__).parent
    files = {path for path in folder.rglob("*") if path.suffix != ".pyc" and path.is_file()}
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    requirements: Sequence[str] = project["project"]["dependencies"]
    return files, requirements


def size_table(sizes: Mapping[str, Mapping[str, int]]) -> str:
    """Return the table of installed sizes."""
    lines = []
    for side, own in sizes.items():
        parts = sorted(own.items(), key=lambda item: -item[1])
        lines.append(
            [
                side,
                ", ".join(f"{name} {size / 1e6:.1f}" for name, size in parts if name != side),
                f"{own[side] / 1e6:.1f}",
                f"{sum(own.values()) / 1e6:.1f}",
            ]
        )
    return report.table(["side", "what it requires, MB", "itself, MB", "all, MB"], lines, words=2)


def draw(
    measured: Mapping[str, Mapping[str, Sequence[Ran]]],
    sizes: Mapping[str, Mapping[str, int]],
    page: report.Report,
) -> None:
    """Draw times, memory and sizes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(5, 5, 3))
    names = list(measured["predictions"])
    for axes, figure_of, base, unit in (
        (left, fastest, 0.01, "seconds"),
        (middle, megabytes, 1.0, "MB resident"),
    ):
        series = {name: [figure_of(own[name]) for own in measured.values()] for name in names}
        report.bars(axes, ["import", "first prediction"], series, base=base)
        for name, label, line in (("python", "bare Python", ":"), ("numpy", "import numpy", "--")):
            at = figure_of(measured["imports"][name])
            axes.axhline(at, color=report.COLOURS[name], linestyle=line, label=label)
        axes.set_ylabel(unit)
    totals = {name: [sum(sizes[name].values()) / 1e6] for name in names}
    report.bars(right, ["installed"], totals, base=1.0)
    right.axhline(sum(sizes["numpy"].values()) / 1e6, color="black", linestyle="--")
    right.set_ylabel("MB on disk")
    for axes in (left, middle, right):
        axes.yaxis.set_major_formatter("{x:g}")
    report.legend(figure, left)
    figure.suptitle("Cold starts: whole processes, and what is installed")
    page.picture(figure, "cold_start", "Time, memory and size of cold starts")


if __name__ == "__main__":
    main()
