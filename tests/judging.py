"""What counts as equal: tolerances, errors that are noted, gradients, trees and messages."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import array_api_compat as compat
import numpy as np
from loading import Library, Place, host_copy, own_namespace

from seqcore import arrays
from seqcore.gradients.compare import compare
from seqcore.gradients.differences import Functional


def exactly(text: str) -> str:
    """Return the pattern that matches `text` and nothing else, for `pytest.raises`."""
    return f"^{re.escape(text)}$"


# --- arrays against what NumPy expects --------------------------------------------------


def tolerances(contract: dict[str, Any], variant: str, dtype: str) -> dict[str, Any]:
    """Return what each kind of test allows: a variant's own table, or else that of the dtype."""
    own = contract.get("variant", {}).get(variant, {}).get("tolerance", {})
    return dict(own.get(dtype, contract["tolerance"][dtype]))


class Errors:
    """The largest errors of a run: of the suite by kind, and of each stage."""

    def __init__(self) -> None:
        self.suite: dict[str, dict[str, dict[str, Any]]] = {}  # by dtype and kind
        self.stages: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}  # device, dtype

    def see(self, place: Place, kind: str, name: str, error: float) -> None:
        """Note the error of an array that a test compared."""
        test = os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0]
        # The judge's own tests plant errors; those are not measured.
        if test.startswith("tests/test_backends.py"):
            return
        kinds = self.suite.setdefault(place.dtype, {})
        if error >= kinds.get(kind, {"error": 0.0})["error"]:
            kinds[kind] = {"error": error, "test": test, "array": name}

    def see_stage(self, place: Place, stage: str, kind: str, seen: dict[str, float]) -> None:
        """Note the errors of a stage's arrays."""
        worst = max(seen, key=lambda name: seen[name])
        by_dtype = self.stages.setdefault(place.device, {}).setdefault(place.dtype, {})
        by_dtype[stage] = {"kind": kind, "error": seen[worst], "array": worst}

    def write(self, path: Path) -> None:
        """Write all of them to a JSON file."""
        seen = {"stages": self.stages, "suite": self.suite}
        path.write_text(json.dumps(seen, indent=1) + "\n", encoding="utf-8")


