"""Quantize block by block: calibrate, condition and round one before the next is looked at."""

from collections.abc import Sequence

import onnx_ir as ir

from pipeline.config import PrecisionConfig
from pipeline.graph.gemms import GemmGroup
from pipeline.progress import track
from pipeline.quant.calibrate.calibration import Calibration, observe_in_turn
from pipeline.quant.calibrate.grid import grid_of
from pipeline.quant.calibrate.statistics import Activation
from pipeline.quant.condition.blocks import find_blocks
from pipeline.quant.condition.conditioning import condition
from pipeline.quant.round.quantized import QuantizedGroup, quantize_group
from pipeline.quant.write.describe import GroupRecord, record


def quantize_blocks(
    graph: ir.Model, groups: Sequence[GemmGroup], text: Calibration, config: PrecisionConfig
) -> tuple[list[GroupRecord], list[QuantizedGroup]]:
    """Calibrate, condition and round block after block, so that one's statistics are held.

    Changes the graph's weights to the conditioned ones; returns every group, in graph order.
    """
    blocks = find_blocks(graph.graph, groups)
    starts = [block.start for block in blocks]
    tensors = [group.activation for group in groups]
    done: dict[ir.Value, tuple[GroupRecord, QuantizedGroup]] = {}
    seen = observe_in_turn(graph, starts, tensors, text, config.rounding)
    fitted: dict[str, Activation] = {}
    held: dict[str, Activation] = {}
    for block in track(blocks, "quantize blocks", total=len(blocks)):
        names = {group.name for group in block.groups}
        while not names <= fitted.keys():
            statistics = next(seen)
            fitted |= statistics.fitted
            held |= statistics.held
        order = [group.activation for group in block.groups]
        for value, item in zip(
            order, condition(graph.graph, block.groups, fitted, held, config), strict=True
        ):
            rounded = quantize_group(
                item.group,
                item.fitted,
                item.step,
                rounding=config.rounding,
                correct_bias=config.bias_correction,
                grid=grid_of(config.type),
            )
            done[value] = record(item, rounded), rounded
        for name in names:
            del fitted[name], held[name]
    found = [done[value] for value in tensors]
    return [item for item, _ in found], [group for _, group in found]
