"""Export the whole Sentence Transformer, pooling and all, as one ONNX graph that is checked."""

import contextlib
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from pipeline.config import Device, Exporter, NumericType
from pipeline.contracts import GRAPH_INPUTS, GRAPH_OUTPUT, OnnxModel, SourceModel
from pipeline.engines.onnxruntime import OnnxRuntimeEncoder
from pipeline.engines.torch import TorchEncoder, load_sentence_transformer
from pipeline.errors import ExportError
from pipeline.graph.files import add_initializer, prune, save_graph
from pipeline.graph.gemms import canonicalize_gemms
from pipeline.text.source_text import open_tokenizer, tokenize
from pipeline.text.tokens import TokenBatch, TokenRow
from pipeline.vectors import row_cosines

log = logging.getLogger(__name__)

OPSET = 20
"""The first opset with Gelu as one op; ONNX Runtime and TensorRT 10.13+ read it."""

MIN_COSINE = 0.99999


def export(
    source: SourceModel, exporter: Exporter, texts: Sequence[str], out_dir: Path
) -> OnnxModel:
    """Return the fp32 graph of every module of the model, checked against PyTorch.

    ``texts`` are only used for the check: real text at varied lengths, batch sizes and paddings
    up to the model's max length.

    Raises:
        ExportError: the exporter refused a module, or the graph's embeddings differ.
    """
    out_dir.mkdir(parents=True)
    graph = _export_torch(source) if exporter is Exporter.torch else _export_optimum(source)
    _meet_contract(graph, source)
    model = save_graph(
        graph, out_dir / "model.onnx", precision=NumericType.fp32, source_sha256=source.sha256
    )
    _check(model, source, texts)
    return model


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


def _export_torch(source: SourceModel) -> ir.Model:
    """Export with torch's dynamo exporter.

    Attention runs in its eager form here: it exports as MatMul, Softmax, MatMul, which TensorRT
    and ONNX Runtime both fuse, where the scaled-dot-product form adds shape arithmetic.
    """
    model = load_sentence_transformer(
        source.path,
        device="cpu",
        trust_remote_code=source.trust_remote_code,
        attention="eager",
    )
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
        raise ExportError(_refusal("torch", source, error)) from error
    if program is None:
        raise ExportError(f"torch's exporter returned no graph for {source.path}")
    return program.model


def _export_optimum(source: SourceModel) -> ir.Model:
    """Export with optimum-onnx, then fold its Constant nodes and drop ``token_embeddings``."""
    try:
        from optimum.exporters.onnx import main_export
    except ImportError as error:
        raise ExportError(
            f"exporter=optimum: {error}; install the extra that has it (pip install -c "
            "constraints-optimum.txt -e '.[optimum]', which brings transformers 4), or set "
            "exporter=torch"
        ) from error
    from onnxscript import optimizer

    with tempfile.TemporaryDirectory() as directory:
        try:
            with _quiet():
                main_export(
                    str(source.path),
                    directory,
                    task="feature-extraction",
                    library_name="sentence_transformers",
                    opset=OPSET,
                    device="cpu",
                    dtype="fp32",
                    do_validation=False,
                    no_post_process=True,
                    local_files_only=True,
                    trust_remote_code=source.trust_remote_code,
                )
        except Exception as error:  # optimum re-raises whatever transformers raises
            raise ExportError(_refusal("optimum", source, error)) from error
        graph = ir.load(Path(directory) / "model.onnx")
        ir.external_data.load_to_model(graph)
    for output in [o for o in graph.graph.outputs if o.name != GRAPH_OUTPUT]:
        graph.graph.outputs.remove(output)
    optimizer.optimize(graph)
    return graph


