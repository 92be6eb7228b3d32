"""The script for whoever has a GPU runs on the CPU beside itself, and sees numbers that differ."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as script
from benchmarks.gpu.checks import Check, compare, make_checks, run_check
from benchmarks.gpu.speed import Speed, sliced_gram


def test_it_prints_a_line_a_check_and_exits_with_0(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu", "--device", "cpu", "shortcuts recurrent", "monitor linear"])
    assert script.main() == 0
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.startswith("ok   shortcuts recurrent: 2 numbers")
    assert second.startswith("ok   monitor linear")
    assert last.startswith("2 of 2 parts agree on cpu")


def test_the_file_holds_what_was_done_and_names_what_was_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = Check("wrong", lambda device, _folder: {"x": 1.0 if device == "cpu" else 2.0})
    parts = [Speed("fast", lambda *_: {"s": 0.5, "peak": None}), wrong, Speed("slow", lambda *_: {"s": 1 / 0})]
    monkeypatch.setattr(script, "make_parts", lambda: parts)
    monkeypatch.setattr(script, "_name_of", str)
    clock = iter([0.0, 1.0, 59.0, 61.0])
    monkeypatch.setattr(script.time, "monotonic", lambda: next(clock))
    file = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["gpu", "--device", "odd", "--minutes", "1", "-o", str(file)])
    assert script.main() == 1
    found = json.loads(file.read_text())
    assert [(p["name"], p["passed"]) for p in found["parts"]] == [("fast", True), ("wrong", False)]
    assert found["parts"][0]["figures"] == {"s": 0.5, "peak": None}
    assert found["left_out"] == ["slow"]
    assert capsys.readouterr().out.splitlines()[-1] == "left out as the time was over: slow"
    assert script.do_part(parts[2], "cpu", tmp_path)["odd"][0].startswith("ZeroDivisionError")


def test_products_in_slices_are_as_exact_as_in_float64() -> None:
    x = torch.randn(700, 24, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 24)
    exact = x.double().T @ x.double()
    scale = exact.diagonal().sqrt()
    apart = ((sliced_gram(x) - exact) / scale / scale[:, None]).abs().max()
    assert float(apart) < 1e-9
    plain = (((x.T @ x).double() - exact) / scale / scale[:, None]).abs().max()
    assert float(plain) > 1e-8  # the bound can fail


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
