"""Tiny random Sentence Transformers of the other architectures that transformers 5 has.

``python -m benchmarks.architectures`` runs every check of ``tests/test_families.py`` on them and
writes the table in ``docs/models.md``; each commit exports some and holds fp32 against the Sentence
Transformer.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from architectures import COMMON, HIDDEN, MIDDLE
from families import DECODER, MODERN, ROBERTA, Family, Modules, modules, pooled

T5 = {
    "d_model": HIDDEN,
    "d_kv": 16,
    "d_ff": MIDDLE,
    "num_layers": 2,
    "num_heads": 2,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 24,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
DISENTANGLED = COMMON | {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
}
LOCAL_AND_GLOBAL = {
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"],
}
GPT = {
    "hidden_size": HIDDEN,
    "initializer_range": 0.2,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
NARROW = COMMON | {"embedding_size": 16}
MEAN, LAST = pooled("mean"), pooled("lasttoken")
NEW = 5
"""Architectures that came with transformers 5."""


def sentence_t5() -> Sequence[Any]:
    """Return mean pooling, a Dense without bias or activation, and Normalize."""
    dense = modules().Dense(HIDDEN, HIDDEN, bias=False, activation_function=torch.nn.Identity())
    return [modules().Pooling(HIDDEN, "mean"), dense, modules().Normalize()]


def encoder(
    config: str,
    settings: Mapping[str, Any],
    *,
    chain: Modules = MEAN,
    token_types: bool = False,
    transformers: int = 4,
    refuses_int8: str = "",
) -> Family:
    """Return a family of rows padded on the right."""
    return Family(
        config=config,
        settings=settings,
        chain=chain,
        token_types=token_types,
        fused=None,
        transformers=transformers,
        refuses_int8=refuses_int8,
    )


def decoder(
    config: str,
    settings: Mapping[str, Any] = DECODER,
    *,
    chain: Modules = LAST,
    padding: str = "left",
    transformers: int = 4,
) -> Family:
    """Return a family that pools the last token of rows padded on the left, as such models do."""
    return Family(
        config=config,
        settings=settings,
        chain=chain,
        padding=padding,
        fused=None,
        transformers=transformers,
    )


ENCODERS = {
    "albert": encoder("AlbertConfig", NARROW, token_types=True),
    "bert-generation": encoder("BertGenerationConfig", COMMON),
    "big-bird": encoder("BigBirdConfig", COMMON | {"attention_type": "original_full"}),
    "camembert": encoder("CamembertConfig", ROBERTA, chain=pooled("mean", normalize=False)),
    "data2vec-text": encoder("Data2VecTextConfig", ROBERTA),
    "deberta": encoder("DebertaConfig", DISENTANGLED | {"max_relative_positions": -1}),
    "deberta-v3": encoder(
        "DebertaV2Config",
        DISENTANGLED | {"position_buckets": 8, "norm_rel_ebd": "layer_norm", "share_att_key": True},
    ),
    "electra": encoder("ElectraConfig", NARROW, token_types=True),
    "ernie": encoder("ErnieConfig", COMMON, token_types=True),
    "esm": encoder("EsmConfig", COMMON | {"position_embedding_type": "rotary", "mask_token_id": 3}),
    "eurobert": encoder("EuroBertConfig", DECODER, transformers=NEW),
    "gte-multilingual": encoder("GteConfig", COMMON, chain=pooled("cls"), transformers=NEW),
    "ibert": encoder("IBertConfig", ROBERTA),
    "jina-v3": encoder("JinaEmbeddingsV3Config", ROBERTA, transformers=NEW),
    "luke": encoder("LukeConfig", ROBERTA | {"entity_vocab_size": 10, "entity_emb_size": 16}),
    "megatron-bert": encoder("MegatronBertConfig", COMMON, token_types=True),
    "mobilebert": encoder(
        "MobileBertConfig",
        COMMON | {"embedding_size": 16, "intra_bottleneck_size": 32, "true_hidden_size": 32},
        token_types=True,
    ),
    "mt5": encoder("MT5Config", T5 | {"feed_forward_proj": "gated-gelu"}),
    "rembert": encoder(
        "RemBertConfig",
        COMMON | {"input_embedding_size": 16, "output_embedding_size": 16},
        token_types=True,
    ),
    "roberta-prelayernorm": encoder("RobertaPreLayerNormConfig", ROBERTA),
    "roformer": encoder("RoFormerConfig", COMMON, chain=pooled("cls"), token_types=True),
    "sentence-t5": encoder("T5Config", T5, chain=sentence_t5),
    "squeezebert": encoder(
        "SqueezeBertConfig",
        COMMON
        | {"embedding_size": HIDDEN}
        | dict.fromkeys(["q_groups", "k_groups", "v_groups"], 2)
        | dict.fromkeys(["intermediate_groups", "output_groups"], 2),
        refuses_int8=r"no MatMul with a constant weight in the graph but 12 Conv",
    ),
    "ultrabert": encoder("UltrabertConfig", DECODER | LOCAL_AND_GLOBAL, transformers=NEW),
    "xlm-roberta-xl": encoder("XLMRobertaXLConfig", ROBERTA),
}
DECODERS = {
    "bge-gemma2": decoder(
        "Gemma2Config", DECODER | {"sliding_window": 8, "query_pre_attn_scalar": 16}
    ),
    "e5-mistral": decoder("MistralConfig", DECODER | {"sliding_window": 8}),
    "embeddinggemma-2": decoder(
        "EmbeddingGemma2TextConfig",
        DECODER
        | LOCAL_AND_GLOBAL
        | {
            "hidden_size_per_layer_input": 16,
            "embedding_dim": HIDDEN,
            "global_head_dim": 32,
            "num_global_key_value_heads": 1,
        },
        chain=pooled("mean"),
        padding="right",
        transformers=NEW,
    ),
    "clip-text": decoder(
        "CLIPTextConfig",
        COMMON | {"bos_token_id": 0, "eos_token_id": 2},
        padding="right",
    ),
    "ettin-decoder": decoder("ModernBertDecoderConfig", MODERN),
    "granite": decoder("GraniteConfig"),
    "gpt2": decoder(
        "GPT2Config",
        GPT | {"n_embd": HIDDEN, "n_layer": 2, "n_head": 2, "n_positions": 64},
        chain=pooled("weightedmean"),
        padding="right",
    ),
    "harrier-270m": decoder(
        "Gemma3TextConfig", DECODER | LOCAL_AND_GLOBAL | {"query_pre_attn_scalar": 16}
    ),
    "llama": decoder("LlamaConfig"),
    "llama-nemotron": decoder(
        "LlamaConfig",
        DECODER | {"is_causal": False},
        chain=MEAN,
        padding="right",
        transformers=NEW,
    ),
    "olmo2": decoder("Olmo2Config"),
    "qwen2": decoder("Qwen2Config"),
    "sgpt-bloom": decoder(
        "BloomConfig",
        GPT | {"n_layer": 2, "n_head": 2},
        chain=pooled("weightedmean"),
        padding="right",
    ),
    "sgpt-neo": decoder(
        "GPTNeoConfig",
        GPT
        | {
            "num_layers": 2,
            "num_heads": 2,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 8,
            "intermediate_size": MIDDLE,
            "max_position_embeddings": 64,
        },
        chain=pooled("weightedmean"),
        padding="right",
    ),
}
MORE = ENCODERS | DECODERS
ON_EVERY_COMMIT = frozenset(
    [
        "albert",
        "bert-generation",
        "big-bird",
        "camembert",
        "data2vec-text",
        "electra",
        "ernie",
        "eurobert",
        "gte-multilingual",
        "jina-v3",
    ]
)
"""Some of those whose row in the table passes throughout, exported on every commit as well; the
rest takes part where ``whole`` is asked for."""
STOPS = {
    "longformer": encoder(
        "LongformerConfig", ROBERTA | {"attention_window": [8, 8], "max_position_embeddings": 80}
    ),
    "xlnet": encoder(
        "XLNetConfig",
        {"d_model": HIDDEN, "n_layer": 2, "n_head": 2, "d_inner": MIDDLE, "pad_token_id": 1},
    ),
    "convbert": encoder("ConvBertConfig", NARROW | {"head_ratio": 1, "conv_kernel_size": 3}),
    "fnet": encoder("FNetConfig", COMMON, transformers=NEW),  # the older set cannot run it
}
"""What stops at export: windows cut by the text's own length, and a mask, that torch's exporter
cannot trace; a convolution, and a Fourier transform, over the padding too."""
