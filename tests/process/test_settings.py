"""The settings of the process: nothing that seqcore does leaves one changed."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from command_line import TINY, write_text

import seqcore
from seqcore.process import memory

host = pytest.mark.host

ROOT = Path(seqcore.__file__).parent.parent
START = "from settings import report, settings\n"
# What a program needs to run here. Not the whole environment: this process has imported seqcore,
# which might have set something in it.
NEEDED = {
    *("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "VIRTUAL_ENV"),
    *("HOME", "USERPROFILE", "TEMP", "TMP", "TMPDIR", "LANG", "LC_ALL"),
}


def run(code, *arguments, folder, **env):
    """Return what `report` found in a process of its own."""
    env = {"OMP_NUM_THREADS": "2", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"} | env
    env |= {name: value for name, value in os.environ.items() if name in NEEDED}
    done = subprocess.run(
        [sys.executable, "-c", START + textwrap.dedent(code), *arguments],
        env=env,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *errors, last = done.stderr.splitlines()
    return json.loads(last) | {"said": [*done.stdout.splitlines(), *errors]}


@host
def test_the_page_names_every_variable_that_is_read():
    page = (ROOT / "docs" / "process.md").read_text(encoding="utf-8")
    read = set(memory._LIMITS)
    for path in Path(seqcore.__file__).parent.rglob("*.py"):
        code = path.read_text(encoding="utf-8")
        read |= set(re.findall(r"environ(?:\.get\(|\[)\"(\w+)\"", code))
    assert {"SEQCORE_MALLOC", "SEQCORE_KERNELS", "OMP_NUM_THREADS", "GLIBC_TUNABLES"} <= read
    assert [name for name in sorted(read) if f"`{name}`" not in page] == []


IMPORT = """
    import sys
    before = settings()
    import MODULE
    assert "MODULE" in sys.modules
    report(before)
"""


@host
@pytest.mark.parametrize("module", ["seqcore", "seqcore.cli"])
def test_importing_changes_nothing(module, tmp_path):
    found = run(IMPORT.replace("MODULE", module), folder=tmp_path)
    assert found == {"changed": {}, "malloc": [], "said": []}


# Training in every form, prediction, files, shards, pictures.
WORK = """
    import numpy as np
    import seqcore as sc
    from seqcore import functional, losses, optimizers, plots, training
    from seqcore.character import model as character, text
    from seqcore.process import one_blas_thread

    before = settings()
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 3, 8))
    targets = rng.integers(0, 4, (5, 8))
    model = sc.Sharded(sc.Sequential(sc.LSTM(6), sc.Dropout(0.5), sc.Dense(4)), 3, threads=2)
    step = training.Step(model, losses.cross_entropy, lambda done: optimizers.adam(0.1), clip=1.0)
    start = step.start(model.init(3, like=x, rng=0))
    window = training.Window(x, targets, fresh=True)
    end = training.fit(step, start, lambda k: window, steps=5).progress
    model.predict(end.params, x)
    def stops(*_):
        raise KeyboardInterrupt
    training.fit(step, start, stops, steps=5)
    try:
        training.fit(step, start, lambda k: window._replace(x=x * np.nan), steps=5)
    except training.NotFiniteError:
        pass
    bound = model.layer.bind(end.params)
    bound(x[0, :, :1])
    sc.save_checkpoint("c.safetensors", end.params, opt_state=end.opt_state, state=end.state)
    sc.load_checkpoint("c.safetensors", like=x)
    sc.save_model("m.safetensors", model.layer, end.params)
    sc.load_model("m.safetensors")
    words = "to be or not to be " * 9
    vocabulary = text.Vocabulary.of(words)
    model = character.character_model("gru", embed=3, hidden=5, layers=1, tokens=vocabulary.size)
    params = model.init(vocabulary.size, like=np.zeros(0), rng=0)
    character.bits_per_character(model, params, vocabulary, words)
    character.sample(model, params, vocabulary, rng, length=9, temperature=1e-9)
    parameters = {"Wax": (4, 3), "Waa": (4, 4), "ba": (4, 1), "Wya": (3, 4), "by": (3, 1)}
    parameters = {name: rng.standard_normal(shape) for name, shape in parameters.items()}
    a, _, caches = functional.rnn_forward(x.transpose(1, 2, 0), np.zeros((4, 8)), parameters)
    functional.rnn_backward(a, caches)
    try:
        plots.loss_curve([1, 2], {"a": [3.0, 1.0]}, x_label="x", y_label="y")
    except ImportError:
        pass
    with sc.blas_threads(3):
        pass
    report(before)
