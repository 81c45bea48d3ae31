"""Tiny Sentence Transformers that differ in how they tokenize, and in nothing else."""

import json
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from families import DECODER, modules

from pipeline.config import DatasetConfig, DatasetFormat
from pipeline.text.datasets import load_dataset

ROWS, HIDDEN, POSITIONS, LIMIT = 700, 32, 64, 48
"""Embeddings, channels, positions, and the tokens a text has at most."""

SPECIAL = {
    "bos_token": "<s>",
    "pad_token": "<pad>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
FRAMES = {
    "both": "<s> $A </s>",
    "first": "<s> $A",
    "last": "$A </s>",
    "none": None,
}
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + "
    "message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TRIMMED = CHATML.replace("message['content']", "(message['content'] | trim)")
DEFAULT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nBe brief.<|im_end|>\\n' }}"
    "{% endif %}" + CHATML
)
STRUCTURED = (
    "{% for message in messages %}{{ message['role'] + ': ' }}{% for item in message['content'] %}"
    "{% if item['type'] == 'text' %}{{ item['text'] }}{% endif %}{% endfor %}{{ '</s>' }}"
    "{% endfor %}"
)
UPPER = CHATML.replace("message['content']", "(message['content'] | upper)")
PROMPT_LAST = (
    "{{ '<|im_start|>' + messages[-1]['content'] + '<|im_end|>' }}"
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}{% endif %}"
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a model's files say of its tokenization.

    ``sentence`` is more of ``sentence_bert_config.json``, ``saved`` of
    ``config_sentence_transformers.json``, ``tokenizer`` of ``tokenizer_config.json``.
    """

    kind: str = "words"
    encoder: str = "bert"
    pooling: str = "mean"
    frame: str = "both"
    padding: str = "right"
    truncation: str = "right"
    lower: bool = False
    template: str | None = None
    added: Sequence[Mapping[str, Any]] = ()
    sentence: Mapping[str, Any] = field(default_factory=dict)
    saved: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Mapping[str, Any] = field(default_factory=dict)


@cache
def _texts() -> tuple[str, ...]:
    config = DatasetConfig(name="sample", format=DatasetFormat.sample)
    runs = ("----------------", "================", "hahahahahahahaha", "aaaaaaaaaaaa")
    return load_dataset(config).calibration[:400] + runs * 20


@cache
def _trained(kind: str) -> str:
    """Return a trained tokenizer as JSON: words, pieces, bytes, unigram or marks."""
    library = import_module("tokenizers")
    parts, models, trainers = library.pre_tokenizers, library.models, library.trainers
    known: dict[str, Any] = {
        "special_tokens": list(SPECIAL.values()), "vocab_size": 600, "show_progress": False
    }  # fmt: skip
    unknown = SPECIAL["unk_token"]
    if kind == "words":
        tokenizer = library.Tokenizer(models.WordLevel(unk_token=unknown))
        tokenizer.pre_tokenizer, trainer = parts.BertPreTokenizer(), trainers.WordLevelTrainer
    elif kind == "pieces":
        tokenizer = library.Tokenizer(models.WordPiece(unk_token=unknown))
        tokenizer.normalizer = library.normalizers.BertNormalizer()
        tokenizer.pre_tokenizer, trainer = parts.BertPreTokenizer(), trainers.WordPieceTrainer
    elif kind == "bytes":
        tokenizer = library.Tokenizer(models.BPE())
        tokenizer.pre_tokenizer, trainer = parts.ByteLevel(), trainers.BpeTrainer
        known["initial_alphabet"] = parts.ByteLevel.alphabet()
    elif kind == "unigram":
        tokenizer = library.Tokenizer(models.Unigram())
        tokenizer.normalizer = library.normalizers.NFKC()
        tokenizer.pre_tokenizer, trainer = parts.Metaspace(), trainers.UnigramTrainer
        known["unk_token"] = unknown
    else:  # merges reach across words
        tokenizer = library.Tokenizer(models.BPE(unk_token=unknown, byte_fallback=False))
        tokenizer.normalizer = library.normalizers.Replace(" ", "▁")
        trainer = trainers.BpeTrainer
    tokenizer.train_from_iterator(_texts(), trainer(**known))
    return str(tokenizer.to_str())


def make_tokenizer(settings: Settings) -> Any:
    """Return the tokenizer that the settings describe."""
    library, transformers = import_module("tokenizers"), import_module("transformers")
    tokenizer = library.Tokenizer.from_str(_trained(settings.kind))
    frame = FRAMES[settings.frame]
    if frame is not None:
        ids = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
        tokenizer.post_processor = library.processors.TemplateProcessing(
            single=frame, pair=f"{frame} $B", special_tokens=ids
        )
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=LIMIT,
        model_input_names=["input_ids", "attention_mask"],
        padding_side=settings.padding,
        truncation_side=settings.truncation,
        **SPECIAL,
    )
    if settings.template is not None:
        marks = ["<|im_start|>", "<|im_end|>"]
        made.add_special_tokens({"additional_special_tokens": marks})
        made.chat_template = settings.template
    token = transformers.AddedToken
    for added in settings.added:
        made.add_tokens([token(**added)])
    return made


@cache
def _encoder(name: str) -> Any:
    transformers: Any = import_module("transformers")
    sizes = {"max_position_embeddings": POSITIONS, "vocab_size": ROWS, "initializer_range": 0.2}
    if name == "bert":
        config = transformers.BertConfig(
            hidden_size=HIDDEN, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=64, pad_token_id=1, **sizes,
        )  # fmt: skip
    elif name == "roberta":
        config = transformers.RobertaConfig(
            hidden_size=HIDDEN, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=64, pad_token_id=1, type_vocab_size=1, **sizes,
        )  # fmt: skip
    else:
        config = transformers.Qwen3Config(**(DECODER | sizes))
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.manual_seed(0)
        return transformers.AutoModel.from_config(config)


@cache
def _saved(encoder: str, pooling: str, template: str | None, lower: bool) -> Path:
    """Return a model that Sentence Transformers saved; only its tokenizer is another's."""
    from sentence_transformers import SentenceTransformer

    root = Path(mkdtemp())
    _encoder(encoder).save_pretrained(str(root / "encoder"))
    make_tokenizer(Settings(template=template)).save_pretrained(str(root / "encoder"))
    first = modules().Transformer(str(root / "encoder"), max_seq_length=LIMIT, do_lower_case=lower)
    chain = [first, modules().Pooling(HIDDEN, pooling), modules().Normalize()]
    SentenceTransformer(modules=chain, device="cpu").save(str(root / "saved"))
    return root / "saved"


def save_tokenized(settings: Settings, root: Path) -> Path:
    """Save a Sentence Transformer with these settings and return its directory."""
    like = _saved(settings.encoder, settings.pooling, settings.template, settings.lower)
    saved = root / "saved"
    shutil.copytree(like, saved, ignore=shutil.ignore_patterns("*token*", "chat_template*"))
    make_tokenizer(settings).save_pretrained(str(saved))
    for name, changed in (
        ("sentence_bert_config.json", settings.sentence),
        ("config_sentence_transformers.json", settings.saved),
        ("tokenizer_config.json", settings.tokenizer),
    ):
        path = saved / name
        path.write_text(json.dumps(json.loads(path.read_text()) | dict(changed)))
    return saved
