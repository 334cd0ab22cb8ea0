"""The pages in docs/: their examples run as they stand, and what they list is there."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import page_examples
import pytest

from seqcore.files import plain, sealed
from seqcore.files.architecture import BUILT_IN
from seqcore.layers import Recurrent

pytestmark = pytest.mark.host

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(DOCS.glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_examples_of_a_page_run_one_after_another(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where they may write
    names = {}
    for example in page_examples.examples(page):
        code = compile(example, page.name, "exec", dont_inherit=True)
        exec(code, names)  # noqa: S102 (it is our own)


def test_the_page_of_model_files_has_examples():
    assert len(page_examples.examples(DOCS / "model-files.md")) == 5


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_page_of_model_files_lists_every_option_with_its_default(name):
    page = (DOCS / "model-files.md").read_text(encoding="utf-8")
    kind = BUILT_IN[name]
    # The first row of a layer has its options; a paragraph those that several layers share.
    (row, *_) = re.findall(rf"^\| `{name}` \|.*$", page, re.MULTILINE)
    (shared,) = re.findall(r"^Options of all recurrent layers: .*?\n\n", page, re.M | re.S)
    own = set()
    if issubclass(kind, Recurrent):
        own = {field.name for field in dataclasses.fields(Recurrent)}
        assert "those of all recurrent layers" in row
    for field in dataclasses.fields(kind):
        text = f"`{field.name}`"
        if field.default is not dataclasses.MISSING:
            text += f" ({json.dumps(field.default)}"
        assert text in (shared if field.name in own else row)


def test_the_page_of_model_files_describes_the_version_that_is_written():
    page = (DOCS / "model-files.md").read_text(encoding="utf-8")
    kind = sealed.MODEL
    assert f"It describes version {kind.version} of\nthe format." in page
    for text in (f"| `{kind.key}` |", f"| `{kind.header}` | JSON", f"`{kind.version}` |"):
        assert text in page


def test_the_page_of_model_files_says_how_long_they_may_be():
    page = " ".join((DOCS / "model-files.md").read_text(encoding="utf-8").split())
    mib = 2**20
    sizes = [kind.most for kind in (sealed.MODEL, sealed.CHECKPOINT)]
    heads = [2 * most + sealed.TENSORS for most in sizes]
    one, two, three, four = (size // mib for size in (*sizes, *heads))
    assert f"at most {one} MiB (2^22 bytes) in UTF-8, {two} MiB in a checkpoint" in page
    assert f"at most {three} MiB, {four} MiB in a checkpoint" in page
    assert [size % mib for size in (*sizes, *heads)] == [0] * 4
    assert f"at most {plain.DEPTH} layers and arrays around it" in page
    assert f"JSON of more than {plain.MARKS} levels" in page
