"""`seqcore backends`."""

from __future__ import annotations

import numpy as np


def test_backends_lists_what_is_here(seqcore_, library):
    outcome = seqcore_("backends")
    assert (outcome.status, outcome.err) == (0, "")
    here, _, measured = outcome.out.partition("\n\n")
    head, *rows = here.splitlines()
    assert head.split() == ["library", "version", "devices"]
    listed = {row.split()[0]: row for row in rows}
    assert rows[0].startswith("numpy")
    assert f"numpy      {np.__version__:12} cpu (float32, float64)" == listed["numpy"]
    assert measured.startswith("Largest relative error of BPTT")
    assert [row.split()[0] for row in measured.splitlines()[3:]] == list(listed)
    for device in library.contract["devices"]:
        assert f"{device} (float32" in listed[library.name]
