"""Corpora: reading files, the order of their texts, and what is held out of them."""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

import pytest

from seqcore.character import corpus as corpora
from seqcore.character.corpus import TextError, read_corpus, read_text

host = pytest.mark.host


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# --- one file ---------------------------------------------------------------------------


@host
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\xef\xbb\xbf", "the file is empty"),  # only a byte order mark
        (b"abc\0def", "binary, byte 3 is 0"),
        ("ab".encode("utf-16"), "binary, byte 3 is 0"),
        (b"ab\xffcd", "not UTF-8, byte 2 is 0xff"),
        (b"\xef\xbb\xbfab\xffcd", "not UTF-8, byte 5 is 0xff"),
        (b"caf\xe9", "not UTF-8, byte 3 is 0xe9"),
        (b"\xed\xa0\x80", "not UTF-8, byte 0 is 0xed"),  # a surrogate
    ],
)
def test_a_file_that_is_no_text_is_refused_by_name(tmp_path, content, message):
    path = write(tmp_path / "in.txt", content)
    with pytest.raises(TextError) as error:
        read_text(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == content


@host
def test_a_file_that_cant_be_read_is_refused_by_name(tmp_path, monkeypatch):
    with pytest.raises(TextError, match=r"nowhere: no such file or folder"):
        read_text(tmp_path / "nowhere")
    with pytest.raises(TextError, match="can't be read"):
        read_text(tmp_path)  # a folder

    def refuse(_):  # as permissions do, which root has all of
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(TextError, match=r"x: can't be read \(Permission denied\)"):
        read_text("x")


@host
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\xef\xbb\xbfabc", "abc"),
        (b"a\xef\xbb\xbfb", "a\ufeffb"),  # within a text it is a character
        (b"a\r\nb\rc\nd\r\n", "a\nb\nc\nd\n"),
        (b"a\r\r\nb", "a\n\nb"),
        ("é😀\u2028".encode(), "é😀\u2028"),
        (b"\n", "\n"),
    ],
)
def test_a_text_is_read_without_its_mark_and_with_newlines(tmp_path, content, expected):
    assert read_text(write(tmp_path / "in.txt", content)) == expected


# --- the corpus -------------------------------------------------------------------------


def make_files(folder, number, length=50):
    """Files whose text names them in each character."""
    return [
        write(folder / f"{k % 3}" / f"file{k}.txt", chr(0x4E00 + k) * length) for k in range(number)
    ]


@host
@pytest.mark.parametrize("number", [3, 25])
def test_the_order_of_the_arguments_changes_nothing(tmp_path, number):
    files = make_files(tmp_path, number)
    expected = read_corpus(files)
    assert read_corpus(files[::-1]) == expected
    assert read_corpus(files[1:] + files[:1]) == expected


@host
def test_the_order_of_the_filesystem_changes_nothing(tmp_path, monkeypatch):
    make_files(tmp_path, 25)
    write(tmp_path / "runs" / "x.txt", "x")
    expected = read_corpus([tmp_path])
    plain = Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda *given: sorted(plain(*given), reverse=True))
    assert read_corpus([tmp_path]) == expected


@host
def test_where_the_folder_lies_changes_nothing(tmp_path):
    make_files(tmp_path / "one", 5)
    make_files(tmp_path / "two" / "deep", 5)
    assert read_corpus([tmp_path / "one"]) == read_corpus([tmp_path / "two" / "deep"])


@host
@pytest.mark.parametrize(("number", "held"), [(20, 1), (39, 1), (40, 2), (100, 5)])
def test_of_many_files_every_twentieth_is_held_out(tmp_path, number, held):
    make_files(tmp_path, number, length=4_100)
    corpus = read_corpus([tmp_path])
    apart = corpus.held_out.split("\n")
    assert [len(part) for part in apart] == [4_000] * held
    assert len(corpus.train.split("\n")) == number - held
    assert not set(corpus.train) & set(corpus.held_out) - {"\n"}
    assert (corpus.files, corpus.skipped) == (number, 0)


@host
@pytest.mark.parametrize("edge", [0, 1, 50])
def test_of_a_long_file_the_middle_is_held_out(tmp_path, edge):
    for number in range(20):
        write(tmp_path / f"{number}.txt", "<" * edge + "m" * 4_000 + ">" * edge)
    assert read_corpus([tmp_path]).held_out == "m" * 4_000


@host
def test_of_very_many_files_about_forty_are_held_out(tmp_path):
    make_files(tmp_path, 1_300, length=2)
    corpus = read_corpus([tmp_path])
    assert len(corpus.held_out.split("\n")) == 1_300 // 32
    assert not set(corpus.train) & set(corpus.held_out) - {"\n"}


@host
@pytest.mark.parametrize(
    ("length", "held"), [(2, 1), (19, 1), (40, 2), (1_000, 50), (2_100_000, 100_000)]
)
def test_of_a_few_files_the_end_is_held_out(tmp_path, length, held):
    plain = "".join(itertools.islice(itertools.cycle("abcdefghijklm"), length))
    corpus = read_corpus([write(tmp_path / "in.txt", plain)])
    assert len(corpus.held_out) == held
    assert corpus.train + corpus.held_out == plain


@host
def test_of_a_few_files_nothing_is_lost(tmp_path):
    make_files(tmp_path, 19)
    corpus = read_corpus([tmp_path])
    parts = (corpus.train + corpus.held_out).split("\n")
    assert sorted(parts) == sorted(chr(0x4E00 + k) * 50 for k in range(19))


