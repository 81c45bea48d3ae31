"""Tokenize for Triton: texts to padded token arrays, by the bundle's own copy of ``tokens``.

A bundle holds this file as ``triton/<model>_tokenizer/1/model.py``, and beside it the modules it
imports: the server needs ``tokenizers`` and numpy, no more. Triton's python backend runs it.

Triton batches requests of one shape, and only those that follow each other in the encoder's queue.
So every request is padded to one of few lengths, and those that came together are handed on
shortest first.
"""

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.text.tokens import TokenBatch, Tokenizer


class TokenizerStep:
    """Prompts, tokenizes, truncates and pads."""

    def __init__(self, directory: Path) -> None:
        """Read ``settings.json`` and the tokenizer's files."""
        settings = json.loads((directory / "settings.json").read_text("utf-8"))
        self._tokenizer = Tokenizer(directory, max_length=settings["max_length"])
        self._lengths: list[int] = settings["lengths"]
        self._prompts: dict[str, str] = settings["prompts"]
        self._default_prompt: str | None = settings["default_prompt"]

    def prompt(self, name: str) -> str:
        """Return the text of a prompt as ``encode`` resolves it; an empty name is the default.

        Raises:
            ValueError: the model has no such prompt.
        """
        name = name or self._default_prompt or ""
        if name and name not in self._prompts and name not in ("query", "document"):
            known = ", ".join(sorted(self._prompts)) or "none"
            raise ValueError(f"prompt name {name!r}: the model has {known}")
        return self._prompts.get(name, "")

    def encode(self, requests: Sequence[Sequence[str]]) -> list[TokenBatch]:
        """Return a padded batch for each request's texts, which have their prompts in front."""
        rows = iter(self._tokenizer.rows([text for texts in requests for text in texts]))
        batches = []
        for texts in requests:
            own = list(islice(rows, len(texts)))
            longest = max(len(row.ids) for row in own)
            length = next(length for length in self._lengths if length >= longest)
            batches.append(self._tokenizer.pad(own, length=length))
        return batches


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
            except ValueError as error:
                reason = triton.TritonError(str(error), triton.TritonError.INVALID_ARG)
                _send(triton, request, triton.InferenceResponse(error=reason))
            else:
                readable.append(request)
        answers = zip(readable, self._step.encode(texts), strict=True)
        for request, batch in sorted(answers, key=lambda answer: answer[1].input_ids.shape[1]):
            tensors = [triton.Tensor(*item) for item in batch.feed(self._outputs).items()]
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
