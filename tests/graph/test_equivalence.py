"""Which texts two graphs are compared on."""

from collections.abc import Sequence
from typing import Any, cast

import pytest

from pipeline.graph.equivalence import probe
from pipeline.text.tokens import Tokenizer, TokenRow


class _Lengths:
    """Stands in for a tokenizer: what it is asked to pad, as lengths."""

    def pad(self, rows: Sequence[TokenRow]) -> list[int]:
        return [len(row.ids) for row in rows]


def _probed(lengths: Sequence[int]) -> list[int]:
    rows = [TokenRow(ids=(1,) * length, type_ids=(0,) * length) for length in lengths]
    return cast("list[int]", probe(cast(Tokenizer, _Lengths()), rows))


def test_the_probe_spans_short_to_long_but_not_the_one_text_that_would_pad_all_others() -> None:
    lengths = [*range(100, 3, -1), 5000]
    probed: Any = _probed(lengths)
    assert len(probed) == 8
    assert probed[0] == min(lengths)
    assert 90 < probed[-1] <= 100
    assert probed == sorted(set(probed))


@pytest.mark.parametrize("count", [1, 2, 7, 8])
def test_of_few_texts_none_is_taken_twice(count: int) -> None:
    probed = _probed(range(4, 4 + count))
    assert probed == sorted(set(probed))
    assert 1 <= len(probed) <= count
