"""How many other examples are enough, where each costs a pass: credits by as many as are taken beside those by all.

python -m benchmarks.wild.draws [--subjects 20] [--from 0] [--verdicts]

Subjects of benchmarks.planted with their encoders not named, so that every question runs the whole model. Error: the
largest difference of a modality's share of the credit from that by all draws. With --verdicts
each subject is diagnosed twice as well, and verdicts are compared (quick profile, reliance and utilisation).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.planted.measure import config_of
from benchmarks.planted.subjects import draw, make
from collapsekit import diagnose
from collapsekit.adapters.module import ModuleAdapter
from collapsekit.config.load import check_config
from collapsekit.features.extraction import extract
from collapsekit.games.coalitions import GameOptions, draws_for
from collapsekit.games.enough import count_asked, find_credits
from collapsekit.session.session import Session


def unnamed(config: dict[str, Any]) -> dict[str, Any]:
    """The same subject, its modalities known by their inputs alone."""
    kept = {k: v for k, v in config.items() if k not in ("fusion", "head")}
    return {**kept, "modalities": {m: {"input": m} for m in config["modalities"]}}


def row(config: dict[str, Any], model: torch.nn.Module) -> tuple[int, int, int, float]:
    """Draws that were enough, passes that they took, passes of all draws, and the error."""
    adapter = ModuleAdapter(check_config(config, base=Path.cwd()), model=model)
    options = {"reliance": GameOptions(draws="enough")}
    session = Session(adapter, extract(adapter, "test"), options=options)
    most = draws_for(adapter, session.features, None)
    chosen = len(session.game.donors)
    few, many = find_credits(session.game_of(chosen)), find_credits(session.game_of(most))
    error = float((few / few.abs().sum(0) - many / many.abs().sum(0))[:, 0].abs().max())
    pairs = (1 << len(session.modalities)) // 2 - 1
    each = [count_asked(len(session.features), draws, whole=True) for draws in (chosen, most)]
    return chosen, pairs * each[0], pairs * each[1], error


def verdicts(config: dict[str, Any], model: torch.nn.Module, draws: str | None) -> dict[str, str]:
    """Verdicts by modality."""
    options = {} if draws is None else {"reliance": {"draws": draws}}
    report = diagnose(
        model=model, config=config, probes=["reliance", "utilisation"], profile="quick", options=options, cache=None
    )
    return {m: v.verdict for m, v in report.modalities.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=20)
    parser.add_argument("--from", type=int, default=0, dest="first")
    parser.add_argument("--verdicts", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| subject | draws taken | passes | passes of all draws | error | verdicts |\n|---|---|---|---|---|---|")
    for subject in draw(given.first + given.subjects, 0)[given.first :]:
        with tempfile.TemporaryDirectory() as name:
            made = make(subject)
            config = unnamed(config_of(made, Path(name)))
            chosen, taken, whole, error = row(config, made.model)
            same = "not asked"
            if given.verdicts:
                same = (
                    "same"
                    if verdicts(config, made.model, "enough") == verdicts(config, made.model, None)
                    else "CHANGED"
                )
            about = f"{subject.name} ({made.world.task}, {len(made.world.modalities)} modalities, n = {subject.n})"
            print(f"| {about} | {chosen} | {taken} | {whole} | {error:.3f} | {same} |", flush=True)


if __name__ == "__main__":
    main()
