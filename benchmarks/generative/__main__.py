"""Verdicts on tiny vision-language models whose truth is known because it was planted.

python -m benchmarks.generative --records generative.jsonl --only both

Three architectures (LLaVA, Idefics3, Qwen2-VL), three worlds of questions, and what was planted in each: that the picture
is used; ignored (by a model whose tower was taught, trained on other examples' pictures, or trained on blank ones); never
seen (the tower lets nothing through of what answers need); not there (image tokens masked, or the same for every picture);
not needed (the text gives answers away); and untrained models. What a model does is measured on fresh examples, without
collapsekit (benchmarks/generative/truth.py). A subject that is not what it was made to be counts for nothing; how many there
are is printed.

One result a line; what the file holds already is not measured again. With ``--table`` nothing is measured.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.generative import table
from benchmarks.generative.measure import ABSENT, OTHERS, measure
from benchmarks.generative.subjects import DIAGNOSED, subjects
from benchmarks.generative.truth import truths
from benchmarks.records import add_line, read_lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure subjects that the file does not hold, and print the tables of all that it holds."""
    parser = argparse.ArgumentParser(description="Verdicts on planted vision-language models.")
    parser.add_argument("--records", type=Path, required=True, help="file of results, one JSON object a line")
    parser.add_argument(
        "--only", action="append", default=[], metavar="TEXT", help="subjects whose names hold one of these"
    )
    parser.add_argument("--seeds", type=int, default=1, help="subjects of each architecture, world and kind")
    parser.add_argument("--untrained", type=int, default=12, help="untrained ones of each architecture and world")
    parser.add_argument("--profile", default="quick", help="profile of the diagnosis")
    parser.add_argument("--examples", type=int, default=DIAGNOSED, help="examples that are diagnosed")
    parser.add_argument(
        "--absent", choices=ABSENT, default=OTHERS, help="what stands in the place of a picture that is not there"
    )
    parser.add_argument("--models", type=Path, help="folder to keep trained models in, to measure them again sooner")
    parser.add_argument("--table", action="store_true", help="only print the tables")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    asked = {"profile": chosen.profile, "examples": chosen.examples, "absent": chosen.absent}
    there = read_lines(chosen.records)
    records = [r for r in there if {k: r.get(k, OTHERS) for k in asked} == asked]
    known = {r["subject"] for r in records}
    every = list(subjects(chosen.seeds, chosen.untrained))
    if chosen.only and not any(text in s.name for s in every for text in chosen.only):
        parser.error(f"no subject's name holds {' or '.join(map(repr, chosen.only))}; one is {every[0].name!r}")
    for subject in every if not chosen.table else ():
        if subject.name not in known and any(text in subject.name for text in chosen.only or [""]):
            records.append(measure(subject, chosen.profile, chosen.examples, chosen.models, chosen.absent))
            add_line(chosen.records, records[-1])
            print(subject.name, {m: v["verdict"] for m, v in records[-1]["verdicts"].items()}, flush=True)
    alike = [r for r in there if all(r[k] == asked[k] for k in ("profile", "examples"))]
    controls = table.by_absent([*alike, *(r for r in records if r not in alike)], OTHERS)
    left_out = [r for r in records if r["kind"] != "untrained" and not any(truths(r["kind"], r["measured"]).values())]
    count, called = table.fooled(records)
    print(
        f"\n{table.by_kind(records)}\n\n{len(left_out)} planted subjects are not what they were made to be, and left out."
    )
    print(f"{called} of {count} untrained subjects have a modality that is called used.\n\n{table.peers(records)}")
    print(f"\nwrong, undecided or refused\n{table.wrong(records) or 'none'}")
    if controls:
        print(f"\nwhat stands in the place of an absent picture\n{controls}")


if __name__ == "__main__":
    main()
