"""Train R3D at every share of exchanged channels, print what that is worth, and leave one network to be diagnosed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from model import PROPORTION
from safetensors.torch import save_file
from torch import Tensor

from collapsekit import CollapsekitError
from collapsekit.reproduce.anticipation.data import load_utd
from collapsekit.reproduce.anticipation.study import (
    DATASETS,
    ORDER_ONLY,
    PROPORTIONS,
    SEEDS,
    R3DMean,
    figure5,
    summarise_r3d,
    train_one,
)
from collapsekit.reproduce.models.r3d import ExchangedShare

FOLDER = Path(__file__).parent
RATE = 0.3  # of the clips that are diagnosed
SHOWN = {
    "utd_mhad": ("current@0.2", "current@0.3", "current@0.5", "current@0.3+0.5 depth", "current@0.3+0.5 skeleton"),
    "utkinect": ("current@0.3", "next@0.2", "next@0.3", "next@0.5", "recognised_next@0.3", "future@0.3"),
}
RANKS = ("rank_before", "rank_after", "rank_fused", "alpha")


def main() -> None:
    """Train what ``outcomes.jsonl`` does not hold yet, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few epochs and one seed: a test of the way, no result")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    path = FOLDER / "outcomes.jsonl"
    outcomes = figure5(PROPORTIONS, SEEDS, quick=quick, path=path, say=lambda text: print(text, flush=True))
    means = summarise_r3d(outcomes)
    for dataset in DATASETS:
        for names in (SHOWN[dataset], RANKS):
            print("", *table([m for m in means if m.dataset == dataset], names), sep="\n")
    print(f"\nwrote {path.name}, and {leave_one(quick)}")


def table(means: list[R3DMean], names: tuple[str, ...]) -> Iterator[str]:
    """Lines of a Markdown table: a row for each share of exchanged channels, a column for each score."""
    yield f"| {means[0].dataset} | seeds | {' | '.join(names)} |"
    yield f"|---|---|{'---|' * len(names)}"
    runs = dict.fromkeys((m.proportion, m.channels) for m in means if m.name in names)
    for proportion, channels in sorted(runs, key=lambda r: (r[1] == ORDER_ONLY, r)):
        of = {m.name: m for m in means if (m.proportion, m.channels) == (proportion, channels)}
        label = channels if channels in ("none", ORDER_ONLY) else f"{proportion:.0%} {channels}"
        seeds = max(m.seeds for m in of.values())
        yield f"| {label} | {seeds} | {' | '.join(cell(of[n]) if n in of else '' for n in names)} |"


def cell(mean: R3DMean) -> str:
    """A mean and its 95 % interval over seeds; in parentheses the paired gain over no exchange."""
    digits = 1 if mean.name.startswith("rank") else 3
    text = f"{mean.mean:.{digits}f}"
    if mean.interval is not None:
        text += " [" + ", ".join(f"{x:.{digits}f}" for x in mean.interval) + "]"
    if mean.gain is not None and mean.name != "alpha":
        text += f" ({mean.gain:+.{digits}f})"
    return text


def leave_one(quick: bool) -> str:
    """Train the network of the first seed once more, and write it with what is observed of the clips."""
    splits = load_utd()
    model = train_one(splits, "utd_mhad", ExchangedShare(PROPORTION), SEEDS[0], quick=quick).model
    torch.save(model.state_dict(), FOLDER / "r3d.pt")
    data: dict[str, Tensor] = {}
    for name, part in splits.items():
        seen = part.observed(RATE)
        data[f"{name}/depth"] = (seen["depth"] * 255).round().to(torch.uint8).contiguous()
        data[f"{name}/skeleton"] = seen["skeleton"].contiguous()
        data[f"{name}/label"] = part.labels[:, 0].contiguous()
    save_file(data, FOLDER / "data.safetensors")
    return "r3d.pt with data.safetensors"


if __name__ == "__main__":
    try:
        main()
    except CollapsekitError as e:
        sys.exit(str(e))
