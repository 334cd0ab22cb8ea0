"""What a file costs: time and memory of the order of its size, whatever it says."""

from __future__ import annotations

import dataclasses
import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import seqcore as sc
from seqcore.files import sealed

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


# --- what a file asks for ---------------------------------------------------------------


def write(path: Path, model: Any, names: list[str]) -> None:
    """Write a whole file that says this model has parameters of these names."""
    tensors = dict.fromkeys(names, np.zeros(1, dtype=np.float32))
    header = json.dumps({"seqcore": sc.__version__, "model": model, "parameters": names})
    metadata = {"seqcore_model": "1", "model": header, "sha256": sealed.digest(tensors, header)}
    path.write_bytes(safetensors.numpy.save(tensors, metadata=metadata))


def data(layer: str, /, **options: Any) -> Any:
    return {"layer": layer, "options": options}


def sequential(layers: list[Any], label: str = "a") -> Any:
    return data(
        "Sequential", layers=layers, labels=[f"{label}{number}" for number in range(len(layers))]
    )


@dataclasses.dataclass(frozen=True)
class Joined:
    """A user's own layer of several others."""

    layers: tuple[Any, ...]
    name = "joined"
    n_out = None
    forward = None

    def shapes(self) -> Any:
        return {
            f"{number}.{name}": shape
            for number, layer in enumerate(self.layers)
            for name, shape in layer.shapes().items()
        }


COUNT = 1000
STACKED = data("LSTM", n_a=1, layers=COUNT, bidirectional=True)
ASKING = {
    "one stack": data("LSTM", n_a=1, layers=10**12),
    "many stacks": sequential([STACKED] * COUNT),
    "many shards": sequential([data("Sharded", layer=STACKED, shards=1)] * COUNT),
    "long names": sequential([sequential([data("Dense", n_out=1)] * COUNT)], "a" * 100_000),
    "a stack in a user's own": {
        "layer": "Joined",
        "own": True,
        "options": {"layers": [data("LSTM", n_a=1, layers=10**12)]},
    },
    "many stacks in a user's own": {
        "layer": "Joined",
        "own": True,
        "options": {"layers": [STACKED] * COUNT},
    },
    "many users' own": sequential(
        [{"layer": "Joined", "own": True, "options": {"layers": [STACKED]}}] * COUNT
    ),
}


@pytest.mark.parametrize("what", ASKING)
def test_a_file_that_asks_for_more_parameters_than_it_has_costs_what_a_file_of_its_size_does(
    what, path
):
    write(path, ASKING[what], [str(number) for number in range(COUNT)])
    size = path.stat().st_size
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="the parameters are not those of the model"):
            sc.load_model(path, layers=[Joined])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 30 * size + 2**20


def test_a_users_own_layer_may_use_the_parameters_of_one_layer_for_several(path):
    @dataclasses.dataclass(frozen=True)
    class Tied(Joined):
        def shapes(self) -> Any:
            return self.layers[0].shapes()

    lstm = sc.LSTM(2, layers=5)
    params = lstm.init(3, like=np.zeros(0), rng=0)
    model: Any = Tied((lstm,) * 20)
    sc.save_model(path, model, params)
    assert sc.load_model(path, layers=[Tied])[0] == model


ODD = "[" + "[]," * 1_600_000 + "[]]"  # 4.8 MB


