"""manifest: what cannot be a manifest of ours is refused with the key that is wrong."""

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundles import manifest_of

from pipeline.bundle.lineage import lineage_tree
from pipeline.bundle.manifest import MAX_BYTES, parse_manifest
from pipeline.errors import BundleError

Manifest = dict[str, Any]
SHA = "0" * 64


@pytest.fixture(scope="session")
def manifest(tiny_bundle: Path) -> Manifest:
    """What publishing wrote."""
    return manifest_of(tiny_bundle)


def refusal(text: str | bytes) -> str:
    content = text.encode() if isinstance(text, str) else text
    with pytest.raises(BundleError) as raised:
        parse_manifest(Path("bundle"), content)
    message = str(raised.value)
    assert message.startswith("bundle/manifest.json: ")
    assert "\n" not in message
    return message


def test_what_is_published_is_accepted(manifest: Manifest) -> None:
    assert parse_manifest(Path("bundle"), json.dumps(manifest).encode()) == manifest


def test_a_manifest_of_before_is_accepted(manifest: Manifest) -> None:
    """Without the keys that came later."""
    old = copy.deepcopy(manifest)
    for key in ("license", "base_model", "source_card"):
        del old["model"][key]
    del old["cpu_runtime"]
    assert parse_manifest(Path("bundle"), json.dumps(old).encode()) == old


@pytest.mark.parametrize(
    "key", ["precision", "precision_type", "model", "graph", "config", "files", "check"]
)
def test_lacks_a_key(manifest: Manifest, key: str) -> None:
    without = {name: value for name, value in manifest.items() if name != key}
    assert f"lacks {key}; publish the bundle again" in refusal(json.dumps(without))


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("../outside", "plain name below the bundle"),
        ("a/../../outside", "plain name"),
        ("/etc/passwd", "plain name"),
        ("a//b", "plain name"),
        ("./a", "plain name"),
        ("a/.", "plain name"),
        ("", "plain name"),
        ("a/", "plain name"),
        ("..\\outside", "plain name"),
        ("C:outside", "plain name"),
        ("a\nb", "plain name"),
        ("a\u202eb", "plain name"),
        ("a\x00b", "plain name"),
        ("\ud800", "plain name"),
        ("manifest.json", "manifest.json cannot be listed"),
        ("model.sig", "model.sig cannot be listed"),
        ("engines/x/model.plan", "engines/ is made later"),
        ("triton/x/config.pbtxt", "triton/ is made later"),
    ],
)
def test_names_that_lead_astray(manifest: Manifest, name: str, where: str) -> None:
    entry = {"sha256": SHA, "bytes": 1}
    changed = manifest | {"files": manifest["files"] | {name: entry}}
    assert where in refusal(json.dumps(changed))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda m: m.update(schema="1"), "schema is text, expected an integer"),
        (lambda m: m.update(schema=True), "schema is true or false, expected an integer"),
        (lambda m: m.update(schema=1), "schema 1, expected 2; publish"),
        (lambda m: m.update(schema=3), "-trt reads (2): update it"),
        (lambda m: m.update(precision=8), "precision is an integer, expected text"),
        (lambda m: m.update(precision_type="int4"), "precision_type is 'int4', expected one of"),
        (lambda m: m.update(files=[]), "files is a list, expected an object"),
        (lambda m: m["files"].update(x=SHA), "files['x'] is text, expected an object"),
        (lambda m: m["files"].update(x={"bytes": 1}), "lacks files['x'].sha256"),
        (lambda m: m["files"].update(x={"sha256": SHA}), "lacks files['x'].bytes"),
        (lambda m: m["files"].update(x={"sha256": SHA, "bytes": -1}), "bytes is -1"),
        (lambda m: m["files"].update(x={"sha256": SHA, "bytes": 1.5}), "bytes is a fraction"),
        (lambda m: m["files"].update(x={"sha256": "abc", "bytes": 1}), "sha256 is no sha256"),
        (lambda m: m["model"].update(max_length=0), "model.max_length is 0, expected 1 or more"),
        (lambda m: m["model"].update(dimension="32"), "model.dimension is text"),
        (lambda m: m["model"].update(prompts={"query": 1}), "model.prompts.query is an integer"),
        (lambda m: m["model"].update(default_prompt="q"), "default_prompt 'q' is not among"),
        (lambda m: m["model"].update(weights={"x": 1}), "model.weights.x is an integer"),
        (lambda m: m.update(check=[]), "check is a list, expected an object or null"),
        (lambda m: m["check"].pop("gates"), "lacks check.gates"),
        (lambda m: m["check"]["gates"].update(x="1"), "gates.x is text, expected a fraction or"),
        (lambda m: m["lineage"][0].update(sha256=None), "lineage[0].sha256 is null"),
        (lambda m: m["lineage"][1].update({"from": 1}), "lineage[1].from is an integer"),
        (lambda m: m["graph"].pop("inputs"), "lacks graph.inputs"),
        (lambda m: m["graph"].update(inputs=["input_ids"]), "graph.inputs[0] is text"),
        (lambda m: m["graph"]["inputs"][0].pop("dtype"), "lacks graph.inputs[0].dtype"),
        (lambda m: m["graph"]["inputs"][0].update(name='x" ] backend: "python'), "inputs[0].name"),
        (lambda m: m["graph"]["outputs"][0].update(name="other"), "graph.outputs[0].name is"),
        (lambda m: m.update(config={"engine": []}), "config.engine is a list"),
    ],
)
def test_wrong_values(manifest: Manifest, change: Callable[[Manifest], Any], named: str) -> None:
    changed = copy.deepcopy(manifest)
    change(changed)
    assert named in refusal(json.dumps(changed))


