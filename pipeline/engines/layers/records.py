"""Keep the kernels of a plan as records, and write their file: ``layers.json``."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import prod
from pathlib import Path

import cattrs

SCHEMA = 1

ITEM_BYTES: Mapping[str, float] = {
    "int4": 0.5,
    "fp4": 0.5,
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "fp8": 1,
    "fp16": 2,
    "bf16": 2,
    "int32": 4,
    "fp32": 4,
    "int64": 8,
}


class Kind(StrEnum):
    """What a kernel is for."""

    gemm = "gemm"
    attention = "attention"
    normalization = "normalization"
    elementwise = "elementwise"
    conversion = "conversion"
    move = "move"
    other = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A number of elements or operations: ``factor * batch**b * sequence**s``, at most ``most``."""

    factor: int
    b: int = 0
    s: int = 0
    most: int | None = None

    def at(self, batch: int, sequence: int) -> int:
        """Return the number for a batch of this shape."""
        count: int = self.factor * batch**self.b * sequence**self.s
        return count if self.most is None else min(count, self.most)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """What a kernel reads or writes; -1 is a dynamic dimension."""

    name: str
    type: str
    dims: tuple[int, ...]
    size: Size

    def bytes_at(self, batch: int, sequence: int) -> float:
        """Return the bytes it takes for a batch of this shape."""
        return self.size.at(batch, sequence) * ITEM_BYTES.get(self.type, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One kernel of one optimization profile.

    ``gemms`` are the ONNX nodes of the linear GEMMs that it computes (several where the compiler
    joined them), ``epilogue`` whether bias, activation or rescaling are computed with them.
    ``type`` is what a GEMM or attention computes in; ``operations`` counts its multiplications and
    additions. ``nodes`` are all the ONNX nodes that it came from.
    """

    name: str
    kind: Kind
    profile: int
    inputs: tuple[Tensor, ...]
    constants: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    nodes: tuple[str, ...]
    tactic: str = ""
    type: str | None = None
    operations: Size | None = None
    gemms: tuple[str, ...] = ()
    epilogue: bool = False

    def bytes_at(self, batch: int, sequence: int) -> float:
        """Return the bytes read and written, each tensor once."""
        tensors = (*self.inputs, *self.constants, *self.outputs)
        return sum(tensor.bytes_at(batch, sequence) for tensor in tensors)

    def operations_at(self, batch: int, sequence: int) -> int:
        """Return the operations of its matrix products."""
        return 0 if self.operations is None else self.operations.at(batch, sequence)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLayers:
    """The kernels of a plan, and the attention blocks of the graph that it was built from.

    ``attention`` holds, for each block in order, the ONNX node that marks it: its Softmax, or the
    Attention operator. ``kept_fp32`` are the matrix products that were left in fp32 on purpose,
    ``attention_in_fp32`` the blocks of ``attention`` that have one of those.
    """

    runtime: str
    runtime_version: str
    layers: tuple[Layer, ...]
    attention: tuple[str, ...]
    kept_fp32: tuple[str, ...] = ()
    attention_in_fp32: tuple[str, ...] = ()

    def of_profile(self, profile: int) -> tuple[Layer, ...]:
        """Return the kernels of one optimization profile, in the order they run."""
        return tuple(layer for layer in self.layers if layer.profile == profile)


def static_elements(dims: Sequence[int]) -> int:
    """Return the product of the dimensions that are known."""
    return prod(size for size in dims if size >= 0)


def write_layers(found: EngineLayers, path: Path) -> None:
    """Write ``layers.json``, a kernel a line."""
    head = {
        "schema": SCHEMA,
        "runtime": found.runtime,
        "runtime_version": found.runtime_version,
        "attention": list(found.attention),
        "kept_fp32": list(found.kept_fp32),
        "attention_in_fp32": list(found.attention_in_fp32),
    }
    converter = cattrs.Converter(omit_if_default=True)
    rows = ",\n  ".join(json.dumps(converter.unstructure(layer)) for layer in found.layers)
    opening = json.dumps(head, ensure_ascii=False)[:-1]
    path.write_text(f'{opening},\n "layers": [\n  {rows}\n ]}}\n', "utf-8")


def read_layers(path: Path) -> EngineLayers:
    """Return what ``write_layers`` wrote.

    Raises:
        ValueError: the file holds something else.
    """
    try:
        data = json.loads(path.read_text("utf-8"))
        if data.pop("schema") != SCHEMA:
            raise ValueError("another schema")
        return cattrs.Converter(forbid_extra_keys=True).structure(data, EngineLayers)
    except (cattrs.BaseValidationError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not the kernels of a plan: {error}") from error
