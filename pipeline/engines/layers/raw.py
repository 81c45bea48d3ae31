"""Hold a plan's layers in the words of the builder, before anything is concluded from them."""

import re
from dataclasses import dataclass

TYPES = {
    "float": "fp32",
    "fp32": "fp32",
    "half": "fp16",
    "fp16": "fp16",
    "bf16": "bf16",
    "bfloat16": "bf16",
    "fp8": "fp8",
    "fp4": "fp4",
    "int4": "int4",
    "int8": "int8",
    "uint8": "uint8",
    "int32": "int32",
    "int64": "int64",
    "bool": "bool",
}
"""Names of numeric types in builder logs and inspectors, in lower case, and ours."""

_NODE = re.compile(r"\[ONNX Layer: (.+?)\](?=\[ONNX|[\x1e\x1f]|$)")
_PROFILE = re.compile(r" \[profile \d+\]")
_PLACE = re.compile(r"_myl(\d+)_\d+$")


@dataclass(frozen=True, slots=True, kw_only=True)
class RawTensor:
    """A tensor as it stands in the list; ``strides`` are empty where they are not told."""

    name: str
    type: str
    dims: tuple[int, ...]
    strides: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RawLayer:
    """A layer as it stands in the list."""

    name: str
    layer_type: str
    inputs: tuple[RawTensor, ...]
    constants: tuple[RawTensor, ...]
    outputs: tuple[RawTensor, ...]
    tactic: str
    metadata: str

    @property
    def nodes(self) -> tuple[str, ...]:
        """The ONNX nodes it came from, without the mark of a profile."""
        found = (_PROFILE.sub("", name) for name in _NODE.findall(self.metadata))
        return tuple(dict.fromkeys(found))

    @property
    def graph(self) -> int | None:
        """The number of the compiled graph it is in: a profile has one, or several."""
        place = _PLACE.search(self.name)
        return None if place is None else int(place[1])

    @property
    def marked_profile(self) -> int:
        """The optimization profile that a name in it is marked with; names of the first are not."""
        names = (self.name, *(t.name for t in (*self.inputs, *self.constants, *self.outputs)))
        found = (re.search(r"\[profile (\d+)\]", name) for name in names)
        return max((int(mark[1]) for mark in found if mark is not None), default=0)

    @property
    def operators(self) -> tuple[str, ...]:
        """The compiler's own words for what a generated kernel does: Mul, Add, Resh, Tran."""
        name = _PLACE.sub("", self.name)
        if not name.startswith("__myl_"):
            return ()
        return tuple(re.findall(r"[A-Z][a-z0-9]*", name.removeprefix("__myl_")))


def numeric_type(words: str) -> str:
    """Return our name of a type from what a list says of it, a format among it or not.

    ``Half`` and ``Row major linear FP16 format (kLINEAR)`` both are fp16.
    """
    for word in re.findall(r"[A-Za-z]+\d*", words):
        if word.lower() in TYPES:
            return TYPES[word.lower()]
    return words.lower() or "unknown"
