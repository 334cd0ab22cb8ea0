"""The sides of `gpu.py`: an LSTM on a GPU, each on its own library, in its own process.

Arrays come in seqcore's layout, parameters as `"0.W_x"`, `"1.W_h"`, ... of the layers. A task
says `layers`, `do` ("training" for forward and backward, "inference" for forward), `tf32`,
`repeat` (so many times the inputs follow one another in time) and `library`: "cupy", or
"numpy" where a CPU stands in for the GPU, to try the script out.

Inputs are on the device before time is taken, and nothing is copied back while it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from harness import duel

Arrays = dict[str, np.ndarray[Any, Any]]
Task = dict[str, Any]
Clock = Callable[[Callable[[], Any], int], list[float]]

# PyTorch's order of an LSTM's gates is i, f, c, o; ours i, f, o, c.
ORDER = [0, 1, 3, 2]


def seqcore_eager(arrays: Arrays, task: Task) -> duel.Work:
    """Our layer on CuPy arrays, each operation as it comes."""
    xp, host, clock, notes = _arrays(task)
    layer = _layer(arrays, task)
    params, x, dy = _divided(arrays, task, xp.asarray)

    def forward() -> tuple[Any, ...]:
        return (layer.forward(params, x)[0],)

    def step() -> tuple[Any, ...]:
        y, _, tape = layer.forward(params, x)
        dx, grads, _ = layer.backward(params, tape, dy)
        return y, dx, grads

    run = step if task["do"] == "training" else forward
    return duel.Work(run, lambda ran: _named(ran, host), notes, clock)


def seqcore_jax(arrays: Arrays, task: Task) -> duel.Work:
    """Our layer on JAX arrays, compiled as one function."""
    try:
        import jax
    except ImportError as error:
        raise duel.Unavailable(f"JAX is not here ({error})") from error
    platform = "gpu" if task["library"] == "cupy" else "cpu"
    try:
        device = jax.devices(platform)[0]
    except RuntimeError as error:
        said = str(error).partition("\n")[0]
        raise duel.Unavailable(f"JAX has no {platform} here ({said})") from error
    precision = "tensorfloat32" if task["tf32"] else "highest"
    jax.config.update("jax_default_matmul_precision", precision)
    layer = _layer(arrays, task)

    @jax.jit
    def forward(params: Any, x: Any) -> tuple[Any, ...]:
        return (layer.forward(params, x)[0],)

    @jax.jit
    def step(params: Any, x: Any, dy: Any) -> tuple[Any, ...]:
        y, _, tape = layer.forward(params, x)
        dx, grads, _ = layer.backward(params, tape, dy)
        return y, dx, grads

    given = _divided(arrays, task, lambda value: jax.device_put(value, device))
    compiled, given = (step, given) if task["do"] == "training" else (forward, given[:2])
    return duel.Work(
        lambda: jax.block_until_ready(compiled(*given)), lambda ran: _named(ran, np.asarray)
    )


def torch_cudnn(arrays: Arrays, task: Task) -> duel.Work:
    """torch.nn.LSTM and autograd, which on a GPU is cuDNN."""
    try:
        import torch
    except ImportError as error:
        raise duel.Unavailable(f"PyTorch is not here ({error})") from error
    on_gpu = task["library"] == "cupy"
    notes: dict[str, Any] = {"CUDA of PyTorch": torch.version.cuda}
    if on_gpu:
        if not (torch.cuda.is_available() and torch.backends.cudnn.is_available()):
            raise duel.Unavailable("this PyTorch has no GPU with cuDNN")
        torch.backends.cuda.matmul.allow_tf32 = task["tf32"]
        torch.backends.cudnn.allow_tf32 = task["tf32"]
        notes["cuDNN"] = torch.backends.cudnn.version()
    else:
        torch.set_num_threads(1)
    device = "cuda:0" if on_gpu else "cpu"

    def place(value: np.ndarray[Any, Any]) -> Any:  # (T, n, m) as PyTorch's (T, m, n)
        return torch.tensor(np.ascontiguousarray(value.transpose(0, 2, 1)), device=device)

    n_a, n_x = arrays["0.W_x"].shape[1:]
    layer = torch.nn.LSTM(n_x, n_a, num_layers=task["layers"])
    layer.load_state_dict(_of_torch(torch, arrays, task["layers"]))
    layer.to(device).train(task["do"] == "training")
    # As one piece, which cuDNN asks for; `to` has copied them one by one.
    layer.flatten_parameters()
    x, dy = (place(_long(arrays[name], task)) for name in ("x", "dy"))
    x.requires_grad_(task["do"] == "training")

    def forward() -> Any:
        with torch.inference_mode():
            return layer(x)[0]

    def step() -> Any:
        x.grad = None
        layer.zero_grad(set_to_none=True)
        y, _ = layer(x)
        y.backward(dy)
        return y

    def results(y: Any) -> Arrays:
        named = {"y": y}
        if task["do"] == "training":
            named["dx"] = x.grad
        own = {name: v.detach().cpu().numpy().transpose(0, 2, 1) for name, v in named.items()}
        return own | (_of_ours(layer, task["layers"]) if task["do"] == "training" else {})

    run = step if task["do"] == "training" else forward
    return duel.Work(run, results, notes, _torch_clock(torch) if on_gpu else None)


def products(arrays: Arrays, task: Task) -> duel.Work:
    """The matrix products of the step and nothing else, queued one after another.

    All input products, all of dx and all weight gradients are one product each for a layer;
    what a step needs of the one before is a product for each step. Their numbers are random,
    as the time of a product does not depend on them.
    """
    xp, _, clock, notes = _arrays(task)
    n_steps, n_x, m = arrays["x"].shape
    n_steps *= task["repeat"]
    n_a = arrays["0.W_h"].shape[1]
    rng = np.random.default_rng(1)

    def normal(*shape: int) -> Any:
        return xp.asarray(rng.standard_normal(shape, dtype=np.float32))

    jobs: list[tuple[Any, Any, Any]] = []  # left, right, result
    for layer in range(task["layers"]):
        n_in = n_x if layer == 0 else n_a
        W_x, W_h = (xp.asarray(arrays[f"{layer}.{n}"].reshape(4 * n_a, -1)) for n in ("W_x", "W_h"))
        h, dz_t = normal(n_a, m), normal(4 * n_a, m)
        z, dh = xp.empty((4 * n_a, m), np.float32), xp.empty((n_a, m), np.float32)
        columns = normal(n_in, n_steps * m)
        all_z = xp.empty((4 * n_a, n_steps * m), np.float32)
        jobs.append((W_x, columns, all_z))  # input
        jobs += [(W_h, h, z)] * n_steps  # forward
        if task["do"] == "training":
            dz = normal(4 * n_a, n_steps * m)
            both = normal(n_a + n_in, n_steps * m)
            jobs += [(W_h.T, dz_t, dh)] * n_steps  # backward
            jobs.append((W_x.T, dz, xp.empty((n_in, n_steps * m), np.float32)))  # dx
            jobs.append((dz, both.T, xp.empty((4 * n_a, n_a + n_in), np.float32)))  # dW

    def run() -> None:
        for left, right, out in jobs:
            xp.matmul(left, right, out=out)

    return duel.Work(run, lambda _: {}, notes, clock)


# --- what they share --------------------------------------------------------------------


def _arrays(task: Task) -> tuple[Any, Callable[[Any], Any], Clock | None, dict[str, Any]]:
    """Return CuPy, how to copy to the host, its clock and facts; or NumPy in its place."""
    if task["library"] == "numpy":
        return np, np.asarray, None, {}
    try:
        import cupy

        cupy.zeros(1) + 1  # without a driver, a device or its CUDA it fails here
    except Exception as error:
        said = str(error).strip().partition("\n")[0]
        raise duel.Unavailable(f"CuPy is not usable ({type(error).__name__}: {said})") from error
    properties = cupy.cuda.runtime.getDeviceProperties(0)
    notes = {
        "device": properties["name"].decode(),
        "device memory, GiB": round(properties["totalGlobalMem"] / 2**30, 1),
        "compute capability": cupy.cuda.Device(0).compute_capability,
        "CUDA that the driver takes": cupy.cuda.runtime.driverGetVersion(),
        "CUDA of CuPy": cupy.cuda.runtime.runtimeGetVersion(),
    }
    return cupy, cupy.asnumpy, _cupy_clock(cupy), notes


def _cupy_clock(cupy: Any) -> Clock:
    """Return the clock of CUDA's events: what passes on the device between two of them."""

    def times(run: Callable[[], Any], count: int) -> list[float]:
        pairs = [(cupy.cuda.Event(), cupy.cuda.Event()) for _ in range(count)]
        for begin, end in pairs:
            begin.record()
            run()
            end.record()
        pairs[-1][1].synchronize()
        return [cupy.cuda.get_elapsed_time(*pair) / 1e3 for pair in pairs]

    return times


