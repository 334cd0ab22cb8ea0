"""Pictures: what is drawn is a PNG file, and matplotlib is imported only then."""

from __future__ import annotations

import sys

import pytest

from seqcore import plots

pytestmark = pytest.mark.host

LABELS = {"x_label": "characters", "y_label": "bits"}


def test_a_loss_curve_is_a_png_that_shows_its_curves():
    one = plots.loss_curve([1, 2], {"a": [3.0, 1.0]}, **LABELS)
    two = plots.loss_curve([1, 2], {"a": [3.0, 1.0], "b": [2.0, 2.0]}, **LABELS)
    titled = plots.loss_curve([1, 2], {"a": [3.0, 1.0]}, **LABELS, title="lstm")
    assert all(picture.startswith(b"\x89PNG\r\n\x1a\n") for picture in (one, two, titled))
    assert len({one, two, titled}) == 3


def test_without_matplotlib_it_can_be_imported_and_not_drawn(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError):
        plots.loss_curve([1, 2], {"a": [3.0, 1.0]}, **LABELS)
