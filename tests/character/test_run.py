"""A run of the character model: kept whole, read back, and refused by name when damaged."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from seqcore import optimizers
from seqcore.character.corpus import Corpus
from seqcore.character.run import Metric, Run, Settings, load_run, provenance
from seqcore.character.text import Vocabulary
from seqcore.files import load_checkpoint, save_checkpoint
from seqcore.training import Progress
from seqcore.training.runs import RunError

VOCABULARY = Vocabulary("\nab\ud800é😀")
SETTINGS = Settings(cell="gru", hidden=5, layers=2, embed=3, seq_len=4, batch=2, dtype="float64")
METRICS = [Metric(3, 24, 0.25, 3.5, 3.75), Metric(7, 56, 1.5, 2.0, 2.25)]
TEXT = {"paths": ["/some/où.txt"], "sha256": "0" * 64, "files": 1, "characters": 99}


def make(folder, like=None, step=7, settings=SETTINGS):
    folder.mkdir()
    run = Run(folder, settings, VOCABULARY, TEXT, list(METRICS))
    like = np.zeros(0) if like is None else like
    params = run.model.init(VOCABULARY.size, like=like, rng=1)
    opt_state = optimizers.adam().init(params)
    state = run.model.forward(params, np.zeros((4, 2), dtype=np.int64))[1]
    return run, Progress(step, params, opt_state, state)


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """A run folder to copy, not to change."""
    run, progress = make(tmp_path_factory.mktemp("runs") / "saved")
    run.save(progress)
    return run.folder


@pytest.fixture
def folder(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "run"))


pytestmark = pytest.mark.host


def arrays_of(tree):
    if isinstance(tree, dict):
        return [a for key in sorted(tree) for a in arrays_of(tree[key])]
    if isinstance(tree, tuple):
        return [a for item in tree for a in arrays_of(item)]
    return [] if tree is None or isinstance(tree, int) else [tree]


# --- there and back ---------------------------------------------------------------------


def test_what_is_saved_is_read_back(tmp_path):
    run, progress = make(tmp_path / "run")
    run.save(progress)
    read, again = load_run(run.folder)
    assert read == run
    assert again.step == progress.step
    assert type(again.opt_state) is type(progress.opt_state)
    for a, b in zip(arrays_of(again), arrays_of(progress), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(a, b)
    # It can be saved again, over itself.
    read.save(again)
    assert load_run(run.folder)[0] == run
    assert sorted(path.name for path in run.folder.iterdir()) == [
        "checkpoint.safetensors",
        "metrics.csv",
    ]


def test_arrays_are_read_beside_like(folder):
    _, progress = load_run(folder, np.zeros(0, dtype=np.float32))
    floats = [a for a in arrays_of(progress) if a.dtype.kind == "f"]
    assert {a.dtype for a in floats} == {np.dtype(np.float32)}


def test_metrics_are_a_table_that_others_read(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["held_out_bits"]) for row in rows] == [3.75, 2.25]
    assert list(rows[0]) == ["step", "characters", "seconds", "train_bits", "held_out_bits"]


def test_metrics_beyond_the_checkpoint_are_dropped(tmp_path):
    # As a crash between the two files leaves them, or a return to an older step.
    run, progress = make(tmp_path / "run", step=6)
    run.save(progress)
    assert load_run(run.folder)[0].metrics == METRICS[:1]


def test_a_run_without_metrics_is_still_a_run(folder):
    (folder / "metrics.csv").unlink()
    assert load_run(folder)[0].metrics == []


def test_a_save_that_fails_leaves_the_run_as_it_was(folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    run, progress = load_run(folder)
    run.metrics.append(METRICS[-1])

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        run.save(progress._replace(step=9))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_provenance_names_the_texts_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recorded = provenance(Corpus("abc", "de", "77", 2, 0), ["x.txt", "../y"])
    assert recorded["paths"] == [str(tmp_path / "x.txt"), str(tmp_path.parent / "y")]
    assert (recorded["sha256"], recorded["files"], recorded["characters"]) == ("77", 2, 5)
    json.dumps(recorded)


def test_settings_are_frozen_and_plain():
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(SETTINGS, "hidden", 3)  # noqa: B010 (mypy knows better)
    assert Settings(**json.loads(json.dumps(dataclasses.asdict(SETTINGS)))) == SETTINGS


# --- damage -----------------------------------------------------------------------------


def refused(folder, name=""):
    with pytest.raises(RunError) as error:
        load_run(folder)
    assert str(error.value).startswith(f"{folder / name}: ")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_no_run_folder_is_refused(tmp_path, folder):
    assert "no such run folder" in refused(tmp_path / "nowhere")
    assert "no such run folder" in refused(folder / "metrics.csv")
    (folder / "checkpoint.safetensors").unlink()
    assert "not a run folder, it has no checkpoint.safetensors" in refused(folder)


def test_a_checkpoint_cut_anywhere_is_refused(folder):
    path = folder / "checkpoint.safetensors"
    whole = path.read_bytes()
    for size in [*range(12), *np.linspace(12, len(whole) - 1, 60).astype(int)]:
        path.write_bytes(whole[:size])
        assert "checkpoint" in refused(folder, path.name)
    path.write_bytes(whole + b"\0")
    refused(folder, path.name)


def test_a_checkpoint_with_any_bit_flipped_is_refused(folder):
    path = folder / "checkpoint.safetensors"
    whole = path.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    rng = np.random.default_rng(4)
    places = [*range(16), *rng.integers(16, header, 150), *rng.integers(header, len(whole), 60)]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(8)
        # Blanks after the header's JSON mean nothing.
        if damaged[place : place + 1].isspace() and whole[place : place + 1].isspace():
            continue
        path.write_bytes(damaged)
        refused(folder, path.name)
    path.write_bytes(whole)
    load_run(folder)


def test_another_programs_safetensors_are_refused(folder):
    path = folder / "checkpoint.safetensors"
    save_file({"weight": np.zeros(3)}, path)
    assert "not a checkpoint of this version of seqcore" in refused(folder, path.name)
    save_file({"weight": np.zeros(3)}, path, metadata={"format": "pt", "seqcore": "99"})
    assert "a later version of seqcore: format 99" in refused(folder, path.name)


def config(**changes):
    whole = {
        "settings": dataclasses.asdict(SETTINGS),
        "vocabulary": "ab",
        "text": TEXT,
        "step": 1,
    }
    return {key: value for key, value in (whole | changes).items() if value is not ...}


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"settings": {}},
        config(settings={}),
        config(settings=None),
        config(settings=7),
        config(settings={**dataclasses.asdict(SETTINGS), "more": 1}),
        config(settings=...),
        config(vocabulary=...),
        config(text=...),
        config(step=...),
    ],
)
def test_the_checkpoint_of_another_model_is_refused(folder, other):
    path = folder / "checkpoint.safetensors"
    save_checkpoint(path, {"w": np.zeros(2)}, config=other)
    assert "not a checkpoint of a character model" in refused(folder, path.name)


def test_parameters_of_another_model_are_refused(folder):
    path = folder / "checkpoint.safetensors"
    save_checkpoint(path, {"w": np.zeros(2)}, config=config())
    assert "not a checkpoint of a character model" in refused(folder, path.name)


def changed(tree, name, value):
    return {key: value if key == name else other for key, other in tree.items()}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, "x") for name in ("hidden", "layers", "embed", "seq_len", "batch", "seed", "lr")],
        *[(name, None) for name in dataclasses.asdict(SETTINGS) if name != "device"],
        *[(name, 0) for name in ("hidden", "layers", "embed", "seq_len", "batch", "lr", "clip")],
        *[(name, 99) for name in ("hidden", "layers", "embed", "batch", "device")],
        *[(name, True) for name in ("hidden", "seed")],
        *[("layers", 10**12), ("hidden", 10**12), ("batch", 10**12), ("seed", -1), ("embed", 3.0)],
        *[("cell", "lstm"), ("cell", ["gru"]), ("cell", "foo"), ("schedule", "foo")],
        *[("dtype", "float32"), ("dtype", "int8"), ("backend", 7)],
    ],
)
def test_settings_that_do_not_fit_their_checkpoint_are_refused(folder, name, value):
    path = folder / "checkpoint.safetensors"
    params, opt_state, state, config = load_checkpoint(path)
    config["settings"] = changed(config["settings"], name, value)
    save_checkpoint(path, params, opt_state=opt_state, state=state, config=config)
    assert "not a checkpoint of a character model: " in refused(folder, path.name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("vocabulary", other) for other in ("", "ab", 7, None)],
        *[("step", other) for other in ("7", -1, 1.5, True, None)],
        *[("text", other) for other in ({}, [], TEXT | {"paths": "x"}, TEXT | {"paths": [7]})],
        ("text", TEXT | {"sha256": None}),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(folder, name, value):
    path = folder / "checkpoint.safetensors"
    params, opt_state, state, config = load_checkpoint(path)
    save_checkpoint(
        path, params, opt_state=opt_state, state=state, config=changed(config, name, value)
    )
    assert "not a checkpoint of a character model: " in refused(folder, path.name)


def other_arrays(tree):
    """Trees of the same names with other arrays: shapes, dtypes, or none at all."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield {key: item for key, item in tree.items() if key != name}
            yield from (changed(tree, name, other) for other in other_arrays(value))
        yield tree | {"more": np.zeros(2)}
    elif isinstance(tree, tuple):
        yield tuple(tree) if hasattr(tree, "_fields") else (*tree, ())
        for k, value in enumerate(tree):
            for other in other_arrays(value):
                items = [*tree[:k], other, *tree[k + 1 :]]
                yield tree._make(items) if hasattr(tree, "_fields") else tuple(items)
    else:
        yield from (None, np.zeros((2, 2), dtype=tree.dtype), tree[..., None])
        yield tree.astype(np.float32)
        if tree.dtype.kind == "f":
            yield tree.astype(np.int64)


