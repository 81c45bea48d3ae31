"""Pool means without the mask repeated for every channel.

Sentence Transformers expands the mask to ``[batch, sequence, dim]`` before it casts, multiplies
and sums; all three broadcast, and the count of tokens is the same for every channel.
"""

import onnx_ir as ir

_BOUNDS = ("Clip", "Max")


def drop_expanded_mask(graph: ir.Graph) -> int:
    """Let the casts of an expanded ``attention_mask`` read it as it is; return how many."""
    casts = [node for node in graph if node.op_type == "Cast" and _mask(node) is not None]
    for cast in casts:
        mask = _mask(cast)
        assert mask is not None
        cast.replace_input_with(0, mask)
        cast.outputs[0].shape = mask.shape
        for use in cast.outputs[0].uses():
            if use.node.op_type == "ReduceSum":
                _narrow(use.node.outputs[0])
    return len(casts)


def _narrow(count: ir.Value) -> None:
    """Say that a count of tokens, and what only bounds it, has one channel now.

    ONNX Runtime plans buffers by the shapes in the file.
    """
    if count.shape is not None:
        count.shape = ir.Shape([*count.shape[:-1], 1])
    for use in count.uses():
        if use.node.op_type in _BOUNDS:
            _narrow(use.node.outputs[0])


def _mask(cast: ir.Node) -> ir.Value | None:
    """Return ``[batch, sequence, 1]`` behind a Cast of it expanded for pooling, or None."""
    expanded = cast.inputs[0]
    expand = expanded.producer() if expanded is not None else None
    if expand is None or expand.op_type != "Expand":
        return None
    mask = expand.inputs[0]
    unsqueeze = mask.producer() if mask is not None else None
    if unsqueeze is None or unsqueeze.op_type != "Unsqueeze":
        return None
    source = unsqueeze.inputs[0]
    pooled = all(_broadcasts(use.node) for use in cast.outputs[0].uses())
    return mask if source is not None and source.name == "attention_mask" and pooled else None


def _broadcasts(user: ir.Node) -> bool:
    """Whether a user of the mask gives the same with one channel as with all of them."""
    if user.op_type == "Mul":
        return True
    return user.op_type == "ReduceSum" and all(
        use.node.op_type in (*_BOUNDS, "Div") for use in user.outputs[0].uses()
    )
