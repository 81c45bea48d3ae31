"""A graph up to where the quantize stage simulates it: conditioned, rounded, no Q/DQ yet."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pipeline.config import NumericType, PrecisionConfig, Rounding
from pipeline.contracts import GRAPH_OUTPUT, OnnxModel, SourceModel
from pipeline.engines.onnxruntime import open_session
from pipeline.graph.files import load_graph, prune, save_graph
from pipeline.graph.gemms import GemmGroup, add_missing_biases, find_gemm_groups
from pipeline.graph.observe import unpadded_batches
from pipeline.quant.calibrate.attention import AttentionGemm, scale_attention
from pipeline.quant.calibrate.scales import activation_scale
from pipeline.quant.calibrate.statistics import Activation, observe
from pipeline.quant.condition.conditioning import condition
from pipeline.quant.refine.simulation import Simulation
from pipeline.quant.round.quantized import QuantizedGroup, quantize_group
from pipeline.quant.round.tables import QuantizedTable, round_tables
from pipeline.quant.write.attention import insert_attention_qdq
from pipeline.quant.write.qdq import insert_qdq
from pipeline.quant.write.tables import insert_table_dequantize
from pipeline.text.tokens import TokenBatch, Tokenizer, TokenRow
from pipeline.vectors import FloatArray


@dataclass(kw_only=True)
class Prepared:
    """Groups in int8 beside the fp32 graph that they belong to."""

    graph: ir.Model
    groups: list[QuantizedGroup]
    attention: list[AttentionGemm]
    tables: list[QuantizedTable]
    tokenizer: Tokenizer
    rows: list[TokenRow]

    @cached_property
    def simulation(self) -> Simulation:
        return Simulation(self.graph.graph, self.groups, self.attention, self.tables)

    def write(self, int8: Collection[str], path: Path) -> None:
        """Write the Q/DQ graph with those GEMMs in int8; the simulation is of no use afterwards."""
        for group in self.groups:
            insert_qdq(self.graph.graph, group, int8)
        insert_attention_qdq(self.graph.graph, self.attention)
        insert_table_dequantize(self.graph.graph, self.tables)
        prune(self.graph)
        save_graph(self.graph, path, precision=NumericType.int8, source_sha256="")


def prepare(
    fp32: OnnxModel, source: SourceModel, texts: Sequence[str], config: PrecisionConfig
) -> Prepared:
    """Condition a graph and round its weights, calibrated on ``texts``, as the stage does."""
    tokenizer = Tokenizer(source.assets, max_length=source.max_length)
    rows = tokenizer.rows(texts)
    graph = load_graph(fp32)
    groups = add_missing_biases(graph.graph, find_gemm_groups(graph.graph))
    tensors = [group.activation for group in groups]
    seen = observe(graph, tensors, unpadded_batches(tokenizer, rows))
    conditioned = condition(graph.graph, groups, seen, seen, config)
    attention = []
    if config.quantize_attention:
        attention = scale_attention(graph, unpadded_batches(tokenizer, rows))
    quantized = [
        quantize_group(
            item.group,
            item.fitted,
            item.step,
            rounding=config.rounding,
            correct_bias=config.bias_correction,
        )
        for item in conditioned
    ]
    return Prepared(
        graph=graph,
        groups=quantized,
        attention=attention,
        tables=list(round_tables(graph.graph)) if config.quantize_embeddings else [],
        tokenizer=tokenizer,
        rows=rows,
    )


def run_unoptimized(path: Path, batch: TokenBatch) -> npt.NDArray[np.float32]:
    """Return the embeddings that the graph gives, node by node as it is written."""
    session = open_session(path, optimize=False)
    names = [value.name for value in session.get_inputs()]
    embeddings: npt.NDArray[np.float32] = session.run([GRAPH_OUTPUT], batch.feed(names))[0]
    return embeddings


def insert_naive_qdq(
    graph: ir.Graph, groups: Sequence[GemmGroup], observed: Mapping[str, Activation]
) -> None:
    """Put every GEMM in int8 as it is: largest value to 127, weights to nearest."""
    for group in groups:
        seen = observed[group.name]
        naive = quantize_group(
            group, seen, activation_scale(seen), rounding=Rounding.nearest, correct_bias=False
        )
        insert_qdq(graph, naive, [gemm.name for gemm in group.gemms])


def statistics_of(tokens: FloatArray) -> Activation:
    """Return the statistics of tokens that are all in the sample."""
    return Activation(
        tokens=len(tokens),
        low=tokens.min(axis=0),
        high=tokens.max(axis=0),
        mean=tokens.mean(axis=0, dtype=np.float64),
        covariance=np.cov(tokens.T.astype(np.float64), bias=True),
        sample=tokens,
    )
