"""Verdicts on families of models that are not one tensor, one encoder a modality: trained on both, on one, and not at all.

python -m benchmarks.families --seeds 2 --records families.jsonl

In every world modality a says one bit and b another, and the answer needs both; where a family has more modalities, several
say the same bit. A model *uses* all where it is trained so, *ignores* b (or what the family names) where that was another
example's in every step of training, or is *untrained*. That it is so is looked at on 2,000 fresh examples, by exchanging
each modality in the data, without collapsekit: one of two modalities is used where that costs at least LEAST of what
exchanging both does (one of m: 2 / m times as much), ignored where it costs at most MOST. Subjects of which that does not
hold are left out, and counted.

Right is `used` of what is used and `collapsed` of what is ignored; of an untrained model anything but `used`. One result a
line; what the file holds already is not measured again.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import collapsekit
from benchmarks.families.family import KINDS, SIZES, Family, World, train
from benchmarks.families.generating import GENERATING
from benchmarks.families.libraries import LIBRARIES
from benchmarks.families.structures import STRUCTURES
from benchmarks.families.zoo import ZOO
from benchmarks.records import add_line, read_lines
from collapsekit.errors import CollapsekitError

FRESH, LEAST, MOST = 2000, 0.2, 0.02
FAMILIES = {**ZOO, **STRUCTURES, **GENERATING, **LIBRARIES}
Record = dict[str, Any]


def costs(family: Family, model: torch.nn.Module, seed: int) -> dict[str, float]:
    """What exchanging each modality adds to the loss on fresh examples, in parts of what exchanging all adds."""
    split = family.data(World.sample(FRESH, 10_000 + seed))
    loss = family.answer_loss or family.loss
    swapped = _each_swapped(family, split, seed) if family.each_swap else _two_swapped(family, split, seed)
    with torch.no_grad():
        torch.manual_seed(seed)  # of models that sample
        plain, everything = float(loss(model, split)), float(loss(model, swapped.pop("all")))
        scale = max(everything - plain, 1e-9)
        return {m: (float(loss(model, s)) - plain) / scale for m, s in swapped.items()}


def _each_swapped(family: Family, split: Any, seed: int) -> dict[str, Any]:
    """The split with each modality of other examples, and with all, each of others."""
    draw = torch.Generator().manual_seed(seed)
    orders = {m: torch.randperm(FRESH, generator=draw) for m in family.each_swap}
    everything = split
    for m, order in orders.items():
        everything = family.each_swap[m](everything, order)
    return {m: swap(split, orders[m]) for m, swap in family.each_swap.items()} | {"all": everything}


def _two_swapped(family: Family, split: Any, seed: int) -> dict[str, Any]:
    """The same of modalities a and b, where b can be swapped alone."""
    other = torch.randperm(FRESH, generator=torch.Generator().manual_seed(seed))
    third = torch.randperm(FRESH, generator=torch.Generator().manual_seed(seed + 1))
    label = "label" if "label" in split else "action"
    # Everything of other examples but the label, and then b back: only a is exchanged.
    moved = {
        k: v if k == label else (v[third] if isinstance(v, torch.Tensor) else [v[i] for i in third.tolist()])
        for k, v in split.items()
    }
    return {
        "a": family.swap(moved, third.argsort()),
        "b": family.swap(split, other),
        "all": family.swap(moved, other),
    }


def measure(family: Family, kind: str, seed: int, profile: str) -> Record:
    """One subject: its truth, and what is said of it."""
    splits = {s: family.data(World.sample(n, 100 * seed + i)) for i, (s, n) in enumerate(SIZES.items())}
    model = train(family, splits["train"], kind, seed)
    record: Record = {
        "family": family.name,
        "kind": kind,
        "seed": seed,
        "profile": profile,
        "truth": family.truth(kind),
    }
    record["costs"] = None if kind == "untrained" else costs(family, model, seed)
    factory = f"{family.model.__module__}:{family.model.__name__}"
    config = {**family.config, "model": {**family.config.get("model", {}), "factory": factory}}
    data = {s: family.hand_over(split) for s, split in splits.items()}
    try:
        began = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            if family.save is not None:
                family.save(model, Path(folder))
            report = collapsekit.diagnose(
                checkpoint=None if family.save is None else folder,
                model=model if family.save is None else None,
                data=data,
                config=config,
                profile=profile,
                probes=["reliance", "utilisation", "prefix_gap"],
            )
    except CollapsekitError as e:
        return record | {"refused": str(e), "verdicts": None}
    return record | {
        "refused": None,
        "verdicts": {m: v.verdict for m, v in report.modalities.items()},
        "missing": {m: v.missing for m, v in report.modalities.items()},
        "whole": report.verdict,
        "seconds": round(time.process_time() - began, 1),
    }


def truths(record: Record) -> dict[str, str] | None:
    """The truth of each modality; None of a subject that is not what it was made to be."""
    wanted: dict[str, str] = record["truth"]
    if record["kind"] == "untrained":
        return wanted
    least = LEAST * 2 / len(wanted)
    held = {m: record["costs"][m] >= least if t == "used" else record["costs"][m] <= MOST for m, t in wanted.items()}
    return wanted if all(held.values()) else None


def table(records: Sequence[Record]) -> str:
    """Markdown: a row a family, of modalities whose truth is known."""
    lines = [
        "| family | subjects | decided | right | undecided or partly judged | untrained `used` |",
        "|---|---|---|---|---|---|",
    ]
    for name in [*dict.fromkeys(r["family"] for r in records), "all"]:
        own = [r for r in records if name in (r["family"], "all")]
        known = [(r, t) for r in own if (t := truths(r)) is not None]
        pairs = [(t[m], (r["verdicts"] or {}).get(m, "refused")) for r, t in known for m in t]
        judged = [(t, v) for t, v in pairs if t != "untrained"]
        decided = [(t, v) for t, v in judged if v not in ("inconclusive", "refused")]
        right = sum((t, v) in (("used", "used"), ("ignored", "collapsed")) for t, v in decided)
        fooled = sum(t == "untrained" and v == "used" for t, v in pairs)
        lines.append(
            f"| {name} | {len(known)} of {len(own)} | {len(decided)} of {len(judged)} | {right} of {len(decided)} "
            f"| {len(judged) - len(decided)} | {fooled} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Verdicts on families of models.")
    parser.add_argument("--seeds", type=int, default=2, help="models of each family and kind")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--profile", default="standard", help="profile of the diagnosis")
    parser.add_argument("--records", type=Path, required=True, help="file of results, one JSON object a line")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    done = read_lines(chosen.records)
    keys = {(r["family"], r["kind"], r["seed"], r["profile"]) for r in done}
    for name in chosen.families:
        for kind in KINDS:
            for seed in range(chosen.seeds):
                if (name, kind, seed, chosen.profile) not in keys:
                    done.append(measure(FAMILIES[name], kind, seed, chosen.profile))
                    add_line(chosen.records, done[-1])
                    print(
                        {
                            k: v
                            for k, v in done[-1].items()
                            if k in ("family", "kind", "seed", "verdicts", "refused", "costs")
                        }
                    )
    print(table([r for r in done if r["profile"] == chosen.profile]))


if __name__ == "__main__":
    main()
