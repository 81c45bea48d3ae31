"""Read the layers that TensorRT-RTX's builder logs at the end of a build.

With ``profiling_verbosity=DETAILED`` one VERBOSE message begins with ``Layers:`` and has a line for
every layer of every optimization profile:

    Name: …, LayerType: gemm, Inputs: [ { Name: …, Dimensions: [-1,384], Strides: [384,1],
    StrideOrder: [1,0], Datatype: Int8, Format: (Linear) … }], Constants: […], Outputs: […],
    TacticName: …, StreamId: 0, Metadata: [ONNX Layer: …][ONNX Layer: …]

Seen in 1.7.1; ``tests/engines/layers/`` keeps a log of it.
"""

import re

from pipeline.engines.layers.raw import RawLayer, RawTensor, numeric_type

HEAD = "Layers:"

_LIST = r"\[\]|\[ \{.*?\}\]"
_LAYER = re.compile(
    rf"^Name: (?P<name>.*?), LayerType: (?P<type>\w+), Inputs: (?P<inputs>{_LIST})"
    rf"(?:, Constants: (?P<constants>{_LIST}))?, Outputs: (?P<outputs>{_LIST})"
    r"(?:, TacticName: (?P<tactic>.*?))?, (?:\w+: .*?, )?StreamId: .*?Metadata: (?P<metadata>.*)$"
)
_TENSOR = re.compile(
    r"\{ Name: (?P<name>.*?), (?:Location: \w+, )?Dimensions: \[(?P<dims>[-\d,]*)\](?:, Strides: "
    r"\[(?P<strides>[-\d,]*)\])?.*?Datatype: (?P<type>\w+)"
)


def parse_rtx_layers(message: str) -> list[RawLayer]:
    """Return the layers that a ``Layers:`` message lists.

    Raises:
        ValueError: a layer's line is not of the known form.
    """
    body = message.partition(HEAD)[2].partition("\nI/O Tensors:")[0]
    return [_parse_layer(line) for line in body.splitlines() if line.startswith("Name: ")]


def _parse_layer(line: str) -> RawLayer:
    match = _LAYER.match(line)
    if match is None:
        raise ValueError(f"not a layer of a TensorRT-RTX log: {line[:200]}")
    return RawLayer(
        name=match["name"],
        layer_type=match["type"],
        inputs=_tensors(match["inputs"]),
        constants=_tensors(match["constants"] or ""),
        outputs=_tensors(match["outputs"]),
        tactic=match["tactic"] or "",
        metadata=match["metadata"],
    )


def _tensors(words: str) -> tuple[RawTensor, ...]:
    return tuple(
        RawTensor(
            name=match["name"],
            type=numeric_type(match["type"]),
            dims=_numbers(match["dims"]),
            strides=_numbers(match["strides"] or ""),
        )
        for match in _TENSOR.finditer(words)
    )


def _numbers(words: str) -> tuple[int, ...]:
    return tuple(int(word) for word in words.split(",") if word)
