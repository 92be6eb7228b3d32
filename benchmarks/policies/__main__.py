"""Verdicts on planted robot policies, from files alone: a recording (npz), a policy's folder, a config.

python -m benchmarks.policies --seeds 1 --records policies.jsonl
python -m benchmarks.policies --seeds 1 --records policies.jsonl --only "reach, flow" --repeat 1

A policy learns from its seed in seconds; what was done to its training says which inputs it can use, and a bare loop that
exchanges inputs on test episodes, without collapsekit, says which it does use. Right is `used` of what is used, `collapsed`
of what is ignored though it would help, `uninformative` of what says nothing; of an untrained policy anything but `used`.
With `--resample N` each policy that samples is diagnosed again N times with other noise and all else as it was; with
`--repeat N` under N other seeds of the diagnosis, which draw other donors, readouts and encoders, too. Changed verdicts are
counted. One result a line; what the file holds already is not measured again.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import default_collate

import collapsekit
from benchmarks.policies.models import config_of, save_policy
from benchmarks.policies.subjects import Subject, list_subjects, measure_costs, train, truths
from benchmarks.policies.table import table
from benchmarks.policies.worlds import WORLDS, record, save, split_ranges
from benchmarks.records import add_line, read_lines
from collapsekit.config.load import check_config
from collapsekit.data.episodes.source import read_frames
from collapsekit.errors import CollapsekitError

PROBES = ("reliance", "utilisation")
Record = dict[str, Any]


def measure(subject: Subject, runs: Sequence[tuple[int, int]], profile: str) -> list[Record]:
    """Train one policy, look at what it uses, and diagnose it under each seed, with each noise."""
    world = WORLDS[subject.world]
    with tempfile.TemporaryDirectory() as where:
        folder = Path(where)
        save(record(world, subject.seed), folder / "episodes.npz")
        config = config_of(world, subject.kind)
        config["data"] |= {"path": "episodes.npz"}
        config["data"]["episodes"] |= {"splits": split_ranges()}
        frames = read_frames(check_config(config, base=folder))
        data = {split: default_collate([one[i] for i in range(len(one))]) for split, one in frames.items()}
        began = time.process_time()
        policy = train(subject, data["train"])
        trained = time.process_time() - began
        save_policy(policy, folder / "policy")
        about = {**vars(subject), "profile": profile, "trained": round(trained, 1)}
        about["costs"] = measure_costs(policy, data["test"], subject.seed)
        about["truth"] = truths(subject, about["costs"])
        made = []
        for seed, noise in runs:
            config["model"] = config_of(world, subject.kind, noise)["model"]
            made.append(about | {"noise": noise} | _diagnosed(config, folder, seed, profile))
        return made


def _diagnosed(config: Mapping[str, Any], folder: Path, seed: int, profile: str) -> Record:
    """What collapsekit says of the folder."""
    began = time.process_time()
    try:
        report = collapsekit.diagnose(
            folder / "policy",
            config=check_config(config, base=folder),
            profile=profile,
            probes=list(PROBES),
            seed=seed,
        )
    except CollapsekitError as e:
        return {"diagnosis_seed": seed, "refused": str(e), "verdicts": None}
    keys = {m: section.get("input", m) for m, section in config["modalities"].items()}
    ratios = {m: report.find("utilisation.ratio", m) for m in keys}
    return {
        "diagnosis_seed": seed,
        "refused": None,
        "verdicts": {keys[m]: v.verdict for m, v in report.modalities.items()},
        "at_most": {keys[m]: v.at_most for m, v in report.modalities.items() if v.at_most is not None},
        "missing": {keys[m]: v.missing for m, v in report.modalities.items() if v.missing is not None},
        "ratios": {keys[m]: [r.value, *(r.interval or ())] for m, r in ratios.items() if r is not None},
        "r2": next(r.value for r in report.results if r.name == "reliance.full_metric"),
        "warnings": [w.name for w in report.warnings],
        "whole": report.verdict,
        "seconds": round(time.process_time() - began, 1),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is not in the records yet, and print the table."""
    parser = argparse.ArgumentParser(description="Verdicts on planted robot policies.")
    parser.add_argument("--seeds", type=int, default=1, help="policies of each world, network and training")
    parser.add_argument(
        "--repeat", type=int, default=0, help="further seeds under which those that sample are diagnosed"
    )
    parser.add_argument(
        "--resample", type=int, default=0, help="further noises with which those that sample are diagnosed"
    )
    parser.add_argument("--only", default="", help="part of a subject's name")
    parser.add_argument("--most", type=int, default=10_000, help="how many to measure now")
    parser.add_argument("--profile", default="standard", help="profile of the diagnosis")
    parser.add_argument("--records", type=Path, required=True, help="file of results, one JSON object a line")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    done = read_lines(chosen.records)
    known = {(Subject(r["world"], r["kind"], r["training"], r["seed"]), r["diagnosis_seed"], r["noise"]) for r in done}
    todo = [s for s in list_subjects(chosen.seeds) if chosen.only in s.name]
    for subject in todo[: chosen.most]:
        runs = [(0, 0)]
        if not subject.kind.startswith("act"):
            runs += [(0, 1 + i) for i in range(chosen.resample)] + [(1 + i, 0) for i in range(chosen.repeat)]
        runs = [run for run in runs if (subject, *run) not in known]
        for one in measure(subject, runs, chosen.profile) if runs else ():
            done.append(one)
            add_line(chosen.records, one)
            shown = (
                "diagnosis_seed",
                "noise",
                "truth",
                "verdicts",
                "ratios",
                "costs",
                "r2",
                "trained",
                "seconds",
                "refused",
                "missing",
            )
            print(subject.name, {k: one.get(k) for k in shown}, flush=True)
    print(table(done))


if __name__ == "__main__":
    main()
