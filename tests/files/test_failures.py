"""What fails for a reason of the caller's, such as memory, is not called damage of the file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from problems import Scaled

import seqcore as sc
from seqcore import arrays, checks
from seqcore.files import architecture, model, plain, remade, sealed, tensors

pytestmark = pytest.mark.host


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.safetensors"


@dataclasses.dataclass(frozen=True)
class Own(Scaled):
    inner: Any = None

    def shapes(self) -> Any:
        return {}


def nested(depth: int) -> Any:
    inner: Any = sc.Sequential(sc.Dense(2), sc.Dropout(0.5))
    for _ in range(depth):
        inner = sc.Sequential(a=inner)
    return inner


def a_model(path: Path, depth: int = 45) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return how to save and how to load a model."""
    whole = sc.Sequential(nested(depth), Own(inner=(nested(depth - 10),)))
    params = whole.init(3, like=np.zeros(0), rng=0)
    return (lambda: sc.save_model(path, whole, params)), (lambda: sc.load_model(path, layers=[Own]))


def a_checkpoint(path: Path, depth: int = 45) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return how to save and how to load a checkpoint."""
    config: Any = {}
    state: Any = ()
    for _ in range(depth):
        config, state = {"a": [config]}, (state, None)
    return (
        lambda: sc.save_checkpoint(path, {"w": np.ones(2)}, state=state, config=config),
        lambda: sc.load_checkpoint(path),
    )


def below(frames: int, call: Callable[[], Any]) -> Any:
    """Call something with so many frames below it."""
    return below(frames - 1, call) if frames else call()


@pytest.mark.parametrize("make", [a_model, a_checkpoint])
def test_what_a_caller_has_left_of_the_stack_says_nothing_about_the_file(make, path):
    save, load = make(path)
    save()
    expected = repr(load())
    outcomes = set()
    for frames in range(0, 1000, 31):
        for call in (save, load):
            try:
                found = below(frames, call)
            except RecursionError:
                outcomes.add((call is save, False))
            else:
                assert call is save or repr(found) == expected
                outcomes.add((call is save, True))
    assert len(outcomes) == 4
    assert repr(load()) == expected


@pytest.mark.parametrize("depth", [101, 200, 249, 250, 251, 400, 100_000])
@pytest.mark.parametrize("mark", ["[", '{"a":'])
@pytest.mark.parametrize("kind", [sealed.MODEL, sealed.CHECKPOINT], ids=lambda kind: kind.name)
def test_json_that_is_nested_too_deep_is_the_files_fault(kind, mark, depth, path):
    end = {"[": "]", '{"a":': "}"}[mark]
    header = mark * depth + "0" + end * depth
    for text in (header, f'{{"seqcore": "0", "parameters": [], "model": {header}}}'):
        metadata = {kind.key: "1", kind.header: text, "sha256": sealed.digest({}, text)}
        path.write_bytes(safetensors.numpy.save({}, metadata=metadata))
        load = sc.load_model if kind is sealed.MODEL else sc.load_checkpoint
        with pytest.raises(ValueError, match=path.name):
            load(path)


def test_brackets_in_strings_are_not_levels():
    text = '{"a": "[[[", "b\\"[[": ["\\\\", "]"]}'
    for count in (1, 500):
        plain.check_depth(f"[{', '.join([text] * count)}]")
    plain.check_depth("[" * 250 + "]" * 250)
    plain.check_depth(b"\xff" + b"[" * 250)
    for json in ("[" * 251, '"\\"' + "[" * 300 + '", ' + "[" * 251):
        with pytest.raises(ValueError, match=r"^the JSON is nested deeper than 250 levels$"):
            plain.check_depth(json)


PLACES: list[tuple[Any, str]] = [
    (sealed, "safe_open"),
    (sealed, "digest"),
    (sealed, "save"),
    (sealed, "_names"),
    (plain.json, "loads"),
    (plain.json, "dumps"),
    (architecture, "to_data"),
    (architecture, "from_data"),
    (architecture, "own_names"),
    (remade, "make"),
    (model, "held"),
    (arrays, "to_host"),
    (checks, "usable"),
    (tensors, "check_name"),
    (model, "names_of"),
    (sc.Sequential, "__init__"),
    (sc.Sequential, "check_shapes"),
    (sc.Dense, "__post_init__"),
    (Own, "shapes"),
]


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, RecursionError])
@pytest.mark.parametrize("make", [a_model, a_checkpoint])
def test_what_happens_to_the_process_is_never_damage(make, error, path, monkeypatch):
    save, load = make(path, 3)
    save()

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    failed = set()
    for owner, name in PLACES:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fail)
            for call in (save, load):
                try:  # it may do without
                    call()
                except error:
                    failed.add(name)
    assert len(failed) == (len(PLACES) if make is a_model else 9)
