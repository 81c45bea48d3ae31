"""Write what servers read beside the graph: tokenizer and module configs, in old and new form."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as FastTokenizer

from pipeline.errors import ResolveError

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
    model: Any, source: Path, assets: Path, *, max_length: int, changed: Mapping[str, Any]
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
    _limit_tokenizer(model.tokenizer, assets, max_length)
    for name in _CONFIGS:
        if (source / name).is_file():
            shutil.copyfile(source / name, assets / name)
    for module in json.loads((source / "modules.json").read_text("utf-8")):
        config = source / module["path"] / "config.json"
        if module["path"] and config.is_file():
            (assets / module["path"]).mkdir(parents=True, exist_ok=True)
            text = config.read_text("utf-8")
            if module["type"].endswith("Pooling"):
                text = json.dumps(_with_pooling_booleans(json.loads(text)), indent=2)
            (assets / module["path"] / "config.json").write_text(text, "utf-8")
    _copy_with(source, assets, "config_sentence_transformers.json", changed)
    bert = _read(source / "sentence_bert_config.json")
    lower = bert.get("do_lower_case", False)
    length = {"max_seq_length": max_length, "do_lower_case": lower}
    _copy_with(source, assets, "sentence_bert_config.json", length)


def _write_special_tokens(tokenizer: Any, path: Path) -> None:
    """Write what fastembed reads and transformers 5 no longer saves: each special token's text."""
    if not path.is_file():
        known = tokenizer.special_tokens_map.items()
        named = {name: token for name, token in known if isinstance(token, str)}  # no list of more
        path.write_text(json.dumps(named, indent=2, ensure_ascii=False), "utf-8")


def _limit_tokenizer(tokenizer: Any, assets: Path, max_length: int) -> None:
    """Truncate at ``max_length`` and pad to a batch's longest text, in both tokenizer files."""
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
    fast.save(str(path))
    config = _read(assets / "tokenizer_config.json")
    for key in ("max_length", "stride", "truncation_strategy", "pad_to_multiple_of"):
        config.pop(key, None)  # what tokenizer.json was saved with; fastembed obeys max_length
    config |= {
        "model_max_length": max_length,
        "padding_side": tokenizer.padding_side,  # Sentence Transformers may have set it
        "truncation_side": tokenizer.truncation_side,
    }
    (assets / "tokenizer_config.json").write_text(
        json.dumps(config, indent=2, ensure_ascii=False), "utf-8"
    )


def _copy_with(source: Path, assets: Path, name: str, changed: Mapping[str, Any]) -> None:
    if changed:
        settings = _read(source / name) | dict(changed)
        (assets / name).write_text(json.dumps(settings, indent=2, ensure_ascii=False), "utf-8")
    elif (source / name).is_file():
        shutil.copyfile(source / name, assets / name)


def _read(path: Path) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return settings


def _with_pooling_booleans(config: dict[str, Any]) -> dict[str, Any]:
    modes = config.get("pooling_mode")
    if modes is None:  # the old form, of which text-embeddings-inference wants these four
        return {_POOLING_BOOLEANS[mode]: False for mode in _OLDEST} | config
    modes = [modes] if isinstance(modes, str) else modes
    booleans = {key: mode in modes for mode, key in _POOLING_BOOLEANS.items()}
    return {"word_embedding_dimension": config.get("embedding_dimension"), **config, **booleans}