@pytest.mark.parametrize("what", ["a model", "a checkpoint", "the head", "another key"])
def test_json_that_is_too_long_is_refused_before_it_is_read(what, path):
    kind = sealed.CHECKPOINT if what == "a checkpoint" else sealed.MODEL
    header = {"a model": ODD, "a checkpoint": ODD * 7}.get(what, "{}")
    metadata = {kind.key: "1", kind.header: header, "sha256": sealed.digest({}, header)}
    if what == "another key":
        metadata["more"] = ODD * 6
    tensors = {}
    if what == "the head":
        tensors = dict.fromkeys(map("a".ljust(5_000).__add__, map(str, range(6_000))), np.zeros(0))
        metadata["sha256"] = sealed.digest(tensors, header)
    path.write_bytes(safetensors.numpy.save(tensors, metadata=metadata))
    load = sc.load_checkpoint if kind is sealed.CHECKPOINT else sc.load_model
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"has \d+ bytes, expected at most \d+") as caught:
            load(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith(f"{path}: not a whole safetensors file (the ")
    assert peak < 3 * path.stat().st_size


def test_a_configuration_that_could_not_be_read_is_not_written(path):
    config = {"a": "a" * (sealed.CHECKPOINT.most - 200)}
    sc.save_checkpoint(path, {}, config=config)
    assert sc.load_checkpoint(path).config == config
    with pytest.raises(ValueError, match=r"^save_checkpoint: the JSON of the checkpoint has \d+ b"):
        sc.save_checkpoint(path, {}, config={"a": config["a"] + "a" * 200})
    assert sc.load_checkpoint(path).config == config


@pytest.mark.parametrize("label", ["a", '"', "\\"])
def test_an_architecture_that_could_not_be_read_is_not_written(label, path):
    fits = label * (sealed.MODEL.most // 2 - 200)  # the JSON has a character for each, or two
    sc.save_model(path, sc.Sequential(**{fits: sc.Dropout(0.5)}), {})
    with pytest.raises(ValueError, match=r"^save_model: the JSON of the model has \d+ bytes"):
        sc.save_model(path, sc.Sequential(**{fits * 2 + "a" * 400: sc.Dropout(0.5)}), {})
    assert sc.load_model(path)[0].labels == (fits,)


def test_more_tensors_than_could_be_read_are_not_written(path, monkeypatch):
    monkeypatch.setattr(sealed, "TENSORS", 2**20 - 2 * sealed.CHECKPOINT.most)
    params = {f"{number:0100}": np.zeros(1) for number in range(2000)}
    sc.save_checkpoint(path, params)
    with pytest.raises(ValueError, match=r"^save_checkpoint: the header of safetensors has \d+ b"):
        sc.save_checkpoint(path, params | {f"b{name}": value for name, value in params.items()})
    assert len(sc.load_checkpoint(path).params) == 2000


def test_a_state_that_is_nested_too_deep_to_be_read_is_not_written(path):
    state: Any = ()
    for _ in range(240):
        state = (state,)
    sc.save_checkpoint(path, {}, state=state)
    assert sc.load_checkpoint(path).state == state
    for _ in range(10):
        state = (state,)
    with pytest.raises(ValueError, match=r"^save_checkpoint: the JSON is nested deeper than 250"):
        sc.save_checkpoint(path, {}, state=state)


LONG = [[]] * 100_000
TEXT = "x." * 100_000


@pytest.mark.parametrize(
    "model",
    [
        LONG,
        {"layer": "LSTM", "options": LONG},
        {"layer": TEXT, "options": {}},
        {"layer": TEXT, "own": True, "options": {}},
        sequential([{"layer": f"{n}", "own": True, "options": {}} for n in range(10_000)]),
        data("LSTM", n_a=1) | {TEXT: LONG},
        data("LSTM", **{TEXT: LONG}),
        *(
            data("LSTM", **({"n_a": 1} | {option: LONG}))
            for option in ("n_a", "layers", "peephole")
        ),
        data("LSTM", n_a=TEXT),
        data("RNN", n_a=1, activation=TEXT),
        data("RNN", n_a=1, activation=LONG),
        data("Dropout", rate=LONG),
        data("Dropout", rate=0.5, seed=LONG),
        data("Dense", n_out=LONG),
        data("Embedding", n_out=LONG),
        data("Sharded", layer=LONG, shards=1),
        data("Sharded", layer=data("Dense", n_out=1), shards=LONG),
        data("Sharded", layer=data("Dense", n_out=1), shards=1, threads=LONG),
        data("Sequential", layers=LONG, labels=["a"] * len(LONG)),
        data("Sequential", layers=[LONG], labels=["a"]),
        data("Sequential", layers=[data("Dense", n_out=1)], labels=[TEXT]),
        data("Sequential", layers=[data("Dense", n_out=1)], labels=[LONG]),
    ],
    ids=lambda model: json.dumps(model)[:60],
)
def test_an_error_does_not_carry_what_a_file_says(model, path):
    write(path, model, [])
    with pytest.raises(ValueError, match=path.name) as caught:
        sc.load_model(path)
    error: BaseException | None = caught.value
    while error is not None:
        assert len(str(error)) < 1200 + len(str(path))
        assert len(repr(error.args)) < 1500 + len(str(path))
        error = error.__cause__ or error.__context__
