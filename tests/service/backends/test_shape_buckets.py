"""Shape buckets: every small batch has one that is little larger, and they are few."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from polytask.service.backends.shape_buckets import ALIGNMENT, MOST_ROWS, MOST_TOKENS, Buckets, aligned

LONGEST = st.integers(1, 600)
ROWS = st.integers(1, 4096)


@given(longest=LONGEST, most_rows=ROWS, data=st.data())
def test_a_small_batch_has_a_bucket_near(longest: int, most_rows: int, data: st.DataObject) -> None:
    """A bucket has room, is aligned unless it has the maximum length, and has less than twice the rows and a quarter more tokens."""
    buckets = Buckets.up_to(longest, most_rows)
    num_rows, length = data.draw(st.integers(1, most_rows)), data.draw(st.integers(1, longest))
    bucket = buckets.fitting(num_rows, length)
    if bucket is None:
        assert 2 * num_rows * max(length + ALIGNMENT, 1.25 * length) > MOST_TOKENS
        return
    assert num_rows <= bucket.num_rows < 2 * num_rows or bucket.num_rows == 1
    assert length <= bucket.length < max(length + ALIGNMENT, 1.25 * length)
    assert bucket.length == longest or bucket.length % ALIGNMENT == 0
    assert bucket.num_tokens <= MOST_TOKENS
    assert bucket in buckets.all


@given(longest=LONGEST, most_rows=ROWS)
def test_the_smallest_batch_of_a_bucket_goes_there(longest: int, most_rows: int) -> None:
    """A batch with one row or one token less has another bucket, so a bucket worthwhile for its smallest batch is so for all."""
    buckets = Buckets.up_to(longest, most_rows)
    for bucket in buckets.all:
        num_rows, length = buckets.smallest_batch(bucket)
        assert buckets.fitting(num_rows, length) == bucket
        assert buckets.fitting(num_rows - 1, length) != bucket or num_rows == 1
        assert buckets.fitting(num_rows, length - 1) != bucket or length == 1


def test_there_are_few() -> None:
    """Rows of up to 512 tokens, the maximum of backbones, have 140 buckets; smaller limits have fewer."""
    assert len(Buckets.up_to(512).all) == 140
    assert len(Buckets.up_to(128, 32).all) == 72
    assert not Buckets.up_to(512, MOST_ROWS, most_tokens=7).all


@given(length=st.integers(1, 500), longest=st.integers(1, 500))
def test_a_length_is_aligned_as_far_as_rows_may_go(length: int, longest: int) -> None:
    """A length is padded to the next multiple of 8, but never beyond the longest row, as there are no more positions."""
    length = min(length, longest)
    found = aligned(length, longest)
    assert length <= found <= longest
    assert found - length < ALIGNMENT
    assert found == longest or found % ALIGNMENT == 0
