"""Show what would be exported: ``python -m pipeline.inspect model=…``, with the run's settings.

Resolves and exports the model (seconds for a small one), publishes nothing. Exit codes: 0 it can be
exported; 1 an error, one line on stderr.

``python -m pipeline.inspect artifacts/minilm/int8`` prints what a bundle's engines run, and those
of its other precisions. ``python -m pipeline.inspect model.onnx [8.9]`` builds a TensorRT-RTX plan
of a graph, for one compute capability or TensorRT-RTX's own targets, and lists what it would run.
"""

import logging
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import PipelineConfig
from pipeline.contracts import OnnxModel, SourceModel
from pipeline.ending import run_to_end
from pipeline.errors import BundleError, PipelineError
from pipeline.flow.compose import run_command
from pipeline.printable import print_error, printable, printable_data

log = logging.getLogger(__name__)

_LENGTHS = (32, 128)
_INT8_SCALE_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What a model is made of and what it costs.

    ``linear_gemms`` are those that int8 covers, with their number of weights; ``other_gemms``
    counts the rest: attention's own and what reads one vector a text. ``flops`` is of all matrix
    products for one text, by its length in tokens; ``bytes`` is of ``model.onnx``, by precision:
    of fp32 as exported, of others estimated.
    """

    source: SourceModel
    own_max_length: int | None
    modules: Sequence[str]
    parameters: int
    linear_gemms: Mapping[str, int]
    other_gemms: int
    flops: Mapping[int, int]
    bytes: Mapping[str, int]


def inspect(config: PipelineConfig) -> Inspection:
    """Return what the model of the config is, and what an export of it is made of.

    Raises:
        PipelineError: the model cannot be found, or not be exported.
    """
    from pipeline.engines.torch import load_sentence_transformer
    from pipeline.stages.export import export
    from pipeline.stages.resolve import resolve
    from pipeline.text.datasets import load_dataset

    texts = load_dataset(config.dataset).calibration
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        log.info("resolve …")
        source = resolve(config.model, work / "resolve")
        log.info("export …")
        fp32 = export(source, config.exporter, texts, work / "export")
        linear, others, tables = _gemms(fp32)
        size = fp32.path.stat().st_size + _external(fp32.path)
    model = load_sentence_transformer(
        source.path,
        device="cpu",
        trust_remote_code=source.trust_remote_code,
        attention="eager",
    )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    lengths = sorted({*(n for n in _LENGTHS if n < source.max_length), source.max_length})
    return Inspection(
        source=source,
        own_max_length=model.max_seq_length,
        modules=[_describe_module(module) for module in model],
        parameters=parameters,
        linear_gemms={name: inputs * outputs for name, (inputs, outputs) in linear.items()},
        other_gemms=others,
        flops={length: _flops(model, length) for length in lengths},
        bytes=_sizes(size, linear, tables),
    )


Shapes = dict[str, tuple[int, int]]


def _gemms(model: OnnxModel) -> tuple[Shapes, int, Shapes]:
    """Return the linear GEMMs' inputs and outputs by name, how many others there are, and tables.

    Of an embedding table int8 covers: rows and channels by name.
    """
    from pipeline.graph.files import constant, load_graph
    from pipeline.graph.gemms import find_gemm_groups
    from pipeline.quant.round.tables import find_tables

    graph = load_graph(model)
    linear: Shapes = {}
    for group in find_gemm_groups(graph.graph):
        for gemm in group.gemms:
            inputs, outputs = gemm.weight.shape
            linear[gemm.name] = (inputs, outputs)
    every = sum(node.op_type in ("MatMul", "Gemm") for node in graph.graph)
    tables: Shapes = {}
    for table in find_tables(graph.graph):
        array = constant(table)
        assert array is not None
        tables[table.name or ""] = array.shape
    return linear, every - len(linear), tables


def _external(path: Path) -> int:
    data = path.with_name(f"{path.name}.data")
    return data.stat().st_size if data.exists() else 0


def _sizes(fp32: int, linear: Shapes, tables: Shapes) -> dict[str, int]:
    """Estimate: 16 bits halve everything; int8 takes a quarter of GEMMs and tables, and scales."""
    saved = sum(3 * rows * columns for rows, columns in (*linear.values(), *tables.values()))
    scaled = (*(outputs for _, outputs in linear.values()), *(rows for rows, _ in tables.values()))
    scales = _INT8_SCALE_BYTES * sum(scaled)
    return {"fp32": fp32, "fp16": fp32 // 2, "bf16": fp32 // 2, "int8": fp32 - saved + scales}


def _describe_module(module: Any) -> str:
    """Return a module's class and what decides how it computes."""
    kind = type(module).__name__
    if kind == "Transformer":
        return f"{kind} ({type(module.auto_model).__name__})"
    if kind == "Pooling":
        mode = module.pooling_mode
        return f"{kind} ({mode if isinstance(mode, str) else ' + '.join(mode)})"
    if kind == "Dense":
        activation = type(module.activation_function).__name__
        return f"{kind} ({module.in_features} to {module.out_features}, {activation})"
    return kind


