"""Whatever array a public function takes, its meaning counts, or it is refused by name."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from doors import LAYERS, WITHOUT, doors
from odd_arrays import odd, unusual
from problems import on

import seqcore as sc
from seqcore import functional

DOORS = doors()
# What computes nothing may take more, and returns it as it was.
STORES = {"sc.save_checkpoint": {"float16", "byte order"}}
OTHER_PRECISIONS = ("float16", "bfloat16", "longdouble", "complex64", "float8_e4m3fn")


@pytest.mark.parametrize("name", DOORS)
def test_what_no_door_can_honour_is_refused_by_name(name, library, asarray):
    door = DOORS[name]
    placed, also = on(asarray, door.arrays), on(asarray, door.also)
    for label in placed:
        for kind, wrong in odd(library, placed[label]):
            if kind in STORES.get(name, ()):
                continue
            with pytest.raises((TypeError, ValueError)) as raised:  # noqa: PT012 (says which)
                door.call({**also, **placed, label: wrong})
                pytest.fail(f"{name} takes {label}: {kind}")
            said = rf"[\w.]+: {re.escape(label)} (is|has|was|holds) "
            assert re.match(said, str(raised.value)), (name, label, kind, str(raised.value))


@pytest.mark.parametrize("name", DOORS)
def test_all_is_computed_in_single_or_double_precision(name, xp, asarray):
    """Other tests hold what these two reach; a third one is refused, even where all agree."""
    door = DOORS[name]
    placed = on(asarray, {**door.also, **door.arrays})
    floats = [key for key, value in placed.items() if xp.isdtype(value.dtype, "real floating")]
    for precision in OTHER_PRECISIONS if floats else ():
        other = getattr(xp, precision, None)
        if other in (None, xp.float32, xp.float64) or precision in STORES.get(name, ()):
            continue
        cast = {key: xp.astype(placed[key], other) for key in floats}
        with pytest.raises(TypeError, match=r"^[\w.]+: .* has dtype .*, expected "):
            door.call(placed | cast)


@pytest.mark.only("torch")
@pytest.mark.parametrize("name", DOORS)
def test_nothing_is_computed_in_the_half_precision_of_autocast(name, place, asarray):
    import torch

    door = DOORS[name]
    placed = on(asarray, {**door.also, **door.arrays})
    said = r"would be computed with in torch.bfloat16, as torch.autocast says here"
    device = place.device.partition(":")[0]
    with torch.autocast(device, dtype=torch.bfloat16):
        if name == "sc.save_checkpoint":  # computes nothing
            door.call(placed)
            return
        with pytest.raises(TypeError, match=said):
            door.call(placed)
        with torch.autocast(device, enabled=False):
            door.call(placed)


@pytest.mark.parametrize("name", DOORS)
def test_what_only_looks_odd_computes_the_same(name, library, asarray, to_host):
    door = DOORS[name]
    placed, also = on(asarray, door.arrays), on(asarray, door.also)
    expected = None
    for label in placed:
        for kind, other in unusual(library, placed[label]):
            if expected is None:
                expected = flat(door.call({**also, **placed}), to_host)
            got = flat(door.call({**also, **placed, label: other}), to_host)
            assert got.keys() == expected.keys()
            for key, value in got.items():
                np.testing.assert_allclose(
                    value, expected[key], rtol=1e-5, atol=1e-6, err_msg=f"{label} {kind} {key}"
                )


def flat(tree: Any, to_host: Any, path: str = "") -> dict[str, np.ndarray]:
    """Return the arrays of what a door returned, by their paths."""
    if tree is None:
        return {}
    if isinstance(tree, tuple | list):
        tree = dict(enumerate(tree))
    if isinstance(tree, dict):
        parts = [flat(value, to_host, f"{path}.{key}") for key, value in tree.items()]
        return {key: value for part in parts for key, value in part.items()}
    return {path: to_host(tree)}


@pytest.mark.host
def test_every_public_name_is_a_door_or_takes_no_array():
    known = {name.partition(" ")[0] for name in DOORS}
    for module, names in {"sc": sc.__all__, "functional": functional.__all__}.items():
        for name in names:
            door = any(k == f"{module}.{name}" or k.startswith(f"{name}.") for k in known)
            assert door or name in LAYERS or name in WITHOUT, f"{module}.{name} is not in doors()"
