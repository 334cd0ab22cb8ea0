"""Layers nested in one another, at random: what hypothesis draws for the laws."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from problems import KINDS, Scaled, recurrent

import seqcore as sc

size = st.integers(1, 4)


def links() -> st.SearchStrategy[Any]:
    """Return any layers that keep time, nested ones too."""
    return nested(
        st.one_of(
            st.builds(sc.Dense, size),
            st.builds(sc.Dropout, st.sampled_from([0.0, 0.3, 0.9]), seed=st.integers(0, 9)),
            st.builds(Scaled),
            st.builds(
                recurrent,
                st.sampled_from(list(KINDS)),
                size,
                layers=st.integers(1, 2),
                bidirectional=st.booleans(),
                recompute=st.sampled_from([False, 2]),
            ),
        )
    )


def nested(simple: st.SearchStrategy[Any], leaves: int = 4) -> st.SearchStrategy[Any]:
    """Return simple layers, and containers of them, of containers of them, and so on."""
    return st.recursive(
        simple,
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=3).map(lambda parts: sc.Sequential(*parts)),
            st.builds(sc.Sharded, inner, st.integers(1, 3), threads=st.just(1)),
        ),
        max_leaves=leaves,
    )
