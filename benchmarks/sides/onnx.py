"""LSTMs as ONNX models, with the parameters of seqcore.

An ONNX LSTM has its gates in the order i, o, f, c, two biases in one array, and a leading axis
of directions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from harness.side import Array, Arrays
from onnx import TensorProto, helper, numpy_helper

ORDER = [0, 2, 1, 3]  # in i, f, o, c of seqcore
# Old enough for every onnxruntime of recent years.
OPSET, IR_VERSION = 17, 8


def step(params: Arrays) -> bytes:
    """Return a model of one step: x, h, c to h_next, c_next, all `(1, 1, n)`."""
    n_a, n_x = params["0.W_x"].shape[1:]
    node = helper.make_node(
        "LSTM",
        ["x", "W", "R", "B", "", "h", "c"],
        ["", "h_next", "c_next"],
        hidden_size=n_a,
    )
    inputs = {"x": [1, 1, n_x], "h": [1, 1, n_a], "c": [1, 1, n_a]}
    outputs = {"h_next": [1, 1, n_a], "c_next": [1, 1, n_a]}
    return _model([node], inputs, outputs, _weights(params))


def predictor(lstm: Arrays, head: Arrays) -> bytes:
    """Return a model of an LSTM with a Dense layer: x `(T, m, n_x)` to y `(T, m, n_y)`."""
    n_a, n_x = lstm["0.W_x"].shape[1:]
    nodes = [
        helper.make_node("LSTM", ["x", "W", "R", "B"], ["h"], hidden_size=n_a),
        helper.make_node("Squeeze", ["h", "directions"], ["h_only"]),
        helper.make_node("MatMul", ["h_only", "W_head"], ["z"]),
        helper.make_node("Add", ["z", "b_head"], ["y"]),
    ]
    values = {
        **_weights(lstm),
        "directions": np.asarray([1]),
        "W_head": np.ascontiguousarray(head["W"].T),
        "b_head": head["b"][:, 0],
    }
    outputs = {"y": ["T", "m", head["W"].shape[0]]}
    return _model(nodes, {"x": ["T", "m", n_x]}, outputs, values)


def _weights(params: Arrays) -> dict[str, Array]:
    W, R, b = (params[f"0.{name}"][ORDER] for name in ("W_x", "W_h", "b"))
    rows = W.shape[0] * W.shape[1]
    B = np.concatenate((b.reshape(1, rows), np.zeros((1, rows), b.dtype)), axis=1)
    return {"W": W.reshape(1, rows, -1), "R": R.reshape(1, rows, -1), "B": B}


def _model(
    nodes: list[Any],
    inputs: Mapping[str, list[Any]],
    outputs: Mapping[str, list[Any]],
    values: Arrays,
) -> bytes:
    def declared(shapes: Mapping[str, list[Any]]) -> list[Any]:
        return [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in shapes.items()
        ]

    initializers = [numpy_helper.from_array(value, name) for name, value in values.items()]
    graph = helper.make_graph(nodes, "lstm", declared(inputs), declared(outputs), initializers)
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
