"""``junit.xml``: one test case for each artifact and gate, for CI systems that read them."""

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree as ET


def render_junit(data: Mapping[str, Any]) -> str:
    """Return the gates of ``report.json`` as JUnit XML.

    An artifact that was not executed has the others' gates, skipped with its reason (one case named
    ``executed`` where no artifact ran).
    """
    executed = [artifact for artifact in data["artifacts"] if artifact["executed"]]
    names = list(dict.fromkeys(gate["name"] for a in executed for gate in a["gates"]))
    cases = []
    for artifact in data["artifacts"]:
        if artifact["executed"]:
            cases += [_judged(artifact["name"], gate) for gate in artifact["gates"]]
        else:
            cases += [_skipped(artifact, name) for name in names or ["executed"]]
    return to_xml(f"{data['model']} {data['precision']}", cases)


def to_xml(suite_name: str, cases: Sequence[ET.Element]) -> str:
    """Return one suite of test cases as a JUnit file, its counts from what the cases hold."""
    counts = {
        "tests": str(len(cases)),
        "failures": str(sum(case.find("failure") is not None for case in cases)),
        "errors": "0",
        "skipped": str(sum(case.find("skipped") is not None for case in cases)),
    }
    suites = ET.Element("testsuites", counts)
    suite = ET.SubElement(suites, "testsuite", {"name": suite_name} | counts)
    suite.extend(cases)
    ET.indent(suites)
    return ET.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _judged(artifact: str, gate: Mapping[str, Any]) -> ET.Element:
    case = ET.Element("testcase", {"classname": artifact, "name": gate["name"]})
    words = f"{gate['observed']} against a threshold of {gate['threshold']} ({gate['setting']})"
    if gate["passed"]:
        ET.SubElement(case, "system-out").text = words
    else:
        ET.SubElement(case, "failure", {"message": words})
    return case


def _skipped(artifact: Mapping[str, Any], gate: str) -> ET.Element:
    case = ET.Element("testcase", {"classname": artifact["name"], "name": gate})
    ET.SubElement(case, "skipped", {"message": f"not executed: {artifact['reason']}"})
    return case
