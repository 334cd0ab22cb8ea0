"""Layers of a user's own come back as they are, or are refused by class and name."""

from __future__ import annotations

import dataclasses
import functools
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from judging import same_bits
from problems import Scaled

import seqcore as sc
from seqcore.files import architecture, remade

pytestmark = pytest.mark.host


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


class Loose(sc.Dense):
    """What is missing: the decorator, and the field."""

    def __init__(self, n_out: int, **kw: Any) -> None:
        super().__init__(n_out)
        object.__setattr__(self, "scale", kw.get("scale", 1.0))


class Stars(sc.Dense):
    def __init__(self, *given: Any) -> None:
        super().__init__(given[0])


class NamedAsItsField(sc.Dense):
    def __init__(self, n_out: int) -> None:
        super().__init__(n_out)
        object.__setattr__(self, "scale", 2.0)


@dataclasses.dataclass(frozen=True)
class OfAnUndecorated(NamedAsItsField):
    """Made from its fields: the __init__ above is not called."""

    gain: float = 1.0


@dataclasses.dataclass(frozen=True)
class Mine(sc.Dense):
    gain: float = 1.0
    rows: Any = dataclasses.field(init=False, default=None)
    scale = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "table", np.arange(3.0))
        object.__setattr__(self, "inner", sc.Sequential(sc.Dense(self.n_out)))
        object.__setattr__(self, "sizes", {"n_out": [self.n_out, (1, None)], "nan": np.nan})
        object.__setattr__(self, "helper", Helper(self.n_out))

    @classmethod
    def tabled(cls, n_out: int, rows: Any) -> Mine:
        layer = cls(n_out)
        object.__setattr__(layer, "rows", rows)
        return layer

    @functools.cached_property
    def doubled(self) -> Any:
        return object()


class Helper:
    def __init__(self, size: int) -> None:
        self.size = size


@dataclasses.dataclass(frozen=True)
class Slotted(Scaled):
    __slots__ = ("__hidden", "seen")
    gain: float

    def hide(self, value: float) -> Slotted:
        object.__setattr__(self, "_Slotted__hidden", value)
        return self


@dataclasses.dataclass(frozen=True)
class Other(Scaled):
    """A call of its class, or of one below it, makes one of this class."""

    word: str = "a"

    def __new__(cls, word: str = "a") -> Any:  # noqa: ARG004 (it has the fields of the class)
        return object.__new__(Other)


@dataclasses.dataclass(frozen=True)
class Deeper(Other):
    pass


def having(layer: Any, **attributes: Any) -> Any:
    for name, value in attributes.items():
        object.__setattr__(layer, name, value)
    return layer


def changed(name: str, key: str, value: Any) -> Any:
    layer = Mine(2)
    part = getattr(layer, name)
    if isinstance(part, dict | np.ndarray):
        part[key] = value
    else:
        object.__setattr__(part, key, value)
    return layer


