"""What commands do where an error ended a probe: the report first, then the code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from collapsekit import RepairReport, Report, registry
from collapsekit.probes.credit import utilisation
from collapsekit.probes.runner import FAILED
from collapsekit.repairs import chain
from tests.cli.conftest import Run
from tests.cli.test_commands import SMALL
from tests.faulty import fail, mine, swallowed
from tests.problems import make_problem

__all__ = ["fail", "mine", "swallowed"]  # fixtures


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a small model that ignores audio; where none is named, three probes run."""
    problem = make_problem(tmp_path / "small", ignored=["audio"])
    torch.save(problem.model.state_dict(), problem.folder / "ckpt.pt")
    (problem.folder / "collapsekit.yaml").write_text(SMALL)
    registry.load_builtins()
    for name, spec in registry.PROBES.items():
        monkeypatch.setitem(
            registry.PROBES, name, replace(spec, default=name in ("utilisation", "vif", "gradient_rank"))
        )
    return problem.folder


def test_the_commands_write_the_report_and_exit_with_4(
    small: Path,
    cli: Run,
    swallowed: None,
    fail: Callable[..., None],
    mine: Callable[[str], Path],
) -> None:
    own = mine("1 / 0")
    short = ("--profile", "quick", "-p", "vif")
    done = cli("diagnose", *short, "-p", "mine", "--plugin", own, "-o", "own", cwd=small)
    assert done.returncode == 2
    assert "ZeroDivisionError" in done.stderr
    fail("gradient_rank")
    for more in ((), ("--fail-on", "collapsed"), ("--quiet",)):
        out = small / f"out{len(more)}{more[:1]}"
        done = cli("diagnose", *short, "-p", "gradient_rank", "-o", out, *more, cwd=small)
        assert done.returncode == 4, done.stderr
        assert done.stderr.count("Traceback") == 1
        assert "internal error in probe 'gradient_rank': RuntimeError" in done.stderr
        assert [w.name for w in Report.load(out / "report.json").warnings] == [FAILED]
        assert {p.name for p in out.iterdir()} == {"records.safetensors", "report.html", "report.json", "report.md"}
    assert [w.name for w in Report.load(small / "own" / "report.json").warnings] == [FAILED]


def test_a_gate_that_failed_says_so_and_one_that_passed_does_not(
    small: Path,
    cli: Run,
    swallowed: None,
    fail: Callable[..., None],
) -> None:
    fail("gradient_rank")
    gated = ("gate", "ckpt.pt", "--profile", "quick")
    for rule, code in (
        ("results[vif.mean] >= 0", 4),
        ("results[gradient_rank.layers] >= 0", 4),
        ("verdict != collapsed", 1),
    ):
        done = cli(*gated, "-r", rule, cwd=small)
        assert done.returncode == code, (rule, done.stdout, done.stderr)
        assert "Traceback" in done.stderr
        assert (small / "collapsekit-report" / "report.json").is_file()


def test_a_repair_is_not_decided_by_what_failed(
    small: Path,
    cli: Run,
    swallowed: None,
    fail: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fail("utilisation")
    monkeypatch.setattr(chain, "train", lambda *_args, **_kwargs: pytest.fail("it was trained"))
    done = cli("repair", "-m", "finetune", "--profile", "quick", "--no-control", cwd=small)
    assert done.returncode == 4
    assert "utilisation" in done.stderr
    assert not (small / "repaired" / "repair.json").exists()


def test_a_repair_of_which_another_probe_failed_is_written_and_exits_with_4(
    small: Path,
    cli: Run,
    swallowed: None,
    fail: Callable[..., None],
) -> None:
    fail("gradient_rank")
    args = ("repair", "-m", "dropout", "--modality", "audio", "--profile", "quick", "--no-control", "--epochs", "1")
    done = cli(*args, cwd=small)
    assert done.returncode == 4
    report = RepairReport.load(small / "repaired" / "repair.json")
    assert [[w.name for w in r.warnings] for r in (report.before, report.after)] == [[FAILED], [FAILED]]
    assert (small / "repaired" / "model.safetensors").exists() == report.accepted


def test_a_repair_that_can_no_longer_be_judged_keeps_what_it_trained(
    small: Path,
    cli: Run,
    swallowed: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    args = ("repair", "-m", "finetune", "--modality", "audio", "--profile", "quick", "--no-control", "--epochs", "1")
    trained: list[bool] = []
    real, judge = chain.train, utilisation._check_size

    def train(*a: Any, **k: Any) -> Any:
        trained.append(True)
        return real(*a, **k)

    def broken(*a: Any, **k: Any) -> Any:
        if trained:
            raise RuntimeError("no kernel for it")
        return judge(*a, **k)

    monkeypatch.setattr(chain, "train", train)
    monkeypatch.setattr(utilisation, "_check_size", broken)
    done = cli(*args, cwd=small)
    assert (done.returncode, trained) == (4, [True])
    assert "--resume" in done.stderr
    assert (small / "repaired" / "snapshots").is_dir()
    assert not (small / "repaired" / "repair.json").exists()
    monkeypatch.setattr(utilisation, "_check_size", judge)
    assert cli(*args, "--resume", cwd=small).returncode in (0, 1)
    assert (small / "repaired" / "repair.json").exists()
