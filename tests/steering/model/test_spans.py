"""Spans: what lies in one of some ranges, the same as looking at each."""

from hypothesis import given
from hypothesis import strategies as st

from steering.model.spans import Spans

some = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=8)


@given(some, st.integers(-1, 31), st.integers(0, 10))
def test_spans_agree_with_looking_at_each_range(ranges, at, length):
    assert (at in Spans(ranges)) == any(a <= at < b for a, b in ranges)
    there = any(a <= i < b for a, b in ranges for i in range(at, at + length))
    assert Spans(ranges).overlap(at, at + length) == there
