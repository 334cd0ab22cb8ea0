"""Arrays in files: whatever comes back comes back in its dtype, and the rest is refused by name."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from judging import exactly
from problems import Scaled

import seqcore as sc
from seqcore.files import tensors

NAMES = list(tensors.DTYPES.values())
NEVER = [
    *("bfloat16", "float8_e4m3fn", "float8_e5m2", "complex64", "complex128", "longdouble"),
]


@dataclasses.dataclass(frozen=True)
class Loose:
    """A layer that says only what its parameters are called."""

    name = "loose"
    forward = Scaled.forward

    def names(self):
        return ["w"]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.safetensors"


@pytest.fixture
def of_dtype(xp, device):
    """Make an array of a dtype; None where the device has none."""
    there = xp.__array_namespace_info__().dtypes(device=device)
    standard = set(np.__array_namespace_info__().dtypes())

    def make(name):
        if not hasattr(xp, name) or (name in standard and name not in there):
            return None
        if name in standard:
            host = np.asarray([[0, 1, 2], [3, 0, 1]]).astype(name)
            return xp.asarray(host, dtype=getattr(xp, name), device=device)
        return xp.ones((2, 3), dtype=getattr(xp, name), device=device)

    return make


def test_every_dtype_of_a_library_comes_back_or_is_refused_by_name(
    of_dtype, asarray, to_host, path
):
    like = asarray([0.0])
    for name in NAMES:
        array = of_dtype(name)
        if array is None:
            continue
        sc.save_checkpoint(path, {"w": array}, opt_state=(array,), state={"s": array})
        loaded = sc.load_checkpoint(path)
        for again in (loaded.params["w"], loaded.opt_state[0], loaded.state["s"]):
            assert again.dtype.name == name
            assert again.dtype.isnative
            np.testing.assert_array_equal(again, to_host(array), strict=True)
        placed = sc.load_checkpoint(path, like=like).params["w"]
        assert placed.dtype == (like.dtype if name.startswith("float") else array.dtype)
        np.testing.assert_array_equal(to_host(placed), to_host(array))
    for name in NEVER:
        array = of_dtype(name)
        if array is None:
            continue
        for part in ("params", "opt_state", "state"):
            said = rf"^save_checkpoint: {part}\.a\.w has dtype .*, expected one of bool, float16, "
            with pytest.raises(TypeError, match=said):
                sc.save_checkpoint(path, **({"params": {}} | {part: {"a": {"w": array}}}))
        b = asarray([[0.0]] * 2)
        with pytest.raises(TypeError, match=r"^save_model: W has dtype .*, expected "):
            sc.save_model(path, sc.Dense(2), {"W": array, "b": b})
        with pytest.raises(TypeError, match=r"^save_model: w has dtype .*, expected one of"):
            sc.save_model(path, Loose(), {"w": array})


def readonly(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


LAYOUTS = {
    "transposed": np.arange(6.0).reshape(2, 3).T,
    "permuted": np.arange(24.0).reshape(2, 3, 4).transpose(1, 2, 0),
    "Fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "strided": np.arange(12.0).reshape(3, 4)[::2, ::-1],
    "broadcast": np.broadcast_to(np.arange(3.0), (2, 3)),
    "read-only": readonly(np.arange(3.0)),
    "0-d": np.asarray(2.5),
    "scalar": np.float64(2.5),
    "one column": np.arange(3.0)[:, None],
    "empty": np.zeros((0, 3)),
    "big-endian": np.arange(3.0).astype(">f8"),
    "big-endian 0-d integer": np.asarray(7, dtype=">i4"),
}


@pytest.mark.host
@pytest.mark.parametrize("values", LAYOUTS.values(), ids=LAYOUTS)
def test_any_layout_in_memory_is_saved_right(values, path):
    sc.save_checkpoint(path, {"w": values})
    loaded = sc.load_checkpoint(path).params["w"]
    assert loaded.dtype == values.dtype.newbyteorder("=")
    np.testing.assert_array_equal(loaded, values, strict=False)
    assert loaded.shape == values.shape


@pytest.mark.host
@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.ma.masked_array([1.0, 2.0], [False, True]), "is a masked array, whose mask would be"),
        (np.ma.masked_array([1.0, 2.0]), "is a masked array, whose mask would be lost"),
        (np.ma.masked_array([1.0], dtype=">f8"), "is a masked array, whose mask would be lost"),
        (np.ma.masked, "is a masked array, whose mask would be lost"),
        (np.zeros(2).view(np.recarray), "is a numpy.rec.recarray, a subclass"),
        (np.zeros(2, dtype=object), "has dtype object"),
        (np.zeros(2, dtype="M8[s]"), "has dtype datetime64[s]"),
        (np.zeros(2, dtype="m8[s]"), "has dtype timedelta64[s]"),
        (np.zeros(2, dtype=[("a", "f4")]), "has dtype [('a', '<f4')]"),
        (np.asarray(["a"]), "has dtype <U1"),
        (np.asarray(["a"], dtype=np.dtypes.StringDType()), "has dtype StringDType()"),
        (np.asarray([b"a"]), "has dtype |S1"),
        (np.zeros(2, dtype="V3"), "has dtype |V3"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_arrays_of_numpy_that_mean_something_else_are_refused_by_name(array, says, path):
    for part in ("params", "opt_state", "state"):
        with pytest.raises(TypeError) as caught:
            sc.save_checkpoint(path, **({"params": {}} | {part: {"w": array}}))
        assert str(caught.value).startswith(f"save_checkpoint: {part}.w {says}")
    with pytest.raises(TypeError) as caught:
        sc.save_model(path, Loose(), {"w": array})
    assert str(caught.value).startswith(f"save_model: w {says}")
    assert list(path.parent.iterdir()) == []


@pytest.mark.host
def test_a_memory_map_is_an_array_like_others(path):
    mapped = np.memmap(path.with_name("map"), dtype=np.float32, mode="w+", shape=(2, 1))
    mapped[...] = 3.0
    sc.save_checkpoint(path, {"w": mapped})
    np.testing.assert_array_equal(sc.load_checkpoint(path).params["w"], mapped)
    sc.save_model(path, Scaled(), {"w": mapped, "b": mapped})
    assert type(sc.load_model(path, layers=[Scaled])[1]["w"]) is np.ndarray


@pytest.mark.only("torch")
def test_tensors_of_torch_are_copied_or_refused_by_name(asarray, to_host, path):
    import torch

    w = asarray([[1.0], [2.0]])
    imaginary = torch.complex(w, w).conj().imag  # minus w, with the sign to be applied when read
    for array in (w.clone().requires_grad_(), torch.nn.Parameter(w), w.T.contiguous().T, imaginary):
        sc.save_model(path, Scaled(), {"w": array, "b": array})
        for place in (w, None):
            again = sc.load_model(path, layers=[Scaled], like=place)[1]["w"]
            assert not getattr(again, "requires_grad", False)
            np.testing.assert_array_equal(to_host(torch.as_tensor(again)), to_host(array.clone()))
    for array, says in [
        (w.to("meta"), "can't be copied to the host .Cannot copy out of meta tensor"),
        (w.to_sparse(), "has the layout torch.sparse_coo; give a dense tensor"),
    ]:
        with pytest.raises(TypeError, match=f"^save_checkpoint: params.w {says}"):
            sc.save_checkpoint(path, {"w": array})


@pytest.mark.only("jax")
def test_arrays_of_jax_without_values_are_refused_by_name(asarray, path):
    import jax

    w = asarray([1.0])
    for save in (
        lambda w: sc.save_checkpoint(path, {"w": w}),
        lambda w: sc.save_model(path, Scaled(), {"w": w, "b": w}),
    ):
        with pytest.raises(TypeError, match=r"^save_\w+: (params\.)?w is a traced array of jax"):
            jax.jit(save)(w)
        gone = w.copy()
        gone.delete()
        with pytest.raises(ValueError, match=r"^save_\w+: (params\.)?w was deleted"):
            save(gone)
    with pytest.raises(TypeError, match=r"^save_checkpoint: params\.w has dtype key<fry>"):
        sc.save_checkpoint(path, {"w": jax.random.key(0)})


@pytest.mark.host
@pytest.mark.parametrize("name", ["\ud800", "a\udfffb"])
def test_a_name_that_is_not_text_is_refused(name, path):
    with pytest.raises(
        ValueError, match=r"^save_checkpoint: the name 'params.* is not Unicode text"
    ):
        sc.save_checkpoint(path, {name: np.zeros(1)})
    for good in ("", "é", "a\0b", "\U0001f600", "__metadata__", "a" * 1000):
        sc.save_checkpoint(path, {good: np.zeros(1)})
        assert list(sc.load_checkpoint(path).params) == [good]


# --- placed beside `like` ---------------------------------------------------------------


@pytest.mark.host
@pytest.mark.parametrize("dtype", ["float16", ">f4", "int64", "complex64", "object"])
def test_like_is_an_array_of_floats_to_compute_with(dtype, path):
    sc.save_checkpoint(path, {"w": np.ones((2, 1))})
    with pytest.raises(TypeError, match=r"^load_checkpoint: like has dtype .*"):
        sc.load_checkpoint(path, like=np.zeros(1, dtype=dtype))
    sc.save_model(path, Scaled(), {"w": np.ones((2, 1)), "b": np.ones((2, 1))})
    with pytest.raises(TypeError, match=r"^load_model: like has dtype .*"):
        sc.load_model(path, layers=[Scaled], like=np.zeros(1, dtype=dtype))
    for like, says in [
        (np.ma.zeros(1), "is a masked array"),
        ([0.0], "is a list"),
        (1.0, "is a f"),
    ]:
        with pytest.raises(TypeError, match=f"^load_model: like {says}"):
            sc.load_model(path, layers=[Scaled], like=like)


@pytest.mark.host
@pytest.mark.parametrize("value", [1e39, -3.5e38])
def test_a_float_that_becomes_infinite_in_the_dtype_of_like_is_refused(value, path):
    like = np.zeros(1, dtype=np.float32)
    params = {"w": np.asarray([1e38, np.inf, np.nan, 1e-300])}
    sc.save_checkpoint(path, params)
    np.testing.assert_array_equal(
        sc.load_checkpoint(path, like=like).params["w"], params["w"].astype(np.float32)
    )
    sc.save_checkpoint(path, params, opt_state=(np.asarray([0.0, value]),))
    says = (
        f"{path}: opt_state.0 holds {np.float64(value)!r}, which float32 can't hold; load it "
        "without `like`, or beside an array of a larger dtype"
    )
    with pytest.raises(ValueError, match=exactly(says)):
        sc.load_checkpoint(path, like=like)
    assert sc.load_checkpoint(path, like=np.zeros(1)).opt_state[0][1] == value


@pytest.mark.host
def test_an_integer_that_the_device_has_no_dtype_for_is_refused(path, monkeypatch):
    # As JAX without 64 bits, which would take the lower half.
    info = SimpleNamespace(dtypes=lambda **_: {"int32": np.int32, "uint8": np.uint8})
    few = SimpleNamespace(__array_namespace_info__=lambda: info, bool=np.bool_)
    monkeypatch.setattr(tensors.arrays, "namespace", lambda _: few)
    like = np.zeros(1)
    for good in (np.asarray([2**31 - 1, -(2**31)]), np.asarray(7, dtype=np.uint64)):
        np.testing.assert_array_equal(tensors.placed(path, "w", good, like), good)
    for wrong in (2**31, -(2**31) - 1, 2**63 - 1):
        with pytest.raises(
            ValueError, match=f"{path}: w holds .*{wrong}.*, which int32 can't hold"
        ):
            tensors.placed(path, "w", np.asarray([0, wrong]), like)