@pytest.mark.parametrize("where", ["model.name", "precision"])
@pytest.mark.parametrize(
    "name",
    ["../../x", "/tmp/x", "..", "", "a b", 'x"\nbackend: "python', "a\x1b[2J", "é", "a" * 300],
)
def test_names_that_become_directories(manifest: Manifest, where: str, name: str) -> None:
    """``share pull`` writes ``triton/<name>/`` and a server's configuration with the name."""
    changed = copy.deepcopy(manifest)
    owner = changed["model"] if where == "model.name" else changed
    owner[where.rpartition(".")[2]] = name
    assert f"{where} is {name[:40]!r}, expected letters" in refusal(json.dumps(changed))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "not JSON"),
        ("[]", "a list, expected an object"),
        ("null", "null, expected an object"),
        (b"\xff{}", "not JSON"),
        ('{"schema": 2, "schema": 2}', "key 'schema' is given twice"),
        ('{"schema": 2, "files": {"a": 1, "a": 2}}', "key 'a' is given twice"),
        ('{"schema": NaN}', "NaN is no JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"schema": ' + "9" * 5000 + "}", "not JSON"),
    ],
)
def test_not_json(text: str | bytes, named: str) -> None:
    assert named in refusal(text)


# Documents made to take long: a few seconds of this machine, whatever they hold.


def seconds_of(action: Callable[[], object]) -> float:
    started = time.process_time()
    action()
    return time.process_time() - started


@pytest.mark.slow
def test_many_keys_one_given_twice() -> None:
    keys = [f'"{i:x}":0' for i in range(MAX_BYTES // 12)]
    content = ("{" + ",".join([*keys, keys[-1]]) + "}").encode()
    assert MAX_BYTES // 2 < len(content) <= MAX_BYTES
    assert seconds_of(lambda: refusal(content)) < 10
    assert "is given twice" in refusal(content[:0] + b'{"a": {"b": 1, "c": 2, "b": 1}}')


@pytest.mark.slow
def test_many_small_objects_and_a_long_number() -> None:
    content = b'{"a":[' + b",".join([b'{"a":0}'] * (MAX_BYTES // 8 - 8)) + b"]}"
    assert seconds_of(lambda: refusal(content)) < 10
    assert "not JSON" in refusal(b'{"schema": ' + b"9" * (MAX_BYTES // 2) + b"}")


@pytest.mark.many
@pytest.mark.parametrize("shape", ["circles", "chain", "star"])
def test_a_lineage_that_is_no_tree(shape: str) -> None:
    """Two artifacts made from each other 50 times over are 50 to the power of 50 paths."""
    n = 50_000
    pairs: list[tuple[str | None, str]] = {
        "circles": [(None, "a"), ("a", "b"), *[("b", "c"), ("c", "b")] * 50],
        "chain": [(str(i) if i else None, str(i + 1)) for i in range(n)],
        "star": [(None, "0"), *(("0", str(i)) for i in range(1, n))],
    }[shape]
    steps = [{"artifact": to, "sha256": to, "from": origin} for origin, to in pairs]
    found: list[tuple[int, str, str]] = []
    assert seconds_of(lambda: found.extend(lineage_tree({"lineage": steps}))) < 5
    assert len(found) == len(steps)
    assert {sha256 for _, _, sha256 in found} == {to for _, to in pairs}
