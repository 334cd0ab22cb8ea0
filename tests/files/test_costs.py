"""What a file costs: time and memory of the order of its size, whatever it says."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import seqcore as sc

pytestmark = pytest.mark.host


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def nested(wrap: Callable[[Any], Any], depth: int) -> Any:
    model: Any = sc.Dense(2)
    for _ in range(depth):
        model = wrap(model)
    return model


@dataclasses.dataclass(frozen=True)
class Around:
    """A user's own layer around another."""

    layer: Any
    name = "around"
    forward = None

    def shapes(self) -> Any:
        return self.layer.shapes()


# The layers are nested in each other, with a limit of 100 levels.
WRAPS = {
    "Sequential": (lambda inner: sc.Sequential(a=inner), 45),
    "Sequential behind": (lambda inner: sc.Sequential(sc.Dropout(0.0), a=inner), 45),
    "Sequential before": (lambda inner: sc.Sequential(inner, sc.Dropout(0.0)), 45),
    "Sharded": (lambda inner: sc.Sharded(inner, 1, threads=1), 90),
    "both": (lambda inner: sc.Sequential(a=sc.Sharded(inner, 1, threads=1)), 30),
}


@pytest.mark.parametrize("name", WRAPS)
def test_a_level_of_nesting_costs_as_much_as_any_other(name, path):
    model = nested(*WRAPS[name])
    x = np.ones((2, 3, 1))
    params = model.init(3, like=x, rng=0)
    y, _, tape = model.forward(params, x, draw=0)
    for call in (
        lambda: model.init(3, like=x, rng=0),
        lambda: sc.save_model(path, model, params),
        lambda: sc.load_model(path),
        lambda: model.predict(params, x),
        lambda: model.forward(params, x, draw=0),
        lambda: model.backward(params, tape, y),
        lambda: model.bind(params)(x[0]),
    ):
        assert seconds(call) < 1.0  # it takes milliseconds; 2 ** depth steps would never end


def test_a_level_of_a_users_own_layers_costs_as_much_as_any_other(path):
    model = nested(Around, 90)
    params = {"W": np.ones((2, 3)), "b": np.ones((2, 1))}
    assert seconds(lambda: sc.save_model(path, model, params)) < 1.0
    assert seconds(lambda: sc.load_model(path, layers=[Around])) < 1.0


def test_names_are_compared_in_time_of_their_number():
    params = dict.fromkeys(map(str, range(30_000)), np.zeros(1))
    assert seconds(lambda: sc.checks.parameters("dense", params, list(params))) < 1.0


def test_a_layer_costs_as_much_as_any_other(path):
    model = sc.Sequential(*(sc.Dense(1) for _ in range(2000)))
    params = model.init(1, like=np.zeros(0), rng=0)
    sc.save_model(path, model, params)
    assert seconds(lambda: sc.load_model(path)) < 2.0
