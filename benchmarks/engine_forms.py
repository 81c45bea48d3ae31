"""What each rewrite for engines changes in the plan: kernels and bytes a token, before and after.

``python -m benchmarks.engine_forms GRAPH.onnx …`` with graphs as cast or quantized (a run with
``optimize=false`` publishes them as ``tensorrt/model.onnx``). TensorRT-RTX builds every form on the
CPU; no GPU is needed and nothing is timed.
"""

import argparse
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from pipeline.engines.layers.records import EngineLayers
from pipeline.engines.layers.summary import bytes_per_token, summarize
from pipeline.engines.plan_of_graph import plan_of_graph
from pipeline.errors import PipelineError
from pipeline.graph.engine_forms.drop_expands import drop_expands
from pipeline.graph.engine_forms.drop_token_count import drop_token_count
from pipeline.graph.engine_forms.pack_projections import pack_projections
from pipeline.graph.engine_forms.rewrite import rewrite_for_engines
from pipeline.graph.files import prune
from pipeline.graph.fuse_pooling import drop_expanded_mask

FORMS = ("as it was", "pooling", "and packed", "and sequence first")
SHAPE = (32, 128)


def _rewrite(graph: ir.Model, form: str) -> None:
    if form == FORMS[3]:
        rewrite_for_engines(graph)
    elif form != FORMS[0]:
        drop_expanded_mask(graph.graph)
        drop_expands(graph.graph)
        drop_token_count(graph.graph)
        if form == FORMS[2]:
            pack_projections(graph.graph)
        prune(graph)


def _plan(path: Path, form: str, target: str) -> EngineLayers:
    with tempfile.TemporaryDirectory() as directory:
        graph = ir.load(path)
        ir.external_data.load_to_model(graph)
        _rewrite(graph, form)
        written = Path(directory) / "engine.onnx"
        ir.save(graph, written)
        return plan_of_graph(written, target)


def _row(form: str, plan: EngineLayers) -> list[str]:
    found = summarize(plan, 0)
    gemms = sum(found.gemms.values())
    return [
        form,
        str(found.kernels),
        "–" if found.kernels_per_block is None else f"{found.kernels_per_block:g}",
        f"{found.attention_fused} of {found.encoder_blocks}",
        f"{found.gemms_with_epilogue} of {gemms}",
        f"{bytes_per_token(plan.of_profile(0), *SHAPE):,.0f}",
    ]


def _list(plan: EngineLayers) -> str:
    lines = []
    for layer in plan.of_profile(0):
        sides = (
            " ".join(f"{tensor.type}{list(tensor.dims)}" for tensor in tensors)
            for tensors in (layer.inputs, layer.outputs)
        )
        lines.append(f"{layer.kind.value:14}{layer.name}  {' -> '.join(sides)}")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Print a table for each graph; with ``--lists`` write every plan's kernels as well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("graphs", nargs="+", type=Path, help="ONNX graphs as cast or quantized")
    parser.add_argument("--target", default="8.9", help="compute capability (default: 8.9)")
    parser.add_argument("--lists", type=Path, help="directory for the kernels of every plan")
    options = parser.parse_args(arguments)
    head = ["form", "kernels", "a block", "attention fused", "GEMMs with epilogue", "bytes a token"]
    for path in options.graphs:
        print(f"{path}, compute capability {options.target}, {SHAPE[0]} × {SHAPE[1]} tokens\n")
        print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
        for form in FORMS:
            try:
                plan = _plan(path, form, options.target)
            except (PipelineError, OSError) as error:
                print(f"error: {path}: {error}", file=sys.stderr)
                return 1
            print(f"| {' | '.join(_row(form, plan))} |", flush=True)
            if options.lists is not None:
                options.lists.mkdir(parents=True, exist_ok=True)
                name = f"{path.stem}.{form.replace(' ', '_')}.txt"
                (options.lists / name).write_text(_list(plan), "utf-8")
        print()
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    sys.exit(main(sys.argv[1:]))