def _torch_clock(torch: Any) -> Clock:
    """Return the same of PyTorch."""

    def times(run: Callable[[], Any], count: int) -> list[float]:
        pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
        for begin, end in pairs:
            begin.record()
            run()
            end.record()
        pairs[-1][1].synchronize()
        return [begin.elapsed_time(end) / 1e3 for begin, end in pairs]

    return times


def _layer(arrays: Arrays, task: Task) -> Any:
    import seqcore as sc

    return sc.LSTM(arrays["0.W_h"].shape[1], layers=task["layers"])


def _long(series: np.ndarray[Any, Any], task: Task) -> np.ndarray[Any, Any]:
    """Return a series as often after itself as the task says."""
    return np.tile(series, (task["repeat"], 1, 1))


def _divided(arrays: Arrays, task: Task, place: Callable[[Any], Any]) -> tuple[Any, Any, Any]:
    """Return parameters, x and dy, on the device."""
    params = {name: place(value) for name, value in arrays.items() if name not in ("x", "dy")}
    return params, *(place(_long(arrays[name], task)) for name in ("x", "dy"))


def _named(ran: tuple[Any, ...], host: Callable[[Any], Any]) -> Arrays:
    """Return y, and where there are any dx and gradients, as named arrays of the host."""
    y, *back = ran
    named = {"y": y}
    if back:
        dx, grads = back
        named |= {"dx": dx, **grads}
    return {name: host(value) for name, value in named.items()}


