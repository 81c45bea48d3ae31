"""Read the layers that TensorRT's engine inspector gives as JSON, of 10.13 and of 11.

``{"Layers": [{"Name", "LayerType", "Inputs", "Constants", "Outputs", "TacticName", "Metadata"}]}``
with tensors of ``Name``, ``Dimensions`` and, in 10, ``Format/Datatype``; 11 splits that field in
``Format`` and ``Datatype`` and turns ``Bindings`` into ``I/O Tensors`` (the migration guide from
10 to 11, "Migrating IEngineInspector Usage"). ``Constants`` may be missing, ``Metadata`` joins
ONNX nodes with a control character.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.engines.layers.raw import RawLayer, RawTensor, numeric_type

_TYPE_KEYS = ("Datatype", "DataType", "Format/Datatype", "Format")


def parse_inspector(text: str) -> list[RawLayer]:
    """Return the layers of an inspector's JSON.

    Raises:
        ValueError: no JSON, or no layers with their tensors (profiling_verbosity was not DETAILED).
    """
    try:
        layers = json.loads(text)["Layers"]
        return [_layer(layer) for layer in layers]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"not an engine inspector's layers in detail ({type(error).__name__}: {error}): "
            f"{text[:100]}"
        ) from error


def _layer(layer: Mapping[str, Any]) -> RawLayer:
    return RawLayer(
        name=str(layer["Name"]),
        layer_type=str(layer["LayerType"]),
        inputs=_tensors(layer["Inputs"]),
        constants=_tensors(layer.get("Constants", [])),
        outputs=_tensors(layer["Outputs"]),
        tactic=str(layer.get("TacticName", "")),
        metadata=str(layer.get("Metadata", "")),
    )


def _tensors(tensors: Sequence[Mapping[str, Any]]) -> tuple[RawTensor, ...]:
    return tuple(
        RawTensor(
            name=str(tensor["Name"]),
            type=numeric_type(next(str(tensor[key]) for key in _TYPE_KEYS if key in tensor)),
            dims=tuple(int(size) for size in tensor["Dimensions"]),
            strides=tuple(int(size) for size in tensor.get("Strides", [])),
        )
        for tensor in tensors
    )
