"""A Reshape's sizes: copied where they are its own input's, left where they are another's."""

import numpy as np
import onnx_ir as ir
import pytest

from pipeline.graph.copied_sizes import copy_sizes
from pipeline.graph.files import constant, prune

FORM = """
<ir_version: 10, opset_import: ["" : 20]>
merge (float[batch, 2, sequence, 4] heads, float[batch, sequence, 8] other) => (float[batch, sequence, 8] merged)
<int64 zero = {0}, int64 one = {1}, int64[1] axes = {0}, int64[1] width = {8}>
{
    turned = Transpose <perm = [0, 2, 1, 3]> (heads)
    shape = Shape (READ)
    rows = Gather (shape, zero)
    tokens = Gather (shape, SECOND)
    rows_1 = Unsqueeze (rows, axes)
    tokens_1 = Unsqueeze (tokens, axes)
    target = Concat <axis = 0> (rows_1, tokens_1, width)
    merged = Reshape <allowzero = ALLOW> (turned, target)
}
"""  # noqa: E501


def form(read: str = "turned", second: str = "one", allowzero: int = 0) -> ir.Model:
    text = FORM.replace("READ", read).replace("SECOND", second).replace("ALLOW", str(allowzero))
    return ir.from_onnx_text(text)


def test_sizes_of_the_input_are_copied_and_nobody_reads_its_shape() -> None:
    model = form()
    assert copy_sizes(model.graph) == 1
    prune(model)
    assert [node.op_type for node in model.graph] == ["Transpose", "Reshape"]
    sizes = constant(model.graph[1].inputs[1])
    assert sizes is not None
    np.testing.assert_array_equal(sizes, [0, 0, 8])


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(form(read="other"), id="another value's sizes"),
        pytest.param(form(second="zero"), id="another axis"),
        pytest.param(form(allowzero=1), id="0 is a size there"),
    ],
)
def test_other_sizes_stay_as_they_are(model: ir.Model) -> None:
    assert copy_sizes(model.graph) == 0
    prune(model)
    assert len(model.graph) == 8
