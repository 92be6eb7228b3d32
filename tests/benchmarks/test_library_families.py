"""Two families of a library's classes: found by their names, and right where their truth holds."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("transformers")

from benchmarks.families.__main__ import KINDS, main, truths
from benchmarks.records import read_lines


@pytest.mark.slow
def test_library_classes_are_judged_as_they_were_trained(tmp_path: Path) -> None:
    names, file = ["CLIP with a classifier", "ACT, LeRobot's folder"], tmp_path / "families.jsonl"
    main(["--seeds", "1", "--profile", "quick", "--records", str(file), "--families", *names])
    records = read_lines(file)
    assert [(r["family"], r["kind"]) for r in records] == [(name, kind) for name in names for kind in KINDS]
    for record in records:
        truth = truths(record)
        assert truth is not None
        assert record["refused"] is None
        wrong = {"used": "collapsed", "ignored": "used", "untrained": "used"}
        assert all(record["verdicts"][m] != wrong[t] for m, t in truth.items()), record
        if record["kind"] == "ignores":
            assert record["verdicts"]["b"] == "collapsed"
