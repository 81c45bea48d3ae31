"""Where ONNX Runtime spends its time in model.onnx: milliseconds by operator, from its own profile.

python -m benchmarks.cpu_profile artifacts/minilm/int8/model.onnx --batch 16 --sequence 128
"""

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from pipeline.engines.onnxruntime import open_session
from pipeline.text.tokens import TokenBatch

RUNS = 8


def main() -> None:
    """Run full rows of random tokens and print each operator's share."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--sequence", type=int, default=128)
    options = parser.parse_args()
    ids = np.random.default_rng(0).integers(1000, 20_000, (options.batch, options.sequence))
    batch = TokenBatch(
        input_ids=ids, attention_mask=np.ones_like(ids), token_type_ids=np.zeros_like(ids)
    )
    with tempfile.TemporaryDirectory() as directory:
        session = open_session(options.model, profile=Path(directory) / "run")
        feed = batch.feed([value.name for value in session.get_inputs()])
        for _ in range(RUNS):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
    milliseconds: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            operator = event["args"]["op_name"]
            milliseconds[operator] += event["dur"] / 1e3 / RUNS
            calls[operator] += 1
    total = sum(milliseconds.values())
    print(f"{options.batch} x {options.sequence} tokens: {total:.1f} ms in kernels, mean of {RUNS}")
    for operator, spent in milliseconds.most_common(12):
        share = 100 * spent / total
        print(f"{spent:8.2f} ms {share:5.1f} %  {calls[operator] // RUNS:3} x {operator}")


if __name__ == "__main__":
    main()
