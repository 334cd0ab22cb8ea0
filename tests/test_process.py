"""Settings of the whole process."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from types import ModuleType

import pytest

import seqcore as sc
from seqcore import process

pytestmark = pytest.mark.host


class Controller:
    """Stands in for that of threadpoolctl, and counts how often the process is looked through."""

    made = 0

    def __init__(self):
        Controller.made += 1

    def select(self, **_):
        return self

    def limit(self, **_):
        return nullcontext()


def test_a_blas_that_is_loaded_later_is_limited_too(monkeypatch):
    monkeypatch.setattr(process, "ThreadpoolController", Controller)
    process._blas.cache_clear()
    try:
        for _ in range(3):
            with sc.blas_threads(1):
                pass
        assert Controller.made == 1
        monkeypatch.setitem(sys.modules, "a_library_with_its_own_blas", ModuleType("later"))
        for _ in range(3):
            with sc.blas_threads(1):
                pass
        assert Controller.made == 2
    finally:
        process._blas.cache_clear()
