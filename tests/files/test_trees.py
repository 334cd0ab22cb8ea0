"""Trees in checkpoints: what is saved comes back as what it was, or is refused by name."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, namedtuple
from typing import Any, NamedTuple

import numpy as np
import pytest

import seqcore as sc
from seqcore import cells, layers, optimizers
from seqcore.cells import GRUState, LSTMState
from seqcore.files import trees

pytestmark = pytest.mark.host

W = np.arange(2.0)


class Momentum(NamedTuple):
    mu: dict[str, Any]


class BothWays(LSTMState):
    """A subclass would come back as its base."""


@dataclasses.dataclass
class Sizes:
    w: np.ndarray


class Names(dict[str, Any]):
    pass


# Another module may name a state as seqcore does.
ANOTHER = namedtuple("LSTMState", "h c")  # type: ignore[name-match]


@pytest.mark.parametrize("name", trees.STATES)
def test_a_state_of_seqcore_comes_back_as_itself(name, tmp_path):
    kind = trees.STATES[name]
    assert kind.__name__ == name
    state = kind(*(W + k for k in range(len(kind._fields))))
    path = tmp_path / "model.safetensors"
    sc.save_checkpoint(path, {"w": W}, opt_state=state, state=(state, (), state))
    loaded = sc.load_checkpoint(path)
    for again in (loaded.opt_state, loaded.state[0], loaded.state[2]):
        assert type(again) is kind
        for actual, expected in zip(again, state, strict=True):
            np.testing.assert_array_equal(actual, expected)


def test_every_state_of_a_cell_a_layer_or_an_optimizer_is_known():
    found = {
        kind
        for module in (cells, layers, optimizers)
        for name, kind in vars(module).items()
        if name.endswith("State") and hasattr(kind, "_fields")
    }
    # What a layer that reads in both directions returns has a type of its own.
    found |= {cells.ended(cell.state_type) for cell in cells.CELLS}
    assert {kind.__name__: kind for kind in found} == trees.STATES


@pytest.mark.parametrize(
    ("state", "name"),
    [
        (Momentum({"w": W}), "state is a Momentum"),
        ((GRUState(W), Momentum({"w": W})), "state.1 is a Momentum"),
        ({"a": {"b": (Momentum({}),)}}, "state.a.b.0 is a Momentum"),
        (LSTMState(Momentum({}), W), "state.h is a Momentum"),
        (BothWays(W, W), "state is a BothWays"),
        (ANOTHER(W, W), "state is a LSTMState"),
        (Sizes(W), "state is a Sizes"),
        (Names(w=W), "state is a Names"),
        ({"a": OrderedDict(w=W)}, "state.a is a OrderedDict"),
        ([W], "state is a list"),
        ((W, {"a": [W]}), "state.1.a is a list"),
        ({W.size}, "state is a set"),
        ((1.0,), "state.0 is a float"),
        ((True,), "state.0 is a bool"),
    ],
)
@pytest.mark.parametrize("part", ["state", "opt_state"])
def test_what_would_not_come_back_as_itself_is_refused(state, name, part, tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(TypeError) as error:
        sc.save_checkpoint(path, {"w": W}, **{part: state})
    expected = (
        f"save_checkpoint: {name.replace('state', part, 1)}, expected an array, a plain tuple"
    )
    assert str(error.value).startswith(expected)
    assert "LSTMState" in str(error.value).partition("expected")[2]  # what is known is listed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", [1, None, ("a", "b"), b"a"])
def test_keys_that_are_not_strings_are_refused(key, tmp_path):
    path = tmp_path / "model.safetensors"
    for arguments, place in [
        ({"params": {key: W}}, "params"),
        ({"params": {}, "state": ({key: W},)}, "state.0"),
    ]:
        with pytest.raises(TypeError) as error:
            sc.save_checkpoint(path, **arguments)
        expected = f"save_checkpoint: {place} has the key {key!r}, expected strings as keys"
        assert str(error.value) == expected
    assert list(tmp_path.iterdir()) == []
