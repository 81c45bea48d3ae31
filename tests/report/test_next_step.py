"""next_step: what the numbers say to do first."""

import pytest
from example_report import engine, executed, failed, gpu, int8, plan, published, speedup

from pipeline.measure.speed.intervals import Speedup
from pipeline.report.next_step import next_step, verdict, worth

WAITING = " Measure tensorrt_rtx on the machine that will serve it."


def test_fast_artifact_is_deployed_and_the_plan_measured() -> None:
    words = "Deploy model.onnx: 2.17× the speed of PyTorch fp32 on cpu."
    assert next_step(int8()) == words + WAITING


def test_fastest_of_several() -> None:
    assert next_step(gpu()).startswith("Deploy engines/tensorrt-11.4-sm_90/model.plan: 7.40×")


@pytest.mark.parametrize(
    ("ends", "words"), [((0.8, 0.7, 0.9), "slower than"), ((1.0, 0.9, 1.1), "no faster than")]
)
def test_nothing_gained(ends: tuple[float, float, float], words: str) -> None:
    data = int8()
    data["artifacts"][0]["throughput"]["speedup"] = speedup(*ends)
    first = f"Keep PyTorch fp32 on this machine: model.onnx is {words} it."
    assert next_step(data) == first + WAITING


def test_faster_and_closer_bundle_beside() -> None:
    data = int8() | {"published": [published("fp16", 3.0)]}
    assert next_step(data).startswith("Deploy fp16, which is published beside this one")


@pytest.mark.parametrize(
    "entry",
    [
        published("fp16", 3.0, comparable=False, reason="another machine"),
        published("fp16", 3.0, cosine_mean=0.9),
        published("fp16", 2.3),
    ],
    ids=["incomparable", "worse", "interval overlaps"],
)
def test_bundle_beside_that_is_not_better(entry: dict[str, object]) -> None:
    assert next_step(int8() | {"published": [entry]}).startswith("Deploy model.onnx")


def test_fp8_is_held_against_int8() -> None:
    ours = int8() | {"precision": "fp8"}
    assert "see what precision=int8 keeps before you deploy fp8" in next_step(ours)
    better = ours | {"published": [published("int8", 2.0, cosine_mean=0.9999)]}
    mean = ours["artifacts"][0]["agreement"]["cosine"]["mean"]
    assert f"keeps more: mean cosine 0.99990 for {mean:.5f}" in next_step(better)
    worse = ours | {"published": [published("int8", 2.0, cosine_mean=0.9)]}
    assert "int8" not in next_step(worse)
    assert "E4M3" not in next_step(int8())


def test_failed_gate_names_the_setting() -> None:
    assert next_step(failed()) == (
        "onnxruntime failed cosine.mean: try precision=int8_max or precision=fp16, or text like "
        "yours (dataset=…); or change validate.gates.cosine_mean.int8 if this is enough for you."
    )


def test_failed_fp32_and_failed_speed() -> None:
    assert "exporter=optimum" in next_step(failed() | {"precision": "fp32"})
    data = failed()
    data["artifacts"][0]["gates"][0]["name"] = "speed"
    assert "publish a faster precision" in next_step(data)


def test_worse_than_what_is_published() -> None:
    data = failed()
    data["artifacts"][0]["gates"][0]["relative_to"] = "published"
    assert "cosine.mean: keep the published bundle, which is better in this" in next_step(data)


def test_nothing_measured() -> None:
    assert next_step(int8() | {"artifacts": [plan()]}) == f"Nothing was measured.{WAITING}"


def test_worth_of_a_gain() -> None:
    artifact = executed()
    artifact["tasks"]["sample"] |= {"delta": 1.2, "ci95": [0.3, 2.0]}
    assert "(a gain: +1.20; 95 %: +0.30 to +2.00)" in worth(artifact)


def test_a_wide_interval_carries_its_lower_end_only() -> None:
    data = int8()
    data["artifacts"][0]["throughput"]["speedup"] |= {"median": 8.5, "ci95": [1.7, 19.0]}
    assert "model.onnx: at least 1.70× (measure again on a quieter machine)" in next_step(data)


def test_of_two_runtimes_of_one_file_the_faster_is_named() -> None:
    data = int8()
    data["artifacts"].append(executed(speed=3.0) | {"name": "openvino"})
    assert next_step(data).startswith("Deploy model.onnx in openvino: 3.00× the speed")


