"""How long commands take from the shell until they end, beside Python alone and beside importing torch.

python -m benchmarks.speed.startup [REPORT.json]

Each command runs in a process of its own, all of them in turn, round after round, so that a busy machine slows all alike;
medians of 20 rounds after one that is not counted. The least of the rounds is what is held against a limit, as other work
delays it less. Limits hold on an idle machine with two cores: where medians lie far over the least, it was not idle.
REPORT.json is one that `collapsekit demo` wrote; without it, one of 240 numbers of 4 modalities is made up.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from collapsekit.context import Progress
from collapsekit.demo.make import make_demo

ROUNDS = 20
INCONCLUSIVE = 5  # a gate's exit code, of a report too that is made up and so not judged in full
MODALITIES = ("pix", "fou", "zer", "kar")


@dataclass(frozen=True)
class Row:
    """Seconds of one command; ``limit`` is what it may take, None for what is only there to compare with."""

    what: str
    seconds: float
    least: float
    limit: float | None


def commands(report: Path) -> dict[str, tuple[list[str], float | None]]:
    """What is timed: name -> (arguments of Python, limit in seconds)."""
    main = ["-m", "collapsekit"]
    rule = ["--require", "subject.examples > 0", "--allow-partial"]
    return {
        "python -c pass": (["-c", "pass"], None),
        "python -c 'import torch'": (["-c", "import torch"], None),
        "python -c 'import collapsekit'": (["-c", "import collapsekit"], None),
        "collapsekit --help": ([*main, "--help"], 0.05),
        "collapsekit --version": ([*main, "--version"], 0.05),
        "collapsekit report REPORT.json": ([*main, "report", str(report)], 0.6),
        "collapsekit report -f json": ([*main, "report", str(report), "-f", "json"], 0.6),
        "collapsekit schema": ([*main, "schema"], 0.6),
        "collapsekit gate, rules only": ([*main, "gate", str(report), *rule], None),
        "collapsekit gate --help": ([*main, "gate", "--help"], None),
    }


def diagnosed(folder: Path, rounds: int = 3) -> tuple[float, float]:
    """Median seconds that ``collapsekit diagnose --profile quick`` takes of the demo's checkpoint, made in ``folder`` first,
    from the shell until its report is written; and the median of the CPU seconds of all its processes."""
    make_demo(folder, 0, Progress())
    taken, computing = [], []
    for i in range(rounds):
        begin, before = time.perf_counter(), _children()
        what = ["-m", "collapsekit", "diagnose", "ckpt.pt", "--profile", "quick", "--quiet", "--output", f"report{i}"]
        subprocess.run([sys.executable, *what], cwd=folder, capture_output=True, check=True)
        taken.append(time.perf_counter() - begin)
        computing.append(_children() - before)
    return median(taken), median(computing)


def _children() -> float:
    spent = os.times()
    return spent.children_user + spent.children_system


def measured(report: Path, rounds: int = ROUNDS) -> list[Row]:
    """Every command's row. Raises CalledProcessError where one fails; a gate may be inconclusive."""
    asked = commands(report)
    taken: dict[str, list[float]] = {what: [] for what in asked}
    with tempfile.TemporaryDirectory() as elsewhere:  # so that no config lies in the working directory
        for number in range(rounds + 1):
            for what, (arguments, _) in asked.items():
                start = time.perf_counter()
                done = subprocess.run(
                    [sys.executable, *arguments], cwd=elsewhere, env=_environment(), capture_output=True
                )
                if done.returncode != INCONCLUSIVE:
                    done.check_returncode()
                if number:
                    taken[what].append(time.perf_counter() - start)
    return [Row(what, median(taken[what]), min(taken[what]), limit) for what, (_, limit) in asked.items()]


def _environment() -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": root, "COLUMNS": "80"}


def make_report(folder: Path) -> Path:
    """A report as long as the demo's, made up."""
    from collapsekit.report.diagnosis import Report, Result, Subject
    from collapsekit.report.verdicts import judge

    cited: dict[str, Any] = {"probe": "reliance", "definition": "made up", "source": "made up"}

    results = [
        Result(
            name=f"{probe}.number{i}",
            probe=probe,
            modality=modality,
            value=0.5 + i,
            interval=(0.25 + i, 1.0 + i),
            unit="nats",
            definition="made up",
            source="made up",
        )
        for probe in ("reliance", "utilisation", "vif", "spectrum", "missing", "noise", "similarity", "collision")
        for i in range(6)
        for modality in (None, *MODALITIES)
    ]
    results += [Result(name="reliance.shapley", value=1.0, modality=m, **cited) for m in MODALITIES]
    judgement = judge(results, MODALITIES, "accuracy")
    made = Report(
        collapsekit="0",
        subject=Subject(
            checkpoint="ckpt.pt",
            sha256="0" * 64,
            modalities=MODALITIES,
            task="classification",
            metric="accuracy",
            split="test",
            examples=500,
            seed=0,
        ),
        **judgement.fields,
        results=tuple(results),
        settings={},
        environment={},
    )
    path = folder / "report.json"
    path.write_text(made.to_json())
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, nargs="?", help="a report.json; default: one that is made up")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = args.report.resolve() if args.report else make_report(Path(folder))
        rows = measured(report, args.rounds)
    print(f"{'command':34}{'median, s':>11}{'least, s':>10}{'limit, s':>10}")
    for row in rows:
        limit = "" if row.limit is None else f"{row.limit:.2f}"
        over = "  over" if row.limit is not None and row.least >= row.limit else ""
        print(f"{row.what:34}{row.seconds:>11.3f}{row.least:>10.3f}{limit:>10}{over}")


if __name__ == "__main__":
    main()
