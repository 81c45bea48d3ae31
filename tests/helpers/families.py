"""Tiny random Sentence Transformers with the exact module chain of each family people use."""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import COMMON, HIDDEN, MAX_LENGTH, MIDDLE

from pipeline.contracts import SourceModel
from pipeline.engines import Encoder
from pipeline.runtime import TextEncoder
from pipeline.text.source_text import open_tokenizer

TRANSFORMERS = int(metadata.version("transformers").partition(".")[0])
"""Its major version."""

Modules = Callable[[], Sequence[Any]]

DECODER = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "intermediate_size": MIDDLE,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
MODERN = COMMON | {
    "local_attention": 8,
    "global_attn_every_n_layers": 2,
    "bos_token_id": 0,
    "cls_token_id": 0,
    "eos_token_id": 2,
    "sep_token_id": 2,
    "reference_compile": False,
}
ROBERTA = COMMON | {"type_vocab_size": 1}


def modules() -> Any:
    return import_module("sentence_transformers.sentence_transformer.modules")


def pooled(*modes: str, normalize: bool = True) -> Modules:
    """Return a chain behind the encoder: Pooling, and Normalize or not."""

    def make() -> Sequence[Any]:
        chain = [modules().Pooling(HIDDEN, modes if len(modes) > 1 else modes[0])]
        return [*chain, modules().Normalize()] if normalize else chain

    return make


def labse() -> Sequence[Any]:
    dense = modules().Dense(HIDDEN, HIDDEN, activation_function=torch.nn.Tanh())
    return [modules().Pooling(HIDDEN, "cls"), dense, modules().Normalize()]


def gemma() -> Sequence[Any]:
    wide, back = (
        modules().Dense(*sizes, bias=False, activation_function=torch.nn.Identity())
        for sizes in ((HIDDEN, 4 * HIDDEN), (4 * HIDDEN, HIDDEN))
    )
    return [modules().Pooling(HIDDEN, "mean"), wide, back, modules().Normalize()]


def layer_norm() -> Sequence[Any]:
    return [modules().Pooling(HIDDEN, "mean"), modules().LayerNorm(HIDDEN), modules().Normalize()]


@dataclass(frozen=True, kw_only=True)
class Family:
    """How a tiny model is configured, what its tokenizer does, and what follows its encoder."""

    config: str
    settings: Mapping[str, Any]
    chain: Modules
    padding: str = "right"
    token_types: bool = False
    dtype: torch.dtype = torch.float32
    shard: str = "5GB"
    saved: Mapping[str, Any] = field(default_factory=dict)
    fused: int | None = 2
    """How many attentions become one operator where the mask is padding; None: as many as do."""
    transformers: int = 4
    """The first major version that has the architecture."""
    refuses_int8: str = ""
    """What quantize says of it, a pattern, where it has nothing that int8 covers."""