@pytest.mark.parametrize("ends", [(0.993, 0.995), (1.005, 1.008)])
def test_one_interval_has_one_verdict(ends: tuple[float, float]) -> None:
    """All of it beside 1, but by less than the margin: no difference, wherever it is told."""
    measured = Speedup(median=sum(ends) / 2, ci95=ends)
    entry = {"median": measured.median, "ci95": list(ends), "verdict": measured.verdict}
    assert verdict(entry) == measured.verdict == "no difference"
    data = int8()
    data["artifacts"][0]["throughput"]["speedup"] = entry
    assert "model.onnx is no faster than it" in next_step(data)


def test_vectors_that_are_none_point_at_the_precision() -> None:
    data = failed()
    data["artifacts"][0]["gates"][0]["name"] = "vectors.finite"
    assert "precision=fp16, since something overflows" in next_step(data)


def beside(l4_ms: float) -> dict[str, object]:
    """An int8 report with a plan, and an fp16 plan beside it that takes so long on an L4."""
    data = int8()
    data["artifacts"][1]["engine"] = engine()
    found = engine("fp16", l4_ms=l4_ms, bytes_per_token=156_719)
    data["engines_beside"] = [
        {"precision": "fp16", "artifact": "tensorrt_rtx", "engine": found},
    ]
    return data


def test_prediction_says_where_fp16_is_the_faster_engine() -> None:
    assert next_step(beside(2.27)).endswith(
        f"{WAITING} By prediction fp16 is the faster engine at 32 × 128 on L4 (L4: 2.27 ms against "
        "2.52 ms; int8 moves 1.11 times its bytes): deploy fp16 there, or set "
        "precision.engine_aware."
    )


def test_prediction_says_nothing_where_int8_is_as_fast() -> None:
    assert next_step(beside(2.52)).endswith(WAITING)


def test_a_plan_that_contradicts_its_label() -> None:
    data = failed()
    data["artifacts"][0]["gates"] = [
        {
            "name": "plan.int8_gemms",
            "passed": False,
            "relative_to": None,
            "detail": "query computes in fp16 (node_MatMul_46_myl0_2)",
            "setting": "validate.gates.plan.int8_gemms",
        }
    ]
    assert next_step(data).startswith(
        "onnxruntime failed plan.int8_gemms: its plan does not run what int8 says (query computes "
        "in fp16 (node_MatMul_46_myl0_2)); publish with engine=onnxruntime"
    )


def test_a_gpu_that_nothing_ran_on_is_said_first() -> None:
    data = int8()
    data["reference"] |= {"device": "cuda"}
    first = "Nothing of this bundle ran on the GPU of this machine (onnxruntime ran on the CPU). "
    assert next_step(data).startswith(f"{first}Deploy model.onnx")
    data["artifacts"][0]["throughput"]["speedup"] = speedup(0.29, 0.28, 0.3)
    assert next_step(data).startswith(f"{first}Keep PyTorch fp32 on this machine")
    data["artifacts"][0]["device"] = "cuda"
    assert next_step(data).startswith("Keep PyTorch fp32")


def test_a_gpu_that_pytorch_did_not_use_counts_too() -> None:
    data = int8()
    data["environment"] |= {"gpu": {"name": "H200"}}
    assert next_step(data).startswith("Nothing of this bundle ran on the GPU of this machine")


def test_what_did_run_on_the_gpu_is_named() -> None:
    data = int8()
    data["reference"] |= {"device": "cuda"}
    data["published"] = [published("fp16", 5.2) | {"device": "cuda"}, published("fp32", 2.0)]
    assert next_step(data).startswith(
        "Nothing of this bundle ran on the GPU of this machine (onnxruntime ran on the CPU); fp16, "
        "published beside it, did. "
    )


def test_what_ran_on_another_device_is_not_better_by_its_ratio() -> None:
    """Each is a ratio to PyTorch on its own device."""
    data = int8()
    better = published("fp16", 9.0) | {"cosine_mean": 0.99999, "device": "cuda"}
    data["published"] = [better | {"comparable": True, "ci95": [8.5, 9.5]}]
    assert "Deploy model.onnx" in next_step(data)
    data["published"][0]["device"] = data["artifacts"][0]["device"]
    assert "Deploy fp16, which is published beside this one" in next_step(data)


def test_the_fastest_is_that_with_most_sentences_not_with_the_best_ratio() -> None:
    data = int8()
    slow, fast = executed("onnxruntime", "cpu", speed=5.0), executed("tensorrt", "cuda", speed=2.0)
    fast["throughput"]["sentences_per_second"] = 9000.0
    data["artifacts"] = [slow, fast]
    assert f"Deploy {fast['file']}: " in next_step(data)
    assert "PyTorch fp32 on cuda" in next_step(data)
