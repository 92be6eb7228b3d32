"""The gate's checks as GitHub Actions annotations, and a summary of the step."""

from __future__ import annotations

from collapsekit.io.safe_text import clean
from collapsekit.render import write as write_document
from collapsekit.render.views.gate import worst_first
from collapsekit.report.gate import GateReport
from collapsekit.report.names import cleaned_gate

MOST = 10  # annotations of a kind that GitHub keeps of a step
_COMMANDS = {"failed": "error", "inconclusive": "warning"}
_IN_TEXTS = str.maketrans({"%": "%25", "\r": "%0D", "\n": "%0A"})
_IN_TITLES = _IN_TEXTS | str.maketrans({":": "%3A", ",": "%2C"})


def write(report: GateReport) -> str:
    """Workflow commands: an error for each failed check, a warning for each that decided nothing, at most MOST of each, the
    last of which says how many are left out; and a notice of the outcome, a warning where nothing was checked."""
    report = cleaned_gate(report)
    out = []
    for state, command in _COMMANDS.items():
        found = [c for c in worst_first(report) if c.state == state]
        shown = found if len(found) <= MOST else found[: MOST - 1]
        out += [_command(command, f"gate {state}: {clean(c.name)}", c.sentence) for c in shown]
        if len(found) > len(shown):
            rest = f"{len(found) - len(shown)} more checks {state}: see the step summary or --format json."
            out.append(_command(command, f"gate {state}", rest))
    out.append(_command("notice" if report.checks else "warning", f"gate {report.outcome}", report.summary))
    return "\n".join(out) + "\n"


def step_summary(report: GateReport, most: int = 1 << 20) -> str:
    """Cut the Markdown of the gate to ``most`` bytes of UTF-8, at the end of a line, which is then said."""
    left_out = "\n\nThe rest is left out, as it is longer than a summary may be: see --format json.\n"
    text = write_document(report, "markdown")
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= most:
        return text
    return data[: max(0, most - len(left_out.encode()))].rpartition(b"\n")[0].decode() + left_out


def _command(name: str, title: str, text: str) -> str:
    return f"::{name} title={title.translate(_IN_TITLES)}::{text.translate(_IN_TEXTS)}"
