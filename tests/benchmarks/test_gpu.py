"""The script for whoever has a GPU runs on the CPU beside itself, and sees numbers that differ."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.gpu import __main__ as script
from benchmarks.gpu.checks import Check, compare, make_checks, run_check


def test_it_prints_a_line_a_check_and_exits_with_0(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu", "--device", "cpu", "shortcuts recurrent", "monitor linear"])
    assert script.main() == 0
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.startswith("ok   shortcuts recurrent: 2 numbers")
    assert second.startswith("ok   monitor linear")
    assert last.startswith("2 of 2 checks agree on cpu")


def test_a_check_fails_where_device_and_cpu_differ(tmp_path: Path) -> None:
    check = Check("c", lambda device, _folder: {"x": 2.0 if device == "cpu" else 2.1, "y": None})
    assert run_check(check, "cuda", tmp_path, 0.1).passed
    assert run_check(check, "cuda", tmp_path, 0.01).odd == ("x: 2 on the CPU, 2.1 on the device",)
    for here, there in (({"x": 1.0}, {"x": None}), ({"x": None}, {}), ({"x": 1.0}, {"x": float("nan")})):
        assert not compare(check, here, there, 1.0).passed
    broken = run_check(Check("c", lambda *_: 1 / 0), "cuda", tmp_path, 1.0)  # type: ignore[arg-type,return-value]
    assert broken.odd == ("ZeroDivisionError: division by zero",)


def test_names_of_checks_differ() -> None:
    names = [c.name for c in make_checks()]
    assert len(set(names)) == len(names)