"""


def changes(found):
    """Return what changed, but for threads that wait for the next shards, by their name."""
    changed = found["changed"]
    before, after = changed.pop("threads", ([], []))
    left = [name for name in after if name not in before and not name.startswith("seqcore-")]
    # matplotlib leaves its exit handlers, and concurrent.futures one for its threads.
    changed.pop("exit handlers", None)
    return changed | ({"threads": left} if left else {})


@host
@pytest.mark.parametrize("switch", ["0", "1"])
def test_training_predicting_saving_and_drawing_leave_all_settings(switch, tmp_path):
    found = run(WORK, folder=tmp_path, SEQCORE_MALLOC=switch)
    assert changes(found) == {}
    assert found["said"] == []
    # malloc.h: M_MMAP_THRESHOLD is -3, M_TRIM_THRESHOLD is -1, M_ARENA_MAX is -8.
    told = [[-8, 1], [-3, 2**25], [-1, 2**29]]
    touched = switch == "1" and platform.libc_ver()[0] == "glibc"
    assert sorted(found["malloc"]) == (told if touched else [])


# The library is named by the test; whether it is imported before, too.
COMMANDS = """
    import importlib, json, sys
    from seqcore import cli
    tiny, library, module, imported = json.loads(sys.argv[1])
    if imported:
        importlib.import_module(module)
    before = settings()
    assert cli.main(["train", "in.txt", *tiny, "--steps", "2", "--out", "run"]) == 0
    assert cli.main(["train", "--resume", "run", "--steps", "3"]) == 0
    assert cli.main(["train", "in.txt", "--backend", library, "--device", "none"]) == 2
    assert cli.main(["sample", "run", "--length", "9"]) == 0
    assert cli.main(["eval", "run", "in.txt"]) == 0
    assert cli.main(["backends"]) == 0
    assert cli.main(["sample", "none"]) == 2
    if not imported:
        before |= json.loads(sys.argv[2])
    report(before)
"""

ONLY_IMPORTED = """
    import importlib, sys
    before = settings()
    importlib.import_module(sys.argv[1])
    report(before)
"""


@pytest.mark.long  # it trains in another process: minutes where each operation takes a millisecond
@pytest.mark.parametrize("imported", [False, True], ids=["by the command", "imported before"])
def test_commands_leave_all_settings(imported, library, tmp_path):
    write_text(tmp_path)
    module = library.contract["namespace"]
    # `backends` imports every library that is installed, and an import sets what it likes.
    alone = {"torch", "jax", "cupy", "dask", "mlx", "ndonnx", "dpnp", "array_api_strict"}
    folder = tmp_path / "nothing"
    folder.mkdir()
    for name in alone - {module.partition(".")[0]}:
        (folder / f"{name}.py").write_text("raise ImportError(__name__, name=__name__)")
    path = f"import sys\nsys.path.insert(0, {str(folder)!r})\n"
    plain = run(path + textwrap.dedent(ONLY_IMPORTED), module, folder=tmp_path)["changed"]
    given = [TINY, library.name, module, imported]
    # The rest of what an import changes, such as addresses, differs from process to process.
    told = {"array libraries", "environment", "warnings"}
    after_import = json.dumps({kind: plain[kind][1] for kind in told & plain.keys()})
    code = path + textwrap.dedent(COMMANDS)
    changed = changes(run(code, json.dumps(given), after_import, folder=tmp_path))
    ignored = set() if imported else plain.keys() - told
    assert {kind: pair for kind, pair in changed.items() if kind not in ignored} == {}


@pytest.mark.long
def test_the_program_sets_what_a_library_needs(library, tmp_path):
    write_text(tmp_path)
    code = """
        import sys
        from seqcore import cli
        before = settings()
        sys.argv[:1] = ["seqcore"]
        assert cli.program() == 0
        report(before)
    """
    train = ["train", "in.txt", *TINY, "--steps", "1", "--backend", library.name]
    dtype = library.contract["dtypes"][-1]  # float64, where the library has it
    found = run(code, *train, "--dtype", dtype, folder=tmp_path)
    _, after = found["changed"].get("environment", ({}, {}))
    env = library.contract.get("env", {})
    assert {name: after.get(name) for name in env} == env


GONE = """
    import os, sys
    from seqcore import cli
    before = settings()
    read, write = os.pipe()
    os.close(read)
    inode = os.fstat(write).st_ino
    kept, sys.stdout = sys.stdout, open(write, "w")
    assert cli.main(["--version"]) == 141
    assert os.fstat(write).st_ino == inode
    sys.stdout = kept
    report(before)
"""


@host
@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_a_command_whose_reader_has_gone_closes_nothing_of_its_caller(tmp_path):
    assert changes(run(GONE, folder=tmp_path)) == {}
