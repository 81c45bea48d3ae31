"""Tiny random encoders of several architectures, with outlier channels as trained ones have."""

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from pipeline.quant.condition.folds import Fold

Plant = Callable[[Any], None]

LAYERS, HIDDEN, HEADS, MIDDLE, MAX_LENGTH = 2, 32, 2, 64, 48
SPECIAL = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}

IN_NORM = 8.0
"""How much larger an outlier channel is that the residual branch carries along."""

IN_BRANCH = 300.0
"""How much larger one is that no norm sees."""


def enlarge(
    producer: Any, readers: Sequence[Any], channels: Sequence[int], factor: float, start: int = 0
) -> None:
    """Make channels larger and the weights that read them as much smaller.

    ``start`` is where the channels begin among the outputs of a fused projection.
    """
    rows = [start + channel for channel in channels]
    producer.weight[rows] *= factor
    if producer.bias is not None:
        producer.bias[rows] *= factor
    for reader in readers:
        reader.weight[:, list(channels)] /= factor


def plant_bert(model: Any) -> None:
    norm = model.embeddings.LayerNorm
    for layer in model.encoder.layer:
        attention, inner = layer.attention.self, layer.attention.output
        enlarge(norm, (attention.query, attention.key, attention.value), [3, 17], IN_NORM)
        enlarge(attention.value, (inner.dense,), [5], IN_BRANCH)
        enlarge(inner.LayerNorm, (layer.intermediate.dense,), [8], IN_NORM)
        enlarge(layer.intermediate.dense, (layer.output.dense,), [0, 40], IN_BRANCH)
        norm = layer.output.LayerNorm


def plant_mpnet(model: Any) -> None:
    norm = model.embeddings.LayerNorm
    for layer in model.encoder.layer:
        attention = layer.attention.attn
        enlarge(norm, (attention.q, attention.k, attention.v), [3, 17], IN_NORM)
        enlarge(attention.v, (attention.o,), [5], IN_BRANCH)
        enlarge(layer.attention.LayerNorm, (layer.intermediate.dense,), [8], IN_NORM)
        enlarge(layer.intermediate.dense, (layer.output.dense,), [0, 40], IN_BRANCH)
        norm = layer.output.LayerNorm


def plant_distilbert(model: Any) -> None:
    norm = model.embeddings.LayerNorm
    for layer in model.transformer.layer:
        attention = layer.attention
        enlarge(norm, (attention.q_lin, attention.k_lin, attention.v_lin), [3, 17], IN_NORM)
        enlarge(attention.v_lin, (attention.out_lin,), [5], IN_BRANCH)
        enlarge(layer.sa_layer_norm, (layer.ffn.lin1,), [8], IN_NORM)
        enlarge(layer.ffn.lin1, (layer.ffn.lin2,), [0, 40], IN_BRANCH)
        norm = layer.output_layer_norm


def plant_modernbert(model: Any) -> None:
    norm, factor = model.embeddings.norm, IN_NORM
    for layer in model.layers:
        enlarge(norm, (layer.attn.Wqkv,), [3, 17], factor)
        enlarge(layer.attn.Wqkv, (layer.attn.Wo,), [5], IN_BRANCH, start=2 * HIDDEN)
        enlarge(layer.mlp_norm, (layer.mlp.Wi,), [8], IN_BRANCH)
        enlarge(layer.mlp.Wi, (layer.mlp.Wo,), [0, 40], IN_BRANCH, start=MIDDLE)
        norm, factor = model.layers[1].attn_norm, IN_BRANCH


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """How a tiny encoder is configured, where its outliers go and what should find them."""

    config: str
    plant: Plant
    settings: Mapping[str, Any]
    folds: Mapping[Fold, int]


COMMON = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": MIDDLE,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "pad_token_id": 1,
}
BERT_FOLDS = {Fold.layer_norm: 4, Fold.value_projection: 2, Fold.explicit: 2}
GATED_FOLDS = {Fold.layer_norm: 4, Fold.value_projection: 2, Fold.gated_projection: 2}
ARCHITECTURES = {
    "bert": Architecture(config="BertConfig", plant=plant_bert, settings=COMMON, folds=BERT_FOLDS),
    "mpnet": Architecture(
        config="MPNetConfig", plant=plant_mpnet, settings=COMMON, folds=BERT_FOLDS
    ),
    "distilbert": Architecture(
        config="DistilBertConfig",
        plant=plant_distilbert,
        settings={
            "dim": HIDDEN,
            "n_layers": LAYERS,
            "n_heads": HEADS,
            "hidden_dim": MIDDLE,
            "max_position_embeddings": 64,
            "initializer_range": 0.2,
            "pad_token_id": 1,
        },
        folds=BERT_FOLDS,
    ),
    "roberta": Architecture(
        config="RobertaConfig",
        plant=plant_bert,
        settings=COMMON | {"type_vocab_size": 1},
        folds=BERT_FOLDS,
    ),
    "xlm-roberta": Architecture(
        config="XLMRobertaConfig",
        plant=plant_bert,
        settings=COMMON | {"type_vocab_size": 1, "hidden_act": "gelu_new"},
        folds=BERT_FOLDS,
    ),
    "modernbert": Architecture(
        config="ModernBertConfig",
        plant=plant_modernbert,
        settings=COMMON
        | {
            "local_attention": 8,
            "global_attn_every_n_layers": 2,
            "bos_token_id": 0,
            "cls_token_id": 0,
            "eos_token_id": 2,
            "sep_token_id": 2,
            "reference_compile": False,
        },
        folds=GATED_FOLDS,
    ),
}


def make_tokenizer(texts: Sequence[str]) -> Any:
    """Return a tokenizer of the texts' most frequent words, RoBERTa's special tokens first."""
    tokenizers, transformers = import_module("tokenizers"), import_module("transformers")
    split = tokenizers.pre_tokenizers.BertPreTokenizer()
    words = Counter(word for text in texts for word, _ in split.pre_tokenize_str(text.lower()))
    frequent = sorted(words, key=lambda word: (-words[word], word))[:500]
    vocabulary = {token: i for i, token in enumerate([*SPECIAL.values(), *frequent])}
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel(vocabulary, unk_token=SPECIAL["unk_token"])
    )
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer.pre_tokenizer = split
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=MAX_LENGTH,
        model_input_names=["input_ids", "attention_mask"],
        **SPECIAL,
    )


def save_encoder(architecture: Architecture, tokenizer: Any, root: Path) -> Path:
    """Save a random encoder with outliers and mean pooling as a Sentence Transformer."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    transformers: Any = import_module("transformers")
    config = getattr(transformers, architecture.config)(
        vocab_size=len(tokenizer), **architecture.settings
    )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        with warnings.catch_warnings():  # ModernBERT's module uses what torch deprecates
            warnings.simplefilter("ignore", DeprecationWarning)
            model = transformers.AutoModel.from_config(config)
        for parameter in model.parameters():
            if parameter.dim() == 1:  # biases and norm scales start as 0 and 1
                parameter.add_(0.1 * torch.randn_like(parameter))
        architecture.plant(model)
    model.save_pretrained(str(root / "encoder"))
    tokenizer.save_pretrained(str(root / "encoder"))
    encoder = Transformer(str(root / "encoder"), max_seq_length=MAX_LENGTH)
    saved = root / "saved"
    SentenceTransformer(modules=[encoder, Pooling(HIDDEN)], device="cpu").save(str(saved))
    return saved
