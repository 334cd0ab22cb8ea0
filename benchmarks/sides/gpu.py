"""What sides need to run on a GPU: its arrays, its clock and its facts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from harness.side import Clock, UnavailableError


class Place(NamedTuple):
    """Where arrays live.

    Attributes
    ----------
    xp
        The library of the arrays.
    to_host
        Copies an array to NumPy.
    clock
        Times runs, None by the wall clock.
    facts
        What is known of the device, as plain values.
    """

    xp: Any
    to_host: Callable[[Any], Any]
    clock: Clock | None = None
    facts: Mapping[str, Any] = {}


HOST = Place(np, np.asarray)


def cupy() -> Place:
    """Return the GPU of CuPy."""
    try:
        import cupy

        cupy.zeros(1) + 1  # fails without a driver, a device or a CUDA that fits
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise UnavailableError(f"CuPy is not usable ({type(error).__name__}: {reason})") from error
    properties = cupy.cuda.runtime.getDeviceProperties(0)
    facts = {
        "device": properties["name"].decode(),
        "device memory, GiB": round(properties["totalGlobalMem"] / 2**30, 1),
        "compute capability": cupy.cuda.Device(0).compute_capability,
        "newest CUDA of the driver": cupy.cuda.runtime.driverGetVersion(),
        "CUDA of CuPy": cupy.cuda.runtime.runtimeGetVersion(),
    }
    event, elapsed = cupy.cuda.Event, cupy.cuda.get_elapsed_time
    return Place(cupy, cupy.asnumpy, event_clock(event, elapsed), facts)


def torch(torch: Any, *, tf32: bool) -> tuple[dict[str, Any], Clock]:
    """Set the precision of PyTorch on a GPU; return facts of its CUDA, and its clock."""
    if not (torch.cuda.is_available() and torch.backends.cudnn.is_available()):
        raise UnavailableError("this PyTorch has no GPU with cuDNN")
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    facts = {"CUDA of PyTorch": torch.version.cuda, "cuDNN": torch.backends.cudnn.version()}

    def event() -> Any:
        return torch.cuda.Event(enable_timing=True)

    return facts, event_clock(event, lambda begin, end: begin.elapsed_time(end))


def event_clock(event: Callable[[], Any], elapsed: Callable[[Any, Any], float]) -> Clock:
    """Return a clock that measures the time on the device between two CUDA events.

    Parameters
    ----------
    event
        Makes an event.
    elapsed
        Returns the milliseconds between two events.
    """

    def times(run: Callable[[], Any], count: int) -> list[float]:
        pairs = [(event(), event()) for _ in range(count)]
        for begin, end in pairs:
            begin.record()
            run()
            end.record()
        pairs[-1][1].synchronize()
        return [elapsed(begin, end) / 1e3 for begin, end in pairs]

    return times
