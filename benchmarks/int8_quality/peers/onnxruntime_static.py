"""ONNX Runtime's ``quantize_static``: Q/DQ, symmetric int8, per-channel weights.

Options: ``method`` (MinMax, Percentile, Entropy).
"""

from pathlib import Path

import onnx
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.calibrate import create_calibrator, save_tensors_data
from onnxruntime.quantization.shape_inference import quant_pre_process

from benchmarks.int8_quality.peers.job import Job, Reader, run, unpadded_feeds


def quantize(job: Job) -> Path:
    """Quantize the MatMuls with a constant weight; their outputs stay in float.

    The calibrators stack what one ``collect_data`` gives them, which texts of several lengths do
    not allow: each length gets its own call, and no text is padded.
    """
    out = Path(job.out)
    prepared, ranges, result = out / "prepared.onnx", out / "ranges.json", out / "model.onnx"
    method = CalibrationMethod[job.options["method"]]
    quant_pre_process(job.fp32, prepared)
    names = [value.name for value in onnx.load(prepared).graph.input]
    calibrator = create_calibrator(
        prepared,
        ["MatMul"],
        augmented_model_path=str(out / "augmented.onnx"),
        calibrate_method=method,
        extra_options={"symmetric": True},
    )
    for feed in unpadded_feeds(job.calibration_ids, names):
        calibrator.collect_data(Reader([feed]))
    save_tensors_data(calibrator.compute_data(), ranges)
    quantize_static(
        prepared,
        result,
        None,
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=method,
        calibration_cache_path=ranges,
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "MatMulConstBOnly": True,
            "OpTypesToExcludeOutputQuantization": ["MatMul"],
        },
    )
    return result


if __name__ == "__main__":
    run(quantize, ["onnxruntime-gpu", "onnx"])