LOST = {
    "no decorator, and **": (Loose(2, scale=3.0), r"Loose is made from '\*\*kw', which is not one"),
    "no decorator, and *": (Stars(2), r"Stars is made from '\*given', which is not one of its"),
    "no decorator": (NamedAsItsField(2), "NamedAsItsField is not a frozen dataclass: Named.* has"),
    "an attribute": (having(Mine(2), bias=3.0), "Mine.bias is 3.0 and comes back as missing"),
    "a missing one": (
        functools.reduce(
            lambda layer, name: layer.__dict__.pop(name) and layer, ["helper"], Mine(2)
        ),
        "Mine.helper is missing and comes back as <",
    ),
    "a field without init": (Mine.tabled(2, 7), "Mine.rows is 7 and comes back as None"),
    "an attribute of the class": (having(Mine(2), scale=2.0), "Mine.scale is 2.0 and comes back"),
    "a method": (having(Mine(2), forward=len), "Mine.forward is <built-in function len> and comes"),
    "a function": (having(Mine(2), hook=lambda x: x), "Mine.hook is <function .* comes back as"),
    "a lock": (having(Mine(2), lock=threading.Lock()), "Mine.lock is <unlocked .* comes back as"),
    "an array": (changed("table", 0, 5.0), "Mine.table is array.* and comes back as array"),
    "a sign": (changed("table", 0, -0.0), "Mine.table is array.* and comes back as array"),
    "a dtype": (having(Mine(2), table=np.arange(3)), "Mine.table is array.* and comes back as"),
    "a part": (changed("sizes", "n_out", [2, (1, 0)]), "Mine.sizes is .* and comes back as"),
    "a number": (changed("helper", "size", 2.0), "Mine.helper is .* and comes back as"),
    "a layer": (having(Mine(2), inner=sc.Sequential(sc.Dense(3))), "Mine.inner is Sequential"),
    "a layer's": (changed("inner", "more", 1), "Mine.inner is Sequential.* and comes back as"),
    "a slot": (having(Slotted(1.0), seen=2.0), "Slotted.seen is 2.0 and comes back as missing"),
    "a hidden slot": (Slotted(1.0).hide(2.0), "Slotted._Slotted__hidden is 2.0 and comes back as"),
    "a class": (object.__new__(Deeper), "Deeper comes back as a Other, expected the same"),
    "one of seqcore's": (having(sc.Dense(2), forward=len), "Dense.forward is <built-in .* missing"),
    "a model of seqcore's": (
        having(sc.Sequential(sc.Dense(2)), labels=("b", "a")),
        "Sequential does not come back from its fields, .*as many labels as layers",
    ),
}


@pytest.mark.parametrize("what", LOST)
def test_what_a_file_would_lose_is_refused_by_class_and_name(what, path):
    layer, says = LOST[what]
    params = {"W": np.ones((2, 3)), "b": np.ones((2, 1))}
    for model, prefix, place in [
        (layer, "", ""),
        (sc.Sequential(a=layer), "a.", r"Sequential\.layers\.0: "),
        (sc.Sharded(layer, 2), "", r"Sharded\.layer: "),
    ]:
        named = {prefix + name: value for name, value in params.items()}
        with pytest.raises(TypeError, match=f"^save_model: {place}{says}"):
            sc.save_model(path, model, named)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("kind", [Loose, Stars, NamedAsItsField])
def test_a_class_that_keeps_more_than_its_fields_is_refused_where_it_is_given(kind):
    with pytest.raises(TypeError, match=rf"^load_model: {kind.__name__} is "):
        architecture.classes("load_model", [kind])


@pytest.mark.parametrize("model", [Mine(2, gain=0.5), OfAnUndecorated(2, 3.0), Slotted(1.0)])
def test_what_a_class_computes_from_its_fields_comes_back(model, path):
    if isinstance(model, Mine):
        assert model.doubled is model.doubled  # kept, and another each time
    params = model.init(3, like=np.zeros(0), rng=0)
    sc.save_model(path, model, params)
    again, loaded = sc.load_model(path, layers=[type(model)])
    assert again == model
    same_bits(loaded, params)


# --- the layers that a layer holds -------------------------------------------------------


def test_the_layers_that_a_layer_holds_are_found_wherever_they_are():
    @dataclasses.dataclass(frozen=True)
    class Holding(Scaled):
        one: Any
        more: Any = ()

        def __post_init__(self):
            object.__setattr__(self, "itself", self)
            object.__setattr__(self, "made", [sc.Dropout(0.5)])

    lstm, dense, gru = sc.LSTM(1), sc.Dense(2), sc.GRU(3)
    layer = Holding(lstm, (1, "a", sc.Sharded(sc.Sequential(dense, Holding(gru)), 2), sc.RNN))
    found = list(remade.held(layer))
    for part in (lstm, dense, gru):
        assert [other is part for other in found].count(True) == 1
    assert sum(isinstance(part, sc.Dropout) for part in found) == 2
    assert len(found) == 8
    assert list(remade.held(lstm)) == []
