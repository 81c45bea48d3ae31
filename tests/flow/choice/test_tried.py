"""Which candidate wins, and what is said of the others."""

import pytest

from pipeline.flow.choice.tried import Speed, Tried, choose, is_faster, list_tried


def speed(rate: float, within: float = 0.05) -> Speed:
    data = {"measured": True, "artifact": "onnxruntime"}
    return Speed(rate=rate, low=rate / (1 + within), high=rate * (1 + within), data=data)


def tried(precision: str, rate: float, cosine_mean: float, *, failed: str | None = None) -> Tried:
    return Tried(
        precision=precision,
        cosine_mean=cosine_mean,
        speed=speed(rate),
        failed_gates=() if failed is None else (failed,),
    )


FP32 = tried("fp32", 2.0, 1.0)
INT8 = tried("int8", 4.0, 0.9995)


def words(items: list[Tried]) -> dict[str, tuple[str, str]]:
    rows = list_tried(items, choose(items))
    return {row["precision"]: (row["outcome"], row["why"]) for row in rows}


def test_the_fastest_wins_and_the_others_learn_by_how_much() -> None:
    assert words([FP32, INT8]) == {
        "fp32": ("passed", "slower than int8: 0.50 of its speed"),
        "int8": ("chosen", "the fastest that passed its gates"),
    }


def test_a_failed_gate_keeps_the_fastest_from_winning() -> None:
    fast = tried("int8", 4.0, 0.96, failed="onnxruntime: cosine.mean 0.96 < 0.99")
    assert words([FP32, fast]) == {
        "fp32": ("chosen", "the only one that passed its gates"),
        "int8": ("failed", "failed onnxruntime: cosine.mean 0.96 < 0.99"),
    }


def test_between_equals_the_closest_to_fp32_wins() -> None:
    bf16, fp16 = tried("bf16", 3.9, 0.9999), tried("fp16", 3.8, 0.99999)
    assert words([bf16, fp16, FP32]) == {
        "bf16": (
            "passed",
            "not shown to be faster than fp16 (1.03 of its speed), which is closer to fp32",
        ),
        "fp16": ("chosen", "the closest to fp32 of the fastest that passed their gates, with bf16"),
        "fp32": ("passed", "slower than fp16: 0.53 of its speed"),
    }


@pytest.mark.parametrize(
    ("within", "shown"), [(0.01, True), (0.09, True), (0.11, False), (0.5, False)]
)
def test_faster_is_what_both_intervals_together_leave_no_doubt_of(
    within: float, shown: bool
) -> None:
    """A gain of 15 % shows where the root of the squared halves is less."""
    one = Tried(precision="a", speed=speed(1.15, within))
    other = Tried(precision="b", speed=speed(1.0, within))
    assert is_faster(one, other) is shown
    assert not is_faster(other, one)


def test_what_has_no_speed_or_was_not_built_cannot_win() -> None:
    nothing = Tried(precision="fp8", built=False, missing="no CPU computes in fp8")
    unmeasured = Tried(precision="int8", cosine_mean=0.9995, missing="nothing of it ran on A10")
    assert choose([nothing, unmeasured]) is None
    assert words([nothing, unmeasured, FP32]) == {
        "fp8": ("not built", "no CPU computes in fp8"),
        "int8": ("passed", "nothing of it ran on A10"),
        "fp32": ("chosen", "the only one that passed its gates"),
    }