@pytest.mark.parametrize("part", ["params", "opt_state", "state"])
def test_arrays_that_do_not_fit_the_settings_are_refused(folder, part):
    path = folder / "checkpoint.safetensors"
    saved = load_checkpoint(path)
    others = list(other_arrays(getattr(saved, part)))
    assert len(others) > 5
    for other in [*others, {}] + ([()] if part == "state" else [None] * (part == "opt_state")):
        params, opt_state, state, config = saved._replace(**{part: other})
        save_checkpoint(path, params, opt_state=opt_state, state=state, config=config)
        assert "not a checkpoint of a character model: " in refused(folder, path.name)


def test_a_run_before_its_first_step_has_no_state(tmp_path):
    run, progress = make(tmp_path / "run", step=0)
    run.save(progress._replace(state=None))
    assert load_run(run.folder)[1].state is None


HEAD = "step,characters,seconds,train_bits,held_out_bits\n"


@pytest.mark.parametrize(
    "damaged",
    [
        HEAD + "3,24,0.25,3.5",  # cut
        HEAD + "3,24,0.25,3.5,what",
        HEAD + "3.5,24,0.25,3.5,3.5",
        "",
        "1,2,3,4,5\n1,2,3,4,5\n",
        "1,2,3,4,5\n",
        "step,characters,seconds,train_bits\n",
        "x" + HEAD,
        HEAD + "3,24,0.25,3.5,3.5,3.5\n",
        "\xff\xfe",
        HEAD + '"' + "9" * 200_000,  # the reader refuses such a field in its own way
    ],
)
def test_damaged_metrics_are_refused(folder, damaged):
    path = folder / "metrics.csv"
    path.write_bytes(damaged.encode("latin-1"))
    assert "damaged, expected numbers under step, characters" in refused(folder, path.name)
    assert path.read_bytes() == damaged.encode("latin-1")


