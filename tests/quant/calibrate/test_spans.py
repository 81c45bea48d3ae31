"""Spans: what is cut from a text, and what of it stays."""

import numpy as np
import pytest

from pipeline.quant.calibrate.spans import LONGEST, SHORTEST, cut_span, cut_spans, swap_words
from pipeline.text.tokens import TokenRow


def make_row(length: int) -> TokenRow:
    return TokenRow(ids=tuple(range(100, 100 + length)), type_ids=(0,) * (length - 1) + (1,))


@pytest.mark.parametrize("length", range(SHORTEST, 30))
def test_a_span_keeps_the_first_and_the_last_two_tokens(length: int) -> None:
    row = make_row(30)
    for seed in range(20):
        ids = cut_span(row, length, np.random.default_rng(seed)).ids
        assert len(ids) == length
        assert (ids[0], ids[-2:]) == (100, (128, 129))
        assert list(ids[1:-2]) == list(range(ids[1], ids[1] + length - 3))
        assert ids[-3] < 128


def test_every_place_is_cut() -> None:
    starts = {cut_span(make_row(9), 4, np.random.default_rng(seed)).ids[1] for seed in range(200)}
    assert starts == {101, 102, 103, 104, 105, 106}


@pytest.mark.parametrize(("length", "ends"), [(1, (100, 100)), (2, (100, 109)), (3, (100, 109))])
def test_very_short_spans_keep_the_ends(length: int, ends: tuple[int, int]) -> None:
    span = cut_span(make_row(10), length, np.random.default_rng(0))
    assert len(span.ids) == length
    assert (span.ids[0], span.ids[-1]) == ends
    assert span.type_ids[-1] == (1 if length > 1 else 0)


def test_a_span_as_long_as_the_row_is_the_row() -> None:
    assert cut_span(make_row(6), 6, np.random.default_rng(0)) == make_row(6)


def test_rows_give_their_number_of_spans_within_the_bounds() -> None:
    rows = [make_row(length) for length in (3, 4, 5, 8, 60)]
    spans = list(cut_spans(rows, 50))
    lengths = [len(span.ids) for span in spans]
    assert len(spans) == 3 * 50
    assert set(lengths[:50]) == {4}
    assert set(lengths[50:100]) == set(range(SHORTEST, 8))
    assert set(lengths[100:]) == set(range(SHORTEST, LONGEST + 1))
    assert spans == list(cut_spans(rows, 50))


def test_half_the_inner_tokens_become_others_of_the_vocabulary() -> None:
    rows = [make_row(16)] * 400
    vocabulary = np.arange(5000, 5300)
    swapped = list(swap_words(rows, vocabulary))
    ids = np.array([row.ids for row in swapped])
    assert (ids[:, [0, -2, -1]] == [100, 114, 115]).all()
    changed = ids[:, 1:-2] != np.arange(101, 114)
    assert 0.47 < changed.mean() < 0.53
    assert set(ids[:, 1:-2][changed]) == set(vocabulary.tolist())
    assert all(row.type_ids == rows[0].type_ids for row in swapped)
    assert swapped == list(swap_words(rows, vocabulary))


@pytest.mark.parametrize("length", [3, 4])
def test_of_the_shortest_rows_the_ends_stay(length: int) -> None:
    (row,) = swap_words([make_row(length)], np.array([7]))
    assert len(row.ids) == len(row.type_ids) == length
    assert (row.ids[0], row.ids[-2:]) == (100, (98 + length, 99 + length))


def test_an_empty_vocabulary_gives_nothing() -> None:
    assert list(swap_words([make_row(9)], np.empty(0, np.int64))) == []