class Judge:
    """Compares arrays of one library, on one device and in one dtype, with host arrays."""

    def __init__(self, library: Library, place: Place, errors: Errors) -> None:
        self.library, self.place, self.errors = library, place, errors
        self.tolerances = tolerances(library.contract, library.variant, place.dtype)

    def tolerance(self, kind: str) -> float:
        """Return the largest relative error that a kind of test allows."""
        if kind not in self.tolerances:
            raise KeyError(f"tolerance: {kind!r} is none of {', '.join(self.tolerances)}")
        return float(self.tolerances[kind]["rtol"])

    def see_stage(self, stage: str, kind: str, seen: dict[str, float]) -> None:
        """Note the errors of a stage's arrays."""
        self.errors.see_stage(self.place, stage, kind, seen)

    def assert_close(
        self,
        actual: Any,
        expected: Any,
        *,
        kind: str,
        scale: float | None = None,
        name: str = "array",
    ) -> float:
        """Compare an array with what NumPy expects: kind of array first, then values.

        Namespace, device, shape and dtype must be the same. A floating `expected` stands for
        the dtype of the place; integers and booleans must match in dtype and be equal.

        The error of floats is max|actual - expected| / max|expected|: relative to the largest
        element, because an element that is small by cancellation carries the rounding of the
        large ones. Where `expected` is small by cancellation as a whole, `scale` gives the
        size of what was added up. With scale 0 (all expected are zero) the array must be
        zero, up to what underflows in this dtype. Infinities and NaN must stand at the same
        places. Returns the error.
        """
        xp, place, rtol = self.library.xp, self.place, self.tolerance(kind)
        host = np.asarray(expected)
        floating = np.isdtype(host.dtype, "real floating")
        if not compat.is_array_api_obj(actual):
            raise AssertionError(f"{name} is a {type(actual).__name__}, expected an array")
        seen_as = {
            "namespace": (own_namespace(actual), xp),
            "device": (compat.device(actual), self.library.devices[place.device]),
            "shape": (tuple(actual.shape), host.shape),
            "dtype": (
                actual.dtype,
                getattr(xp, place.dtype if floating else host.dtype.name),
            ),
        }
        for what, (got, wanted) in seen_as.items():
            if got != wanted:
                raise AssertionError(f"{name} has {what} {got}, expected {wanted}")

        values = host_copy(actual)
        if not floating:
            np.testing.assert_array_equal(values, host, err_msg=name)
            return 0.0
        # In float64, so that the comparison itself adds no error to a float32.
        values, host = values.astype(np.float64), host.astype(np.float64)
        finite = np.isfinite(host)
        np.testing.assert_array_equal(
            np.where(finite, 0.0, host),
            np.where(finite & np.isfinite(values), 0.0, values),
            err_msg=f"{name}: infinities and NaN",
        )
        if not finite.any():
            return 0.0
        if scale is None:
            scale = float(np.max(np.abs(host[finite])))
        errors = np.zeros_like(host)
        errors[finite] = np.abs(values[finite] - host[finite])
        worst = np.unravel_index(np.argmax(errors), errors.shape)
        error = errors[worst]
        # Below the smallest normal number a float loses digits, in any library.
        counted = max(0.0, error - float(np.finfo(place.dtype).smallest_normal))
        if scale:
            self.errors.see(place, kind, name, float(counted / scale))
        if counted > rtol * scale:
            relative = f"{error / scale:.3g}" if scale else "infinite (all expected are 0)"
            raise AssertionError(
                f"{name}: relative error {relative}, allowed {rtol:.3g} "
                f"({kind}, {place.dtype}); worst at {tuple(map(int, worst))}: "
                f"{values[worst]:.17g}, expected {host[worst]:.17g}"
            )
        return float(counted / scale) if scale else 0.0

    def close(
        self,
        got: Mapping[str, Any],
        expected: Mapping[str, Any],
        *,
        kind: str = "bptt",
        scales: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Compare arrays by name with those expected, which may be of the same library.

        `scales` are arrays whose largest entry says how large the sums were that were rounded.
        """
        assert got.keys() == expected.keys()
        for name, wanted in expected.items():
            scale = None
            if scales is not None:
                scale = float(np.max(np.abs(scales[name]), initial=0.0))
            self.assert_close(got[name], host_copy(wanted), kind=kind, scale=scale, name=name)


# --- gradients --------------------------------------------------------------------------


def check_gradients(
    loss: Callable[[dict[str, np.ndarray]], Any],
    at: dict[str, np.ndarray],
    grads: dict[str, np.ndarray],
    *,
    rtol: float = 1e-6,
) -> None:
    """Compare gradients with central differences, in float64 on NumPy.

    `loss(at)` is a float, `at` holds arrays by name, and `grads` holds dL/d of each under the
    same names. As in `assert_close` the error is relative to the largest element. A gradient
    that is 0 throughout proves nothing, so it fails.
    """
    if grads.keys() != at.keys():
        raise AssertionError(f"gradients of {sorted(grads)}, expected of {sorted(at)}")
    whole = Functional(lambda moved: [np.asarray(loss(moved))], [np.asarray(1.0)], at)
    for name, array in at.items():
        grad = grads[name]
        if grad.shape != array.shape or grad.dtype != np.float64:
            raise AssertionError(
                f"d{name} is {grad.dtype} {grad.shape}, expected float64 {array.shape}"
            )
        found = compare(
            whole, name, grad, tolerance=rtol, entries=None, rng=np.random.default_rng(0)
        )
        if found.wrong or found.skipped or found.hidden or not found.scale > 1e-4:
            raise AssertionError(
                f"d{name} is off by {found.error:.3g} where the largest is {found.scale:.3g}, "
                f"allowed {rtol:.3g} of it; {len(found.wrong)} of {found.examined} entries are "
                f"wrong, {found.skipped} at a corner and {found.hidden} hidden; the worst: "
                f"{found.wrong[:1]}"
            )


# --- trees: states, tapes, parameters ---------------------------------------------------


def leaves(tree: Any) -> list[Any]:
    """Return every array of a tree, dicts in the order of their names."""
    if isinstance(tree, dict):
        return [leaf for name in sorted(tree) for leaf in leaves(tree[name])]
    if isinstance(tree, tuple | list):
        return [leaf for branch in tree for leaf in leaves(branch)]
    return [tree] if arrays.is_array(tree) else []


def named(prefix: str, tree: Any) -> dict[str, Any]:
    """Return the arrays of a state by name: last.h, and last.1.h within a tuple."""
    if not isinstance(tree, tuple):
        return {prefix: tree}
    parts = tree._asdict().items() if hasattr(tree, "_asdict") else enumerate(tree)
    return {k: v for key, part in parts for k, v in named(f"{prefix}.{key}", part).items()}


def mapped(change: Callable[[Any], Any], tree: Any) -> Any:
    """Return the same state with every array changed."""
    if not isinstance(tree, tuple):
        return change(tree)
    parts = [mapped(change, part) for part in tree]
    return type(tree)._make(parts) if hasattr(tree, "_make") else tuple(parts)


def structure(tree: Any) -> Any:
    """Return the types of a state without its arrays, to be compared."""
    if isinstance(tree, tuple):
        return type(tree), [structure(part) for part in tree]
    return None


def frozen(array: np.ndarray) -> np.ndarray:
    """Return a copy that can't be written into."""
    array = np.array(array)
    array.flags.writeable = False
    return array


def same_bits(got: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    """Compare host arrays by name: equal in every bit that a comparison sees."""
    assert got.keys() == expected.keys()
    for name, wanted in expected.items():
        np.testing.assert_array_equal(got[name], wanted, err_msg=name)
