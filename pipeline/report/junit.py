"""Write JUnit XML for CI systems, and the gates of ``report.json`` as its test cases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from xml.etree import ElementTree as ET


@dataclass(frozen=True, slots=True, kw_only=True)
class JUnitCase:
    """One test case; ``message`` says why it did not pass, or what a passed one printed.

    ``kind`` is the type of a failure or error, ``detail`` its longer text.
    """

    classname: str
    name: str
    outcome: Literal["passed", "failure", "error", "skipped"] = "passed"
    message: str = ""
    kind: str | None = None
    detail: str | None = None
    seconds: float | None = None


def to_xml(suite_name: str, cases: Sequence[JUnitCase]) -> str:
    """Return one suite of test cases as a JUnit file, without what XML cannot hold."""
    counts = {
        "tests": str(len(cases)),
        "failures": str(sum(case.outcome == "failure" for case in cases)),
        "errors": str(sum(case.outcome == "error" for case in cases)),
        "skipped": str(sum(case.outcome == "skipped" for case in cases)),
    }
    suites = ET.Element("testsuites", counts)
    suite = ET.SubElement(suites, "testsuite", {"name": _valid(suite_name)} | counts)
    suite.extend(map(_element, cases))
    ET.indent(suites)
    return ET.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _element(case: JUnitCase) -> ET.Element:
    named = {"classname": _valid(case.classname), "name": _valid(case.name)}
    timed = {} if case.seconds is None else {"time": f"{case.seconds:.1f}"}
    element = ET.Element("testcase", named | timed)
    if case.outcome != "passed":
        kind = {} if case.kind is None else {"type": _valid(case.kind)}
        said = ET.SubElement(element, case.outcome, kind | {"message": _valid(case.message)})
        said.text = None if case.detail is None else _valid(case.detail)
    elif case.message:
        ET.SubElement(element, "system-out").text = _valid(case.message)
    return element


def _valid(text: str) -> str:
    """Leave out what XML 1.0 has no way to write, as a log may hold.

    https://www.w3.org/TR/xml/#charsets
    """
    return "".join(c for c in text if c in "\t\n\r" or (c >= " " and not _is_no_character(c)))


def _is_no_character(c: str) -> bool:
    return c in "\ufffe\uffff" or "\ud800" <= c <= "\udfff"


def render_junit(data: Mapping[str, Any]) -> str:
    """Return the gates of ``report.json`` as JUnit XML.

    An artifact that was not executed has the others' gates, skipped with its reason (one case named
    ``executed`` where no artifact ran), and its own where its plan was judged all the same.
    """
    executed = [artifact for artifact in data["artifacts"] if artifact["executed"]]
    names = list(dict.fromkeys(gate["name"] for a in executed for gate in a["gates"]))
    cases = []
    for artifact in data["artifacts"]:
        if artifact["executed"]:
            cases += [_gate(artifact["name"], gate) for gate in artifact["gates"]]
        else:
            judged = artifact.get("gates", [])
            cases += [_gate(artifact["name"], gate) for gate in judged]
            done = {gate["name"] for gate in judged}
            cases += [_skipped(artifact, n) for n in names or ["executed"] if n not in done]
    return to_xml(f"{data['model']} {data['precision']}", cases)


def _gate(artifact: str, gate: Mapping[str, Any]) -> JUnitCase:
    words = f"{gate['observed']} against a threshold of {gate['threshold']} ({gate['setting']})"
    words += f": {gate['detail']}" if gate["detail"] else ""
    outcome: Literal["passed", "failure"] = "passed" if gate["passed"] else "failure"
    return JUnitCase(classname=artifact, name=gate["name"], outcome=outcome, message=words)


def _skipped(artifact: Mapping[str, Any], gate: str) -> JUnitCase:
    reason = f"not executed: {artifact['reason']}"
    return JUnitCase(classname=artifact["name"], name=gate, outcome="skipped", message=reason)
