"""junit.xml: a case for each artifact and gate."""

from typing import Any
from xml.etree import ElementTree as ET

import pytest

from pipeline.report.junit import JUnitCase, render_junit, to_xml


def gate(name: str, observed: float) -> dict[str, Any]:
    return {
        "name": name,
        "threshold": 0.9,
        "observed": observed,
        "passed": observed >= 0.9,
        "setting": f"validate.gates.{name}",
        "detail": None,
    }


def report(*artifacts: dict[str, Any]) -> dict[str, Any]:
    return {"model": "tiny", "precision": "int8", "artifacts": artifacts}


RAN = {
    "name": "onnxruntime",
    "executed": True,
    "gates": [gate("cosine.mean", 0.95), gate("cosine.p1", 0.85)],
}
SKIPPED = {"name": "tensorrt", "executed": False, "reason": "no <CUDA> device"}


def read(data: dict[str, Any]) -> ET.Element:
    return ET.fromstring(render_junit(data))


def test_each_artifact_and_gate_is_a_case() -> None:
    suites = read(report(RAN, SKIPPED))
    counts = {"tests": "4", "failures": "1", "errors": "0", "skipped": "2"}
    assert suites.attrib == counts
    (suite,) = suites
    assert suite.attrib == {"name": "tiny int8"} | counts
    cases = {(c.get("classname"), c.get("name")): c for c in suite}
    assert list(cases) == [
        (artifact, name)
        for artifact in ("onnxruntime", "tensorrt")
        for name in ("cosine.mean", "cosine.p1")
    ]
    assert cases["onnxruntime", "cosine.mean"].find("failure") is None
    failure = cases["onnxruntime", "cosine.p1"].find("failure")
    assert failure is not None
    message = failure.get("message")
    assert message == "0.85 against a threshold of 0.9 (validate.gates.cosine.p1)"
    skipped = cases["tensorrt", "cosine.p1"].find("skipped")
    assert skipped is not None
    assert skipped.get("message") == "not executed: no <CUDA> device"


@pytest.mark.parametrize(("artifacts", "tests"), [((SKIPPED,), "1"), ((), "0")])
def test_without_an_artifact_that_ran(artifacts: tuple[dict[str, Any], ...], tests: str) -> None:
    suites = read(report(*artifacts))
    assert suites.get("tests") == suites.get("skipped") == tests
    assert suites.get("failures") == "0"


@pytest.mark.parametrize("odd", ["\x00", "\x1b", "\ufffe", "\ud800"])
@pytest.mark.parametrize("outcome", ["passed", "failure", "error", "skipped"])
def test_what_xml_cannot_hold_is_left_out_everywhere(odd: str, outcome: Any) -> None:
    text = f"a{odd}<&>b"
    case = JUnitCase(
        classname=text, name=text, outcome=outcome, message=text, kind=text, detail=text, seconds=1
    )
    root = ET.fromstring(to_xml(text, [case]).encode())
    words = [value for element in root.iter() for value in (*element.attrib.values(), element.text)]
    assert not any(odd in word for word in words if word)
    assert sum(word == "a<&>b" for word in words) >= 4


def test_a_plan_that_was_judged_and_not_executed_has_its_own_gates() -> None:
    plan = gate("plan.int8_gemms", 0.5) | {"detail": "query computes in fp16"}
    cases = {
        (c.get("classname"), c.get("name")): c
        for c in read(report(RAN, SKIPPED | {"gates": [plan]}))[0]
    }
    failure = cases["tensorrt", "plan.int8_gemms"].find("failure")
    assert failure is not None
    assert str(failure.get("message")).endswith(
        "(validate.gates.plan.int8_gemms): query computes in fp16"
    )
    assert cases["tensorrt", "cosine.mean"].find("skipped") is not None
