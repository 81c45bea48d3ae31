"""card: front matter that the hub reads, numbers of the report, and no licence that nobody gave."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bundles import manifest_of
from example_report import LONG, VARIANTS, int8
from huggingface_hub import ModelCard

from pipeline.contracts import SourceModel
from pipeline.report.card import render_card
from pipeline.source.origin import base_model, stated_license

Data = dict[str, Any]


@pytest.fixture(scope="session")
def manifest(tiny_bundle: Path) -> Data:
    """The manifest that a bundle was published with."""
    return manifest_of(tiny_bundle)


def card(manifest: Data, report: Data | None = None, **model: Any) -> tuple[Data, str]:
    """Render, and return front matter and text as the hub's own library reads them."""
    changed = manifest | {"model": manifest["model"] | model}
    found: Any = ModelCard(render_card(changed, report or int8()))
    return found.data.to_dict(), found.text


def test_front_matter(manifest: Data) -> None:
    found, _ = card(manifest, license={"id": "mit"}, base_model="me/base")
    assert found == {
        "base_model": "me/base",
        "library_name": "sentence-transformers",
        "license": "mit",
        "pipeline_tag": "sentence-similarity",
        "tags": ["sentence-transformers", "onnx", "tensorrt", "fp32"],
    }
    quantized, _ = card(manifest | {"precision_type": "int8"}, base_model="me/base")
    assert quantized["base_model_relation"] == "quantized"


def test_a_licence_that_is_not_stated(manifest: Data) -> None:
    found, text = card(manifest, license=None, base_model=None)
    assert {"license", "base_model"}.isdisjoint(found)
    assert "Licence of the weights: unknown" in text


def test_a_licence_of_its_own(manifest: Data) -> None:
    stated = {"id": "other", "name": "model-terms", "link": "LICENSE"}
    found, text = card(manifest, license=stated)
    assert found["license"] == "other"
    assert found["license_name"] == "model-terms"
    assert "as their card states it: model-terms" in text


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_numbers_are_the_reports(manifest: Data, variant: str) -> None:
    report = VARIANTS[variant]()
    _, text = card(manifest, report)
    for artifact in report["artifacts"]:
        row = next(line for line in text.splitlines() if line.startswith(f"| {artifact['name']} "))
        expected = "not executed: " if not artifact["executed"] else "×"
        assert expected in row
    assert report["environment"]["cpu"] in text
    assert "Not built: tensorrt" in text if report["not_built"] else "Not built" not in text


def test_what_it_leads_to(manifest: Data) -> None:
    _, text = card(manifest)
    assert "float32 [2, 32]" in text
    assert f"`{manifest['model']['weights_sha256']}`" in text
    assert "TensorRT engines are built from `tensorrt/model.onnx`" in text
    assert "(SOURCE_README.md)" in text
    assert "SOURCE_README.md" not in card(manifest, source_card=False)[1]
    assert manifest["model"]["id"] not in text  # a path of the machine
    assert "me/base@1" in card(manifest, origin="hub", id="me/base@1")[1]


def test_markup_in_names_stays_text(manifest: Data) -> None:
    _, text = card(manifest, int8() | {"dataset": LONG}, name="<script>|a|")
    assert "<script>" not in text


def test_the_bundle_keeps_the_sources_card(tiny_bundle: Path, minilm_dir: Path) -> None:
    kept = (tiny_bundle / "SOURCE_README.md").read_text("utf-8")
    ours = (tiny_bundle / "README.md").read_text("utf-8")
    assert ours.startswith("---\n")
    assert "# tiny int8" in ours
    assert kept != ours
    files = manifest_of(tiny_bundle)["files"]
    assert {"README.md", "SOURCE_README.md", "bom.cdx.json"} <= files.keys()


# Where licence and base model come from.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("---\nlicense: apache-2.0\n---\n", {"id": "apache-2.0"}),
        (
            "---\nlicense: other\nlicense_name: terms\nlicense_link: LICENSE\n---\n",
            {"id": "other", "name": "terms", "link": "LICENSE"},
        ),
        ("---\nlanguage: en\n---\n# apache-2.0 they say", None),
        ("# No front matter, licensed under MIT", None),
        ("---\nlicense: [mit, apache-2.0]\n---\n", None),
        ("---\nlicense: {\n---\n", None),
        ("---\n- a\n---\n", None),
        (None, None),
    ],
)
def test_stated_license(
    tiny_source: SourceModel, tmp_path: Path, text: str | None, expected: dict[str, str] | None
) -> None:
    if text is not None:
        (tmp_path / "README.md").write_text(text)
    assert stated_license(replace(tiny_source, assets=tmp_path)) == expected


def test_the_real_model_states_its_licence(tiny_source: SourceModel, minilm_dir: Path) -> None:
    assert stated_license(replace(tiny_source, assets=minilm_dir)) == {"id": "apache-2.0"}


def test_base_model(tiny_source: SourceModel) -> None:
    ours = tiny_source.sha256

    def known(hub_id: str | None, sha256: str | None) -> str | None:
        return base_model(tiny_source, {"model": {"hub_id": hub_id, "weights_sha256": sha256}})

    assert known("me/base", ours) == "me/base"
    assert known("me/base", None) is None  # nobody checked that these are its weights
    assert known("me/base", "0" * 64) is None
    assert known(None, ours) is None
    assert known("a path/../x", ours) is None
    hub = replace(tiny_source, origin="hub", location="me/other@" + "0" * 40)
    assert base_model(hub, {"model": {}}) == "me/other"