def _of_torch(torch: Any, arrays: Arrays, layers: int) -> dict[str, Any]:
    """Return our parameters as those of torch.nn.LSTM, whose second bias is 0."""
    state = {}
    for layer in range(layers):
        named = {"weight_ih": "W_x", "weight_hh": "W_h", "bias_ih": "b"}
        for theirs, ours in named.items():
            value = arrays[f"{layer}.{ours}"][ORDER]
            flat = value.reshape(-1) if ours == "b" else value.reshape(-1, value.shape[2])
            state[f"{theirs}_l{layer}"] = torch.tensor(flat)
        state[f"bias_hh_l{layer}"] = torch.zeros_like(state[f"bias_ih_l{layer}"])
    return state


def _of_ours(layer: Any, layers: int) -> Arrays:
    """Return the gradients of torch.nn.LSTM as ours."""
    back = np.argsort(ORDER)
    grads = {}
    for number in range(layers):
        for theirs, ours in (("weight_ih", "W_x"), ("weight_hh", "W_h"), ("bias_ih", "b")):
            grad = getattr(layer, f"{theirs}_l{number}").grad.cpu().numpy()
            width = 1 if ours == "b" else grad.shape[1]
            grads[f"{number}.{ours}"] = grad.reshape(4, -1, width)[back]
    return grads
