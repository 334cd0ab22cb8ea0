"""`seqcore sample` and `seqcore eval`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

host = pytest.mark.host


@pytest.mark.usefixtures("run")
@host
def test_sample_goes_on_from_the_prompt(seqcore_):
    outcome = seqcore_("sample", "run", "--prompt", "the ", "--length", 30)
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.startswith("the ")
    assert len(outcome.out) == 4 + 30 + 1
    assert seqcore_("sample", "run", "--prompt", "the ", "--length", 30) == outcome
    other = seqcore_("sample", "run", "--prompt", "the ", "--length", 30, "--seed", 1)
    assert other.out != outcome.out
    cold = [
        seqcore_("sample", "run", "--temperature", 0, "--length", 30, "--seed", k) for k in (1, 2)
    ]
    assert cold[0] == cold[1]
    assert seqcore_("sample", "run", "--prompt", "\u4e00😀", "--length", 3).status == 0
    # The user's own line ends are shown; the default prompt is not the user's.
    own = seqcore_("sample", "run", "--prompt", "\n\nthe", "--length", 30)
    assert own.out.startswith("\n\nthe")
    plain = seqcore_("sample", "run", "--length", 30).out
    assert seqcore_("sample", "run", "--prompt", "\n", "--length", 30).out == "\n" + plain
    assert len(plain) == 30 + 1


@pytest.mark.usefixtures("run")
@host
def test_eval_sets_a_text_beside_the_compressors(seqcore_):
    Path("new.txt").write_text("the cat \u4e00\u4e01 sat\n" * 20, encoding="utf-8")
    outcome = seqcore_("eval", "run", "new.txt")
    assert (outcome.status, outcome.err) == (0, "")
    assert "bits per character of new.txt, 300 characters:" in outcome.out
    assert set(re.findall(r"^  (\w+) +\d+\.\d{3}$", outcome.out, re.MULTILINE)) == {
        "seqcore",
        "zlib",
        "bz2",
        "lzma",
    }
    assert "40 of its characters are outside the model's vocabulary of" in outcome.out
