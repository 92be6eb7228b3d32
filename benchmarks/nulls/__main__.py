"""How often a verdict is fooled by a network that learned nothing, or by labels that mean nothing.

python -m benchmarks.nulls untrained --count 1000 --out untrained.jsonl

One result a line; what the file holds already is not measured again.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from benchmarks.nulls.subjects import KINDS, Null, build, draw_nulls, gain_at_most
from benchmarks.records import add_line, read_lines
from collapsekit import diagnose

PROBES = ("reliance", "utilisation")
_SHOWN = ("learned", "learnable", "credit", "reference_credit", "ratio", "alone_gain", "share")


def measure(null: Null, profile: str, cache: Path | None) -> dict[str, Any]:
    """Diagnose one subject: what was said of it, and the numbers behind that."""
    built = build(null)
    parts = "encoders", "fusion", "head"
    config: dict[str, Any] = {
        "modalities": {m: {"encoder": f"{parts[0]}.{m}"} for m in built.modalities},
        **dict(zip(parts[1:], parts[1:], strict=True)),
        "task": built.task,
        "data": {"label": "label"},
    }
    if null.kind != "untrained":
        config["model"] = {"factory": "benchmarks.planted.models:build", "kwargs": built.kwargs}
    with tempfile.TemporaryDirectory() as folder:
        report = diagnose(
            model=built.model,
            data=built.data,
            config=config,
            probes=PROBES,
            profile=profile,  # type: ignore[arg-type]
            cache=cache or Path(folder),
        )
    return {
        "subject": null.name,
        "task": built.task,
        "fusion": null.subject.fusion,
        "world": null.subject.world["kind"],
        "gain": null.gain,
        "norm": null.norm,
        "verdict": report.verdict,
        "summary": report.summary,
        "modalities": {m: v.verdict for m, v in report.modalities.items()},
        "results": {
            f"{r.name}{'' if r.modality is None else f'|{r.modality}'}": [r.value, *(r.interval or ())]
            for r in report.results
            if r.value is not None and r.name.rpartition(".")[2] in (*_SHOWN, "prior_loss", "full_loss", "shapley")
        },
    }


def main() -> None:
    """Measure what is missing in the file, and say what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--count", type=int, default=1000, help="subjects")
    parser.add_argument("--seed", type=int, default=0, help="which subjects are drawn")
    parser.add_argument("--profile", default="quick", help="profile of the diagnosis")
    parser.add_argument("--gaining", type=float, help="diagnose only models that may gain this share of the prior loss")
    parser.add_argument("--out", type=Path, required=True, help="file of results, one JSON object a line")
    parser.add_argument("--cache", type=Path, help="folder of trained baselines, to run the same subjects again sooner")
    given = parser.parse_args()
    torch.set_num_threads(1)
    lines = read_lines(given.out)
    known = {line["subject"] for line in lines}
    for null in draw_nulls(given.kind, given.count, given.seed):
        if null.name in known:
            continue
        if given.gaining is None or gain_at_most(build(null)) >= given.gaining:
            lines.append(measure(null, given.profile, given.cache))
            add_line(given.out, lines[-1])
    wholes = Counter(line["verdict"] for line in lines)
    states = Counter(state for line in lines for state in line["modalities"].values())
    print(f"{len(lines)} subjects ({given.kind}): {dict(sorted(wholes.items()))}")
    print(f"{sum(states.values())} modalities: {dict(sorted(states.items()))}")


if __name__ == "__main__":
    main()
