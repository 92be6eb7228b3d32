"""What `collapsekit --help` and `--version` print, without importing a command or typer."""

from __future__ import annotations

import os
import textwrap

from collapsekit.version import __version__

ABOUT = "Find out which modalities a multimodal PyTorch model ignores, how much that costs, and why."
VERSION = f"collapsekit {__version__}"
# As the commands' own help begins, which a test compares: to ask the commands would wait for typer, and to read their
# sources for Python's parser.
COMMANDS = {
    "demo": "Train a small model on real data, watch it ignore a view, and diagnose it. Takes under a minute.",
    "init": "Write a commented collapsekit.yaml: by running a batch (--factory and --data), else by the checkpoint's names.",
    "inspect": "Show what a checkpoint is and holds, without executing it; exits 3 where it would be refused.",
    "diagnose": "Find out which modality a checkpoint ignores, what that costs, and why.",
    "plan": "Write the questions that a verdict needs, for a model that runs elsewhere; `score` reads the answers.",
    "score": "Judge a model by its answers to the questions of `collapsekit plan`; exits 5 where answers are missing.",
    "repair": "Fine-tune a checkpoint so that it uses what it ignored; exits 1 where the result is rejected.",
    "gate": "Decide whether a model may ship: exit 0 passed, 1 failed, 5 inconclusive.",
    "baseline": "Keep earlier reports for `collapsekit gate` to compare with.",
    "report": "Render a report again; nothing is recomputed.",
    "compare": "Put reports side by side: verdicts and numbers, what changed, the best marked, tests over paired runs.",
    "reproduce": "Reproduce a table or figure of the two papers, with what the paper has beside it.",
    "list": "List probes (with definition and source), adapters, repairs, tasks and file formats.",
    "schema": "Print the JSON Schema of report.json, or of another file.",
    "doctor": "Show versions, devices and disk, and what is missing for which extra.",
}
VERSION_HELP = "Print the version and stop."
_OPTIONS = {
    "--version": VERSION_HELP,
    "--install-completion": "Install completion for the current shell.",
    "--show-completion": "Show completion for the current shell, to copy it or customize the installation.",
    "-h, --help": "Show this message and exit.",
}
_NARROW, _WIDE = 60, 100


def overview(width: int | None = None) -> str:
    """List options and commands, a line or two each, no wider than ``width`` columns (default: the terminal's)."""
    columns = max(_NARROW, min(_terminal() if width is None else width, _WIDE))
    usage = ["Usage: collapsekit [OPTIONS] COMMAND [ARGS]...", "", *_wrapped("", ABOUT, 2, columns)]
    options = [line for name, text in _OPTIONS.items() for line in _wrapped(name, text, 24, columns)]
    commands = [line for name, text in COMMANDS.items() for line in _wrapped(name, text, 12, columns)]
    more = "collapsekit COMMAND --help says more of a command."
    return "\n".join([*usage, "", "Options:", *options, "", "Commands:", *commands, "", more])


def _wrapped(name: str, text: str, indent: int, width: int) -> list[str]:
    first = f"  {name}".ljust(indent)
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=" " * indent)


def _terminal() -> int:
    """Columns as $COLUMNS says, else of the terminal, else 80: as shutil.get_terminal_size, which is slow to import."""
    asked = os.environ.get("COLUMNS", "")
    if asked.isdecimal() and int(asked):
        return int(asked)
    try:
        return os.get_terminal_size(1).columns or 80
    except (OSError, ValueError):
        return 80
