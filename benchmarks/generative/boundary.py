"""Where a vision-language model stops to look by itself: nothing planted, a hint in the text that is right now and then.

python -m benchmarks.generative.boundary --records boundary.jsonl

A tiny Qwen2-VL is trained plainly, for as many steps each time, to say which of four pictures it is shown. Two words of its
prompt name an answer: in a share q of the examples the right one, else any. The picture shows all of the answer, more or
less strongly. What the model then does with it is measured on fresh examples, by exchanging, and diagnosed on examples
with the same hint.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch

import collapsekit
from benchmarks.generative.data import hand_over
from benchmarks.generative.measure import PROBES
from benchmarks.generative.subjects import DIAGNOSED, Hinted, load_or_train
from benchmarks.generative.truth import measure_truth
from benchmarks.records import add_line, read_lines

SHARES = (0.0, 0.5, 0.7, 0.9)
STRENGTHS = (0.5, 0.25, 0.15, 0.08, 0.04)  # in standard deviations of a pixel's noise


def measure(share: float, strength: float, seed: int, models: Path | None) -> dict[str, Any]:
    """Train on hints that are right in a share of the examples, beside pictures that show theirs with a strength, measure
    what the model does, and diagnose it."""
    subject = Hinted("Qwen2-VL", "hint", "used", seed, hinted=share, strength=strength)
    model = load_or_train(subject, models)
    measured = measure_truth(model, subject)
    factory = f"{subject.of.build.__module__}:{subject.of.build.__name__}"
    report = collapsekit.diagnose(
        model=model,
        data=hand_over(subject, DIAGNOSED),
        config={**subject.of.config, "model": {"factory": factory}},
        profile="quick",
        probes=PROBES,
    )
    image = report.modalities["image"]
    return {
        "q": share,
        "strength": strength,
        "seed": seed,
        "measured": measured,
        "verdict": image.verdict,
        "at_most": image.at_most,
        "cause": image.cause,
    }


def table(records: Sequence[dict[str, Any]]) -> str:
    """Write a row a model: how often the hint is right, what the picture is worth to it, the verdict."""
    titles = (
        "strength | q | seed | right answers | of these with another picture | image's share | verdict on it | cause"
    )
    lines = [f"| {titles} |", "|---|---|---|---|---|---|---|---|"]
    for r in sorted(records, key=lambda r: (-r["strength"], r["q"], r["seed"])):
        m, most = r["measured"], f", at most {r['at_most']}" if r["at_most"] else ""
        done = f"{m['accuracy']:.2f} | {m['text_accuracy']:.2f} | {m['costs']['image']:.1%}"
        case = f"{r['strength']:g} | {r['q']:g} | {r['seed']}"
        lines.append(f"| {case} | {done} | {r['verdict']}{most} | {r['cause'] or ''} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure models that the file does not hold, and print the table of all that it holds."""
    parser = argparse.ArgumentParser(description="Where a vision-language model stops to look by itself.")
    parser.add_argument("--records", type=Path, required=True, help="file of results, one JSON object a line")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="how often the hint is right")
    parser.add_argument("--strengths", type=float, nargs="+", default=STRENGTHS, help="of what pictures show")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--models", type=Path, help="folder to keep trained models in")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    records = read_lines(chosen.records)
    known = {(r["q"], r["strength"], r["seed"]) for r in records}
    for case in product(chosen.shares, chosen.strengths, range(chosen.seeds)):
        if case not in known:
            records.append(measure(*case, chosen.models))
            add_line(chosen.records, records[-1])
    print(table(records))


if __name__ == "__main__":
    main()
