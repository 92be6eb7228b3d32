"""What a repair was expected to gain, beside what repairs then gained.

python -m benchmarks.forecast natural --natural RESULTS --records FILE
python -m benchmarks.forecast planted --records FILE
python -m benchmarks.forecast table --records FILE
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.forecast.gains import gains
from benchmarks.forecast.subjects import Candidate, natural, planted
from benchmarks.forecast.table import print_tables
from benchmarks.records import Record, add_line, read_lines

METHODS = ("finetune", "late_fusion", 'late_fusion:readouts="weak"', "substitute", "kd")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Forecasts of repairs, held against what repairs gained.")
    parser.add_argument("step", choices=["natural", "planted", "table"])
    parser.add_argument("--records", type=Path, required=True, help="file of results; what it has is not made again")
    parser.add_argument("--natural", type=Path, help="folder of results of benchmarks.natural, with weights")
    parser.add_argument("--verdicts", type=Path, help="its file of verdicts, to leave out models with nobody to repair")
    parser.add_argument("--settings", nargs="*", help="of natural models; default: all")
    parser.add_argument("--sets", nargs="+", default=["mfeat", "avmnist1500"], help="data of planted models")
    parser.add_argument("--noises", nargs="+", type=float, default=[0.25, 0.5])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--split", default="test", help="val to choose, test to report")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if chosen.step == "table":
        print_tables(_records(chosen))
        return
    with tempfile.TemporaryDirectory() as name:
        for candidate in _candidates(parser, chosen, Path(name)):
            about = {"subject": candidate.name, "seed": candidate.seed}
            known = {r["method"] for r in _records(chosen) if about.items() <= r.items()}
            left = [m for m in chosen.methods if m not in known]
            if None in known or (known and not left):
                continue
            for record in gains(candidate.make(), left, chosen.split):
                if record["method"] not in known:
                    add_line(chosen.records, {**record, "split": chosen.split})
                    print(f"{candidate.name} seed {candidate.seed} {record['method']}", flush=True)


def _records(chosen: argparse.Namespace) -> list[Record]:
    """The records of the split; older ones, which name none, are of test."""
    return [r for r in read_lines(chosen.records) if r.get("split", "test") == chosen.split]


def _candidates(parser: argparse.ArgumentParser, chosen: argparse.Namespace, folder: Path) -> Iterator[Candidate]:
    if chosen.step == "planted":
        return planted(chosen.sets, chosen.noises, chosen.seeds, folder)
    if chosen.natural is None:
        parser.error("natural needs --natural, the folder of results of benchmarks.natural")
    return natural(chosen.natural, chosen.verdicts, chosen.seeds, folder, chosen.settings)


if __name__ == "__main__":
    main()
