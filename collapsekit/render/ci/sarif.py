"""The gate's checks as SARIF 2.1.0, for code scanning."""

from __future__ import annotations

import hashlib
from typing import Any
from urllib.parse import quote

from collapsekit.io.json import json_text
from collapsekit.report.gate import GateCheck, GateReport
from collapsekit.report.names import cleaned_gate

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_INCONCLUSIVE = (
    "An error is a check that failed. A warning is one that decided nothing, which is no pass: its message says what is "
    "missing."
)
_RULES = {
    "rule": (
        "A rule over the report does not hold, or cannot be decided.",
        "A rule of --require, or of `gate: require` in the config, over the report of `collapsekit diagnose`.",
    ),
    "judged": ("A modality is only partly judged.", "What a full judgement lacks stands under `judged` in the report."),
    "paired": (
        "A number got worse over the same examples, or it cannot be told.",
        "Held against the baseline's run of the same training, example by example: a sign-flip permutation test.",
    ),
    "retrained": (
        "A number is worse than earlier training runs vary, or it cannot be told.",
        "Held against the baseline's training runs: a prediction interval of one more run.",
    ),
}
_LEVELS = {"failed": "error", "inconclusive": "warning"}


def write(report: GateReport) -> str:
    """Write a run with a result for each check that failed (error) or decided nothing (warning); what passed is no finding.

    Where nothing was checked, the tool's notification says so. The same check has the same fingerprint in each run.
    """
    report = cleaned_gate(report)
    kinds = list(_RULES)
    driver = {"name": "collapsekit", "version": report.collapsekit, "rules": [_rule(k) for k in kinds]}
    level = {"passed": "note", **_LEVELS}[report.outcome]
    invocation = {
        "executionSuccessful": True,
        "exitCode": report.exit_code,
        "toolExecutionNotifications": [{"level": level, "message": {"text": report.summary}}],
    }
    results = [_result(c, kinds.index(c.kind), report) for c in report.checks if c.state != "passed"]
    run = {"tool": {"driver": driver}, "invocations": [invocation], "results": results}
    return json_text({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}) + "\n"


def _rule(kind: str) -> dict[str, Any]:
    short, full = _RULES[kind]
    return {
        "id": f"gate/{kind}",
        "name": f"Gate{kind.capitalize()}",
        "shortDescription": {"text": short},
        "fullDescription": {"text": full},
        "help": {"text": f"{full} {_INCONCLUSIVE}"},
        "defaultConfiguration": {"level": "error"},
    }


def _uri(checkpoint: str) -> str:
    """The checkpoint as a relative reference, whatever its name: never another host's, nor outside the repository."""
    parts = [quote(p, safe="") for p in checkpoint.split("/") if p not in ("", ".", "..")]
    return "/".join(parts) or "checkpoint"


def _result(check: GateCheck, index: int, report: GateReport) -> dict[str, Any]:
    # A place is required where code scanning shows results: the checkpoint, which has no lines of its own.
    place = {"artifactLocation": {"uri": _uri(report.subject.checkpoint)}, "region": {"startLine": 1}}
    key = f"{check.kind}\0{check.name}\0{check.modality}"
    return {
        "ruleId": f"gate/{check.kind}",
        "ruleIndex": index,
        "level": _LEVELS[check.state],
        "message": {"text": f"{check.name}: {check.sentence}"},
        "locations": [{"physicalLocation": place}],
        "partialFingerprints": {"collapsekit/check/v1": hashlib.sha256(key.encode()).hexdigest()},
    }
