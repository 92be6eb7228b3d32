"""report.json, through Report.load; what is read is written and read again."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))

with atheris.instrument_imports(include=["collapsekit", "json"]):
    from collapsekit.errors import RefusedError
    from collapsekit.report import Report
    from tests.fuzz import harness, mutate, seeds
    from tests.fuzz.invariant import check_sentence

FILE = harness.scratch() / "report.json"


def one(data: bytes) -> None:
    FILE.write_bytes(data)
    try:
        report = Report.load(FILE)
    except RefusedError as e:
        check_sentence(str(e), FILE)
        return
    text = report.to_json()
    json.loads(text, parse_constant=_no_number)
    assert Report.from_json(text) == report


def _no_number(name: str) -> float:
    raise AssertionError(f"{name} was written")


def main() -> None:
    harness.fuzz(one, [json.dumps(r).encode() for r in seeds.reports()], mutate.json_text)


if __name__ == "__main__":
    main()
