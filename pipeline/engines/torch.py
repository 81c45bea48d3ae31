"""Run the reference: the Sentence Transformer itself, in PyTorch fp32."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.config import Device
from pipeline.contracts import GRAPH_INPUTS, SourceModel
from pipeline.errors import ConfigError, ResolveError, first_line
from pipeline.text.tokens import TokenBatch


def load_sentence_transformer(
    path: Path, *, device: str, trust_remote_code: bool, attention: str | None = None
) -> Any:
    """Load a Sentence Transformer from disk in fp32, from safetensors only, never from a hub.

    ``attention`` picks transformers' attention implementation; None leaves its default, which is
    what a user of Sentence Transformers gets.

    Raises:
        ResolveError: the directory is not a Sentence Transformer, or a weight is NaN or infinite.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from sentence_transformers import SentenceTransformer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers 5 draws one a load
    model_kwargs: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True}
    if attention is not None:
        model_kwargs["attn_implementation"] = attention
    try:
        model = SentenceTransformer(
            str(path),
            device=device,
            local_files_only=True,
            trust_remote_code=trust_remote_code,
            model_kwargs=model_kwargs,
        )
    except MemoryError:
        raise
    except Exception as error:  # a file that is not as expected fails wherever it is first used
        raise ResolveError(
            f"{path} does not load as a Sentence Transformer: {first_line(error)}"
        ) from error
    model.eval().float()
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise ResolveError(
                f"{path}: weight {name} holds NaN or infinite values; "
                "point model.directory at a checkpoint that was saved intact"
            )
    return model


def limit_length(model: Any, max_length: int) -> None:
    """Make a loaded model truncate at ``max_length``, wherever its own limit stands."""
    model.max_seq_length = max_length
    for settings in (getattr(model[0], "processing_kwargs", None) or {}).values():
        if isinstance(settings, dict) and "max_length" in settings:
            settings["max_length"] = max_length


def pick_device(device: Device) -> str:
    """Return ``cpu`` or ``cuda`` for the configured device.

    Raises:
        ConfigError: cuda was asked for and PyTorch sees none.
    """
    available = torch.cuda.is_available()
    if device is Device.cuda and not available:
        raise ConfigError(
            "validate.device=cuda: PyTorch sees no CUDA device; set validate.device=cpu"
        )
    return "cuda" if available and device is not Device.cpu else "cpu"


def usable_devices(device: Device) -> frozenset[str]:
    """Return where PyTorch may run: on the CPU, and on a GPU unless ``device`` is the CPU."""
    return frozenset({"cpu", pick_device(device)})


class TorchEncoder:
    """PyTorch fp32 on already tokenized batches, TF32 off."""

    max_tokens: int | None = None
    bucketed = False

    def __init__(self, source: SourceModel, *, device: Device) -> None:
        """Load the reference onto the device."""
        self.name = "torch"
        self.device = pick_device(device)
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        self.model = load_sentence_transformer(
            source.path, device=self.device, trust_remote_code=source.trust_remote_code
        )
        limit_length(self.model, source.max_length)
        self.inputs = taken_inputs(self.model)
        self.dimension = source.dimension
        self._prefix = source.prefix

    def encode(self, batch: TokenBatch) -> npt.NDArray[np.float32]:
        """Return the embeddings of a batch, float32 ``[batch, dim]``."""
        return run_modules(self.model, batch, self.device)[:, : self.dimension]

    def encode_texts(
        self, texts: Sequence[str], batch_size: int, prompt: str | None = None
    ) -> npt.NDArray[np.float32]:
        """Return what ``SentenceTransformer.encode`` makes of texts, float32 ``[n, dim]``.

        ``prompt`` None: the model's default.
        """
        result: npt.NDArray[np.float32] = self.model.encode(
            list(texts),
            batch_size=batch_size,
            prompt=self._prefix if prompt is None else prompt,
            truncate_dim=self.dimension,
            show_progress_bar=False,
        )
        return result


def encoder_name(model: Any) -> str:
    """Return the class of the encoder in a Sentence Transformer's first module."""
    return type(getattr(model[0], "auto_model", model[0])).__name__


def taken_inputs(model: Any) -> list[str]:
    """Return the graph inputs that a Sentence Transformer's tokenizer makes for it."""
    known = set(model.tokenizer.model_input_names)
    return [name for name in GRAPH_INPUTS if name in known or name != "token_type_ids"]


@torch.inference_mode()
def run_modules(model: Any, batch: TokenBatch, device: str) -> npt.NDArray[np.float32]:
    """Return what the modules of a Sentence Transformer make of a batch, ``[batch, dim]``."""
    features = {
        name: torch.from_numpy(array).to(device)
        for name, array in batch.feed(taken_inputs(model)).items()
    }
    embedding = model(features)["sentence_embedding"]
    result: npt.NDArray[np.float32] = embedding.float().cpu().numpy()
    return result
