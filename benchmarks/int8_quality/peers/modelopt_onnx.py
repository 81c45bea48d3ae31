"""NVIDIA ModelOpt's ONNX quantization.

Options: ``linear_only`` (quantize the MatMuls with a constant weight and nothing else),
``calibration_texts`` (about so many of them, evenly spaced), and whatever
``modelopt.onnx.quantization.quantize`` takes: ``quantize_mode`` is int8 where it is left out.
"""

from pathlib import Path

import onnx
from modelopt.onnx.quantization import quantize as modelopt_quantize

from benchmarks.int8_quality.peers.job import Job, Reader, linear_gemms, run, unpadded_feeds


def quantize(job: Job) -> Path:
    """Quantize with ModelOpt's defaults, changed by the options; no text is padded."""
    options = {"quantize_mode": "int8"} | job.options
    graph = onnx.load(job.fp32).graph
    names = [value.name for value in graph.input]
    if options.pop("linear_only", False):
        options["nodes_to_quantize"] = linear_gemms(graph)
    texts = len(job.calibration_ids)
    step = max(1, texts // options.pop("calibration_texts", texts))
    feeds = unpadded_feeds(job.calibration_ids[::step], names)
    result = Path(job.out) / "model.onnx"
    modelopt_quantize(
        job.fp32,
        calibration_data_reader=Reader(feeds),
        calibration_eps=["cpu"],
        output_path=str(result),
        **options,
    )
    return result


if __name__ == "__main__":
    run(quantize, ["nvidia-modelopt", "onnxruntime-gpu", "onnx"])
