"""Plots: which points there are, and where their labels go."""

import re

import pytest
from example_report import fp32, gpu, int8

from pipeline.report.plots.distributions import differences, histogram, ranges
from pipeline.report.plots.labels import place
from pipeline.report.plots.tradeoff import report_points
from pipeline.report.plots.tradeoff_plot import draw_tradeoff

FRAME = (0.0, 0.0, 300.0, 200.0)


def test_points_of_a_report() -> None:
    points = {point.label: point for point in report_points(int8())}
    assert list(points) == ["PyTorch fp32", "int8", "fp32", "fp16", "onnxruntime_fp32"]
    reference, own, baseline = (points[n] for n in ("PyTorch fp32", "int8", "onnxruntime_fp32"))
    assert (reference.speedup, reference.cosine, reference.task) == (1.0, 1.0, 87.89)
    assert own.task_ends == pytest.approx((87.47, 88.47))
    assert own.cosine_ends == (0.999519, 0.999549)
    assert (baseline.speedup, baseline.cosine, baseline.task) == (1.21, None, None)


def test_artifacts_are_named_where_there_are_several() -> None:
    labels = [point.label for point in report_points(gpu())]
    assert labels[1:4] == ["int8 onnxruntime", "int8 tensorrt", "int8 tensorrt_rtx"]
    assert "fp16 tensorrt" in labels


def test_another_task_has_no_place_on_the_axis() -> None:
    data = int8()
    data["published"][0]["task"] |= {"metric": "spearman"}
    points = {point.label: point for point in report_points(data)}
    assert points["fp32"].task is None
    assert points["fp16"].task == 87.89


@pytest.mark.parametrize(
    ("speed", "ticks"),
    [(2.0, ["0.7", "1", "1.5", "2"]), (9.0, ["1", "2", "4", "8"]), (60.0, ["1", "4", "16", "64"])],
)
def test_speeds_on_the_axis_are_few(speed: float, ticks: list[str]) -> None:
    data = int8() | {"published": [], "baselines": []}
    data["artifacts"][0]["throughput"]["speedup"] |= {"median": speed, "ci95": [speed, speed]}
    svg = draw_tradeoff(report_points(data), "cosine", "cosine", "x")
    assert re.findall(r">([0-9.]+)×<", svg) == ticks


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def test_labels_cover_neither_each_other_nor_what_is_taken() -> None:
    anchors = [(100.0, 100.0), (112.0, 100.0), (124.0, 100.0), (290.0, 100.0)]
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in anchors]
    boxes = place(anchors, [(60.0, 12.0)] * 4, taken, FRAME)
    for i, box in enumerate(boxes):
        assert box[0] >= 0
        assert box[2] <= 300
        assert not any(overlap(box, other) for other in [*taken, *boxes[:i]])


@pytest.mark.parametrize("gap", [0.0, 3.0, 8.0])
def test_labels_of_points_in_one_place_cover_nothing(gap: float) -> None:
    anchors = [(100.0 + gap * i, 100.0) for i in range(7)]
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in anchors] + [(128.0, 0.0, 130.0, 200.0)]
    boxes = place(anchors, [(120.0, 12.0)] * 7, taken, FRAME)
    for i, box in enumerate(boxes):
        assert box[0] >= 0
        assert box[2] <= 300
        assert not any(overlap(box, other) for other in [*taken, *boxes[:i]])


def test_a_label_is_nearest_to_what_it_names() -> None:
    anchors = [(100.0, 100.0), (120.0, 100.0)]
    for (x, y), box in zip(anchors, place(anchors, [(60.0, 12.0)] * 2, [], FRAME), strict=True):
        (other,) = {100.0, 120.0} - {x}
        assert max(box[0] - x, x - box[2], 0) <= max(box[0] - other, other - box[2], 0), y


def test_equal_vectors_are_drawn_as_equal() -> None:
    svg = draw_tradeoff(report_points(fp32()), "cosine", "cosine", "x")
    assert ">1.00000<" in svg
    assert "0.999999" not in svg


def test_histogram_says_how_many_lost_how_much() -> None:
    svg = histogram({"edges": [0.0, 1e-4, 3.162e-4, 1.0], "counts": [3, 0, 4]}, "x")
    assert "1 − cosine. 0 to 1.0e-4: 3; 3.2e-4 to 1.0: 4." in svg
    assert [f">{edge}<" in svg for edge in ("0", "1.0e-4", "3.2e-4", "1.0")] == [True] * 4


def test_long_names_are_inside_the_figure() -> None:
    name = "a kind of text with a long name"
    svg = ranges([{"mean": 0.9995, "min": 0.99}], [name], "Kinds", "x")
    (end,) = re.findall(rf'text-anchor: end[^>]* x="([0-9.]+)"[^>]*>{name}<', svg)
    assert float(end) > 0.5 * 11.5 * len(name)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("k" * 10_000, "kkkkkkkkkkkkkkk…kkkkkkkkkkkkkkk"),
        ("from $5 to $x_{", "from $5 to $x_{"),
        ("日本語の種類", "日本語の種類"),
        ("a\x1b[2J\x00\nb", r"a\x1b[2J\x00\nb"),
        ("\u202eabc", r"\u202eabc"),
        ("<b>&", "&lt;b&gt;&amp;"),
    ],
)
def test_whatever_a_column_calls_its_kinds(name: str, shown: str) -> None:
    """No formula, no warning of a glyph that is not there, and room left for what is drawn."""
    rows = [{"mean": 0.9995, "min": 0.99}]
    assert f">{shown}<" in ranges(rows, [name], "Kinds", "x")
    assert f">{shown}<" in differences([(name, -1.0, (-2.0, -0.5))], "x")


def test_a_loss_beyond_doubt_is_in_another_colour() -> None:
    svg = differences([("a", -1.0, (-2.0, -0.5)), ("b", 0.1, (-0.2, 0.4))], "x")
    assert "var(--bad)" in svg
    assert "var(--bad)" not in differences([("b", 0.1, (-0.2, 0.4))], "x")
