"""Text as tokens: the vocabulary, windows, and compressors beside them."""

from __future__ import annotations

import bz2
import lzma
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqcore import arrays
from seqcore.character.corpus import TextError
from seqcore.character.text import Streams, Vocabulary, compressors

host = pytest.mark.host


# --- the vocabulary ---------------------------------------------------------------------


@host
def test_the_vocabulary_spells_9999_of_10000_characters():
    plain = "a" * 99_000 + "b" * 989 + "c" * 2 + "".join(map(chr, range(0x4E00, 0x4E09)))
    vocabulary = Vocabulary.of(plain)
    assert len(plain) == 100_000
    # 99,990 are needed: a, b and one more, the c.
    assert vocabulary.characters == "abc"
    assert (vocabulary.size, vocabulary.escape) == (4, 3)
    tokens = vocabulary.encode(plain)
    assert int((tokens == vocabulary.escape).sum()) == 9


@host
def test_a_short_text_is_spelled_whole():
    plain = "hello, wörld 😀\n" * 600
    assert len(plain) < 10_000
    assert set(Vocabulary.of(plain).characters) == set(plain)


@host
def test_the_vocabulary_is_in_the_order_of_the_code_points():
    assert Vocabulary.of("cabz😀é" * 3).characters == "abczé😀"


@host
def test_ties_at_the_end_of_the_vocabulary_go_by_code_point():
    common, rare = "a" * 50_000, "zyxwvuts"  # 5 are not needed, 3 are
    plain = common + rare
    assert Vocabulary.of(plain).characters == Vocabulary.of(plain[::-1]).characters == "astu"


ANY = st.text(st.characters(exclude_categories=()))  # lone surrogates among them


@host
@given(plain=ANY, learned=ANY)
def test_tokens_are_in_range_and_round_trip(plain, learned):
    vocabulary = Vocabulary.of(learned)
    assert set(vocabulary.characters) == set(learned)
    tokens = vocabulary.encode(plain)
    assert tokens.dtype == np.int64
    assert tokens.shape == (len(plain),)
    assert all(0 <= token < vocabulary.size for token in tokens)
    known = "".join(c if c in learned else "\N{REPLACEMENT CHARACTER}" for c in plain)
    assert vocabulary.decode(tokens) == known


@host
@pytest.mark.parametrize("character", ["\ud800", "😀", "\U0010ffff", "\0", "\x85"])
def test_a_strange_character_is_one_token(character):
    vocabulary = Vocabulary.of("ab")
    assert vocabulary.encode(f"a{character}b").tolist() == [0, 2, 1]
    own = Vocabulary.of("ab" + character)
    assert own.decode(own.encode(f"a{character}b")) == f"a{character}b"


# --- windows ----------------------------------------------------------------------------


def streams(n, batch, seq_len, like=None):
    like = np.zeros(0) if like is None else like
    return Streams(np.arange(n), batch, seq_len, like)


def test_a_window_reads_each_stream_on_and_targets_are_one_ahead(asarray, to_host, xp, device):
    # 23 = 3 streams of 7 and 2 left over; 3 windows of 2.
    feed = streams(23, 3, 2, asarray(np.zeros(0)))
    assert feed.windows == 3
    for k in range(7):
        x, targets, fresh = feed(k)
        assert arrays.namespace(x) is arrays.namespace(targets) is xp
        assert arrays.device(x) == device
        index = k % 3
        begins = np.asarray([0, 7, 14]) + 2 * index
        np.testing.assert_array_equal(to_host(x), [begins, begins + 1])
        np.testing.assert_array_equal(to_host(targets), [begins + 1, begins + 2])
        assert fresh is (index == 0)


@host
@given(
    batch=st.integers(1, 4),
    seq_len=st.integers(1, 5),
    more=st.integers(0, 40),
    k=st.integers(0, 99),
)
def test_windows_continue_one_another_until_the_text_wraps(batch, seq_len, more, k):
    n = batch * (seq_len + 1) + more
    feed = streams(n, batch, seq_len)
    this, after = feed(k), feed(k + 1)
    np.testing.assert_array_equal(this.x[1:], this.targets[:-1])
    assert this.x.shape == this.targets.shape == (seq_len, batch)
    assert this.targets.max() < n
    if after.fresh:
        np.testing.assert_array_equal(after.x, feed(0).x)
        # What is left of a stream is less than a window.
        assert int(this.targets[-1, 0]) + seq_len >= n // batch
    else:
        np.testing.assert_array_equal(after.x[0], this.targets[-1])


@host
def test_the_streams_share_no_character():
    feed = streams(100, 4, 5)
    read = np.concatenate([feed(k).x for k in range(feed.windows)])
    assert len(np.unique(read)) == read.size


@host
@pytest.mark.parametrize(("batch", "seq_len"), [(1, 1), (3, 4), (1, 9)])
def test_one_window_is_enough_and_one_character_less_is_not(batch, seq_len):
    need = batch * (seq_len + 1)
    feed = streams(need, batch, seq_len)
    assert feed.windows == 1
    assert feed(0).fresh
    assert feed(1).fresh
    with pytest.raises(TextError, match=rf"has {need - 1} characters .* at least {need} = "):
        streams(need - 1, batch, seq_len)
    with pytest.raises(TextError, match="has 0 characters"):
        streams(0, batch, seq_len)


@host
def test_compressors_count_the_bits_of_a_character():
    plain = "naïve " * 500  # 6 characters, 7 bytes
    data = plain.encode()
    packed = [zlib.compress(data, 9), bz2.compress(data, 9), lzma.compress(data, preset=9)]
    bits = compressors(plain)
    assert list(bits) == ["zlib", "bz2", "lzma"]
    for value, small in zip(bits.values(), packed, strict=True):
        assert value == pytest.approx(8 * len(small) / 3_000, rel=0.1)
