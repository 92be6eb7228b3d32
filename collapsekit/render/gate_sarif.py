"""The gate's checks as SARIF 2.1.0, for code scanning."""

from __future__ import annotations

import hashlib
from typing import Any
from urllib.parse import quote

from collapsekit.bounds import json_text
from collapsekit.gate_report import GateCheck, GateReport
from collapsekit.render.gate_clean import cleaned_gate

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_RULES = {
    "rule": "A rule over the report does not hold, or cannot be decided.",
    "paired": "A number got worse over the same examples, or it cannot be told.",
    "retrained": "A number is worse than earlier training runs vary, or it cannot be told.",
}
_LEVELS = {"failed": "error", "inconclusive": "warning"}


def render(report: GateReport) -> str:
    """A run with a result for each check that failed (error) or decided nothing (warning); what passed is no finding.
    Where nothing was checked, the tool's notification says so. The same check has the same fingerprint in each run."""
    report = cleaned_gate(report)
    found = [c for c in report.checks if c.state != "passed"]
    kinds = list(_RULES)
    driver = {
        "name": "collapsekit",
        "version": report.collapsekit,
        "rules": [{"id": f"gate/{k}", "shortDescription": {"text": _RULES[k]}} for k in kinds],
    }
    level = {"passed": "note", **_LEVELS}[report.outcome]
    invocation = {
        "executionSuccessful": True,
        "exitCode": report.exit_code,
        "toolExecutionNotifications": [{"level": level, "message": {"text": report.summary}}],
    }
    run = {
        "tool": {"driver": driver},
        "invocations": [invocation],
        "results": [_result(c, kinds.index(c.kind), report) for c in found],
    }
    return json_text({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}) + "\n"


def _result(check: GateCheck, index: int, report: GateReport) -> dict[str, Any]:
    # A place is required where code scanning shows results: the checkpoint, which has no lines of its own.
    place = {
        "artifactLocation": {"uri": quote(report.subject.checkpoint.replace(" ", "_"), safe="/._-") or "checkpoint"},
        "region": {"startLine": 1},
    }
    key = f"{check.kind}\0{check.name}\0{check.modality}"
    return {
        "ruleId": f"gate/{check.kind}",
        "ruleIndex": index,
        "level": _LEVELS[check.state],
        "message": {"text": f"{check.name}: {check.sentence}"},
        "locations": [{"physicalLocation": place}],
        "partialFingerprints": {"collapsekit/check/v1": hashlib.sha256(key.encode()).hexdigest()},
    }
