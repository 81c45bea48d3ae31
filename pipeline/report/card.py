"""Render ``README.md`` of a bundle: a model card whose front matter the Hugging Face hub reads."""

from collections.abc import Mapping
from typing import Any

from pipeline.report.html import environment
from pipeline.report.markdown import escape
from pipeline.report.table import COLUMNS, rows
from pipeline.source.origin import source_name

SOURCE_CARD = "SOURCE_README.md"
"""Under this name a bundle keeps the card that came with the weights."""


def render_card(manifest: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """Return the card: what the bundle is, what was measured of it and what was not, its lineage.

    Licence and base model are named only where they are known: ``manifest["model"]`` says.
    """
    templates = environment()
    templates.autoescape = False
    templates.filters["md"] = escape
    template = templates.get_template("card.md.j2")
    return template.render(
        front_matter=_front_matter(manifest),
        manifest=manifest,
        model=manifest["model"],
        source_name=source_name(manifest["model"]),
        report=report,
        columns=COLUMNS[2:],
        rows=rows(report),
        source_card=SOURCE_CARD,
    )


def _front_matter(manifest: Mapping[str, Any]) -> str:
    from huggingface_hub import ModelCardData

    model = manifest["model"]
    stated = model["license"] or {}
    base = model["base_model"]
    quantized = manifest["precision_type"] != "fp32"
    relation: dict[str, Any] = {"base_model_relation": "quantized"} if base and quantized else {}
    return ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        base_model=base,
        license=stated.get("id"),
        license_name=stated.get("name"),
        license_link=stated.get("link"),
        tags=["sentence-transformers", "onnx", "tensorrt", manifest["precision_type"]],
        **relation,
    ).to_yaml()
