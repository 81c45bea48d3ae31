"""Blocks: what conditioning one changes lies inside it."""

from collections.abc import Callable

import pytest

from pipeline.config import Exporter
from pipeline.contracts import OnnxModel, SourceModel
from pipeline.graph.files import load_graph
from pipeline.graph.gemms import add_missing_biases, find_gemm_groups
from pipeline.quant.condition.blocks import find_blocks

ExportEncoder = Callable[[str, Exporter], tuple[SourceModel, OnnxModel]]


@pytest.mark.parametrize("name", ["bert", "mpnet", "distilbert", "modernbert"])
def test_attention_and_feed_forward_are_a_block_each(
    name: str, export_encoder: ExportEncoder
) -> None:
    _, fp32 = export_encoder(name, Exporter.torch)
    graph = load_graph(fp32).graph
    groups = add_missing_biases(graph, find_gemm_groups(graph))
    blocks = find_blocks(graph, groups)
    assert [group for block in blocks for group in block.groups] == groups
    assert [len(block.groups) for block in blocks] == [2, 2, 2, 2]
    starts = [block.start for block in blocks]
    assert starts == sorted(set(starts))
