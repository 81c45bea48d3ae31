import numpy as np
import pytest

from pipeline.measure.quality.breakdown import Text, break_down, loss_histogram


def texts(*tokens: int, kinds: str = "") -> list[Text]:
    return [
        Text(text=f"text {i}", tokens=n, kind=kinds[i] if kinds else None)
        for i, n in enumerate(tokens)
    ]


def test_lengths_fall_into_doubling_buckets_and_empty_ones_are_left_out() -> None:
    lengths = (1, 16, 17, 32, 129, 250, 256)
    cosines = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3])
    found = break_down(cosines, texts(*lengths), max_length=256, worst=0)
    assert [(bucket, group.n) for bucket, group in found.by_length] == [
        ((1, 16), 2),
        ((17, 32), 2),
        ((129, 256), 3),
    ]
    first = found.by_length[0][1]
    assert (first.mean, first.min) == pytest.approx((0.85, 0.8))


@pytest.mark.parametrize(
    ("max_length", "last"), [(200, (129, 200)), (512, (129, 256)), (129, (129, 129))]
)
def test_the_last_bucket_ends_at_the_longest_text_possible(
    max_length: int, last: tuple[int, int]
) -> None:
    found = break_down(np.ones(1), texts(129), max_length=max_length, worst=0)
    assert [bucket for bucket, _ in found.by_length] == [last]


def test_kinds_are_ordered_by_their_mean_and_texts_without_one_left_out() -> None:
    cosines = np.array([0.99, 0.5, 0.97, 0.1, 0.95])
    some = texts(5, 5, 5, 5, 5, kinds="abac-")
    some[3] = Text(text="no kind", tokens=5, kind=None)
    found = break_down(cosines, some, max_length=16, worst=0)
    assert [(kind, group.n) for kind, group in found.by_kind] == [("b", 1), ("-", 1), ("a", 2)]
    assert found.by_kind[2][1].mean == pytest.approx(0.98)
    assert found.by_kind[2][1].min == 0.97
    assert break_down(cosines, texts(5, 5, 5, 5, 5), max_length=16, worst=0).by_kind == ()


@pytest.mark.parametrize(("n", "known"), [(99, False), (100, True)])
def test_a_group_s_p1_needs_a_hundred_texts(n: int, known: bool) -> None:
    cosines = np.linspace(0.9, 1, n)
    found = break_down(cosines, texts(*[5] * n, kinds="k" * n), max_length=16, worst=0)
    expected = pytest.approx(np.quantile(cosines, 0.01)) if known else None
    assert found.by_length[0][1].p1 == expected
    assert found.by_kind[0][1].p1 == expected


def test_the_worst_texts_come_lowest_first_and_cut() -> None:
    some = texts(5, 6, 7, 8, kinds="abcd")
    some[2] = Text(text="x" * 300, tokens=7, kind="c")
    found = break_down(np.array([0.9, 0.2, 0.1, 0.2]), some, max_length=16, worst=3)
    assert [(text.text[:6], text.tokens, text.kind, cosine) for text, cosine in found.worst] == [
        ("xxxxxx", 7, "c", 0.1),
        ("text 1", 6, "b", 0.2),
        ("text 3", 8, "d", 0.2),
    ]
    assert len(found.worst[0][0].text) == 200


@pytest.mark.parametrize(("worst", "expected"), [(0, 0), (10, 3)])
def test_no_more_texts_are_quoted_than_asked_for_or_there(worst: int, expected: int) -> None:
    assert len(break_down(np.ones(3), texts(1, 2, 3), max_length=16, worst=worst).worst) == expected


@pytest.mark.parametrize("loss", [0.0, -1e-15, 1e-14, 2e-7, 1e-3, 0.4, 1.0, 2.0])
def test_every_loss_from_none_to_opposite_has_a_bin(loss: float) -> None:
    found = loss_histogram(np.array([1 - loss]))
    assert found.counts == (1,)
    low, high = found.edges
    assert low <= max(loss, 0) * 1.001
    assert loss <= high * 1.001
    assert high <= max(1.3 * low, 1e-8) or high == 2


def test_the_histogram_holds_every_text_and_tells_int8_from_fp16() -> None:
    random = np.random.default_rng(0)
    for scale in (1e-3, 1e-7):
        cosines = 1 - scale * np.exp(0.3 * random.normal(size=500))
        found = loss_histogram(cosines)
        assert sum(found.counts) == 500
        assert len(found.edges) == len(found.counts) + 1
        assert 5 <= len(found.counts) <= 12
        assert found.counts[0] > 0
        assert found.counts[-1] > 0
        assert list(found.edges) == sorted(found.edges)
        inside = (1 - cosines >= found.edges[2]) & (1 - cosines < found.edges[3])
        assert found.counts[2] == inside.sum()
