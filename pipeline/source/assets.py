"""Write what servers read beside the graph: tokenizer and module configs, in old and new form."""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as FastTokenizer

from pipeline.errors import ResolveError
from pipeline.files import parse_json
from pipeline.source.tokenization import Tokenization, embedding_rows
from pipeline.text.tokenizer_settings import ROWS, WRAPPING

log = logging.getLogger(__name__)

_CONFIGS = ("config.json", "modules.json", "README.md")
_POOLING_BOOLEANS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
_OLDEST = ("cls", "mean", "max", "mean_sqrt_len_tokens")


def write_assets(
    model: Any,
    source: Path,
    assets: Path,
    tokenization: Tokenization,
    *,
    max_length: int,
    changed: Mapping[str, Any],
) -> None:
    """Write the files that servers read beside the graph; weights stay behind.

    New Sentence Transformers saves leave out ``max_seq_length`` and the pooling booleans that
    text-embeddings-inference reads, so both forms are written. ``tokenizer.json`` may carry another
    truncation and a fixed padding from training, which fastembed, text-embeddings-inference and
    users of ``tokenizers`` obey: it gets the model's. ``changed`` are the keys of
    ``config_sentence_transformers.json`` that the config sets, so that a server which loads the
    directory prompts and truncates as the bundle does.

    Raises:
        ResolveError: the tokenizer has no fast form.
    """
    assets.mkdir(parents=True)
    model.tokenizer.save_pretrained(str(assets))
    _write_special_tokens(model.tokenizer, assets / "special_tokens_map.json")
    if not (assets / "tokenizer.json").is_file():
        raise ResolveError(
            f"{source}: its tokenizer has no fast form (tokenizer.json), which the bundle needs; "
            "convert it with transformers' PreTrainedTokenizerFast and save the model again"
        )
    _settle_tokenizer(model.tokenizer, assets, tokenization, max_length)
    _state_embedding_rows(model, assets)
    for name in _CONFIGS:
        if (source / name).is_file():
            shutil.copyfile(source / name, assets / name)
    for module in parse_json((source / "modules.json").read_text("utf-8")):
        config = source / module["path"] / "config.json"
        if module["path"] and config.is_file():
            (assets / module["path"]).mkdir(parents=True, exist_ok=True)
            text = config.read_text("utf-8")
            if module["type"].endswith("Pooling"):
                text = json.dumps(_with_pooling_booleans(parse_json(text)), indent=2)
            (assets / module["path"] / "config.json").write_text(text, "utf-8")
    _copy_with(source, assets, "config_sentence_transformers.json", changed)
    bert = _read(source / "sentence_bert_config.json")
    own = {"max_seq_length": max_length, "do_lower_case": bert.get("do_lower_case", False)}
    if bert.get("processing_kwargs"):
        own["processing_kwargs"] = model[0].processing_kwargs  # by now with our limit
    _copy_with(source, assets, "sentence_bert_config.json", own)


def _write_special_tokens(tokenizer: Any, path: Path) -> None:
    """Write what fastembed reads and transformers 5 no longer saves: each special token's text."""
    if not path.is_file():
        known = tokenizer.special_tokens_map.items()
        named = {name: token for name, token in known if isinstance(token, str)}  # no list of more
        path.write_text(json.dumps(named, indent=2, ensure_ascii=False), "utf-8")


def _settle_tokenizer(
    tokenizer: Any, assets: Path, tokenization: Tokenization, max_length: int
) -> None:
    """Say in both tokenizer files how the Sentence Transformer calls it.

    Truncate at ``max_length``, pad to a batch's longest text, and add special tokens or none.
    """
    path = assets / "tokenizer.json"
    fast = FastTokenizer.from_file(str(path))
    fast.enable_truncation(max_length, direction=tokenizer.truncation_side)
    fast.no_padding()
    if tokenizer.pad_token is not None:
        fast.enable_padding(
            direction=tokenizer.padding_side,
            pad_id=tokenizer.pad_token_id,
            pad_type_id=tokenizer.pad_token_type_id,
            pad_token=tokenizer.pad_token,
        )
    if not tokenization.adds_special_tokens:
        fast.post_processor = None
    fast.save(str(path))
    config = _read(assets / "tokenizer_config.json")
    for key in ("max_length", "stride", "truncation_strategy", "pad_to_multiple_of"):
        config.pop(key, None)  # what tokenizer.json was saved with; fastembed obeys max_length
    config |= {
        "model_max_length": max_length,
        "padding_side": tokenizer.padding_side,  # Sentence Transformers may have set it
        "truncation_side": tokenizer.truncation_side,
    }
    if tokenization.splits_special_tokens:
        config["split_special_tokens"] = True
    if tokenization.wrapping is not None:
        config[WRAPPING] = asdict(tokenization.wrapping)
    _write(assets / "tokenizer_config.json", config)


def _state_embedding_rows(model: Any, assets: Path) -> None:
    """Note the size of the embedding table where the tokenizer has tokens beyond it."""
    rows = embedding_rows(model)
    beyond = sorted((i, token) for token, i in model.tokenizer.get_vocab().items() if i >= rows)
    if not beyond:
        return
    named = ", ".join(f"{token!r} ({i})" for i, token in beyond[:8])
    log.warning(
        "the model has embeddings for %d tokens, its tokenizer makes %d more: %s%s; a text with "
        "one is refused, as Sentence Transformers fails on it",
        rows,
        len(beyond),
        named,
        ", …" if len(beyond) > 8 else "",
    )
    path = assets / "tokenizer_config.json"
    _write(path, _read(path) | {ROWS: rows})


def _write(path: Path, settings: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False), "utf-8")


def _copy_with(source: Path, assets: Path, name: str, changed: Mapping[str, Any]) -> None:
    if changed:
        settings = _read(source / name) | dict(changed)
        _write(assets / name, settings)
    elif (source / name).is_file():
        shutil.copyfile(source / name, assets / name)


def _read(path: Path) -> dict[str, Any]:
    settings = parse_json(path.read_text("utf-8")) if path.is_file() else {}
    return settings if isinstance(settings, dict) else {}


def _with_pooling_booleans(config: dict[str, Any]) -> dict[str, Any]:
    modes = config.get("pooling_mode")
    if modes is None:  # the old form, of which text-embeddings-inference wants these four
        return {_POOLING_BOOLEANS[mode]: False for mode in _OLDEST} | config
    modes = [modes] if isinstance(modes, str) else modes
    booleans = {key: mode in modes for mode, key in _POOLING_BOOLEANS.items()}
    return {"word_embedding_dimension": config.get("embedding_dimension"), **config, **booleans}
