"""Programs for cold starts, written as a user writes them, and the models that they read."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

import numpy as np
from harness import problem
from harness.problem import Shape
from harness.side import Array

import seqcore as sc
from sides import textbook

# The model of all programs: LSTM(128) and Dense(4) on 20 steps of 16 features.
SHAPE, OUTPUTS = Shape(20, 1, 16, 128), 4

IMPORTS = {
    "python": "pass",
    "numpy": "import numpy",
    "seqcore": "import seqcore",
    "onnxruntime": "import onnxruntime",
    "torch": "import torch",
}
PREDICTIONS = {
    "seqcore": """
import numpy as np
import seqcore as sc

model = sc.Sequential(sc.LSTM(128), sc.Dense(4))
params = sc.load_checkpoint("model.safetensors").params
x = np.load("x.npy")
y, state = model.predict(params, x[:, :, None])
print(*y[-1, :, 0].tolist())
""",
    "onnxruntime": """
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
x = np.load("x.npy")
(y,) = session.run(None, {"x": x[:, None, :]})
print(*y[-1, 0].tolist())
""",
    "torch": """
import numpy as np
import torch


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(16, 128)
        self.head = torch.nn.Linear(128, 4)

    def forward(self, x):
        h, state = self.lstm(x)
        return self.head(h)


model = Model()
model.load_state_dict(torch.load("model.pt"))
model.eval()
x = torch.from_numpy(np.load("x.npy"))
with torch.inference_mode():
    y = model(x[:, None, :])
print(*y[-1, 0].tolist())
""",
}


def save_models(folder: Path, installed: Container[str]) -> Array:
    """Write x and the model for each installed library; return the prediction in float64."""
    arrays = problem.draw("lstm", SHAPE)
    lstm = problem.parameters(arrays)
    rng = np.random.default_rng(1)
    head = {
        "W": rng.uniform(-0.1, 0.1, (OUTPUTS, SHAPE.n_a)).astype(np.float32),
        "b": rng.uniform(-0.1, 0.1, (OUTPUTS, 1)).astype(np.float32),
    }
    np.save(folder / "x.npy", arrays["x"][:, :, 0])
    params = {f"lstm.{name}": value for name, value in lstm.items()}
    params |= {f"dense.{name}": value for name, value in head.items()}
    sc.save_checkpoint(folder / "model.safetensors", params)
    if "torch" in installed:
        from sides import torch

        torch.save(folder / "model.pt", lstm, head)
    if "onnxruntime" in installed:
        from sides import onnx

        (folder / "model.onnx").write_bytes(onnx.predictor(lstm, head))
    y = textbook.reference("lstm", arrays)["y"][-1]
    prediction: Array = (head["W"].astype(np.float64) @ y + head["b"])[:, 0]
    return prediction
