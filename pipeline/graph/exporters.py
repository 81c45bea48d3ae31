"""Trace a Sentence Transformer into an ONNX graph, with torch's exporter or with optimum's."""

import contextlib
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from pipeline.config import Exporter
from pipeline.contracts import GRAPH_INPUTS, GRAPH_OUTPUT, SourceModel
from pipeline.engines.torch import encoder_name, load_sentence_transformer
from pipeline.errors import ExportError
from pipeline.graph.copied_sizes import copy_sizes
from pipeline.graph.files import prune

OPSET = 20
"""The first opset with Gelu as one op; ONNX Runtime and TensorRT 10.13+ read it."""

_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def trace(source: SourceModel, exporter: Exporter) -> ir.Model:
    """Return the graph of all modules as the exporter makes it, its output named by the contract.

    Raises:
        ExportError: the exporter is not installed, or refused a module.
    """
    return _export_torch(source) if exporter is Exporter.torch else _export_optimum(source)


class _Wrapper(torch.nn.Module):
    """The module chain of a Sentence Transformer as a function of tensors."""

    def __init__(self, chain: Sequence[torch.nn.Module], names: Sequence[str]) -> None:
        super().__init__()
        self.chain = torch.nn.ModuleList(chain)
        self.names = tuple(names)

    def forward(self, *arrays: torch.Tensor) -> torch.Tensor:
        features = dict(zip(self.names, arrays, strict=True))
        for module in self.chain:
            features = module(features)
        return features[GRAPH_OUTPUT]


def _load_eager(source: SourceModel) -> Any:
    """Load the model with attention in its eager form.

    It exports as MatMul, Softmax, MatMul, which TensorRT and ONNX Runtime both fuse, where the
    scaled-dot-product form adds shape arithmetic.
    """
    return load_sentence_transformer(
        source.path,
        device="cpu",
        trust_remote_code=source.trust_remote_code,
        attention="eager",
    )


def _export_torch(source: SourceModel) -> ir.Model:
    """Export with torch's dynamo exporter."""
    model = _load_eager(source)
    tokens = model.tokenizer(["a first sentence", "another, longer than that"], padding=True)
    names = [name for name in GRAPH_INPUTS if name in tokens]
    arrays = tuple(torch.tensor(tokens[name]) for name in names)
    dynamic = ({0: "batch", 1: "sequence"},) * len(names)
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                _Wrapper(list(model), names),
                arrays,
                dynamo=True,
                dynamic_shapes=(dynamic,),
                input_names=names,
                output_names=[GRAPH_OUTPUT],
                opset_version=OPSET,
                verbose=False,
            )
    except Exception as error:  # whatever the model's own code raises under tracing
        raise ExportError(_refusal("torch", source, error, encoder_name(model))) from error
    if program is None:
        raise ExportError(f"torch's exporter returned no graph for {source.path}")
    return program.model


def _export_optimum(source: SourceModel) -> ir.Model:
    """Export with optimum-onnx, then fold its Constant nodes and drop ``token_embeddings``."""
    try:
        from optimum.exporters.onnx import onnx_export_from_model
    except ImportError as error:
        raise ExportError(
            f"exporter=optimum: {error}; install the extra that has it (pip install -c "
            "constraints-optimum.txt -e '.[optimum]', which brings transformers 4), or set "
            "exporter=torch"
        ) from error
    from onnx_ir.passes.common import ShapeInferencePass
    from onnxscript import optimizer

    model = _load_eager(source)
    with tempfile.TemporaryDirectory() as directory:
        try:
            with _quiet():
                onnx_export_from_model(
                    model,
                    directory,
                    task="feature-extraction",
                    opset=OPSET,
                    device="cpu",
                    do_validation=False,
                    no_post_process=True,
                )
        except Exception as error:  # optimum re-raises whatever transformers raises
            raise ExportError(_refusal("optimum", source, error)) from error
        graph = ir.load(Path(directory) / "model.onnx")
        ir.external_data.load_to_model(graph)
    for output in [o for o in graph.graph.outputs if o.name != GRAPH_OUTPUT]:
        graph.graph.outputs.remove(output)
    optimizer.optimize(graph)
    ShapeInferencePass(data_prop=True)(graph)  # heads' sizes stand behind shape arithmetic
    if copy_sizes(graph.graph):
        prune(graph)
    return graph


def _refusal(
    exporter: str, source: SourceModel, error: Exception, encoder: str | None = None
) -> str:
    other = "optimum" if exporter == "torch" else "torch"
    cause: BaseException = error
    while cause.__cause__ is not None:  # torch wraps what happened in steps and advice
        cause = cause.__cause__
    detail = " ".join(_ANSI.sub("", str(cause)).split())[:300]
    modules = source.modules if encoder is None else (encoder, *source.modules[1:])
    return (
        f"exporter={exporter} cannot export {source.location} ({' → '.join(modules)}): "
        f"{type(cause).__name__}: {detail}; try exporter={other}"
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters' notes to their own developers; errors still raise."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(), Path(os.devnull).open("w") as sink:
        warnings.simplefilter("ignore")
        try:
            with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
                yield
        finally:
            logging.disable(level)
