"""ONNX Runtime's ``quantize_static``: Q/DQ, symmetric int8, per-channel weights.

Options: ``method`` (MinMax, Percentile, Entropy).
"""

from pathlib import Path

import onnx
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.calibrate import create_calibrator, save_tensors_data
from onnxruntime.quantization.shape_inference import quant_pre_process

from benchmarks.int8_quality.peers.job import Job, Reader, linear_gemms, run, unpadded_feeds


def quantize(job: Job) -> Path:
    """Quantize the MatMuls with a constant weight, for them alone; their outputs stay in float.

    The calibrators stack what one ``collect_data`` gives them, which texts of several lengths do
    not allow: each length gets its own call, and no text is padded. Symbolic shape inference is
    skipped: it does not get through this graph.
    """
    out = Path(job.out)
    prepared, ranges, result = out / "prepared.onnx", out / "ranges.json", out / "model.onnx"
    method = CalibrationMethod[job.options["method"]]
    quant_pre_process(job.fp32, prepared, skip_symbolic_shape=True)
    graph = onnx.load(prepared).graph
    names = [value.name for value in graph.input]
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
        nodes_to_quantize=linear_gemms(graph),
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=method,
        calibration_cache_path=ranges,
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "DedicatedQDQPair": True,
            "OpTypesToExcludeOutputQuantization": ["MatMul"],
        },
    )
    return result


if __name__ == "__main__":
    run(quantize, ["onnxruntime-gpu", "onnx"])
