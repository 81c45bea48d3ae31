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

from pipeline.text.tokens import TokenBatch, Tokenizer, TokenRow


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

    def encode(
        self, requests: Sequence[Sequence[str]], prompts: Sequence[Sequence[str]] | None = None
    ) -> list[TokenBatch | ValueError]:
        """Return a padded batch for each request's texts, or what is wrong with one of them.

        ``prompts`` has a prompt's text for each text; without it there are none.
        """
        texts = [text for request in requests for text in request]
        heads = [head for request in prompts for head in request] if prompts is not None else ""
        rows = iter(self._tokenizer.rows(texts, heads))
        return [self._pad(list(islice(rows, len(request)))) for request in requests]

    def _pad(self, rows: Sequence[TokenRow]) -> TokenBatch | ValueError:
        for index, row in enumerate(rows):
            refusal = self._tokenizer.refusal(row.ids)
            if refusal is not None:
                return ValueError(f"text {index} {refusal}")
        longest = max(len(row.ids) for row in rows)
        length = next(length for length in self._lengths if length >= longest)
        return self._tokenizer.pad(rows, length=length)


class TritonPythonModel:
    """What Triton's python backend calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the files of this version."""
        self._step = TokenizerStep(Path(args["model_repository"], args["model_version"]))
        self._outputs = [spec["name"] for spec in json.loads(args["model_config"])["output"]]

    def execute(self, requests: Sequence[Any]) -> None:
        """Answer every request, shortest first; one that cannot be answered gets its own error.

        What its client has given up is dropped: before it is tokenized, and before the encoder.
        """
        import triton_python_backend_utils as triton  # exists inside Triton only

        readable, texts, prompts = [], [], []
        for request in _wanted(triton, requests):
            try:
                own, heads = self._texts(triton, request)
            except ValueError as error:
                _refuse(triton, request, error)
            else:
                readable.append(request)
                texts.append(own)
                prompts.append(heads)
        answers = []
        for request, batch in zip(readable, self._step.encode(texts, prompts), strict=True):
            if isinstance(batch, ValueError):
                _refuse(triton, request, batch)
            else:
                answers.append((request, batch))
        wanted = {id(request) for request in _wanted(triton, [request for request, _ in answers])}
        answers = [answer for answer in answers if id(answer[0]) in wanted]
        for request, batch in sorted(answers, key=lambda answer: answer[1].input_ids.shape[1]):
            tensors = [triton.Tensor(*item) for item in batch.feed(self._outputs).items()]
            _send(triton, request, triton.InferenceResponse(tensors))

    def _texts(self, triton: Any, request: Any) -> tuple[list[str], list[str]]:
        """Return a request's texts, and the prompt of each."""
        texts = _strings(triton, request, "text")
        names = _strings(triton, request, "prompt_name") or [""] * len(texts)
        return texts, [self._step.prompt(name) for name, _ in zip(names, texts, strict=True)]


def _strings(triton: Any, request: Any, name: str) -> list[str]:
    tensor = triton.get_input_tensor_by_name(request, name)
    if tensor is None:
        return []
    try:
        return [item.decode("utf-8") for item in tensor.as_numpy().reshape(-1)]
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: not UTF-8: {error}") from error


def _wanted(triton: Any, requests: Sequence[Any]) -> list[Any]:
    """Return the requests that somebody waits for; the others are answered as cancelled."""
    wanted = []
    for request in requests:
        is_cancelled = getattr(request, "is_cancelled", None)  # from Triton 23.10 on
        if is_cancelled is None or not is_cancelled():
            wanted.append(request)
        else:
            reason = triton.TritonError("cancelled by its client", triton.TritonError.CANCELLED)
            _send(triton, request, triton.InferenceResponse(error=reason))
    return wanted


def _refuse(triton: Any, request: Any, error: ValueError) -> None:
    reason = triton.TritonError(str(error), triton.TritonError.INVALID_ARG)
    _send(triton, request, triton.InferenceResponse(error=reason))


def _send(triton: Any, request: Any, response: Any) -> None:
    flags = triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL
    request.get_response_sender().send(response, flags=flags)
