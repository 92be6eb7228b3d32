"""Every method on models of real data with a noisy modality, beside plain fine-tuning.

python -m benchmarks.repair --seeds 5

Subjects: benchmarks/repair/subjects.py. With --records FILE what the file holds already is not measured again, so that a run
that was ended goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.records import Records
from benchmarks.repair.data_sets import DATA_SETS
from benchmarks.repair.measure import CLASSIFIER, PROBES, measure, options_of
from benchmarks.repair.subjects import KINDS, Subject
from benchmarks.repair.table import CONTROL, fills_table, footnote, mostly_untrained, table

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
KEY = ("data", "noise", "seed", "kind", "split", "method")
LIGHT = (
    "reliance",
    "missing",
    "vif",
    "spectrum",
)  # a fraction of the time: no score of the weak, no fills but zeros and substitution


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Repairs on real data, beside plain fine-tuning.")
    parser.add_argument("--sets", nargs="+", default=["mfeat", "avmnist1500"], choices=list(DATA_SETS))
    parser.add_argument(
        "--kinds", nargs="+", default=["exchange"], choices=KINDS, help="how the weak modality is noisy"
    )
    parser.add_argument("--noises", nargs="+", type=float, default=NOISES)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0, help="where other seeds were used to choose")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--control", default=CONTROL, help="the method that the others are tested against")
    parser.add_argument("--split", default="test", help="val to tune, test to report")
    parser.add_argument("--set", dest="options", nargs="*", default=[], metavar="METHOD.OPTION=JSON")
    parser.add_argument("--training", type=json.loads, default={}, help="JSON of training settings")
    parser.add_argument(
        "--classifier", action="store_true", help="with the modality classifier on weights (twice the time)"
    )
    parser.add_argument(
        "--light", action="store_true", help="without scores, and without fills but zeros and substitution"
    )
    parser.add_argument("--records", type=Path, help="file of the records, one JSON object a line, to go on from")
    given = parser.parse_args(arguments)
    options, probes = options_of(given.options), LIGHT if given.light else (*PROBES, *[CLASSIFIER] * given.classifier)
    known = Records(given.records, {"options": options, "training": given.training, "probes": list(probes)}, KEY)
    draws = range(given.first_seed, given.first_seed + given.seeds)
    wanted = ["none", *given.methods]
    # One subject of every data set and kind before the second of any, so that a run that is ended is even.
    each = [(d, n, s, k) for s in draws for n in given.noises for k in given.kinds for d in given.sets]
    for subject in (Subject(*a) for a in each):
        missing = [m for m in wanted if not known.find(**asdict(subject), split=given.split, method=m)]
        if missing:
            for record in measure(
                subject, [m for m in missing if m != "none"], options, given.training, given.split, probes=probes
            ):
                known.add(record)
    untrained = set()
    for data in given.sets:
        keys = [
            {**asdict(Subject(*a)), "split": given.split, "method": m} for m in wanted for a in each if a[0] == data
        ]
        records = [one for key in keys if (one := known.find(**key)) is not None]
        print(
            f"\n{data}: {', '.join(given.kinds)} noise {given.noises}, {given.seeds} seeds each, {given.split} split\n\n"
            f"{table(records, given.control)}\n\n{footnote(records)}"
            f"\n\nEvery set of absent modalities, by how they are filled\n\n{fills_table(records)}",
            flush=True,
        )
        untrained |= set(mostly_untrained(records))
    if untrained:
        sys.exit(f"in most subjects the epoch before any training was kept: {', '.join(sorted(untrained))} say nothing")


if __name__ == "__main__":
    main()
