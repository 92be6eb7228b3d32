"""Models trained as people train them, what they use, and what is said of them.

python -m benchmarks.natural train|oracle|verdicts|table --out DIR
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.natural import oracle
from benchmarks.natural.data import Data, load, standardise
from benchmarks.natural.exchange import losses
from benchmarks.natural.files import weights
from benchmarks.natural.settings import SEEDS, SETTINGS, Setting
from benchmarks.natural.training import fit, fit_of
from benchmarks.records import add_line, read_lines


def main() -> None:
    parser = argparse.ArgumentParser(description="What is said of models in which nothing is planted.")
    parser.add_argument("step", choices=["train", "oracle", "verdicts", "table"])
    parser.add_argument("--out", type=Path, required=True, help="folder of results; what it has is not made again")
    parser.add_argument("--settings", nargs="*", help="names of settings; default: all")
    parser.add_argument("--profiles", nargs="*", default=["quick", "standard"], help="profiles of the diagnosis")
    parser.add_argument("--verdicts", default="verdicts.jsonl", help="file in the folder that verdicts are kept in")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    chosen.out.mkdir(parents=True, exist_ok=True)
    if chosen.step == "table":
        from benchmarks.natural.table import print_tables

        print_tables(chosen.out, chosen.verdicts)
        return
    if chosen.step == "verdicts":
        from benchmarks.natural.verdicts import work

        for seed in SEEDS:  # the first of every setting first
            for setting, data in at_hand(chosen.settings):
                work(setting, inputs(setting, data), seed, chosen.out, chosen.profiles, chosen.verdicts)
        return
    for setting, data in at_hand(chosen.settings):
        if chosen.step == "train":
            train(setting, data, chosen.out)
        else:
            oracle.work(setting, data, chosen.out, partial(print, flush=True))


def at_hand(names: list[str] | None) -> Iterator[tuple[Setting, Data]]:
    """Settings with their data; where a file is missing, say so and go on."""
    for setting in SETTINGS:
        if names and setting.name not in names:
            continue
        try:
            yield setting, load(setting)
        except FileNotFoundError as error:
            print(f"{setting.name} is left out: {error}")


def inputs(setting: Setting, data: Data) -> Data:
    """What the setting's models read."""
    return data if setting.raw else standardise(data)


def train(setting: Setting, data: Data, out: Path) -> None:
    """Train the setting's models that ``out``/models.jsonl lacks, and find what each has of its modalities."""
    path, data = out / "models.jsonl", inputs(setting, data)
    known = {(r["setting"], r["seed"]) for r in read_lines(path)}
    (out / "weights").mkdir(parents=True, exist_ok=True)
    for seed in SEEDS if setting.counted else SEEDS[:1]:
        if (setting.name, seed) in known:
            continue
        began = time.perf_counter()
        model, epochs = fit(setting, data, fit_of(setting), seed)
        took = time.perf_counter() - began
        save_file(model.state_dict(), weights(out, setting, seed))
        found = losses(model, data, data.judging)
        record = {
            "setting": setting.name,
            "seed": seed,
            "epochs": epochs,
            "seconds": took,
            "loss": float(found.full.mean()),
            "metric": found.right,
            "use": {m: oracle.listed(found.use(m)) for m in setting.modalities},
        }
        add_line(path, record)
        print(f"{setting.name} seed {seed}: {found.right} in {epochs} epochs, {took:.1f} s", flush=True)


if __name__ == "__main__":
    main()
