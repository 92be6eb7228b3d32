"""Every method on models of real data that are deaf to one modality, beside plain fine-tuning.

python -m benchmarks.repair --seeds 5
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.repair.measure import measure, options_of
from benchmarks.repair.subjects import SETS, Subject
from benchmarks.repair.table import fills_table, mostly_untrained, table

METHODS = (
    "finetune",
    "dropout",
    "kd",
    "substitute",
    "substitute:substitution=0",  # heads alone
    "ebr",
    "ebr:paper",
    "rtf",
    "late_fusion",
    'late_fusion:readouts="weak"',
    "kd,dropout",
    "kd,substitute",
)
NOISES = (0.0, 0.25, 0.5)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Repairs on real data, beside plain fine-tuning.")
    parser.add_argument("--sets", nargs="+", default=SETS[:2], choices=SETS)
    parser.add_argument("--noises", nargs="+", type=float, default=NOISES)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--split", default="test", help="val to tune, test to report")
    parser.add_argument("--set", dest="options", nargs="*", default=[], metavar="METHOD.OPTION=JSON")
    parser.add_argument("--training", type=json.loads, default={}, help="JSON of training settings")
    parser.add_argument(
        "--classifier", action="store_true", help="with the modality classifier on weights (twice the time)"
    )
    parser.add_argument("--records", type=Path, help="file to write the records to, one JSON object a line")
    given = parser.parse_args(arguments)
    options = options_of(given.options)
    for data in given.sets:
        records: list[dict[str, Any]] = []
        for noise in given.noises:
            for seed in range(given.seeds):
                subject = Subject(data, noise, seed)
                made = measure(
                    subject, given.methods, options, given.training, given.split, classifier=given.classifier
                )
                for record in made:
                    records.append(record)
                    if given.records is not None:
                        with given.records.open("a") as file:
                            file.write(json.dumps(record) + "\n")
        print(
            f"\n{data}: noise {given.noises}, {given.seeds} seeds each, {given.split} split\n\n{table(records)}"
            f"\n\nEvery set of absent modalities, by how they are filled\n\n{fills_table(records)}",
            flush=True,
        )
        untrained = mostly_untrained(records)
        if untrained:
            sys.exit(f"in most subjects the epoch before any training was kept: {', '.join(untrained)} say nothing")


if __name__ == "__main__":
    main()
