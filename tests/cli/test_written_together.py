"""Commands that write the same files at once: what is there in the end is one's, whole, and nobody's work is lost unsaid."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer

from collapsekit.cli.commands.baseline import create
from collapsekit.cli.commands.diagnose import Format, write_report
from collapsekit.report.baseline import Baseline
from collapsekit.report.diagnosis import Report
from collapsekit.report.per_example import NAME, digest
from tests.gating.making import make_records, make_report
from tests.gating.test_baseline import write


def at_once(calls: Sequence[Callable[[], Any]]) -> list[BaseException | None]:
    """What each raised, begun together."""
    ready, raised = threading.Barrier(len(calls)), [None] * len(calls)

    def call(number: int) -> None:
        ready.wait()
        try:
            calls[number]()
        except BaseException as e:  # noqa: BLE001 - told to the caller
            raised[number] = e  # type: ignore[call-overload]

    threads = [threading.Thread(target=call, args=[number]) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised  # type: ignore[return-value]


def test_files_of_two_diagnoses_are_not_mixed(tmp_path: Path) -> None:
    """The records beside a report are the ones that it names."""
    reports = []
    for use in (0.9, 0.8, 0.7, 0.6):
        uses = {"audio": use, "image": 0.9}
        reports.append(make_report(uses, records=make_records(uses, 0.9), sha=f"weights {use}"))
    for _ in range(10):
        calls = [lambda r=report: write_report(r, tmp_path, [Format.json], False, None) for report in reports]
        assert at_once(calls) == [None] * 4
        kept = Report.from_json((tmp_path / "report.json").read_text())
        assert kept.settings["records"] == digest((tmp_path / NAME).read_bytes())
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted([NAME, "report.json"])


def test_of_two_that_make_a_baseline_one_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        write(tmp_path / str(number), make_report(sha=f"weights {number}", training_seed=number))
    output = tmp_path / "baseline.json"
    typed = {"output": output, "records": False, "force": False}
    raised = at_once([lambda n=number: create(reports=[tmp_path / str(n)], **typed) for number in range(3)])
    codes = sorted(e.exit_code if isinstance(e, typer.Exit) else 0 for e in raised)
    assert codes == [0, 2, 2], raised
    assert capsys.readouterr().err.count("is there already") == 2
    assert len(Baseline.load(output).runs) == 1
