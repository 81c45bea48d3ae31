"""Triton's tokenizer step: texts to padded token arrays, as ``pipeline.tokens`` makes them.

A bundle holds this file as ``triton/<model>_tokenizer/1/model.py``; Triton's python backend runs it.
The server needs ``tokenizers`` and numpy, not this package. ``settings.json`` beside it is written
from the bundle's own tokenizer.

Triton batches requests of one shape, and only while they follow each other in the queue. So every
request is padded to one of few lengths, and all that came together are handed on sorted by length.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

IntArray = npt.NDArray[np.int64]


class TokenizerStep:
    """Tokenizes, prompts, truncates and pads as ``settings.json`` says."""

    def __init__(self, directory: Path) -> None:
        """Read ``tokenizer.json`` and ``settings.json``."""
        settings = json.loads((directory / "settings.json").read_text("utf-8"))
        self._tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(
            settings["max_length"], direction=settings["truncation_side"]
        )
        self._pad = {
            "input_ids": settings["pad_id"],
            "attention_mask": 0,
            "token_type_ids": settings["pad_type_id"],
        }
        self._right = settings["padding_side"] == "right"
        self._lengths: list[int] = settings["lengths"]
        self._prompts: dict[str, str] = settings["prompts"]
        self._default_prompt: str | None = settings["default_prompt"]

    def prompt(self, name: str) -> str:
        """Return the text of a prompt; an empty name is the model's default.

        Raises:
            ValueError: the model has no such prompt.
        """
        name = name or self._default_prompt or ""
        if name and name not in self._prompts and name not in ("query", "document"):
            known = ", ".join(sorted(self._prompts)) or "none"
            raise ValueError(f"prompt name {name!r}: the model has {known}")
        return self._prompts.get(name, "")

    def encode(self, requests: Sequence[Sequence[str]]) -> list[dict[str, IntArray]]:
        """Return int64 ``[texts, length]`` arrays for each request, of a length all its texts fit.

        ``requests`` hold their texts with the prompts in front.
        """
        rows = iter(self._tokenizer.encode_batch([text for texts in requests for text in texts]))
        return [self._pad_to_length([next(rows) for _ in texts]) for texts in requests]

    def _pad_to_length(self, rows: Sequence[Any]) -> dict[str, IntArray]:
        longest = max(len(row.ids) for row in rows)
        width = next(length for length in self._lengths if length >= longest)
        arrays = {
            name: np.full((len(rows), width), value, np.int64) for name, value in self._pad.items()
        }
        for i, row in enumerate(rows):
            n = len(row.ids)
            where = slice(0, n) if self._right else slice(width - n, width)
            arrays["input_ids"][i, where] = row.ids
            arrays["attention_mask"][i, where] = 1
            arrays["token_type_ids"][i, where] = row.type_ids
        return arrays


class TritonPythonModel:
    """What Triton's python backend calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the files of this version."""
        self._step = TokenizerStep(Path(args["model_repository"], args["model_version"]))
        self._outputs = [spec["name"] for spec in json.loads(args["model_config"])["output"]]

    def execute(self, requests: Sequence[Any]) -> None:
        """Answer every request, shortest first; one that cannot be answered gets its own error."""
        import triton_python_backend_utils as triton  # exists inside Triton only

        readable, texts = [], []
        for request in requests:
            try:
                texts.append(self._texts(triton, request))
                readable.append(request)
            except ValueError as error:
                _send(triton, request, triton.InferenceResponse(error=triton.TritonError(str(error))))
        answers = zip(readable, self._step.encode(texts), strict=True)
        for request, arrays in sorted(answers, key=lambda pair: pair[1]["input_ids"].shape[1]):
            tensors = [triton.Tensor(name, arrays[name]) for name in self._outputs]
            _send(triton, request, triton.InferenceResponse(tensors))

    def _texts(self, triton: Any, request: Any) -> list[str]:
        texts = _strings(triton, request, "text")
        names = _strings(triton, request, "prompt_name") or [""] * len(texts)
        return [self._step.prompt(name) + text for name, text in zip(names, texts, strict=True)]


def _strings(triton: Any, request: Any, name: str) -> list[str]:
    tensor = triton.get_input_tensor_by_name(request, name)
    if tensor is None:
        return []
    try:
        return [item.decode("utf-8") for item in tensor.as_numpy().reshape(-1)]
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: not UTF-8: {error}") from error


def _send(triton: Any, request: Any, response: Any) -> None:
    flags = triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL
    request.get_response_sender().send(response, flags=flags)
