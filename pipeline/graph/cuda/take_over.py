"""Put a fused operator's output in the place of what it was fused from."""

import onnx_ir as ir


def take_over(old: ir.Value, new: ir.Value) -> None:
    """Let ``new`` have the name, type, shape and users of ``old``, and be an output where it is."""
    new.type, new.shape = old.type, old.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    new.name, old.name = old.name, f"{old.name}.unfused"