@host
@pytest.mark.parametrize("number", [1, 25])
def test_any_change_of_a_text_changes_the_hash(tmp_path, number):
    files = make_files(tmp_path, number, length=100)
    seen = {read_corpus([tmp_path]).sha256}
    for k, change in enumerate([0, 50, 99]):  # the last of one file is held out
        plain = list(files[k % number].read_text("utf-8"))
        plain[change] = "!"
        files[k % number].write_text("".join(plain), "utf-8")
        seen.add(read_corpus([tmp_path]).sha256)
    files[0].write_text(files[0].read_text("utf-8") + "\n", "utf-8")
    seen.add(read_corpus([tmp_path]).sha256)
    assert len(seen) == 5


@host
def test_the_hash_tells_where_the_held_out_text_begins(tmp_path):
    # Of 25 files one is held out, of one file a twentieth.
    make_files(tmp_path / "many", 25)
    many = read_corpus([tmp_path / "many"])
    one = read_corpus([write(tmp_path / "one.txt", many.train + many.held_out)])
    assert one.train + one.held_out == many.train + many.held_out
    assert one.sha256 != many.sha256


@host
def test_what_is_no_text_in_a_folder_is_passed_over_and_counted(tmp_path):
    write(tmp_path / "a.txt", "some text")
    write(tmp_path / "deep" / "er" / "b", "more text")
    for k, content in enumerate([b"", b"\0", b"\xff", b"\xef\xbb\xbf"]):
        write(tmp_path / "deep" / f"no{k}", content)
    write(tmp_path / ".hidden", "hidden")
    write(tmp_path / ".git" / "config", "hidden")
    write(tmp_path / ".git" / "objects", b"\0")
    corpus = read_corpus([tmp_path])
    assert (corpus.files, corpus.skipped) == (2, 4)
    assert sorted((corpus.train + corpus.held_out).split("\n")) == ["more text", "some text"]


@host
def test_a_hidden_folder_is_read_where_it_is_named(tmp_path):
    write(tmp_path / ".notes" / "a.txt", "some text")
    assert read_corpus([tmp_path / ".notes"]).files == 1


@host
def test_a_run_folder_within_the_text_is_passed_over(tmp_path):
    # Else `seqcore train .` reads metrics.csv, and can't be resumed.
    write(tmp_path / "a.txt", "some text")
    expected = read_corpus([tmp_path])
    write(tmp_path / "runs" / "1" / "checkpoint.safetensors", b"\0")
    write(tmp_path / "runs" / "1" / "metrics.csv", "step\n1\n")
    assert read_corpus([tmp_path]) == expected


@host
@pytest.mark.parametrize("content", [None, b"\0\0"])
def test_a_folder_without_text_is_refused(tmp_path, content):
    if content is not None:
        write(tmp_path / "no.bin", content)
    with pytest.raises(TextError, match="there is no UTF-8 text in this folder"):
        read_corpus([tmp_path])


@host
def test_a_file_named_is_never_passed_over(tmp_path):
    with pytest.raises(TextError, match="binary"):
        read_corpus([write(tmp_path / "a", "text"), write(tmp_path / "b", b"\0")])


@host
def test_two_files_of_one_name_both_count_in_whatever_order(tmp_path, monkeypatch):
    files = [write(tmp_path / where / "x.txt", where * 20) for where in "abc"]
    corpus = read_corpus(files)
    assert corpus.files == 3
    assert sorted((corpus.train + corpus.held_out).split("\n")) == [w * 20 for w in "abc"]
    assert all(read_corpus(order) == corpus for order in itertools.permutations(files))
    # Resumed, a run names them by other paths.
    monkeypatch.chdir(tmp_path)
    assert read_corpus(["b/x.txt", "a/x.txt", "a/../c/x.txt"]) == corpus


@host
def test_a_file_named_twice_counts_once(tmp_path):
    files = make_files(tmp_path, 4)
    expected = read_corpus([tmp_path])
    assert read_corpus([tmp_path, tmp_path / "."]) == expected
    one = read_corpus([files[0], files[0], files[0]])
    assert one == read_corpus([files[0]])
    both = [read_corpus(order) for order in itertools.permutations([tmp_path, files[0], files[3]])]
    assert both.count(both[0]) == len(both)
    assert both[0].files == 4


@host
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_files_name_may_be_no_utf8(tmp_path):
    with Path(os.fsdecode(bytes(tmp_path) + b"/\xff.txt")).open("w") as file:
        file.write("some text")
    assert read_corpus([tmp_path]).files == 1


@host
def test_without_a_path_it_is_the_standard_library(monkeypatch, tmp_path):
    folder = corpora.standard_library()
    assert (folder / "os.py").is_file()
    # A small one, so that the test is quick.
    names = ["os.py", "json/decoder.py", "json/tool.py"]
    for name in [*names, "site-packages/numpy.py", "test/test_os.py", "json/tests/t.py"]:
        write(tmp_path / name, f"# {name}\n" * 9)
    write(tmp_path / "LICENSE.txt", "not source")
    monkeypatch.setattr(corpora, "standard_library", lambda: tmp_path)
    corpus = read_corpus()
    assert (corpus.files, corpus.skipped) == (3, 0)
    assert all(name in corpus.train + corpus.held_out for name in names)
    assert "not source" not in corpus.train + corpus.held_out


@host
def test_the_real_standard_library_is_large_and_always_the_same():
    corpus = read_corpus()
    assert corpus.files > 400
    assert len(corpus.train) > 5_000_000
    assert 50_000 < len(corpus.held_out) <= 4_001 * 80
    assert corpus == read_corpus()