def _refusal(exporter: str, source: SourceModel, error: Exception) -> str:
    other = "optimum" if exporter == "torch" else "torch"
    detail = " ".join(str(error).split())[:300]
    return (
        f"exporter={exporter} cannot export {source.location} ({' → '.join(source.modules)}): "
        f"{type(error).__name__}: {detail}; try exporter={other}"
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


def _meet_contract(graph: ir.Model, source: SourceModel) -> None:
    """Give the graph the contract's names, shapes and types; drop what the model does not use.

    Raises:
        ExportError: an input or output is missing, or of another type.
    """
    outputs = {value.name: value for value in graph.graph.outputs}
    if list(outputs) != [GRAPH_OUTPUT]:
        raise ExportError(
            f"{source.location}: graph outputs {list(outputs)}, expected [{GRAPH_OUTPUT!r}]"
        )
    # Shapes may be read off any input; reading them off input_ids frees an unused input to go.
    ids = next((value for value in graph.graph.inputs if value.name == GRAPH_INPUTS[0]), None)
    for value in list(graph.graph.inputs):
        if value.name not in GRAPH_INPUTS or value.dtype is not ir.DataType.INT64:
            raise ExportError(
                f"{source.location}: graph input {value.name} is {value.dtype}, "
                f"expected int64 among {', '.join(GRAPH_INPUTS)}"
            )
        for node, index in list(value.uses()):
            if node.op_type == "Shape" and ids is not None and value is not ids:
                node.replace_input_with(index, ids)
        value.shape = ir.Shape(["batch", "sequence"])
        value.metadata_props.clear()
    if ids is None:
        raise ExportError(f"{source.location}: the graph has no input {GRAPH_INPUTS[0]}")
    _truncate(graph.graph, source.dimension)
    canonicalize_gemms(graph.graph)
    prune(graph)
    for value in list(graph.graph.inputs):
        if not value.uses():
            graph.graph.inputs.remove(value)
    output = graph.graph.outputs[0]
    output.shape, output.dtype = ir.Shape(["batch", source.dimension]), ir.DataType.FLOAT
    graph.graph.name = source.name
    graph.producer_name = "sentence-transformer-pipeline"
    graph.producer_version = None
    graph.doc_string = None
    for node in graph.graph:
        node.metadata_props.clear()
        node.doc_string = None
    for value in graph.graph.initializers.values():
        value.metadata_props.clear()


def _truncate(graph: ir.Graph, dimension: int) -> None:
    """Keep the first channels of the embedding where the graph makes more (Matryoshka).

    As Sentence Transformers does: behind the last module, without normalizing again.
    """
    full = graph.outputs[0]
    if full.shape is None or full.shape[-1] == dimension:
        return
    bounds = [
        add_initializer(graph, f"truncate.{name}", np.array([value], np.int64))
        for name, value in (("start", 0), ("end", dimension), ("axis", 1))
    ]
    node = ir.node("Slice", [full, *bounds], name="truncate")
    cut = node.outputs[0]
    cut.type = full.type
    full.name, cut.name = f"{GRAPH_OUTPUT}.full", GRAPH_OUTPUT
    graph.append(node)
    graph.outputs[0] = cut


def _check(model: OnnxModel, source: SourceModel, texts: Sequence[str]) -> None:
    """Compare graph and PyTorch on batches that vary in length, size and padding.

    Raises:
        ExportError: a cosine below ``MIN_COSINE``, another norm, or a value that is not finite.
    """
    reference = TorchEncoder(source, device=Device.cpu)
    graph = OnnxRuntimeEncoder(model.path)
    worst, seen = 1.0, 0
    for batch in _check_batches(source, texts):
        expected, observed = reference.encode(batch), graph.encode(batch)
        if not np.isfinite(expected).all():
            raise ExportError(
                f"{source.location}: PyTorch itself returns NaN or infinite embeddings"
            )
        cosines = row_cosines(expected, observed)
        close = np.allclose(expected, observed, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
        worst, seen = min(worst, float(cosines.min())), seen + len(cosines)
        if not close or not cosines.min() >= MIN_COSINE:
            rows, width = batch.input_ids.shape
            raise ExportError(
                f"{source.location}: the exported graph disagrees with PyTorch on a batch of "
                f"{rows} × {width} tokens: cosine {cosines.min():.6f}, expected at least "
                f"{MIN_COSINE}; "
                "try the other exporter (exporter=torch | optimum)"
            )
    log.info("export agrees with PyTorch: worst cosine %.7f of %d rows", worst, seen)


def _check_batches(source: SourceModel, texts: Sequence[str]) -> Iterator[TokenBatch]:
    """Yield batches: the empty text, one alone, mixed lengths, extra padding, max length."""
    tokenizer = open_tokenizer(source)
    rows = tokenize(source, tokenizer, ["", *texts[:48]])
    full = tokenizer.rows([" ".join(texts)])
    rows_at = sorted(rows, key=lambda row: len(row.ids))
    middle: TokenRow = rows_at[len(rows_at) // 2]
    yield tokenizer.pad(rows[:1])
    yield tokenizer.pad([middle])
    yield tokenizer.pad([middle], length=source.max_length)
    yield tokenizer.pad(rows_at[:3] + rows_at[-2:])
    yield tokenizer.pad(rows[1:33])
    yield tokenizer.pad([*full, rows[0], middle])
    yield tokenizer.pad(full)