def test_a_table_without_rows_is_no_damage(folder):
    (folder / "metrics.csv").write_text(HEAD)
    assert load_run(folder)[0].metrics == []


def test_metrics_that_are_not_asked_for_are_not_read(folder):
    (folder / "metrics.csv").write_bytes(b"\xff")
    assert load_run(folder, metrics=False)[0].metrics == []


# --- the picture ------------------------------------------------------------------------


def test_without_matplotlib_there_is_no_picture(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    run, _ = load_run(folder)
    assert run.draw() is None
    assert not (folder / "loss.png").exists()


@pytest.mark.parametrize("name", ["run", "a$x^$b_{", "\u4e00😀"])
@pytest.mark.parametrize("metrics", [METRICS, [Metric(1, 8, 0.1, float("nan"), float("inf"))], []])
def test_the_picture_is_a_png_whatever_the_run(folder, name, metrics):
    run, _ = load_run(folder.rename(folder.parent / name))
    run.metrics = list(metrics)
    picture = run.draw()
    assert picture == run.folder / "loss.png"
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    at, kinds, pixels = 8, [], b""
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        (check,) = struct.unpack(">I", data[at + 8 + size : at + 12 + size])
        assert check == zlib.crc32(kind + body)
        kinds.append(kind)
        pixels += body if kind == b"IDAT" else b""
        at += 12 + size
    assert (kinds[0], kinds[-1]) == (b"IHDR", b"IEND")
    assert len(set(zlib.decompress(pixels))) > 10  # there is something on it
