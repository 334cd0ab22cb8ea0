"""A model as a file: its parameters and its architecture, in one safetensors file without code.

Format "1": tensors have the names of the parameters, such as `lstm.0.W_h`. The metadata holds three
strings (see `sealed.py`): `seqcore_model`, the format's version; `model`, JSON with the
architecture (see `architecture.py`); `sha256`. docs/model-files.md says all of it to those who
read such files with other programs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import seqcore
from seqcore import checks
from seqcore.arrays import Array, Params
from seqcore.files import architecture, sealed
from seqcore.files.plain import cut, read_json, short
from seqcore.files.remade import held
from seqcore.files.tensors import placed, to_tensor
from seqcore.layers import Layer, Recurrent, Sequential
from seqcore.layers.contract import check_layer, names_of
from seqcore.layers.door import BuiltIn
from seqcore.parallel import Sharded

# What code raises that gets values of a kind that it did not expect. A MemoryError or a
# RecursionError says what memory or what stack was left, and nothing about the file.
_ERRORS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)

# An own layer may use the parameters of one layer for so many of its fields.
TIES = 16


def save_model(path: str | os.PathLike[str], model: Layer, params: Params) -> None:
    """Write a model and its parameters to one file, atomically; the folder must exist.

    Parameters
    ----------
    path
        The file; one that is there is replaced, or the one that a link points to.
    model
        A layer, such as a `Sequential`. Layers of your own have to be frozen dataclasses that hold
        nothing but fields: None, booleans, numbers, strings, layers, and tuples of these.
    params
        Its parameters, of any array library.

    Raises
    ------
    TypeError
        If `model` is not a layer, or a layer of your own would not come back from its fields; if
        the parameters are not arrays of floats, of one library, device and dtype.
    ValueError
        If a parameter is missing, is unexpected or has a wrong shape; if an option is NaN; if the
        architecture takes more than 4 MiB of JSON.
    OSError
        If the file can't be written, or something else than a file is at `path`; what was there
        before stays as it was.

    Examples
    --------
    >>> import numpy as np, seqcore as sc, tempfile
    >>> model = sc.Sequential(sc.LSTM(4), sc.Dense(2))
    >>> params = model.init(3, like=np.zeros(0), rng=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sc.save_model(f"{folder}/model.safetensors", model, params)
    ...     again, loaded = sc.load_model(f"{folder}/model.safetensors")
    >>> again == model, bool((loaded["dense.W"] == params["dense.W"]).all())
    (True, True)
    """
    check_layer("save_model", model)
    try:
        data = architecture.to_data(model)
    except (TypeError, ValueError) as error:
        raise type(error)(f"save_model: {error}") from error
    _check_params("save_model", model, params)
    tensors = {name: to_tensor("save_model", name, value) for name, value in params.items()}
    whole = {"seqcore": seqcore.__version__, "model": data, "parameters": list(params)}
    sealed.write(path, sealed.MODEL, json.dumps(whole, allow_nan=False), tensors)


def load_model(
    path: str | os.PathLike[str],
    *,
    layers: Mapping[str, type[Any]] | Iterable[type[Any]] | None = None,
    like: Array | None = None,
) -> tuple[Layer, Params]:
    """Read a model and its parameters, and check them against each other and their digest.

    Nothing of the file is executed. It names classes, which are seqcore's or those in `layers`.

    Parameters
    ----------
    path
        A file of `save_model`.
    layers
        Classes of layers of your own, as a dict by the names that they were saved under, or as a
        list.
    like
        An array of floats whose library, device and dtype the parameters get. None for NumPy
        arrays in the dtype that was saved.

    Returns
    -------
    model, params
        Equal to what was saved.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, is not a model, comes from a later version of seqcore, or has a
        layer whose class is not in `layers`.
    TypeError
        If `layers` has something that is not a class of layers, or `like` is not an array of
        floats.
    """
    path = Path(path)
    own = architecture.classes("load_model", layers)
    if like is not None:
        checks.floats("load_model", {"like": like})
    header, tensors = sealed.read(path, sealed.MODEL)
    try:
        whole = read_json(header, finite=True)
        data, names, writer = whole["model"], whole["parameters"], str(whole["seqcore"])
        unknown = sorted(architecture.own_names(data) - own.keys())
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("the names of its parameters are not a list of strings")
        if sorted(names) != sorted(tensors):
            raise ValueError("it names other parameters than it has")
    except _ERRORS as error:
        raise ValueError(f"{path}: not a model ({short(error)})") from error
    if unknown:
        some = [cut(name, 60) for name in unknown[:10]]
        more = ["..."] if len(unknown) > len(some) else []
        named = ", ".join([*(f"{name!r}: ..." for name in some), *more])
        raise ValueError(
            f"{path}: has layers that are not seqcore's, {', '.join(some + more)}: give their "
            f"classes, load_model(path, layers={{{named}}})"
        )
    try:
        model = architecture.from_data(data, own)
    except architecture.UnknownError as error:
        raise ValueError(
            f"{path}: comes from a later version of seqcore, {writer:.60}: in this version, "
            f"{seqcore.__version__}, {error}"
        ) from error
    except _ERRORS as error:
        raise ValueError(f"{path}: the model can't be made: {short(error)}") from error
    try:
        _check_params("load_model", model, tensors)
    except _ERRORS as error:
        raise ValueError(
            f"{path}: the parameters are not those of the model: {short(error)}"
        ) from error
    return model, {name: placed(path, name, tensors[name], like) for name in names}


def _check_params(place: str, model: Layer, params: Params) -> None:
    """Require the names, shapes and kinds of arrays that the model needs."""
    if not isinstance(params, Mapping):
        raise TypeError(f"{place}: params is a {type(params).__name__}, expected a dict of arrays")
    for name in params:
        if not isinstance(name, str):
            raise TypeError(f"{place}: params has the key {name!r}, expected strings as keys")
    checks.concrete(place, **params)
    _check_layers(place, model, len(params))
    # One by one: if the model asks for more, or for long ones, the first that is missing ends it.
    named = (prefix + name for prefix, leaf in _leaves(model) for name in names_of(leaf))
    checks.parameters(place, params, named)
    if params:
        checks.one_library(place, params)
    floats = {
        prefix + name: params[prefix + name]
        for prefix, leaf in _leaves(model)
        if any(isinstance(layer, BuiltIn) for layer in (leaf, *held(leaf)))
        for name in names_of(leaf)
    }
    checks.floating(place, floats)
    if isinstance(model, BuiltIn):
        model.check_shapes(dict(params), None)
    for prefix, leaf in _leaves(model):
        if not isinstance(leaf, BuiltIn) and hasattr(leaf, "shapes"):
            sizes: checks.Sizes = {}
            for name, shape in leaf.shapes().items():
                checks.shape(place, prefix + name, params[prefix + name], shape, sizes)


def _check_layers(place: str, model: Layer, count: int) -> None:
    """Require no more stacked layers than parameters.

    So no more names are spelled than there are, of all that a file may ask for. The layers that a
    layer of a user's own holds count less, as it may use one's parameters for several of them.
    """
    asked = 0
    for prefix, leaf in _leaves(model):
        inside = sum(layer.layers for layer in held(leaf) if isinstance(layer, Recurrent))
        own = leaf.layers if isinstance(leaf, Recurrent) else 0
        asked += own + inside // TIES
        if asked > count:
            name = prefix + getattr(leaf, "name", "a layer")
            raise ValueError(
                f"{place}: {name} has {own + inside} layers and the model {count} parameters, "
                "expected some for each layer"
            )


def _leaves(layer: Layer, prefix: str = "") -> Iterator[tuple[str, Layer]]:
    """Yield the layers that are not containers of seqcore, with what their names begin with."""
    if isinstance(layer, Sequential) and _names_like(layer, Sequential):
        for label, child in zip(layer.labels, layer.layers, strict=True):
            yield from _leaves(child, f"{prefix}{label}.")
    elif isinstance(layer, Sharded) and _names_like(layer, Sharded):
        yield from _leaves(layer.layer, prefix)
    else:
        yield prefix, layer


def _names_like(layer: BuiltIn, kind: type[BuiltIn]) -> bool:
    """Tell whether a layer, of a subclass perhaps, has the names that the class says."""
    return (type(layer).names, type(layer).shapes) == (kind.names, kind.shapes)
