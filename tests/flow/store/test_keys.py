"""What the key of a stage's output holds."""

import ast
import sys
from importlib import metadata
from pathlib import Path

import pytest

from pipeline.flow.cached_stages import PACKAGES, PLANS
from pipeline.flow.store import keys


def test_key_depends_on_every_part_and_on_nothing_else() -> None:
    parts = {"code": "a", "text": "b"}
    key = keys.key_of("export", parts)
    assert len(key) == 64
    assert key == keys.key_of("export", {"text": "b", "code": "a"})
    others = [
        keys.key_of("cast", parts),
        keys.key_of("export", {"code": "a", "text": "c"}),
        keys.key_of("export", {"code": "b", "text": "a"}),
        keys.key_of("export", {"code": "a"}),
    ]
    assert key not in others
    assert len(set(others)) == len(others)


def test_tree_sees_content_names_and_places_not_times(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    file = tmp_path / "a" / "x.json"
    file.write_text("1")
    before = keys.tree_sha256(tmp_path)
    file.touch()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text("other")
    assert keys.tree_sha256(tmp_path) == before
    file.write_text("2")
    changed = keys.tree_sha256(tmp_path)
    file.rename(tmp_path / "x.json")
    assert len({before, changed, keys.tree_sha256(tmp_path)}) == 3


def test_tree_follows_links_to_files(tmp_path: Path) -> None:
    """A hub's snapshot holds links to the files of its blobs."""
    blob = tmp_path / "blob"
    blob.write_text("1")
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    (snapshot / "model.safetensors").symlink_to(blob)
    before = keys.tree_sha256(snapshot)
    blob.write_text("2")
    assert keys.tree_sha256(snapshot) != before


def test_versions_name_what_is_absent() -> None:
    words = keys.versions(["numpy", "no-such-package"])
    assert words.startswith("python 3.")
    assert ", no-such-package absent, numpy " in words


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package of four modules in the place of ``pipeline``: stage → helper → deep; aside."""
    root = tmp_path / "pipeline"
    (root / "sub").mkdir(parents=True)
    (root / "__init__.py").write_text("")
    (root / "sub" / "__init__.py").write_text("")
    (root / "stage.py").write_text("def run():\n    from pipeline.sub import helper\n")
    (root / "sub" / "helper.py").write_text("import os\nimport pipeline.deep\n")
    (root / "deep.py").write_text("VALUE = 1\n")
    (root / "aside.py").write_text("from pipeline.stage import run\n")
    return root


@pytest.mark.parametrize(
    ("file", "matters"),
    [
        ("stage.py", True),
        ("sub/helper.py", True),
        ("sub/__init__.py", True),
        ("deep.py", True),
        ("aside.py", False),
    ],
)
def test_code_is_what_a_module_imports(package: Path, file: str, matters: bool) -> None:
    keys.code_sha256.cache_clear()
    before = keys.code_sha256("pipeline.stage", package)
    with (package / file).open("a") as stream:
        stream.write("# changed\n")
    keys.code_sha256.cache_clear()
    assert (keys.code_sha256("pipeline.stage", package) != before) is matters
    keys.code_sha256.cache_clear()


STAGES = ["resolve", "export", "ranges", "cast", "quantize", "optimize", "fuse", "build"]


@pytest.mark.many
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_does_not_depend_on_how_its_output_is_measured(stage: str) -> None:
    modules = keys.imported(f"pipeline.stages.{stage}")
    assert {f"pipeline.stages.{stage}", "pipeline.contracts", "pipeline.errors"} <= set(modules)
    elsewhere = ("pipeline.measure", "pipeline.report", "pipeline.flow")
    assert [name for name in modules if name.startswith(elsewhere)] == []


DISPLAY_AND_SETTINGS = {"cattrs", "hydra-core", "omegaconf", "rich"}
"""Change what is shown and how a config or record is read, never what a stage makes of it."""


@pytest.mark.many
@pytest.mark.parametrize("stage", STAGES[:-1])  # build computes in one child, in the runtime alone
def test_a_key_names_every_package_that_the_stage_imports(stage: str) -> None:
    imports = {
        name.partition(".")[0]
        for module, path in keys.imported(f"pipeline.stages.{stage}").items()
        if module != "pipeline.engines.gpu"  # asks PyTorch which GPU there is; computes nothing
        for node in ast.walk(ast.parse(path.read_bytes()))
        for name in _imported_by(node)
    }
    distributions = metadata.packages_distributions()
    packages = {
        distribution.lower().replace("_", "-")
        for name in imports - set(sys.stdlib_module_names) - {"pipeline"}
        for distribution in distributions.get(name, ())
    }
    runtimes = {"tensorrt", "tensorrt-rtx", "openvino", "onnxruntime-gpu", "onnxruntime"}
    assert packages
    named = PACKAGES[stage] | (PLANS if stage == "quantize" else set())
    assert packages - DISPLAY_AND_SETTINGS - runtimes <= named


def _imported_by(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
