"""``junit.xml`` of a night: a test case for each cell, and for each finding of the history."""

from xml.etree import ElementTree as ET

from pipeline.nightly.cells.status import State, Status
from pipeline.nightly.show.summary import Summary


def to_junit(summary: Summary) -> str:
    """Return the night as JUnit XML: a failed gate is a failure, anything else an error."""
    cases = [_cell(status) for status in summary.statuses]
    for finding in summary.findings:
        name = f"{finding.metric} {finding.kind}"
        case = ET.Element("testcase", {"classname": finding.cell, "name": name})
        if finding.fails:
            ET.SubElement(case, "failure", {"message": _valid(finding.text)})
        else:
            ET.SubElement(case, "system-out").text = _valid(finding.text)
        cases.append(case)
    for problem in summary.problems:
        case = ET.Element("testcase", {"classname": "nightly", "name": "night"})
        ET.SubElement(case, "error", {"message": _valid(problem)})
        cases.append(case)
    counts = {
        "tests": str(len(cases)),
        "failures": str(sum(case.find("failure") is not None for case in cases)),
        "errors": str(sum(case.find("error") is not None for case in cases)),
    }
    suites = ET.Element("testsuites", counts)
    suite = ET.SubElement(suites, "testsuite", {"name": f"night {summary.night}"} | counts)
    suite.extend(cases)
    ET.indent(suites)
    return ET.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _cell(status: Status) -> ET.Element:
    case = ET.Element(
        "testcase",
        {"classname": status.device, "name": status.cell, "time": f"{status.seconds:.1f}"},
    )
    if status.state is State.published:
        return case
    kind = "failure" if status.state is State.rejected else "error"
    where = f" in {status.stage}" if status.stage else ""
    message = f"{status.state}{where}: {status.message or ''}"
    entry = ET.SubElement(case, kind, {"type": status.state, "message": _valid(message)})
    entry.text = _valid(status.command)
    return case


def _valid(text: str) -> str:
    """Leave out what XML 1.0 has no way to write, as a log may hold."""
    return "".join(c for c in text if c in "\t\n\r" or (c >= " " and c not in "\ufffe\uffff"))