def _flops(model: Any, tokens: int) -> int:
    """Count the floating-point operations of the matrix products for one text."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    ids = torch.ones((1, tokens), dtype=torch.int64)
    features = {"input_ids": ids, "attention_mask": ids}
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(features)
    return int(counter.get_total_flops())


def render(found: Inspection) -> str:
    """Return an inspection as lines of a label and what it says."""
    source = found.source
    own = found.own_max_length
    limit = "" if own in (None, source.max_length) else f" (its own limit: {own})"
    prompts = [f"{name}: {text!r}" for name, text in source.prompts.items()]
    weights = sum(found.linear_gemms.values())
    lines = {
        "model": f"{source.name}, {source.location}",
        "weights": f"sha256 {source.sha256}, {len(source.weights)} file(s)",
        "modules": " → ".join(found.modules),
        "pooling": source.pooling,
        "prompts": ", ".join(prompts) or "none",
        "default prompt": source.default_prompt or "none",
        "max length": f"{source.max_length} tokens{limit}",
        "dimension": str(source.dimension),
        "parameters": f"{found.parameters:,}",
        "model.onnx": ", ".join(
            f"{name} {size / 2**20:.1f} MiB{'' if name == 'fp32' else ' (estimated)'}"
            for name, size in found.bytes.items()
        ),
        "FLOPs a text": ", ".join(
            f"{count / 1e9:.3g} G at {tokens} tokens" for tokens, count in found.flops.items()
        ),
        "int8 GEMMs": f"{len(found.linear_gemms)}, {weights / found.parameters:.0%} of the "
        f"parameters; {found.other_gemms} other matrix products stay as they are",
    }
    width = max(map(len, lines))
    return "\n".join(f"{label.ljust(width)}  {printable(text)}" for label, text in lines.items())


def _print(config: PipelineConfig) -> int:
    print(render(inspect(config)))
    return 0


def main(arguments: Sequence[str]) -> int:
    """Inspect a bundle, graphs or the model of a config; return the exit code."""
    graphs = [name for name in arguments if name.endswith(".onnx")]
    bundle = Path(arguments[0]) if arguments else None
    if not graphs and (bundle is None or not bundle.is_dir()):
        return run_command(_print)
    return run_to_end(lambda: _show(graphs, arguments), left="nothing was built")


def _show(graphs: Sequence[str], arguments: Sequence[str]) -> int:
    others = [name for name in arguments if name not in graphs]
    try:
        print(_plans_of(graphs, others) if graphs else _engines_of(Path(arguments[0])))
    except PipelineError as error:
        print_error(error)
        return 1
    return 0


def _plans_of(graphs: Sequence[str], others: Sequence[str]) -> str:
    """Build a plan of each graph, for the compute capability in ``others`` if there is one."""
    from pipeline.engines.plan_of_graph import PROFILE, plan_of_graph
    from pipeline.report.engine_text import render_engines
    from pipeline.report.entries.engine import describe_plan

    capability = others[0] if others else None
    target = "TensorRT-RTX's own targets" if capability is None else capability
    plans = {name: plan_of_graph(Path(name), capability) for name in graphs}
    return render_engines(
        {name: describe_plan(found, (PROFILE,), target) for name, found in plans.items()}
    )


def _engines_of(bundle: Path) -> str:
    """Return what the bundle's plans run, and those of the other precisions beside it.

    Raises:
        BundleError: no report, or none that says what a plan runs.
    """
    from pipeline.report.engine_text import render_engines
    from pipeline.report.published import engines_beside, engines_of, read_report

    data = read_report(bundle)
    own = engines_of(data)
    if not own:
        raise BundleError(
            f"{bundle}: its report says of no engine what it runs; publish it again with an engine"
        )
    shown = sorted([*own, *engines_beside(bundle, data)], key=lambda plan: plan["precision"])
    shown = printable_data(shown)
    return render_engines({f"{p['precision']} {p['artifact']}": p["engine"] for p in shown})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