BERT, XLMR, QWEN = "BertConfig", "XLMRobertaConfig", "Qwen3Config"
E5_PROMPTS = {"query": "query: ", "document": "passage: "}
FAMILIES = {
    "minilm": Family(config=BERT, settings=COMMON, chain=pooled("mean"), token_types=True),
    "bge": Family(config=BERT, settings=COMMON, chain=pooled("cls"), token_types=True),
    "mxbai": Family(config=BERT, settings=COMMON, chain=pooled("cls", normalize=False)),
    "labse": Family(config=BERT, settings=COMMON, chain=labse, token_types=True),
    "e5": Family(
        config=BERT,
        settings=COMMON,
        chain=pooled("mean"),
        token_types=True,
        saved={"prompts": E5_PROMPTS, "default_prompt_name": "query"},
    ),
    "gte-fp16": Family(
        config=BERT, settings=COMMON, chain=pooled("mean"), dtype=torch.float16, shard="40KB"
    ),
    "mpnet": Family(config="MPNetConfig", settings=COMMON, chain=pooled("mean")),
    "distilbert": Family(
        config="DistilBertConfig",
        settings={
            "dim": HIDDEN,
            "n_layers": 2,
            "n_heads": 2,
            "hidden_dim": MIDDLE,
            "max_position_embeddings": 64,
            "initializer_range": 0.2,
            "pad_token_id": 1,
        },
        chain=pooled("mean"),
    ),
    "distilroberta": Family(config="RobertaConfig", settings=ROBERTA, chain=pooled("mean")),
    "paraphrase-multilingual": Family(
        config=XLMR, settings=ROBERTA, chain=pooled("mean", normalize=False)
    ),
    "bge-m3": Family(config=XLMR, settings=ROBERTA, chain=pooled("cls")),
    "gte-modernbert": Family(
        config="ModernBertConfig", settings=MODERN, chain=pooled("cls", normalize=False), fused=0
    ),
    "modernbert-embed": Family(
        config="ModernBertConfig", settings=MODERN, chain=pooled("mean"), fused=0
    ),
    "embeddinggemma": Family(
        config="Gemma3TextConfig",
        settings=DECODER
        | {
            "use_bidirectional_attention": True,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention"],
            "query_pre_attn_scalar": 16,
        },
        chain=gemma,
        fused=0,
    ),
    "nomic": Family(
        config="NomicBertConfig",
        settings=COMMON,
        chain=pooled("mean", normalize=False),
        token_types=True,
        fused=0,
        transformers=5,
    ),
    "qwen3": Family(
        config=QWEN, settings=DECODER, chain=pooled("lasttoken"), padding="left", fused=0
    ),
    "qwen3-right": Family(config=QWEN, settings=DECODER, chain=pooled("lasttoken"), fused=0),
    "max": Family(config=BERT, settings=COMMON, chain=pooled("max")),
    "four-poolings": Family(
        config=BERT,
        settings=COMMON,
        chain=pooled("cls", "max", "mean", "mean_sqrt_len_tokens", normalize=False),
    ),
    "sgpt": Family(config=QWEN, settings=DECODER, chain=pooled("weightedmean"), fused=0),
    "layer-norm": Family(config=BERT, settings=COMMON, chain=layer_norm),
    "matryoshka": Family(
        config=BERT, settings=COMMON, chain=pooled("mean"), saved={"truncate_dim": 12}
    ),
}


def skip_where_older(family: Family) -> None:
    """Skip a test of an encoder that this version of transformers does not have."""
    if family.transformers > TRANSFORMERS:
        pytest.skip(f"{family.config} needs transformers {family.transformers}")


def encoder_of(source: SourceModel, engine: Encoder) -> TextEncoder:
    """Put an engine behind a model's own tokenizer and prompts."""
    return TextEncoder(
        open_tokenizer(source),
        engine,
        dimension=source.dimension,
        prompts=dict(source.prompts),
        default_prompt=source.default_prompt,
    )


def save_family(family: Family, tokenizer: Any, root: Path) -> Path:
    """Save a random Sentence Transformer of the family and return its directory."""
    from sentence_transformers import SentenceTransformer

    transformers: Any = import_module("transformers")
    config = getattr(transformers, family.config)(vocab_size=len(tokenizer), **family.settings)
    tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = family.padding  # or not saved
    types = ["token_type_ids"] if family.token_types else []
    tokenizer.model_input_names = ["input_ids", *types, "attention_mask"]
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        with warnings.catch_warnings():  # ModernBERT's module uses what torch deprecates
            warnings.simplefilter("ignore", DeprecationWarning)
            encoder = transformers.AutoModel.from_config(config)
        chain = family.chain()
        for module in (encoder, *chain):
            for parameter in module.parameters():
                if parameter.dim() == 1:  # biases and norm scales start as 0 and 1
                    parameter.add_(0.1 * torch.randn_like(parameter))
    encoder.save_pretrained(str(root / "encoder"))
    tokenizer.save_pretrained(str(root / "encoder"))
    first = modules().Transformer(str(root / "encoder"), max_seq_length=MAX_LENGTH)
    saved = root / "saved"
    SentenceTransformer(modules=[first, *chain], device="cpu").save(str(saved))
    (saved / "model.safetensors").unlink()
    encoder.to(family.dtype).save_pretrained(str(saved), max_shard_size=family.shard)
    if family.saved:
        path = saved / "config_sentence_transformers.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | family.saved))
    return saved
