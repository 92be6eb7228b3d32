"""The gate's checks as JUnit XML, which CI systems show as tests."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from collapsekit.report.gate import GateReport
from collapsekit.report.names import cleaned_gate


def write(report: GateReport) -> str:
    """Write one suite, a test case a check: failed ones as ``failure``, those that decided nothing as ``error``, as a
    skipped one would count as green. Without checks, one error: nothing was evaluated."""
    report = cleaned_gate(report)
    states = [c.state for c in report.checks] or ["inconclusive"]
    numbers = {"tests": len(states), "failures": states.count("failed"), "errors": states.count("inconclusive")}
    counts = {name: str(number) for name, number in numbers.items()}
    root = ET.Element("testsuites", {"name": "collapsekit", **counts})
    suite = ET.SubElement(root, "testsuite", {"name": "collapsekit gate", **counts, "skipped": "0"})
    properties = ET.SubElement(suite, "properties")
    about = {name: str(getattr(report.subject, name)) for name in ("checkpoint", "sha256", "split", "examples")}
    about |= {name: getattr(report, name) for name in ("outcome", "verdict", "collapsekit")}
    for name, value in about.items():
        ET.SubElement(properties, "property", {"name": name, "value": value})
    for check in report.checks:
        case = ET.SubElement(suite, "testcase", {"classname": f"gate.{check.modality or 'model'}", "name": check.name})
        if check.state != "passed":
            kind = "failure" if check.state == "failed" else "error"
            said = ET.SubElement(case, kind, {"message": check.sentence, "type": check.state})
            said.text = f"{check.sentence}\n{check.definition}\n{check.source}"
        else:
            ET.SubElement(case, "system-out").text = check.sentence
    if not report.checks:
        case = ET.SubElement(suite, "testcase", {"classname": "gate.model", "name": "nothing was checked"})
        ET.SubElement(case, "error", {"message": report.summary, "type": "inconclusive"})
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"
