"""conf/model/: every choice composes, and says what the pipeline needs to find the model."""

import re
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from pipeline.config import (
    CONF_DIR,
    HighPrecision,
    NumericType,
    PipelineConfig,
    register_schema,
)
from pipeline.errors import ConfigError
from pipeline.flow.run import run

CHOICES = sorted(path.stem for path in (CONF_DIR / "model").glob("*.yaml"))
LISTED = {
    "minilm",
    "all-minilm-l12-v2",
    "mpnet",
    "paraphrase-multilingual-minilm-l12-v2",
    "paraphrase-multilingual-mpnet-base-v2",
    "multi-qa-minilm-l6-cos-v1",
    "bge-small-en-v1.5",
    "bge-base-en-v1.5",
    "bge-large-en-v1.5",
    "bge-m3",
    "e5-small-v2",
    "e5-base-v2",
    "e5-large-v2",
    "multilingual-e5-small",
    "multilingual-e5-base",
    "multilingual-e5-large",
    "gte-small",
    "gte-base",
    "gte-modernbert-base",
    "modernbert-embed-base",
    "snowflake-arctic-embed-s",
    "snowflake-arctic-embed-m",
    "snowflake-arctic-embed-l",
    "mxbai-embed-large-v1",
    "nomic-embed-text-v1.5",
    "labse",
    "embeddinggemma-300m",
    "qwen3-embedding-0.6b",
    "all-distilroberta-v1",
    "distiluse-base-multilingual-cased-v2",
    "granite-embedding-311m-multilingual-r2",
    "granite-embedding-97m-multilingual-r2",
    "granite-embedding-english-r2",
    "granite-embedding-small-english-r2",
    "gte-large",
    "gte-multilingual-base",
    "gtr-t5-base",
    "harrier-oss-v1-0.6b",
    "harrier-oss-v1-270m",
    "msmarco-distilbert-base-tas-b",
    "msmarco-minilm-l6-cos-v5",
    "multi-qa-mpnet-base-cos-v1",
    "multi-qa-mpnet-base-dot-v1",
    "paraphrase-mpnet-base-v2",
    "qwen3-embedding-4b",
    "qwen3-embedding-8b",
    "sentence-t5-base",
    "snowflake-arctic-embed-l-v2.0",
    "snowflake-arctic-embed-m-v2.0",
    "snowflake-arctic-embed-xs",
}
UNPINNED = {
    "all-distilroberta-v1",
    "distiluse-base-multilingual-cased-v2",
    "gte-multilingual-base",
    "msmarco-distilbert-base-tas-b",
    "msmarco-minilm-l6-cos-v5",
    "multi-qa-mpnet-base-cos-v1",
    "paraphrase-mpnet-base-v2",
}
"""Of these no public list that was in reach names a commit."""


def composed(*arguments: str) -> PipelineConfig:
    register_schema()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = OmegaConf.to_object(compose("config", list(arguments)))
    assert isinstance(config, PipelineConfig)
    return config


def test_the_models_people_use_are_there() -> None:
    assert set(CHOICES) == LISTED | {"custom"}


@pytest.mark.many
@pytest.mark.parametrize("choice", sorted(LISTED))
def test_a_choice_is_pinned_and_named_as_its_file(choice: str) -> None:
    model = composed(f"model={choice}").model
    assert model.name == choice
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", model.hub_id or "")
    if choice in UNPINNED:
        assert model.revision is None
    else:
        assert re.fullmatch(r"[0-9a-f]{40}", model.revision or "")
    assert model.default_prompt is None or model.default_prompt in model.prompts
    assert not model.trust_remote_code  # code of others is switched on by the user only


def test_prompts_can_be_given_on_the_command_line() -> None:
    given = ["model=custom", "model.name=x", "+model.prompts={query: 'q: '}"]
    assert composed(*given, "model.default_prompt=query").model.prompts == {"query": "q: "}


@pytest.mark.many
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"type": NumericType.fp16},
            "precision=bf16 or fp32, or precision=int8 precision.high_precision",
        ),
        ({"type": NumericType.int8}, "set precision.high_precision=fp32"),
        ({"type": NumericType.int8, "high_precision": HighPrecision.fp32}, None),
        ({"type": NumericType.fp32}, None),
    ],
    ids=["fp16", "int8", "int8 with fp32", "fp32"],
)
def test_a_model_that_does_not_fit_fp16_is_refused_it(
    settings: dict[str, Any], words: str | None, tmp_path: Path
) -> None:
    config = composed("model=embeddinggemma-300m", f"artifacts_dir={tmp_path}")
    for name, value in settings.items():
        setattr(config.precision, name, value)
    config.dataset.path = "nowhere"  # what comes next fails on its own
    if words is None:
        config.model.directory = str(tmp_path / "nowhere")
        with pytest.raises(Exception, match=r"no modules\.json"):
            run(config)
    else:
        with pytest.raises(ConfigError, match=re.escape(words)):
            run(config)
    assert not list(tmp_path.glob("embeddinggemma*"))
